//! `[webhooks]` of the configuration: where registries notify, what they prove themselves with, and
//! what follows from a push.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kiln_domain::{NameError, PushRule, PushRuleError, ReferenceError};
use kiln_files::{KeptError, read_kept_text};
use kiln_webhooks::{SharedSecret, WeakSecret};
use serde::Deserialize;

/// How images are named where a rule does not say.
const DEFAULT_NAME: &str = "{repository}-{tag}-{short}";

/// Longest file of a secret, in bytes.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Most rules.
const MAX_RULES: usize = 1_000;

/// The table of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WebhooksTable {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) rule: Option<Vec<RuleTable>>,
}

/// One `[[webhooks.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleTable {
    registry: String,
    #[serde(default = "any")]
    repository: String,
    #[serde(default = "any")]
    tag: String,
    #[serde(default = "pull")]
    action: String,
    #[serde(default = "default_name")]
    name: String,
    kernel: Option<String>,
}

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhooksError {
    #[error(
        "webhooks.listen needs webhooks.secret_file: whoever can reach the port could have anything pulled"
    )]
    NoSecret,
    #[error("cannot read webhooks.secret_file {}", path.display())]
    SecretUnreadable { path: PathBuf, source: KeptError },
    #[error("webhooks.secret_file {} is of no use", path.display())]
    SecretWeak { path: PathBuf, source: WeakSecret },
    #[error("there are {found} rules, {MAX_RULES} may be")]
    TooMany { found: usize },
    #[error("webhooks.rule {number} names no registry")]
    Registry {
        number: usize,
        source: ReferenceError,
    },
    #[error("webhooks.rule {number} is wrong")]
    Rule {
        number: usize,
        source: PushRuleError,
    },
    #[error("webhooks.rule {number} names no kernel")]
    Kernel { number: usize, source: NameError },
}

/// What the daemon is to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Webhooks {
    /// Where to listen, and with which secret; nothing when nobody is to notify.
    pub(crate) door: Option<(SocketAddr, SharedSecret)>,
    /// What follows from a push.
    pub(crate) rules: Vec<PushRule>,
}

impl Webhooks {
    /// Reads the secret and the rules.
    pub(crate) fn load(
        listen: Option<SocketAddr>,
        secret_file: Option<&Path>,
        rules: &[RuleTable],
    ) -> Result<Self, WebhooksError> {
        if rules.len() > MAX_RULES {
            return Err(WebhooksError::TooMany { found: rules.len() });
        }
        let rules = (1..).zip(rules).map(|(number, rule)| rule.parse(number));
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
            door: match (listen, secret_file) {
                (None, _) => None,
                (Some(_), None) => return Err(WebhooksError::NoSecret),
                (Some(address), Some(path)) => Some((address, read_secret(path)?)),
            },
        })
    }
}

fn read_secret(path: &Path) -> Result<SharedSecret, WebhooksError> {
    let read = read_kept_text(path, MAX_SECRET_BYTES);
    let text = read.map_err(|source| WebhooksError::SecretUnreadable {
        path: path.to_owned(),
        source,
    })?;
    SharedSecret::new(&text).map_err(|source| WebhooksError::SecretWeak {
        path: path.to_owned(),
        source,
    })
}

impl RuleTable {
    /// Reads a rule; `number` counts from one, for people.
    fn parse(&self, number: usize) -> Result<PushRule, WebhooksError> {
        let wrong = |source| WebhooksError::Rule { number, source };
        let registry = self.registry.parse();
        let kernel = self.kernel.as_deref().map(str::parse).transpose();
        Ok(PushRule {
            registry: registry.map_err(|source| WebhooksError::Registry { number, source })?,
            repository: self.repository.parse().map_err(wrong)?,
            tag: self.tag.parse().map_err(wrong)?,
            action: self.action.parse().map_err(wrong)?,
            name: self.name.parse().map_err(wrong)?,
            kernel: kernel.map_err(|source| WebhooksError::Kernel { number, source })?,
        })
    }

    /// Writes it for people.
    pub(crate) fn shown(&self) -> String {
        format!(
            "{} {}/{}:{} as {}",
            self.action, self.registry, self.repository, self.tag, self.name
        )
    }
}

fn any() -> String {
    "**".to_owned()
}

fn pull() -> String {
    "pull".to_owned()
}

fn default_name() -> String {
    DEFAULT_NAME.to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(text: &str) -> Result<Webhooks, String> {
        let table: WebhooksTable = toml::from_str(text).map_err(|error| error.to_string())?;
        let rules = table.rule.unwrap_or_default();
        Webhooks::load(table.listen, table.secret_file.as_deref(), &rules)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_rule_needs_a_registry_and_has_defaults_for_the_rest() {
        let webhooks = load("[[rule]]\nregistry = \"reg.lan:5000\"\n").unwrap();

        assert!(webhooks.door.is_none());
        assert_eq!(webhooks.rules[0].name.to_string(), DEFAULT_NAME);
        assert!(webhooks.rules[0].repository.matches("any/thing"));
    }

    #[test]
    fn what_would_fail_or_be_open_to_everybody_is_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let weak = folder.path().join("weak");
        fs::write(&weak, "hunter2").unwrap();
        let cases = [
            (
                "listen = \"127.0.0.1:0\"\n".to_owned(),
                "needs webhooks.secret_file",
            ),
            (
                "listen = \"127.0.0.1:0\"\nsecret_file = \"/nonexistent\"\n".to_owned(),
                "cannot read",
            ),
            (
                format!("listen = \"127.0.0.1:0\"\nsecret_file = {weak:?}\n"),
                "is of no use",
            ),
            (
                "listen = \"everywhere\"\n".to_owned(),
                "invalid socket address",
            ),
            ("[[rule]]\nrepository = \"a\"\n".to_owned(), "registry"),
            (
                "[[rule]]\nregistry = \"a b\"\n".to_owned(),
                "rule 1 names no registry",
            ),
            (
                "[[rule]]\nregistry = \"a.io\"\naction = \"x\"\n".to_owned(),
                "rule 1 is wrong",
            ),
            (
                "[[rule]]\nregistry = \"a.io\"\nname = \"web\"\n".to_owned(),
                "rule 1 is wrong",
            ),
            (
                "[[rule]]\nregistry = \"a.io\"\nkernel = \"/\"\n".to_owned(),
                "rule 1 names no kernel",
            ),
        ];
        for (text, want) in cases {
            let error = load(&text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
