//! Kiln's rows: a cold pull, a rebuild from cached layers, and the same digest under another name.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kiln_testkit::daemon::{CallError, Daemon, Start};
use kiln_testkit::debs::CloudKernel;
use kiln_testkit::measure::{self, Cost, Meter, Row};
use kiln_testkit::process;
use kiln_testkit::registry::Registry;
use serde_json::{Value, json};

use super::{CHECK_LIMIT, check_filesystem};
use crate::console;

/// Pause between two looks at a running pull: short against every stage, and cheap for the daemon,
/// which is charged for the looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Longest time one pull may take.
const PULL_LIMIT: Duration = Duration::from_secs(900);

/// The daemon being measured.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    daemon: Daemon,
    registry: &'a Registry,
}

/// What Kiln cost.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) cold: Pulled,
    pub(super) cached: Pulled,
    pub(super) same: Pulled,
    /// Inodes in use: an entry has one, names of one file share theirs, eleven are ext4's own.
    pub(super) entries: u64,
    /// Blobs that the registry was asked for after the cold pull.
    pub(super) fetched_again: usize,
    /// The root filesystem of the cold pull.
    pub(super) rootfs: PathBuf,
}

/// What one pull cost.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) cost: Cost,
    pub(super) stages: Vec<Stage>,
    image: Value,
}

/// What one step of a pull cost.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stage {
    pub(super) name: String,
    pub(super) wall: Duration,
    pub(super) processor: Duration,
}

impl Rows {
    /// Returns the median of each figure.
    pub(super) fn median(mut rounds: Vec<Self>) -> Option<Self> {
        let cold = Pulled::median(rounds.iter().map(|rows| &rows.cold))?;
        let cached = Pulled::median(rounds.iter().map(|rows| &rows.cached))?;
        let same = Pulled::median(rounds.iter().map(|rows| &rows.same))?;
        let fetched_again = rounds.iter().map(|rows| rows.fetched_again).max()?;
        Some(Self {
            cold,
            cached,
            same,
            fetched_again,
            ..rounds.pop()?
        })
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let row = |name: &str, pulled: &Pulled| Row {
            name: name.to_owned(),
            cost: pulled.cost,
        };
        vec![
            row("Kiln: cold pull", &self.cold),
            row("Kiln: layers cached, built again", &self.cached),
            row("Kiln: same digest, another name", &self.same),
        ]
    }
}

impl Pulled {
    fn median<'p>(rounds: impl Iterator<Item = &'p Self>) -> Option<Self> {
        let rounds: Vec<&Self> = rounds.collect();
        let costs: Vec<Cost> = rounds.iter().map(|pulled| pulled.cost).collect();
        let (first, _) = rounds.split_first()?;
        let stages = first.stages.iter().map(|stage| {
            let same = || {
                let all = rounds.iter().flat_map(|pulled| &pulled.stages);
                all.filter(|other| other.name == stage.name)
            };
            Stage {
                name: stage.name.clone(),
                wall: measure::median(same().map(|stage| stage.wall)),
                processor: measure::median(same().map(|stage| stage.processor)),
            }
        });
        Some(Self {
            cost: Cost::median(&costs),
            stages: stages.collect(),
            image: first.image.clone(),
        })
    }

    /// Returns what the stages called `names` cost together; wall and processor time.
    pub(super) fn stages_cost(&self, names: &[&str]) -> (Duration, Duration) {
        let chosen = self
            .stages
            .iter()
            .filter(|stage| names.contains(&stage.name.as_str()));
        chosen.fold((Duration::ZERO, Duration::ZERO), |sum, stage| {
            (sum.0 + stage.wall, sum.1 + stage.processor)
        })
    }

    /// Returns the wall time of everything but making the result durable.
    pub(super) fn wall_without_syncs(&self) -> Duration {
        self.cost
            .wall
            .saturating_sub(self.stages_cost(&["publish"]).0)
    }

    fn rootfs(&self) -> Result<PathBuf> {
        let path = self.image["rootfs"]["path"].as_str();
        path.map(PathBuf::from).context("the image has no path")
    }
}

impl<'a> Bench<'a> {
    /// Starts the daemon in the empty folder `root`.
    pub(super) fn start(programs: &Path, root: &Path, registry: &'a Registry) -> Result<Self> {
        Ok(Self {
            daemon: Daemon::start_program(&programs.join("kilnd"), root, Start::default())?,
            registry,
        })
    }

