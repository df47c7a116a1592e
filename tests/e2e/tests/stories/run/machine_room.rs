//! A daemon with a real kernel and a small image, and `kiln run` against it.

use std::fs::{self, File};
use std::io::{PipeReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kiln_testkit::daemon::{Daemon, built};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Layout, Platform};
use kiln_testkit::qemu::pieces;
use kiln_testkit::{debs, process, tools, wait};
use rustix::process::{Pid, Signal};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::{Value, json};

use crate::descriptors::{NOBODY, open_stage};
use crate::source::oci;
use crate::stage::{Stage, entries, text};

/// The image that is run.
pub(crate) const IMAGE: &str = "small";

/// Longest time that one run may take: some seconds here, many on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(240);

const NEEDS: [tools::Need; 4] = [
    tools::QEMU,
    tools::APT_GET,
    tools::APT_CACHE,
    tools::DPKG_DEB,
];

const APPLETS: &[&str] = &[
    "cat", "chmod", "echo", "env", "head", "hostname", "httpd", "id", "kill", "ls", "poweroff",
    "pwd", "sh", "sleep", "sync", "touch", "true", "yes",
];

/// An init of the image's own, as small as one can be.
const OWN_INIT: &str = "#!/bin/sh\necho process $$ of $(hostname)\nsync\npoweroff -f\n";

/// Makes a child lead a session with its standard input as terminal, and run the rest.
const IN_TERMINAL: &str = "setsid";

/// What all tests that run at the same time share: making it takes longer than some boots.
struct House {
    stage: Stage,
    rootfs: PathBuf,
    fixtures: PathBuf,
}

/// A daemon, a kernel, an image; and a place for instances that is the test's own.
pub(crate) struct MachineRoom {
    house: Arc<House>,
    name: &'static str,
    /// A folder of programs that come before all others.
    programs: Option<PathBuf>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) output: Output,
    /// How the terminal is left, where there was one.
    pub(crate) modes: Option<Modes>,
}

/// Whether a terminal echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Modes(pub(crate) bool);

/// A run that goes on.
pub(crate) struct Started {
    child: Child,
    pieces: Option<Receiver<Vec<u8>>>,
    heard: Vec<u8>,
    errors: PathBuf,
    terminal: Option<(File, OwnedFd)>,
}

impl MachineRoom {
    /// Makes it; nothing where this machine cannot.
    pub(crate) fn for_test(name: &'static str) -> Result<Option<Self>> {
        static HOUSE: Mutex<Weak<House>> = Mutex::new(Weak::new());

        if tools::must_skip(name, &NEEDS)? {
            return Ok(None);
        }
        let mut known = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
        let house = if let Some(house) = known.upgrade() {
            house
        } else {
            let house = Arc::new(House::build()?);
            *known = Arc::downgrade(&house);
            house
        };
        drop(known);
        Self::in_house(house, name).map(Some)
    }

    /// Makes one whose daemon is the test's alone; nothing where this machine cannot.
    pub(crate) fn with_own_daemon(name: &'static str) -> Result<Option<Self>> {
        if tools::must_skip(name, &NEEDS)? {
            return Ok(None);
        }
        Self::in_house(Arc::new(House::build()?), name).map(Some)
    }

    fn in_house(house: Arc<House>, name: &'static str) -> Result<Self> {
        let room = Self {
            house,
            name,
            programs: None,
        };
        fs::create_dir(room.path(""))?;
        Ok(room)
    }

    /// Returns the daemon, where it is the test's alone.
    pub(crate) fn daemon(&mut self) -> Result<&mut Daemon> {
        let house = Arc::get_mut(&mut self.house).context("others use this daemon")?;
        Ok(&mut house.stage.daemon)
    }

