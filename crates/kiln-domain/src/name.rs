//! Names people give: images, kernels, tags and instances.
//!
//! Whether a name is taken is not here; the store's unique index decides that.

use std::fmt;
use std::str::FromStr;

use crate::InstanceId;

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
    /// A component does not follow the grammar.
    #[error("the {noun} {text:?} is not made of {grammar}")]
    Grammar {
        /// What was being named.
        noun: &'static str,
        /// The text itself.
        text: String,
        /// The rule, for people.
        grammar: &'static str,
    },
    /// It has more components than a name may have.
    #[error("the {noun} {text:?} has more than {limit} parts between slashes")]
    TooDeep {
        /// What was being named.
        noun: &'static str,
        /// The text itself.
        text: String,
        /// How many parts are allowed.
        limit: usize,
    },
}

/// A name unique on this host, such as `debian-bookworm` or `team/web`.
///
/// Invariant: one to four components joined by `/`, each lower-case letters and digits with
/// single separators `.`, `_`, `__` or runs of `-` between them (the path grammar of OCI
/// references); at most 128 bytes in all. The last component is the name, the rest its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Borrows the whole name with its namespace.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NOUN: &str = "image name";
        check_length(NOUN, text, IMAGE_NAME_MAX)?;
        if text.split('/').count() > IMAGE_COMPONENTS_MAX {
            let text = text.to_owned();
            return Err(NameError::TooDeep {
                noun: NOUN,
                text,
                limit: IMAGE_COMPONENTS_MAX,
            });
        }
        if text.split('/').all(is_path_component) {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError::Grammar {
            noun: NOUN,
            text: text.to_owned(),
            grammar: COMPONENT_GRAMMAR,
        })
    }
}

/// A name in the kernel catalogue, such as `debian-6.1`.
///
/// Invariant: one component of the image-name grammar, at most 128 bytes; it is a directory name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelName(String);

impl KernelName {
    /// Borrows the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NOUN: &str = "kernel name";
        check_length(NOUN, text, KERNEL_NAME_MAX)?;
        if is_path_component(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError::Grammar {
            noun: NOUN,
            text: text.to_owned(),
            grammar: COMPONENT_GRAMMAR,
        })
    }
}

/// A movable pointer's name below an image, such as `latest` or `22.04`.
///
/// Invariant: a letter, digit or underscore, then these plus `.` and `-`; at most 128 bytes
/// (OCI distribution spec).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName(String);

impl TagName {
    /// Borrows the tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tag a new image's first version gets.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }
}

impl FromStr for TagName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NOUN: &str = "tag";
        check_length(NOUN, text, TAG_MAX)?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let mut bytes = text.bytes();
        let starts = bytes.next().is_some_and(is_word);
        if starts && bytes.all(|byte| is_word(byte) || byte == b'.' || byte == b'-') {
            return Ok(Self(text.to_owned()));
        }
        let grammar = "letters, digits, '_', '.' and '-', not starting with '.' or '-'";
        Err(NameError::Grammar {
            noun: NOUN,
            text: text.to_owned(),
            grammar,
        })
    }
}

/// A machine's name, such as `web`, unique among those of its owner that have not ended.
///
/// Invariant: one component of the image-name grammar, at most 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(String);

impl InstanceName {
    /// Borrows the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

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

impl FromStr for InstanceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        component("instance name", text, INSTANCE_NAME_MAX).map(Self)
    }
}

/// An organisation's name, such as `platform`, unique on this host.
///
/// Invariant: one component of the image-name grammar, at most 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrgName(String);

impl OrgName {
    /// Borrows the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OrgName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        component("organisation name", text, ORG_NAME_MAX).map(Self)
    }
}

/// What to call a user, such as `alice`, unique on this host.
///
/// Invariant: a letter or underscore, then letters, digits, `_`, `.`, `-` and `@`; at most 64 bytes.
/// It is never only digits, so that it and a uid cannot be confused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// Borrows the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NOUN: &str = "user name";
        check_length(NOUN, text, USER_NAME_MAX)?;
        let mut bytes = text.bytes();
        let starts = bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let follows = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
        if starts && bytes.all(follows) {
            return Ok(Self(text.to_owned()));
        }
        let grammar = "a letter or '_', then letters, digits, '_', '.', '-' and '@'";
        Err(NameError::Grammar {
            noun: NOUN,
            text: text.to_owned(),
            grammar,
        })
    }
}

/// Reads a name that is one component of the image-name grammar.
pub(crate) fn component(noun: &'static str, text: &str, limit: usize) -> Result<String, NameError> {
    check_length(noun, text, limit)?;
    if is_path_component(text) {
        return Ok(text.to_owned());
    }
    Err(NameError::Grammar {
        noun,
        text: text.to_owned(),
        grammar: COMPONENT_GRAMMAR,
    })
}

/// Cuts a component of the grammar to `limit` bytes; what is left follows the grammar too.
fn cut(component: &str, limit: usize) -> &str {
    let start = component.get(..limit).unwrap_or(component);
    start.trim_end_matches(['.', '_', '-'])
}

macro_rules! text_forms {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        crate::text::serde_through_text!($name);
    )*};
}

text_forms!(
    ImageName,
    KernelName,
    TagName,
    InstanceName,
    OrgName,
    UserName
);

const COMPONENT_GRAMMAR: &str =
    "lower-case letters and digits, joined by '.', '_', '__' or hyphens";

fn check_length(noun: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
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
    Ok(())
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
