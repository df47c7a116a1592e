//! Another UUID for an image, ours or of mke2fs: superblocks change and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use kiln_ext4::{Profile, Size, UuidError, set_uuid, uuid};
use rustix::fs::SeekFrom;

use crate::compare::{assert_backups_match, assert_holds};
use crate::fixture::{BLOCK, identity};
use crate::kinds::sample;
use crate::tools::{backups, debugfs, e2fsck, run_ok, text, written_bytes};

/// What the tests give to file systems.
pub(crate) const OTHER: [u8; 16] = [
    0x9d, 0x1f, 0x3c, 0x4e, 0x7a, 0x52, 0x4b, 0x8e, 0x9f, 0x00, 0x2b, 0x5d, 0x6c, 0x7e, 0x8f, 0x90,
];

/// The same as e2fsprogs write it.
const OTHER_TEXT: &str = "9d1f3c4e-7a52-4b8e-9f00-2b5d6c7e8f90";

/// Opens an image for reading and writing.
pub(crate) fn open(path: &Path) -> File {
    let file = File::options().read(true).write(true).open(path);
    file.expect("the image can be opened")
}

/// Changes the UUID and demands that e2fsck is content, tune2fs tells it, and that only blocks
/// with superblocks differ.
pub(crate) fn assert_only_superblocks_change(path: &Path) {
    let block_bytes = block_bytes(path);
    let mut wanted: Vec<u64> = backups(path).iter().map(|at| at * block_bytes).collect();
    wanted.push(1024);
    wanted.sort_unstable();
    let before = data(path);

    set_uuid(&open(path), OTHER).expect("the UUID can be changed");

    e2fsck(path);
    assert_eq!(uuid(&open(path)).expect("it is ext4"), OTHER);
    let told = run_ok("tune2fs", &["-l", text(path)]);
    assert!(told.contains(OTHER_TEXT), "{told}");
    let after = data(path);
    let zeros = vec![0; 1024];
    let places: BTreeSet<u64> = before.keys().chain(after.keys()).copied().collect();
    let differs = |at: &u64| before.get(at).unwrap_or(&zeros) != after.get(at).unwrap_or(&zeros);
    let changed: Vec<u64> = places.into_iter().filter(differs).collect();
    assert_eq!(changed, wanted, "other bytes than superblocks");
}

/// What is not a hole, in units of 1 KiB, by offset.
fn data(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let file = open(path);
    let mut units = BTreeMap::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(start)).expect("data ends");
        let mut bytes = vec![0; (at - start) as usize];
        file.read_exact_at(&mut bytes, start)
            .expect("it can be read");
        for (number, unit) in bytes.chunks(1024).enumerate() {
            units.insert(start + number as u64 * 1024, unit.to_vec());
        }
    }
    units
}

fn block_bytes(path: &Path) -> u64 {
    let told = run_ok("dumpe2fs", &["-h", text(path)]);
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("Block size:"));
    let number = line.expect("dumpe2fs tells it").trim();
    number.parse().expect("a number")
}

/// An ext4 file system of mke2fs, with a file in it.
struct Made {
    directory: tempfile::TempDir,
}

impl Made {
    fn new(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let made = Self { directory };
        let path = made.path();
        let file = File::create(&path).expect("a new file");
        file.set_len(200 << 20).expect("it can be extended");
        let arguments = [
            &["-q", "-F", "-t", "ext4", "-b", "4096"],
            options,
            &[text(&path)],
        ]
        .concat();
        run_ok("mke2fs", &arguments);
        let body = made.directory.path().join("body");
        fs::write(&body, vec![7; 100_000]).expect("it can be written");
        run_ok(
            "debugfs",
            &[
                "-w",
                "-R",
                &format!("write {} file", text(&body)),
                text(&path),
            ],
        );
        made
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("image.ext4")
    }

    fn change(&self, request: &str) {
        run_ok("debugfs", &["-w", "-R", request, text(&self.path())]);
    }

    /// Demands that a change is refused and changes nothing, and returns why.
    fn refused(&self) -> UuidError {
        let before = written_bytes(&self.path());
        let error = set_uuid(&open(&self.path()), OTHER).expect_err("it was changed");
        assert!(written_bytes(&self.path()) == before, "it was changed");
        error
    }
}

#[test]
fn an_image_gets_another_uuid_and_holds_what_it_held() {
    let stack = sample();
    for profile in [Profile::RwV1, Profile::RoV1] {
        let image = stack.build(profile, Size::Bytes(400 << 20));
        assert_eq!(
            uuid(&open(&image.path)).expect("it is ext4"),
            identity().uuid
        );

        assert_only_superblocks_change(&image.path);

        assert_holds(&image.path, &stack);
        assert_backups_match(&image.path);
    }
}

