//! `kiln demo`: an image is made on the spot, pulled, run, and forgotten again.
//!
//! ```text
//! demo/image.rs     what is in the image
//! demo/kernel.rs    which kernel it boots with
//! demo/private.rs   a daemon for the demo's time, where none answers
//! ```
//! Each step is what a user could type, and is shown like that. Whatever happens, what was made
//! goes away again; `--keep` leaves it and says where.

mod image;
mod kernel;
mod private;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use kiln_api::image::{
    BootChoice, Forget, ForgetParams, Get, GetParams, Outcome, Pull, PullParams,
};
use kiln_api::kernel::{KernelParams, Remove};
use kiln_api::operation::{Cancel, CancelParams};
use kiln_api::{Failure, codes};
use kiln_client::{Client, HostOrigin};
use kiln_domain::{ImageName, KernelName, OperationId, Source};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

use self::kernel::Chosen;
use self::private::PrivateDaemon;
use crate::failure::{self, CommandError};
use crate::session::Session;
use crate::{follow, output, programs, run};

/// The program that the image consists of.
const HELLO: &str = "kiln-hello";

/// Name of the image, of its machine, and of a kernel that is imported for it.
const NAME: &str = "kiln-demo";

/// How many names are tried before one that is taken is an error.
const NAMES: u32 = 100;

/// The exit code of somebody who pressed Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// What the demo takes.
#[derive(Debug, Args)]
#[command(after_help = "\
It needs neither network nor root, and where no daemon answers it starts its own.
The kernel is the default one, else the only one of the catalogue, else the host's own.")]
pub(crate) struct Arguments {
    /// Kernel of the catalogue to boot with
    #[arg(long, value_name = "NAME")]
    kernel: Option<KernelName>,
    /// Debian kernel package to boot with; it is imported for the demo only
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    deb: Option<PathBuf>,
    /// Leave the image, and a daemon's directory that was made for it, and say where
    #[arg(long)]
    keep: bool,
}

/// Signals that mean an end.
struct Ends {
    interrupt: Arrivals,
    terminate: Arrivals,
    hang_up: Arrivals,
}

/// Everything that is made, and has to go again.
struct Stage {
    session: Session,
    daemon: Option<PrivateDaemon>,
    image: Option<ImageName>,
    kernel: Option<KernelName>,
    folder: TempDir,
}

/// Plays the demo.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    // What is missing is told before anything is made.
    let hello = programs::find(HELLO, session.surroundings())?.ok_or_else(|| missing(HELLO))?;
    run::find_runner(session)?;
    let mut ends = Ends::listen()?;
    let mut stage = tokio::select! {
        stage = Stage::enter(session) => stage?,
        () = ends.next() => return Err(interrupted()),
    };
    let played = stage.play(&arguments, &hello, &mut ends).await;
    let is_private = stage.daemon.is_some();
    stage.leave(arguments.keep && played.is_ok()).await;
    played?;
    output::note(next_steps(is_private));
    Ok(())
}

