//! The places in the root filesystem that something is mounted on, and what becomes of those the
//! image does not have.
//!
//! - On a read-only root they come from a second, lower layer in memory: an overlay of the image
//!   over that layer shows the image's files, and the places between them. Nothing is written.
//! - On a read-write root, and where an overlay takes what is written, they are made, as other
//!   runtimes do; what was made is taken away again at the end, where it is still empty.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use kiln_boot::{Boot, RootMount};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::UnmountFlags;

use crate::names;

/// A place that has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Directory(PathBuf),
    File(PathBuf),
}

/// Places that were made in the root filesystem, in the order of their making.
#[derive(Debug, Default)]
pub(crate) struct Made {
    places: Vec<Place>,
}

impl Place {
    /// Returns its path in the image.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::File(path) => path,
        }
    }
}

impl Place {
    fn inside(self, root: &Path) -> Self {
        let inside = |path: PathBuf| match path.strip_prefix(root) {
            Ok(rest) => Path::new("/").join(rest),
            Err(_) => path,
        };
        match self {
            Self::Directory(path) => Self::Directory(inside(path)),
            Self::File(path) => Self::File(inside(path)),
        }
    }
}

/// Returns the directories that filesystems of the kernel are mounted on.
pub(crate) fn mount_points(boot: &Boot) -> Vec<Place> {
    let mut paths = vec!["/dev", "/proc", "/sys", "/run"];
    if boot.root.mount == RootMount::Ro {
        paths.push("/tmp");
    }
    paths.into_iter().map(directory).collect()
}

/// Returns everything that `boot` needs a place for.
pub(crate) fn needed(boot: &Boot) -> Vec<Place> {
    let names = names::wanted(boot)
        .into_iter()
        .map(PathBuf::from)
        .map(Place::File);
    let volumes = boot.volumes.iter().map(|path| directory(path));
    mount_points(boot)
        .into_iter()
        .chain(names)
        .chain(volumes)
        .chain([directory(&boot.workdir)])
        .collect()
}

/// Returns those of `places` that the tree at `root` does not have.
///
/// A symbolic link is there, wherever it leads: what it leads to may be mounted later.
pub(crate) fn missing(root: &Path, places: Vec<Place>) -> Vec<Place> {
    let is_missing = |place: &Place| !exists(root, place.path());
    places.into_iter().filter(is_missing).collect()
}

/// Makes `places` in the tree at `root`, which is empty: no link in it leads out of it.
pub(crate) fn make_in_empty_tree(root: &Path, places: &[Place]) -> io::Result<()> {
    let mut made = Made::default();
    places
        .iter()
        .try_for_each(|place| made.make_below(root, place))
}

impl Made {
    /// Makes a directory in the running root, parents first.
    pub(crate) fn directory(&mut self, path: &Path) -> io::Result<()> {
        self.make_below(Path::new("/"), &Place::Directory(path.to_owned()))
    }

    /// Makes `places` in the tree at `root`, which is about to become the root.
    ///
    /// A place that cannot be made is told when something is to be mounted on it.
    pub(crate) fn all_in(&mut self, root: &Path, places: &[Place]) {
        for place in places {
            let mut made = Self::default();
            drop(made.make_below(root, place));
            let inside = made.places.into_iter().map(|place| place.inside(root));
            self.places.extend(inside);
        }
    }

    /// Makes an empty file in the running root, parents first.
    pub(crate) fn file(&mut self, path: &Path) -> io::Result<()> {
        self.make_below(Path::new("/"), &Place::File(path.to_owned()))
    }

    /// Unmounts what was mounted on the places that were made, and takes them away.
    pub(crate) fn unmount_and_remove(&self) {
        for place in self.places.iter().rev() {
            // Nothing is mounted on some of them.
            let _ = rustix::mount::unmount(place.path(), UnmountFlags::DETACH);
        }
        self.remove_empty();
    }

