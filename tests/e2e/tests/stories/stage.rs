//! What every story stands on: a daemon with a root of its own, a kernel, and words for calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_testkit::daemon::{CallError, Daemon, RpcError, Start};
use kiln_testkit::{elf, process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest time a story waits for one thing.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Name of the kernel every stage has.
pub(crate) const KERNEL: &str = "tiny";

/// A running daemon with one kernel, and a folder for what a story makes.
pub(crate) struct Stage {
    // Stops before its folder goes.
    pub(crate) daemon: Daemon,
    folder: TempDir,
}

impl Stage {
    /// Starts a daemon with the default configuration.
    pub(crate) fn new() -> Result<Self> {
        Self::with_config("")
    }

    /// Starts a daemon with this configuration file.
    pub(crate) fn with_config(config: &str) -> Result<Self> {
        Self::with(config, &[])
    }

    /// Starts a daemon with this configuration file and these variables.
    pub(crate) fn with(config: &str, environment: &[(&str, String)]) -> Result<Self> {
        let folder = folder()?;
        let root = folder.path().join("root");
        fs::create_dir(&root)?;
        fs::write(root.join("config.toml"), config)?;
        let environment = environment.iter();
        let start = Start {
            environment: environment
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            ..Start::default()
        };
        Self::in_folder(folder, start)
    }

    fn in_folder(folder: TempDir, start: Start) -> Result<Self> {
        let root = folder.path().join("root");
        let daemon = Daemon::start_in(&root, start)?;
        let stage = Self { daemon, folder };
        fs::write(stage.path("vmlinux"), elf::smallest(elf::X86_64))?;
        let params = json!({"name": KERNEL, "kernel_path": stage.path("vmlinux")});
        stage.call("kernel.import", &params)?;
        Ok(stage)
    }

    /// Returns a path beside the daemon's root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the daemon's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// Calls a method that must succeed.
    pub(crate) fn call(&self, method: &str, params: &Value) -> Result<Value> {
        let answer = self.daemon.call(method, params);
        answer.with_context(|| format!("{method} {params}"))
    }

    /// Calls a method that must be refused.
    pub(crate) fn refused(&self, method: &str, params: &Value) -> Result<RpcError> {
        match self.daemon.call(method, params) {
            Ok(answer) => bail!("{method} {params} was not refused: {answer}"),
            Err(error) => CallError::refused(error),
        }
    }

    /// Pulls `reference` as `name` with the stage's kernel and returns the image.
    pub(crate) fn pull(&self, reference: &str, name: &str) -> Result<Value> {
        self.call("image.pull", &pull(reference, name))
    }

    /// Starts a pull in the background and returns its operation's id.
    pub(crate) fn start(&self, mut params: Value) -> Result<String> {
        params["detach"] = json!(true);
        let started = self.call("image.pull", &params)?;
        text(&started, "operation_id")
    }

    /// Lists what stands below the daemon's root at `below`.
    pub(crate) fn entries(&self, below: &str) -> Result<Vec<String>> {
        entries(&self.root().join(below))
    }

    /// Lists what is on its way into the cache, but for downloads that may be gone on with.
    pub(crate) fn unfinished(&self) -> Result<Vec<String>> {
        let mut entries = self.entries("cache/ingest")?;
        entries.retain(|name| !name.ends_with(".partial"));
        Ok(entries)
    }

    /// Returns the newest operation.
    pub(crate) fn last_operation(&self) -> Result<Value> {
        let listed = self.call("operation.list", &json!({"limit": 1000}))?;
        let items = listed["items"].as_array().context("no items")?;
        items.last().cloned().context("no operation")
    }

    /// Fails unless nothing is left of a pull that came to nothing, and the daemon lives.
    pub(crate) fn assert_nothing_left(&self) -> Result<()> {
        assert_eq!(self.entries("images")?, Vec::<String>::new());
        assert_eq!(self.unfinished()?, Vec::<String>::new());
        let told = self.call("daemon.info", &json!({}))?;
        assert_eq!(told["counts"]["running_operations"], 0);
        Ok(())
    }
}

/// Makes a folder with a path short enough for sockets.
pub(crate) fn folder() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    Ok(builder.prefix("kiln-e2e-").tempdir_in("/tmp")?)
}

/// Lists a folder; one that does not exist has nothing in it.
pub(crate) fn entries(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Fails unless two files have the same bytes.
pub(crate) fn assert_same_bytes(one: &str, other: &str) -> Result<()> {
    let mut command = process::command("cmp");
    command.arg(one).arg(other);
    process::run(command, LIMIT).context("the files differ")?;
    Ok(())
}

/// Returns the parameters of a pull with the stage's kernel.
pub(crate) fn pull(reference: &str, name: &str) -> Value {
    json!({"ref": reference, "name": name, "kernel_ref": KERNEL})
}

/// Returns a text field of an answer.
pub(crate) fn text(value: &Value, field: &str) -> Result<String> {
    let found = value[field].as_str();
    let found = found.with_context(|| format!("no {field} in {value}"))?;
    Ok(found.to_owned())
}

/// Returns the stable name of an error.
pub(crate) fn code(error: &RpcError) -> &str {
    error.name().unwrap_or("no code")
}
