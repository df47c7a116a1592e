//! The wiring: opens what the desks need, puts them together, serves, and stops in order.

use std::fs::{DirBuilder, File};
use std::num::NonZeroU32;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_agents::Ways;
use kiln_api::Description;
use kiln_api::daemon::{Places, Recovered, Setting};
use kiln_artifacts::Artifacts;
use kiln_cache::Cache;
use kiln_domain::access::Actor;
use kiln_domain::{Architecture, Timestamp};
use kiln_kernel::{BaseInitrds, Catalogue};
use kiln_registry::routes::Network;
use kiln_rpc::{BoundSocket, Closing, Desks, FilesSocket, Ledger, Limits, Rates, Server, bind};
use kiln_service::{
    Agents, Aliases, Audit, BlobFiles, Board, Clock, DaemonDesk, Events, Ext4Builder, Fetcher,
    GuestInitrds, HostFiles, Identity, ImageFiles, Images, InstanceWatch, Instances, KernelSources,
    Kernels, Leases, Metadata, Naming, Operations, Orgs, Partials, Pool, Pulls, PurgeFiles, Purges,
    Records, Registries, Remotes, Reserve, Retention, Roles, RootfsDigests, SnapshotSchedule,
    Snapshots, Spare, Storage, StorageFiles, SystemClock, SystemLogins, Transfers, Users, Webhooks,
    open_database, recover,
};
use kiln_store::{Store, StoreOptions};
use kiln_vault::Vault;
use kiln_webhooks::Listener;
use rustix::fs::FlockOperation;
use rustix::process::Resource;
use tokio::sync::watch;

use crate::config::{Config, SocketAccess};
use crate::reload::Reloading;
use crate::run::Loaded;
use crate::signals;

/// Why the daemon could not start, where the exit code tells.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("another kilnd keeps its state in {}", path.display())]
    AlreadyRunning { path: PathBuf },
}

/// How many files are looked at at a time.
const LOOKS_AT_A_TIME: usize = 4;

/// How many machines may run at a time at most: no single host runs more.
const MACHINES_AT_A_TIME: u64 = 4_096;

/// How long connections may last behind the grace of the operations: those that were cancelled
/// clean up for ten seconds at most, then their callers are answered.
const DRAIN: Duration = Duration::from_secs(15);

