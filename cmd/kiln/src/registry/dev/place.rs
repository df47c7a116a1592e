//! Where the development registry keeps things, and the note of what was started.
//!
//! ```text
//! <dir>/kiln-registry.json   says that the directory is a development registry's; the first start
//!                            writes it, and without it nothing here is overwritten or removed
//! <dir>/data/           what it stores
//! <dir>/config.yml      how it is configured; written at every start
//! <dir>/registry.log    what it says
//! <dir>/running.json    what was started; there while it runs
//! ```

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use kiln_api::{Failure, codes};
use kiln_files::{KeptError, open_kept, read_kept};
use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Common;
use super::engine::{self, Container, Engine};
use super::server::Server;
use crate::failure::CommandError;
use crate::session::Session;
use crate::surroundings::Surroundings;

/// Where root's is. It is not the daemon's.
const ROOTS: &str = "/var/lib/kiln-registry";

/// What a directory of ours is known by.
const MARK: &str = "kiln-registry.json";

/// Longest note, in bytes; usual ones have two hundred.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// How much of a log is looked at for its last lines, in bytes.
const LOG_TAIL_BYTES: u64 = 4 << 20;

/// From which size on a log is set aside at a start, in bytes.
const LOG_FULL_BYTES: u64 = 16 << 20;

/// How long another start or stop is waited for, in which an engine may fetch its image.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// Pause between two looks whether it is done.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What was started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its port on 127.0.0.1.
    pub(super) port: u16,
    /// What has it.
    pub(super) started: Started,
}

/// What is in one of the small files here.
#[derive(Debug)]
pub(super) enum Note<T = Record> {
    /// There is none.
    None,
    /// Something that no start here has written.
    Broken,
    /// What a start has written.
    Of(T),
}

/// What is in the file that a directory of ours is known by.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Mark {
    /// The engines that may have a volume of its; such a volume outlives containers and notes.
    #[serde(default)]
    engines: Vec<Engine>,
}

/// A registry as a process or as a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Started {
    Server(Server),
    Container(Container),
}

