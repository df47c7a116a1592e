//! Reads the kernel out of a Debian package.
//!
//! ```text
//! "!<arch>\n" │ debian-binary: "2.0\n" │ control.tar.* │ data.tar{,.gz,.xz,.zst}
//!                                                          boot/vmlinuz-<release>
//!                                                          boot/config-<release>
//!                                                          lib/modules/<release>/…
//! ```
//!
//! Nothing else of the package is looked at, and none of its scripts is run. Source: deb(5).
//! Not here: signatures and dependencies.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_files::{Directory, FileError, at};

use crate::archive::{Archive, ArchiveError, Entry, Kind};
use crate::compression::Streams;
use crate::facts::Compression;
use crate::modules::{ModulesError, ModulesLimits, ModulesStaged, ModulesWriter};
use crate::name::{CONFIG, KERNEL, MODULES};
use crate::source::{MAX_KERNEL_BYTES, Section};

const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
const AR_HEADER_BYTES: usize = 60;
/// Most members of a package; it has three, and may have some that begin with an underscore.
const MAX_MEMBERS: usize = 16;
/// Longest package, in bytes: the debug kernels of Debian stay below 1 GiB.
const MAX_PACKAGE_BYTES: u64 = 2 << 30;
/// Longest configuration of a kernel, in bytes; Debian's has 120 KiB.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Longest data archive once it is unpacked, in bytes.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;

/// Why a Debian package gave no kernel.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// It is no Debian package, or a damaged one.
    #[error("this is not a Debian package: {what}")]
    NotAPackage {
        /// The rule that is broken.
        what: &'static str,
    },
    /// It is packed in a way that Kiln does not unpack.
    #[error("packages with {member} are not supported")]
    Unsupported {
        /// The member that holds the files.
        member: String,
    },
    /// It holds no kernel, or more than one.
    #[error("the package does not hold one kernel: {what}")]
    NotOneKernel {
        /// What is missing or too much.
        what: &'static str,
    },
    /// A file in it, or all of them together, are longer than those of any kernel package.
    #[error("{what} in the package is longer than {limit_bytes} bytes")]
    TooLarge {
        /// Which file.
        what: &'static str,
        /// The longest that is accepted.
        limit_bytes: u64,
    },
    /// The package could not be read.
    #[error("cannot read the package")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// Its files are damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Its modules cannot be taken in.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl DebError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::File(error) => error.is_no_space(),
            Self::Modules(error) => error.is_no_space(),
            _ => false,
        }
    }
}

/// A Debian package whose members were found.
#[derive(Debug)]
pub struct DebPackage<'a> {
    file: &'a File,
    start: u64,
    end: u64,
    compression: Option<Compression>,
}

/// What was taken out of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebKernel {
    /// The release in the names of the files: what `uname -r` will print.
    pub release: String,
    /// Where the configuration is, when there is one.
    pub config: Option<PathBuf>,
    /// The modules, when there are some.
    pub modules: Option<ModulesStaged>,
}

impl<'a> DebPackage<'a> {
    /// Finds the members of a package. Its file position is neither used nor changed.
    pub fn open(file: &'a File) -> Result<Self, DebError> {
        let metadata = file.metadata().map_err(cannot_read)?;
        if !metadata.is_file() {
            return Err(not_a_package("it is not a regular file"));
        }
        if metadata.len() > MAX_PACKAGE_BYTES {
            return Err(DebError::TooLarge {
                what: "everything",
                limit_bytes: MAX_PACKAGE_BYTES,
            });
        }
        let members = Members::open(file, metadata.len())?;
        members.check_version()?;
        members.data()
    }

    /// Writes `kernel`, and `config` and `modules/` when there are some, into the existing empty
    /// directory `into`. On failure it holds a part of them.
    pub fn extract_kernel(
        &self,
        into: &Path,
        limits: ModulesLimits,
        cancelled: &AtomicBool,
    ) -> Result<DebKernel, DebError> {
        let input = Section::of(self.file, self.start, self.end);
        let unpacked: Box<dyn Read + '_> = match self.compression {
            None => Box::new(input),
            Some(compression) => compression
                .decoder(input, Streams::All)
                .map_err(cannot_read)?,
        };
        let mut archive = Archive::new(Bounded {
            input: unpacked,
            left: MAX_UNPACKED_BYTES,
            cancelled,
        });
        let mut extraction = Extraction::new(Directory::open(into)?, limits, cancelled);
        let stopped = |error: ArchiveError| {
            if cancelled.load(Ordering::Relaxed) {
                let path = into.to_owned();
                return FileError::Cancelled { path }.into();
            }
            DebError::from(error)
        };
        while let Some(entry) = archive.next_entry().map_err(stopped)? {
            extraction.add(&entry, &mut archive.body())?;
        }
        extraction.finish()
    }
}