/// Serves until a signal asks for an end.
///
/// `load` reads the configuration anew, whenever a signal asks for that.
pub(crate) async fn serve(
    loaded: Loaded,
    load: impl Fn() -> Result<Loaded> + Send + Sync + 'static,
) -> Result<()> {
    let Loaded {
        config,
        surroundings,
    } = loaded;
    // From the first moment: without a handler the signal would end the process.
    let hangups = signals::prepare().context("cannot listen for signals")?;
    let mut settings = config.settings();
    settings.extend(surroundings.settings);
    for problem in &surroundings.problems {
        tracing::warn!(problem, "passed over");
    }
    let remotes = Arc::new(Remotes::new(surroundings.network));
    let state = config.state_dir.value.clone();
    make_private(&state)?;
    let _lock = lock(&state)?;
    raise_file_limit();
    // Bound before any thread makes files: binding sets the umask of the whole process.
    let (socket, files_socket) = bind_sockets(&config)?;
    let opened = open(&config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let recovered = recover(
        &opened.store,
        &opened.artifacts,
        &opened.catalogue,
        &opened.cache,
        clock.now(),
    )
    .await
    .context("cannot put the state in order")?;
    let store = opened.store.clone();
    let board = Arc::new(Board::new(config.max_operations.value));
    let host_files = Arc::new(HostFiles::default());
    let digests = digests(&opened, &board, &clock);
    let snapshots = Snapshots::new(store.clone(), clock.clone(), snapshot_schedule(&config));
    let partials = Partials::new(opened.cache.clone(), clock.clone(), Pool::new("sweep", 1));
    let machines = machines(&store, &clock).await?;
    let shared = Shared {
        board: board.clone(),
        clock: clock.clone(),
        host_files: host_files.clone(),
        machines: machines.clone(),
        remotes: remotes.clone(),
        settings: settings.clone(),
        ledger: ledger(&config, &store, &clock),
    };
    let ledger = shared.ledger.clone();
    let desks = desks(&config, opened, shared, recovered.clone());
    let webhooks = webhooks(&config, &store, &clock, &desks);
    let rates = Rates::new(config.rates.limit());
    let reloading = Reloading {
        remotes,
        rates: rates.clone(),
        daemon: desks.daemon.clone(),
        settings,
    };
    let reloading = reloading.run(hangups, load);
    let door = open_webhooks(&config).await?;
    let (limits, uid) = (Limits::default(), own_actor().uid);
    let server = Server::new(desks.table()?, limits, rates, uid, ledger.clone())?;
    let (stop, stopped) = watch::channel(false);
    let files = files_socket.serve(host_files, stopped.clone());
    let digests = digests.run(stopped.clone());
    let snapshots = snapshots.run(stopped.clone());
    let sweepers = sweepers(partials, &desks, &stopped);
    let machines = machines.run(stopped.clone());
    let audit = ledger.audit.run(stopped.clone());
    let notified = notifications(door, webhooks.clone(), stopped.clone());
    let webhooks = webhooks.run(stopped.clone());
    tracing::info!(socket = %socket.path().display(), ?recovered, "ready");
    let grace = Duration::from_secs(config.shutdown_grace_seconds.value);
    let (drain, drained) = watch::channel(false);
    let stopping = async move {
        signals::wait(stop).await?;
        board.stop(grace).await;
        drain.send_replace(true);
        Ok::<_, std::io::Error>(())
    };
    // Whoever waits for an operation is told of its end, so connections stay until all have ended.
    let closing = Closing {
        stop: stopped,
        drained,
        grace: grace + DRAIN,
    };
    let serving = server.serve(socket, closing);
    let workers = async {
        tokio::join!(
            digests, snapshots, sweepers, machines, audit, notified, webhooks
        )
    };
    let work = async { tokio::join!(stopping, serving, files, workers) };
    let (ended, (), (), _) = tokio::select! {
        ended = work => ended,
        never = reloading => match never {},
    };
    ended.context("cannot listen for signals")?;
    store.close().await.context("cannot close the database")?;
    tracing::info!("stopped");
    Ok(())
}

/// Computes checksums of root filesystems behind their publication.
fn digests(opened: &Opened, board: &Arc<Board>, clock: &Arc<dyn Clock>) -> RootfsDigests {
    RootfsDigests::new(
        opened.store.clone(),
        opened.artifacts.clone(),
        board.clone(),
        clock.clone(),
    )
}

/// Removes what nobody goes on with, and what was forgotten long enough ago.
fn sweepers(
    partials: Partials,
    desks: &Desks,
    stopped: &watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<> {
    let retention = Retention::new((*desks.purges).clone(), own_actor());
    let partials = partials.run(stopped.clone());
    let retention = retention.run(stopped.clone());
    async move {
        tokio::join!(partials, retention);
    }
}

/// Watches machines, those of before a start included.
async fn machines(store: &Store, clock: &Arc<dyn Clock>) -> Result<InstanceWatch> {
    let machines = InstanceWatch::new(store.clone(), clock.clone(), machines_at_a_time());
    let resumed = machines.resume().await;
    resumed.context("cannot look for machines of before")?;
    Ok(machines)
}

/// Everything with files behind it.
struct Opened {
    store: Store,
    artifacts: Artifacts,
    catalogue: Catalogue,
    cache: Cache,
    bases: BaseInitrds,
    ways: Ways,
}

fn open(config: &Config) -> Result<Opened> {
    let state = &config.state_dir.value;
    let options = StoreOptions {
        readers: NonZeroU32::MIN.saturating_add(3),
        ..Default::default()
    };
    let artifacts = Artifacts::open(&state.join("images")).context("cannot open the images")?;
    Ok(Opened {
        store: open_database(&state.join("kiln.db"), &options, &artifacts)?,
        artifacts,
        catalogue: Catalogue::open(&state.join("kernels")).context("cannot open the kernels")?,
        cache: Cache::open(&config.cache_dir.value).context("cannot open the cache")?,
        bases: open_bases(&config.cache_dir.value.join("initrds"))?,
        ways: Ways::open(&agents_folder(config)).context("cannot prepare the way to agents")?,
    })
}

/// Opens the stock of base initrds, without what a crash left in it.
fn open_bases(folder: &Path) -> Result<BaseInitrds> {
    let bases = BaseInitrds::at(folder);
    bases.sweep().context("cannot sweep the base initrds")?;
    Ok(bases)
}

/// What desks share with others that work beside them.
struct Shared {
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
    host_files: Arc<HostFiles>,
    machines: InstanceWatch,
    remotes: Arc<Remotes>,
    settings: Vec<Setting>,
    ledger: Ledger,
}

/// Puts together who callers are and what is kept of their calls.
fn ledger(config: &Config, store: &Store, clock: &Arc<dyn Clock>) -> Ledger {
    Ledger {
        roles: Roles::new(store.clone(), clock.clone()),
        audit: Audit::new(store.clone(), clock.clone(), config.audit.retention())
            .with_reserve(Reserve::beside(store.path())),
    }
}

/// Opens the port that registries notify, where one is configured.
async fn open_webhooks(config: &Config) -> Result<Option<Listener>> {
    let Some((address, secret)) = config.webhooks.door.clone() else {
        return Ok(None);
    };
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "webhooks are listened for in plain HTTP beyond this host");
    }
    let listener = Listener::bind(address, secret).await;
    let listener = listener.with_context(|| format!("cannot listen for webhooks on {address}"))?;
    tracing::info!(address = %listener.address(), "listening for webhooks");
    Ok(Some(listener))
}

