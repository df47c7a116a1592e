//! Closed lists of words that only the store's own columns use, and what an event, a holder or
//! an operation is about.

use std::fmt;

use kiln_domain::{ImageId, ImageName, InstanceId, KernelName, OperationId, VersionId};

/// Why a text is none of a list's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {noun}")]
pub struct UnknownWord {
    pub(crate) noun: &'static str,
    pub(crate) text: String,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $noun:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every word of the list, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the word as it stands in the store.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let known = Self::ALL.iter().copied().find(|word| word.as_str() == text);
                known.ok_or_else(|| $crate::words::UnknownWord {
                    noun: $noun,
                    text: text.chars().take(80).collect(),
                })
            }
        }
    };
}

pub(crate) use words;

words! {
    /// The nouns that events, holders and operations may be about.
    ObjectKind, "a kind of object" {
        /// An image, by its id.
        Image = "image",
        /// A version, by its id.
        Version = "version",
        /// An alias, by its name.
        Alias = "alias",
        /// A kernel of the catalogue, by its name.
        Kernel = "kernel",
        /// An operation, by its id.
        Operation = "operation",
        /// A machine that runs a version, by its id.
        Instance = "instance",
        /// A user, by the uid.
        User = "user",
        /// An organisation, by its id.
        Org = "org",
        /// A blob, by its digest.
        Blob = "blob",
        /// The daemon itself.
        Daemon = "daemon",
        /// A login to a registry, by where it counts.
        Login = "login",
        /// Another daemon, by its name.
        Agent = "agent",
    }
}

/// One object of the daemon, as events, holders and operations point at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its noun.
    pub kind: ObjectKind,
    /// Its key among its noun.
    pub id: String,
}

impl Object {
    /// Points at an image.
    pub fn image(id: ImageId) -> Self {
        Self::new(ObjectKind::Image, id)
    }

    /// Points at a version.
    pub fn version(id: VersionId) -> Self {
        Self::new(ObjectKind::Version, id)
    }

    /// Points at an operation.
    pub fn operation(id: OperationId) -> Self {
        Self::new(ObjectKind::Operation, id)
    }

    /// Points at a machine that runs a version.
    pub fn instance(id: InstanceId) -> Self {
        Self::new(ObjectKind::Instance, id)
    }

    /// Points at a kernel of the catalogue.
    pub fn kernel(name: &KernelName) -> Self {
        Self::new(ObjectKind::Kernel, name)
    }

    /// Points at an alias.
    pub fn alias(name: &ImageName) -> Self {
        Self::new(ObjectKind::Alias, name)
    }

    /// Points at anything else.
    pub fn new(kind: ObjectKind, id: impl fmt::Display) -> Self {
        Self {
            kind,
            id: id.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_others_are_named() {
        for kind in ObjectKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
        assert_eq!(
            "ghost".parse::<ObjectKind>().unwrap_err().to_string(),
            "\"ghost\" is not a kind of object"
        );
    }
}
