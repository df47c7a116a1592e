//! Takes a directory of kernel modules in, from a tar stream or from a directory.
//!
//! Only directories, regular files and symbolic links that stay inside are taken. The links
//! `build` and `source` at the top point to where the kernel was built, which nothing needs at
//! boot: they are left out. Owners, times and modes are left out, too. Not here: which modules
//! an initrd gets.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_files::{Directory, FileError, at};
use rustix::fs::FileType;

use crate::archive::{Archive, ArchiveError, Entry, Kind};

/// Bytes moved between two looks at the cancel flag.
const BUFFER_BYTES: usize = 256 << 10;
/// Links at the top of a module directory that are left out.
const DEVELOPMENT_LINKS: [&str; 2] = ["build", "source"];
/// Deepest nesting that is taken.
pub(crate) const MAX_DEPTH: usize = 32;

/// What a directory of modules may hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModulesLimits {
    /// Number of files, directories and links.
    pub entries: u64,
    /// Length of all files together, in bytes.
    pub bytes: u64,
}

impl Default for ModulesLimits {
    /// Far above the largest distribution: about 7,000 modules with 6 GiB of debug data.
    fn default() -> Self {
        Self {
            entries: 100_000,
            bytes: 8 << 30,
        }
    }
}

/// What was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModulesStaged {
    /// Number of regular files.
    pub files: u64,
    /// Length of all of them, in bytes.
    pub bytes: u64,
}

/// One entry of a directory of modules.
#[derive(Debug)]
pub struct ModulesEntry {
    /// The names that lead to it from the top; none of them is `.` or `..` or holds a slash.
    pub path: Vec<OsString>,
    /// What it is.
    pub kind: ModulesEntryKind,
}

/// What an entry of a directory of modules is.
pub enum ModulesEntryKind {
    /// A directory.
    Directory,
    /// A symbolic link, and what it says.
    Link(OsString),
    /// A regular file.
    File {
        /// Its length, in bytes.
        size_bytes: u64,
        /// Its content.
        body: Box<dyn Read + Send>,
    },
    /// Anything else, which is not taken.
    Other,
}

impl fmt::Debug for ModulesEntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "Directory",
            Self::Link(_) => "Link(..)",
            Self::File { .. } => "File(..)",
            Self::Other => "Other",
        })
    }
}

/// Why modules could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// There is more than is accepted.
    #[error("there are more than {} entries or {} bytes of modules", limits.entries, limits.bytes)]
    TooMuch {
        /// The most that is accepted.
        limits: ModulesLimits,
    },
    /// Something in it is no directory, regular file or link that stays inside.
    #[error("{} cannot be taken in: {what}", path.display())]
    Refused {
        /// What it is called, from the top of the modules.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The tar stream is damaged or broke off.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ModulesError {
    /// Says whether the cause is a full disk or an exceeded quota: freeing space helps.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::File(error) if error.is_no_space())
    }
}

/// Writes the modules of a tar stream, whose entries are relative to their top, into the
/// existing empty directory `into`.
///
/// The stream is read to its end. On failure `into` holds a part of it. A stream that blocks is
/// not cancelled by the flag: whoever holds its other end closes it.
pub fn stage_modules_from_tar(
    stream: impl Read,
    into: &Path,
    limits: ModulesLimits,
    cancelled: &AtomicBool,
) -> Result<ModulesStaged, ModulesError> {
    let mut writer = ModulesWriter::new(Directory::open(into)?, limits, cancelled);
    let mut archive = Archive::new(Cancellable { stream, cancelled });
    let stopped = |error: ArchiveError| {
        if cancelled.load(Ordering::Relaxed) {
            let path = into.to_owned();
            return FileError::Cancelled { path }.into();
        }
        ModulesError::from(error)
    };
    while let Some(entry) = archive.next_entry().map_err(stopped)? {
        writer.add(&entry, &mut archive.body())?;
    }
    Ok(writer.finish())
}

/// Writes modules that come one by one into the existing empty directory `into`. On failure
/// `into` holds a part of them.
pub fn stage_modules_from_entries(
    entries: impl Iterator<Item = ModulesEntry>,
    into: &Path,
    limits: ModulesLimits,
    cancelled: &AtomicBool,
) -> Result<ModulesStaged, ModulesError> {
    let mut writer = ModulesWriter::new(Directory::open(into)?, limits, cancelled);
    for ModulesEntry { path, kind } in entries {
        if path.iter().any(|name| !is_plain_name(name)) {
            return Err(refused(&path, "it leads elsewhere"));
        }
        match kind {
            ModulesEntryKind::Directory => writer.add_directory(&path)?,
            ModulesEntryKind::Link(target) => writer.add_link(&path, &target)?,
            ModulesEntryKind::File {
                size_bytes,
                mut body,
            } => writer.add_stream(&path, size_bytes, &mut body)?,
            ModulesEntryKind::Other => {
                return Err(refused(&path, "it is a device, a pipe or a socket"));
            }
        }
    }
    Ok(writer.finish())
}

