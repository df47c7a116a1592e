//! Decodes a layer and lists its entries as an image would get them.
//!
//! ```text
//! cargo run -p kiln-layers --example list-layer layer.tar.gz
//! cargo run --release -p kiln-layers --example list-layer -- --time layer.tar.gz
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kiln_layers::{Declared, Limits, Pack, decode};
use kiln_tree::{Entry, Kind, ShownPath};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let is_timed = arguments.first().is_some_and(|first| first == "--time");
    let path = arguments.pop().ok_or("usage: list-layer [--time] FILE")?;
    let output = tempfile::tempfile()?;
    let start = Instant::now();
    let decoded = decode(
        &mut File::open(path)?,
        Declared::Unknown,
        None,
        &output,
        &Limits::default(),
        &|_| {},
        &AtomicBool::new(false),
    )?;
    let took = start.elapsed();
    let pack = Pack::open(output)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if !is_timed {
        for entry in pack.index().entries() {
            writeln!(out, "{}", line(&entry))?;
        }
    }
    writeln!(
        out,
        "{} {} entries, {} bytes of archive, {} bytes of pack, {took:?}",
        decoded.diff_id, decoded.entries, decoded.tar_bytes, decoded.pack_bytes
    )?;
    out.flush()?;
    Ok(())
}

fn line(entry: &Entry<'_>) -> String {
    let (kind, rest) = match entry.kind {
        Kind::Directory => ('d', String::new()),
        Kind::Regular(body) => ('-', format!(" {} bytes", body.size_bytes)),
        Kind::Symlink { target } => ('l', format!(" -> {}", ShownPath::new(target))),
        Kind::Hardlink { target } => ('h', format!(" = {}", ShownPath::new(target))),
        Kind::CharDevice(device) => ('c', format!(" {}:{}", device.major, device.minor)),
        Kind::BlockDevice(device) => ('b', format!(" {}:{}", device.major, device.minor)),
        Kind::Fifo => ('p', String::new()),
        Kind::Socket => ('s', String::new()),
        Kind::Whiteout => ('w', String::new()),
        Kind::Opaque => ('o', String::new()),
    };
    let path = ShownPath::new(entry.path);
    let xattrs = entry.xattrs.iter().count();
    format!(
        "{kind} {:04o} {}:{} {xattrs} {path}{rest}",
        entry.mode, entry.uid, entry.gid
    )
}
