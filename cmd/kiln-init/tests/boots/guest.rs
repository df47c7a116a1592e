//! A virtual machine with Debian's kernel, our init and an initrd composed here.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use kiln_boot::{Boot, Instance, Outcome};
use kiln_testkit::debs::{self, CloudKernel};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::initrd::{Cpio, MODULES};
use kiln_testkit::process::{self, Running};
use kiln_testkit::qemu::pieces;
use kiln_testkit::{guest_programs, tools, wait};
use tempfile::TempDir;

/// Longest time one boot may take: some seconds here, many on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(240);

/// Kernel arguments. Under software emulation `tsc_early_khz` saves a calibration that can hang.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=2000000";

/// Modules of the network, in load order.
const NETWORK_MODULES: &[&str] = &[
    "kernel/net/core/failover.ko",
    "kernel/drivers/net/net_failover.ko",
    "kernel/drivers/net/virtio_net.ko",
];
/// The module of overlayfs.
pub(crate) const OVERLAY_MODULE: &str = "kernel/fs/overlayfs/overlay.ko";
/// The modules by which a guest hears the power button.
pub(crate) const BUTTON_MODULES: &[&str] = &[
    "kernel/drivers/acpi/button.ko",
    "kernel/drivers/input/evdev.ko",
];

/// The kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// Small; devices on virtio-mmio.
    Microvm,
    /// A computer with a keyboard, a power button and PCI.
    Q35,
}

/// What becomes of what a guest writes to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// The file changes.
    Kept,
    /// It does not.
    Dropped,
}

/// What all guests share.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) fixtures: Fixtures,
    pub(crate) folder: TempDir,
    kernel: CloudKernel,
    init: PathBuf,
}

/// A machine to boot.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    parts: &'a Parts,
    pub(crate) boot: Boot,
    pub(crate) instance: Option<Instance>,
    document: Option<Vec<u8>>,
    machine: Machine,
    disks: Vec<(PathBuf, Writes)>,
    modules: Vec<&'static str>,
    has_network: bool,
    argument: &'static str,
}

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct Started {
    running: Running,
    pieces: Receiver<Vec<u8>>,
    monitor: PathBuf,
    deadline: Instant,
    console: Vec<u8>,
    /// Holds initrd and monitor.
    _folder: TempDir,
}

impl Parts {
    /// Makes them; nothing where this machine cannot.
    pub(crate) fn for_test(name: &str) -> Result<Option<Self>> {
        let needs = [
            tools::QEMU,
            tools::APT_GET,
            tools::APT_CACHE,
            tools::DPKG_DEB,
        ];
        if tools::must_skip(name, &needs)? {
            return Ok(None);
        }
        let fixtures = Fixtures::shared()?;
        Ok(Some(Self {
            kernel: debs::cloud_kernel(&fixtures)?,
            init: guest_programs::build()?.init,
            folder: tempfile::tempdir()?,
            fixtures,
        }))
    }

    /// A path in a folder that goes with the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl<'a> Guest<'a> {
    /// A machine without disks that is told `boot`.
    pub(crate) fn new(parts: &'a Parts, boot: Boot) -> Self {
        Self {
            parts,
            boot,
            instance: None,
            document: None,
            machine: Machine::Microvm,
            disks: Vec::new(),
            modules: MODULES.to_vec(),
            has_network: false,
            argument: "",
        }
    }

    /// Has one more word on the kernel's command line.
    pub(crate) fn argument(self, argument: &'static str) -> Self {
        Self { argument, ..self }
    }

