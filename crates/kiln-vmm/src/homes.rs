//! Where a user's instances are, and what is remembered about the host. Where the words come from
//! is not here.

use std::path::PathBuf;

/// Where root's instances are. They are not the daemon's: it neither makes nor reads them.
const ROOTS_INSTANCES: &str = "/var/lib/kiln-instances";

/// The words of an environment that name a user's directories: absolute paths.
///
/// Root heeds its own alone: `su` and `sudo` may leave those of another user, who could have put
/// links there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homes {
    /// `KILN_INSTANCES`: where directories of instances are.
    pub kiln_instances: Option<PathBuf>,
    /// `KILN_PROBES`: where answers about the host are kept.
    pub kiln_probes: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The user is root.
    pub is_root: bool,
}

impl Homes {
    /// Returns the directory that all of the user's instances are in.
    pub fn instances(&self) -> Option<PathBuf> {
        if let Some(instances) = &self.kiln_instances {
            return Some(instances.clone());
        }
        if self.is_root {
            return Some(PathBuf::from(ROOTS_INSTANCES));
        }
        let state = self.xdg_state_home.clone();
        let state = state.or_else(|| Some(self.home.as_ref()?.join(".local/state")))?;
        Some(state.join("kiln/instances"))
    }

    /// Returns the directory that answers about the host are kept in.
    pub fn probes(&self) -> Option<PathBuf> {
        if let Some(probes) = &self.kiln_probes {
            return Some(probes.clone());
        }
        match &self.xdg_runtime_dir {
            Some(runtime) if !self.is_root => Some(runtime.join("kiln/probes")),
            _ => Some(self.instances()?.join("probes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_says_where_and_root_heeds_its_own() {
        let user = Homes {
            home: Some("/home/u".into()),
            ..Homes::default()
        };
        let state = Homes {
            xdg_state_home: Some("/state".into()),
            xdg_runtime_dir: Some("/run/user/1".into()),
            ..user.clone()
        };
        let root = Homes {
            is_root: true,
            ..state.clone()
        };
        let named = Homes {
            kiln_instances: Some("/i".into()),
            ..root.clone()
        };
        let probed = Homes {
            kiln_probes: Some("/p".into()),
            ..named.clone()
        };
        let cases = [
            (
                &user,
                "/home/u/.local/state/kiln/instances",
                "/home/u/.local/state/kiln/instances/probes",
            ),
            (&state, "/state/kiln/instances", "/run/user/1/kiln/probes"),
            (
                &root,
                "/var/lib/kiln-instances",
                "/var/lib/kiln-instances/probes",
            ),
            (&named, "/i", "/i/probes"),
            (&probed, "/i", "/p"),
        ];
        for (homes, instances, probes) in cases {
            assert_eq!(homes.instances(), Some(instances.into()));
            assert_eq!(homes.probes(), Some(probes.into()));
        }
        assert_eq!(Homes::default().instances(), None);
        assert_eq!(Homes::default().probes(), None);
    }
}
