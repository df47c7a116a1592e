//! The configuration: defaults, then a file, then the environment, then flags.
//!
//! Only this program reads any of them; every value remembers where it came from. What a value
//! does is written where it is used.

mod audit;
mod image_limits;
mod patience;
mod rates;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kiln_api::daemon::Setting;
use kiln_domain::limits::{LimitError, Limits};
use kiln_files::{KeptError, read_kept, read_kept_text};
use kiln_registry::FetchError;
use kiln_registry::routes::{ShortNames, TomlProblem};
use kiln_vault::{KeyError, KeySource};
use serde::Deserialize;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};

use self::audit::{Audit, AuditTable};
use self::patience::{Patience, PatienceTable};
use self::rates::Rates;
use crate::places::Places;
use crate::webhooks::{RuleTable, Webhooks, WebhooksError, WebhooksTable};

/// Name of the credential with which the daemon's own logins are sealed.
const LOGIN_KEY: &str = "kiln.key";

/// Longest configuration, in bytes; one with a hundred registries has twenty thousand.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Longest file of authorities, in bytes; the bundles of distributions have 250 KiB.
const MAX_AUTHORITIES_BYTES: u64 = 4 << 20;

/// Most bytes of that credential.
const MAX_KEY_BYTES: u64 = 4096;

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Valued<T> {
    pub(crate) value: T,
    pub(crate) origin: String,
}

impl<T> Valued<T> {
    fn default(value: T) -> Self {
        Self {
            value,
            origin: "default".to_owned(),
        }
    }

    /// Says whether somebody set it.
    pub(crate) fn is_set(&self) -> bool {
        self.origin != "default"
    }

    fn set(&mut self, value: Option<T>, origin: &str) {
        if let Some(value) = value {
            self.value = value;
            origin.clone_into(&mut self.origin);
        }
    }
}

/// Everything that can be set.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) state_dir: Valued<PathBuf>,
    pub(crate) cache_dir: Valued<PathBuf>,
    pub(crate) socket: Valued<PathBuf>,
    /// `owner` or `group`: who may open the socket.
    pub(crate) socket_access: Valued<SocketAccess>,
    pub(crate) shutdown_grace_seconds: Valued<u64>,
    pub(crate) max_operations: Valued<u32>,
    pub(crate) decode_threads: Valued<usize>,
    pub(crate) build_threads: Valued<usize>,
    pub(crate) rates: Rates,
    pub(crate) insecure_registries: Valued<Vec<String>>,
    pub(crate) ca_files: Valued<Vec<PathBuf>>,
    /// What the CA files hold, read once at start.
    pub(crate) ca_pem: Vec<Vec<u8>>,
    pub(crate) short_names: Valued<ShortNames>,
    /// Files of containers-registries.conf(5), and directories of drop-ins; later ones win.
    pub(crate) conf_files: Valued<Vec<PathBuf>>,
    /// Directories of containers-certs.d(5); earlier ones win.
    pub(crate) certs_dirs: Valued<Vec<PathBuf>>,
    /// The configuration file as it stands, where there is one.
    pub(crate) own_file: Option<(PathBuf, String)>,
    /// Whether it has `[[registry]]` tables.
    pub(crate) has_own_rules: bool,
    pub(crate) patience: Patience,
    pub(crate) audit: Audit,
    pub(crate) retention_days: Valued<u32>,
    /// What machines of images get that say nothing themselves.
    pub(crate) image_limits: Valued<Limits>,
    /// Whether an image that a caller may not see is said not to exist.
    pub(crate) conceal_private: Valued<bool>,
    /// Files in which the init of guests may be; the first that fits wins.
    pub(crate) guest_init: Valued<Vec<PathBuf>>,
    pub(crate) snapshot_interval_seconds: Valued<u64>,
    pub(crate) snapshot_events: Valued<u32>,
    pub(crate) log_level: Valued<String>,
    pub(crate) log_format: Valued<LogFormat>,
    /// What the daemon's own logins are sealed with.
    pub(crate) login_key: KeySource,
    pub(crate) webhooks_listen: Valued<Option<SocketAddr>>,
    pub(crate) webhooks_secret_file: Valued<Option<PathBuf>>,
    pub(crate) webhooks_rules: Valued<Vec<RuleTable>>,
    /// What these three say, read once at start.
    pub(crate) webhooks: Webhooks,
}

