//! Which packaged programs this machine has, and how a test says that it cannot run without one.
//!
//! A skip is never silent: it is written to standard error, past the test runner's capture, and
//! where [`REQUIRE`] is set in the environment (as continuous integration does) it is a failure.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};

/// Environment variable that turns every skip into a failure.
pub const REQUIRE: &str = "KILN_REQUIRE_TOOLS";

/// Debian packages that hold every program named here, as `make deps` installs them.
pub const PACKAGES: &str = include_str!("../packages.txt");

/// Something a test needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A program on `PATH` or in one of the system's folders, and the package that holds it.
    Program {
        /// File name of the program.
        name: &'static str,
        /// Debian package that holds it.
        package: &'static str,
    },
    /// The rights of root: loop mounts, device nodes, foreign owners.
    Root,
}

/// The registry of the distribution project.
pub const DOCKER_REGISTRY: Need = program("docker-registry", "docker-registry");
/// Copies images between registries, layouts and archives.
pub const SKOPEO: Need = program("skopeo", "skopeo");
/// Unpacks OCI images; what built trees are compared with.
pub const UMOCI: Need = program("umoci", "umoci");
/// Makes real Debian trees.
pub const MMDEBSTRAP: Need = program("mmdebstrap", "mmdebstrap");
/// Makes files of an ext4 filesystem immutable.
pub const CHATTR: Need = program("chattr", "e2fsprogs");
/// Checks ext4 images.
pub const E2FSCK: Need = program("e2fsck", "e2fsprogs");
/// Reads ext4 images without mounting them.
pub const DEBUGFS: Need = program("debugfs", "e2fsprogs");
/// Makes ext4 images from folders; the peer in benchmarks.
pub const MKFS_EXT4: Need = program("mkfs.ext4", "e2fsprogs");
/// Runs virtual machines.
pub const QEMU: Need = program("qemu-system-x86_64", "qemu-system-x86");
/// `qemu-img`, which judges disks.
pub const QEMU_IMG: Need = program("qemu-img", "qemu-utils");
/// Writes password files for the registry.
pub const HTPASSWD: Need = program("htpasswd", "apache2-utils");
/// Makes keys, certificates and signatures.
pub const OPENSSL: Need = program("openssl", "openssl");
/// Lets other hosts in.
pub const SSHD: Need = program("sshd", "openssh-server");
/// Goes to other hosts.
pub const SSH: Need = program("ssh", "openssh-client");
/// Makes keys for both.
pub const SSH_KEYGEN: Need = program("ssh-keygen", "openssh-client");
/// Measures a command's processor time and peak memory.
pub const TIME: Need = program("time", "time");
/// Ties the life of a child to that of its parent.
pub const SETPRIV: Need = program("setpriv", "util-linux");
/// Mounts built images for comparison.
pub const MOUNT: Need = program("mount", "mount");
/// Downloads packages.
pub const APT_GET: Need = program("apt-get", "apt");
/// Speaks HTTP as the documentation's reader does.
pub const CURL: Need = program("curl", "curl");
/// Resolves package names.
pub const APT_CACHE: Need = program("apt-cache", "apt");
/// Unpacks packages.
pub const DPKG_DEB: Need = program("dpkg-deb", "dpkg");

/// Every need this crate knows.
pub const ALL: &[Need] = &[
    DOCKER_REGISTRY,
    SKOPEO,
    UMOCI,
    MMDEBSTRAP,
    CHATTR,
    E2FSCK,
    DEBUGFS,
    MKFS_EXT4,
    QEMU,
    QEMU_IMG,
    HTPASSWD,
    OPENSSL,
    SSHD,
    SSH,
    SSH_KEYGEN,
    TIME,
    CURL,
    SETPRIV,
    MOUNT,
    APT_GET,
    APT_CACHE,
    DPKG_DEB,
    Need::Root,
];

/// Folders searched after `PATH`: the ones of root's programs, which others lack on theirs.
const SYSTEM_FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// What this machine lacks; the message says how to get it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A program is not installed.
    #[error("{name} is not installed; Debian's package is {package}")]
    Program {
        /// File name of the program.
        name: &'static str,
        /// Debian package that holds it.
        package: &'static str,
    },
    /// The process is not root.
    #[error("this needs the rights of root")]
    Root,
}

const fn program(name: &'static str, package: &'static str) -> Need {
    Need::Program { name, package }
}

/// Returns the path of a program, or says what is missing.
///
/// The path of [`Need::Root`] is `/`.
pub fn require(need: Need) -> Result<PathBuf, Missing> {
    match need {
        Need::Root if rustix::process::geteuid().is_root() => Ok(PathBuf::from("/")),
        Need::Root => Err(Missing::Root),
        Need::Program { name, package } => find(name).ok_or(Missing::Program { name, package }),
    }
}

/// Returns whether the calling test must end here because the machine lacks something.
///
/// Then `test` and the reason have been written to standard error. Fails instead where
/// [`REQUIRE`] is set.
pub fn must_skip(test: &str, needs: &[Need]) -> Result<bool> {
    let missing: Vec<String> = needs
        .iter()
        .filter_map(|need| require(*need).err())
        .map(|missing| missing.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let reason = missing.join("; ");
    if env::var_os(REQUIRE).is_some() {
        bail!("{test} cannot run: {reason}");
    }
    // A test that cannot say so is still skipped; the runner's own output is then gone too.
    drop(writeln!(io::stderr(), "SKIPPED {test}: {reason}"));
    Ok(true)
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let missing = require(program("no-such-program-here", "some-package"));

        let message = missing.err().map(|missing| missing.to_string());
        assert_eq!(
            message.as_deref(),
            Some("no-such-program-here is not installed; Debian's package is some-package")
        );
    }

    #[test]
    fn every_program_comes_from_a_listed_package_or_from_debian_itself() {
        // Essential, or what a Debian machine is installed with.
        let always = ["apt", "dpkg", "mount"];
        let listed: Vec<&str> = PACKAGES
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .collect();

        for need in ALL {
            if let Need::Program { name, package } = need {
                assert!(
                    listed.contains(package) || always.contains(package),
                    "{name} comes from {package}, which packages.txt does not list"
                );
            }
        }
    }
}
