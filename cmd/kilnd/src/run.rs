//! One run of the daemon, from arguments to exit code.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_api::{openrpc, reference_docs};
use kiln_registry::routes::ProxyWords;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::arguments::Arguments;
use crate::config::{Config, Given, LogFormat};
use crate::network::{self, Surroundings};
use crate::places::{Places, UserEnvironment};
use crate::wire::{self, StartError};

/// How long threads that still read something are waited for at the end, when everything is closed.
/// A file on a disk or a network that does not answer must not keep the process for ever.
const LAST_LIMIT: Duration = Duration::from_secs(2);

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
    let Loaded {
        config,
        surroundings,
    } = load(arguments)?;
    if arguments.check_config {
        for setting in config.settings().iter().chain(&surroundings.settings) {
            println!("{} = {}  # {}", setting.key, setting.value, setting.origin);
        }
        for problem in &surroundings.problems {
            println!("# passed over: {problem}");
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
    let again = arguments.clone();
    let loaded = Loaded {
        config,
        surroundings,
    };
    let result = runtime.block_on(wire::serve(loaded, move || load(&again)));
    runtime.shutdown_timeout(LAST_LIMIT);
    result
}

/// Everything that was read before anything is opened.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) surroundings: Surroundings,
}

fn load(arguments: &Arguments) -> Result<Loaded> {
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
    let config_home = config_home();
    let places = places
        .with_programs(&own)
        .with_containers(config_home.as_deref(), Path::exists);
    let config = Config::load(&given, places, cores)?;
    let surroundings = network::read(&config, &proxy_words())?;
    Ok(Loaded {
        config,
        surroundings,
    })
}

/// Returns where a user's own configuration lies; root has the system's.
fn config_home() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let directory = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")))
}

/// Reads the proxy variables; the name in capitals wins, as it does in Go.
fn proxy_words() -> ProxyWords {
    let word = |name: &str| {
        let stated = |name: &str| env::var(name).ok().filter(|word| !word.is_empty());
        stated(name).or_else(|| stated(&name.to_lowercase()))
    };
    ProxyWords {
        https: word("HTTPS_PROXY"),
        http: word("HTTP_PROXY"),
        all: word("ALL_PROXY"),
        none: word("NO_PROXY"),
    }
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
    // A line that cannot be written is lost; told of where it cannot be written either, it would
    // end the call that wrote it.
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let log = match config.log_format.value {
        LogFormat::Text => log.with_ansi(false).boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    let log = log.with_filter(filter.and(filter_fn(may_be_logged)));
    tracing_subscriber::registry().with(log).init();
    Ok(())
}

/// Keeps the bodies of calls out of the log, whatever level is asked for: passwords are in them,
/// and the server of calls writes them down on its lowest level.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    *metadata.level() < Level::TRACE || !metadata.target().starts_with("jsonrpsee")
}