    pub(super) fn import(&self, kernel: &CloudKernel) -> Result<()> {
        let params = json!({"name": "debian", "deb_path": kernel.deb});
        self.daemon.call("kernel.import", &params)?;
        Ok(())
    }

    /// Pulls `reference` three times, and checks what came of it.
    pub(super) fn measure(&self, reference: &str) -> Result<Rows> {
        let cold = self.pull(reference, "cold", None)?;
        let rootfs = cold.rootfs()?;
        let entries = check_filesystem(&rootfs)?;

        let fetched = self.registry.fetched_blobs()?.len();
        self.daemon
            .call("image.forget", &json!({"image": "cold"}))?;
        // Another size is another derivation: nothing that was built can serve.
        let size_bytes = super::length(&rootfs)? + (64 << 20);
        let cached = self.pull(reference, "cached", Some(size_bytes))?;
        check_filesystem(&cached.rootfs()?)?;
        let same = self.pull(reference, "same", Some(size_bytes))?;
        check_filesystem(&same.rootfs()?)?;
        check_equal(&cached.rootfs()?, &same.rootfs()?)?;
        let fetched_again = self.registry.fetched_blobs()?.len() - fetched;
        Ok(Rows {
            cold,
            cached,
            same,
            entries,
            fetched_again,
            rootfs,
        })
    }

    fn pull(&self, reference: &str, name: &str, size_bytes: Option<u64>) -> Result<Pulled> {
        let mut params = json!({
            "ref": reference, "name": name, "kernel_ref": "debian", "detach": true,
        });
        if let Some(size_bytes) = size_bytes {
            params["size_bytes"] = size_bytes.into();
        }
        measure::settle()?;
        let id = self.daemon.id();
        let meter = Meter::start(id, Some(self.daemon.root()))?;
        let mut clock = StageClock::start(measure::processor_time(id)?);
        let started = self.daemon.call("image.pull", &params)?;
        let operation = started["operation_id"].clone();
        let image = loop {
            let now = self.look(&operation)?;
            // Before the first step and after the last there is none.
            if let Some(stage) = now["progress"]["stage"].as_str() {
                clock.see(stage, measure::processor_time(id)?);
            }
            match now["state"].as_str() {
                Some("running") if clock.begun.elapsed() < PULL_LIMIT => {
                    thread::sleep(LOOK_EVERY);
                }
                Some("succeeded") => break now["result"].clone(),
                _ => bail!("the pull did not succeed: {now}"),
            }
        };
        let cost = meter.finish()?;
        let stages = clock.finish(measure::processor_time(id)?);
        let wall = cost.wall.as_secs_f64();
        console::line(format_args!("{name}: {wall:.2} s"));
        Ok(Pulled {
            cost,
            stages,
            image,
        })
    }

    fn look(&self, operation: &Value) -> Result<Value, CallError> {
        let params = json!({"operation_id": operation});
        self.daemon.call("operation.get", &params)
    }
}

/// Takes the times at which a pull enters its steps.
#[derive(Debug)]
struct StageClock {
    begun: Instant,
    entered: Instant,
    processor: Duration,
    name: String,
    stages: Vec<Stage>,
}

impl StageClock {
    fn start(processor: Duration) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            entered: begun,
            processor,
            name: "resolve".to_owned(),
            stages: Vec::new(),
        }
    }

    /// Notes the step that was seen now.
    fn see(&mut self, name: &str, processor: Duration) {
        if name == self.name {
            return;
        }
        let now = Instant::now();
        self.stages.push(Stage {
            name: std::mem::replace(&mut self.name, name.to_owned()),
            wall: now.duration_since(self.entered),
            processor: processor.saturating_sub(self.processor),
        });
        self.entered = now;
        self.processor = processor;
    }

    fn finish(mut self, processor: Duration) -> Vec<Stage> {
        self.see("", processor);
        self.stages
    }
}

fn check_equal(one: &Path, other: &Path) -> Result<()> {
    let mut command = process::command("cmp");
    command.arg(one).arg(other);
    process::run(command, CHECK_LIMIT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_cost() {
        let seconds = Duration::from_secs;
        let mut clock = StageClock::start(seconds(10));
        clock.see("resolve", seconds(11));
        clock.see("fetch", seconds(12));
        clock.see("fetch", seconds(14));
        clock.see("publish", seconds(17));

        let stages = clock.finish(seconds(18));

        let processor: Vec<(&str, u64)> = stages
            .iter()
            .map(|stage| (stage.name.as_str(), stage.processor.as_secs()))
            .collect();
        assert_eq!(processor, [("resolve", 2), ("fetch", 5), ("publish", 1)]);
    }
}
