//! Identities: UUID newtypes, one per noun, so that no two can be confused.
//!
//! Making a random one is not here: the ground floor has no source of randomness.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a UUID such as 3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11")]
pub struct IdError {
    text: String,
}

/// Tells whether a text reads as an id of any noun.
///
/// Such a text is never a name where an id may stand: else a name could take the place of somebody's
/// id, which scripts and people keep to be sure of what they mean.
pub fn reads_as_id(text: &str) -> bool {
    text.parse::<ImageId>().is_ok()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Invariant: its text form is a hyphenated lower-case UUID, which needs no escaping in a
        /// path, a URL or a shell. Ids carry no order; rows are ordered by their sequence numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes a UUID that whoever calls has made.
            pub fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.as_hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // Only the hyphenated form: braces, URNs and bare digits would give one thing
                // several spellings.
                let parsed = Some(text).filter(|text| text.len() == 36);
                parsed
                    .and_then(|text| Uuid::try_parse(text).ok())
                    .map(Self)
                    .ok_or_else(|| IdError { text: text.chars().take(80).collect() })
            }
        }

        crate::text::serde_through_text!($name);
    };
}

id! {
    /// Names one image for as long as its record exists.
    ImageId
}
id! {
    /// Names one version: one immutable set of built artifacts, and its directory.
    VersionId
}
id! {
    /// Names one operation: a long piece of work that the daemon owns.
    OperationId
}
id! {
    /// Names one organisation for as long as it exists.
    OrgId
}
id! {
    /// Names one lease: a promise to be back before it ends, which keeps an image meanwhile.
    LeaseId
}
id! {
    /// Names one instance: a machine that runs an image, and its directory.
    InstanceId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let cases = [
            ("3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11", true),
            ("3F2B8C1E-5D0A-4C1F-9C57-0D3F0A6F2B11", true),
            ("3f2b8c1e5d0a4c1f9c570d3f0a6f2b11", false),
            ("{3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b1}", false),
            ("urn:uuid:3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11", false),
            ("not-a-uuid", false),
        ];
        for (text, good) in cases {
            assert_eq!(text.parse::<ImageId>().is_ok(), good, "parsing {text:?}");
        }
    }

    #[test]
    fn text_is_lower_case_whatever_was_read() {
        let id: VersionId = "3F2B8C1E-5D0A-4C1F-9C57-0D3F0A6F2B11".parse().unwrap();

        assert_eq!(id.to_string(), "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11");
    }
}
