//! An auth file that is changed: entries come and go, everything else stays as it was.
//!
//! ```text
//! lock the directory → read → change → write beside it (0600) → fsync → rename → fsync → unlock
//! ```
//! The lock keeps two logins of ours apart. Other tools take none, but like this replace the file
//! as a whole, so nobody ever reads half of one. Members that mean nothing here, their order and
//! the file behind a symbolic link stay.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_domain::{Credentials, LoginScope};
use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::file::{self, AuthFile, DOCKER_HUB_KEY, Form, normalised};
use crate::helper::IDENTITY_TOKEN;
use crate::keep::KeepError;
use crate::members::{Members, Node};
use crate::search::{CredentialsError, DOCKER_NAME, HELPER_TIMEOUT};

/// How long another login is waited for. It holds the lock while it asks a helper, which may take
/// its whole time, and reads and writes one file.
const LOCK_LIMIT: Duration = HELPER_TIMEOUT.saturating_add(Duration::from_secs(10));

/// Pause between two looks whether the other login is done.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Most symbolic links followed, as the kernel does (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Mode of an auth file: it holds passwords.
const FILE_MODE: u32 = 0o600;

/// Mode of a directory that is made for one.
const DIRECTORY_MODE: u32 = 0o700;

/// Members of an entry that are its proof of identity.
const PROOF: &[&str] = &["auth", "username", "password", "identitytoken"];

/// A file while it is changed; nobody else of ours changes it meanwhile.
pub(crate) struct Document {
    /// Where the bytes really are, behind links.
    file: PathBuf,
    form: Form,
    is_dockers: bool,
    members: Members,
    /// What is known about it besides.
    read: AuthFile,
    // Unlocks when it goes.
    _lock: File,
}

impl Document {
    /// Locks and reads a file, which need not exist. Its directory is made where it is missing.
    pub(crate) fn open(path: &Path, form: Form) -> Result<Self, KeepError> {
        let file = behind_links(path)?;
        let directory = file
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        builder
            .create(directory)
            .map_err(failed("make the directory", directory))?;
        let lock = lock(directory)?;
        let bytes = file::read_bytes(&file)?.unwrap_or_default();
        let read = AuthFile::parse(path, form, &bytes)?;
        let members = if bytes.trim_ascii().is_empty() {
            Ok(Members::default())
        } else {
            serde_json::from_slice(&bytes)
        };
        // The error's own text may quote passwords.
        let members = members.map_err(|error| CredentialsError::Malformed {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })?;
        Ok(Self {
            file,
            form,
            is_dockers: path.file_name().is_some_and(|name| name == DOCKER_NAME),
            members,
            read,
            _lock: lock,
        })
    }

    /// Returns what the file says.
    pub(crate) fn read(&self) -> &AuthFile {
        &self.read
    }

    /// Puts credentials into the entry of `scope`, and returns the entry's name.
    pub(crate) fn set(
        &mut self,
        scope: &LoginScope,
        credentials: &Credentials,
    ) -> Result<String, KeepError> {
        let unwritable = failed("write", &self.file);
        let key = self.key_of(scope);
        let entry = self.entry(&key);
        forget_proof(entry);
        let pair = match credentials {
            Credentials::Password { username, secret } => format!("{username}:{}", secret.expose()),
            // A user name is what docker and podman demand of every entry.
            Credentials::IdentityToken(_) => format!("{IDENTITY_TOKEN}:"),
        };
        let mut put = |name: &str, text: &str| {
            let put = entry.set(name, text);
            put.map_err(|error| unwritable(error.into()))
        };
        put("auth", &STANDARD.encode(pair))?;
        if let Credentials::IdentityToken(token) = credentials {
            put("identitytoken", token.expose())?;
        }
        Ok(key)
    }

    /// Notes that a helper has the credentials of `scope`: no secret stays, and docker finds the
    /// empty entry that it would have made itself. Says whether the file is another one now.
    pub(crate) fn set_elsewhere(&mut self, scope: &LoginScope) -> bool {
        let key = self.key_of(scope);
        let is_dockers = self.is_dockers;
        let auths = self.auths_mut();
        if !is_dockers && !auths.is_some_and(|auths| auths.has(&key)) {
            return false;
        }
        let before = self.auths_mut().and_then(|auths| auths.object_mut(&key));
        let is_bare = before.is_some_and(|entry| entry.names().all(|name| !PROOF.contains(&name)));
        forget_proof(self.entry(&key));
        !is_bare
    }

