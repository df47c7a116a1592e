//! How long calls take over a store of many images, on an idle daemon and while it builds.
//!
//! The rows are real and the directories are not there: what is measured looks at rows. Every call is
//! one connection to the real socket, as a command of the client makes it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kiln_testkit::daemon::{self, Daemon, Start};
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::{elf, process};
use serde_json::{Value, json};

use crate::{cargo, console};

/// Images in the store. Each has two tags and an alias.
pub(super) const IMAGES: u64 = 100_000;

/// Calls of each kind, after some that do not count.
const LOOKS: u64 = 3_000;
const PAGES: u64 = 1_000;
const CHANGES: u64 = 1_000;
const WARM_UP: u64 = 100;

/// Bytes that a build copies, and what makes them.
const BUILD_BYTES: usize = 256 << 20;

/// Longest time the filling may take.
const FILL_LIMIT: Duration = Duration::from_secs(900);

/// How long calls of one kind took, sorted.
#[derive(Clone, Debug)]
pub(super) struct Times(Vec<Duration>);

/// The same calls, with nothing else at work and while a build runs.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) what: &'static str,
    /// What half, and ninety-nine of a hundred, may take at most is promised for the latter.
    pub(super) limit: Duration,
    pub(super) idle: Times,
    pub(super) building: Times,
}

/// Everything that was measured.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) database_bytes: u64,
    /// Builds that ended while calls were measured.
    pub(super) builds: u64,
    pub(super) rows: Vec<Row>,
}

impl Times {
    /// Returns the time within which so many of a hundred calls were answered.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or_default()
    }

    pub(super) fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

