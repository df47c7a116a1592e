//! What of the cache is believed, and what is thrown away.

use std::io::Write as _;
use std::time::Duration;

use kiln_domain::OperationId;
use kiln_registry::Layout;

use super::*;
use crate::board::Board;
use crate::remotes::Remotes;

const BYTES: &[u8] = b"a layer that many images share";

/// An operation, and a cache with one blob in it.
struct House {
    fetcher: Fetcher,
    running: Arc<Running>,
    board: Arc<Board>,
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().join("cache").as_path()).unwrap();
        let mut ingest = cache
            .ingest(&Digest::of(BYTES), BYTES.len() as u64)
            .unwrap();
        ingest.write_all(BYTES).unwrap();
        ingest.commit().unwrap();
        let remotes = Arc::new(Remotes::new(kiln_registry::routes::Network::default()));
        let pool = crate::blocking::Pool::new("test", 1);
        let board = Arc::new(Board::new(1));
        let admission = board.admit().unwrap();
        let mut entry = None;
        let id = OperationId::new(uuid::Uuid::new_v4());
        board.start(id, admission, |running| {
            entry = Some(running.clone());
            async move { running.cancelled().await }
        });
        Self {
            fetcher: Fetcher::new(cache, remotes, pool, crate::fetch::LayerLimits::default()),
            running: entry.unwrap(),
            board,
            folder,
        }
    }

    fn blob() -> Descriptor {
        Descriptor::new("", Digest::of(BYTES), BYTES.len() as u64)
    }

    /// A layout of an image whose layer is the blob's name with other bytes of its length.
    fn liar(&self) -> ImageSource {
        let blobs = self.folder.path().join("layout/blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let name = |digest: &Digest| digest.to_string().replace("sha256:", "");
        std::fs::write(
            blobs.join(name(&Digest::of(BYTES))),
            vec![b'x'; BYTES.len()],
        )
        .unwrap();
        let manifest = "{}";
        let digest = Digest::of(manifest.as_bytes());
        std::fs::write(blobs.join(name(&digest)), manifest).unwrap();
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":2}}]}}"#
        );
        let folder = self.folder.path().join("layout");
        std::fs::write(folder.join("index.json"), index).unwrap();
        std::fs::write(
            folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        ImageSource::Layout(Layout::open_directory(&folder, None).unwrap())
    }

    async fn origin(&self, source: Option<&ImageSource>, cached: &Shelf) -> Option<Origin> {
        let blob = Self::blob();
        let found = self
            .fetcher
            .outgoing(source, &blob, cached, 0, &self.running);
        found.await.ok().map(|found| found.origin)
    }

    fn has_blob(&self) -> bool {
        let found = self.fetcher.cache.blob(&Digest::of(BYTES)).unwrap();
        found.is_some()
    }
}

#[tokio::test]
async fn what_a_caller_brings_is_told_from_what_the_cache_has() {
    let house = House::new();
    let liar = house.liar();

    let closed = house.origin(Some(&liar), &Shelf::Closed).await;
    let of_others = house.origin(Some(&liar), &Shelf::Of(HashSet::new())).await;
    let open = house.origin(Some(&liar), &Shelf::Open).await;

    assert_eq!(closed, Some(Origin::Source));
    assert_eq!(of_others, Some(Origin::Source));
    assert_eq!(open, Some(Origin::Cache));
    assert_eq!(house.origin(None, &Shelf::Closed).await, None);
    house.board.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn only_what_is_damaged_leaves_the_cache() {
    let house = House::new();
    let digest = Digest::of(BYTES);

    let whole = house.fetcher.forget_damaged(digest, &house.running).await;
    assert!(!whole.unwrap());
    assert!(house.has_blob(), "a whole blob was thrown away");

    let mut path = None;
    let mut folders = vec![house.folder.path().join("cache")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if std::fs::read(entry.path()).unwrap() == BYTES {
                path = Some(entry.path());
            }
        }
    }
    let path = path.unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, vec![b'y'; BYTES.len()]).unwrap();
    let damaged = house.fetcher.forget_damaged(digest, &house.running).await;

    assert!(damaged.unwrap());
    assert!(!house.has_blob(), "a damaged blob stays");
    house.board.stop(Duration::ZERO).await;
}
