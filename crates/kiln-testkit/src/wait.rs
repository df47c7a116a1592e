//! Waiting for a condition, always with a limit; there is no fixed sleep anywhere in this crate.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks at a condition: short against everything that is waited for here,
/// long enough not to steal time from it.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `probe` returns a value, and returns it.
///
/// Fails when `probe` fails, or when `limit` has passed; the error then names `what`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            bail!("no {what} within {limit:?}");
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_ends_the_wait() -> Result<()> {
        let mut looks = 0;

        let value = until("third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        })?;

        assert_eq!(value, 3);
        Ok(())
    }

    #[test]
    fn the_limit_ends_the_wait_and_names_it() {
        let result = until::<()>("answer", Duration::ZERO, || Ok(None));

        let message = result.err().map(|error| error.to_string());
        assert_eq!(message.as_deref(), Some("no answer within 0ns"));
    }
}