/// A kind of call: what it is, how long it may take, how often it is made, and call `n` of it.
struct Kind {
    what: &'static str,
    limit: Duration,
    count: u64,
    call: fn(u64) -> (&'static str, Value),
}

const KINDS: [Kind; 3] = [
    Kind {
        what: "`image.get` by name, alias or tag",
        limit: Duration::from_millis(2),
        count: LOOKS,
        call: |n| {
            let which = 1 + n.wrapping_mul(7_919) % IMAGES;
            let named = match n % 3 {
                0 => format!("image-{which}"),
                1 => format!("alias-{which}"),
                _ => format!("image-{which}:t{}", which % 10),
            };
            ("image.get", json!({ "image": named }))
        },
    },
    Kind {
        what: "`image.list`, a page of 100",
        limit: Duration::from_millis(10),
        count: PAGES,
        call: |n| {
            let after = n.wrapping_mul(7_919) % (IMAGES - 100);
            ("image.list", json!({ "after": after, "limit": 100 }))
        },
    },
    Kind {
        what: "`image.modify`, durable with its event and audit line",
        limit: Duration::from_millis(10),
        count: CHANGES,
        call: |n| {
            let which = 1 + n.wrapping_mul(7_919) % IMAGES;
            let params = json!({
                "image": format!("image-{which}"), "description": format!("measured {n}"),
            });
            ("image.modify", params)
        },
    },
];

/// Fills a database in the empty folder `root` and measures a daemon over it.
pub(super) fn measure(programs: &Path, root: &Path) -> Result<Figures> {
    fs::create_dir(root)?;
    let database = root.join("kiln.db");
    let mut fill = process::command(programs.join("examples/fill"));
    fill.arg(&database).arg(IMAGES.to_string());
    process::run(fill, FILL_LIMIT).context("cannot fill the store")?;
    let database_bytes = fs::metadata(&database)?.len();
    let daemon = Daemon::start_program(&programs.join("kilnd"), root, Start::default())?;
    let kernel = root.join("vmlinux");
    fs::write(&kernel, elf::smallest(elf::X86_64))?;
    daemon.call(
        "kernel.import",
        &json!({"name": "tiny", "kernel_path": kernel}),
    )?;

    console::heading("idle");
    let idle = all_kinds(&daemon)?;
    console::heading("while it builds");
    let layout = large(&root.join("layout"))?;
    let building = Building::start(&daemon, &layout)?;
    let busy = all_kinds(&daemon)?;
    let builds = building.stop()?;
    if builds == 0 {
        bail!("no build ended while calls were measured");
    }
    let pairs = KINDS.iter().zip(idle.into_iter().zip(busy));
    Ok(Figures {
        database_bytes,
        builds,
        rows: pairs
            .map(|(kind, (idle, building))| Row {
                what: kind.what,
                limit: kind.limit,
                idle,
                building,
            })
            .collect(),
    })
}

fn all_kinds(daemon: &Daemon) -> Result<Vec<Times>> {
    KINDS.iter().map(|kind| times_of(daemon, kind)).collect()
}

fn times_of(daemon: &Daemon, kind: &Kind) -> Result<Times> {
    for n in 0..WARM_UP {
        let (method, params) = (kind.call)(n);
        daemon.call(method, &params)?;
    }
    let mut times = Vec::new();
    for n in WARM_UP..WARM_UP + kind.count {
        let (method, params) = (kind.call)(n);
        let began = Instant::now();
        daemon.call(method, &params)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let times = Times(times);
    console::line(format_args!(
        "{}: p50 {:?}, p99 {:?}, longest {:?}",
        kind.what,
        times.percentile(50),
        times.percentile(99),
        times.longest()
    ));
    Ok(times)
}

/// Makes a layout with one image of one layer that does not compress.
fn large(folder: &Path) -> Result<Layout> {
    let mut layout = Layout::create(folder)?;
    let mut state = 88_172_645_463_325_252_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(BUILD_BYTES)
    .collect();
    let layer = layout.add_layer(&[Entry::file("noise", noise)], Compression::Gzip)?;
    let image = layout.add_image(&[layer], &Platform::linux("amd64"))?;
    layout.tag("1", &image)?;
    Ok(layout)
}

/// Pulls and purges one image after the other, each built anew.
struct Building {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<u64>>,
}

impl Building {
    fn start(daemon: &Daemon, layout: &Layout) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (socket, stopped) = (daemon.socket(), stop.clone());
        let reference = format!("oci:{}:1", layout.folder().display());
        let build = move |n: u64| -> Result<()> {
            // Another size is another image, so that nothing is cloned.
            let size = (1_u64 << 30) + n * 4096;
            let pull = json!({
                "ref": reference, "name": format!("built-{n}"), "kernel_ref": "tiny",
                "size_bytes": size,
            });
            let image = daemon::call(&socket, n, "image.pull", &pull)?;
            let purge = json!({ "image_id": image["id"] });
            daemon::call(&socket, n, "image.purge_by_id", &purge)?;
            Ok(())
        };
        // The first fetches and decodes too.
        build(0)?;
        let thread = thread::spawn(move || {
            let mut builds = 0;
            while !stopped.load(Ordering::SeqCst) {
                build(builds + 1)?;
                builds += 1;
            }
            Ok(builds)
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        match self.thread.join() {
            Ok(builds) => builds,
            Err(_) => bail!("the thread that builds panicked"),
        }
    }
}

/// Builds what fills the store.
pub(super) fn build() -> Result<()> {
    let words = [
        "build",
        "--release",
        "--locked",
        "--package",
        "kiln-store",
        "--example",
        "fill",
    ];
    if cargo::succeeds(&words, &[])? {
        return Ok(());
    }
    bail!("the program that fills the store does not build")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_time_within_which_so_many_were_answered() {
        let times = Times((1..=200).map(Duration::from_millis).collect());

        assert_eq!(times.percentile(50), Duration::from_millis(100));
        assert_eq!(times.percentile(99), Duration::from_millis(198));
        assert_eq!(times.longest(), Duration::from_millis(200));
        assert_eq!(Times(Vec::new()).percentile(99), Duration::ZERO);
    }
}