impl Ends {
    fn listen() -> Result<Self, CommandError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// Waits for one that nobody else here listens to.
    async fn next_but_interrupt(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

impl Stage {
    /// Finds a daemon, or starts one.
    async fn enter(session: &Session) -> Result<Self, CommandError> {
        let folder = tempfile::Builder::new().prefix("kiln-demo-").tempdir()?;
        let (host, origin) = session.host()?;
        let (session, daemon) = match session.connect().await {
            Ok(_) => (session.with_host(&host), None),
            // Who names a daemon means that one.
            Err(error) if origin == HostOrigin::Named || !is_unreachable(&error) => {
                return Err(error);
            }
            Err(_) => {
                output::note("no daemon answers, so one is started for the demo:\n");
                let daemon = PrivateDaemon::start(folder.path(), session).await?;
                (session.with_host(daemon.host()), Some(daemon))
            }
        };
        Ok(Self {
            session,
            daemon,
            image: None,
            kernel: None,
            folder,
        })
    }

    async fn play(
        &mut self,
        arguments: &Arguments,
        hello: &Path,
        ends: &mut Ends,
    ) -> Result<(), CommandError> {
        let client = self.session.connect().await?;
        let kernel = match (&arguments.kernel, &arguments.deb) {
            (Some(name), _) => Chosen::InCatalogue(name.clone()),
            (None, Some(deb)) => kernel::import_package(&self.session, deb).await?,
            (None, None) => kernel::choose(&self.session, &client).await?,
        };
        if let Chosen::Imported(name) = &kernel {
            self.kernel = Some(name.clone());
        }
        let layout = self.folder.path().join("image");
        image::write(hello, &layout)?;
        let name = free_name(&self.session, &client).await?;
        self.image = Some(name.clone());
        self.pull(&client, &layout, &name, kernel.name(), ends)
            .await?;
        self.run(&name, ends).await
    }

    async fn pull(
        &self,
        client: &Client,
        layout: &Path,
        name: &ImageName,
        kernel: &KernelName,
        ends: &mut Ends,
    ) -> Result<(), CommandError> {
        let reference = format!("oci:{}", layout.display());
        typed(&[
            "pull",
            &reference,
            "--name",
            name.as_str(),
            "--kernel",
            kernel.as_str(),
        ]);
        let source = reference.parse::<Source>().map_err(|error| {
            let failure = Failure::from_error(codes::source::INVALID_REFERENCE, &error);
            CommandError::from(failure)
        })?;
        let platform = kiln_domain::Platform::linux(image::ARCHITECTURE);
        let passed = client.files().source(&source, platform).await?;
        let params = PullParams {
            reference: passed.reference,
            name: Some(name.clone()),
            kernel_ref: Some(kernel.clone()),
            kernel_path: None,
            initrd_path: None,
            modules_dir: None,
            boot: BootChoice::Auto,
            size_bytes: None,
            platform: None,
            credentials: None,
            source_files: passed.files,
            detach: true,
        };
        let id = match self.session.call::<Pull>(client, &params).await? {
            Outcome::Started(started) => started.operation_id,
            Outcome::Image(_) => return Ok(()),
        };
        let ended = tokio::select! {
            ended = follow::to_the_end(&self.session, client, id, follow::Interrupt::Cancels) => ended?,
            () = ends.next_but_interrupt() => {
                cancel(&self.session, client, id).await;
                return Err(interrupted());
            }
        };
        let image = ended.operation.result.ok_or_else(|| {
            let message = format!("operation {id} succeeded without an image");
            CommandError::new(codes::daemon::INTERNAL, message)
        })?;
        output::note(&format!("{name} is ready: {}\n", image.rootfs.path));
        Ok(())
    }

    /// Runs the image with this very program, as its user would.
    async fn run(&self, name: &ImageName, ends: &mut Ends) -> Result<(), CommandError> {
        typed(&["run", "--rm", name.as_str()]);
        let (host, _) = self.session.host()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--host", &host.to_string(), "run", "--rm", name.as_str()])
            .stdin(Stdio::null())
            // Signals of the terminal come here, and are passed on once.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(daemon) = &self.daemon
            && self.session.surroundings().variable(INSTANCES).is_none()
        {
            command.env(INSTANCES, daemon.instances());
        }
        let mut child = command.spawn()?;
        let mut was_stopped = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = ends.next() => {
                    was_stopped = true;
                    terminate(child.id());
                }
            }
        };
        if was_stopped {
            return Err(interrupted());
        }
        match status.code() {
            Some(0) => Ok(()),
            // The runner has said why.
            code => Err(CommandError::Reported(
                code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
            )),
        }
    }

    /// Takes away what was made. What cannot be taken away is told, and is no failure of the demo.
    async fn leave(self, keep: bool) {
        let is_private = self.daemon.is_some();
        if !is_private && let Err(error) = self.tidy(keep).await {
            warn(&self.session, &error);
        }
        if let Some(daemon) = self.daemon {
            daemon.stop().await;
        }
        if let Some(name) = self.image.filter(|_| keep) {
            output::note(&kept(&name, is_private.then(|| self.folder.path())));
            if is_private {
                // It has served; nothing else in the folder is for the demo alone.
                drop(std::fs::remove_dir_all(self.folder.path().join("image")));
                let _kept = self.folder.keep();
            }
        }
    }

