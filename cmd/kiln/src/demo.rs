//! `kiln demo`: an image is made on the spot, pulled, run, and forgotten again.
//!
//! ```text
//! demo/hello.rs     the program that the image consists of
//! demo/image.rs     what is in the image
//! demo/kernel.rs    which kernel it boots with
//! demo/pull.rs      how the image comes into the daemon, and goes again
//! demo/private.rs   a daemon for the demo's time, where none answers
//! demo/leash.rs     what is started does not outlive the demo
//! demo/ends.rs      signals
//! ```
//! Each step is what a user could type, and is shown like that. Whatever happens, what was made
//! goes away again; `--keep` leaves it and says where.

mod ends;
mod hello;
mod image;
mod kernel;
mod leash;
mod private;
mod pull;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use kiln_api::codes;
use kiln_api::kernel::{KernelParams, Remove};
use kiln_client::{Client, HostOrigin};
use kiln_domain::{ImageName, KernelName};
use tempfile::TempDir;

use self::ends::{Ends, interrupted};
use self::leash::{Leash, terminate};
use self::private::PrivateDaemon;
use self::pull::{Owner, Pulled, Pulling};
use crate::failure::{self, CommandError};
use crate::session::Session;
use crate::{output, run};

/// Name of the image, of its machine, and of a kernel that is imported for it.
const NAME: &str = "kiln-demo";

/// Where machines have their files, to the runner.
const INSTANCES: &str = "KILN_INSTANCES";

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

/// Everything that is made, and has to go again.
struct Stage {
    session: Session,
    leash: Leash,
    daemon: Option<PrivateDaemon>,
    pulled: Pulled,
    kernel: Option<KernelName>,
    folder: TempDir,
}

/// Plays the demo.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    // What is missing is told before anything is made.
    let hello = hello::find(session)?;
    let leash = Leash::new(run::find_runner(session)?);
    let mut ends = Ends::listen()?;
    let mut stage = Stage::enter(session, leash, &mut ends).await?;
    let played = stage.play(&arguments, hello, &mut ends).await;
    let owner = stage.owner();
    let keep = arguments.keep && played.is_ok();
    // Whoever wants an end once more gets it: what is left then goes with this process, but for
    // what a daemon of others has.
    let leaving = async {
        stage.leave(keep).await;
        Ok(())
    };
    let left = ends.or(leaving).await;
    played.and(left)?;
    output::note(next_steps(owner));
    Ok(())
}

impl Stage {
    /// Finds a daemon, or starts one.
    async fn enter(session: &Session, leash: Leash, ends: &mut Ends) -> Result<Self, CommandError> {
        let folder = tempfile::Builder::new().prefix("kiln-demo-").tempdir()?;
        let (host, origin) = session.host()?;
        let (session, daemon) = match ends.or(session.connect()).await {
            Ok(_) => (session.with_host(&host), None),
            // Who names a daemon means that one.
            Err(error) if origin == HostOrigin::Named || !is_unreachable(&error) => {
                return Err(error);
            }
            Err(_) => {
                output::note("no daemon answers, so one is started for the demo:\n");
                let daemon = PrivateDaemon::start(folder.path(), session, &leash, ends).await?;
                (session.with_host(daemon.host()), Some(daemon))
            }
        };
        Ok(Self {
            session,
            leash,
            daemon,
            pulled: Pulled::Nothing,
            kernel: None,
            folder,
        })
    }

    fn owner(&self) -> Owner {
        match self.daemon {
            Some(_) => Owner::Demo,
            None => Owner::Others,
        }
    }

    async fn play(
        &mut self,
        arguments: &Arguments,
        hello: Vec<u8>,
        ends: &mut Ends,
    ) -> Result<(), CommandError> {
        let client = ends.or(self.session.connect()).await?;
        let kernel = ends.or(self.take_kernel(arguments, &client)).await?;
        let layout = self.folder.path().join("image");
        image::write(hello, &layout)?;
        let owner = self.owner();
        let pulling = Pulling {
            session: &self.session,
            client: &client,
            owner,
            layout: &layout,
            kernel: &kernel,
        };
        let name = pull::pull(&pulling, &mut self.pulled, ends).await?;
        self.run(&name, ends).await
    }

