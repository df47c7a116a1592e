//! The signal that asks a program to stop, by name or number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The first real-time signal a program may use, as C libraries count: they keep two.
const REAL_TIME_MIN: u8 = 34;
/// The last signal there is.
const MAX: u8 = 64;

/// Names and numbers of the signals of Linux on x86-64 and arm64; aliases after their name.
const NAMES: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// A signal of Linux.
///
/// Invariant: 1 to 31 or 34 to 64. Written as its name with `SIG`, such as `SIGTERM` or
/// `SIGRTMIN+3`; read from that, with or without `SIG`, in any case, or from a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StopSignal(u8);

/// The text names no signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no signal")]
pub struct ParseSignalError {
    /// What was given.
    pub text: String,
}

impl StopSignal {
    /// Asks politely; what an image that says nothing means.
    pub const TERM: Self = Self(15);
    /// Cannot be refused.
    pub const KILL: Self = Self(9);

    /// Returns the signal of a number, where there is one.
    pub fn from_number(number: i32) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        matches!(number, 1..=31 | REAL_TIME_MIN..=MAX).then_some(Self(number))
    }

    /// Returns its number.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl FromStr for StopSignal {
    type Err = ParseSignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseSignalError {
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<StopSignal> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return StopSignal::from_number(text.parse().ok()?);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(StopSignal(*number));
    }
    let number = if let Some(above) = name.strip_prefix("RTMIN") {
        i32::from(REAL_TIME_MIN) + offset(above, '+')?
    } else {
        i32::from(MAX) - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    // Beyond either end of the real-time signals it is no signal, or another one.
    StopSignal::from_number(number).filter(|signal| signal.0 >= REAL_TIME_MIN)
}

fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .parse()
        .ok()
        .filter(|offset| is_number && *offset <= i32::from(MAX))
}

impl fmt::Display for StopSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(formatter, "SIG{name}"),
            None if self.0 == REAL_TIME_MIN => formatter.write_str("SIGRTMIN"),
            None => write!(
                formatter,
                "SIGRTMIN+{}",
                self.0.saturating_sub(REAL_TIME_MIN)
            ),
        }
    }
}

impl TryFrom<String> for StopSignal {
    type Error = ParseSignalError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<StopSignal> for String {
    fn from(signal: StopSignal) -> Self {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_mean_the_same_signals() {
        let cases: &[(&str, Option<(i32, &str)>)] = &[
            ("SIGTERM", Some((15, "SIGTERM"))),
            ("TERM", Some((15, "SIGTERM"))),
            ("term", Some((15, "SIGTERM"))),
            ("15", Some((15, "SIGTERM"))),
            ("SIGIOT", Some((6, "SIGABRT"))),
            ("SIGRTMIN", Some((34, "SIGRTMIN"))),
            ("RTMIN+3", Some((37, "SIGRTMIN+3"))),
            ("SIGRTMAX-1", Some((63, "SIGRTMIN+29"))),
            ("SIGRTMAX", Some((64, "SIGRTMIN+30"))),
            ("37", Some((37, "SIGRTMIN+3"))),
            ("SIGRTMIN+30", Some((64, "SIGRTMIN+30"))),
            ("SIGRTMIN+31", None),
            ("SIGRTMAX-31", None),
            ("SIGRTMIN+", None),
            ("SIGRTMIN++1", None),
            ("SIGRTMIN-1", None),
            ("0", None),
            ("32", None),
            ("65", None),
            ("-9", None),
            ("99999999999", None),
            ("", None),
            ("SIG", None),
            ("SIGSIGTERM", None),
            ("SIGNOPE", None),
        ];
        for (text, want) in cases {
            let got = text.parse::<StopSignal>().ok();
            let got = got.map(|signal| (signal.number(), signal.to_string()));
            let want = want.map(|(number, name)| (number, name.to_owned()));
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn every_signal_is_read_back_from_its_name() {
        for signal in (0..=65).filter_map(StopSignal::from_number) {
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
    }
}