/// Copies the modules of a directory into the existing empty directory `into`.
///
/// For directories that a trusted caller names: they are walked with our own rights. Links below
/// it are copied, never followed.
pub fn stage_modules_from_dir(
    from: &Path,
    into: &Path,
    limits: ModulesLimits,
    cancelled: &AtomicBool,
) -> Result<ModulesStaged, ModulesError> {
    // The path itself may lead over links: /lib is one on most systems.
    let from = from.canonicalize().map_err(at("open", from))?;
    let mut writer = ModulesWriter::new(Directory::open(into)?, limits, cancelled);
    copy_tree(
        &Directory::open(&from)?,
        &mut Vec::new(),
        &mut writer,
        Way::Copy,
    )?;
    Ok(writer.finish())
}

/// Puts modules of our own, which nobody changes any more, into the existing empty directory `into`:
/// each file gets a second name there, and is copied only where it can have none. So a thousand of them
/// cost neither time nor room.
pub(crate) fn share_modules(
    from: &Directory,
    into: &Path,
    limits: ModulesLimits,
    cancelled: &AtomicBool,
) -> Result<ModulesStaged, ModulesError> {
    let mut writer = ModulesWriter::new(Directory::open(into)?, limits, cancelled);
    copy_tree(from, &mut Vec::new(), &mut writer, Way::Share)?;
    Ok(writer.finish())
}

/// How a file of one directory gets into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As a copy of its own.
    Copy,
    /// Under a second name, where it can have one.
    Share,
}

fn copy_tree(
    from: &Directory,
    path: &mut Vec<OsString>,
    writer: &mut ModulesWriter<'_>,
    way: Way,
) -> Result<(), ModulesError> {
    for name in from.names()? {
        path.push(name.clone());
        match from.kind_of(&name)? {
            Some(FileType::Directory) => {
                writer.add_directory(path)?;
                copy_tree(&from.open_child(&name)?, path, writer, way)?;
            }
            Some(FileType::Symlink) => writer.add_link(path, &from.read_link(&name)?)?,
            Some(FileType::RegularFile) => {
                let Some(file) = from.open_file(&name)? else {
                    return Err(refused(path, "it vanished"));
                };
                let is_shared = way == Way::Share && writer.add_shared(path, from, &file)?;
                if !is_shared {
                    writer.add_copy(path, &file)?;
                }
            }
            Some(_) => return Err(refused(path, "it is a device, a pipe or a socket")),
            None => return Err(refused(path, "it vanished")),
        }
        path.pop();
    }
    Ok(())
}

/// Writes a module directory entry by entry, below one open directory and nowhere else.
#[derive(Debug)]
pub(crate) struct ModulesWriter<'a> {
    root: Directory,
    limits: ModulesLimits,
    cancelled: &'a AtomicBool,
    entries: u64,
    staged: ModulesStaged,
}

impl<'a> ModulesWriter<'a> {
    pub(crate) fn new(root: Directory, limits: ModulesLimits, cancelled: &'a AtomicBool) -> Self {
        Self {
            root,
            limits,
            cancelled,
            entries: 0,
            staged: ModulesStaged::default(),
        }
    }

    pub(crate) fn finish(self) -> ModulesStaged {
        self.staged
    }

    pub(crate) fn add(&mut self, entry: &Entry, body: &mut impl Read) -> Result<(), ModulesError> {
        match &entry.kind {
            Kind::Directory => self.add_directory(&entry.components),
            Kind::Link { target } => self.add_link(&entry.components, target),
            Kind::Regular { size_bytes } => self.add_stream(&entry.components, *size_bytes, body),
            Kind::Other => Err(refused(
                &entry.components,
                "it is a hard link, a device or a pipe",
            )),
        }
    }

    fn add_directory(&mut self, path: &[OsString]) -> Result<(), ModulesError> {
        self.count(path, 0)?;
        self.open_below(path).map(drop)
    }

    fn add_link(&mut self, path: &[OsString], target: &OsStr) -> Result<(), ModulesError> {
        if matches!(path, [name] if DEVELOPMENT_LINKS.iter().any(|link| name == link)) {
            return Ok(());
        }
        self.count(path, 0)?;
        let (parent, name) = self.parent_of(path)?;
        if !stays_inside(target, path.len() - 1) {
            return Err(refused(path, "it is a link that leads outside"));
        }
        Ok(parent.create_link(name, target)?)
    }

