//! Rules that choose tags of a repository: patterns, and ranges of versions.
//!
//! ```text
//! v1.*   ?.2   latest             * stands for any characters, ? for one
//! >=1.2, <2      ~1.4      ^1     all bounds hold; ~ keeps two numbers, ^ keeps one
//! ```
//! A tag is a version when it is one to four numbers joined by dots, a `v` in front or not, and
//! perhaps a suffix behind a hyphen. With a suffix it comes before the same numbers without one, as
//! pre-releases do (Semantic Versioning 2.0.0, 11).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Longest pattern or range, in bytes: a tag has 128, a repository 255.
const MAX_LEN: usize = 255;

/// Most numbers of a version.
const MAX_NUMBERS: usize = 4;

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagRuleError {
    /// It is empty, or longer than 255 bytes.
    #[error("a pattern or range has 1 to {MAX_LEN} characters")]
    Length,
    /// A bound does not begin with an operator.
    #[error("{bound:?} does not begin with >=, >, <=, <, =, ~ or ^")]
    Operator {
        /// The bound, cut to 80 characters.
        bound: String,
    },
    /// What stands behind the operator is no version.
    #[error("{text:?} is not a version such as 1, 1.2 or 1.2.3-rc1")]
    Version {
        /// The text, cut to 80 characters.
        text: String,
    },
}

/// A pattern: `*` stands for any characters, `?` for one, everything else for itself.
///
/// A slash is a character like others, other than in [`PathPattern`](crate::PathPattern): whoever
/// copies a namespace means everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPattern(String);

impl TagPattern {
    /// Says whether a text has the pattern's form.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut here) = (0, 0);
        // Where the last star stands, and how much of the text it stands for.
        let mut star: Option<(usize, usize)> = None;
        while here < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, here));
                    at += 1;
                }
                Some(letter) if *letter == b'?' || *letter == text[here] => {
                    at += 1;
                    here += 1;
                }
                _ => match &mut star {
                    Some((position, taken)) => {
                        *taken += 1;
                        (at, here) = (*position + 1, *taken);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|letter| *letter == b'*')
    }

    /// Says whether the pattern stands for one text alone, and returns it.
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(self.0.as_str())
    }
}

impl FromStr for TagPattern {
    type Err = TagRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(TagRuleError::Length);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag that is a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagVersion {
    numbers: [u64; MAX_NUMBERS],
    /// How many numbers were written.
    written: usize,
    suffix: Option<String>,
}

impl TagVersion {
    /// Reads a tag; nothing when it is no version.
    pub fn of(tag: &str) -> Option<Self> {
        let text = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
        let (numbers, suffix) = match text.split_once('-') {
            Some((numbers, suffix)) if !suffix.is_empty() => (numbers, Some(suffix.to_owned())),
            Some(_) => return None,
            None => (text, None),
        };
        let mut version = Self {
            numbers: [0; MAX_NUMBERS],
            written: 0,
            suffix,
        };
        for word in numbers.split('.') {
            let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            let number = word.parse().ok().filter(|_| is_number)?;
            *version.numbers.get_mut(version.written)? = number;
            version.written += 1;
        }
        Some(version)
    }

    /// Says whether it has a suffix behind its numbers.
    pub fn has_suffix(&self) -> bool {
        self.suffix.is_some()
    }
}

impl Ord for TagVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_suffix = || match (&self.suffix, &other.suffix) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(one), Some(other)) => compare_suffixes(one, other),
        };
        self.numbers.cmp(&other.numbers).then_with(by_suffix)
    }
}

impl PartialOrd for TagVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares word by word: numbers by their value and before words (Semantic Versioning, 11.4).
fn compare_suffixes(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        let (one, other) = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(one), Some(other)) => (one, other),
        };
        let order = match (one.parse::<u64>(), other.parse::<u64>()) {
            (Ok(one), Ok(other)) => one.cmp(&other),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => one.cmp(other),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Bounds on versions, all of which hold. Versions with a suffix are in it only where a bound has
/// one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRange(Vec<Bound>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    operator: Operator,
    version: TagVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    AtLeast,
    Above,
    AtMost,
    Below,
    Equal,
    /// At least, and the first so many numbers are the same.
    Keeping(usize),
}

impl VersionRange {
    /// Says whether a version is in it.
    pub fn contains(&self, version: &TagVersion) -> bool {
        let takes_suffixes = self.0.iter().any(|bound| bound.version.has_suffix());
        (takes_suffixes || !version.has_suffix()) && self.0.iter().all(|bound| bound.holds(version))
    }
}

impl Bound {
    fn holds(&self, version: &TagVersion) -> bool {
        let order = version.cmp(&self.version);
        match self.operator {
            Operator::AtLeast => order != Ordering::Less,
            Operator::Above => order == Ordering::Greater,
            Operator::AtMost => order != Ordering::Greater,
            Operator::Below => order == Ordering::Less,
            Operator::Equal => order == Ordering::Equal,
            Operator::Keeping(count) => {
                let count = count.min(self.version.written);
                order != Ordering::Less && version.numbers[..count] == self.version.numbers[..count]
            }
        }
    }
}