    /// Returns a path that is the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.house.stage.path(self.name).join(name)
    }

    /// Returns what the image's bytes are, as `sha256sum` says.
    pub(crate) fn rootfs_digest(&self) -> Result<String> {
        digest(&self.house.rootfs)
    }

    /// Puts a program in front of all others of its name.
    pub(crate) fn install(&mut self, name: &str, script: &str) -> Result<()> {
        let folder = self.path("programs");
        fs::create_dir_all(&folder)?;
        let program = folder.join(name);
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        self.programs = Some(folder);
        Ok(())
    }

    /// Lists the test's instances, oldest first.
    pub(crate) fn instances(&self) -> Result<Vec<Value>> {
        let listed = self
            .house
            .stage
            .call("instance.list", &json!({"all": true}))?;
        let items = listed["items"].as_array().context("no items")?;
        let own = self.path("instances").display().to_string();
        let is_own = |one: &&Value| {
            let directory = one["directory"].as_str().unwrap_or_default();
            directory.starts_with(&own)
        };
        Ok(items.iter().filter(is_own).cloned().collect())
    }

    /// Lists the directories of instances.
    pub(crate) fn instance_folders(&self) -> Result<Vec<String>> {
        let mut folders = entries(&self.path("instances"))?;
        // What root remembers of the host is beside them.
        folders.retain(|name| name != "probes");
        Ok(folders)
    }

    /// Runs `kiln`.
    pub(crate) fn kiln(&self, words: &[&str]) -> Result<Ended> {
        let output = self.command(words)?.output().context("cannot run kiln")?;
        Ok(Ended {
            output,
            modes: None,
        })
    }

    /// Installs `kiln` and its runner, as packages do, for the user without rights.
    pub(crate) fn install_for_nobody(&self) -> Result<()> {
        let folder = self.path("installed");
        for (name, place) in [("kiln", "bin"), ("kiln-runner", "libexec/kiln")] {
            fs::create_dir_all(folder.join(place))?;
            fs::copy(built(name)?, folder.join(place).join(name))?;
        }
        fs::create_dir(self.path("theirs"))?;
        std::os::unix::fs::chown(self.path("theirs"), Some(NOBODY), Some(NOBODY))?;
        Ok(())
    }

    /// Runs that `kiln` as the user without rights.
    pub(crate) fn kiln_as_nobody(&self, words: &[&str]) -> Result<Ended> {
        let usual = self.command(words)?;
        let mut command = Command::new(self.path("installed/bin/kiln"));
        command.args(words).stdin(Stdio::null());
        for (name, value) in usual.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
            .env("KILN_INSTANCES", self.path("theirs/instances"))
            .current_dir(self.path("theirs"))
            .uid(NOBODY)
            .gid(NOBODY);
        let output = command.output().context("cannot run kiln")?;
        Ok(Ended {
            output,
            modes: None,
        })
    }

    /// Returns how the image is named in a pull.
    pub(crate) fn source(&self) -> String {
        format!("oci:{}:1", self.house.stage.path("layout").display())
    }

    /// Runs `kiln run` to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Result<Ended> {
        self.kiln(&with_run(words))
    }

    /// Does `kiln run` with the files of its machine below `instances`.
    pub(crate) fn run_in(&self, instances: &Path, words: &[&str]) -> Result<Ended> {
        let mut command = self.command(&with_run(words))?;
        let output = command.env("KILN_INSTANCES", instances).output();
        Ok(Ended {
            output: output.context("cannot run kiln")?,
            modes: None,
        })
    }

    /// Runs `kiln run` to its end, with a pipe for standard input that holds `bytes` and stays open.
    pub(crate) fn run_fed(&self, words: &[&str], bytes: &[u8]) -> Result<Ended> {
        let (reader, mut writer) = std::io::pipe()?;
        writer.write_all(bytes)?;
        let ended = self.start_reading(words, reader.into())?.finish();
        drop(writer);
        ended
    }

    /// Starts `kiln run`.
    pub(crate) fn start(&self, words: &[&str]) -> Result<Started> {
        self.start_reading(words, Stdio::null())
    }

    fn start_reading(&self, words: &[&str], stdin: Stdio) -> Result<Started> {
        let errors = self.path("errors");
        let mut command = self.command(&with_run(words))?;
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?);
        let mut child = command.spawn().context("cannot run kiln")?;
        let stdout = child.stdout.take().context("kiln has no output")?;
        Ok(Started {
            child,
            pieces: Some(pieces(stdout)),
            heard: Vec::new(),
            errors,
            terminal: None,
        })
    }

    /// Starts `kiln run` with an output that nobody reads, and returns what could.
    pub(crate) fn start_unread(&self, words: &[&str]) -> Result<(Started, PipeReader)> {
        let errors = self.path("errors");
        let (reader, writer) = std::io::pipe()?;
        // Consoles are slow under emulation.
        rustix::pipe::fcntl_setpipe_size(&writer, 4096)?;
        let mut command = self.command(&with_run(words))?;
        command.stdout(writer).stderr(File::create(&errors)?);
        let child = command.spawn().context("cannot run kiln")?;
        let started = Started {
            child,
            pieces: None,
            heard: Vec::new(),
            errors,
            terminal: None,
        };
        Ok((started, reader))
    }

    /// Starts `kiln run` in a terminal of its own.
    pub(crate) fn start_in_terminal(&self, words: &[&str]) -> Result<Started> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let own = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&own)?;
        rustix::pty::unlockpt(&own)?;
        let name = rustix::pty::ptsname(&own, Vec::new())?;
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name, flags, rustix::fs::Mode::empty())?;
        let errors = self.path("errors");
        let kiln = self.command(&with_run(words))?;
        let mut command = Command::new(IN_TERMINAL);
        command.arg("--ctty").arg("--wait").arg(kiln.get_program());
        command.args(kiln.get_args());
        for (name, value) in kiln.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
            .stdin(theirs.try_clone()?)
            .stdout(theirs.try_clone()?)
            .stderr(File::create(&errors)?);
        let child = command.spawn().context("cannot run setsid")?;
        Ok(Started {
            child,
            pieces: Some(pieces(File::from(own.try_clone()?))),
            heard: Vec::new(),
            errors,
            terminal: Some((File::from(own), theirs)),
        })
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        // The runner is looked for beside the client.
        built("kiln-runner")?;
        let mut command = Command::new(built("kiln")?);
        command
            .args(words)
            .env(
                "KILN_HOST",
                format!("unix://{}", self.house.stage.daemon.socket().display()),
            )
            .env("KILN_INSTANCES", self.path("instances"))
            // What KVM runs here is found out once for all tests.
            .env("KILN_PROBES", self.house.fixtures.join("probes"))
            .env("CALLER", "inherited")
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(programs) = &self.programs {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(programs.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(all)?);
        }
        Ok(command)
    }
}

