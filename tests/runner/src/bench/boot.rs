//! How long a guest takes: `kiln run` beside the least that the same kernel can be booted with.
//!
//! ```text
//! kiln run ─▶ call, instance, probe kept from before ─▶ QEMU ─▶ kernel, our init, root ─▶ first line ─▶ end
//! plain                                              QEMU ─▶ kernel, busybox as /init ─▶ first line ─▶ end
//! ```
//! The plain guest loads no module and mounts no disk.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kiln_testkit::daemon::{Daemon, Start};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::debian;
use kiln_testkit::qemu::{Accelerator, Ending, Machine, Until, pieces};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::{debs, initrd, measure, process};
use serde_json::json;

use crate::console;

/// What the benchmark starts programs of.
pub(super) const NEEDS: &[Need] = &[
    tools::APT_CACHE,
    tools::APT_GET,
    tools::DPKG_DEB,
    tools::MMDEBSTRAP,
    tools::QEMU,
];

/// How often each is booted, after one that does not count; odd, so that there is a middle.
pub(super) const BOOTS: usize = 7;

/// Longest time one boot may take.
const LIMIT: Duration = Duration::from_secs(240);

/// What the image's program says.
const MARKER: &str = "kiln-bench: the program runs";

/// Memory of every guest, that of `kiln run` where nobody says otherwise.
const MEMORY_MIB: u32 = 512;

/// How long one kind of boot took, from its start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) first_line: Duration,
    pub(super) end: Duration,
}

/// Both kinds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boots {
    pub(super) kiln: Times,
    pub(super) plain: Times,
    pub(super) accelerator: Accelerator,
}

impl Times {
    fn median(times: impl Iterator<Item = Self> + Clone) -> Self {
        Self {
            first_line: measure::median(times.clone().map(|times| times.first_line)),
            end: measure::median(times.map(|times| times.end)),
        }
    }
}

/// Boots a real Debian and the plain guest, in turn, with a daemon in the empty folder `root`.
pub(super) fn measure(programs: &Path, root: &Path, fixtures: &Fixtures) -> Result<Boots> {
    let kernel = &debs::cloud_kernel(fixtures)?;
    let image = debian::official(fixtures)?;
    let daemon = Daemon::start_program(&programs.join("kilnd"), root, Start::default())?;
    let import = json!({"name": "debian", "deb_path": kernel.deb});
    daemon.call("kernel.import", &import)?;
    let pull = json!({"ref": image.source(), "name": "debian", "kernel_ref": "debian"});
    daemon.call("image.pull", &pull)?;
    let accelerator = Accelerator::probe(fixtures, kernel)?;
    let plain = Machine {
        kernel: kernel.kernel.clone(),
        initrd: Some(initrd::for_probe(fixtures, kernel)?),
        rootfs: None,
        memory_mib: MEMORY_MIB,
        accelerator,
    };
    let mut kiln_times = Vec::new();
    let mut plain_times = Vec::new();
    for _ in 0..=BOOTS {
        kiln_times.push(run(programs, &daemon.socket())?);
        plain_times.push(boot(&plain)?);
    }
    // The first of each finds nothing in memory, and perhaps looks what works on this host.
    let boots = Boots {
        kiln: Times::median(kiln_times.into_iter().skip(1)),
        plain: Times::median(plain_times.into_iter().skip(1)),
        accelerator,
    };
    let seconds = |time: Duration| time.as_secs_f64();
    console::line(format_args!(
        "boot: {:.2} s to the first line, the plain guest {:.2} s",
        seconds(boots.kiln.first_line),
        seconds(boots.plain.first_line)
    ));
    Ok(boots)
}

fn run(programs: &Path, socket: &Path) -> Result<Times> {
    let mut command = process::command(programs.join("kiln"));
    command
        .arg("--host")
        .arg(format!("unix://{}", socket.display()))
        .args(["run", "--rm", "--memory", &format!("{MEMORY_MIB}MiB")])
        .args(["debian", "--", "/bin/echo", MARKER])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let start = Instant::now();
    let mut running = process::start(command, "kiln run")?;
    let stdout = running.take_stdout().context("kiln run has no output")?;
    let (mut text, mut first_line) = (Vec::new(), None);
    for piece in pieces(stdout) {
        text.extend_from_slice(&piece);
        if first_line.is_none() && String::from_utf8_lossy(&text).contains(MARKER) {
            first_line = Some(start.elapsed());
        }
    }
    let status = running.wait(LIMIT)?;
    if !status.success() {
        bail!("kiln run ended with {status}");
    }
    Ok(Times {
        first_line: first_line.context("the program of the image said nothing")?,
        end: start.elapsed(),
    })
}

fn boot(machine: &Machine) -> Result<Times> {
    let start = Instant::now();
    let (mut text, mut first_line) = (Vec::new(), None);
    let ended = machine.boot(Until::PowerOff, LIMIT, &mut |piece: &[u8]| {
        text.extend_from_slice(piece);
        if first_line.is_none() && String::from_utf8_lossy(&text).contains(initrd::PROBE_MARKER) {
            first_line = Some(start.elapsed());
        }
    })?;
    if ended.ending != Ending::PoweredOff {
        bail!("the plain guest did not end:\n{}", ended.console);
    }
    Ok(Times {
        first_line: first_line.context("the plain guest said nothing")?,
        end: start.elapsed(),
    })
}