/// The members of an ar archive: name, start and end.
struct Members<'a> {
    file: &'a File,
    found: Vec<(String, u64, u64)>,
}

impl<'a> Members<'a> {
    fn open(file: &'a File, size_bytes: u64) -> Result<Self, DebError> {
        let mut found = Vec::new();
        let magic: [u8; 8] = bytes_at(file, 0)?;
        if &magic != AR_MAGIC {
            return Err(not_a_package("it does not begin like one"));
        }
        let mut at = AR_MAGIC.len() as u64;
        while at < size_bytes {
            if found.len() == MAX_MEMBERS {
                return Err(not_a_package("it has too many members"));
            }
            let header: [u8; AR_HEADER_BYTES] = bytes_at(file, at)?;
            if !header.ends_with(b"`\n") {
                return Err(not_a_package("a member's header is damaged"));
            }
            let start = at + AR_HEADER_BYTES as u64;
            let length = ar_length(&header[48..58])
                .ok_or_else(|| not_a_package("a member's length is no number"))?;
            let end = start + length;
            if end > size_bytes {
                return Err(not_a_package("it is cut short"));
            }
            found.push((ar_name(&header[..16])?, start, end));
            at = end.next_multiple_of(2);
        }
        Ok(Self { file, found })
    }

    /// Checks the first member, which holds the version of the format.
    fn check_version(&self) -> Result<(), DebError> {
        let wrong = || not_a_package("it does not say that its format is 2.0");
        match self.found.first() {
            Some((name, start, end)) if name == "debian-binary" && end - start >= 4 => {
                let version: [u8; 4] = bytes_at(self.file, *start)?;
                if version.starts_with(b"2.") {
                    Ok(())
                } else {
                    Err(wrong())
                }
            }
            _ => Err(wrong()),
        }
    }

    /// Finds the data archive: the third member, those that begin with an underscore left out.
    fn data(&self) -> Result<DebPackage<'a>, DebError> {
        let mut members = self
            .found
            .iter()
            .skip(1)
            .filter(|(name, ..)| !name.starts_with('_'));
        let control = members.next().map(|(name, ..)| name.as_str());
        if !control.is_some_and(|name| name.starts_with("control.tar")) {
            return Err(not_a_package("its control archive is missing"));
        }
        let Some((name, start, end)) = members.next() else {
            return Err(not_a_package("its data archive is missing"));
        };
        let compression = match name.as_str() {
            "data.tar" => None,
            "data.tar.gz" => Some(Compression::Gzip),
            "data.tar.xz" => Some(Compression::Xz),
            "data.tar.zst" => Some(Compression::Zstd),
            name if name.starts_with("data.tar") => {
                return Err(DebError::Unsupported {
                    member: name.to_owned(),
                });
            }
            _ => return Err(not_a_package("its data archive is missing")),
        };
        Ok(DebPackage {
            file: self.file,
            start: *start,
            end: *end,
            compression,
        })
    }
}

/// Takes the files of one kernel out of a data archive, and lets the rest pass.
struct Extraction<'a> {
    into: Directory,
    limits: ModulesLimits,
    cancelled: &'a AtomicBool,
    /// The release that the first file of the kernel named; the others must agree.
    release: Option<OsString>,
    kernel: bool,
    config: Option<PathBuf>,
    modules: Option<ModulesWriter<'a>>,
}

impl<'a> Extraction<'a> {
    fn new(into: Directory, limits: ModulesLimits, cancelled: &'a AtomicBool) -> Self {
        Self {
            into,
            limits,
            cancelled,
            release: None,
            kernel: false,
            config: None,
            modules: None,
        }
    }

