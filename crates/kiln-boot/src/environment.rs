//! The environment of the guest's program.

/// Where programs are looked for, unless the image says otherwise: what other runtimes set.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The terminal that a serial console is taken for.
pub const DEFAULT_TERM: &str = "linux";

/// An environment: each name once, in the order of its first mention.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    entries: Vec<(String, String)>,
}

/// Why an entry is no environment variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// Nothing stands before the `=`.
    #[error("the environment entry {entry:?} has no name")]
    NoName {
        /// The entry.
        entry: String,
    },
    /// A zero byte ends strings for the kernel.
    #[error("the environment variable {name:?} holds a zero byte")]
    ZeroByte {
        /// Its name.
        name: String,
    },
}

impl Environment {
    /// Reads entries of the form `NAME=value` in order; the last of a name wins, at the place of
    /// the first. An entry without `=` has an empty value.
    pub fn from_entries(entries: &[String]) -> Result<Self, EnvError> {
        let mut environment = Self::default();
        for entry in entries {
            environment.set_entry(entry)?;
        }
        Ok(environment)
    }

    /// Returns the value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.entries.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Sets what every program may expect, where the image does not: `PATH`, `HOME`, `TERM`.
    pub fn set_defaults(&mut self, home: &str) {
        for (name, value) in [
            ("PATH", DEFAULT_PATH),
            ("HOME", home),
            ("TERM", DEFAULT_TERM),
        ] {
            if self.get(name).is_none() {
                self.set(name, value);
            }
        }
    }

    /// Takes `name` out.
    pub fn remove(&mut self, name: &str) {
        self.entries.retain(|(known, _)| known != name);
    }

    /// Returns the entries as `NAME=value`.
    pub fn to_entries(&self) -> Vec<String> {
        let entries = self.entries.iter();
        entries
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    fn set_entry(&mut self, entry: &str) -> Result<(), EnvError> {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        if name.is_empty() {
            let entry = entry.to_owned();
            return Err(EnvError::NoName { entry });
        }
        if entry.contains('\0') {
            let name = name.to_owned();
            return Err(EnvError::ZeroByte { name });
        }
        self.set(name, value);
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) {
        match self.entries.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.entries.push((name.to_owned(), value.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(entries: &[&str], want: Result<&[&str], EnvError>) {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        let got = Environment::from_entries(&entries).map(|env| env.to_entries());
        let want = want.map(|want| want.iter().map(|&entry| entry.to_owned()).collect());
        assert_eq!(got, want, "{entries:?}");
    }

    #[test]
    fn the_last_of_a_name_wins_at_the_place_of_the_first() {
        check(&["A=1", "B=2", "A=3"], Ok(&["A=3", "B=2"]));
        check(&["A=1=2"], Ok(&["A=1=2"]));
        check(&["A"], Ok(&["A="]));
        check(&["A=1", "A"], Ok(&["A="]));
        check(&["lower case=1"], Ok(&["lower case=1"]));
    }

    #[test]
    fn what_no_program_could_read_is_refused() {
        for entry in ["=1", ""] {
            let entry_text = entry.to_owned();
            check(&[entry], Err(EnvError::NoName { entry: entry_text }));
        }
        let name = "A".to_owned();
        check(&["A=1\0"], Err(EnvError::ZeroByte { name }));
    }

    #[test]
    fn defaults_replace_nothing() {
        let mut set = Environment::default();
        set.set_defaults("/home/app");
        let entries = [
            &format!("PATH={DEFAULT_PATH}"),
            "HOME=/home/app",
            "TERM=linux",
        ];
        assert_eq!(set.to_entries(), entries);

        let given = ["TERM=dumb", "PATH=", "HOME=/"].map(str::to_owned);
        let mut kept = Environment::from_entries(&given).unwrap();
        kept.set_defaults("/home/app");
        assert_eq!(kept.to_entries(), given);
    }
}
