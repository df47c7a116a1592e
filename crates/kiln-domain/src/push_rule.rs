//! What a push to a registry is to lead to here: rules over repository and tag, and names.
//!
//! A notification says what was pushed, and never where to fetch it: the registry is the rule's.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::name::{ImageName, KernelName, NameError};
use crate::reference::{self, Reference, ReferenceError};
use crate::registry_name::RegistryName;

/// Longest pattern, in bytes: that of what it matches.
const MAX_PATTERN_LEN: usize = 255;

/// Longest image name, in bytes.
const MAX_NAME_LEN: usize = 128;

/// Hexadecimal digits that tell apart what was cut: two of ten thousand collide once in eighty
/// thousand registries, and the digest is in the name besides.
const MARK_LEN: usize = 8;

/// A manifest that was pushed under a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pushed {
    /// The repository, without the registry.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// What the tag means now.
    pub digest: Digest,
}

/// A pattern: `*` stands for any characters but a slash, `**` for any at all.
///
/// A star stops at a slash, other than in [`TagPattern`](crate::TagPattern): what others push makes
/// images here, so a namespace below the one that was meant is not let in by accident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern(String);

/// What to do with a push that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushAction {
    /// Make an image of it, beside those of earlier pushes.
    Pull,
    /// Make an image of it, then forget those of earlier pushes of the same tag.
    Refresh,
}

/// How images are named: text with `{repository}`, `{tag}`, `{short}`.
///
/// Invariant: what it makes of a push that passes [`Pushed::check`] is a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate(String);

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRule {
    /// Where images are fetched from.
    pub registry: RegistryName,
    /// Which repositories.
    pub repository: PathPattern,
    /// Which tags.
    pub tag: PathPattern,
    /// What to do.
    pub action: PushAction,
    /// How images are named.
    pub name: NameTemplate,
    /// The kernel they boot with; the default one when none is named.
    pub kernel: Option<KernelName>,
}

/// Why a text is no part of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushRuleError {
    /// It is empty or too long.
    #[error("a pattern has 1 to {MAX_PATTERN_LEN} bytes")]
    Pattern,
    /// It is no action.
    #[error("{text:?} is not an action: pull or refresh")]
    Action {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// It has a word in braces that stands for nothing.
    #[error("{text:?} has braces around something else than repository, tag or short")]
    Placeholder {
        /// The template.
        text: String,
    },
    /// Two pushes of one tag would have one name.
    #[error("{text:?} lacks {{short}}, without which two pushes of one tag would have one name")]
    NotUnique {
        /// The template.
        text: String,
    },
    /// What it makes is no name.
    #[error("{text:?} does not make names")]
    Name {
        /// The template.
        text: String,
        /// Why.
        source: NameError,
    },
}

impl Pushed {
    /// Says what breaks the grammar of references, if anything does.
    pub fn check(&self) -> Result<(), ReferenceError> {
        reference::check_repository(&self.repository)?;
        reference::check_tag(&self.tag)
    }
}

impl PathPattern {
    /// Says whether a text matches as a whole. It takes time in proportion to both lengths.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        // Whether the pattern so far matches the text up to each place.
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        let mut at = 0;
        while let Some(letter) = pattern.get(at) {
            let crosses = pattern.get(at + 1) == Some(&b'*');
            let mut next = vec![false; text.len() + 1];
            if *letter == b'*' {
                next[0] = reached[0];
                for (place, found) in text.iter().enumerate() {
                    let goes_on = next[place] && (crosses || *found != b'/');
                    next[place + 1] = reached[place + 1] || goes_on;
                }
                at += if crosses { 2 } else { 1 };
            } else {
                for (place, found) in text.iter().enumerate() {
                    next[place + 1] = reached[place] && found == letter;
                }
                at += 1;
            }
            reached = next;
        }
        reached[text.len()]
    }
}

impl NameTemplate {
    /// Makes the name of an image. Where it would be too long, or none, the longer of repository
    /// and tag is cut until it fits, and a mark of both in full stands at its end: two that were
    /// cut to the same text keep two names.
    pub fn name(&self, pushed: &Pushed) -> Result<ImageName, NameError> {
        let short = pushed.digest.to_short_hex();
        let repository = reference::hyphenated(&pushed.repository);
        let tag = reference::hyphenated(&pushed.tag);
        if let Ok(name) = self.filled(&repository, &tag, &short).parse() {
            return Ok(name);
        }
        let whole = format!("{}:{}", pushed.repository, pushed.tag);
        let mut mark = Digest::of(whole.as_bytes()).to_hex();
        mark.truncate(MARK_LEN);
        let (mut repository, mut tag) = (Part::of(&repository), Part::of(&tag));
        loop {
            let text = format!("{}-{mark}", self.filled(repository.0, tag.0, &short));
            let longer = if repository.0.len() > tag.0.len() {
                &mut repository
            } else {
                &mut tag
            };
            if text.len() <= MAX_NAME_LEN || !longer.shorten() {
                return text.parse();
            }
        }
    }

