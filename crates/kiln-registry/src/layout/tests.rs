use std::io::Read as _;

use kiln_domain::Platform;

use super::*;
use crate::blob::BlobBody;
use crate::testing::{Content, tar_of};
use crate::{ImageSource, resolve};

fn amd64() -> Platform {
    "amd64".parse().unwrap()
}

/// Writes the files of a layout into a directory.
fn write(files: &[(String, Vec<u8>)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

/// Opens the same layout in all three ways.
fn open_all(
    directory: &tempfile::TempDir,
    files: &[(String, Vec<u8>)],
    tag: Option<&str>,
) -> [Result<Layout, FetchError>; 3] {
    let path = directory.path();
    let opened = files.iter().skip(1).map(|(name, bytes)| {
        let file = File::open(path.join(name)).unwrap();
        (Digest::of(bytes), file)
    });
    [
        Layout::open_directory(path, tag),
        Layout::open_archive(tar_of(files), Path::new("layout.tar"), tag),
        Ok(Layout::from_files(
            files[0].1.clone(),
            opened,
            Path::new("files"),
            tag,
        )),
    ]
}

#[tokio::test]
async fn an_image_is_read_from_a_directory_an_archive_and_opened_files() {
    let mut content = Content::default();
    let old = content.image("linux/amd64", "old layer");
    let new = content.image("linux/amd64", "new layer");
    let files = content.layout(&[(&old, "11"), (&new, "12")]);
    let directory = write(&files);

    for layout in open_all(&directory, &files, Some("12")) {
        let source = ImageSource::Layout(layout.unwrap());
        let resolved = resolve(&source, amd64()).await.unwrap();
        assert_eq!(resolved.manifest_digest, new.digest);
        assert_eq!(resolved.reference, None);
        assert_eq!(resolved.index_digest, None);

        let body = source.blob(&resolved.layers[0].descriptor, 4).await;
        let BlobBody::File(mut range) = body.unwrap() else {
            panic!("a layout gives a file");
        };
        let mut text = String::new();
        range.read_to_string(&mut text).unwrap();
        assert_eq!(text, "layer");
    }
}

#[tokio::test]
async fn the_image_is_chosen_by_name_or_because_it_is_alone() {
    let mut content = Content::default();
    let intel = content.image("linux/amd64", "intel");
    let arm = content.image("linux/arm64", "arm");
    let list = content.index(&[
        (arm.clone(), Some("linux/arm64")),
        (intel.clone(), Some("linux/amd64")),
    ]);
    let cases = [
        (vec![(&intel, "")], None, "found"),
        (vec![(&intel, "12")], None, "found"),
        (vec![(&list, "")], None, "found"),
        (vec![(&list, "12"), (&arm, "11")], Some("12"), "found"),
        (vec![(&arm, ""), (&intel, "")], None, "found"),
        (vec![(&intel, "a"), (&list, "b")], None, "TagAmbiguous"),
        (vec![(&intel, "a"), (&list, "a")], Some("a"), "TagAmbiguous"),
        (vec![(&intel, "a"), (&intel, "a")], Some("a"), "found"),
        (vec![(&intel, "a"), (&intel, "a")], None, "found"),
        (vec![(&intel, "a")], Some("b"), "TagMissing"),
        (vec![(&intel, "")], Some("b"), "TagMissing"),
        (vec![], None, "NotASource"),
        (vec![(&arm, "a")], None, "PlatformNotFound"),
    ];
    for (entries, tag, want) in cases {
        let files = content.layout(&entries);
        let directory = write(&files);
        for layout in open_all(&directory, &files, tag) {
            let source = ImageSource::Layout(layout.unwrap());
            match resolve(&source, amd64()).await {
                Ok(resolved) => {
                    assert_eq!("found", want, "{tag:?} of {entries:?}");
                    assert_eq!(resolved.manifest_digest, intel.digest);
                }
                Err(error) => assert!(
                    format!("{error:?}").starts_with(want),
                    "{want} expected for {tag:?} of {entries:?}, got {error:?}"
                ),
            }
        }
    }
}

#[test]
fn a_missing_tag_lists_the_others() {
    let mut content = Content::default();
    let image = content.image("linux/amd64", "x");
    let files = content.layout(&[(&image, "one"), (&image, "two\u{1b}")]);

    let layout = Layout::open_archive(tar_of(&files), Path::new("l.tar"), Some("three")).unwrap();

    assert_eq!(
        layout.root().unwrap_err().to_string(),
        r#"l.tar holds no image "three", there is one, two\u{1b}"#
    );
}

#[tokio::test]
async fn damage_is_found_before_it_is_used() {
    let mut content = Content::default();
    let image = content.image("linux/amd64", "layer");
    let mut other = content.get(&image.digest).unwrap().clone();
    other[0] = b' ';
    let files = content.layout(&[(&image, "")]);
    let name = format!("blobs/sha256/{}", image.digest.to_hex());
    let cases: [(Option<Vec<u8>>, &str); 3] = [
        (None, "BlobNotFound"),
        (Some(b"short".to_vec()), "SizeMismatch"),
        (Some(other), "DigestMismatch"),
    ];
    for (bytes, want) in cases {
        let mut files = files.clone();
        files.retain(|(file, _)| *file != name);
        files.extend(bytes.map(|bytes| (name.clone(), bytes)));
        let directory = write(&files);
        let layouts = [
            Layout::open_directory(directory.path(), None),
            Layout::open_archive(tar_of(&files), Path::new("l.tar"), None),
        ];
        for layout in layouts {
            let source = ImageSource::Layout(layout.unwrap());
            let error = resolve(&source, amd64()).await.unwrap_err();
            assert!(format!("{error:?}").starts_with(want), "{error:?}");
        }
    }
}

#[test]
fn what_is_no_layout_is_refused_by_name() {
    let empty = tempfile::tempdir().unwrap();
    let missing = empty.path().join("missing");
    let name_of = |result: Result<Layout, FetchError>| {
        let text = format!("{:?}", result.unwrap_err());
        text.split(' ').next().unwrap().to_owned()
    };

    assert_eq!(
        name_of(Layout::open_directory(&missing, None)),
        "PathNotFound"
    );
    assert_eq!(
        name_of(Layout::open_directory(empty.path(), None)),
        "NotASource"
    );
    let archive = tar_of(&[("other".to_owned(), vec![])]);
    let path = Path::new("x.tar");
    assert_eq!(
        name_of(Layout::open_archive(archive, path, None)),
        "NotASource"
    );
    fs::create_dir(empty.path().join("index.json")).unwrap();
    assert_eq!(name_of(Layout::open_directory(empty.path(), None)), "Io");
}
