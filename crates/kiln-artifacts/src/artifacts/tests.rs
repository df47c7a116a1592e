//! Claims about staging, publishing, removing and sweeping, on real directories.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::*;
use crate::names::{IMAGE_JSON, KERNEL, MODULES, ROOTFS};

const ID: &str = "0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1";
const OTHER: &str = "1b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1";
const THIRD: &str = "2b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1";

fn in_a_new_directory() -> (TempDir, Artifacts) {
    let root = tempfile::tempdir().unwrap();
    let artifacts = Artifacts::open(&root.path().join("images")).unwrap();
    (root, artifacts)
}

fn names_below(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Publishes a directory as a real one is: a kernel, a module tree and a document.
fn publish(artifacts: &Artifacts, id: &str) {
    let staging = artifacts.stage(id).unwrap();
    staging.write(KERNEL, b"kernel").unwrap();
    let modules = staging.create_dir(MODULES).unwrap();
    fs::create_dir(modules.join("fs")).unwrap();
    fs::write(modules.join("fs/ext4.ko"), "module").unwrap();
    symlink("fs/ext4.ko", modules.join("link")).unwrap();
    staging.write(IMAGE_JSON, b"{}").unwrap();
    staging.publish().unwrap().settle().unwrap();
}

#[test]
fn nothing_is_visible_before_publishing() {
    let (_root, artifacts) = in_a_new_directory();
    let images = artifacts.images().path().to_owned();

    let staging = artifacts.stage(ID).unwrap();
    staging.write(KERNEL, b"kernel").unwrap();

    assert_eq!(names_below(&images), [format!("{ID}.staging")]);
    assert_eq!(mode_of(staging.path()), 0o700);
    assert_eq!(mode_of(&staging.path().join(KERNEL)), 0o600);

    let published = staging.publish().unwrap();

    assert_eq!(
        names_below(&images),
        [ID.to_owned(), format!("{ID}.unanswered")]
    );
    assert_eq!(published.path(), images.join(ID));
    assert_eq!(fs::read(images.join(ID).join(KERNEL)).unwrap(), b"kernel");

    published.settle().unwrap();

    assert_eq!(names_below(&images), [ID]);
}

/// Only an unknown directory that was never settled is called unanswered.
#[test]
fn a_note_lasts_until_the_directory_is_settled_known_or_gone() {
    let (_root, artifacts) = in_a_new_directory();
    let images = artifacts.images().path().to_owned();
    let stage = |id| artifacts.stage(id).unwrap().publish().unwrap();
    stage(ID);
    stage(OTHER);
    stage(THIRD).settle().unwrap();
    let gone = format!("{}.unanswered", ID.replace('0', "3"));
    fs::write(images.join(gone), "").unwrap();

    let swept = artifacts.sweep(&|id| id == OTHER).unwrap();

    assert_eq!(swept.unknown, [ID, THIRD]);
    assert_eq!(swept.unanswered, [ID]);
    assert_eq!(swept.foreign, Vec::<OsString>::new());
    let note = format!("{ID}.unanswered");
    assert_eq!(names_below(&images), [ID, &note, OTHER, THIRD]);
    artifacts.remove(ID).unwrap();
    assert_eq!(names_below(&images), [OTHER, THIRD]);
}

#[test]
fn published_files_are_read_only() {
    let (_root, artifacts) = in_a_new_directory();

    publish(&artifacts, ID);

    let path = artifacts.path(ID).unwrap();
    for file in [KERNEL, IMAGE_JSON, "modules/fs/ext4.ko"] {
        assert_eq!(mode_of(&path.join(file)), 0o400, "{file}");
    }
}

#[test]
fn abandoning_leaves_nothing() {
    let (_root, artifacts) = in_a_new_directory();

    let staging = artifacts.stage(ID).unwrap();
    staging.write(KERNEL, b"kernel").unwrap();
    fs::create_dir_all(staging.path().join("a/b/c")).unwrap();
    drop(staging);

    assert_eq!(names_below(artifacts.images().path()), Vec::<String>::new());
}

#[test]
fn an_id_is_staged_once_and_published_once() {
    let (_root, artifacts) = in_a_new_directory();

    let staging = artifacts.stage(ID).unwrap();
    let second = artifacts.stage(ID).unwrap_err();
    staging.publish().unwrap();
    let third = artifacts.stage(ID).unwrap_err();

    assert!(
        matches!(second, ArtifactError::File(FileError::AlreadyExists { .. })),
        "{second}"
    );
    assert!(
        matches!(third, ArtifactError::File(FileError::AlreadyExists { .. })),
        "{third}"
    );
}

#[test]
fn publishing_never_replaces() {
    let (_root, artifacts) = in_a_new_directory();
    let staging = artifacts.stage(ID).unwrap();
    let rival = artifacts.path(ID).unwrap();
    fs::create_dir(&rival).unwrap();

    let error = staging.publish().unwrap_err();

    assert!(
        matches!(error, ArtifactError::File(FileError::AlreadyExists { .. })),
        "{error}"
    );
    assert_eq!(names_below(artifacts.images().path()), [ID]);
}

#[test]
fn a_strange_file_stops_the_publication() {
    let (_root, artifacts) = in_a_new_directory();
    let staging = artifacts.stage(ID).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(staging.path().join("socket")).unwrap();

    let error = staging.publish().unwrap_err();

    drop(socket);
    assert!(error.to_string().contains("socket"), "{error}");
    assert_eq!(names_below(artifacts.images().path()), Vec::<String>::new());
}

#[test]
fn removing_takes_everything_and_says_when_there_was_nothing() {
    let (_root, artifacts) = in_a_new_directory();
    publish(&artifacts, ID);
    publish(&artifacts, OTHER);

    assert_eq!(artifacts.remove(ID).unwrap(), Removal::Removed);
    assert_eq!(artifacts.remove(ID).unwrap(), Removal::Absent);

    assert_eq!(names_below(artifacts.images().path()), [OTHER]);
}

#[test]
fn removing_finishes_an_interrupted_removal_of_the_same_id() {
    let (_root, artifacts) = in_a_new_directory();
    publish(&artifacts, ID);
    let aside = artifacts.images().child_path(format!("{ID}.removing"));
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("old"), "old").unwrap();

    assert_eq!(artifacts.remove(ID).unwrap(), Removal::Removed);

    assert_eq!(names_below(artifacts.images().path()), Vec::<String>::new());
}

