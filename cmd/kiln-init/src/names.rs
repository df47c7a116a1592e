//! The guest's names: its own, those of others, and whom it asks for more. The files in `/etc`
//! are mounts of files in memory, so the image keeps its own.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};

use kiln_boot::{Boot, Network, Resolv, RootMount};

use crate::console;
use crate::places::Made;

const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";
const RESOLV: &str = "/etc/resolv.conf";

/// Where the files in memory are, in the new root.
const FOLDER: &str = "/run/kiln";

/// What the network told about names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learnt {
    /// The guest's own address.
    pub(crate) address: Option<Ipv4Addr>,
    /// Name servers and domains.
    pub(crate) resolv: Resolv,
}

/// Returns the files that `boot` may want to replace.
pub(crate) fn wanted(boot: &Boot) -> Vec<&'static str> {
    let mut files = Vec::new();
    if boot.hostname.is_some() {
        files.push(HOSTNAME);
    }
    if boot.hostname.is_some() || !boot.hosts.is_empty() {
        files.push(HOSTS);
    }
    if !boot.resolv.is_empty() || boot.network == Network::Dhcp {
        files.push(RESOLV);
    }
    files
}

/// Names the guest and mounts the files; returns where something was mounted.
///
/// Nothing here keeps a guest from running: what cannot be done is told in one line.
pub(crate) fn place(boot: &Boot, learnt: &Learnt, made: &mut Made) -> Vec<PathBuf> {
    if let Some(hostname) = &boot.hostname
        && let Err(error) = rustix::system::sethostname(hostname.as_bytes())
    {
        console::say(format_args!("cannot set the hostname: {error}"));
    }
    let mut mounted = Vec::new();
    for file in wanted(boot) {
        let Some(text) = text_of(file, boot, learnt) else {
            continue;
        };
        match replace(Path::new(file), &text, &boot.root.mount, made) {
            Ok(target) => mounted.extend(target),
            Err(error) => console::say(format_args!("cannot replace {file}: {error}")),
        }
    }
    mounted
}

fn text_of(file: &str, boot: &Boot, learnt: &Learnt) -> Option<String> {
    match file {
        HOSTNAME => boot.hostname.as_ref().map(|name| format!("{name}\n")),
        HOSTS => Some(boot.hosts_text(learnt.address.map(IpAddr::V4))),
        _ => {
            let said = [&boot.resolv, &learnt.resolv];
            let resolv = said.into_iter().find(|resolv| !resolv.is_empty())?;
            Some(resolv.to_text())
        }
    }
}

/// Makes `file` read as `text`. Returns what was mounted over, if anything.
fn replace(
    file: &Path,
    text: &str,
    root: &RootMount,
    made: &mut Made,
) -> io::Result<Option<PathBuf>> {
    if let Some(target) = link_into_memory(file) {
        // systemd's resolv.conf, for instance, is a link into /run, where nothing is yet.
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&target, text)?;
        return Ok(None);
    }
    let target = match fs::canonicalize(file) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound && *root != RootMount::Ro => {
            made.file(file)?;
            fs::canonicalize(file)?
        }
        Err(error) => return Err(error),
    };
    fs::create_dir_all(FOLDER)?;
    let name = file.file_name().unwrap_or(file.as_os_str());
    let source = Path::new(FOLDER).join(name);
    fs::write(&source, text)?;
    rustix::mount::mount_bind(&source, &target)?;
    Ok(Some(target))
}

/// Returns where `file` leads to when it is a link into `/run` or `/tmp` that leads nowhere yet.
fn link_into_memory(file: &Path) -> Option<PathBuf> {
    if file.exists() {
        return None;
    }
    let link = fs::read_link(file).ok()?;
    let target = flattened(&file.parent()?.join(link));
    let is_memory = target.starts_with("/run/") || target.starts_with("/var/run/");
    is_memory.then_some(target)
}

/// Takes `.` and `..` out by the words alone.
fn flattened(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(flat.pop()),
            Component::CurDir => {}
            part => flat.push(part),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    use kiln_boot::{Host, Mode};

    fn boot() -> Boot {
        Boot::new(Mode::Entrypoint)
    }

    #[test]
    fn only_what_was_said_replaces_the_image() {
        let mut named = boot();
        named.hostname = Some("web".to_owned());
        let mut asking = boot();
        asking.network = Network::Dhcp;
        let mut told = boot();
        told.hosts.push(Host {
            address: "10.0.0.1".parse().unwrap(),
            names: vec!["db".to_owned()],
        });
        assert_eq!(wanted(&boot()), Vec::<&str>::new());
        assert_eq!(wanted(&named), [HOSTNAME, HOSTS]);
        assert_eq!(wanted(&asking), [RESOLV]);
        assert_eq!(wanted(&told), [HOSTS]);
    }

    #[test]
    fn what_was_said_beats_what_the_network_told() {
        let resolv = |server: &str| Resolv {
            nameservers: vec![server.parse().unwrap()],
            search: Vec::new(),
        };
        let learnt = Learnt {
            address: None,
            resolv: resolv("10.0.2.3"),
        };
        let mut said = boot();
        said.resolv = resolv("9.9.9.9");
        let text = |boot: &Boot, learnt: &Learnt| text_of(RESOLV, boot, learnt);
        assert_eq!(
            text(&said, &learnt).as_deref(),
            Some("nameserver 9.9.9.9\n")
        );
        assert_eq!(
            text(&boot(), &learnt).as_deref(),
            Some("nameserver 10.0.2.3\n")
        );
        assert_eq!(text(&boot(), &Learnt::default()), None);
    }

    #[test]
    fn dots_are_taken_out_of_links() {
        let cases = [
            (
                "/etc/../run/systemd/resolve/stub-resolv.conf",
                "/run/systemd/resolve/stub-resolv.conf",
            ),
            ("/etc/../../../run/./x", "/run/x"),
            ("/run/x", "/run/x"),
        ];
        for (path, want) in cases {
            assert_eq!(flattened(Path::new(path)), Path::new(want), "{path}");
        }
    }
}
