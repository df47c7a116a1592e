//! Names people give: images, kernels, tags and instances.
//!
//! Whether a name is taken is not here; the store's unique index decides that.

use std::fmt;
use std::str::FromStr;

use crate::{InstanceId, reads_as_id};

/// Longest image name with its namespace, in bytes. It leaves room for suffixes such as
/// `-recovered` in any list and log line.
const IMAGE_NAME_MAX: usize = 128;

/// Most components of an image name: three of namespace and the name itself.
const IMAGE_COMPONENTS_MAX: usize = 4;

/// Longest tag, in bytes (OCI distribution spec, "Pulling manifests").
const TAG_MAX: usize = 128;

/// Longest kernel name, in bytes. It becomes a directory entry, whose limit is 255; the rest
/// leaves room for suffixes such as `.staging`.
const KERNEL_NAME_MAX: usize = 128;

/// Longest instance name, in bytes: it may become the guest's host name, whose labels end there
/// (RFC 1035, section 2.3.4).
const INSTANCE_NAME_MAX: usize = 63;

/// Longest name of an organisation, in bytes: it fits beside an image's name in any list.
const ORG_NAME_MAX: usize = 64;

/// Longest name of an agent, in bytes: it fits beside an image's name in any list.
const AGENT_NAME_MAX: usize = 63;

/// Longest name of a user, in bytes: useradd(8) takes 32, directories of other systems more.
const USER_NAME_MAX: usize = 64;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing in it.
    #[error("the {noun} is empty")]
    Empty {
        /// What was being named.
        noun: &'static str,
    },
    /// It is longer than the noun's limit.
    #[error("the {noun} {text:?}… is {found} bytes long; at most {limit} are allowed")]
    TooLong {
        /// What was being named.
        noun: &'static str,
        /// Its first 40 characters.
        text: String,
        /// How long it is, in bytes.
        found: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// It does not follow the grammar.
    #[error("the {noun} {text:?} is not made of {grammar}")]
    Grammar {
        /// What was being named.
        noun: &'static str,
        /// The text itself.
        text: String,
        /// The rule, for people.
        grammar: &'static str,
    },
    /// It reads as an id, and ids are taken where the name would be.
    #[error("the {noun} {text:?} reads as an id, and an id is never a name")]
    ReadsAsId {
        /// What was being named.
        noun: &'static str,
        /// The text itself.
        text: String,
    },
}

/// Declares types of names: each a text that follows a rule, with the noun that errors call it, its
/// longest form in bytes, the rule, and the rule in words.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $noun:literal, $limit:ident, $follows:path, $grammar:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Borrows the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Refuses a name that reads as an id, for nouns that are named by name or id. Names are
            /// held to it when they are given, not when they are read: a record made before this rule
            /// may still have one.
            ///
            /// # Errors
            /// [`NameError::ReadsAsId`].
            pub fn refuse_id(&self) -> Result<(), NameError> {
                if reads_as_id(&self.0) {
                    return Err(NameError::ReadsAsId { noun: $noun, text: self.0.clone() });
                }
                Ok(())
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check($noun, text, $limit, $follows, $grammar).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        crate::text::serde_through_text!($name);
    )*};
}