    pub(crate) fn machine(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    pub(crate) fn instance(self, instance: Instance) -> Self {
        let instance = Some(instance);
        Self { instance, ..self }
    }

    /// Has these bytes as `boot.json`.
    pub(crate) fn document(self, bytes: &[u8]) -> Self {
        let document = Some(bytes.to_vec());
        Self { document, ..self }
    }

    pub(crate) fn disk(mut self, path: &Path, writes: Writes) -> Self {
        self.disks.push((path.to_owned(), writes));
        self
    }

    pub(crate) fn modules(mut self, modules: &[&'static str]) -> Self {
        self.modules.extend_from_slice(modules);
        self
    }

    pub(crate) fn network(self) -> Self {
        let has_network = true;
        Self {
            has_network,
            ..self
        }
        .modules(NETWORK_MODULES)
    }

    /// Starts the machine.
    pub(crate) fn start(mut self) -> Result<Started> {
        let folder = tempfile::Builder::new()
            .prefix("kiln-")
            .tempdir_in("/tmp")?;
        let initrd = folder.path().join("initrd.img");
        fs::write(&initrd, self.initrd()?)?;
        let monitor = folder.path().join("monitor");
        let mut command = process::command(tools::require(tools::QEMU)?);
        command
            .args(self.words(&initrd, &monitor))
            .stdout(Stdio::piped());
        command.stderr(fs::File::create(folder.path().join("errors"))?);
        let mut running = process::start(command, "qemu-system-x86_64")?;
        let stdout = running.take_stdout().context("QEMU has no output")?;
        Ok(Started {
            running,
            pieces: pieces(stdout),
            monitor,
            deadline: Instant::now() + LIMIT,
            console: Vec::new(),
            _folder: folder,
        })
    }

    /// Boots it to its end and returns what its console showed.
    pub(crate) fn run(self) -> Result<String> {
        self.start()?.finish()
    }

    fn words(&self, initrd: &Path, monitor: &Path) -> Vec<String> {
        let (machine, bus) = match self.machine {
            Machine::Microvm => ("microvm", "device"),
            Machine::Q35 => ("q35", "pci"),
        };
        let mut words: Vec<String> = Vec::new();
        let mut add = |these: &[&str]| words.extend(these.iter().map(|word| (*word).to_owned()));
        add(&["-M", machine, "-accel", "tcg", "-cpu", "max", "-m", "512"]);
        add(&["-nodefaults", "-no-user-config", "-no-reboot"]);
        add(&["-display", "none", "-serial", "stdio"]);
        add(&[
            "-monitor",
            &format!("unix:{},server=on,wait=off", monitor.display()),
        ]);
        add(&["-kernel", &self.parts.kernel.kernel.display().to_string()]);
        add(&[
            "-initrd",
            &initrd.display().to_string(),
            "-append",
            &format!("{KERNEL_ARGUMENTS} {}", self.argument),
        ]);
        for (number, (path, writes)) in self.disks.iter().enumerate() {
            let snapshot = if *writes == Writes::Dropped {
                "on"
            } else {
                "off"
            };
            let file = path.display();
            add(&[
                "-drive",
                &format!("if=none,id=disk{number},file={file},format=raw,snapshot={snapshot}"),
                "-device",
                &format!("virtio-blk-{bus},drive=disk{number},serial=disk{number}"),
            ]);
        }
        if self.has_network {
            let device = format!("virtio-net-{bus},netdev=net0");
            add(&["-netdev", "user,id=net0", "-device", &device]);
        }
        words
    }

    /// Composes the base, compressed and padded, then what is told, as the daemon will.
    fn initrd(&mut self) -> Result<Vec<u8>> {
        let mut base = Cpio::default();
        base.directory("dev")?;
        base.character_device("dev/console", 5, 1)?;
        base.file("init", 0o755, &fs::read(&self.parts.init)?)?;
        base.directory("modules")?;
        for module in &self.modules {
            let (_, file) = module.rsplit_once('/').unwrap_or(("", module));
            let path = format!("modules/{file}");
            base.file(
                &path,
                0o644,
                &fs::read(self.parts.kernel.modules.join(module))?,
            )?;
            self.boot.modules.push(format!("/{path}"));
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(&base.finish()?)?;
        let mut bytes = encoder.finish()?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);

        let mut told = Cpio::default();
        told.directory("kiln")?;
        let document = match &self.document {
            Some(bytes) => bytes.clone(),
            None => self.boot.to_bytes()?,
        };
        told.file("kiln/boot.json", 0o644, &document)?;
        if let Some(instance) = &self.instance {
            told.file("kiln/instance.json", 0o644, &instance.to_bytes()?)?;
        }
        bytes.extend_from_slice(&told.finish()?);
        Ok(bytes)
    }
}

impl Started {
    /// Waits until the console shows `marker`.
    pub(crate) fn wait_for(&mut self, marker: &str) -> Result<()> {
        while !self.text().contains(marker) {
            if !self.hear()? {
                bail!("the machine ended without {marker:?}:\n{}", self.text());
            }
        }
        Ok(())
    }

    /// Gives QEMU's monitor a command.
    pub(crate) fn monitor(&self, command: &str) -> Result<()> {
        let mut stream = UnixStream::connect(&self.monitor).context("no monitor")?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut answer = Vec::new();
        // The prompt after the command says that it was carried out.
        wait::until("answer of the monitor", Duration::from_secs(30), || {
            let mut buffer = [0; 256];
            let length = stream.read(&mut buffer)?;
            answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
            let prompts = String::from_utf8_lossy(&answer).matches("(qemu)").count();
            Ok((prompts >= 2).then_some(()))
        })
    }

    /// Waits for the machine's own end and returns what its console showed.
    pub(crate) fn finish(mut self) -> Result<String> {
        while self.hear()? {}
        let status = self.running.wait(Duration::from_secs(20))?;
        let text = self.text();
        if !status.success() {
            bail!("QEMU ended with {status}:\n{text}");
        }
        Ok(text)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.console).replace('\r', "")
    }

    /// Takes more of the console; false at its end.
    fn hear(&mut self) -> Result<bool> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.pieces.recv_timeout(left) {
            Ok(piece) => {
                self.console.extend_from_slice(&piece);
                Ok(true)
            }
            Err(RecvTimeoutError::Disconnected) => Ok(false),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest did not end within {LIMIT:?}:\n{}", self.text())
            }
        }
    }
}

/// Returns how the guest said its program ended.
pub(crate) fn outcome(console: &str) -> Result<Outcome> {
    let mut found = console.lines().filter_map(Outcome::from_console_line);
    let outcome = found
        .next()
        .with_context(|| format!("no report in:\n{console}"))?;
    match found.next() {
        None => Ok(outcome),
        Some(_) => bail!("two reports in:\n{console}"),
    }
}

/// Fails unless each of `lines` stands on the console as a whole line.
pub(crate) fn assert_lines(console: &str, lines: &[&str]) {
    for line in lines {
        let is_there = console.lines().any(|known| known == *line);
        assert!(is_there, "no {line:?} in:\n{console}");
    }
}
