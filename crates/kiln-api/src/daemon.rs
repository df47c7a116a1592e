//! The daemon itself: `daemon.*`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::method::method;

/// Major version of the API: clients refuse another.
pub const API_MAJOR: u32 = 1;

/// Minor version of the API: it only ever adds.
pub const API_MINOR: u32 = 0;

method! {
    /// See [`Info`].
    GetInfo = "daemon.info",
    "Tells what the daemon is, where it keeps things and how it is configured.",
    (InfoParams) -> Info, Read, []
}

/// Nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InfoParams {}

/// What the daemon is and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// The daemon's release.
    pub version: String,
    /// The version of its API.
    pub api: ApiVersion,
    /// Its process id.
    pub pid: u32,
    /// The user id it runs as.
    pub uid: u32,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// The architecture of this host, which calls without one mean.
    pub architecture: String,
    /// Where it keeps things.
    pub places: Places,
    /// How many things it keeps.
    pub counts: Counts,
    /// Whether it can keep anything more.
    #[serde(default)]
    pub database: Database,
    /// What start-up found of an earlier run and put in order.
    pub recovered: Recovered,
    /// The user who asks, as the daemon sees them.
    pub caller: Caller,
    /// Every value of the configuration and where it came from.
    pub config: Vec<Setting>,
}

/// A version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiVersion {
    /// Clients refuse another.
    pub major: u32,
    /// Only ever adds.
    pub minor: u32,
}

/// Where the daemon keeps things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Places {
    /// The state directory.
    pub state: String,
    /// The images below it.
    pub images: String,
    /// The kernel catalogue below it.
    pub kernels: String,
    /// The cache: safe to delete while the daemon is down.
    pub cache: String,
    /// The socket calls come through.
    pub socket: String,
    /// The socket descriptors come through.
    pub files_socket: String,
}

/// How many things the daemon keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Images that are not forgotten.
    pub images: u64,
    /// Kernels in the catalogue.
    pub kernels: u64,
    /// Operations running now.
    pub running_operations: u64,
}

/// How the database stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Database {
    /// Why it cannot be written, when it cannot: every call that changes something is refused with
    /// this until it can be again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What start-up found of an earlier run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recovered {
    /// Operations that were running when the earlier run ended.
    pub interrupted_operations: u64,
    /// Directories of work that never ended, removed.
    pub removed_staging: u64,
    /// Directories of images nobody was told about, removed.
    pub removed_unrecorded: u64,
    /// Directories of images that the database does not know, left in place: they cannot be read,
    /// or the database was put back from a backup.
    pub left_unrecorded: u64,
    /// Kernels of the catalogue that the database did not know, and knows now.
    pub adopted_kernels: u64,
    /// Images that the database did not know, and knows now as inactive ones.
    #[serde(default)]
    pub adopted_images: u64,
    /// Versions that the database knows and that have no directory any more.
    #[serde(default)]
    pub missing_versions: u64,
    /// How the database took the place of one that was lost or damaged, if it did at this start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_database: Option<ReplacedDatabase>,
}

/// How a lost or damaged database was replaced. Files are named as they stand in the state
/// directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplacedDatabase {
    /// What was wrong with it.
    pub cause: String,
    /// What it is called now, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// The snapshot that took its place; an empty database did when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Snapshots that could not be used.
    pub unusable_snapshots: Vec<String>,
}

/// The user who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Caller {
    /// The user id, as the kernel told the daemon.
    pub uid: u32,
    /// Whether that user may do everything here.
    pub superadmin: bool,
}

/// One value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    /// Its key, such as `limits.max_operations`.
    pub key: String,
    /// Its value, as it would stand in the file.
    pub value: String,
    /// Where it came from: `default`, a file's path, an environment variable or a flag.
    pub origin: String,
}
