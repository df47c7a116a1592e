//! Builds an ext4 image of a tiny tree, without root and without mounting anything:
//! `cargo run -p kiln-ext4 --example build_image -- /tmp/tiny.ext4`, then `e2fsck -fn` it.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::AtomicBool;

use kiln_ext4::{Identity, Plan, Profile, Size, Source};
use kiln_tree::{Body, Entry, IndexBuilder, Kind, Limits, Timestamp, Tree, Xattrs};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os()
        .nth(1)
        .unwrap_or_else(|| "tiny.ext4".into());

    // A pack: file bodies, each in blocks of 4,096 bytes filled up with zeros.
    let text = b"hello from a file system nobody mounted\n";
    let mut block = [0; 4096];
    block[..text.len()].copy_from_slice(text);
    let mut pack = tempfile::tempfile()?;
    pack.write_all(&block)?;

    let mut layer = IndexBuilder::new();
    let entry = |path, kind, mode| Entry {
        path,
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 0,
        },
        xattrs: Xattrs::NONE,
    };
    layer.push(&entry(b"etc", Kind::Directory, 0o755))?;
    let body = Body::whole(text.len() as u64, 0);
    layer.push(&entry(b"etc/motd", Kind::Regular(body), 0o644))?;
    let target = &b"etc/motd"[..];
    layer.push(&entry(b"motd", Kind::Symlink { target }, 0o777))?;
    let tree = Tree::merge(
        vec![layer.finish()],
        &Limits::default(),
        &AtomicBool::new(false),
    )?;

    // The derivation stands for everything the image is made of; here it is a constant.
    let identity = Identity::derive(&[1; 32], 1_700_000_000);
    let plan = Plan::new(
        &tree,
        Profile::RwV1,
        &identity,
        Size::Default,
        &AtomicBool::new(false),
    )?;
    let image = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    let source = Source {
        file: &pack,
        sums: &[crc32c::crc32c(&block)],
        zero_runs: &[],
    };
    plan.write(&[source], &image, &|_, _| {}, &AtomicBool::new(false))?;
    image.sync_all()?;
    Ok(())
}