/// Serves that port, if it is open.
async fn notifications(door: Option<Listener>, webhooks: Webhooks, stopped: watch::Receiver<bool>) {
    let Some(door) = door else { return };
    let take = move |pushes| {
        let webhooks = webhooks.clone();
        async move { webhooks.take(pushes).await }
    };
    door.serve(take, stopped).await;
}

/// Puts together what pulls what registries tell of.
fn webhooks(config: &Config, store: &Store, clock: &Arc<dyn Clock>, desks: &Desks) -> Webhooks {
    Webhooks::new(
        store.clone(),
        clock.clone(),
        config.webhooks.rules.clone(),
        system_logins(config, store, clock),
        (desks.pulls.clone(), desks.images.clone()),
        own_actor(),
    )
}

/// The daemon's own user, as whom it does what nobody called for.
fn own_actor() -> Actor {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Actor::from_peer(uid.as_raw(), gid.as_raw(), None, uid.as_raw())
}

fn system_logins(config: &Config, store: &Store, clock: &Arc<dyn Clock>) -> SystemLogins {
    let vault = Vault::new(config.login_key.clone());
    SystemLogins::new(store.clone(), vault, clock.clone(), Pool::new("key", 1))
}

fn desks(config: &Config, opened: Opened, shared: Shared, recovered: Recovered) -> Desks {
    let Shared {
        board,
        clock,
        host_files,
        machines,
        remotes,
        settings,
        ledger,
    } = shared;
    let Ledger { roles, audit } = ledger;
    let on_disk = storage_files(config, &opened);
    let Opened {
        store,
        artifacts,
        catalogue,
        cache,
        bases,
        ways,
    } = opened;
    let images = config.state_dir.value.join("images");
    let initrds = GuestInitrds::new(config.guest_init.value.clone(), bases);
    let architecture = host_architecture();
    let look_pool = Pool::new("look", LOOKS_AT_A_TIME);
    let build_pool = Pool::new("build", config.build_threads.value);
    let logins = system_logins(config, &store, &clock);
    let spare = Spare::new(cache.clone());
    let fetcher = fetcher(config, cache, &remotes);
    let naming = naming(config);
    let purged = PurgeFiles::new(artifacts.clone(), images.clone(), Pool::new("purge", 1));
    let records = Records {
        store: store.clone(),
        board: board.clone(),
        clock: clock.clone(),
        architecture,
        conceals_private: config.conceal_private.value,
        images: images.clone(),
        spare,
        remotes: remotes.clone(),
        build_pool: build_pool.clone(),
        look_pool: look_pool.clone(),
    };
    let identity = identity(config, clock.now(), settings, recovered);
    let uid = identity.uid;
    Desks {
        daemon: Arc::new(DaemonDesk::new(store.clone(), board.clone(), identity)),
        pulls: Arc::new(Pulls::new(
            records.clone(),
            fetcher.clone(),
            Arc::new(Ext4Builder),
            catalogue.clone(),
            initrds.clone(),
            artifacts.clone(),
            host_files.clone(),
        )),
        metadata: metadata(config, &store, &clock, &remotes, naming),
        agents: Arc::new(Agents::new(records.clone(), Arc::new(ways))),
        images: existing(
            config,
            &store,
            &clock,
            naming,
            ImageFiles::new(artifacts.clone(), host_files.clone(), look_pool),
        ),
        aliases: Arc::new(Aliases::new(store.clone(), clock.clone(), naming)),
        leases: Arc::new(Leases::new(store.clone(), clock.clone(), naming)),
        storage: storage(&store, &clock, naming, on_disk, &fetcher, &purged),
        purges: Arc::new(Purges::new(store.clone(), clock.clone(), naming, purged)),
        instances: instances(&store, &clock, machines, naming),
        transfers: Arc::new(Transfers::new(
            records.clone(),
            fetcher.clone(),
            remotes.clone(),
            host_files.clone(),
        )),
        kernels: Arc::new(Kernels::new(
            store.clone(),
            clock.clone(),
            catalogue,
            initrds,
            host_files.clone(),
            KernelSources::new(records, fetcher.clone()),
            build_pool,
        )),
        registries: Arc::new(Registries::new(
            remotes,
            logins,
            BlobFiles::new(fetcher, host_files),
        )),
        operations: Arc::new(Operations::new(store.clone(), board)),
        events: Arc::new(Events::new(store.clone())),
        users: Arc::new(Users::new(store.clone(), roles.clone(), uid)),
        orgs: Arc::new(Orgs::new(store, roles)),
        audit: Arc::new(audit),
    }
}

