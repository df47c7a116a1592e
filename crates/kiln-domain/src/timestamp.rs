//! Points in time as Kiln stores and shows them: microseconds, UTC, RFC 3339.
//!
//! Reading the clock is not here; the time is handed in.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// A point in time in microseconds since 1970-01-01T00:00:00Z, between the years 0000 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    micros: i64,
}

/// Why a value is not a point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// The text does not follow RFC 3339.
    #[error("{text:?} is not a time such as 2026-01-31T12:00:00Z")]
    Text {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// The number lies outside the years that can be written.
    #[error("{micros} microseconds since 1970 lies outside the years 0000 to 9999")]
    Range {
        /// The number given.
        micros: i64,
    },
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self { micros: 0 };

    /// 9999-12-31T23:59:59.999999Z, the last moment that can be written.
    pub const LATEST: Self = Self {
        micros: 253_402_300_799_999_999,
    };

    /// Takes microseconds since the epoch.
    pub fn from_micros(micros: i64) -> Result<Self, TimestampError> {
        to_offset(micros)
            .map(|_| Self { micros })
            .ok_or(TimestampError::Range { micros })
    }

    /// Returns microseconds since the epoch.
    pub fn as_micros(self) -> i64 {
        self.micros
    }

    /// Returns whole seconds since the epoch, rounded down.
    pub fn as_seconds(self) -> i64 {
        self.micros.div_euclid(1_000_000)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
        );
        let text = to_offset(self.micros).and_then(|time| time.format(&format).ok());
        f.write_str(&text.ok_or(fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || TimestampError::Text {
            text: text.chars().take(80).collect(),
        };
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong())?;
        let micros = time.unix_timestamp_nanos().div_euclid(1_000);
        Self::from_micros(i64::try_from(micros).map_err(|_| wrong())?)
    }
}

crate::text::serde_through_text!(Timestamp);

fn to_offset(micros: i64) -> Option<OffsetDateTime> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?;
    (0..=9999).contains(&time.year()).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_microseconds_and_is_utc() {
        let cases = [
            ("2024-03-01T00:00:00Z", "2024-03-01T00:00:00.000000Z"),
            (
                "2024-03-01T01:30:00.123456789+01:30",
                "2024-03-01T00:00:00.123456Z",
            ),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500000Z"),
        ];
        for (text, want) in cases {
            let time: Timestamp = text.parse().unwrap();

            assert_eq!(time.to_string(), want, "parsing {text:?}");
        }
    }

    #[test]
    fn seconds_round_down() {
        assert_eq!(
            Timestamp::from_micros(-1).map(Timestamp::as_seconds),
            Ok(-1)
        );
        assert_eq!(
            Timestamp::from_micros(1_999_999).map(Timestamp::as_seconds),
            Ok(1)
        );
    }

    #[test]
    fn far_times_are_refused() {
        let latest = Timestamp::LATEST.as_micros();
        assert_eq!(Timestamp::from_micros(latest), Ok(Timestamp::LATEST));
        assert!(
            Timestamp::from_micros(latest + 1).is_err(),
            "the year 10000"
        );
        assert_eq!(
            Timestamp::from_micros(i64::MAX),
            Err(TimestampError::Range { micros: i64::MAX })
        );
        assert!(matches!(
            "yesterday".parse::<Timestamp>(),
            Err(TimestampError::Text { .. })
        ));
    }
}