impl Drop for MachineRoom {
    fn drop(&mut self) {
        // A test that failed may have left machines in the background.
        for one in self.instances().unwrap_or_default() {
            let pid = one["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if one["state"] != "ended"
                && let Some(pid) = pid.and_then(Pid::from_raw)
            {
                // It may have ended just now.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl House {
    fn build() -> Result<Self> {
        let fixtures = Fixtures::shared()?;
        let kernel = debs::cloud_kernel(&fixtures)?;
        let stage = open_stage()?;
        let import = json!({"name": "debian", "deb_path": kernel.deb});
        stage.call("kernel.import", &import)?;
        let layout = image(&fixtures, &stage)?;
        let pull = json!({
            "ref": oci(&layout, "1"), "name": IMAGE, "kernel_ref": "debian",
            "size_bytes": 64 << 20,
        });
        let pulled = stage.call("image.pull", &pull);
        let pulled = pulled.with_context(|| process::log_tail(&stage.daemon.log()))?;
        Ok(Self {
            rootfs: PathBuf::from(text(&pulled["rootfs"], "path")?),
            fixtures: fixtures.root().to_owned(),
            stage,
        })
    }
}

fn with_run<'a>(words: &[&'a str]) -> Vec<&'a str> {
    std::iter::once("run")
        .chain(words.iter().copied())
        .collect()
}

/// Makes a layout with busybox, two accounts, and deliberately little else.
fn image(fixtures: &Fixtures, stage: &Stage) -> Result<Layout> {
    let busybox = debs::package(fixtures, "busybox-static")?;
    let busybox = fs::read(busybox.tree.join("bin/busybox")).context("busybox")?;
    let mut files = vec![
        Entry::directory("bin"),
        Entry::file("bin/busybox", busybox).mode(0o755),
        Entry::directory("etc"),
        Entry::file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home/app:/bin/sh\n",
        ),
        Entry::file("etc/group", "root:x:0:\nvideo:x:44:app\napp:x:1000:\n"),
        Entry::directory("data"),
        Entry::file("data/bytes", super::every_byte()),
        Entry::directory("www"),
        Entry::directory("sbin"),
        Entry::file("sbin/init", OWN_INIT).mode(0o755),
    ];
    let links = APPLETS
        .iter()
        .map(|applet| Entry::symlink(format!("bin/{applet}"), "busybox"));
    files.extend(links);
    let mut layout = Layout::create(stage.path("layout"))?;
    let layer = layout.add_layer(&files, Compression::Gzip)?;
    let config = json!({
        "Cmd": ["sh", "-c", "echo hello from the $IMAGES"], "Env": ["IMAGES=image"],
    });
    let image = layout.add_image_with(&[layer], &Platform::linux("amd64"), config)?;
    layout.tag("1", &image)?;
    Ok(layout)
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.output.stdout).unwrap_or("no text")
    }

    pub(crate) fn stderr(&self) -> &str {
        std::str::from_utf8(&self.output.stderr).unwrap_or("no text")
    }

    pub(crate) fn output_lines(&self) -> Vec<&str> {
        self.stdout().lines().collect()
    }
}

impl Started {
    /// Waits until the output shows `marker`.
    pub(crate) fn wait_for(&mut self, marker: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !String::from_utf8_lossy(&self.heard).contains(marker) {
            if !self.hear(deadline)? {
                bail!("it ended without {marker:?}: {}", self.everything());
            }
        }
        Ok(())
    }

