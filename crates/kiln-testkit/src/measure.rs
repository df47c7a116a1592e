//! What a command or a running process costs: wall time, processor time, memory, disk.
//!
//! A command is measured by `/usr/bin/time`, which counts it and the children it waited for. A
//! process that goes on, such as the daemon, is measured between two moments by [`Meter`]. Wall
//! times of a shared machine are noise: compare processor seconds, and ratios within one run.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;
use crate::tools;

/// Shortest pause between two looks at a folder's size.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// How many times longer than a look the pause after it is: looking at a folder of many files
/// takes a processor that what is measured may need.
const PAUSE_PER_LOOK: u32 = 40;

/// Memory that is touched before a measurement: what a cold pull of the benchmark's image puts
/// into the page cache, and some more. At most half of what is free is taken.
const SETTLED_BYTES: usize = 4 << 30;

/// Smallest page of any architecture that Debian has a port for.
const PAGE_BYTES: usize = 4096;

/// Ticks in a second of the kernel's process times: `USER_HZ`, 100 on every architecture that
/// Debian has a port for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What something cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Time from start to end.
    pub wall: Duration,
    /// Processor time, in the program and in the kernel.
    pub processor: Duration,
    /// Largest resident memory, in bytes.
    pub peak_memory_bytes: u64,
    /// Bytes written to files.
    pub written_bytes: u64,
    /// Largest growth of the watched folder, in allocated bytes; 0 where none was watched.
    pub peak_disk_bytes: u64,
}

/// Returns the number in the middle; of an even count the higher of the two, of none the default.
pub fn median<T: Ord + Copy + Default>(numbers: impl IntoIterator<Item = T>) -> T {
    let mut sorted: Vec<T> = numbers.into_iter().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Cost {
    /// Returns the median of each figure.
    pub fn median(costs: &[Self]) -> Self {
        Self {
            wall: median(costs.iter().map(|cost| cost.wall)),
            processor: median(costs.iter().map(|cost| cost.processor)),
            peak_memory_bytes: median(costs.iter().map(|cost| cost.peak_memory_bytes)),
            written_bytes: median(costs.iter().map(|cost| cost.written_bytes)),
            peak_disk_bytes: median(costs.iter().map(|cost| cost.peak_disk_bytes)),
        }
    }
}

/// Makes the next measurement pay for nothing that came before it: what is written goes to disk,
/// and memory that the host of a virtual machine took back is there again.
///
/// A guest that reports its free pages loses them within seconds, and pays for each again at its
/// first use. That was seen to make one and the same write of 1.3 GiB cost 0.2 or 3 seconds of
/// processor time.
pub fn settle() -> Result<()> {
    rustix::fs::sync();
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let available_kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<usize>().ok())
        .with_context(|| format!("no MemAvailable in {path}"))?;
    let mut memory = vec![0_u8; SETTLED_BYTES.min(available_kib * 512)];
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
    Ok(())
}

/// Runs `command` to its successful end and returns what it cost.
///
/// `watched` is a folder whose growth is sampled meanwhile. Fails when the command fails or does
/// not end within `limit`.
pub fn command(command: &Command, watched: Option<&Path>, limit: Duration) -> Result<Cost> {
    let report = tempfile::NamedTempFile::new().context("cannot make a file for the report")?;
    let mut timed = process::command(tools::require(tools::TIME)?);
    // Seconds in the program, in the kernel; KiB of peak memory; blocks of 512 bytes written.
    timed.args(["-f", "%U %S %M %O", "-o"]).arg(report.path());
    timed.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        timed.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => drop(timed.env(name, value)),
            None => drop(timed.env_remove(name)),
        }
    }

    let growth = watched.map(Growth::watch);
    let start = Instant::now();
    process::run(timed, limit)?;
    let wall = start.elapsed();
    let peak_disk_bytes = growth.map_or(0, Growth::finish);

    let text = fs::read_to_string(report.path()).context("cannot read the report")?;
    let mut cost = parse_report(&text).with_context(|| format!("no report: {text:?}"))?;
    cost.wall = wall;
    cost.peak_disk_bytes = peak_disk_bytes;
    Ok(cost)
}

/// Measures a process that goes on, from one moment to another.
#[derive(Debug)]
pub struct Meter {
    id: u32,
    start: Instant,
    processor: Duration,
    written_bytes: u64,
    growth: Option<Growth>,
}

