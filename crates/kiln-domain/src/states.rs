//! What things are and where they stand in life: the closed lists of words the store keeps.
//!
//! ```text
//! image      available ──forget──▶ deleted ──restore──▶ available
//!                                     └────retention────▶ (removed: no row)
//!            (adopted) ──▶ inactive ──forget──▶ deleted
//! operation  running ──▶ succeeded | failed | cancelled
//!               └──the daemon went away──▶ interrupted
//! instance   starting ──▶ running ──▶ ended
//!               └─────────────────────▶ ended
//! ```
//! Who moves them is not here.

use std::fmt;
use std::str::FromStr;

/// Why a text is none of a list's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {noun}; it is one of {allowed}")]
pub struct WordError {
    pub(crate) noun: &'static str,
    pub(crate) text: String,
    pub(crate) allowed: String,
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

            /// Returns the word as it stands on the wire and in the store.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = WordError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| {
                    let words: Vec<_> = Self::ALL.iter().map(|word| word.as_str()).collect();
                    WordError {
                        noun: $noun,
                        text: text.chars().take(80).collect(),
                        allowed: words.join(", "),
                    }
                })
            }
        }

        crate::text::serde_through_text!($name);
    };
}

pub(crate) use words;

words! {
    /// Where an image stands.
    ImageState, "an image state" {
        /// It can be used.
        Available = "available",
        /// It was found without a record and adopted: hidden from lists, found by its name and id.
        Inactive = "inactive",
        /// It was forgotten: hidden, and kept until its retention ends.
        Deleted = "deleted",
    }
}

impl ImageState {
    /// Tells whether the image can be used: lists show it, and what is pulled may be copied from it.
    pub fn is_active(self) -> bool {
        self == Self::Available
    }

    /// Returns what people call it. The store and the wire say `deleted` of a forgotten image, which
    /// clients compare.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Deleted => "forgotten",
            Self::Available | Self::Inactive => self.as_str(),
        }
    }
}

words! {
    /// What a version's artifact is.
    VersionKind, "a version kind" {
        /// A root filesystem with a kernel beside it.
        Rootfs = "rootfs",
        /// A whole disk.
        Disk = "disk",
    }
}

words! {
    /// Who may see an image without a grant.
    Visibility, "a visibility" {
        /// Its owner only.
        Private = "private",
        /// Its owner's organisation.
        Organization = "organization",
        /// Listed users.
        Shared = "shared",
        /// Everybody who may open the socket.
        Public = "public",
    }
}

words! {
    /// What kind of work an operation does.
    OperationKind, "an operation kind" {
        /// Pulls an OCI image and builds a root filesystem from it.
        ImagePull = "image.pull",
        /// Takes an existing root filesystem into Kiln's care.
        ImageRegister = "image.register",
        /// Takes a kernel from the network into the catalogue.
        KernelPull = "kernel.pull",
        /// Sends an image to a registry.
        ImagePush = "image.push",
        /// Removes images for good on other daemons.
        ImagePurge = "image.purge",
        /// Copies an image from one place to a registry.
        RegistryCopy = "registry.copy",
        /// Copies by rule from registries to registries.
        RegistrySync = "registry.sync",
    }
}

words! {
    /// Where an operation stands.
    OperationState, "an operation state" {
        /// It is being worked on by this daemon.
        Running = "running",
        /// It ended well and has a result.
        Succeeded = "succeeded",
        /// It ended with an error.
        Failed = "failed",
        /// A caller stopped it.
        Cancelled = "cancelled",
        /// The daemon ended while it was running.
        Interrupted = "interrupted",
    }
}

impl OperationState {
    /// Tells whether nothing more can happen to the operation.
    pub fn is_final(self) -> bool {
        self != Self::Running
    }
}

words! {
    /// Where a machine that runs an image stands.
    InstanceState, "an instance state" {
        /// It is registered; its process is about to run it.
        Starting = "starting",
        /// It runs.
        Running = "running",
        /// It has ended, or the process that ran it has.
        Ended = "ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for state in OperationState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
    }

    #[test]
    fn an_unknown_word_names_the_known_ones() {
        let error = "gone".parse::<ImageState>().unwrap_err();

        assert_eq!(
            error.to_string(),
            "\"gone\" is not an image state; it is one of available, inactive, deleted"
        );
    }
}
