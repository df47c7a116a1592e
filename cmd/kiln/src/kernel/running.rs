//! The kernel this host runs, as its files lie here: kernel, modules and configuration.
//!
//! They are looked for and opened with the caller's rights. Whether it is a kernel that boots a
//! guest is the daemon's to say.

use std::path::{Path, PathBuf};

use kiln_api::{Failure, codes};
use kiln_files::{KeptError, open_kept};

use crate::failure::CommandError;

/// The files of a running kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RunningKernel {
    pub(super) kernel: PathBuf,
    /// Where modules are; a kernel without any has no such directory.
    pub(super) modules: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
}

/// Why the running kernel cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunningError {
    #[error("no file of the running kernel {release} is on this host")]
    NotFound { release: String },
    #[error("cannot open {}", path.display())]
    Unreadable { path: PathBuf, source: KeptError },
    #[error("the running kernel calls itself {release:?}, which is no name of a file")]
    Release { release: String },
}

/// Finds the files of the kernel that runs this process.
pub(super) fn find() -> Result<RunningKernel, RunningError> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    find_below(Path::new("/"), &release)
}

fn find_below(root: &Path, release: &str) -> Result<RunningKernel, RunningError> {
    if release.is_empty() || release.contains('/') || release.starts_with('.') {
        let release = release.to_owned();
        return Err(RunningError::Release { release });
    }
    let kernels = [
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
        format!("lib/modules/{release}/vmlinuz"),
        format!("boot/vmlinux-{release}"),
        format!("boot/kernel-{release}"),
    ];
    let configs = [
        format!("boot/config-{release}"),
        format!("usr/lib/modules/{release}/config"),
        format!("lib/modules/{release}/config"),
        "proc/config.gz".to_owned(),
    ];
    let modules = root.join("lib/modules").join(release);
    Ok(RunningKernel {
        kernel: first_readable(root, &kernels)?.ok_or_else(|| RunningError::NotFound {
            release: release.to_owned(),
        })?,
        modules: modules.is_dir().then_some(modules),
        // A kernel is of use without it.
        config: first_readable(root, &configs).unwrap_or_default(),
    })
}

/// Returns the first of the files that can be opened; where there are only others, why not.
fn first_readable(root: &Path, names: &[String]) -> Result<Option<PathBuf>, RunningError> {
    let mut forbidden = None;
    for path in names.iter().map(|name| root.join(name)) {
        match open_kept(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(error) if error.is_not_found() => {}
            Err(error) => forbidden = forbidden.or(Some((path, error))),
        }
    }
    match forbidden {
        None => Ok(None),
        Some((path, source)) => Err(RunningError::Unreadable { path, source }),
    }
}

impl From<RunningError> for CommandError {
    fn from(error: RunningError) -> Self {
        match &error {
            RunningError::NotFound { .. } => Failure::from_error(codes::file::NOT_FOUND, &error)
                .with_hint(
                    "a container, or a guest whose monitor brings its kernel, has none: name files \
                     with --kernel, a package with --deb, or fetch one",
                    Some("kiln kernel pull --help".to_owned()),
                ),
            RunningError::Unreadable { .. } => Failure::from_error(codes::file::UNREADABLE, &error)
                .with_hint(
                    "some distributions let only root read it:",
                    Some("sudo kiln kernel import NAME --running".to_owned()),
                ),
            RunningError::Release { .. } => Failure::from_error(codes::file::NOT_FOUND, &error),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RELEASE: &str = "6.1.0-56-amd64";

    /// A root with these files, and directories where a name ends in a slash.
    fn root(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            if name.ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, name).unwrap();
            }
        }
        root
    }

    fn found(names: &[&str]) -> Option<[Option<String>; 3]> {
        let root = root(names);
        let shown = |path: PathBuf| {
            path.strip_prefix(root.path())
                .unwrap()
                .display()
                .to_string()
        };
        let found = find_below(root.path(), RELEASE).ok()?;
        Some([
            Some(shown(found.kernel)),
            found.modules.map(shown),
            found.config.map(shown),
        ])
    }

    #[test]
    fn files_are_found_where_distributions_keep_them() {
        let text = |text: &str| Some(text.to_owned());
        let debian = [
            "boot/vmlinuz-6.1.0-56-amd64",
            "boot/vmlinuz-6.1.0-55-amd64",
            "boot/config-6.1.0-56-amd64",
            "lib/modules/6.1.0-56-amd64/",
        ];
        let fedora = [
            "usr/lib/modules/6.1.0-56-amd64/vmlinuz",
            "usr/lib/modules/6.1.0-56-amd64/config",
        ];

        assert_eq!(
            found(&debian),
            Some([
                text("boot/vmlinuz-6.1.0-56-amd64"),
                text("lib/modules/6.1.0-56-amd64"),
                text("boot/config-6.1.0-56-amd64"),
            ])
        );
        assert_eq!(
            found(&fedora),
            Some([
                text("usr/lib/modules/6.1.0-56-amd64/vmlinuz"),
                None,
                text("usr/lib/modules/6.1.0-56-amd64/config"),
            ])
        );
        let made_up = ["boot/vmlinux-6.1.0-56-amd64", "proc/config.gz"];
        assert_eq!(
            found(&made_up),
            Some([
                text("boot/vmlinux-6.1.0-56-amd64"),
                None,
                text("proc/config.gz"),
            ])
        );
        assert_eq!(found(&["boot/vmlinuz-6.1.0-55-amd64"]), None);
    }

    #[test]
    fn what_cannot_be_imported_says_what_to_do() {
        let hint = |error: RunningError| match CommandError::from(error) {
            CommandError::Failed(failure) => failure.hint.map(|hint| hint.command),
            other => panic!("{other:?}"),
        };
        let path = PathBuf::from("/boot/vmlinuz-6");
        let source = KeptError::Io(std::io::ErrorKind::PermissionDenied.into());
        let release = RELEASE.to_owned();

        let forbidden = hint(RunningError::Unreadable { path, source });
        let missing = hint(RunningError::NotFound { release });

        let sudo = "sudo kiln kernel import NAME --running".to_owned();
        assert_eq!(forbidden, Some(Some(sudo)));
        assert_eq!(missing, Some(Some("kiln kernel pull --help".to_owned())));
        assert!(matches!(
            find_below(Path::new("/"), "../x"),
            Err(RunningError::Release { .. })
        ));
    }
}