    fn add_stream(
        &mut self,
        path: &[OsString],
        size_bytes: u64,
        body: &mut impl Read,
    ) -> Result<(), ModulesError> {
        self.count(path, size_bytes)?;
        let (parent, name) = self.parent_of(path)?;
        let target = parent.create_file(name)?;
        self.write_body(&target, &parent.child_path(name), body)?;
        self.count_file(size_bytes);
        Ok(())
    }

    fn write_body(
        &self,
        mut target: &File,
        target_path: &Path,
        body: &mut impl Read,
    ) -> Result<(), ModulesError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(FileError::Cancelled {
                    path: target_path.to_owned(),
                }
                .into());
            }
            let read = body
                .read(&mut buffer)
                .map_err(|source| ArchiveError::Read { source })?;
            if read == 0 {
                return Ok(());
            }
            target
                .write_all(&buffer[..read])
                .map_err(at("write", target_path))?;
        }
    }

    fn add_copy(&mut self, path: &[OsString], source: &File) -> Result<(), ModulesError> {
        let (parent, name) = self.parent_of(path)?;
        let size_bytes = source
            .metadata()
            .map_err(at("examine", parent.child_path(name)))?
            .len();
        self.count(path, size_bytes)?;
        let (_, copied) = parent.copy_in(source, name, self.cancelled)?;
        self.count_file(copied.size_bytes);
        Ok(())
    }

    /// Gives a file a second name here; says whether it could have one.
    fn add_shared(
        &mut self,
        path: &[OsString],
        from: &Directory,
        file: &File,
    ) -> Result<bool, ModulesError> {
        let (parent, name) = self.parent_of(path)?;
        if self.cancelled.load(Ordering::Relaxed) {
            let path = parent.child_path(name);
            return Err(FileError::Cancelled { path }.into());
        }
        let size_bytes = file
            .metadata()
            .map_err(at("examine", parent.child_path(name)))?
            .len();
        let is_shared = parent.share_in(from, name, name)?;
        if is_shared {
            self.count(path, size_bytes)?;
            self.count_file(size_bytes);
        }
        Ok(is_shared)
    }

    fn count_file(&mut self, size_bytes: u64) {
        self.staged.files += 1;
        self.staged.bytes += size_bytes;
    }

    /// Counts one entry before anything of it is written.
    fn count(&mut self, path: &[OsString], size_bytes: u64) -> Result<(), ModulesError> {
        if path.len() > MAX_DEPTH {
            return Err(refused(path, "it is nested too deeply"));
        }
        self.entries += 1;
        let bytes = self.staged.bytes.checked_add(size_bytes);
        let too_long = bytes.is_none_or(|bytes| bytes > self.limits.bytes);
        if too_long || self.entries > self.limits.entries {
            return Err(ModulesError::TooMuch {
                limits: self.limits,
            });
        }
        Ok(())
    }

    /// Opens the directory an entry goes into, and returns it with the entry's own name.
    fn parent_of<'p>(&self, path: &'p [OsString]) -> Result<(Directory, &'p OsStr), ModulesError> {
        match path.split_last() {
            Some((name, parents)) => Ok((self.open_below(parents)?, name)),
            None => Err(refused(path, "the top is a directory")),
        }
    }

    /// Opens a directory below the root, component by component and over no link, creating what
    /// is missing.
    fn open_below(&self, path: &[OsString]) -> Result<Directory, ModulesError> {
        let mut directory = self.root.reopen()?;
        for name in path {
            directory = directory.open_or_create_child(name)?;
        }
        Ok(directory)
    }
}

fn is_plain_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/') && !bytes.contains(&0)
}

/// Says whether a link `depth` directories below the top can only lead to something inside.
///
/// Climbing is allowed in front only. Links are created in real directories, so leading `..`
/// climb what is known; behind a name they would climb from wherever another link leads.
fn stays_inside(target: &OsStr, depth: usize) -> bool {
    let bytes = target.as_bytes();
    if bytes.is_empty() || bytes.starts_with(b"/") || bytes.contains(&0) {
        return false;
    }
    let parts: Vec<&[u8]> = bytes
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    let climbs = parts.iter().take_while(|part| **part == b"..").count();
    climbs <= depth && !parts[climbs..].contains(&&b".."[..])
}

/// A stream that gives up when the caller asks to stop, also between entries.
#[derive(Debug)]
struct Cancellable<'a, R> {
    stream: R,
    cancelled: &'a AtomicBool,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        self.stream.read(buffer)
    }
}

fn refused(path: &[OsString], what: &'static str) -> ModulesError {
    ModulesError::Refused {
        path: path.iter().collect(),
        what,
    }
}

#[cfg(test)]
mod tests;
