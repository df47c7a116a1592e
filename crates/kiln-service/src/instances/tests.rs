use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kiln_api::instance::Port;
use kiln_domain::{VersionId, VersionKind, VersionNumber, Visibility};
use kiln_store::events::{EventFilter, EventRow};
use kiln_store::images::{Custody, NewImage};
use kiln_store::versions::NewVersion;
use kiln_store::{Object, StoreOptions, events, holders, images, names, versions};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::clock::SystemClock;

/// Longest time anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How many machines a house watches.
const MOST: usize = 3;

/// A store with an image of this process's user, and desks over it.
struct House {
    desk: Instances,
    watch: InstanceWatch,
    store: Store,
    clock: Arc<Ahead>,
    _folder: TempDir,
}

/// A clock that runs ahead of the machine's.
#[derive(Debug, Default)]
struct Ahead(AtomicI64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        let ahead = self.0.load(Ordering::SeqCst);
        Timestamp::from_micros(SystemClock.now().as_micros() + ahead).unwrap()
    }
}

/// A process to watch; it goes with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        Self(command.arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Fails only for one that a test has killed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// This process's user, as an ordinary one unless it is root, calling from `pid`.
fn caller(pid: i32) -> Actor {
    Actor::from_peer(own_uid(), 0, Some(pid), u32::MAX)
}

fn stranger() -> Actor {
    Actor::from_peer(54_321, 0, Some(1), u32::MAX)
}

fn id(n: u128) -> InstanceId {
    InstanceId::new(Uuid::from_u128((n << 96) + 7))
}

fn version_id() -> VersionId {
    VersionId::new(Uuid::from_u128(2))
}