    /// Removes all entries whose names, in the form of `normalised`, are chosen.
    pub(crate) fn remove(&mut self, chosen: impl Fn(&str) -> bool) -> Removal {
        let mut removal = Removal::default();
        let Some(auths) = self.auths_mut() else {
            return removal;
        };
        auths.retain(|key, entry| {
            if !chosen(&normalised(key)) {
                return true;
            }
            if has_proof(entry) {
                removal.entries.push(key.to_owned());
            } else {
                removal.markers += 1;
            }
            false
        });
        removal
    }

    /// Writes the file anew, durably, and lets others at it again.
    pub(crate) fn save(self) -> Result<(), KeepError> {
        let write = failed("write", &self.file);
        let directory = self.file.parent().unwrap_or(Path::new("."));
        let mut bytes = Vec::new();
        // Tabs are what docker and podman indent with.
        let mut serializer =
            Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"\t"));
        let written = self.members.serialize(&mut serializer);
        written.map_err(|error| write(error.into()))?;
        bytes.push(b'\n');
        let mut new = tempfile::Builder::new()
            .prefix(".kiln-login-")
            .permissions(Permissions::from_mode(FILE_MODE))
            .tempfile_in(directory)
            .map_err(&write)?;
        new.write_all(&bytes).map_err(&write)?;
        if let Ok(before) = fs::metadata(&self.file) {
            // Root may log in for another user; who is not root keeps what is their own anyway.
            drop(fchown(&new, Some(before.uid()), Some(before.gid())));
        }
        new.as_file().sync_all().map_err(&write)?;
        new.persist(&self.file)
            .map_err(|error| write(error.error))?;
        let directory = File::open(directory).map_err(&write)?;
        directory.sync_all().map_err(&write)
    }

    /// Chooses the name of the entry: the one that would be found first, else the one that the
    /// file's own tool would take.
    fn key_of(&mut self, scope: &LoginScope) -> String {
        let wanted = scope.to_string();
        let is_dockers = self.is_dockers;
        let auths = self.auths_mut();
        let alike = auths
            .iter()
            .flat_map(|auths| auths.names())
            .filter(|key| normalised(key) == wanted);
        // The order of the search: the exact name, then the others sorted.
        match alike.min_by_key(|key| (*key != wanted, *key)) {
            Some(key) => key.to_owned(),
            None if wanted == "docker.io" && is_dockers => DOCKER_HUB_KEY.to_owned(),
            None => wanted,
        }
    }

    fn auths_mut(&mut self) -> Option<&mut Members> {
        match self.form {
            Form::Current => self.members.object_mut("auths"),
            Form::Legacy => Some(&mut self.members),
        }
    }

    /// Returns an entry, made where it is missing.
    fn entry(&mut self, key: &str) -> &mut Members {
        let auths = match self.form {
            Form::Current => self.members.object_or_new("auths"),
            Form::Legacy => &mut self.members,
        };
        auths.object_or_new(key)
    }
}

/// What was taken out of a file.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Names of entries that had credentials.
    pub(crate) entries: Vec<String>,
    /// How many entries only said that a helper has them.
    pub(crate) markers: usize,
}

impl Removal {
    /// Says whether the file is another one now.
    pub(crate) fn is_change(&self) -> bool {
        !self.entries.is_empty() || self.markers > 0
    }
}

fn forget_proof(entry: &mut Members) {
    entry.retain(|name, _| !PROOF.contains(&name));
}

fn has_proof(entry: &mut Node) -> bool {
    let mut has_proof = false;
    if let Some(members) = entry.object_mut() {
        members.retain(|name, value| {
            has_proof |= PROOF.contains(&name) && value.is_filled();
            true
        });
    }
    has_proof
}

fn lock(directory: &Path) -> Result<File, KeepError> {
    let lock = File::open(directory).map_err(failed("lock", directory))?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(source)) => return Err(failed("lock", directory)(source)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(KeepError::Busy {
                    path: directory.to_owned(),
                    after: LOCK_LIMIT,
                });
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_POLL),
        }
    }
}

/// Follows symbolic links to where the file is or, when the last one leads nowhere, is to be.
fn behind_links(named: &Path) -> Result<PathBuf, KeepError> {
    let mut path = named.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // It is no link, or not there.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(path);
            }
            Err(error) if file::is_circle(&error) => break,
            Err(source) => return Err(failed("follow", &path)(source)),
        }
    }
    let path = named.to_owned();
    Err(CredentialsError::Circle { path }.into())
}

fn failed(step: &'static str, path: &Path) -> impl Fn(io::Error) -> KeepError + use<> {
    let path = path.to_owned();
    move |source| KeepError::Io {
        step,
        path: path.clone(),
        source,
    }
}