    /// Finds the kernel, or takes one in. Whoever lets go of this meanwhile has its name already.
    async fn take_kernel(
        &mut self,
        arguments: &Arguments,
        client: &Client,
    ) -> Result<KernelName, CommandError> {
        let chosen = match (&arguments.kernel, &arguments.deb) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(_)) => None,
            (None, None) => kernel::choose(&self.session, client).await?,
        };
        if let Some(name) = chosen {
            return Ok(name);
        }
        let name = kernel::own_name(self.owner())?;
        self.kernel = Some(name.clone());
        match &arguments.deb {
            Some(deb) => kernel::import_package(&self.session, name.clone(), deb).await?,
            None => kernel::import_running(&self.session, name.clone()).await?,
        }
        Ok(name)
    }

    /// Runs the image with this very program, as its user would.
    async fn run(&self, name: &ImageName, ends: &mut Ends) -> Result<(), CommandError> {
        typed(&["run", "--rm", name.as_str()]);
        let (host, _) = self.session.host()?;
        let mut command = self.leash.command(std::env::current_exe()?);
        command
            .args(["--host", &host.to_string(), "run", "--rm", name.as_str()])
            .stdin(Stdio::null());
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
                // A second one makes the runner kill its machine.
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
        let owner = self.owner();
        if owner == Owner::Others {
            self.tidy(keep).await;
        }
        match self.daemon {
            Some(daemon) if keep => daemon.stop().await,
            // All that it has goes with the folder.
            Some(daemon) => daemon.kill().await,
            None => {}
        }
        let Pulled::Made { name, .. } = &self.pulled else {
            return;
        };
        if keep {
            let folder = match owner {
                Owner::Demo => Some(self.folder.path()),
                Owner::Others => None,
            };
            output::note(&kept(name, folder));
            if owner == Owner::Demo {
                // It has served; nothing else in the folder is for the demo alone.
                drop(std::fs::remove_dir_all(self.folder.path().join("image")));
                let _kept = self.folder.keep();
            }
        }
    }

    /// Removes from a daemon that stays what was the demo's only.
    async fn tidy(&self, keep: bool) {
        let client = match self.session.connect().await {
            Ok(client) => client,
            Err(error) => return warn(&self.session, &error),
        };
        if !keep && let Err(error) = pull::undo(&self.session, &client, &self.pulled).await {
            warn(&self.session, &error);
        }
        let Some(name) = self.kernel.clone() else {
            return;
        };
        // An import that is still under way is waited for by the daemon.
        let params = KernelParams { name };
        match self.session.call::<Remove>(&client, &params).await {
            Err(error) if !has_code(&error, codes::kernel::NOT_FOUND) => {
                warn(&self.session, &error);
            }
            _ => {}
        }
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

fn next_steps(owner: Owner) -> &'static str {
    match owner {
        Owner::Demo => {
            "\nThat was a virtual machine. Next, with a daemon that stays:\n  \
             kilnd --root ~/kiln & export KILN_HOST=unix://$HOME/kiln/kiln.sock\n  \
             kiln kernel import debian --deb linux-image-*.deb --default\n  \
             kiln pull debian:bookworm && kiln run debian-bookworm -- cat /etc/os-release\n"
        }
        Owner::Others => {
            "\nThat was a virtual machine. Next, with an image of a registry:\n  \
             kiln pull debian:bookworm\n  \
             kiln run debian-bookworm -- cat /etc/os-release\n"
        }
    }
}

fn missing(program: &str) -> CommandError {
    let message = format!("{program} is neither beside this program nor on PATH");
    CommandError::new(codes::file::NOT_FOUND, message)
}

fn is_unreachable(error: &CommandError) -> bool {
    has_code(error, codes::daemon::UNREACHABLE)
}

fn has_code(error: &CommandError, code: kiln_api::Code) -> bool {
    matches!(error, CommandError::Failed(failure) if failure.is(code))
}