names! {
    /// A name unique on this host, such as `debian-bookworm` or `team/web`.
    ///
    /// Invariant: one to four components joined by `/`, each lower-case letters and digits with
    /// single separators `.`, `_`, `__` or runs of `-` between them (the path grammar of OCI
    /// references); at most 128 bytes in all. The last component is the name, the rest its
    /// namespace.
    ImageName = "image name", IMAGE_NAME_MAX, is_path, PATH_GRAMMAR;
    /// A name in the kernel catalogue, such as `debian-6.1`.
    ///
    /// Invariant: one component of the image-name grammar, at most 128 bytes; it is a directory
    /// name.
    KernelName = "kernel name", KERNEL_NAME_MAX, is_path_component, COMPONENT_GRAMMAR;
    /// A movable pointer's name below an image, such as `latest` or `22.04`.
    ///
    /// Invariant: a letter, digit or underscore, then these plus `.` and `-`; at most 128 bytes
    /// (OCI distribution spec).
    TagName = "tag", TAG_MAX, is_tag, TAG_GRAMMAR;
    /// A machine's name, such as `web`, unique among those of its owner that have not ended.
    ///
    /// Invariant: one component of the image-name grammar, at most 63 bytes.
    InstanceName = "instance name", INSTANCE_NAME_MAX, is_path_component, COMPONENT_GRAMMAR;
    /// An organisation's name, such as `platform`, unique on this host.
    ///
    /// Invariant: one component of the image-name grammar, at most 64 bytes.
    OrgName = "organisation name", ORG_NAME_MAX, is_path_component, COMPONENT_GRAMMAR;
    /// What another daemon is called here, such as `agent-1`, unique on this host.
    ///
    /// Invariant: one component of the image-name grammar, at most 63 bytes.
    AgentName = "agent name", AGENT_NAME_MAX, is_path_component, COMPONENT_GRAMMAR;
    /// What to call a user, such as `alice`, unique on this host.
    ///
    /// Invariant: a letter or underscore, then letters, digits, `_`, `.`, `-` and `@`; at most 64
    /// bytes. It is never only digits, so that it and a uid cannot be confused.
    UserName = "user name", USER_NAME_MAX, is_user, USER_GRAMMAR;
}

impl TagName {
    /// Returns the tag a new image's first version gets.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }
}

impl InstanceName {
    /// Names a machine after the image it runs: by the image's own name without its namespace, cut
    /// to fit.
    pub fn after(image: &ImageName) -> Self {
        let own = image.0.rsplit('/').next().unwrap_or(&image.0);
        Self(cut(own, INSTANCE_NAME_MAX).to_owned())
    }

    /// Makes another name of this one that ends with the first `length` digits of a machine's id,
    /// cut to fit.
    #[must_use]
    pub fn with_digits_of(&self, id: InstanceId, length: usize) -> Self {
        let digits: String = id.to_string().chars().filter(|c| *c != '-').collect();
        let digits: String = digits.chars().take(length.max(1)).collect();
        // An id has 32 digits, so half of the name is left at least.
        let own = cut(&self.0, INSTANCE_NAME_MAX - 1 - digits.len());
        Self(format!("{own}-{digits}"))
    }
}

/// Cuts a component of the grammar to `limit` bytes; what is left follows the grammar too.
fn cut(component: &str, limit: usize) -> &str {
    let start = component.get(..limit).unwrap_or(component);
    start.trim_end_matches(['.', '_', '-'])
}

const COMPONENT_GRAMMAR: &str =
    "lower-case letters and digits, joined by '.', '_', '__' or hyphens";

const PATH_GRAMMAR: &str = "one to four parts with '/' between them, each of lower-case letters \
                            and digits, joined by '.', '_', '__' or hyphens";

const TAG_GRAMMAR: &str = "letters, digits, '_', '.' and '-', not starting with '.' or '-'";

const USER_GRAMMAR: &str = "a letter or '_', then letters, digits, '_', '.', '-' and '@'";

/// Holds a text to the rule of its noun.
fn check(
    noun: &'static str,
    text: &str,
    limit: usize,
    follows: impl FnOnce(&str) -> bool,
    grammar: &'static str,
) -> Result<String, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { noun });
    }
    if text.len() > limit {
        let shown = text.chars().take(40).collect();
        return Err(NameError::TooLong {
            noun,
            text: shown,
            found: text.len(),
            limit,
        });
    }
    let text = text.to_owned();
    if follows(&text) {
        return Ok(text);
    }
    Err(NameError::Grammar {
        noun,
        text,
        grammar,
    })
}

