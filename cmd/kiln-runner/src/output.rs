//! Standard output and error, written by a task of their own: who reads slowly, or not at all,
//! must not keep a machine from being stopped.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

pub(crate) use crate::console::Said;
use crate::session::Audience;

/// Pieces that may wait to be written.
const PIECES: usize = 8;

/// Starts to write what is sent, until the sender is dropped or nobody reads.
pub(crate) fn start(audience: Audience) -> (Sender<Said>, JoinHandle<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (sender, tokio::spawn(write(receiver, audience)))
}

async fn write(mut pieces: Receiver<Said>, audience: Audience) -> io::Result<()> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(said) = pieces.recv().await {
        if !audience.is_there {
            continue;
        }
        if !said.program.is_empty() {
            stdout.write_all(&said.program).await?;
            stdout.flush().await?;
        }
        if !said.init.is_empty() {
            let text = String::from_utf8_lossy(&said.init);
            // A terminal that is raw adds nothing to a line end.
            let text = if audience.types {
                text.replace('\n', "\r\n")
            } else {
                text.into_owned()
            };
            // That nobody reads messages does not end a program.
            drop(stderr.write_all(text.as_bytes()).await);
            drop(stderr.flush().await);
        }
    }
    Ok(())
}
