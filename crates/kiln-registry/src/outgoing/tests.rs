use std::fs;
use std::path::PathBuf;

use kiln_domain::Platform;
use tempfile::TempDir;

use super::*;
use crate::docker_archive::DockerArchive;
use crate::graph::{Breadth, read_graph};
use crate::layout::Layout;
use crate::source::ImageSource;
use crate::testing::Content;

static GOING: AtomicBool = AtomicBool::new(false);

fn document(descriptor: &Descriptor, content: &Content) -> OutgoingDocument {
    let bytes = content.get(&descriptor.digest).unwrap().clone();
    OutgoingDocument {
        descriptor: descriptor.clone(),
        bytes: bytes.into(),
    }
}

/// Writes an image of `content` whose manifest is `root`.
fn write(
    mut outgoing: Outgoing,
    root: &Descriptor,
    content: &Content,
) -> Result<(), OutgoingError> {
    let manifest: Value = serde_json::from_slice(content.get(&root.digest).unwrap()).unwrap();
    let config = manifest["config"].clone();
    for blob in std::iter::once(&config).chain(manifest["layers"].as_array().unwrap()) {
        let blob: Descriptor = serde_json::from_value(blob.clone()).unwrap();
        if !outgoing.has(&blob, &GOING)? {
            let bytes = content.get(&blob.digest).unwrap();
            outgoing.put(&blob, &mut bytes.as_slice(), &GOING)?;
        }
    }
    outgoing.finish(&document(root, content), &[], &[])
}

fn image(text: &str) -> (Content, Descriptor) {
    let mut content = Content::default();
    let root = content.image("linux/amd64", text);
    (content, root)
}

fn at(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

async fn root_of(source: &ImageSource) -> Digest {
    read_graph(source, Breadth::Everything).await.unwrap().root
}

#[tokio::test]
async fn a_layout_gets_another_image_and_keeps_the_ones_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = at(&folder, "layout");
    let (one, one_root) = image("one");
    let (two, two_root) = image("two");
    let open = |tag| Outgoing::layout(&path, tag).unwrap();

    write(open(Some("a")), &one_root, &one).unwrap();
    write(open(Some("b")), &one_root, &one).unwrap();
    write(open(Some("a")), &two_root, &two).unwrap();
    write(open(None), &two_root, &two).unwrap();
    write(open(None), &two_root, &two).unwrap();

    let read = |tag: &str| ImageSource::Layout(Layout::open_directory(&path, Some(tag)).unwrap());
    assert_eq!(root_of(&read("a")).await, two_root.digest);
    assert_eq!(root_of(&read("b")).await, one_root.digest);
    let index: Value = serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn archives_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let (content, root) = image("layer");
    let (oci, docker) = (at(&folder, "oci.tar"), at(&folder, "docker.tar"));
    let reference = "example.org/app:1".parse().unwrap();

    let new = Outgoing::archive(&oci, Some("v1"), Existing::Refused).unwrap();
    write(new, &root, &content).unwrap();
    let new = Outgoing::docker_archive(&docker, Some(&reference), Existing::Refused).unwrap();
    write(new, &root, &content).unwrap();

    let file = fs::File::open(&oci).unwrap();
    let read = ImageSource::Layout(Layout::open_archive(file, &oci, Some("v1")).unwrap());
    assert_eq!(root_of(&read).await, root.digest);
    let file = fs::File::open(&docker).unwrap();
    let read = DockerArchive::open(file, &docker, Some(&reference)).unwrap();
    let platform: Platform = "linux/amd64".parse().unwrap();
    let resolved = crate::resolve(&ImageSource::DockerArchive(read), platform).await;
    let config = resolved.unwrap().manifest.config.digest;
    let manifest: Value = serde_json::from_slice(content.get(&root.digest).unwrap()).unwrap();
    assert_eq!(manifest["config"]["digest"], config.to_string());
}

#[tokio::test]
async fn a_flat_directory_is_read_as_it_was_written_with_all_its_platforms() {
    let folder = tempfile::tempdir().unwrap();
    let path = at(&folder, "flat");
    let mut content = Content::default();
    let images = ["linux/amd64", "linux/arm64"].map(|platform| content.image(platform, platform));
    let [one, two] = &images;
    let entries = [(one.clone(), Some("linux/amd64")), (two.clone(), None)];
    let root = content.index(&entries);

    let mut new = Outgoing::flat(&path).unwrap();
    let below: Vec<_> = images
        .iter()
        .map(|image| document(image, &content))
        .collect();
    for image in &below {
        let manifest: Value = serde_json::from_slice(&image.bytes).unwrap();
        for blob in [&manifest["config"], &manifest["layers"][0]] {
            let blob: Descriptor = serde_json::from_value(blob.clone()).unwrap();
            let bytes = content.get(&blob.digest).unwrap();
            new.put(&blob, &mut bytes.as_slice(), &GOING).unwrap();
        }
    }
    new.finish(&document(&root, &content), &below, &[]).unwrap();

    let read = ImageSource::Layout(Layout::open_flat_directory(&path).unwrap());
    let graph = read_graph(&read, Breadth::Everything).await.unwrap();
    assert_eq!(graph.root, root.digest);
    assert_eq!((graph.documents.len(), graph.blobs.len()), (3, 4));
    for blob in &graph.blobs {
        read.blob(blob, 0).await.unwrap();
    }
    let open = |name: &str| fs::File::open(path.join(name)).unwrap();
    let blob = (
        two.digest,
        open(&format!("{}.manifest.json", two.digest.to_hex())),
    );
    let passed = Layout::from_flat_files(open("manifest.json"), [blob], &path).unwrap();
    let passed = ImageSource::Layout(passed);
    assert_eq!(passed.manifest(two).await.unwrap().digest, two.digest);
    let nothing = Layout::open_flat_directory(folder.path()).unwrap_err();
    assert!(matches!(nothing, crate::FetchError::NotASource { .. }));
}