    /// Types at the terminal.
    pub(crate) fn type_in(&mut self, keys: &[u8]) -> Result<()> {
        let (own, _) = self.terminal.as_mut().context("there is no terminal")?;
        Ok(own.write_all(keys)?)
    }

    /// Tells how the terminal is.
    pub(crate) fn modes(&self) -> Result<Modes> {
        let (_, theirs) = self.terminal.as_ref().context("there is no terminal")?;
        let modes = tcgetattr(theirs)?.local_modes;
        Ok(Modes(modes.contains(LocalModes::ECHO)))
    }

    /// Signals the process that was started, which is the runner.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        let pid = Pid::from_raw(pid).context("no process")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits until the runner is there, in this process or in a child of it, and a Ctrl-C is no
    /// longer fatal to it.
    pub(crate) fn wait_until_it_listens(&self) -> Result<()> {
        const INTERRUPT: u64 = 1 << (Signal::INT.as_raw() - 1);
        let own = self.child.id();
        wait::until("the runner to listen", LIMIT, || {
            let runner = self.child("kiln-runner").unwrap_or(own);
            let status = fs::read_to_string(format!("/proc/{runner}/status"))?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = u64::from_str_radix(caught.unwrap_or_default().trim(), 16)?;
            let listens = status.starts_with("Name:\tkiln-runner\n") && caught & INTERRUPT != 0;
            Ok(listens.then_some(()))
        })
    }

    /// Finds a child of the process by the beginning of its name.
    pub(crate) fn child(&self, name: &str) -> Result<u32> {
        let own = self.child.id();
        let mut children = String::new();
        for thread in fs::read_dir(format!("/proc/{own}/task"))? {
            // A thread may have ended since.
            let of_one = fs::read_to_string(thread?.path().join("children"));
            children.push_str(&of_one.unwrap_or_default());
        }
        for child in children.split_whitespace() {
            let found = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if found.starts_with(name) {
                return Ok(child.parse()?);
            }
        }
        bail!("no {name} among {children}")
    }

    /// Closes the reading end of the output.
    pub(crate) fn stop_reading(&mut self) {
        self.pieces = None;
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Result<Ended> {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            // Its output must not fill up, and is not at its end while a terminal is open here.
            let soon = Instant::now() + Duration::from_millis(20);
            self.hear_until(soon)?;
            if Instant::now() >= deadline {
                bail!("it did not end: {}", self.everything());
            }
        };
        while self.terminal.is_none() && self.hear(deadline)? {}
        let modes = match self.terminal {
            Some(_) => Some(self.modes()?),
            None => None,
        };
        Ok(Ended {
            output: Output {
                status,
                stdout: std::mem::take(&mut self.heard),
                stderr: fs::read(&self.errors)?,
            },
            modes,
        })
    }

    fn hear(&mut self, deadline: Instant) -> Result<bool> {
        match self.hear_until(deadline)? {
            Heard::More => Ok(true),
            Heard::End => Ok(false),
            Heard::Nothing => bail!("nothing came any more: {}", self.everything()),
        }
    }

    fn hear_until(&mut self, deadline: Instant) -> Result<Heard> {
        let Some(pieces) = &self.pieces else {
            let mut none = [0; 0];
            // Nobody reads: only its end is waited for.
            std::io::empty().read_exact(&mut none)?;
            std::thread::yield_now();
            return Ok(Heard::End);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match pieces.recv_timeout(left) {
            Ok(piece) => {
                self.heard.extend_from_slice(&piece);
                Ok(Heard::More)
            }
            Err(RecvTimeoutError::Timeout) => Ok(Heard::Nothing),
            Err(RecvTimeoutError::Disconnected) => Ok(Heard::End),
        }
    }

    fn everything(&self) -> String {
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        let heard = String::from_utf8_lossy(&self.heard);
        format!("{heard:?} and {errors:?}")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has ended where it was waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

enum Heard {
    More,
    Nothing,
    End,
}

/// Pastes a line into a shell and returns what it printed, without the carriage returns.
pub(crate) fn pasted(line: &str) -> Result<String> {
    let mut command = process::command("/bin/sh");
    command.args(["-c", line]);
    Ok(process::run(command, LIMIT)?.text().replace('\r', ""))
}

/// Returns what a file's bytes are, as `sha256sum` says.
pub(crate) fn digest(file: &Path) -> Result<String> {
    let mut command = process::command("sha256sum");
    command.arg(file);
    let text = process::run(command, LIMIT)?.text();
    let (digest, _) = text.split_once(' ').context("no digest")?;
    Ok(digest.to_owned())
}

/// Tells whether a process runs; a zombie does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}
