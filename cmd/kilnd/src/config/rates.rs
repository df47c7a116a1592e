//! `limits.costly_calls_…`: how many costly calls one user may make.

use kiln_rpc::RateLimit;

use super::{ConfigError, Valued, in_range};

/// More than anybody makes: whoever wants no limit sets this.
const MOST: u32 = 1_000_000;

/// How many costly calls one user may make.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    burst: Valued<u32>,
    per_minute: Valued<u32>,
}

impl Default for Rates {
    fn default() -> Self {
        let RateLimit { burst, per_minute } = RateLimit::default();
        Self {
            burst: Valued::default(burst),
            per_minute: Valued::default(per_minute),
        }
    }
}

impl Rates {
    pub(super) fn apply(&mut self, burst: Option<u32>, per_minute: Option<u32>, origin: &str) {
        self.burst.set(burst, origin);
        self.per_minute.set(per_minute, origin);
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, valued) in self.keys() {
            in_range(key, valued, MOST, "1 to 1000000")?;
        }
        Ok(())
    }

    pub(super) fn keys(&self) -> [(&'static str, &Valued<u32>); 2] {
        [
            ("limits.costly_calls_burst", &self.burst),
            ("limits.costly_calls_per_minute", &self.per_minute),
        ]
    }

    pub(crate) fn limit(&self) -> RateLimit {
        RateLimit {
            burst: self.burst.value,
            per_minute: self.per_minute.value,
        }
    }
}