impl FromStr for VersionRange {
    type Err = TagRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() || text.len() > MAX_LEN {
            return Err(TagRuleError::Length);
        }
        text.split(',')
            .map(str::trim)
            .map(bound)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn bound(text: &str) -> Result<Bound, TagRuleError> {
    // The longer ones first: > is the beginning of >=.
    let operators = [
        (">=", Operator::AtLeast),
        ("<=", Operator::AtMost),
        (">", Operator::Above),
        ("<", Operator::Below),
        ("=", Operator::Equal),
        ("~", Operator::Keeping(2)),
        ("^", Operator::Keeping(1)),
    ];
    let found = operators
        .into_iter()
        .find_map(|(word, operator)| text.strip_prefix(word).map(|rest| (operator, rest.trim())));
    let (operator, rest) = found.ok_or_else(|| TagRuleError::Operator {
        bound: text.chars().take(80).collect(),
    })?;
    let version = TagVersion::of(rest).ok_or_else(|| TagRuleError::Version {
        text: rest.chars().take(80).collect(),
    })?;
    Ok(Bound { operator, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_look_like() {
        let cases = [
            ("latest", "latest", true),
            ("latest", "latest2", false),
            ("*", "", true),
            ("*", "anything", true),
            ("v*", "v1", true),
            ("v*", "1v", false),
            ("*-rc*", "1.2-rc1", true),
            ("*-rc*", "1.2", false),
            ("1.?", "1.2", true),
            ("1.?", "1.23", false),
            ("a*b*c", "aXbYbc", true),
            ("a*b*c", "aXbYb", false),
            ("**", "x", true),
        ];
        for (pattern, text, want) in cases {
            let parsed: TagPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(text), want, "{pattern} and {text}");
        }
        assert_eq!("".parse::<TagPattern>(), Err(TagRuleError::Length));
        assert_eq!("1.?".parse::<TagPattern>().unwrap().literal(), None);
        assert_eq!("1.2".parse::<TagPattern>().unwrap().literal(), Some("1.2"));
    }

    #[test]
    fn a_pattern_of_many_stars_costs_little() {
        let pattern: TagPattern = "*a".repeat(120).parse().unwrap();

        assert!(!pattern.matches(&"a".repeat(119)));
        assert!(pattern.matches(&"a".repeat(128)));
    }

    #[test]
    fn versions_come_in_their_order() {
        let rising = [
            "1.0-alpha",
            "1.0.0-alpha.1",
            "1.0-alpha.beta",
            "1.0-beta.2",
            "1.0-beta.11",
            "1.0-rc.1",
            "v1",
            "1.0.1",
            "1.2",
            "1.10",
            "2-rc1",
            "2.0",
            "10.0.0.1",
        ];
        let versions: Vec<_> = rising
            .iter()
            .map(|tag| TagVersion::of(tag).unwrap())
            .collect();
        for pair in versions.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        for tag in [
            "latest",
            "",
            "v",
            "1.",
            "1..2",
            "1.2.3.4.5",
            "1.x",
            "1-",
            "99999999999999999999",
        ] {
            assert_eq!(TagVersion::of(tag), None, "{tag}");
        }
    }

    #[test]
    fn ranges_hold_what_they_say() {
        let cases = [
            (
                ">=1.2, <2",
                ["1.2", "1.9.9", "v1.2.0"].as_slice(),
                ["1.1", "2", "2.0.1", "1.5-rc1"].as_slice(),
            ),
            ("~1.4", &["1.4", "1.4.9"], &["1.5", "1.3.9", "2"]),
            ("^1.4", &["1.4", "1.99"], &["1.3", "2.0"]),
            ("^2", &["2.0.0", "2.9"], &["1.9", "3"]),
            ("=1.2.3", &["1.2.3", "v1.2.3"], &["1.2.4"]),
            (">1, <=3", &["1.0.1", "3"], &["1", "3.0.1"]),
            (">=2-rc1", &["2-rc1", "2", "2.1-beta"], &["2-beta", "1.9"]),
        ];
        for (range, inside, outside) in cases {
            let range: VersionRange = range.parse().unwrap();
            for tag in inside {
                assert!(
                    range.contains(&TagVersion::of(tag).unwrap()),
                    "{range:?} and {tag}"
                );
            }
            for tag in outside {
                assert!(
                    !range.contains(&TagVersion::of(tag).unwrap()),
                    "{range:?} and {tag}"
                );
            }
        }
        let broken = [
            ("", TagRuleError::Length),
            (
                "1.2",
                TagRuleError::Operator {
                    bound: "1.2".to_owned(),
                },
            ),
            (
                ">=1,",
                TagRuleError::Operator {
                    bound: String::new(),
                },
            ),
            (
                ">=x",
                TagRuleError::Version {
                    text: "x".to_owned(),
                },
            ),
        ];
        for (text, want) in broken {
            assert_eq!(text.parse::<VersionRange>(), Err(want), "{text:?}");
        }
    }
}