    /// Removes from a daemon that stays what was the demo's only.
    async fn tidy(&self, keep: bool) -> Result<(), CommandError> {
        let client = self.session.connect().await?;
        if let Some(image) = self.image.as_ref().filter(|_| !keep) {
            let params = ForgetParams {
                image: image.to_string(),
                dry_run: false,
                force: true,
            };
            let forgotten = self.session.call::<Forget>(&client, &params).await;
            unless_gone(forgotten.map(drop), codes::image::NOT_FOUND)?;
        }
        if let Some(name) = self.kernel.clone() {
            let params = KernelParams { name };
            let removed = self.session.call::<Remove>(&client, &params).await;
            unless_gone(removed.map(drop), codes::kernel::NOT_FOUND)?;
        }
        Ok(())
    }
}

/// Where machines have their files, to the runner.
const INSTANCES: &str = "KILN_INSTANCES";

/// Finds a name that no image has: what `--keep` left before is not in the way.
async fn free_name(session: &Session, client: &Client) -> Result<ImageName, CommandError> {
    for number in 1..=NAMES {
        let text = match number {
            1 => NAME.to_owned(),
            number => format!("{NAME}-{number}"),
        };
        let params = GetParams {
            image: text.clone(),
            architecture: None,
        };
        match session.call::<Get>(client, &params).await {
            Ok(_) => {}
            Err(error) if has_code(&error, codes::image::NOT_FOUND) => {
                return text.parse().map_err(|error| {
                    Failure::from_error(codes::image::NAME_INVALID, &error).into()
                });
            }
            Err(error) => return Err(error),
        }
    }
    let message = format!("{NAMES} images of earlier demos are here");
    Err(Failure::new(codes::image::ALREADY_EXISTS, message)
        .with_hint("forget them:", Some(format!("kiln forget {NAME}")))
        .into())
}

async fn cancel(session: &Session, client: &Client, id: OperationId) {
    let params = CancelParams {
        operation_id: id,
        unless_watched: false,
    };
    // It may have ended meanwhile; then the image is forgotten below.
    if let Err(error) = session.call::<Cancel>(client, &params).await
        && !has_code(&error, codes::operation::ALREADY_FINISHED)
    {
        warn(session, &error);
    }
}

fn terminate(id: Option<u32>) {
    let id = id.and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = id.and_then(Pid::from_raw) {
        // One that has ended has nothing to be told.
        let _ = kill_process(pid, Signal::TERM);
    }
}

fn typed(words: &[&str]) {
    output::note(&format!("$ kiln {}\n", words.join(" ")));
}

fn warn(session: &Session, error: &CommandError) {
    if let CommandError::Failed(failure) = error {
        output::note("the demo could not clean up after itself:\n");
        output::note(&failure::describe(
            failure,
            session.paint(),
            session.detail(),
        ));
    }
}

fn kept(image: &ImageName, folder: Option<&Path>) -> String {
    match folder {
        None => format!("kept the image {image}; forget it:  kiln forget {image}\n"),
        Some(folder) => {
            let root = folder.join(private::ROOT);
            format!(
                "kept the image {image} in {0}\n  kilnd --root {0} &\n  \
                 KILN_HOST=unix://{0}/kiln.sock kiln run {image}\n",
                root.display()
            )
        }
    }
}

fn next_steps(is_private: bool) -> &'static str {
    if is_private {
        "\nThat was a virtual machine. Next, with a daemon that stays:\n  \
         kilnd &\n  \
         kiln kernel import debian --deb linux-image-*.deb --default\n  \
         kiln pull debian:bookworm && kiln run debian-bookworm -- cat /etc/os-release\n"
    } else {
        "\nThat was a virtual machine. Next, with an image of a registry:\n  \
         kiln pull debian:bookworm\n  \
         kiln run debian-bookworm -- cat /etc/os-release\n"
    }
}

fn missing(program: &str) -> CommandError {
    let message = format!("{program} is neither beside this program nor on PATH");
    CommandError::new(codes::file::NOT_FOUND, message)
}

fn interrupted() -> CommandError {
    CommandError::Reported(EXIT_INTERRUPTED)
}

fn is_unreachable(error: &CommandError) -> bool {
    has_code(error, codes::daemon::UNREACHABLE)
}

fn has_code(error: &CommandError, code: kiln_api::Code) -> bool {
    matches!(error, CommandError::Failed(failure) if failure.is(code))
}

fn unless_gone(result: Result<(), CommandError>, gone: kiln_api::Code) -> Result<(), CommandError> {
    match result {
        Err(error) if has_code(&error, gone) => Ok(()),
        result => result,
    }
}