    /// Says whether a name is one that this makes of any push of a repository and tag.
    pub fn is_of(&self, name: &ImageName, pushed: &Pushed) -> bool {
        const ANY: &str = "000000000000";
        let any = Pushed {
            digest: Digest::from_bytes([0; 32]),
            ..pushed.clone()
        };
        let Ok(model) = self.name(&any) else {
            return false;
        };
        let (model, name) = (model.as_str(), name.as_str());
        let Some(at) = model.find(ANY) else {
            return false;
        };
        let (Some(before), Some(short), Some(behind)) = (
            name.get(..at),
            name.get(at..at + ANY.len()),
            name.get(at + ANY.len()..),
        ) else {
            return false;
        };
        model.get(..at) == Some(before)
            && model.get(at + ANY.len()..) == Some(behind)
            && short.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// Returns a text that every name has which [`NameTemplate::is_of`] knows; it may be empty.
    pub fn common_part(&self, pushed: &Pushed) -> String {
        let name = self.name(pushed);
        let short = pushed.digest.to_short_hex();
        let parts = name.iter().flat_map(|name| name.as_str().split(&short));
        let longest = parts.max_by_key(|part| part.len());
        longest.unwrap_or_default().to_owned()
    }

    fn filled(&self, repository: &str, tag: &str, short: &str) -> String {
        self.0
            .replace("{tag}", &reference::hyphenated(tag))
            .replace("{short}", short)
            .replace("{repository}", repository)
    }
}

/// What stands for a repository or a tag: with a letter or digit at both ends.
struct Part<'a>(&'a str);

impl<'a> Part<'a> {
    fn of(text: &'a str) -> Self {
        match text.trim_matches('-') {
            // A tag may be a single underscore.
            "" => Self("x"),
            text => Self(text),
        }
    }

    /// Takes the last letter away; says whether there was one to spare.
    fn shorten(&mut self) -> bool {
        let shorter = self.0.get(..self.0.len() - 1).unwrap_or_default();
        let shorter = shorter.trim_end_matches('-');
        if shorter.is_empty() {
            return false;
        }
        self.0 = shorter;
        true
    }
}

impl PushRule {
    /// Says whether the rule is about a push.
    pub fn matches(&self, pushed: &Pushed) -> bool {
        self.repository.matches(&pushed.repository) && self.tag.matches(&pushed.tag)
    }

    /// Returns what to pull: the tag for people, the digest for the registry.
    pub fn reference(&self, pushed: &Pushed) -> Result<Reference, ReferenceError> {
        let text = format!(
            "{}/{}:{}@{}",
            self.registry, pushed.repository, pushed.tag, pushed.digest
        );
        text.parse()
    }
}

impl FromStr for PathPattern {
    type Err = PushRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_PATTERN_LEN {
            return Err(PushRuleError::Pattern);
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for PushAction {
    type Err = PushRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pull" => Ok(Self::Pull),
            "refresh" => Ok(Self::Refresh),
            _ => Err(PushRuleError::Action {
                text: text.chars().take(80).collect(),
            }),
        }
    }
}

impl FromStr for NameTemplate {
    type Err = PushRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let template = Self(text.to_owned());
        if !text.contains("{short}") {
            return Err(PushRuleError::NotUnique {
                text: text.to_owned(),
            });
        }
        if template.filled("", "", "").contains(['{', '}']) {
            return Err(PushRuleError::Placeholder {
                text: text.to_owned(),
            });
        }
        // As long as they come: what can be named then can be named always.
        let sample = Pushed {
            repository: "a".repeat(MAX_PATTERN_LEN),
            tag: "a".repeat(MAX_NAME_LEN),
            digest: Digest::from_bytes([0; 32]),
        };
        template
            .name(&sample)
            .map_err(|source| PushRuleError::Name {
                text: text.to_owned(),
                source,
            })?;
        Ok(template)
    }
}

