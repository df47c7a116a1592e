//! `[registries.limits]`: how long a registry may take, and how often it is asked again.
//!
//! What each limit does is written at `kiln_registry::Config`, whose defaults these are.

use std::time::Duration;

use kiln_service::{MinimumRate, RegistryConfig};
use serde::Deserialize;

use super::{ConfigError, Valued, in_range};

/// Slowest acceptable transfer of a blob, in bytes per second, over the window that is set.
const SLOWEST_BYTES_PER_SECOND: u64 = 1024;

/// The limits, in seconds but for `attempts`.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    connect_timeout: Valued<u64>,
    stall_timeout: Valued<u64>,
    document_timeout: Valued<u64>,
    slow_window: Valued<u64>,
    attempts: Valued<u64>,
    retry_after: Valued<u64>,
    lost: Valued<u64>,
}

/// The keys of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PatienceTable {
    connect_timeout_seconds: Option<u64>,
    stall_timeout_seconds: Option<u64>,
    document_timeout_seconds: Option<u64>,
    slow_window_seconds: Option<u64>,
    attempts: Option<u64>,
    retry_after_seconds: Option<u64>,
    lost_seconds: Option<u64>,
}

impl Default for Patience {
    fn default() -> Self {
        let config = RegistryConfig::default();
        let seconds = |duration: Duration| Valued::default(duration.as_secs());
        Self {
            connect_timeout: seconds(config.connect_timeout),
            stall_timeout: seconds(config.stall_timeout),
            document_timeout: seconds(config.document_timeout),
            slow_window: seconds(config.slowest.window),
            attempts: Valued::default(u64::from(config.attempts)),
            retry_after: seconds(config.longest_retry_after),
            lost: seconds(config.patience),
        }
    }
}

impl Patience {
    pub(super) fn apply(&mut self, table: &PatienceTable, origin: &str) {
        self.connect_timeout
            .set(table.connect_timeout_seconds, origin);
        self.stall_timeout.set(table.stall_timeout_seconds, origin);
        self.document_timeout
            .set(table.document_timeout_seconds, origin);
        self.slow_window.set(table.slow_window_seconds, origin);
        self.attempts.set(table.attempts, origin);
        self.retry_after.set(table.retry_after_seconds, origin);
        self.lost.set(table.lost_seconds, origin);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, valued) in self.keys() {
            let (most, range) = match key {
                "registries.limits.attempts" => (100, "1 to 100"),
                _ => (3_600, "1 to 3600"),
            };
            in_range(key, valued, most, range)?;
        }
        Ok(())
    }

    /// Lists the keys with their values, in the order of the file's documentation.
    pub(super) fn keys(&self) -> [(&'static str, &Valued<u64>); 7] {
        [
            (
                "registries.limits.connect_timeout_seconds",
                &self.connect_timeout,
            ),
            (
                "registries.limits.stall_timeout_seconds",
                &self.stall_timeout,
            ),
            (
                "registries.limits.document_timeout_seconds",
                &self.document_timeout,
            ),
            ("registries.limits.slow_window_seconds", &self.slow_window),
            ("registries.limits.attempts", &self.attempts),
            ("registries.limits.retry_after_seconds", &self.retry_after),
            ("registries.limits.lost_seconds", &self.lost),
        ]
    }

    /// Returns the transport's configuration with these limits.
    pub(crate) fn registry_config(&self) -> RegistryConfig {
        let seconds = |valued: &Valued<u64>| Duration::from_secs(valued.value);
        let window = seconds(&self.slow_window);
        let default = RegistryConfig::default();
        RegistryConfig {
            connect_timeout: seconds(&self.connect_timeout),
            stall_timeout: seconds(&self.stall_timeout),
            document_timeout: seconds(&self.document_timeout),
            slowest: MinimumRate {
                bytes: SLOWEST_BYTES_PER_SECOND.saturating_mul(window.as_secs()),
                window,
            },
            attempts: u32::try_from(self.attempts.value).unwrap_or(default.attempts),
            longest_retry_after: seconds(&self.retry_after),
            patience: seconds(&self.lost),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_transports_own() {
        let made = Patience::default().registry_config();

        assert_eq!(
            format!("{made:?}"),
            format!("{:?}", RegistryConfig::default())
        );
    }

    #[test]
    fn nobody_waits_for_no_time_or_for_hours() {
        for seconds in [0, 3_601, u64::MAX] {
            let mut patience = Patience::default();
            let table = PatienceTable {
                stall_timeout_seconds: Some(seconds),
                ..PatienceTable::default()
            };
            patience.apply(&table, "a test");
            assert!(patience.check().is_err(), "{seconds}");
        }
    }
}
