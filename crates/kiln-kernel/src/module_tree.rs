//! A directory of kernel modules, by the names of the modules in it.
//!
//! ```text
//! <tree>/kernel/drivers/block/virtio_blk.ko       also .ko.gz, .ko.xz and .ko.zst
//! <tree>/updates/…                                goes before a module of the same name elsewhere
//! <tree>/modules.builtin                          modules the kernel has inside, a path a line
//! <tree>/modules.builtin.modinfo                  what they say about themselves
//! ```
//!
//! The files that `depmod` makes are not looked at: a kernel package has none of them. Source:
//! `Documentation/kbuild/kbuild.rst` of the kernel, depmod.d(5). The order of loading is not here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_files::{Directory, FileError, at};
use rustix::fs::FileType;

use crate::compression::Streams;
use crate::facts::Compression;
use crate::modinfo::{ModinfoError, ModuleFacts, module_name};

/// Longest module, unpacked, in bytes. Graphics drivers with debug data reach half of it.
const MAX_MODULE_BYTES: u64 = 128 << 20;
/// Longest list of what is built in, in bytes.
const MAX_LIST_BYTES: u64 = 16 << 20;
/// Deepest nesting that is looked at.
const MAX_DEPTH: usize = 32;
/// Most files and directories.
const MAX_ENTRIES: usize = 100_000;
/// The directory whose modules go before all others (the default of depmod.d(5)).
const PREFERRED: &str = "updates";

/// Names of modules: which are files, and which the kernel has inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleNames {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// Where a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence<'a> {
    /// Inside the kernel.
    BuiltIn,
    /// In this file, as seen from the top of the tree.
    File(&'a Path),
    /// Nowhere.
    Absent,
}

/// A directory of modules, open.
#[derive(Debug)]
pub struct ModuleTree {
    directory: Directory,
    names: ModuleNames,
    /// Names by alias, of modules that are built in.
    built_in_aliases: BTreeMap<String, BTreeSet<String>>,
    /// The same of all files, once somebody asked.
    aliases: Option<BTreeMap<String, BTreeSet<String>>>,
}

/// Why modules could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ModuleTreeError {
    /// There are more files than any kernel has.
    #[error("there are more than {MAX_ENTRIES} files, or more than {MAX_DEPTH} levels, in {}", path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
    /// A file is longer than any of its kind.
    #[error("{} is longer than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The longest that is accepted.
        limit_bytes: u64,
    },
    /// A file is no module that Kiln understands.
    #[error("{} is not understood", path.display())]
    NotAModule {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ModinfoError,
    },
    /// A module cannot be unpacked.
    #[error("cannot unpack {}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        source: io::Error,
    },
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ModuleNames {
    /// Collects paths of module files and of modules that are built in. Of two files of one name,
    /// one in `updates/` wins, and otherwise the first.
    pub fn new<'a>(
        files: impl IntoIterator<Item = &'a Path>,
        built_in: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut names = Self::default();
        for path in files {
            names.add_file(path);
        }
        let stems = built_in.into_iter().map(Path::new).filter_map(stem);
        names.built_in.extend(stems);
        names
    }

    /// Says where a module is.
    pub fn presence(&self, name: &str) -> Presence<'_> {
        if let Some(path) = self.files.get(name) {
            Presence::File(path)
        } else if self.built_in.contains(name) {
            Presence::BuiltIn
        } else {
            Presence::Absent
        }
    }

    fn add_file(&mut self, path: &Path) {
        let Some(name) = stem(path) else {
            return;
        };
        let is_better = match self.files.get(&name) {
            None => true,
            Some(known) => path.starts_with(PREFERRED) && !known.starts_with(PREFERRED),
        };
        if is_better {
            self.files.insert(name, path.to_owned());
        }
    }
}

impl ModuleTree {
    /// Opens what `/lib/modules/<release>` is on a system, and looks for names. Links in it are
    /// not followed.
    pub fn open(path: &Path, cancelled: &AtomicBool) -> Result<Self, ModuleTreeError> {
        let directory = Directory::open(path)?;
        let mut files = Vec::new();
        let mut left = MAX_ENTRIES;
        walk(&directory, Path::new(""), &mut files, &mut left, cancelled)?;
        let list = |name: &str| read_list(&directory, name);
        let built_in = list("modules.builtin")?;
        let mut names = ModuleNames::new(files.iter().map(PathBuf::as_path), built_in.lines());
        let mut built_in_aliases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entry in list("modules.builtin.modinfo")?.split('\0') {
            let Some((key, value)) = entry.split_once('=') else {
                continue;
            };
            let Some((module, key)) = key.split_once('.') else {
                continue;
            };
            let Some(module) = module_name(module) else {
                continue;
            };
            if key == "alias" {
                let modules = built_in_aliases.entry(value.replace('-', "_")).or_default();
                modules.insert(module.clone());
            }
            names.built_in.insert(module);
        }
        Ok(Self {
            directory,
            names,
            built_in_aliases,
            aliases: None,
        })
    }

    /// Returns the names of all modules.
    pub fn names(&self) -> &ModuleNames {
        &self.names
    }

