//! Merges a made-up layer of many files and says how long it took and what it costs.
//!
//! ```text
//! cargo run --release -p kiln-tree --example merge-million -- 1000000
//! ```

use std::io::Write as _;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kiln_tree::{Body, Entry, IndexBuilder, Kind, Limits, Timestamp, Tree, Xattrs};

#[expect(
    clippy::disallowed_methods,
    reason = "it measures the crate, and is not of it"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(1_000_000), |text| text.parse())?;
    let mut builder = IndexBuilder::new();
    for number in 0..count {
        let path = format!("usr/share/doc/package-{}/file-{number:07}", number / 100);
        builder.push(&Entry {
            path: path.as_bytes(),
            kind: Kind::Regular(Body::whole(1, number)),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::NONE,
        })?;
    }
    let index = builder.finish();
    let index_bytes = index.as_bytes().len();
    let start = Instant::now();
    let tree = Tree::merge(vec![index], &Limits::default(), &AtomicBool::new(false))?;
    let took = start.elapsed();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    writeln!(
        std::io::stdout(),
        "{} names merged in {took:?}; index {index_bytes} bytes; {}",
        tree.node_count(),
        peak.unwrap_or_default(),
    )?;
    Ok(())
}
