//! Lengths of time as people write them: `90`, `30s`, `5m`, `2h`, `1d`, `1h30m`.

use std::str::FromStr;
use std::time::Duration;

/// Longest accepted span: the daemon keeps operations for seven days.
const MAX_SECONDS: u64 = 7 * 24 * 60 * 60;

/// A length of time between a second and seven days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeSpan(pub(crate) Duration);

/// Why a text is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimeSpanError;

impl std::fmt::Display for TimeSpanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("write it like 30s, 5m, 2h or 1h30m, between 1s and 7d")
    }
}

impl std::error::Error for TimeSpanError {}

impl FromStr for TimeSpan {
    type Err = TimeSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = match text.parse::<u64>() {
            Ok(seconds) if !text.starts_with('+') => Some(seconds),
            _ => with_units(text),
        };
        match seconds {
            Some(seconds @ 1..=MAX_SECONDS) => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(TimeSpanError),
        }
    }
}

/// Longest accepted age: a hundred years.
const MAX_AGE_SECONDS: u64 = 36_500 * 24 * 60 * 60;

/// How long something is ago: from nothing to a hundred years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age(u64);

/// Why a text is not an age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgeError;

impl std::fmt::Display for AgeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("write it like 12h, 30d or 0s, at most 36500d")
    }
}

impl std::error::Error for AgeError {}

impl Age {
    pub(crate) fn seconds(self) -> u64 {
        self.0
    }
}

impl FromStr for Age {
    type Err = AgeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = with_units(text).filter(|_| !text.is_empty());
        match seconds {
            Some(seconds @ 0..=MAX_AGE_SECONDS) => Ok(Self(seconds)),
            _ => Err(AgeError),
        }
    }
}

fn with_units(text: &str) -> Option<u64> {
    let mut seconds: u64 = 0;
    let mut digits = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return None,
        };
        let count: u64 = std::mem::take(&mut digits).parse().ok()?;
        seconds = seconds.checked_add(count.checked_mul(unit)?)?;
    }
    digits.is_empty().then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_and_without_units() {
        let cases = [
            ("90", Some(90)),
            ("30s", Some(30)),
            ("5m", Some(300)),
            ("1h30m", Some(5_400)),
            ("7d", Some(MAX_SECONDS)),
            ("8d", None),
            ("0", None),
            ("", None),
            ("s", None),
            ("5x", None),
            ("1h30", None),
            ("-1s", None),
            ("+1", None),
            ("99999999999999999999d", None),
        ];
        for (text, want) in cases {
            let got = text.parse::<TimeSpan>().ok().map(|span| span.0.as_secs());
            assert_eq!(got, want, "parsing {text:?}");
        }
    }

    #[test]
    fn an_age_says_its_unit() {
        let cases = [
            ("0s", Some(0)),
            ("30d", Some(30 * 86_400)),
            ("36500d", Some(36_500 * 86_400)),
            ("36501d", None),
            ("30", None),
            ("", None),
            ("-1d", None),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Age>().ok().map(Age::seconds), want, "{text:?}");
        }
    }
}