    fn add(&mut self, entry: &Entry, body: &mut impl Read) -> Result<(), DebError> {
        let text: Vec<Option<&str>> = entry.components.iter().map(|part| part.to_str()).collect();
        match text.as_slice() {
            [Some("boot"), Some(name)] => {
                if let Some(release) = name.strip_prefix("vmlinuz-") {
                    self.agree_on(release.as_ref())?;
                    self.write(KERNEL, MAX_KERNEL_BYTES, entry, body)?;
                    self.kernel = true;
                } else if let Some(release) = name.strip_prefix("config-") {
                    self.agree_on(release.as_ref())?;
                    let path = self.write(CONFIG, MAX_CONFIG_BYTES, entry, body)?;
                    self.config = Some(path);
                }
                Ok(())
            }
            [Some("lib"), Some("modules"), _, ..] => self.add_module(2, entry, body),
            [Some("usr"), Some("lib"), Some("modules"), _, ..] => self.add_module(3, entry, body),
            _ => Ok(()),
        }
    }

    fn add_module(
        &mut self,
        depth: usize,
        entry: &Entry,
        body: &mut impl Read,
    ) -> Result<(), DebError> {
        let Some((release, components)) = entry
            .components
            .get(depth..)
            .and_then(<[OsString]>::split_first)
        else {
            return Ok(());
        };
        self.agree_on(release)?;
        if components.is_empty() {
            // The directory itself, which the first thing in it creates.
            return Ok(());
        }
        let entry = Entry {
            components: components.to_vec(),
            kind: entry.kind.clone(),
        };
        Ok(self.modules_writer()?.add(&entry, body)?)
    }

    fn modules_writer(&mut self) -> Result<&mut ModulesWriter<'a>, DebError> {
        if self.modules.is_none() {
            let root = self.into.create_child(MODULES)?;
            self.modules = Some(ModulesWriter::new(root, self.limits, self.cancelled));
        }
        match &mut self.modules {
            Some(writer) => Ok(writer),
            None => Err(not_one("its modules cannot be written")),
        }
    }

    /// Writes a regular file of the package under a name of ours.
    fn write(
        &self,
        name: &'static str,
        limit_bytes: u64,
        entry: &Entry,
        body: &mut impl Read,
    ) -> Result<PathBuf, DebError> {
        match entry.kind {
            Kind::Regular { size_bytes } if size_bytes <= limit_bytes => {}
            Kind::Regular { .. } => {
                return Err(DebError::TooLarge {
                    what: name,
                    limit_bytes,
                });
            }
            _ => return Err(not_one("its kernel is not a regular file")),
        }
        let path = self.into.child_path(name);
        let mut file = self.into.create_file(name.as_ref())?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = body.read(&mut buffer).map_err(cannot_read)?;
            if read == 0 {
                return Ok(path);
            }
            file.write_all(&buffer[..read])
                .map_err(at("write", &path))?;
        }
    }

    fn agree_on(&mut self, release: &OsStr) -> Result<(), DebError> {
        match &self.release {
            Some(known) if known != release => Err(not_one("its files name more than one release")),
            Some(_) => Ok(()),
            None => {
                self.release = Some(release.to_owned());
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<DebKernel, DebError> {
        let release = self.release.and_then(|release| release.into_string().ok());
        match release {
            Some(release) if self.kernel => Ok(DebKernel {
                release,
                config: self.config,
                modules: self.modules.map(ModulesWriter::finish),
            }),
            _ => Err(not_one("boot/vmlinuz-<release> is missing")),
        }
    }
}

/// A reader that ends in an error once too much came or the caller asks to stop.
struct Bounded<'a, R> {
    input: R,
    left: u64,
    cancelled: &'a AtomicBool,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        let read = self.input.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other("more files than any kernel package has")),
        }
        Ok(read)
    }
}

fn bytes_at<const N: usize>(file: &File, at: u64) -> Result<[u8; N], DebError> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(not_a_package("it is cut short"))
        }
        Err(error) => Err(cannot_read(error)),
    }
}

/// Reads a decimal number of at most ten digits, which spaces fill up.
fn ar_length(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_end_matches(' ');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn ar_name(field: &[u8]) -> Result<String, DebError> {
    let text = std::str::from_utf8(field).map_err(|_| not_a_package("a member has a bad name"))?;
    let name = text.trim_end_matches(' ');
    Ok(name.strip_suffix('/').unwrap_or(name).to_owned())
}

fn not_a_package(what: &'static str) -> DebError {
    DebError::NotAPackage { what }
}

fn not_one(what: &'static str) -> DebError {
    DebError::NotOneKernel { what }
}

fn cannot_read(source: io::Error) -> DebError {
    DebError::Read { source }
}

#[cfg(test)]
mod tests;