#[test]
fn a_sweep_removes_leftovers_and_nothing_else() {
    let (_root, artifacts) = in_a_new_directory();
    let images = artifacts.images().path().to_owned();
    publish(&artifacts, ID);
    publish(&artifacts, OTHER);
    for leftover in [format!("{ID}.removing"), format!("{THIRD}.staging")] {
        fs::create_dir_all(images.join(&leftover).join("modules/a")).unwrap();
        fs::write(images.join(&leftover).join("modules/a/b"), "x").unwrap();
    }
    fs::create_dir(images.join("lost+found")).unwrap();
    fs::write(images.join(THIRD), "a file, not a directory").unwrap();

    let swept = artifacts.sweep(&|id| id == ID).unwrap();

    assert_eq!(swept.staging, [THIRD]);
    assert_eq!(swept.removing, [ID]);
    assert_eq!(swept.unknown, [OTHER]);
    assert_eq!(swept.foreign, [THIRD, "lost+found"]);
    assert!(swept.failures.is_empty(), "{:?}", swept.failures);
    assert_eq!(names_below(&images), [ID, OTHER, THIRD, "lost+found"]);
}

#[test]
fn planted_links_are_not_followed() {
    let (root, artifacts) = in_a_new_directory();
    let images = artifacts.images().path().to_owned();
    let victim = root.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join(KERNEL), "precious").unwrap();

    symlink(&victim, images.join(format!("{ID}.staging"))).unwrap();
    let stage = artifacts.stage(ID).unwrap_err();
    symlink(&victim, images.join(OTHER)).unwrap();
    let open = artifacts.open_file(OTHER, KERNEL).unwrap_err();
    let swept = artifacts.sweep(&|_| true).unwrap();
    artifacts.remove(OTHER).unwrap();

    assert!(
        matches!(stage, ArtifactError::File(FileError::AlreadyExists { .. })),
        "{stage}"
    );
    assert!(
        matches!(open, ArtifactError::File(FileError::Io { .. })),
        "{open}"
    );
    assert_eq!(swept.staging, [ID]);
    assert_eq!(names_below(&images), Vec::<String>::new());
    assert_eq!(fs::read(victim.join(KERNEL)).unwrap(), b"precious");
}