#[test]
fn wrong_bytes_get_no_name_and_damaged_ones_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = at(&folder, "layout");
    let (content, root) = image("layer");
    let blob = crate::testing::descriptor(b"right");
    let mut outgoing = Outgoing::layout(&path, None).unwrap();
    let named = path.join("blobs/sha256").join(blob.digest.to_hex());

    for wrong in ["wrong", "long wrong", "no"] {
        let error = outgoing.put(&blob, &mut wrong.as_bytes(), &GOING);
        assert!(error.is_err(), "{wrong}");
        assert!(!named.exists(), "{wrong}");
    }
    fs::write(&named, "wrong").unwrap();
    assert!(!outgoing.has(&blob, &GOING).unwrap());
    outgoing
        .put(&blob, &mut b"right".as_slice(), &GOING)
        .unwrap();
    assert!(outgoing.has(&blob, &GOING).unwrap());
    let stopped = AtomicBool::new(true);
    let error = outgoing.put(&blob, &mut b"right".as_slice(), &stopped);
    assert!(matches!(error, Err(OutgoingError::Cancelled)));

    // An archive that is given up leaves nothing.
    let archive = at(&folder, "oci.tar");
    let mut new = Outgoing::archive(&archive, None, Existing::Refused).unwrap();
    new.put(&blob, &mut b"wrong".as_slice(), &GOING)
        .unwrap_err();
    drop(new);
    assert!(!archive.exists());
    let new = Outgoing::archive(&archive, None, Existing::Refused).unwrap();
    write(new, &root, &content).unwrap();
    Outgoing::archive(&archive, None, Existing::Refused).unwrap_err();
}

#[test]
fn directories_of_something_else_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(at(&folder, "mine"), "mine").unwrap();

    for error in [
        Outgoing::layout(folder.path(), None).unwrap_err(),
        Outgoing::flat(folder.path()).unwrap_err(),
    ] {
        assert!(matches!(error, OutgoingError::Occupied { .. }), "{error:?}");
    }

    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_docker_archive_takes_no_index_and_unpacks_what_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = at(&folder, "docker.tar");
    let mut content = Content::default();
    let image = content.image("linux/amd64", "layer");
    let index = content.index(&[(image, Some("linux/amd64"))]);
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0, 0];
    let blob = crate::testing::descriptor(&zstd);

    let mut new = Outgoing::docker_archive(&path, None, Existing::Refused).unwrap();
    let error = new.put(&blob, &mut zstd.as_slice(), &GOING).unwrap_err();
    assert!(matches!(
        error,
        OutgoingError::Compression { with: "zstd", .. }
    ));
    let error = new
        .finish(&document(&index, &content), &[], &[])
        .unwrap_err();
    assert!(matches!(error, OutgoingError::NotOneImage { .. }));

    assert!(!path.exists());
}

/// A copy whose source does not exist comes no further than this.
#[test]
fn a_layout_that_nothing_came_to_is_not_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = at(&folder, "layout");
    let (content, root) = image("one");

    drop(Outgoing::layout(&path, Some("v1")).unwrap());
    assert!(!path.exists());
    let mut outgoing = Outgoing::layout(&path, Some("v1")).unwrap();
    let bytes = content.get(&root.digest).unwrap();
    outgoing.put(&root, &mut bytes.as_slice(), &GOING).unwrap();
    drop(outgoing);
    assert!(path.join("oci-layout").exists(), "the next copy goes on");
    fs::create_dir(at(&folder, "empty")).unwrap();
    drop(Outgoing::layout(&at(&folder, "empty"), None).unwrap());
    assert!(at(&folder, "empty").exists(), "it is the user's");
}

#[test]
fn an_index_that_is_none_is_known_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = at(&folder, "layout");
    fs::create_dir_all(path.join("index.json")).unwrap();

    let error = Outgoing::layout(&path, Some("v1")).unwrap_err();

    assert!(matches!(error, OutgoingError::Occupied { .. }), "{error}");
    assert!(!path.join("blobs").exists());
}

#[test]
fn a_directory_of_which_nothing_came_goes_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = at(&folder, "flat");
    let (content, root) = image("flat");

    drop(Outgoing::flat(&path).unwrap());
    assert!(!path.exists());

    let layer = serde_json::from_slice::<Value>(content.get(&root.digest).unwrap()).unwrap();
    let layer: Descriptor = serde_json::from_value(layer["layers"][0].clone()).unwrap();
    let mut begun = Outgoing::flat(&path).unwrap();
    let bytes = content.get(&layer.digest).unwrap();
    begun.put(&layer, &mut bytes.as_slice(), &GOING).unwrap();
    drop(begun);
    assert!(
        path.join(layer.digest.to_hex()).exists(),
        "the next copy goes on"
    );

    let own = at(&folder, "own");
    fs::create_dir(&own).unwrap();
    drop(Outgoing::flat(&own).unwrap());
    assert!(own.exists(), "it is the user's");
}
