//! One run of the daemon, from arguments to exit code.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, bail};
use kiln_api::{openrpc, reference_docs};
use tracing_subscriber::EnvFilter;

use crate::arguments::Arguments;
use crate::config::{Config, Given, LogFormat};
use crate::places::{Places, UserEnvironment};
use crate::wire::{self, StartError};

/// Exit code of a daemon that found another one on its state directory.
const CONFLICT: u8 = 5;

/// Does what the arguments ask and tells how it went on standard error.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match try_run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            match error.downcast_ref::<StartError>() {
                Some(StartError::AlreadyRunning { .. }) => ExitCode::from(CONFLICT),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "this is the program's own last word")]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  cause: {cause}");
    }
}

#[expect(clippy::print_stdout, reason = "printing is what these flags ask for")]
fn try_run(arguments: &Arguments) -> Result<()> {
    let config = load(arguments)?;
    if arguments.check_config {
        for setting in config.settings() {
            println!("{} = {}  # {}", setting.key, setting.value, setting.origin);
        }
        return Ok(());
    }
    if arguments.print_openrpc || arguments.write_docs.is_some() {
        let descriptions = wire::descriptions()?;
        if let Some(folder) = &arguments.write_docs {
            fs::write(
                folder.join("api.md"),
                reference_docs::api_page(&descriptions),
            )?;
            fs::write(folder.join("errors.md"), reference_docs::errors_page())?;
        } else {
            println!(
                "{}",
                serde_json::to_string_pretty(&openrpc::document(&descriptions))?
            );
        }
        return Ok(());
    }
    start_log(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(wire::serve(config))
}

fn load(arguments: &Arguments) -> Result<Config> {
    let given = Given {
        root: arguments.root.as_deref().map(absolute).transpose()?,
        file: arguments.config.clone(),
        socket: arguments.socket.as_deref().map(absolute).transpose()?,
        guest_init: arguments.guest_init.as_deref().map(absolute).transpose()?,
        log_level: arguments.log.clone(),
        credentials: env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
    };
    let cores = available_parallelism().map_or(1, usize::from);
    let places = match &given.root {
        Some(root) => Places::below(root),
        None => user_places()?,
    };
    let own = env::current_exe().context("cannot tell where this program is")?;
    Ok(Config::load(&given, places.with_programs(&own), cores)?)
}

fn user_places() -> Result<Places> {
    let directory = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let environment = UserEnvironment {
        home: directory("HOME"),
        data_home: directory("XDG_DATA_HOME"),
        cache_home: directory("XDG_CACHE_HOME"),
        runtime_dir: directory("XDG_RUNTIME_DIR"),
    };
    let uid = rustix::process::geteuid().as_raw();
    match Places::of_user(uid, &environment) {
        Some(places) => Ok(places),
        None => bail!("neither HOME nor the XDG variables are set; name a directory with --root"),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot tell where {} is", path.display()))
}

fn start_log(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log_level.value)
        .with_context(|| format!("log.level = {:?} is no filter", config.log_level.value))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format.value {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
