//! Descriptors that nobody used are closed by themselves, with no caller to drive it.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use kiln_rpc::{FilesSocket, SocketAccess, bind};
use kiln_service::HostFiles;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a descriptor may stay open: its handle's minute and the time between two sweeps.
const LIMIT: Duration = Duration::from_secs(75);

/// The clock stands still but for what is waited for, so this takes no time.
#[tokio::test(start_paused = true)]
async fn an_unused_descriptor_is_closed_without_anybody_calling() {
    let folder = tempfile::tempdir().unwrap();
    let socket = bind(&folder.path().join("s"), SocketAccess::Owner).unwrap();
    let files = Arc::new(HostFiles::default());
    let (stop, stopped) = watch::channel(false);
    let server = FilesSocket::new(socket).serve(files.clone(), stopped);
    let (reading, writing) = rustix::pipe::pipe().unwrap();
    files.keep(1000, File::from(reading)).unwrap();
    let start = Instant::now();

    let watching = async {
        while rustix::io::write(&writing, b"x") == Ok(1) {
            assert!(start.elapsed() < LIMIT, "it is still open");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stop.send(true).unwrap();
    };
    tokio::join!(server, watching);

    let least = Duration::from_secs(60);
    assert!(start.elapsed() >= least, "closed early");
}
