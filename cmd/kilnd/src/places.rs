//! Where a daemon keeps things: below one root, in the system's places, or in the user's.

use std::path::{Path, PathBuf};

/// Name of the program that is process 1 of guests.
const GUEST_INIT: &str = "kiln-init";

/// Directories and the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) state: PathBuf,
    pub(crate) cache: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) is_system: bool,
    /// Where the init of guests may be.
    pub(crate) guest_init: Vec<PathBuf>,
    /// Where rules about registries may be.
    pub(crate) registries_conf: Vec<PathBuf>,
    /// Where certificates for registries may be.
    pub(crate) certs_dirs: Vec<PathBuf>,
}

/// What of the environment decides a user's places (XDG base directory specification 0.8).
#[derive(Clone, Debug, Default)]
pub(crate) struct UserEnvironment {
    pub(crate) home: Option<PathBuf>,
    pub(crate) data_home: Option<PathBuf>,
    pub(crate) cache_home: Option<PathBuf>,
    pub(crate) runtime_dir: Option<PathBuf>,
}

impl Places {
    /// Keeps everything below one directory: tests, demos and private daemons.
    pub(crate) fn below(root: &Path) -> Self {
        Self {
            state: root.to_owned(),
            cache: root.join("cache"),
            socket: root.join("kiln.sock"),
            is_system: false,
            guest_init: Vec::new(),
            registries_conf: Vec::new(),
            certs_dirs: Vec::new(),
        }
    }

    /// Adds the places in which a program beside this one may be installed: its own folder, and
    /// those that packages use.
    pub(crate) fn with_programs(mut self, own: &Path) -> Self {
        let folder = own.parent().unwrap_or(Path::new("/"));
        let prefix = folder.parent().unwrap_or(Path::new("/"));
        self.guest_init = vec![
            folder.join(GUEST_INIT),
            prefix.join("libexec/kiln").join(GUEST_INIT),
            prefix.join("lib/kiln").join(GUEST_INIT),
        ];
        self
    }

    /// Adds the places in which the containers' tools keep what they know about registries:
    /// the system's, and for users their own below `config_home` too.
    ///
    /// A user's `registries.conf` takes the place of the system's; drop-ins are read from both
    /// (containers-registries.conf(5), containers-registries.conf.d(5), containers-certs.d(5)).
    pub(crate) fn with_containers(
        mut self,
        config_home: Option<&Path>,
        exists: impl Fn(&Path) -> bool,
    ) -> Self {
        let system = Path::new("/etc/containers");
        let own = config_home.map(|home| home.join("containers"));
        let own_conf = own.as_ref().map(|own| own.join("registries.conf"));
        let conf = own_conf.filter(|conf| exists(conf));
        let conf = conf.unwrap_or_else(|| system.join("registries.conf"));
        let drop_ins = |folder: &Path| folder.join("registries.conf.d");
        self.registries_conf = vec![conf, drop_ins(system)];
        self.registries_conf.extend(own.as_deref().map(drop_ins));
        self.certs_dirs = own.iter().map(|own| own.join("certs.d")).collect();
        self.certs_dirs.push(system.join("certs.d"));
        self.certs_dirs.push("/etc/docker/certs.d".into());
        self
    }

    /// Chooses the system's places for root, and a user's own for others.
    ///
    /// Without a home and without the XDG variables there is no place, and `--root` is needed.
    pub(crate) fn of_user(uid: u32, environment: &UserEnvironment) -> Option<Self> {
        if uid == 0 {
            return Some(Self {
                state: "/var/lib/kiln".into(),
                cache: "/var/cache/kiln".into(),
                socket: "/run/kiln/kiln.sock".into(),
                is_system: true,
                guest_init: Vec::new(),
                registries_conf: Vec::new(),
                certs_dirs: Vec::new(),
            });
        }
        let below_home = |rest: &str| environment.home.as_ref().map(|home| home.join(rest));
        let data = environment
            .data_home
            .clone()
            .or_else(|| below_home(".local/share"))?;
        let cache = environment
            .cache_home
            .clone()
            .or_else(|| below_home(".cache"))?;
        // Without a runtime directory the socket stands beside the state, which is private too.
        let runtime = environment
            .runtime_dir
            .clone()
            .unwrap_or_else(|| data.clone());
        Some(Self {
            state: data.join("kiln"),
            cache: cache.join("kiln"),
            socket: runtime.join("kiln/kiln.sock"),
            is_system: false,
            guest_init: Vec::new(),
            registries_conf: Vec::new(),
            certs_dirs: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_gets_the_xdg_places() {
        let environment = UserEnvironment {
            home: Some("/home/ann".into()),
            runtime_dir: Some("/run/user/1000".into()),
            ..UserEnvironment::default()
        };

        let places = Places::of_user(1000, &environment).unwrap();

        assert_eq!(places.state, Path::new("/home/ann/.local/share/kiln"));
        assert_eq!(places.cache, Path::new("/home/ann/.cache/kiln"));
        assert_eq!(places.socket, Path::new("/run/user/1000/kiln/kiln.sock"));
    }

    #[test]
    fn the_init_of_guests_is_looked_for_beside_the_daemon_and_where_packages_put_it() {
        let places = Places::below(Path::new("/r")).with_programs(Path::new("/usr/sbin/kilnd"));

        let want = [
            "/usr/sbin/kiln-init",
            "/usr/libexec/kiln/kiln-init",
            "/usr/lib/kiln/kiln-init",
        ];
        assert_eq!(places.guest_init, want.map(PathBuf::from));
    }

    #[test]
    fn a_users_own_rules_take_the_place_of_the_systems() {
        let of = |home: Option<&str>, has_own: bool| {
            let places = Places::below(Path::new("/r"));
            places.with_containers(home.map(Path::new), |_| has_own)
        };

        let ann = of(Some("/home/ann/.config"), true);
        let want = [
            "/home/ann/.config/containers/registries.conf",
            "/etc/containers/registries.conf.d",
            "/home/ann/.config/containers/registries.conf.d",
        ];
        assert_eq!(ann.registries_conf, want.map(PathBuf::from));
        let plain = of(Some("/home/ann/.config"), false);
        let system = Path::new("/etc/containers/registries.conf");
        assert_eq!(plain.registries_conf[0], system);
        let root = of(None, true);
        assert_eq!(root.registries_conf[0], system);
        assert_eq!(root.certs_dirs[0], Path::new("/etc/containers/certs.d"));
    }

    #[test]
    fn a_user_without_a_home_has_no_place() {
        assert_eq!(Places::of_user(1000, &UserEnvironment::default()), None);
    }
}
