//! The key: given by whoever starts the daemon, or kept in a file of its own.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::{digest, rand};
use kiln_files::{KeptError, open_kept};

/// Fewest bytes of a key, which is what the cipher takes. A longer one is hashed.
const MIN_BYTES: usize = 32;

/// Most bytes read of a key.
const MAX_BYTES: u64 = 4096;

/// Mode bits that let others at a file.
const OTHERS: u32 = 0o077;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is not there, and something was sealed with what it held.
    #[error("the key {} is gone, and with it what was sealed with it", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read the file.
    #[error("the key {} may be read by others (mode {mode:o})", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There are too few bytes to keep a secret with.
    #[error("the key has {found} bytes, {MIN_BYTES} at least are needed")]
    Short {
        /// How many there are.
        found: usize,
    },
    /// The file could not be read or made.
    #[error("cannot {step} the key {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A key's bytes. Not shown by `Debug`.
#[derive(Clone)]
pub(crate) struct Key([u8; MIN_BYTES]);

/// Where the key is.
#[derive(Clone)]
pub struct KeySource(Place);

#[derive(Clone)]
enum Place {
    Given(Key),
    File(PathBuf),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Given(_) => f.write_str("KeySource(***)"),
            Place::File(path) => write!(f, "KeySource({})", path.display()),
        }
    }
}

impl KeySource {
    /// Takes a key that somebody else keeps, such as a credential of systemd's.
    pub fn given(bytes: &[u8]) -> Result<Self, KeyError> {
        Ok(Self(Place::Given(Key::of(bytes)?)))
    }

    /// Names the file that has the key, or is to have it once something is sealed.
    pub fn file(path: PathBuf) -> Self {
        Self(Place::File(path))
    }

    pub(crate) fn key(&self) -> Result<Key, KeyError> {
        match &self.0 {
            Place::Given(key) => Ok(key.clone()),
            Place::File(path) => {
                read(path)?.ok_or_else(|| KeyError::Missing { path: path.clone() })
            }
        }
    }

    pub(crate) fn key_or_new(&self) -> Result<Key, KeyError> {
        match &self.0 {
            Place::Given(key) => Ok(key.clone()),
            Place::File(path) => match read(path)? {
                Some(key) => Ok(key),
                None => make(path),
            },
        }
    }
}

impl Key {
    fn of(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() < MIN_BYTES {
            return Err(KeyError::Short { found: bytes.len() });
        }
        // Whatever its form, text or bytes, the cipher gets 256 bits of it.
        let hash = digest::digest(&digest::SHA256, bytes);
        let mut key = [0; MIN_BYTES];
        key.copy_from_slice(hash.as_ref());
        Ok(Self(key))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn read(path: &Path) -> Result<Option<Key>, KeyError> {
    let failed = io_error("read", path);
    let file = match open_kept(path) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(KeptError::Io(error)) => return Err(failed(error)),
        Err(error) => return Err(failed(io::Error::other(error))),
    };
    let mode = file.metadata().map_err(&failed)?.mode();
    if mode & OTHERS != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode: mode & 0o7777,
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Key::of(&bytes).map(Some)
}

/// Makes the file, whole or not at all. Of two at once the first wins.
fn make(path: &Path) -> Result<Key, KeyError> {
    let failed = io_error("make", path);
    let mut bytes = [0; MIN_BYTES];
    rand::fill(&mut bytes).map_err(|_| failed(io::Error::other("there is no randomness")))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".key-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .map_err(&failed)?;
    file.write_all(&bytes).map_err(&failed)?;
    file.as_file().sync_all().map_err(&failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error.error)),
    }
    // What is sealed next is worth nothing without it.
    let folder = File::open(folder).map_err(&failed)?;
    folder.sync_all().map_err(&failed)?;
    read(path)?.ok_or_else(|| KeyError::Missing {
        path: path.to_owned(),
    })
}

fn io_error(step: &'static str, path: &Path) -> impl Fn(io::Error) -> KeyError + use<> {
    let path = path.to_owned();
    move |source| KeyError::Io {
        step,
        path: path.clone(),
        source,
    }
}
