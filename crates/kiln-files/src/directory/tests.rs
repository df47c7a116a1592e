//! Claims about what is followed, sealed and removed, on real directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;

fn in_a_new_directory() -> (TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::open(folder.path()).unwrap();
    (folder, directory)
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_private_directory_is_made_with_its_parents_and_refused_when_others_may_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");

    Directory::open_or_create_private(&path).unwrap();
    Directory::open_or_create_private(&path).unwrap();

    assert_eq!(mode_of(&path), 0o700);
    assert_eq!(mode_of(path.parent().unwrap()), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
    let error = Directory::open_or_create_private(&path).unwrap_err();
    assert!(matches!(error, FileError::Unsafe { .. }), "{error}");
}

#[test]
fn no_link_is_followed() {
    let (folder, directory) = in_a_new_directory();
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, folder.path().join("link")).unwrap();
    symlink("/", folder.path().join("up")).unwrap();

    let file = directory.open_file("link".as_ref()).unwrap_err();
    let created = directory.create_file("link".as_ref()).unwrap_err();
    directory.open_child("up".as_ref()).unwrap_err();
    directory.remove("up".as_ref()).unwrap();

    assert!(matches!(file, FileError::NotRegular { .. }), "{file}");
    let exists = FileError::AlreadyExists {
        path: folder.path().join("link"),
    };
    assert_eq!(created.to_string(), exists.to_string());
    assert_eq!(directory.names().unwrap(), ["link", "secret"]);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
}

#[test]
fn sealing_reaches_every_file_below_and_leaves_links_alone() {
    let (folder, directory) = in_a_new_directory();
    let deep = directory
        .create_child("modules")
        .unwrap()
        .open_or_create_child("kernel".as_ref())
        .unwrap();
    for n in 0..40 {
        deep.create_file(format!("{n}.ko").as_ref()).unwrap();
    }
    deep.create_link("link".as_ref(), "0.ko".as_ref()).unwrap();

    directory.seal().unwrap();

    let deep_path = folder.path().join("modules/kernel");
    for n in 0..40 {
        assert_eq!(mode_of(&deep_path.join(format!("{n}.ko"))), 0o400);
    }
    assert_eq!(deep.read_link("link".as_ref()).unwrap(), "0.ko");
    directory.remove("modules".as_ref()).unwrap();
    assert_eq!(directory.names().unwrap(), Vec::<OsString>::new());
}

#[test]
fn a_rename_replaces_nothing() {
    let (folder, directory) = in_a_new_directory();
    directory.create_child("new").unwrap();
    fs::write(folder.path().join("old"), "old").unwrap();

    let error = directory.rename("new", "old").unwrap_err();

    assert!(matches!(error, FileError::AlreadyExists { .. }), "{error}");
    assert_eq!(
        fs::read_to_string(folder.path().join("old")).unwrap(),
        "old"
    );
}

#[test]
fn a_copy_is_a_new_file_of_its_own() {
    let (folder, directory) = in_a_new_directory();
    let path = folder.path().join("source");
    fs::write(&path, "content").unwrap();
    let source = File::open(&path).unwrap();
    let go_on = AtomicBool::new(false);

    let (copy, copied) = directory.copy_in(&source, "copy".as_ref(), &go_on).unwrap();
    let taken = directory
        .copy_in(&source, "copy".as_ref(), &go_on)
        .unwrap_err();
    let cancelled = directory
        .copy_in(&source, "other".as_ref(), &AtomicBool::new(true))
        .unwrap_err();

    assert_eq!(copied.size_bytes, 7);
    assert_eq!(copy.metadata().unwrap().len(), 7);
    assert!(matches!(taken, FileError::AlreadyExists { .. }), "{taken}");
    assert!(
        matches!(cancelled, FileError::Cancelled { .. }),
        "{cancelled}"
    );
}

#[test]
fn a_file_that_goes_out_can_be_read_and_no_more() {
    use std::io::{Read as _, Write as _};
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::open(folder.path()).unwrap();
    let mut file = directory.create_unnamed().unwrap();
    file.write_all(b"content").unwrap();

    let mut out = read_only(&file).unwrap();

    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    assert!((&out).write_all(b"more").is_err());
    assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o400);
}