    /// Takes away what was made, where it is still empty.
    fn remove_empty(&self) {
        for place in self.places.iter().rev() {
            match place {
                // Fails where something was put into it, which is meant to stay.
                Place::Directory(path) => drop(fs::remove_dir(path)),
                Place::File(path) if is_empty_file(path) => drop(fs::remove_file(path)),
                Place::File(_) => {}
            }
        }
    }

    fn make_below(&mut self, root: &Path, place: &Place) -> io::Result<()> {
        let mut path = root.to_owned();
        let parts: Vec<Component<'_>> = place.path().components().skip(1).collect();
        for (at, part) in parts.iter().enumerate() {
            path.push(part);
            let is_last = at + 1 == parts.len();
            if fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            match place {
                Place::File(_) if is_last => drop(File::create_new(&path)?),
                _ => DirBuilder::new().mode(0o755).create(&path)?,
            }
            self.places.push(match place {
                Place::File(_) if is_last => Place::File(path.clone()),
                _ => Place::Directory(path.clone()),
            });
        }
        Ok(())
    }
}

fn directory(path: &str) -> Place {
    Place::Directory(PathBuf::from(path))
}

fn exists(root: &Path, path: &Path) -> bool {
    let inside = path.strip_prefix("/").unwrap_or(path);
    if inside.as_os_str().is_empty() {
        return true;
    }
    let Ok(root) = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    // Links are followed as they will be once this is the root, and never out of it.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
}

fn is_empty_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    use kiln_boot::Mode as BootMode;

    #[test]
    fn a_read_only_root_also_needs_a_place_for_temporary_files() {
        let mut boot = Boot::new(BootMode::Entrypoint);
        boot.volumes = vec!["/data".to_owned()];
        boot.workdir = "/srv/app".to_owned();
        assert!(!needed(&boot).contains(&directory("/tmp")));

        boot.root.mount = RootMount::Ro;

        let places = needed(&boot);
        for path in ["/proc", "/tmp", "/data", "/srv/app"] {
            assert!(places.contains(&directory(path)), "{path}");
        }
    }

    #[test]
    fn links_are_followed_inside_the_image_only() -> io::Result<()> {
        let image = tempfile::tempdir()?;
        let root = image.path();
        fs::create_dir_all(root.join("private/etc"))?;
        fs::write(root.join("private/etc/hosts"), "")?;
        std::os::unix::fs::symlink("/private/etc", root.join("etc"))?;
        std::os::unix::fs::symlink("/nowhere", root.join("dangling"))?;
        std::os::unix::fs::symlink("../../../..", root.join("up"))?;
        let cases = [
            ("/", true),
            ("/etc/hosts", true),
            ("/etc/passwd", false),
            ("/dangling", true),
            ("/up/private/etc/hosts", true),
            ("/up/proc", false),
        ];
        for (path, want) in cases {
            assert_eq!(exists(root, Path::new(path)), want, "{path}");
        }
        Ok(())
    }

    #[test]
    fn what_was_made_goes_unless_it_was_used() -> io::Result<()> {
        let image = tempfile::tempdir()?;
        let root = image.path();
        fs::create_dir(root.join("etc"))?;
        let mut made = Made::default();
        made.make_below(root, &directory("/srv/app/run"))?;
        made.make_below(root, &directory("/data"))?;
        made.make_below(root, &Place::File(PathBuf::from("/etc/hosts")))?;
        made.make_below(root, &Place::File(PathBuf::from("/etc/hostname")))?;
        assert!(root.join("srv/app/run").is_dir() && root.join("etc/hosts").is_file());
        fs::write(root.join("data/used"), "")?;
        fs::write(root.join("etc/hostname"), "kept\n")?;

        made.remove_empty();

        let left = |path: &str| root.join(path).exists();
        assert!(!left("srv") && !left("etc/hosts"));
        assert!(left("etc") && left("data/used") && left("etc/hostname"));
        Ok(())
    }
}
