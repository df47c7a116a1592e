//! SIGHUP: what is configured about registries, and how many costly calls users may make, is read
//! anew, and holds from then on.
//!
//! Work under way keeps what it began with. A configuration that cannot be read changes nothing.
//! Everything else that is configured is decided at start: a change there is told, and waits.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Result;
use kiln_api::daemon::Setting;
use kiln_rpc::Rates;
use kiln_service::{DaemonDesk, Remotes};
use tokio::signal::unix::Signal;

use crate::run::Loaded;

/// Settings that hold as soon as they are read.
const LIVE: [&str; 2] = ["registries.", "limits.costly_calls_"];

/// What a new configuration is handed to.
#[derive(Debug)]
pub(crate) struct Reloading {
    pub(crate) remotes: Arc<Remotes>,
    pub(crate) rates: Rates,
    pub(crate) daemon: Arc<DaemonDesk>,
    /// The settings in force.
    pub(crate) settings: Vec<Setting>,
}

impl Reloading {
    /// Reads anew whenever a signal comes, for as long as it is polled.
    pub(crate) async fn run(
        mut self,
        mut signals: Signal,
        load: impl Fn() -> Result<Loaded> + Send + Sync + 'static,
    ) -> Infallible {
        let load = Arc::new(load);
        loop {
            if signals.recv().await.is_none() {
                // The runtime delivers no more of them.
                std::future::pending::<()>().await;
            }
            let load = load.clone();
            let loaded = match tokio::task::spawn_blocking(move || load()).await {
                Ok(loaded) => loaded,
                Err(panicked) => Err(panicked.into()),
            };
            match loaded {
                Ok(loaded) => self.take(loaded),
                Err(error) => {
                    tracing::error!("the configuration stays as it was: {error:#}");
                }
            }
        }
    }

    fn take(&mut self, loaded: Loaded) {
        let mut settings = loaded.config.settings();
        settings.extend(loaded.surroundings.settings);
        let (settings, waiting) = merged(&self.settings, settings);
        for key in waiting {
            tracing::warn!(key, "changed; it holds after the next start");
        }
        for problem in &loaded.surroundings.problems {
            tracing::warn!(problem, "passed over");
        }
        self.settings.clone_from(&settings);
        self.rates.set(loaded.config.rates.limit());
        self.remotes.replace(loaded.surroundings.network);
        self.daemon.tell_config(settings);
        tracing::info!("the configuration was read anew");
    }
}

/// Takes the live ones of the new settings, and names the others that changed.
fn merged(old: &[Setting], new: Vec<Setting>) -> (Vec<Setting>, Vec<String>) {
    let mut waiting = Vec::new();
    let merged = new.into_iter().map(|setting| {
        let before = old.iter().find(|before| before.key == setting.key);
        match before {
            Some(before) if !LIVE.iter().any(|live| setting.key.starts_with(live)) => {
                if before.value != setting.value {
                    waiting.push(setting.key);
                }
                before.clone()
            }
            _ => setting,
        }
    });
    let merged = merged.collect();
    (merged, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_live_changes_and_the_rest_is_told() {
        let setting = |key: &str, value: &str| Setting {
            key: key.to_owned(),
            value: value.to_owned(),
            origin: value.to_owned(),
        };
        let old = [
            setting("log.level", "old"),
            setting("registries.read", "old"),
        ];
        let new = vec![
            setting("log.level", "new"),
            setting("registries.read", "new"),
        ];

        let (merged, waiting) = merged(&old, new);

        assert_eq!(merged[0], old[0]);
        assert_eq!(merged[1].value, "new");
        assert_eq!(waiting, ["log.level"]);
    }
}