fn fetcher(config: &Config, cache: Cache, remotes: &Arc<Remotes>) -> Arc<Fetcher> {
    Arc::new(Fetcher::new(
        cache,
        remotes.clone(),
        Pool::new("decode", config.decode_threads.value),
        kiln_service::LayerLimits::default(),
    ))
}

fn storage(
    store: &Store,
    clock: &Arc<dyn Clock>,
    naming: Naming,
    on_disk: StorageFiles,
    fetcher: &Fetcher,
    purged: &PurgeFiles,
) -> Arc<Storage> {
    Arc::new(Storage::new(
        store.clone(),
        clock.clone(),
        naming,
        on_disk,
        fetcher.needs(),
        purged.clone(),
    ))
}

fn existing(
    config: &Config,
    store: &Store,
    clock: &Arc<dyn Clock>,
    naming: Naming,
    files: ImageFiles,
) -> Arc<Images> {
    let images = Images::new(
        store.clone(),
        clock.clone(),
        config.state_dir.value.join("images"),
        naming,
        config.retention_days.value,
        files,
    );
    Arc::new(images.with_limits(config.image_limits.value.clone()))
}

fn metadata(
    config: &Config,
    store: &Store,
    clock: &Arc<dyn Clock>,
    remotes: &Arc<Remotes>,
    naming: Naming,
) -> Arc<Metadata> {
    Arc::new(Metadata::new(
        store.clone(),
        clock.clone(),
        config.state_dir.value.join("images"),
        naming,
        config.image_limits.value.clone(),
        remotes.clone(),
    ))
}

/// Says how words that name images are read.
fn naming(config: &Config) -> Naming {
    Naming {
        architecture: host_architecture(),
        conceals_private: config.conceal_private.value,
    }
}

/// Says where things lie, for who looks at all of them.
fn storage_files(config: &Config, opened: &Opened) -> StorageFiles {
    StorageFiles {
        state: config.state_dir.value.clone(),
        artifacts: opened.artifacts.clone(),
        catalogue: opened.catalogue.clone(),
        cache: opened.cache.clone(),
        bases: opened.bases.clone(),
        pool: Pool::new("storage", 2),
    }
}

