//! Images in the hands of the kernel: read through it, and written by it. Needs root and a loop
//! device.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kiln_ext4::{Identity, Plan, Profile, Size, set_uuid, uuid};
use kiln_tree::InodeKind;
use tempfile::TempDir;

use crate::attributes::acl;
use crate::compare::expected;
use crate::fixture::{Attributes, Image, LayerBuilder, Stack, What, identity};
use crate::identity::{OTHER, open};
use crate::kinds::sample;
use crate::tools::{e2fsck, run, run_ok, text};

/// A mounted image; unmounted when dropped.
struct Mount {
    directory: TempDir,
    is_mounted: bool,
}

impl Mount {
    /// Mounts an image, or says why this machine cannot.
    fn new(image: &Path, options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = format!("loop,{options}");
        let output = run(
            "mount",
            &["-o", &options, text(image), text(directory.path())],
        );
        if !output.status.success() {
            assert!(
                !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists(),
                "root cannot mount the image: {output:?}"
            );
            // Not a print macro: the harness would swallow the line of a test that passes.
            writeln!(
                std::io::stderr(),
                "SKIPPED: mounting needs root and a loop device"
            )
            .expect("standard error is open");
            return None;
        }
        Some(Self {
            directory,
            is_mounted: true,
        })
    }

    fn path(&self, below: &[u8]) -> PathBuf {
        self.directory.path().join(OsStr::from_bytes(below))
    }

    fn unmount(mut self) {
        run_ok("umount", &[text(self.directory.path())]);
        self.is_mounted = false;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_mounted {
            // Only a failed test gets here; nothing can be done if this fails too.
            drop(run("umount", &["-l", text(self.directory.path())]));
        }
    }
}

fn torture() -> Stack {
    let mut layer = LayerBuilder::new();
    for (number, mtime) in [
        (-1, 750_000_000),
        (0x8000_0000, 1),
        (0x3_7fff_ffff, 0),
        (-0x8000_0000, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let attributes = Attributes {
            mtime,
            ..Attributes::default()
        };
        layer.add_with(format!("times/{number}"), &What::File(b"t"), &attributes);
    }
    let listed = Attributes {
        xattrs: vec![
            (b"system.posix_acl_access".to_vec(), acl()),
            (b"trusted.t".to_vec(), vec![0; 100]),
            (b"user.u".to_vec(), vec![1; 2000]),
        ],
        mode: 0o670,
        ..Attributes::default()
    };
    layer.add_with("listed", &What::File(b"l"), &listed);
    for number in 0..3000 {
        layer.file(format!("many/{number}"), number.to_string().as_bytes());
    }
    layer.add("sparse", &What::Sparse(3 << 30, &[(5, 1), (700_000, 2)]));
    Stack::new(vec![layer.finish()])
}

#[test]
fn the_kernel_takes_another_uuid() {
    let image = sample().build(Profile::RwV1, Size::Bytes(400 << 20));
    set_uuid(&open(&image.path), OTHER).expect("the UUID can be changed");

    let Some(mount) = Mount::new(&image.path, "rw") else {
        return;
    };
    fs::write(mount.path(b"written"), "new").expect("it can be written");
    mount.unmount();

    e2fsck(&image.path);
    assert_eq!(uuid(&open(&image.path)).expect("it is ext4"), OTHER);
}

#[test]
fn the_kernel_reads_what_went_in() {
    for stack in [sample(), torture()] {
        for (profile, options) in [
            (Profile::RwV1, "ro"),
            (Profile::RoV1, "ro"),
            (Profile::RwV1, "rw"),
        ] {
            let image = stack.build(profile, Size::Default);
            let Some(mount) = Mount::new(&image.path, options) else {
                return;
            };

            let mut pending = vec![stack.tree.root()];
            while let Some(node) = pending.pop() {
                let path = stack.tree.path(node);
                compare(&mount.path(&path), &stack, node);
                pending.extend(stack.tree.children(node));
            }
            mount.unmount();
            e2fsck(&image.path);
        }
    }
}

fn compare(path: &Path, stack: &Stack, node: kiln_tree::NodeId) {
    let shown = path.display();
    let inode = stack.tree.inode(stack.tree.inode_of(node));
    let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(
        found.mode() & 0o7777,
        u32::from(inode.mode),
        "mode of {shown}"
    );
    assert_eq!(
        (found.uid(), found.gid()),
        (inode.uid, inode.gid),
        "owner of {shown}"
    );
    let mtime = (found.mtime(), found.mtime_nsec());
    assert_eq!(
        mtime,
        (inode.mtime.seconds, i64::from(inode.mtime.nanoseconds)),
        "time of {shown}"
    );
    let kind = found.file_type();
    match inode.kind {
        InodeKind::Directory { .. } => assert!(kind.is_dir(), "{shown}"),
        InodeKind::Regular(body) => {
            assert_eq!(found.len(), body.size_bytes, "{shown}");
            assert_eq!(found.nlink(), u64::from(inode.links), "{shown}");
            if body.size_bytes < 1 << 20 {
                assert!(
                    fs::read(path).expect("it can be read") == expected(stack, &inode),
                    "{shown}"
                );
            }
        }
        InodeKind::Symlink(target) => {
            let got = fs::read_link(path).expect("it is a link");
            assert_eq!(got.as_os_str().as_bytes(), target, "{shown}");
        }
        InodeKind::CharDevice(device) | InodeKind::BlockDevice(device) => {
            let numbers = (
                rustix::fs::major(found.rdev()),
                rustix::fs::minor(found.rdev()),
            );
            assert_eq!(numbers, (device.major, device.minor), "{shown}");
        }
        InodeKind::Fifo => assert!(kind.is_fifo(), "{shown}"),
        InodeKind::Socket => assert!(kind.is_socket(), "{shown}"),
    }
    for xattr in inode
        .xattrs
        .iter()
        .filter(|xattr| !xattr.name.starts_with(b"com."))
    {
        let mut value = vec![0; 65_536];
        let name = OsStr::from_bytes(xattr.name);
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])
            .unwrap_or_else(|error| panic!("{} of {shown}: {error}", name.display()));
        assert_eq!(
            &value[..length],
            xattr.value,
            "{} of {shown}",
            name.display()
        );
    }
}