    /// Returns the content of a module's file, unpacked.
    ///
    /// `path` is one that [`ModuleNames::presence`] gave.
    pub fn content(&self, path: &Path) -> Result<Vec<u8>, ModuleTreeError> {
        let shown = self.directory.child_path(path);
        let mut names: Vec<&OsStr> = path.iter().collect();
        let file_name = names.pop().unwrap_or_default();
        let mut directory = self.directory.reopen()?;
        for name in names {
            directory = directory.open_child(name)?;
        }
        let missing = || at("open", &shown)(rustix::io::Errno::NOENT);
        let file = directory.open_file(file_name)?.ok_or_else(missing)?;
        unpack(&file, &shown)
    }

    /// Returns what a module's file says about the module.
    pub fn facts(&self, path: &Path) -> Result<ModuleFacts, ModuleTreeError> {
        let module = self.content(path)?;
        ModuleFacts::parse(&module).map_err(|source| ModuleTreeError::NotAModule {
            path: self.directory.child_path(path),
            source,
        })
    }

    /// Returns the modules that answer to an alias; all are to be tried, as modprobe does.
    ///
    /// Nothing but the modules themselves tells, so the first question about an alias that is not
    /// built in reads all of them.
    pub fn providers(&mut self, alias: &str) -> Result<Vec<String>, ModuleTreeError> {
        let alias = alias.replace('-', "_");
        if let Some(names) = self.built_in_aliases.get(&alias) {
            return Ok(names.iter().cloned().collect());
        }
        let aliases = match self.aliases.take() {
            Some(aliases) => aliases,
            None => self.read_aliases()?,
        };
        let found = aliases.get(&alias);
        let found = found.map(|names| names.iter().cloned().collect());
        self.aliases = Some(aliases);
        Ok(found.unwrap_or_default())
    }

    fn read_aliases(&self) -> Result<BTreeMap<String, BTreeSet<String>>, ModuleTreeError> {
        let mut aliases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, path) in &self.names.files {
            let facts = match self.facts(path) {
                // What is not wanted need not be understood.
                Err(ModuleTreeError::NotAModule { .. } | ModuleTreeError::Corrupt { .. }) => {
                    continue;
                }
                other => other?,
            };
            for alias in facts.aliases {
                aliases.entry(alias).or_default().insert(name.clone());
            }
        }
        Ok(aliases)
    }
}

/// Returns the name of the module in a file of this path; `None` when it is no module's.
fn stem(path: &Path) -> Option<String> {
    let file_name = path.file_name()?.to_str()?;
    let stem = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"]
        .iter()
        .find_map(|suffix| file_name.strip_suffix(suffix))?;
    module_name(stem)
}

fn walk(
    directory: &Directory,
    path: &Path,
    files: &mut Vec<PathBuf>,
    left: &mut usize,
    cancelled: &AtomicBool,
) -> Result<(), ModuleTreeError> {
    for name in directory.names()? {
        let child = path.join(&name);
        let too_many = || ModuleTreeError::TooMany {
            path: directory.path().to_owned(),
        };
        *left = left.checked_sub(1).ok_or_else(too_many)?;
        if cancelled.load(Ordering::Relaxed) {
            let path = directory.child_path(&name);
            return Err(FileError::Cancelled { path }.into());
        }
        match directory.kind_of(&name)? {
            Some(FileType::Directory) if child.iter().count() >= MAX_DEPTH => {
                return Err(too_many());
            }
            Some(FileType::Directory) => {
                walk(
                    &directory.open_child(&name)?,
                    &child,
                    files,
                    left,
                    cancelled,
                )?;
            }
            Some(FileType::RegularFile) if stem(&child).is_some() => files.push(child),
            _ => {}
        }
    }
    Ok(())
}

/// Reads one of the lists; one that is not there is empty.
fn read_list(directory: &Directory, name: &str) -> Result<String, ModuleTreeError> {
    let path = directory.child_path(name);
    let Some(file) = directory.open_file(name.as_ref())? else {
        return Ok(String::new());
    };
    let text = read_bounded(&file, MAX_LIST_BYTES, &path, at("read", &path))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn unpack(mut file: &File, path: &Path) -> Result<Vec<u8>, ModuleTreeError> {
    let corrupt = |source| ModuleTreeError::Corrupt {
        path: path.to_owned(),
        source,
    };
    let packed = read_bounded(file.by_ref(), MAX_MODULE_BYTES, path, at("read", path))?;
    let unsupported = |_| corrupt(io::ErrorKind::Unsupported.into());
    let Some(compression) = Compression::of(&packed).map_err(unsupported)? else {
        return Ok(packed);
    };
    let decoder = compression
        .decoder(&packed[..], Streams::All)
        .map_err(corrupt)?;
    read_bounded(decoder, MAX_MODULE_BYTES, path, corrupt)
}

fn read_bounded<E: Into<ModuleTreeError>>(
    source: impl Read,
    limit_bytes: u64,
    path: &Path,
    on_error: impl FnOnce(io::Error) -> E,
) -> Result<Vec<u8>, ModuleTreeError> {
    let mut bytes = Vec::new();
    if let Err(error) = source.take(limit_bytes + 1).read_to_end(&mut bytes) {
        return Err(on_error(error).into());
    }
    if bytes.len() as u64 > limit_bytes {
        return Err(ModuleTreeError::TooLarge {
            path: path.to_owned(),
            limit_bytes,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
