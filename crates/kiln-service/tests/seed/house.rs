//! A house to pull into: the real tools in a temporary folder, with stand-ins for the seams.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kiln_api::daemon::Recovered;
use kiln_api::image::{BootChoice, Image, Outcome, PullParams};
use kiln_api::operation::{ListParams, Operation};
use kiln_api::{Failure, HostFile};
use kiln_artifacts::Artifacts;
use kiln_cache::Cache;
use kiln_domain::access::Actor;
use kiln_domain::{Architecture, ImageName, OperationState};
use kiln_kernel::{BaseInitrds, Catalogue};
use kiln_registry::routes::Network;
use kiln_service::{
    Board, BuildRootfs, Clock as _, Ext4Builder, FetchTree, GuestInitrds, HostFiles, ImageFiles,
    Operations, Pool, Pulls, Records, Remotes, Spare, SystemClock, open_database, recover,
};
use kiln_store::names::{self, NameHolder};
use kiln_store::{Store, StoreOptions};
use kiln_testkit::elf;
use tempfile::TempDir;

/// Longest time anything here may take; what takes longer hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct House {
    pub(crate) pulls: Pulls,
    pub(crate) operations: Operations,
    pub(crate) board: Arc<Board>,
    pub(crate) store: Store,
    pub(crate) records: Records,
    images: PathBuf,
    artifacts: Artifacts,
    folder: TempDir,
}

/// Who calls: root.
pub(crate) fn root() -> Actor {
    Actor::from_peer(0, 0, Some(1), 0)
}

impl House {
    /// Builds a house whose images come from `fetch` and are built for real.
    pub(crate) fn new(fetch: Arc<dyn FetchTree>) -> Result<Self> {
        Self::with_builder(fetch, Arc::new(Ext4Builder))
    }

