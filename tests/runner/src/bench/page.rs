//! The page of figures: what was measured where, as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use kiln_testkit::measure::Row;
use kiln_testkit::process;
use kiln_testkit::qemu::Accelerator;

use super::boot::{BOOTS, Boots};
use super::kiln::Pulled;
use super::targets::{self, Target};
use super::{Figures, ROUNDS, Subject};
use crate::cargo;

/// What stands before and after the figures in the page.
const BEGIN: &str = "<!-- figures: written by make bench -->\n";
const END: &str = "<!-- end of figures -->\n";

/// The same around the times of boots.
const BEGIN_BOOTS: &str = "<!-- boots: written by make bench-boot -->\n";
const END_BOOTS: &str = "<!-- end of boots -->\n";

/// The same around the times of calls over a large store.
const BEGIN_STORE: &str = "<!-- store: written by make bench-store -->\n";
const END_STORE: &str = "<!-- end of store -->\n";

/// Longest time a question about the machine may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Writes the figures of one run.
pub(super) fn figures(figures: &Figures) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{}\n", circumstances(figures)?)?;
    writeln!(text, "{}\n", subject(&figures.subject))?;
    writeln!(text, "{}", rows(&figures.rows()))?;
    let kiln = &figures.kiln;
    let pulls = [
        ("cold pull", &kiln.cold),
        ("layers cached", &kiln.cached),
        ("same digest", &kiln.same),
    ];
    writeln!(text, "{}", stages(&pulls))?;
    write!(text, "{}", promises(&targets::all(figures)))?;
    Ok(text)
}

/// Replaces the figures in `page` by `text`.
pub(super) fn replace(page: &Path, text: &str) -> Result<()> {
    replace_between(page, text, BEGIN, END)
}

/// Replaces the times of boots in `page` by `text`.
pub(super) fn replace_boots(page: &Path, text: &str) -> Result<()> {
    replace_between(page, text, BEGIN_BOOTS, END_BOOTS)
}

/// Replaces the times of calls over a large store in `page` by `text`.
pub(super) fn replace_store(page: &Path, text: &str) -> Result<()> {
    replace_between(page, text, BEGIN_STORE, END_STORE)
}

fn replace_between(page: &Path, text: &str, begin: &str, end: &str) -> Result<()> {
    let old = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let new = between(&old, text, begin, end)
        .with_context(|| format!("{} has no marks around its figures", page.display()))?;
    fs::write(page, new).with_context(|| format!("cannot write {}", page.display()))
}

fn between(old: &str, text: &str, begin: &str, end: &str) -> Option<String> {
    let (before, rest) = old.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n{text}\n{end}{after}"))
}

/// Says when, on what and of which code.
fn circumstances(figures: &Figures) -> Result<String> {
    let load = &figures.load;
    let spread = |time: Option<Duration>| time.map_or(0.0, |time| time.as_secs_f64());
    let (least, most) = (spread(figures.spread.0), spread(figures.spread.1));
    let place = place()?;
    Ok(format!(
        "`make bench` on {place}, the registry on loopback; load average before the first row \
         {load}. The median of {ROUNDS} rounds; the cold pull took {least:.2} to {most:.2} CPU \
         seconds.",
    ))
}

/// Says when, which code, and what machine this is.
fn place() -> Result<String> {
    let date = ask("date", &["-u", "+%Y-%m-%d"])?;
    let commit = ask("git", &["describe", "--always", "--dirty"])?;
    let kernel = ask("uname", &["-sr"])?;
    let filesystem = ask("findmnt", &["-n", "-o", "FSTYPE", "-T", "."])?;
    let processors = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = field(&processors, "model name").unwrap_or("unknown");
    let count = processors
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let memory_kib = field(&memory, "MemTotal")
        .and_then(|text| text.split(' ').next())
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0);
    Ok(format!(
        "{date}, commit {commit}: {count} × {model}, {} GiB, {kernel}, files on {filesystem}",
        memory_kib >> 20
    ))
}

fn subject(subject: &Subject) -> String {
    format!(
        "The image: {} layers, {} MiB of gzip, {} inodes; the finished root filesystem is \
         {} MiB long and occupies {} MiB. `e2fsck -fn` found every image clean, and the two of \
         one derivation are equal byte by byte.",
        subject.layers,
        subject.blob_bytes >> 20,
        subject.entries,
        subject.size_bytes >> 20,
        subject.allocated_bytes >> 20
    )
}

fn rows(rows: &[Row]) -> String {
    let mut text = String::from(
        "| what | wall s | CPU s | peak memory MiB | written MiB | peak extra disk MiB |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for Row { name, cost } in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {:.2} | {:.2} | {} | {} | {} |",
            cost.wall.as_secs_f64(),
            cost.processor.as_secs_f64(),
            mib_or_dash(cost.peak_memory_bytes),
            mib_or_dash(cost.written_bytes),
            mib_or_dash(cost.peak_disk_bytes),
        );
    }
    text
}