#[test]
fn files_of_a_published_directory_can_be_opened() {
    let (_root, artifacts) = in_a_new_directory();
    publish(&artifacts, ID);

    let mut text = String::new();
    let mut file = artifacts.open_file(ID, KERNEL).unwrap().unwrap();
    file.read_to_string(&mut text).unwrap();

    assert_eq!(text, "kernel");
    assert!(artifacts.open_file(ID, ROOTFS).unwrap().is_none());
    assert!(artifacts.open_file(OTHER, KERNEL).unwrap().is_none());
    let directory = artifacts.open_file(ID, MODULES).unwrap_err();
    assert!(
        matches!(directory, ArtifactError::File(FileError::NotRegular { .. })),
        "{directory}"
    );
}

#[test]
fn copies_are_hashed_where_they_lie() {
    let (root, artifacts) = in_a_new_directory();
    let source = root.path().join("kernel");
    fs::write(&source, "kernel").unwrap();
    let staging = artifacts.stage(ID).unwrap();
    let go_on = AtomicBool::new(false);

    let copied = staging
        .copy_in(&File::open(&source).unwrap(), KERNEL, &go_on)
        .unwrap();
    fs::write(&source, "changed afterwards").unwrap();
    let digest = staging.digest_of(KERNEL, &go_on).unwrap();

    assert_eq!(copied.size_bytes, 6);
    assert_eq!(digest, kiln_domain::Digest::of(b"kernel"));
    let error = staging
        .copy_in(
            &File::open(&source).unwrap(),
            ROOTFS,
            &AtomicBool::new(true),
        )
        .unwrap_err();
    assert!(
        matches!(error, ArtifactError::File(FileError::Cancelled { .. })),
        "{error}"
    );
}

#[test]
fn names_and_ids_from_outside_are_checked_first() {
    let (_root, artifacts) = in_a_new_directory();
    let staging = artifacts.stage(ID).unwrap();

    let name = staging.create("../escape").unwrap_err();
    let id = artifacts.stage("../escape").unwrap_err();

    assert!(matches!(name, ArtifactError::InvalidName { .. }), "{name}");
    assert!(matches!(id, ArtifactError::InvalidId { .. }), "{id}");
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let images = root.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::set_permissions(&images, fs::Permissions::from_mode(0o777)).unwrap();

    let error = Artifacts::open(&images).unwrap_err();

    assert!(
        matches!(error, ArtifactError::File(FileError::Unsafe { .. })),
        "{error}"
    );
}

#[test]
fn only_complete_directories_count_as_published() {
    let (root, artifacts) = in_a_new_directory();
    let images = root.path().join("images");
    fs::create_dir(images.join("lost+found")).unwrap();
    fs::create_dir(images.join(format!("{OTHER}.removing"))).unwrap();
    fs::write(images.join(THIRD), "a file").unwrap();
    let staging = artifacts.stage(ID).unwrap();
    assert!(artifacts.is_empty().unwrap());
    drop(staging);

    publish(&artifacts, ID);

    assert!(!artifacts.is_empty().unwrap());
    for (id, want) in [(ID, true), (OTHER, false), (THIRD, false)] {
        assert_eq!(artifacts.is_published(id).unwrap(), want, "{id}");
        assert_eq!(artifacts.has_directory(id, MODULES).unwrap(), want, "{id}");
    }
    assert!(!artifacts.has_directory(ID, KERNEL).unwrap(), "a file");
    assert!(!artifacts.has_directory(ID, ROOTFS).unwrap(), "nothing");
    symlink("modules", images.join(ID).join("link")).unwrap();
    assert!(!artifacts.has_directory(ID, "link").unwrap(), "a link");
    artifacts.is_published("../etc").unwrap_err();
}