    pub(crate) fn with_builder(
        fetch: Arc<dyn FetchTree>,
        build: Arc<dyn BuildRootfs>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&folder.path().join("kiln.db"), &StoreOptions::default())?;
        Self::furnish(folder, store, fetch, build)
    }

    /// Ends the daemon that lives here, and returns what it leaves.
    pub(crate) async fn leave(self) -> Result<TempDir> {
        self.store.close().await?;
        Ok(self.folder)
    }

    /// Starts a daemon on what another left, with everything put in order.
    pub(crate) async fn enter(
        folder: TempDir,
        fetch: Arc<dyn FetchTree>,
    ) -> Result<(Self, Recovered)> {
        let artifacts = Artifacts::open(&folder.path().join("images"))?;
        let path = folder.path().join("kiln.db");
        let store = open_database(&path, &StoreOptions::default(), &artifacts)?;
        let catalogue = Catalogue::open(&folder.path().join("kernels"))?;
        let cache = Cache::open(&folder.path().join("cache"))?;
        let now = SystemClock.now();
        let recovered = recover(&store, &artifacts, &catalogue, &cache, now).await?;
        let house = Self::furnish(folder, store, fetch, Arc::new(Ext4Builder))?;
        Ok((house, recovered))
    }

    fn furnish(
        folder: TempDir,
        store: Store,
        fetch: Arc<dyn FetchTree>,
        build: Arc<dyn BuildRootfs>,
    ) -> Result<Self> {
        let images = folder.path().join("images");
        let board = Arc::new(Board::new(64));
        let records = Records {
            store: store.clone(),
            board: board.clone(),
            clock: Arc::new(SystemClock),
            architecture: Architecture::Amd64,
            conceals_private: false,
            images: images.clone(),
            spare: Spare::new(Cache::open(&folder.path().join("cache"))?),
            remotes: Arc::new(Remotes::new(Network::default())),
            build_pool: Pool::new("build", 2),
            look_pool: Pool::new("look", 2),
        };
        let bases = BaseInitrds::at(&folder.path().join("initrds"));
        let initrds = GuestInitrds::new(vec![folder.path().join("init")], bases);
        let artifacts = Artifacts::open(&images)?;
        let pulls = Pulls::new(
            records.clone(),
            fetch,
            build,
            Catalogue::open(&folder.path().join("kernels"))?,
            initrds,
            artifacts.clone(),
            Arc::new(HostFiles::default()),
        );
        let operations = Operations::new(store.clone(), board.clone());
        let house = Self {
            pulls,
            operations,
            board,
            store,
            records,
            images,
            artifacts,
            folder,
        };
        for name in ["vmlinux", "init"] {
            fs::write(house.path(name), elf::smallest(elf::X86_64))?;
        }
        Ok(house)
    }

    /// Returns a path beside the state, where callers keep their files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn images(&self) -> &Path {
        &self.images
    }

    /// Returns what files of images are opened with.
    pub(crate) fn image_files(&self) -> ImageFiles {
        ImageFiles::new(
            self.artifacts.clone(),
            Arc::new(HostFiles::default()),
            Pool::new("look", 2),
        )
    }

    /// Returns what a call names a caller's file with.
    pub(crate) fn file(&self, name: &str) -> HostFile {
        HostFile::Path(self.path(name))
    }

    /// Returns the parameters of a pull of `reference` with a good kernel and nothing else.
    pub(crate) fn params(&self, reference: &str) -> PullParams {
        PullParams {
            kernel_path: Some(self.file("vmlinux")),
            ..bare(reference)
        }
    }

    /// Pulls as root, waits, and returns the image.
    pub(crate) async fn pull(&self, params: PullParams) -> Result<Image, Failure> {
        match self.pulls.pull(&root(), params).await? {
            Outcome::Image(image) => Ok(*image),
            Outcome::Started(started) => panic!("a detached pull: {started:?}"),
        }
    }

    /// Pulls as root, detached, and returns the operation.
    pub(crate) async fn start(&self, params: PullParams) -> Result<Operation> {
        let params = PullParams {
            detach: true,
            ..params
        };
        match self.pulls.pull(&root(), params).await? {
            Outcome::Image(image) => bail!("not detached: {image:?}"),
            Outcome::Started(started) => Ok(started.operation),
        }
    }

    /// Lists what stands in the images directory.
    pub(crate) fn in_images(&self) -> Result<Vec<String>> {
        fs::read_dir(&self.images)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Tells who has a name.
    pub(crate) async fn holder(&self, name: &str) -> Result<Option<NameHolder>> {
        let name: ImageName = name.parse()?;
        let held = self.store.read(move |tx| names::holder_of(tx, &name)).await;
        Ok(held?)
    }

    pub(crate) async fn operations_in(&self, state: OperationState) -> Result<Vec<Operation>> {
        let params = ListParams {
            state: Some(state),
            ..ListParams::default()
        };
        Ok(self.operations.list(&root(), params).await?.items)
    }

    /// Fails unless the house is as if nobody had ever tried: no directory, no name, no work.
    pub(crate) async fn assert_untouched(&self, name: &str) -> Result<()> {
        assert_eq!(self.in_images()?, Vec::<String>::new());
        assert_eq!(self.holder(name).await?, None, "{name} is held");
        assert!(self.board.is_empty());
        let running = self.operations_in(OperationState::Running).await?;
        assert_eq!(running, [], "still recorded as running");
        Ok(())
    }
}

/// Returns the parameters of a pull of `reference` that names no kernel.
pub(crate) fn bare(reference: &str) -> PullParams {
    PullParams {
        reference: reference.to_owned(),
        name: None,
        kernel_ref: None,
        prefer_shipped_kernel: false,
        kernel_path: None,
        initrd_path: None,
        modules_dir: None,
        boot: BootChoice::Auto,
        size_bytes: None,
        platform: None,
        credentials: None,
        mirror_credentials: Vec::new(),
        org: None,
        tls_verify: None,
        source_files: None,
        detach: false,
    }
}

/// Looks until `condition` holds; fails when it does not within [`LIMIT`].
pub(crate) async fn eventually(
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !condition().await? {
        if start.elapsed() > LIMIT {
            bail!("{what}: not within {LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Waits for something that must not hang.
pub(crate) async fn within_limit<T>(what: &str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(LIMIT, work)
        .await
        .with_context(|| format!("{what}: not within {LIMIT:?}"))
}