/// Who may open the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SocketAccess {
    Owner,
    Group,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// The file, key by key. An unknown key is an error: a misspelt one must not fail open.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    daemon: DaemonTable,
    limits: LimitsTable,
    registry: RegistryPart,
    registries: RegistryTable,
    images: ImagesTable,
    guest: GuestTable,
    database: DatabaseTable,
    audit: AuditTable,
    log: LogTable,
    webhooks: WebhooksTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DaemonTable {
    state_dir: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    socket_access: Option<SocketAccess>,
    shutdown_grace_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsTable {
    max_operations: Option<u32>,
    decode_threads: Option<usize>,
    build_threads: Option<usize>,
    costly_calls_burst: Option<u32>,
    costly_calls_per_minute: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistryTable {
    insecure: Option<Vec<String>>,
    ca_files: Option<Vec<PathBuf>>,
    #[serde(deserialize_with = "short_names")]
    short_names: Option<ShortNames>,
    conf_files: Option<Vec<PathBuf>>,
    certs_dirs: Option<Vec<PathBuf>>,
    limits: PatienceTable,
}

/// What stands under `registry`: rules in `[[registry]]` tables, which `kiln-registry` reads, or one
/// table `[registry]`, which is how `[registries]` was called at first.
#[derive(Debug)]
enum RegistryPart {
    Table(Box<RegistryTable>),
    Rules,
}

impl Default for RegistryPart {
    fn default() -> Self {
        Self::Table(Box::default())
    }
}

impl<'de> Deserialize<'de> for RegistryPart {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RegistryPart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[[registry]] tables, or one table of settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let table = de::value::MapAccessDeserializer::new(map);
                let table = RegistryTable::deserialize(table)?;
                Ok(RegistryPart::Table(Box::new(table)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rules: A) -> Result<Self::Value, A::Error> {
                while rules.next_element::<IgnoredAny>()?.is_some() {}
                Ok(RegistryPart::Rules)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

fn short_names<'de, D: de::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ShortNames>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "docker.io" => Ok(Some(ShortNames::Allowed)),
        "strict" => Ok(Some(ShortNames::Strict)),
        other => Err(de::Error::invalid_value(
            de::Unexpected::Str(other),
            &"docker.io or strict",
        )),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ImagesTable {
    retention_days: Option<u32>,
    limits: Option<Limits>,
    conceal_private: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GuestTable {
    init: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DatabaseTable {
    snapshot_interval_seconds: Option<u64>,
    snapshot_events: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogTable {
    level: Option<String>,
    format: Option<LogFormat>,
}

/// What flags and the environment say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    pub(crate) root: Option<PathBuf>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) guest_init: Option<PathBuf>,
    pub(crate) log_level: Option<String>,
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts what a unit's `LoadCredential=` names.
    pub(crate) credentials: Option<PathBuf>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {}", path.display())]
    Unreadable { path: PathBuf, source: KeptError },
    #[error("the configuration {} is wrong", path.display())]
    Wrong { path: PathBuf, source: TomlProblem },
    #[error(transparent)]
    Webhooks(#[from] WebhooksError),
    #[error("the credential {} is no key", path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("{} has no certificate authorities that can be used", path.display())]
    Authority {
        path: PathBuf,
        source: Box<FetchError>,
    },
    #[error("{key} = {value} in {origin} is out of range: {range}")]
    Range {
        key: &'static str,
        value: String,
        origin: String,
        range: &'static str,
    },
    #[error("images.limits in {origin} cannot be")]
    Limit { origin: String, source: LimitError },
    #[error("{key} in {origin} is {}, which is not an absolute path", path.display())]
    Relative {
        key: &'static str,
        origin: String,
        path: PathBuf,
    },
}

impl Config {
    /// Puts the layers together. `places` are the defaults for where things are kept.
    pub(crate) fn load(given: &Given, places: Places, cores: usize) -> Result<Self, ConfigError> {
        let mut config = Self::defaults(places, cores);
        let named = given.file.is_some();
        let path = given.file.clone().unwrap_or_else(|| config.default_file());
        match read_kept_text(&path, MAX_CONFIG_BYTES) {
            Ok(text) => {
                config.apply_file(&path, &text)?;
                config.own_file = Some((path, text));
            }
            Err(error) if error.is_not_found() && !named => {}
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        }
        if let Some(root) = &given.root {
            let places = Places::below(root);
            config.state_dir.set(Some(places.state), "--root");
            config.cache_dir.set(Some(places.cache), "--root");
            config.socket.set(Some(places.socket), "--root");
            config
                .socket_access
                .set(Some(SocketAccess::Owner), "--root");
        }
        config.socket.set(given.socket.clone(), "--socket");
        let init = given.guest_init.clone().map(|path| vec![path]);
        config
            .guest_init
            .set(init, "--guest-init or KILN_GUEST_INIT");
        config
            .log_level
            .set(given.log_level.clone(), "--log or KILN_LOG");
        config.check()?;
        config.ca_pem = config.read_ca_files()?;
        config.login_key = config.find_login_key(given)?;
        config.webhooks = Webhooks::load(
            config.webhooks_listen.value,
            config.webhooks_secret_file.value.as_deref(),
            &config.webhooks_rules.value,
        )?;
        Ok(config)
    }

    fn defaults(places: Places, cores: usize) -> Self {
        Self {
            state_dir: Valued::default(places.state),
            cache_dir: Valued::default(places.cache),
            socket: Valued::default(places.socket),
            socket_access: Valued::default(if places.is_system {
                SocketAccess::Group
            } else {
                SocketAccess::Owner
            }),
            shutdown_grace_seconds: Valued::default(30),
            max_operations: Valued::default(64),
            decode_threads: Valued::default(cores),
            build_threads: Valued::default(cores.div_ceil(2)),
            rates: Rates::default(),
            insecure_registries: Valued::default(Vec::new()),
            ca_files: Valued::default(Vec::new()),
            ca_pem: Vec::new(),
            short_names: Valued::default(ShortNames::Allowed),
            conf_files: Valued::default(places.registries_conf),
            certs_dirs: Valued::default(places.certs_dirs),
            own_file: None,
            has_own_rules: false,
            patience: Patience::default(),
            audit: Audit::default(),
            retention_days: Valued::default(30),
            image_limits: Valued::default(Limits::new()),
            conceal_private: Valued::default(false),
            guest_init: Valued::default(places.guest_init),
            snapshot_interval_seconds: Valued::default(86_400),
            snapshot_events: Valued::default(1_000),
            log_level: Valued::default("info".to_owned()),
            log_format: Valued::default(LogFormat::Text),
            login_key: KeySource::file(PathBuf::new()),
            webhooks_listen: Valued::default(None),
            webhooks_secret_file: Valued::default(None),
            webhooks_rules: Valued::default(Vec::new()),
            webhooks: Webhooks::default(),
        }
    }

    /// A private root keeps its file beside its state; the others have theirs where users look.
    fn default_file(&self) -> PathBuf {
        if self.socket_access.value == SocketAccess::Group {
            return PathBuf::from("/etc/kiln/config.toml");
        }
        self.state_dir.value.join("config.toml")
    }

    fn apply_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let file: File = toml::from_str(text).map_err(|source| ConfigError::Wrong {
            path: path.to_owned(),
            source: TomlProblem::of(text, &source),
        })?;
        let origin = path.display().to_string();
        self.state_dir.set(file.daemon.state_dir, &origin);
        self.cache_dir.set(file.daemon.cache_dir, &origin);
        self.socket.set(file.daemon.socket, &origin);
        self.socket_access.set(file.daemon.socket_access, &origin);
        self.shutdown_grace_seconds
            .set(file.daemon.shutdown_grace_seconds, &origin);
        self.max_operations.set(file.limits.max_operations, &origin);
        self.decode_threads.set(file.limits.decode_threads, &origin);
        self.build_threads.set(file.limits.build_threads, &origin);
        self.rates.apply(
            file.limits.costly_calls_burst,
            file.limits.costly_calls_per_minute,
            &origin,
        );
        match file.registry {
            RegistryPart::Rules => self.has_own_rules = true,
            RegistryPart::Table(table) => self.apply_registries(*table, &origin),
        }
        self.apply_registries(file.registries, &origin);
        self.retention_days.set(file.images.retention_days, &origin);
        self.image_limits.set(file.images.limits, &origin);
        self.conceal_private
            .set(file.images.conceal_private, &origin);
        let init = file.guest.init.map(|path| vec![path]);
        self.guest_init.set(init, &origin);
        self.snapshot_interval_seconds
            .set(file.database.snapshot_interval_seconds, &origin);
        self.snapshot_events
            .set(file.database.snapshot_events, &origin);
        self.audit.apply(&file.audit, &origin);
        self.log_level.set(file.log.level, &origin);
        self.log_format.set(file.log.format, &origin);
        let WebhooksTable {
            listen,
            secret_file,
            rule,
        } = file.webhooks;
        self.webhooks_listen.set(listen.map(Some), &origin);
        self.webhooks_secret_file
            .set(secret_file.map(Some), &origin);
        self.webhooks_rules.set(rule, &origin);
        Ok(())
    }

    /// Takes the key that the service manager keeps, else a file apart from the database.
    fn find_login_key(&self, given: &Given) -> Result<KeySource, ConfigError> {
        let Some(path) = given
            .credentials
            .as_ref()
            .map(|folder| folder.join(LOGIN_KEY))
        else {
            return Ok(self.own_login_key());
        };
        match read_kept(&path, MAX_KEY_BYTES) {
            Ok(bytes) => {
                KeySource::given(&bytes).map_err(|source| ConfigError::Key { path, source })
            }
            Err(error) if error.is_not_found() => Ok(self.own_login_key()),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    fn own_login_key(&self) -> KeySource {
        KeySource::file(self.state_dir.value.join("logins.key"))
    }

    fn apply_registries(&mut self, table: RegistryTable, origin: &str) {
        self.insecure_registries.set(table.insecure, origin);
        self.ca_files.set(table.ca_files, origin);
        self.short_names.set(table.short_names, origin);
        self.conf_files.set(table.conf_files, origin);
        self.certs_dirs.set(table.certs_dirs, origin);
        self.patience.apply(&table.limits, origin);
    }

    fn read_ca_files(&self) -> Result<Vec<Vec<u8>>, ConfigError> {
        let read = |path: &PathBuf| {
            let read = read_kept(path, MAX_AUTHORITIES_BYTES);
            let pem = read.map_err(|source| ConfigError::Unreadable {
                path: path.clone(),
                source,
            })?;
            match kiln_registry::check_authorities(&pem) {
                Ok(()) => Ok(pem),
                Err(source) => Err(ConfigError::Authority {
                    path: path.clone(),
                    source: Box::new(source),
                }),
            }
        };
        self.ca_files.value.iter().map(read).collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let threads = |key, valued| in_range(key, valued, 256, "1 to 256");
        in_range(
            "limits.max_operations",
            &self.max_operations,
            4_096,
            "1 to 4096",
        )?;
        threads("limits.decode_threads", &self.decode_threads)?;
        threads("limits.build_threads", &self.build_threads)?;
        in_range(
            "database.snapshot_interval_seconds",
            &self.snapshot_interval_seconds,
            2_592_000,
            "1 to 2592000",
        )?;
        in_range(
            "database.snapshot_events",
            &self.snapshot_events,
            1_000_000,
            "1 to 1000000",
        )?;
        let paths = [
            ("daemon.state_dir", &self.state_dir),
            ("daemon.cache_dir", &self.cache_dir),
            ("daemon.socket", &self.socket),
        ];
        for (key, valued) in paths {
            absolute(key, valued, &valued.value)?;
        }
        let lists = [
            ("registries.conf_files", &self.conf_files),
            ("registries.certs_dirs", &self.certs_dirs),
        ];
        for (key, valued) in lists {
            for path in &valued.value {
                absolute(key, valued, path)?;
            }
        }
        self.rates.check()?;
        self.audit.check()?;
        image_limits::check(&self.image_limits)?;
        self.patience.check()?;
        for path in &self.guest_init.value {
            absolute("guest.init", &self.guest_init, path)?;
        }
        Ok(())
    }

    /// Lists every value with its origin, as `kiln info --config` shows them.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let path = |path: &PathBuf| format!("{:?}", path.display().to_string());
        let list = |items: Vec<String>| format!("{items:?}");
        let paths = |paths: &Vec<PathBuf>| {
            let shown = paths.iter().map(|path| path.display().to_string());
            list(shown.collect())
        };
        let rates = self.rates.keys();
        let rates = rates.map(|(key, valued)| row(key, valued, u32::to_string));
        let patience = self.patience.keys();
        let patience = patience.map(|(key, valued)| row(key, valued, u64::to_string));
        let mut rows = vec![
            row("daemon.state_dir", &self.state_dir, path),
            row("daemon.cache_dir", &self.cache_dir, path),
            row("daemon.socket", &self.socket, path),
            row("daemon.socket_access", &self.socket_access, |access| {
                format!("{access:?}").to_lowercase()
            }),
            row(
                "daemon.shutdown_grace_seconds",
                &self.shutdown_grace_seconds,
                u64::to_string,
            ),
            row(
                "limits.max_operations",
                &self.max_operations,
                u32::to_string,
            ),
            row(
                "limits.decode_threads",
                &self.decode_threads,
                usize::to_string,
            ),
            row(
                "limits.build_threads",
                &self.build_threads,
                usize::to_string,
            ),
            row("registries.insecure", &self.insecure_registries, |hosts| {
                list(hosts.clone())
            }),
            row("registries.ca_files", &self.ca_files, paths),
            row("registries.short_names", &self.short_names, |policy| {
                let word = match policy {
                    ShortNames::Allowed => "docker.io",
                    ShortNames::Strict => "strict",
                };
                format!("{word:?}")
            }),
            row("registries.conf_files", &self.conf_files, paths),
            row("registries.certs_dirs", &self.certs_dirs, paths),
            row(
                "images.retention_days",
                &self.retention_days,
                u32::to_string,
            ),
            row("images.limits", &self.image_limits, image_limits::shown),
            row(
                "images.conceal_private",
                &self.conceal_private,
                bool::to_string,
            ),
            row("guest.init", &self.guest_init, paths),
            row(
                "database.snapshot_interval_seconds",
                &self.snapshot_interval_seconds,
                u64::to_string,
            ),
            row(
                "database.snapshot_events",
                &self.snapshot_events,
                u32::to_string,
            ),
            row(
                "audit.retention_days",
                &self.audit.retention_days,
                u32::to_string,
            ),
            row("audit.max_lines", &self.audit.max_lines, u64::to_string),
            row("log.level", &self.log_level, |level| format!("{level:?}")),
            row("log.format", &self.log_format, |format| {
                format!("{format:?}").to_lowercase()
            }),
            row("webhooks.listen", &self.webhooks_listen, |address| {
                address.map_or_else(|| "none".to_owned(), |address| format!("\"{address}\""))
            }),
            row("webhooks.secret_file", &self.webhooks_secret_file, |file| {
                file.as_ref().map_or_else(|| "none".to_owned(), path)
            }),
            row("webhooks.rule", &self.webhooks_rules, |rules| {
                list(rules.iter().map(RuleTable::shown).collect())
            }),
        ];
        rows.extend(rates);
        rows.extend(patience);
        rows
    }
}

/// Shows a value with its origin.
fn row<T>(key: &str, valued: &Valued<T>, show: impl Fn(&T) -> String) -> Setting {
    let (value, origin) = (show(&valued.value), valued.origin.clone());
    Setting {
        key: key.to_owned(),
        value,
        origin,
    }
}

/// Refuses a path that depends on where the daemon was started.
fn absolute<T>(key: &'static str, valued: &Valued<T>, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        return Ok(());
    }
    let (origin, path) = (valued.origin.clone(), path.to_owned());
    Err(ConfigError::Relative { key, origin, path })
}

/// Refuses a count below 1 or above `most`; `range` says so in words.
fn in_range<T: Copy + PartialOrd + From<u8> + ToString>(
    key: &'static str,
    valued: &Valued<T>,
    most: T,
    range: &'static str,
) -> Result<(), ConfigError> {
    if (T::from(1)..=most).contains(&valued.value) {
        return Ok(());
    }
    Err(ConfigError::Range {
        key,
        value: valued.value.to_string(),
        origin: valued.origin.clone(),
        range,
    })
}

#[cfg(test)]
mod tests;
