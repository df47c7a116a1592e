//! `[audit]`: how long the lines of what callers did are kept.

use kiln_service::AuditRetention;
use serde::Deserialize;

use super::{ConfigError, Valued, in_range};

/// A hundred years, in days.
const DAYS_MAX: u32 = 36_500;

/// As many lines as take some 25 GB of disk.
const LINES_MAX: u64 = 100_000_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AuditTable {
    retention_days: Option<u32>,
    max_lines: Option<u64>,
}

/// How long lines are kept.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    pub(super) retention_days: Valued<u32>,
    pub(super) max_lines: Valued<u64>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            // Three years, as reports of compliance are kept.
            retention_days: Valued::default(1_096),
            max_lines: Valued::default(1_000_000),
        }
    }
}

impl Audit {
    pub(super) fn apply(&mut self, table: &AuditTable, origin: &str) {
        self.retention_days.set(table.retention_days, origin);
        self.max_lines.set(table.max_lines, origin);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range(
            "audit.retention_days",
            &self.retention_days,
            DAYS_MAX,
            "1 to 36500",
        )?;
        in_range(
            "audit.max_lines",
            &self.max_lines,
            LINES_MAX,
            "1 to 100000000",
        )
    }

    pub(crate) fn retention(&self) -> AuditRetention {
        AuditRetention {
            days: self.retention_days.value,
            lines: self.max_lines.value,
        }
    }
}