fn params(n: u128, name: Option<&str>) -> RegisterParams {
    RegisterParams {
        instance_id: id(n),
        name: name.map(str::to_owned),
        image: "team/web".to_owned(),
        architecture: None,
        directory: "/run/kiln/1".to_owned(),
        console_path: "/run/kiln/1/console.log".to_owned(),
        cpus: 2,
        memory_bytes: 256 << 20,
        ports: vec![Port {
            host_address: "127.0.0.1".to_owned(),
            host_port: 8080,
            guest_port: 80,
        }],
    }
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let store = Store::open(&path, &StoreOptions::default()).unwrap();
        store.write(add_image).await.unwrap();
        let clock = Arc::new(Ahead::default());
        let (watch, desk) = desks(&store, &clock, MOST);
        Self {
            desk,
            watch,
            store,
            clock,
            _folder: folder,
        }
    }

    /// Puts a new watch and desk in the place of the old ones, as a start of the daemon does.
    async fn start_again(&mut self) {
        self.start_again_with_places(MOST).await;
    }

    async fn start_again_with_places(&mut self, most: usize) {
        let (stop, stopped) = tokio::sync::watch::channel(true);
        let ended = tokio::time::timeout(LIMIT, self.watch.clone().run(stopped)).await;
        ended.unwrap();
        drop(stop);
        (self.watch, self.desk) = desks(&self.store, &self.clock, most);
        self.watch.resume().await.unwrap();
    }

    async fn register(&self, n: u128, name: Option<&str>, process: &Sleeper) -> Instance {
        self.try_register(process, params(n, name)).await.unwrap()
    }

    async fn try_register(
        &self,
        process: &Sleeper,
        params: RegisterParams,
    ) -> Result<Instance, Failure> {
        self.desk.register(&caller(process.pid()), params).await
    }

    async fn get(&self, text: &str) -> Result<Instance, Failure> {
        let instance = text.to_owned();
        self.desk.get(&caller(1), InstanceParams { instance }).await
    }

    async fn ended(&self, n: u128) -> Instance {
        let look = async {
            loop {
                let found = self.get(&id(n).to_string()).await.unwrap();
                if found.state == InstanceState::Ended {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, look).await.unwrap()
    }

    async fn holders(&self) -> Vec<String> {
        let object = Object::version(version_id());
        let now = SystemClock.now();
        let held = self
            .store
            .read(move |tx| holders::of_object(tx, &object, now))
            .await;
        held.unwrap().into_iter().map(|row| row.holder.id).collect()
    }

    async fn events(&self, n: u128) -> Vec<EventRow> {
        let filter = EventFilter {
            object: Some(Object::instance(id(n))),
            ..EventFilter::default()
        };
        let page = self
            .store
            .read(move |tx| events::page(tx, 0, 100, &filter))
            .await;
        page.unwrap().rows
    }
}

fn desks(store: &Store, clock: &Arc<Ahead>, most: usize) -> (InstanceWatch, Instances) {
    let watch = InstanceWatch::new(store.clone(), clock.clone(), most);
    let desk = Instances::new(
        store.clone(),
        clock.clone(),
        watch.clone(),
        Naming::of_host(Architecture::Amd64),
    );
    (watch, desk)
}

fn add_image(tx: &WriteTransaction<'_>) -> Result<(), StoreError> {
    let now = SystemClock.now();
    let image = NewImage {
        id: kiln_domain::ImageId::new(Uuid::from_u128(1)),
        name: "team/web".parse().unwrap(),
        owner_id: own_uid(),
        org_id: None,
        visibility: Visibility::Private,
        kind: VersionKind::Rootfs,
        custody: Custody::Managed,
        labels: BTreeMap::new(),
        keywords: BTreeSet::new(),
        limits: None,
        created_at: now,
    };
    images::insert(tx, &image)?;
    names::give_to_image(tx, &image.name, image.id, now).unwrap();
    let version = NewVersion {
        id: version_id(),
        image_id: image.id,
        number: VersionNumber::FIRST,
        architecture: "amd64".to_owned(),
        kind: VersionKind::Rootfs,
        source_kind: "file".to_owned(),
        source_reference: None,
        manifest_digest: None,
        config_digest: None,
        derivation: None,
        rootfs_size_bytes: 1,
        rootfs_sha256: None,
        kernel_sha256: None,
        initrd_sha256: None,
        has_modules: false,
        kernel_name: None,
        image_config: None,
        boot: None,
        original: None,
        created_at: now,
        created_by: own_uid(),
    };
    versions::insert(tx, &version).map(drop)
}

fn code(result: Result<Instance, Failure>) -> String {
    result.unwrap_err().code
}

#[tokio::test]
async fn a_machine_is_registered_runs_and_ends() {
    let house = House::new().await;
    let process = Sleeper::start();

    let registered = house.register(1, Some("front"), &process).await;
    let held = house.holders().await;
    let under = StartParams {
        instance_id: id(1),
        monitor: "qemu-microvm".to_owned(),
        accelerator: "tcg".to_owned(),
    };
    let started = house.desk.start(&caller(1), under.clone()).await.unwrap();
    let again = house.desk.start(&caller(1), under).await.unwrap();
    let finish = |exit_code| FinishParams {
        instance_id: id(1),
        exit_code: Some(exit_code),
        reason: Some("said \u{1b}[2J".to_owned()),
    };
    let finished = house.desk.finish(&caller(1), finish(3)).await.unwrap();
    let late = house.desk.finish(&caller(1), finish(9)).await.unwrap();

    assert_eq!(registered.state, InstanceState::Starting);
    assert_eq!(registered.pid, process.0.id());
    assert_eq!(registered.image_name.as_str(), "team/web");
    assert_eq!(registered.version_id, version_id());
    assert_eq!(registered.ports, params(1, None).ports);
    assert_eq!(held, [id(1).to_string()]);
    assert_eq!(started.state, InstanceState::Running);
    assert_eq!(started.monitor.as_deref(), Some("qemu-microvm"));
    assert_eq!(again, started);
    assert_eq!(finished.state, InstanceState::Ended);
    assert_eq!(finished.exit_code, Some(3));
    assert_eq!(finished.reason.as_deref(), Some("said \\u{1b}[2J"));
    assert_eq!(late, finished);
    assert_eq!(house.holders().await, Vec::<String>::new());
    let events = house.events(1).await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    let want = ["instance.registered", "instance.started", "instance.ended"];
    assert_eq!(kinds, want);
    let want = serde_json::json!({"exit_code": 3, "reason": "said \\u{1b}[2J"});
    assert_eq!(events[2].data, want);
}

#[tokio::test]
async fn an_end_without_a_word_is_noticed() {
    let house = House::new().await;
    let mut process = Sleeper::start();
    house.register(1, Some("front"), &process).await;

    process.kill();
    let ended = house.ended(1).await;

    assert_eq!(ended.exit_code, None);
    let reason = ended.reason.as_deref();
    assert_eq!(reason, Some("the process that ran it is gone"));
    assert_eq!(house.holders().await, Vec::<String>::new());
    let events = house.events(1).await;
    assert_eq!(events.last().unwrap().actor, EventActor::Daemon);
}

#[tokio::test]
async fn a_start_finds_those_that_live_and_ends_the_others() {
    let mut house = House::new().await;
    let (mut one, mut other) = (Sleeper::start(), Sleeper::start());
    house.register(1, Some("one"), &one).await;
    house.register(2, Some("other"), &other).await;
    let (stop, stopped) = tokio::sync::watch::channel(true);
    house.watch.clone().run(stopped).await;
    drop(stop);

    one.kill();
    house.start_again().await;

    assert_eq!(house.ended(1).await.exit_code, None);
    let found = house.get("other").await.unwrap();
    assert_eq!(found.state, InstanceState::Starting);
    assert_eq!(house.holders().await, [id(2).to_string()]);
    other.kill();
    house.ended(2).await;
    assert_eq!(house.holders().await, Vec::<String>::new());
}

#[tokio::test]
async fn names_are_derived_and_taken() {
    let house = House::new().await;
    let process = Sleeper::start();

    let first = house.register(0x1111_2222, None, &process).await;
    let second = house.register(0xabcd_ef01, None, &process).await;
    let refused = async |params| house.try_register(&process, params).await.unwrap_err();
    let taken = refused(params(3, Some("web"))).await;
    let invalid = refused(params(3, Some("No!"))).await;
    let same = refused(params(0x1111_2222, Some("x"))).await;

    assert_eq!(first.name.as_str(), "web");
    assert_eq!(second.name.as_str(), "web-abcd");
    assert_eq!(taken.code, "instance.name_taken");
    assert_eq!(taken.message, "a machine named \"web\" is running");
    assert_eq!(invalid.code, "instance.name_invalid");
    assert_eq!(same.code, "instance.already_exists");
}

#[tokio::test]
async fn as_many_are_watched_as_have_a_place() {
    let house = House::new().await;
    let process = Sleeper::start();
    for n in 1..=3 {
        house.register(n, None, &process).await;
    }

    let full = house.try_register(&process, params(4, None)).await;
    let finish = FinishParams {
        instance_id: id(2),
        exit_code: None,
        reason: None,
    };
    house.desk.finish(&caller(1), finish).await.unwrap();
    let look = async {
        while house.try_register(&process, params(4, None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };

    assert_eq!(code(full), "daemon.busy");
    tokio::time::timeout(LIMIT, look).await.unwrap();
}

#[tokio::test]
async fn what_a_start_could_not_watch_is_looked_at_again() {
    let mut house = House::new().await;
    let mut first = Sleeper::start();
    let mut second = Sleeper::start();
    let mut third = Sleeper::start();
    house.register(1, Some("first"), &first).await;
    house.register(2, Some("second"), &second).await;
    house.register(3, Some("third"), &third).await;

    // One place: the second and the third have to wait.
    house.start_again_with_places(1).await;
    first.kill();
    third.kill();
    house.ended(1).await;
    house.ended(3).await;
    assert_eq!(house.holders().await, [id(2).to_string()]);
    second.kill();

    assert_eq!(
        house.ended(2).await.reason.as_deref(),
        Some("the process that ran it is gone")
    );
    assert_eq!(house.holders().await, Vec::<String>::new());
}

#[tokio::test]
async fn strangers_find_nothing_and_change_nothing() {
    let house = House::new().await;
    let process = Sleeper::start();
    house.register(1, Some("front"), &process).await;
    let desk = &house.desk;
    let stranger = stranger();
    let word = InstanceParams {
        instance: "front".to_owned(),
    };
    let finish = FinishParams {
        instance_id: id(1),
        exit_code: None,
        reason: None,
    };
    let start = StartParams {
        instance_id: id(1),
        monitor: "m".to_owned(),
        accelerator: "a".to_owned(),
    };

    let codes = [
        code(desk.get(&stranger, word.clone()).await),
        code(desk.remove(&stranger, word).await),
        code(desk.finish(&stranger, finish).await),
        code(desk.start(&stranger, start).await),
    ];
    let listed = desk.list(&stranger, ListParams::default()).await.unwrap();
    let image = desk.register(&stranger, params(2, None)).await;

    assert_eq!(codes, ["instance.not_found"; 4]);
    assert_eq!(listed.items, []);
    // Process 1 is not the stranger's, and that is looked at before the image.
    assert_eq!(code(image), "instance.no_process");
    assert_eq!(house.holders().await.len(), 1);
}

#[tokio::test]
async fn words_mean_live_machines_first_then_the_newest_then_beginnings() {
    let house = House::new().await;
    let process = Sleeper::start();
    let finish = |n| FinishParams {
        instance_id: id(n),
        exit_code: None,
        reason: None,
    };
    for n in [0xaaaa_0001, 0xaaaa_0002] {
        house.register(n, Some("front"), &process).await;
        house.desk.finish(&caller(1), finish(n)).await.unwrap();
    }

    let ended = house.get("front").await.unwrap();
    house.register(0xbbbb_0003, Some("front"), &process).await;
    let live = house.get("front").await.unwrap();
    let ambiguous = house.get("aaaa").await;
    let beginning = house.get("aaaa0001").await.unwrap();

    assert_eq!(ended.id, id(0xaaaa_0002));
    assert_eq!(live.id, id(0xbbbb_0003));
    assert_eq!(beginning.id, id(0xaaaa_0001));
    assert_eq!(code(ambiguous), "instance.ambiguous");
    for word in ["bbb", "BBBB", "other", "", "aaaa0003"] {
        let found = house.get(word).await;
        assert_eq!(code(found), "instance.not_found", "{word:?}");
    }
}

#[tokio::test]
async fn only_what_has_ended_is_removed() {
    let house = House::new().await;
    let process = Sleeper::start();
    house.register(1, Some("front"), &process).await;
    let word = || InstanceParams {
        instance: "front".to_owned(),
    };

    let running = house.desk.remove(&caller(1), word()).await;
    let finish = FinishParams {
        instance_id: id(1),
        exit_code: Some(0),
        reason: None,
    };
    house.desk.finish(&caller(1), finish).await.unwrap();
    let start = StartParams {
        instance_id: id(1),
        monitor: "m".to_owned(),
        accelerator: "a".to_owned(),
    };
    let late = house.desk.start(&caller(1), start).await;
    let removed = house.desk.remove(&caller(1), word()).await.unwrap();

    assert_eq!(code(running), "instance.running");
    assert_eq!(code(late), "instance.ended");
    assert_eq!(removed.exit_code, Some(0));
    assert_eq!(code(house.get("front").await), "instance.not_found");
}

#[tokio::test]
async fn what_ended_long_ago_makes_room_when_another_comes() {
    let house = House::new().await;
    let process = Sleeper::start();
    house.register(1, Some("old"), &process).await;
    house.register(2, Some("live"), &process).await;
    let finish = FinishParams {
        instance_id: id(1),
        exit_code: Some(0),
        reason: None,
    };
    house.desk.finish(&caller(1), finish).await.unwrap();

    house.clock.0.store(8 * 86_400_000_000, Ordering::SeqCst);
    assert_eq!(house.get("old").await.unwrap().exit_code, Some(0));
    house.register(3, Some("new"), &process).await;

    assert_eq!(code(house.get("old").await), "instance.not_found");
    assert_eq!(house.get("live").await.unwrap().id, id(2));
}

#[tokio::test]
async fn parameters_without_a_type_of_their_own_are_checked() {
    let house = House::new().await;
    let process = Sleeper::start();
    let good = params(1, None);
    let port = good.ports[0].clone();
    let bad = [
        RegisterParams {
            directory: "run".to_owned(),
            ..good.clone()
        },
        RegisterParams {
            console_path: format!("/{}", "x".repeat(1024)),
            ..good.clone()
        },
        RegisterParams {
            cpus: 0,
            ..good.clone()
        },
        RegisterParams {
            memory_bytes: u64::MAX,
            ..good.clone()
        },
        RegisterParams {
            ports: vec![port.clone(); 65],
            ..good.clone()
        },
        RegisterParams {
            ports: vec![Port {
                host_address: "\u{1b}[2J".to_owned(),
                ..port
            }],
            ..good.clone()
        },
    ];
    let controlling = RegisterParams {
        directory: "/\u{1}".to_owned(),
        ..good.clone()
    };
    for params in bad.into_iter().chain([controlling]) {
        let told = format!("{params:.200?}");
        let refused = house.try_register(&process, params).await;
        assert_eq!(code(refused), "request.invalid_params", "{told}");
    }
    let mut unseen = caller(1);
    unseen.pid = None;
    assert_eq!(
        code(house.desk.register(&unseen, good.clone()).await),
        "instance.no_process"
    );
    let nothing = RegisterParams {
        image: "nothing".to_owned(),
        ..good
    };
    let refused = house.try_register(&process, nothing).await;
    assert_eq!(code(refused), "image.not_found");
}