fn instances(
    store: &Store,
    clock: &Arc<dyn Clock>,
    machines: InstanceWatch,
    naming: Naming,
) -> Arc<Instances> {
    let (store, clock) = (store.clone(), clock.clone());
    Arc::new(Instances::new(store, clock, machines, naming))
}

/// Says what does not change while the daemon runs.
fn identity(
    config: &Config,
    started_at: Timestamp,
    settings: Vec<Setting>,
    recovered: Recovered,
) -> Identity {
    Identity {
        version: env!("CARGO_PKG_VERSION"),
        uid: rustix::process::geteuid().as_raw(),
        started_at,
        architecture: host_architecture(),
        places: places(config),
        config: settings,
        recovered,
    }
}

/// Lists every method the daemon serves, without starting one.
pub(crate) fn descriptions() -> Result<Vec<Description>> {
    // A throw-away state: the table is made by the same wiring that serves.
    let place = tempfile::tempdir().context("cannot make a throw-away state")?;
    let folder = place.path().to_owned();
    let config = Config::load(
        &crate::config::Given {
            root: Some(folder.clone()),
            ..Default::default()
        },
        crate::places::Places::below(&folder),
        1,
    )?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let opened = open(&config)?;
    let ledger = ledger(&config, &opened.store, &clock);
    let shared = Shared {
        board: Arc::new(Board::new(1)),
        clock: clock.clone(),
        host_files: Arc::default(),
        machines: InstanceWatch::new(opened.store.clone(), clock, 1),
        remotes: Arc::new(Remotes::new(Network::default())),
        settings: config.settings(),
        ledger,
    };
    let desks = desks(&config, opened, shared, Recovered::default());
    Ok(desks.table()?.descriptions().to_vec())
}

/// Lets the daemon hold as many files open as it may: every connection, layer and passed
/// descriptor is one.
fn raise_file_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it was");
    }
}

/// Decides how many machines may run at a time: each holds a descriptor, and three quarters of them
/// are for everything else.
fn machines_at_a_time() -> usize {
    let files = rustix::process::getrlimit(Resource::Nofile).current;
    let share = files.map_or(MACHINES_AT_A_TIME, |files| files / 4);
    usize::try_from(share.min(MACHINES_AT_A_TIME)).unwrap_or(usize::MAX)
}

fn snapshot_schedule(config: &Config) -> SnapshotSchedule {
    SnapshotSchedule {
        interval: Duration::from_secs(config.snapshot_interval_seconds.value),
        events: config.snapshot_events.value,
    }
}

fn places(config: &Config) -> Places {
    let state = &config.state_dir.value;
    let show = |path: &Path| path.display().to_string();
    Places {
        state: show(state),
        images: show(&state.join("images")),
        kernels: show(&state.join("kernels")),
        cache: show(&config.cache_dir.value),
        socket: show(&config.socket.value),
        files_socket: show(&files_socket_path(config)),
    }
}

fn files_socket_path(config: &Config) -> PathBuf {
    config.socket.value.with_file_name("kiln-files.sock")
}

/// Sockets towards other hosts stand beside the daemon's own, whose path is short enough.
fn agents_folder(config: &Config) -> PathBuf {
    config.socket.value.with_file_name("agents")
}

fn bind_sockets(config: &Config) -> Result<(BoundSocket, FilesSocket)> {
    let access = match config.socket_access.value {
        SocketAccess::Owner => kiln_rpc::SocketAccess::Owner,
        SocketAccess::Group => kiln_rpc::SocketAccess::Group,
    };
    let socket = bind(&config.socket.value, access)?;
    let files = bind(&files_socket_path(config), access)?;
    Ok((socket, FilesSocket::new(files)))
}

fn host_architecture() -> Architecture {
    if cfg!(target_arch = "aarch64") {
        Architecture::Arm64
    } else {
        Architecture::Amd64
    }
}

/// Makes a directory for the daemon's user alone.
fn make_private(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Takes the state directory for this process; the kernel gives it back however it ends.
fn lock(state: &Path) -> Result<File> {
    let path = state.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::AlreadyRunning {
            path: state.to_owned(),
        }
        .into()),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