impl Meter {
    /// Starts measuring the process `id`, and forgets its peak of memory so far.
    pub fn start(id: u32, watched: Option<&Path>) -> Result<Self> {
        // 5 resets the peak; source: the kernel's `Documentation/filesystems/proc.rst`.
        let path = format!("/proc/{id}/clear_refs");
        fs::write(&path, "5").with_context(|| format!("cannot write {path}"))?;
        Ok(Self {
            id,
            start: Instant::now(),
            processor: processor_time(id)?,
            written_bytes: written_bytes(id)?,
            growth: watched.map(Growth::watch),
        })
    }

    /// Returns what the process has cost since the start.
    pub fn finish(self) -> Result<Cost> {
        let wall = self.start.elapsed();
        Ok(Cost {
            wall,
            processor: processor_time(self.id)?.saturating_sub(self.processor),
            peak_memory_bytes: peak_memory_bytes(self.id)?,
            written_bytes: written_bytes(self.id)?.saturating_sub(self.written_bytes),
            peak_disk_bytes: self.growth.map_or(0, Growth::finish),
        })
    }
}

/// Returns the bytes that the files below `folder` occupy on disk, each file counted once.
///
/// What two files share by reflink is counted in both. Files that vanish meanwhile are left out.
pub fn allocated_bytes(folder: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut folders = vec![folder.to_owned()];
    let mut total = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            if seen.insert((metadata.dev(), metadata.ino())) {
                total += metadata.blocks() * 512;
            }
        }
    }
    total
}

/// One line of a table of costs.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What it cost.
    pub cost: Cost,
}

/// Writes costs as a Markdown table; ratios are to the first row.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| what | wall s | × | CPU s | × | peak memory MiB | written MiB | peak disk MiB |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let Some(first) = rows.first() else {
        return text;
    };
    for Row { name, cost } in rows {
        let (wall, processor) = (cost.wall.as_secs_f64(), cost.processor.as_secs_f64());
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {wall:.2} | {} | {processor:.2} | {} | {} | {} | {} |",
            ratio(wall, first.cost.wall.as_secs_f64()),
            ratio(processor, first.cost.processor.as_secs_f64()),
            cost.peak_memory_bytes >> 20,
            cost.written_bytes >> 20,
            cost.peak_disk_bytes >> 20,
        );
    }
    text
}

fn ratio(value: f64, base: f64) -> String {
    if base > 0.0 {
        format!("{:.2}", value / base)
    } else {
        "-".to_owned()
    }
}