/// The directory.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// Finds it; nothing is made yet.
    pub(super) fn of(common: &Common, session: &Session) -> Result<Self, CommandError> {
        if let Some(directory) = &common.dir {
            return Ok(Self(std::path::absolute(directory)?));
        }
        let homes = &session.surroundings().homes;
        if homes.is_root {
            return Ok(Self(PathBuf::from(ROOTS)));
        }
        let home = || homes.home.as_ref().map(|home| home.join(".local/state"));
        let state = homes.xdg_state_home.clone().or_else(home);
        let state = state.ok_or_else(|| {
            Failure::new(
                codes::request::INVALID_PARAMS,
                "there is no home directory to keep a registry's data in",
            )
            .with_hint(
                "name a directory:",
                Some("kiln registry dev up --dir DIR".to_owned()),
            )
        })?;
        Ok(Self(state.join("kiln/registry")))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    pub(super) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.0.join("config.yml")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("registry.log")
    }

    fn note_path(&self) -> PathBuf {
        self.0.join("running.json")
    }

    /// Makes the directory, and keeps others of ours from starting or stopping anything in it.
    pub(super) fn lock(&self) -> Result<File, CommandError> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.0);
        made.map_err(at("make", &self.0))?;
        let lock = File::open(&self.0).map_err(at("open", &self.0))?;
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(at("lock", &self.0)(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    let seconds = LOCK_LIMIT.as_secs();
                    return Err(CommandError::new(
                        codes::registry::ENGINE_FAILED,
                        format!(
                            "another kiln has been starting or stopping the development registry for {seconds} s"
                        ),
                    ));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_POLL),
            }
        }
    }

    fn mark(&self) -> PathBuf {
        self.0.join(MARK)
    }

    /// Makes an empty directory the development registry's, and refuses one that is somebody's.
    pub(super) fn claim(&self) -> Result<(), CommandError> {
        self.must_be_ours()?;
        if !is_file(&self.mark()) {
            self.put(&self.mark(), &serde_json::to_vec(&Mark::default())?)?;
        }
        Ok(())
    }

    /// Returns the containers that were ever started for the directory, one of each engine. Where
    /// the mark is broken that may be any engine that is here.
    pub(super) fn containers(
        &self,
        surroundings: &Surroundings,
    ) -> Result<Vec<Container>, CommandError> {
        let is_here = |engine: &Engine| engine::find(Some(*engine), surroundings).is_ok();
        let engines = match read_json::<Mark>(&self.mark())? {
            Note::None => Vec::new(),
            Note::Of(mark) => mark.engines,
            Note::Broken => Engine::value_variants()
                .iter()
                .copied()
                .filter(is_here)
                .collect(),
        };
        let engines = engines.into_iter();
        Ok(engines
            .map(|engine| Container::of(engine, &self.0))
            .collect())
    }

    /// Notes that an engine may have a volume from now on.
    pub(super) fn note_engine(&self, engine: Engine) -> Result<(), CommandError> {
        let mut mark = match read_json(&self.mark())? {
            Note::Of(mark) => mark,
            Note::None | Note::Broken => Mark::default(),
        };
        if !mark.engines.contains(&engine) {
            mark.engines.push(engine);
            self.put(&self.mark(), &serde_json::to_vec(&mark)?)?;
        }
        Ok(())
    }

    /// Refuses a directory that has something in it and that no start here has claimed: files of
    /// the same names may be somebody's.
    pub(super) fn must_be_ours(&self) -> Result<(), CommandError> {
        let mut entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at("list", &self.0)(error)),
        };
        if is_file(&self.mark()) || entries.next().is_none() {
            return Ok(());
        }
        let message = format!(
            "{} is not a development registry's directory: it has files and no {MARK} among them",
            self.0.display()
        );
        Err(Failure::new(codes::file::WRONG_KIND, message)
            .with_hint(
                "name an empty directory, or one that an earlier start has made:",
                Some("kiln registry dev up --dir DIR".to_owned()),
            )
            .into())
    }

    /// Reads the note of what was started.
    pub(super) fn note(&self) -> Result<Note, CommandError> {
        read_json(&self.note_path())
    }

    /// Reads the note of what was started; fails when it is broken.
    pub(super) fn read(&self) -> Result<Option<Record>, CommandError> {
        match self.note()? {
            Note::None => Ok(None),
            Note::Of(record) => Ok(Some(record)),
            Note::Broken => Err(broken(&self.note_path())),
        }
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), CommandError> {
        self.put(
            &self.note_path(),
            serde_json::to_string_pretty(record)?.as_bytes(),
        )
    }

    /// Writes a file whole or not at all.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(at("write", path))
    }

    /// Makes the directory for what is stored, and writes how the registry is configured.
    pub(super) fn configure(&self, configuration: &str) -> Result<(), CommandError> {
        fs::create_dir_all(self.data()).map_err(at("make", &self.data()))?;
        self.put(&self.config(), configuration.as_bytes())
    }

    pub(super) fn forget(&self) -> Result<(), CommandError> {
        gone(&self.note_path(), fs::remove_file(self.note_path()))
    }

    /// Removes everything.
    pub(super) fn remove(&self) -> Result<(), CommandError> {
        gone(&self.data(), fs::remove_dir_all(self.data()))?;
        for file in [self.config(), self.log(), self.old_log(), self.note_path()] {
            gone(&file, fs::remove_file(&file))?;
        }
        // Whatever else somebody has put there is not ours to remove; the directory stays ours then.
        let mut others = fs::read_dir(&self.0).map_err(at("list", &self.0))?;
        if others.all(|entry| entry.is_ok_and(|entry| entry.file_name() == MARK)) {
            gone(&self.mark(), fs::remove_file(self.mark()))?;
            drop(fs::remove_dir(&self.0));
        }
        Ok(())
    }

    fn old_log(&self) -> PathBuf {
        self.0.join("registry.log.old")
    }

    /// Opens the log to add to it. One that has grown large is set aside.
    pub(super) fn open_log(&self) -> Result<File, CommandError> {
        let is_full = fs::metadata(self.log()).is_ok_and(|found| found.len() > LOG_FULL_BYTES);
        if is_full {
            fs::rename(self.log(), self.old_log()).map_err(at("set aside", &self.log()))?;
        }
        let mut options = File::options();
        // A pipe in its place would be waited for.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        options.create(true).append(true).custom_flags(flags);
        options.open(self.log()).map_err(at("open", &self.log()))
    }

    /// Returns the last lines of the log.
    pub(super) fn log_tail(&self, lines: usize) -> Result<String, CommandError> {
        let mut file = match open_kept(&self.log()) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(String::new()),
            Err(KeptError::Io(error)) => return Err(at("open", &self.log())(error)),
            Err(error) => return Err(wrong_kind(&self.log(), &error).into()),
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let from = text.lines().count().saturating_sub(lines);
        Ok(text
            .lines()
            .skip(from)
            .map(|line| line.to_owned() + "\n")
            .collect())
    }

    /// Counts what is stored, in bytes on the disk.
    pub(super) fn data_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let mut folders = vec![self.data()];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            // What goes away meanwhile is not counted.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(found) = entry.metadata() else {
                    continue;
                };
                bytes += found.blocks() * 512;
                if found.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        bytes
    }
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

fn gone(path: &Path, removed: io::Result<()>) -> Result<(), CommandError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Note<T>, CommandError> {
    let text = match read_kept(path, MAX_NOTE_BYTES) {
        Ok(text) => text,
        Err(error) if error.is_not_found() => return Ok(Note::None),
        Err(KeptError::Io(error)) => return Err(at("read", path)(error)),
        Err(_) => return Ok(Note::Broken),
    };
    Ok(serde_json::from_slice(&text).map_or(Note::Broken, Note::Of))
}

/// Says which file or directory it is, and whether it lacks rights or is not there.
pub(super) fn at(
    step: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> CommandError + use<> {
    let message = format!("cannot {step} {}", path.display());
    move |error| {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                codes::file::UNREADABLE
            }
            io::ErrorKind::NotFound => codes::file::NOT_FOUND,
            io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists => codes::file::WRONG_KIND,
            _ => codes::storage::FAILED,
        };
        let mut failure = Failure::new(code, message).with_hint(
            "take a directory of your own:",
            Some("kiln registry dev up --dir DIR".to_owned()),
        );
        failure.cause.push(error.to_string());
        failure.into()
    }
}

fn wrong_kind(path: &Path, error: &KeptError) -> Failure {
    let mut failure = Failure::new(
        codes::file::WRONG_KIND,
        format!("cannot read {}", path.display()),
    );
    failure.cause.push(error.to_string());
    failure
}

fn broken(path: &Path) -> CommandError {
    let message = format!("{} is not a note of Kiln's", path.display());
    Failure::new(codes::file::WRONG_KIND, message)
        .with_hint(
            "stop what runs there and forget it (`wipe` removes what it has as well):",
            Some("kiln registry dev down".to_owned()),
        )
        .into()
}