fn is_path(text: &str) -> bool {
    text.split('/').count() <= IMAGE_COMPONENTS_MAX && text.split('/').all(is_path_component)
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts = text.bytes().next().is_some_and(is_word);
    starts && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_user(text: &str) -> bool {
    let starts = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let follows = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
    text.bytes().next().is_some_and(starts) && text.bytes().all(follows)
}

/// Tells whether `text` is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, the grammar of one path component
/// of an OCI reference.
pub(crate) fn is_path_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(is_word) || !text.ends_with(is_word) {
        return false;
    }
    text.split(is_word)
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_are_no_numbers_and_those_of_organisations_are_one_component() {
        for (text, good) in [
            ("alice", true),
            ("_svc.build-1@corp", true),
            ("1000", false),
            ("-x", false),
            ("a b", false),
            ("", false),
            ("a\n", false),
        ] {
            assert_eq!(text.parse::<UserName>().is_ok(), good, "{text:?}");
        }
        for (text, good) in [
            ("platform", true),
            ("a/b", false),
            ("Team", false),
            ("'; --", false),
        ] {
            assert_eq!(text.parse::<OrgName>().is_ok(), good, "{text:?}");
        }
        "a".repeat(65).parse::<OrgName>().unwrap_err();
        "a".repeat(65).parse::<UserName>().unwrap_err();
    }

    #[test]
    fn image_names_follow_the_path_grammar() {
        let long = "a".repeat(129);
        let cases: &[(&str, bool)] = &[
            ("debian-bookworm", true),
            ("alpine-3-20", true),
            ("team/web", true),
            ("a/b/c/d", true),
            ("a__b", true),
            ("a---b", true),
            ("my.image", true),
            ("a/b/c/d/e", false),
            ("", false),
            (".hidden", false),
            ("trailing-", false),
            ("a..b", false),
            ("a___b", false),
            ("Upper", false),
            ("../../etc", false),
            ("a//b", false),
            ("/a", false),
            ("a b", false),
            ("a\nb", false),
            ("é", false),
            (&long, false),
        ];
        for (text, good) in cases {
            assert_eq!(text.parse::<ImageName>().is_ok(), *good, "parsing {text:?}");
        }
    }

    #[test]
    fn kernel_names_have_one_component() {
        assert_eq!(
            "debian-6.1"
                .parse::<KernelName>()
                .map(|name| name.to_string()),
            Ok("debian-6.1".to_owned())
        );
        assert!(matches!(
            "a/b".parse::<KernelName>(),
            Err(NameError::Grammar { .. })
        ));
    }

    #[test]
    fn machines_are_named_after_their_image_and_told_apart_by_digits() {
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        let id: InstanceId = "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11".parse().unwrap();
        let cases = [
            ("team/web", "web", "web-3f2b"),
            ("debian-bookworm", "debian-bookworm", "debian-bookworm-3f2b"),
            (&long, &"a".repeat(62), &format!("{}-3f2b", "a".repeat(58))),
        ];
        for (image, want, want_other) in cases {
            let name = InstanceName::after(&image.parse().unwrap());
            let other = name.with_digits_of(id, 4);

            assert_eq!((name.as_str(), other.as_str()), (want, want_other));
            for made in [&name, &other, &name.with_digits_of(id, 32)] {
                assert_eq!(made.as_str().parse().as_ref(), Ok(made));
            }
        }
        assert!(matches!(
            "a".repeat(64).parse::<InstanceName>(),
            Err(NameError::TooLong { limit: 63, .. })
        ));
        assert!(matches!(
            "a/b".parse::<InstanceName>(),
            Err(NameError::Grammar { .. })
        ));
    }

    #[test]
    fn what_reads_as_an_id_is_refused_where_a_name_is_given() {
        let cases = [
            ("3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11", true),
            ("00000000-0000-0000-0000-000000000000", true),
            ("3f2b8c1e5d0a4c1f9c570d3f0a6f2b11", false),
            ("team/3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11", false),
            ("3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b1g", false),
            ("web-3f2b", false),
        ];
        for (text, is_id) in cases {
            let name: ImageName = text.parse().unwrap();
            let refused = name.refuse_id();
            assert_eq!(
                matches!(refused, Err(NameError::ReadsAsId { .. })),
                is_id,
                "{text}"
            );
        }
    }

    #[test]
    fn tags_follow_the_distribution_grammar() {
        let cases = [
            ("latest", true),
            ("v1.0", true),
            ("_x", true),
            ("-x", false),
            (".x", false),
            ("a/b", false),
            ("", false),
        ];
        for (text, good) in cases {
            assert_eq!(text.parse::<TagName>().is_ok(), good, "parsing {text:?}");
        }
    }
}