/// Writes how long guests took, and how the two kinds compare.
pub(super) fn boots(boots: &Boots, load: &str) -> Result<String> {
    let seconds = |time: Duration| time.as_secs_f64();
    let ratio = |ours: Duration, theirs: Duration| seconds(ours) / seconds(theirs);
    let (kiln, plain) = (boots.kiln, boots.plain);
    let by = match boots.accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Tcg => "software emulation (TCG)",
    };
    let place = place()?;
    Ok(format!(
        "`make bench-boot` on {place}; load average before the first boot {load}. The median of \
         {BOOTS} boots each, in turn, by {by}.\n\n\
         | boot | first line, wall s | end, wall s |\n|---|---:|---:|\n\
         | `kiln run debian -- /bin/echo …`, from the command to the program's first line, and to its exit code | {:.2} | {:.2} |\n\
         | QEMU microvm, the same kernel file as packaged, busybox as `/init`: no module, no disk, no network | {:.2} | {:.2} |\n\
         | the first to the second | {:.2} × | {:.2} × |\n",
        seconds(kiln.first_line),
        seconds(kiln.end),
        seconds(plain.first_line),
        seconds(plain.end),
        ratio(kiln.first_line, plain.first_line),
        ratio(kiln.end, plain.end),
    ))
}

/// Writes how long calls took over a large store.
pub(super) fn store(figures: &super::store::Figures, load: &str) -> Result<String> {
    let place = place()?;
    let mut text = format!(
        "`make bench-store` on {place}; load average before the first call {load}. {} images with \
         as many aliases and twice as many tags, a database of {} MiB; {} builds of 256 MiB ended \
         while the calls of the last columns were made.\n\n\
         | call, ms | idle p50 | idle p99 | longest | building p50 | building p99 | longest | promised p99 | kept |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---|\n",
        super::store::IMAGES,
        figures.database_bytes >> 20,
        figures.builds,
    );
    let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
    for row in &figures.rows {
        let worst = row.idle.percentile(99).max(row.building.percentile(99));
        let kept = if worst < row.limit { "yes" } else { "**no**" };
        write!(text, "| {}", row.what)?;
        for times in [&row.idle, &row.building] {
            for time in [times.percentile(50), times.percentile(99), times.longest()] {
                write!(text, " | {:.2}", millis(time))?;
            }
        }
        writeln!(text, " | {:.2} | {kept} |", millis(row.limit))?;
    }
    Ok(text)
}

fn mib_or_dash(bytes: u64) -> String {
    if bytes == 0 {
        "-".to_owned()
    } else {
        (bytes >> 20).to_string()
    }
}

/// Writes what each step of each pull cost, wall and processor seconds.
fn stages(pulls: &[(&str, &Pulled)]) -> String {
    let mut text = String::from("| step | pull | wall s | CPU s |\n|---|---|---:|---:|\n");
    for (name, pulled) in pulls {
        for stage in &pulled.stages {
            let _ = writeln!(
                text,
                "| {} | {name} | {:.2} | {:.2} |",
                stage.name,
                stage.wall.as_secs_f64(),
                stage.processor.as_secs_f64()
            );
        }
    }
    text
}

fn promises(targets: &[Target]) -> String {
    let mut text = String::from("| promise | measured | limit | kept |\n|---|---:|---:|---|\n");
    for target in targets {
        let Target {
            promise,
            measured,
            limit,
            unit,
        } = target;
        let kept = if target.is_kept() { "yes" } else { "**no**" };
        let _ = writeln!(
            text,
            "| {promise} | {measured:.2} {unit} | {limit:.2} {unit} | {kept} |"
        );
    }
    text
}

fn ask(program: &str, words: &[&str]) -> Result<String> {
    let mut command = process::command(program);
    command.args(words).current_dir(cargo::workspace());
    Ok(process::run(command, LIMIT)?.text())
}

/// Returns the value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let old = format!("# Title\n{BEGIN}\nold\n{END}rest\n");

        let new = between(&old, "new\n", BEGIN, END);

        assert_eq!(new, Some(format!("# Title\n{BEGIN}\nnew\n\n{END}rest\n")));
        assert_eq!(between("# Title\n", "new", BEGIN, END), None);
    }

    #[test]
    fn a_miss_stands_out() {
        let target = Target {
            promise: "p",
            measured: 2.5,
            limit: 2.0,
            unit: "×",
        };

        let text = promises(&[target]);

        assert!(
            text.ends_with("| p | 2.50 × | 2.00 × | **no** |\n"),
            "{text}"
        );
    }

    #[test]
    fn fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU\n";

        assert_eq!(field(text, "model name"), Some("Some CPU"));
        assert_eq!(field(text, "cores"), None);
    }
}