impl fmt::Display for PushAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::Refresh => "refresh",
        })
    }
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(repository: &str, tag: &str, first: u8) -> Pushed {
        let mut bytes = [0; 32];
        bytes[0] = first;
        Pushed {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest: Digest::from_bytes(bytes),
        }
    }

    #[test]
    fn stars_stop_at_slashes_unless_there_are_two() {
        let cases = [
            ("apps/web", "apps/web", true),
            ("apps/*", "apps/web", true),
            ("apps/*", "apps/web/x", false),
            ("apps/**", "apps/web/x", true),
            ("**", "anything/at/all", true),
            ("*", "", true),
            ("*", "a/b", false),
            ("v*.*", "v1.2.3", true),
            ("v*.*", "v1", false),
            ("*-rc*", "1.0-rc1", true),
            ("**/web", "apps/web", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
        ];
        for (pattern, text, want) in cases {
            let pattern: PathPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(text), want, "{pattern} {text}");
        }
        assert_eq!("".parse::<PathPattern>(), Err(PushRuleError::Pattern));
        let stars: PathPattern = "*a".repeat(127).parse().unwrap();
        assert!(!stars.matches(&"a".repeat(126)), "and at once");
    }

    #[test]
    fn names_are_made_and_known_again() {
        let template: NameTemplate = "ci-{repository}-{tag}-{short}".parse().unwrap();
        let first = pushed("team/Web.App", "V1_2", 0xab);

        let name = template.name(&first).unwrap();

        assert_eq!(name.as_str(), "ci-team-web-app-v1-2-ab0000000000");
        assert!(template.is_of(&name, &pushed("team/Web.App", "V1_2", 0xcd)));
        assert!(!template.is_of(&name, &pushed("team/web", "V1_2", 0xcd)));
        assert!(!template.is_of(&"ci-other".parse().unwrap(), &first));
        let long = template.name(&pushed(&"a".repeat(250), "1", 1)).unwrap();
        assert!(long.as_str().contains("-1-010000000000-"), "{long}");
        assert_eq!(long.as_str().len(), 128);
        assert!(template.is_of(&long, &pushed(&"a".repeat(250), "1", 2)));
    }

    #[test]
    fn whatever_is_pushed_has_a_name_of_its_own() {
        let templates = [
            "{repository}-{tag}-{short}",
            "{tag}/{short}-{repository}",
            "{short}-{tag}",
            "{repository}-{short}",
            "{tag}-{tag}-{tag}-{short}",
        ];
        let repositories = ["a", &"b".repeat(255), &"c/d-".repeat(50)];
        let tags = [
            "_",
            "v1-",
            &"t".repeat(109),
            &"t".repeat(126),
            &"-_.".repeat(42),
        ];
        for text in templates {
            let template: NameTemplate = text.parse().unwrap();
            for repository in repositories {
                for tag in tags {
                    let first = pushed(repository, tag, 1);
                    let name = template.name(&first);
                    let name = name.unwrap_or_else(|error| panic!("{text} {tag}: {error}"));
                    let other = template.name(&pushed(repository, tag, 2)).unwrap();
                    assert_ne!(name, other);
                    assert!(template.is_of(&other, &first), "{other}");
                }
            }
        }
        let template: NameTemplate = "{repository}-{tag}-{short}".parse().unwrap();
        let long = |end: &str| pushed("apps/web", &format!("v{}{end}", "b".repeat(125)), 1);
        let (one, other) = (template.name(&long("1")), template.name(&long("2")));
        let one = one.unwrap().to_string();
        assert!(one.starts_with("apps-web-vbbbb"), "{one}");
        assert_eq!(one.len(), 128);
        assert_ne!(one, other.unwrap().to_string());
        let fair = pushed(&"r".repeat(200), &"t".repeat(120), 1);
        let fair = template.name(&fair).unwrap().to_string();
        let [repository, tag] = ['r', 't'].map(|letter| fair.matches(letter).count());
        assert!(repository.abs_diff(tag) <= 1, "{fair}");
    }

    #[test]
    fn templates_that_would_fail_later_fail_at_once() {
        for text in [
            "{repository}",
            "{short}-{digest}",
            "{short}-{tag",
            "Web-{short}",
            &format!("{}-{{repository}}-{{short}}", "a".repeat(110)),
            "",
        ] {
            let refused = text.parse::<NameTemplate>().ok();
            assert_eq!(refused, None, "{text}");
        }
        let template: NameTemplate = "{repository}-{short}".parse().unwrap();
        assert_eq!(template.to_string(), "{repository}-{short}");
        assert_eq!("delete".parse::<PushAction>().ok(), None);
    }

    #[test]
    fn what_is_pulled_is_the_digest_at_the_rules_registry() {
        let rule = PushRule {
            registry: "reg.lan:5000".parse().unwrap(),
            repository: "apps/*".parse().unwrap(),
            tag: "v*".parse().unwrap(),
            action: PushAction::Pull,
            name: "{repository}-{short}".parse().unwrap(),
            kernel: None,
        };
        let good = pushed("apps/web", "v1", 1);

        assert!(rule.matches(&good));
        assert!(!rule.matches(&pushed("apps/web", "latest", 1)));
        let reference = rule.reference(&good).unwrap();
        assert_eq!(reference.registry(), "reg.lan:5000");
        assert_eq!(reference.digest(), Some(&good.digest));
        assert!(pushed("../x", "v1", 1).check().is_err());
        assert!(pushed("apps/web", "-", 1).check().is_err());
    }
}