#[test]
fn file_systems_of_mke2fs_are_changed_the_same_way() {
    let cases: [&[&str]; 11] = [
        &[],
        &["-O", "metadata_csum_seed"],
        &["-O", "^metadata_csum,^uninit_bg"],
        &["-O", "^sparse_super,^resize_inode"],
        &["-O", "sparse_super2,^resize_inode"],
        &["-O", "meta_bg,^resize_inode"],
        &["-O", "bigalloc"],
        &["-O", "orphan_file,inline_data,project"],
        &["-O", "^64bit,^has_journal,^flex_bg"],
        &["-b", "1024"],
        &["-O", "casefold,encrypt,verity"],
    ];
    for options in cases {
        let made = Made::new(options);

        assert_only_superblocks_change(&made.path());

        // The file's checksums were not touched, and still are what readers expect.
        let read = debugfs(&made.path(), "stat file");
        assert!(read.contains("Size: 100000"), "{options:?}: {read}");
    }
}

#[test]
fn what_is_not_clean_is_refused() {
    let requests = [
        "set_super_value state 0",
        "set_super_value state 3",
        "feature needs_recovery",
        "feature orphan_file orphan_present",
    ];
    for request in requests {
        let made = Made::new(&[]);
        made.change(request);

        let error = made.refused();

        assert!(matches!(error, UuidError::NotClean), "{request}: {error:?}");
    }
}

#[test]
fn what_depends_on_the_uuid_is_refused() {
    let cases: [(&[&str], &str, &str); 5] = [
        (&["-O", "^metadata_csum,uninit_bg"], "", "uninit_bg"),
        (&["-O", "stable_inodes"], "", "stable_inodes"),
        (&["-O", "mmp"], "", "the features 0x100"),
        (
            &[],
            "set_super_value journal_inum 0",
            "journal on another device",
        ),
        (
            &[],
            "set_super_value checksum_type 7",
            "another kind than crc32c",
        ),
    ];
    for (options, request, want) in cases {
        let made = Made::new(options);
        if !request.is_empty() {
            made.change(request);
        }

        let error = made.refused();

        let told = error.to_string();
        assert!(
            matches!(error, UuidError::Unsupported { .. }) && told.contains(want),
            "{options:?} {request}: {error:?}"
        );
    }
}

#[test]
fn damaged_copies_and_cut_files_are_refused() {
    // Turned round, whatever it is: a UUID is made by chance.
    let damage = |at: u64| {
        let made = Made::new(&[]);
        let file = open(&made.path());
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("it can be read");
        file.write_all_at(&[!byte[0]], at)
            .expect("it can be written");
        made.refused()
    };
    let backup = 32_768 * BLOCK as u64;

    let primary = damage(1024 + 0x88);
    let magic = damage(backup + 0x38);
    let other = damage(backup + 0x68);

    assert!(
        matches!(primary, UuidError::Damaged { group: 0 }),
        "{primary:?}"
    );
    assert!(
        matches!(magic, UuidError::Damaged { group: 1 }),
        "{magic:?}"
    );
    assert!(
        matches!(other, UuidError::Damaged { group: 1 }),
        "{other:?}"
    );
    let made = Made::new(&[]);
    open(&made.path())
        .set_len((200 << 20) - 1)
        .expect("it can be cut");
    let cut = made.refused();
    assert!(
        matches!(
            cut,
            UuidError::Truncated {
                wanted_bytes: 209_715_200,
                found_bytes: 209_715_199
            }
        ),
        "{cut:?}"
    );
    let nil = set_uuid(&open(&made.path()), [0; 16]);
    assert!(matches!(nil, Err(UuidError::Nil)), "{nil:?}");
}

#[test]
fn other_files_are_no_ext4() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("file");
    for content in [vec![], vec![0; 1500], vec![0; 4096]] {
        fs::write(&path, content).expect("it can be written");

        let error = set_uuid(&open(&path), OTHER);

        assert!(matches!(error, Err(UuidError::NotExt4)), "{error:?}");
        assert!(matches!(uuid(&open(&path)), Err(UuidError::NotExt4)));
    }
    // ext2 has the magic and no extents.
    let file = open(&path);
    file.set_len(8 << 20).expect("it can be extended");
    run_ok("mke2fs", &["-q", "-F", "-t", "ext2", text(&path)]);
    let error = set_uuid(&file, OTHER);
    assert!(matches!(error, Err(UuidError::NotExt4)), "{error:?}");
}