/// A thread that samples how far a folder has grown.
#[derive(Debug)]
struct Growth {
    done: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Growth {
    fn watch(folder: &Path) -> Self {
        let folder: PathBuf = folder.to_owned();
        let before = allocated_bytes(&folder);
        let (done, peak) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let thread = {
            let (done, peak) = (Arc::clone(&done), Arc::clone(&peak));
            thread::spawn(move || {
                loop {
                    // Read before the look, so that one look follows the end of the command.
                    let is_last = done.load(Ordering::SeqCst);
                    let look = Instant::now();
                    let growth = allocated_bytes(&folder).saturating_sub(before);
                    peak.fetch_max(growth, Ordering::SeqCst);
                    if is_last {
                        return;
                    }
                    thread::park_timeout(SAMPLE_EVERY.max(look.elapsed() * PAUSE_PER_LOOK));
                }
            })
        };
        Self { done, peak, thread }
    }

    fn finish(self) -> u64 {
        self.done.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        drop(self.thread.join());
        self.peak.load(Ordering::SeqCst)
    }
}

fn parse_report(text: &str) -> Option<Cost> {
    // The numbers are the last line: a line before tells of a command that failed.
    let mut words = text.lines().last()?.split(' ');
    let user: f64 = words.next()?.parse().ok()?;
    let system: f64 = words.next()?.parse().ok()?;
    let peak_kib: u64 = words.next()?.parse().ok()?;
    let blocks: u64 = words.next()?.parse().ok()?;
    Some(Cost {
        processor: Duration::from_secs_f64(user + system),
        peak_memory_bytes: peak_kib << 10,
        written_bytes: blocks * 512,
        ..Cost::default()
    })
}

/// Returns the processor time of a process, its ended threads and the children it waited for.
pub fn processor_time(id: u32) -> Result<Duration> {
    let path = format!("/proc/{id}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&text).with_context(|| format!("no times in {path}"))
}

fn ticks(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold spaces and parentheses; it is the second field.
    let (_, rest) = stat.rsplit_once(") ")?;
    // utime, stime, cutime and cstime are fields 14 to 17; source: proc(5).
    let fields = rest.split(' ').skip(11).take(4);
    let ticks: Vec<u32> = fields.filter_map(|field| field.parse().ok()).collect();
    let [user, system, child_user, child_system] = ticks.as_slice() else {
        return None;
    };
    let sum = f64::from(user + system + child_user + child_system);
    Some(Duration::from_secs_f64(sum / TICKS_PER_SECOND))
}

fn peak_memory_bytes(id: u32) -> Result<u64> {
    let kib = field(id, "status", "VmHWM:")?;
    Ok(kib << 10)
}

fn written_bytes(id: u32) -> Result<u64> {
    field(id, "io", "write_bytes:")
}

fn field(id: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{id}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no {name} in {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_costs_what_it_uses() -> Result<()> {
        if tools::must_skip("a_command_costs_what_it_uses", &[tools::TIME])? {
            return Ok(());
        }
        let folder = tempfile::tempdir()?;
        let mut work = shell(
            "dd if=/dev/zero of=file bs=1M count=8 2>&1; head -c 50000000 /dev/zero | tail -c 1",
        );
        work.current_dir(folder.path());

        let cost = command(&work, Some(folder.path()), LIMIT)?;

        assert!(cost.peak_disk_bytes >= 8 << 20, "{cost:?}");
        assert!(cost.peak_memory_bytes > 500 << 10, "{cost:?}");
        assert!(cost.written_bytes >= 8 << 20, "{cost:?}");
        assert!(cost.wall > Duration::ZERO, "{cost:?}");
        Ok(())
    }

    #[test]
    fn a_command_that_fails_costs_an_error() -> Result<()> {
        if tools::must_skip("a_command_that_fails_costs_an_error", &[tools::TIME])? {
            return Ok(());
        }
        let error = command(&shell("exit 3"), None, LIMIT).err();

        let text = error.map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(text.contains("exit status: 3"), "{text}");
        Ok(())
    }

    #[test]
    fn a_meter_sees_this_process_allocate_and_work() -> Result<()> {
        let id = std::process::id();
        let meter = Meter::start(id, None)?;
        let start = processor_time(id)?;
        let mut filler = vec![1_u8; 64 << 20];
        while processor_time(id)? < start + Duration::from_millis(30) {
            filler.rotate_left(1);
        }

        let cost = meter.finish()?;

        assert!(cost.processor >= Duration::from_millis(30), "{cost:?}");
        assert!(cost.peak_memory_bytes >= 64 << 20, "{cost:?}");
        assert!(filler.len() == 64 << 20);
        Ok(())
    }

    #[test]
    fn the_median_is_taken_of_each_figure() {
        let cost = |wall, peak_memory_bytes| Cost {
            wall: Duration::from_secs(wall),
            peak_memory_bytes,
            ..Cost::default()
        };

        let middle = Cost::median(&[cost(9, 1), cost(1, 5), cost(4, 9)]);

        assert_eq!(middle, cost(4, 5));
        assert_eq!(Cost::median(&[]), Cost::default());
    }

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 9 9 0 0 150 50 20 30 20 0 1 0 5 6";

        assert_eq!(ticks(stat), Some(Duration::from_millis(2500)));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn a_table_gives_ratios_to_its_first_row() {
        let cost = |seconds| Cost {
            wall: Duration::from_secs(seconds),
            processor: Duration::from_secs(seconds * 2),
            peak_memory_bytes: 3 << 20,
            ..Cost::default()
        };
        let row = |name: &str, seconds| Row {
            name: name.to_owned(),
            cost: cost(seconds),
        };

        let text = table(&[row("first", 2), row("second", 5)]);

        let last = text.lines().last();
        assert_eq!(
            last,
            Some("| second | 5.00 | 2.50 | 10.00 | 2.50 | 3 | 0 | 0 |")
        );
    }

    #[test]
    fn a_file_with_two_names_is_allocated_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let first = folder.path().join("first");
        fs::write(&first, vec![1; 1 << 20])?;
        fs::File::open(&first)?.sync_all()?;
        fs::hard_link(&first, folder.path().join("second"))?;

        let bytes = allocated_bytes(folder.path());

        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        Ok(())
    }
}