#[test]
fn the_kernel_can_write_until_the_image_is_full() {
    let stack = torture();
    // Three groups, of which the kernel has to make two usable first; the last is short.
    let image = stack.build(Profile::RwV1, Size::Bytes(300 << 20));
    let Some(mount) = Mount::new(&image.path, "rw,errors=remount-ro") else {
        return;
    };

    // Names in a full leaf, in a new directory, under another name, and away again.
    for number in 0..500 {
        fs::write(mount.path(format!("many/new-{number}").as_bytes()), b"n").expect("room");
    }
    for number in (0..3000).step_by(3) {
        fs::remove_file(mount.path(format!("many/{number}").as_bytes())).expect("it is there");
    }
    fs::create_dir(mount.path(b"other")).expect("room");
    for number in (1..3000).step_by(3) {
        let name = number.to_string();
        let to = mount.path(b"other").join(&name);
        fs::rename(mount.path(b"many").join(&name), to).expect("it is there");
    }
    fs::remove_file(mount.path(b"listed")).expect("it is there");
    let mut filled = 0_u64;
    let full = loop {
        match fs::write(
            mount.path(format!("other/fill-{filled}").as_bytes()),
            vec![7; 1 << 20],
        ) {
            Ok(()) => filled += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert!(filled > 250, "{filled} MiB");
    mount.unmount();

    e2fsck(&image.path);
}

#[test]
fn the_kernel_finds_a_name_with_the_reserved_hash() {
    // With this seed the last name hashes to 0xfffffffe, and the others fill a leaf up to it.
    let mut names: Vec<String> = (0..31).map(|n| format!("{n:0>120}")).collect();
    names.extend((0..4).map(|n| format!("{n:0>20}")));
    names.push("2c51fc13".to_owned());
    let stack = Stack::of(|layer| {
        for name in &names {
            layer.add(format!("d/{name}"), &What::Fifo);
        }
    });
    let identity = Identity {
        hash_seed: [1; 16],
        ..identity()
    };
    let plan = Plan::new(
        &stack.tree,
        Profile::RoV1,
        &identity,
        Size::Default,
        &AtomicBool::new(false),
    )
    .expect("a plan");
    let image = Image::write(&plan, &stack.sources());
    e2fsck(&image.path);
    let Some(mount) = Mount::new(&image.path, "ro") else {
        return;
    };

    for name in names {
        let path = mount.path(format!("d/{name}").as_bytes());
        fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    mount.unmount();
}
