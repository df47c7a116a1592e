//! What lies on the disk, and what of it may go: one rule for looking, foretelling and removing.
//!
//! ```text
//! facts of one thing ──▶ fate(facts, scope) ──▶ goes, or stays and for what
//! ```
//! Where the facts come from is not here.

use std::fmt;
use std::str::FromStr;

use crate::states::{WordError, words};
use crate::{ImageState, Timestamp};

words! {
    /// A kind of thing that takes room on the disk.
    StorageKind, "a kind of storage" {
        /// The directory of a version of an image that is not forgotten.
        Image = "image",
        /// The directory of a version of a forgotten image.
        ForgottenImage = "forgotten_image",
        /// A directory in the making, or on its way out.
        Staging = "staging",
        /// A kernel of the catalogue.
        Kernel = "kernel",
        /// The base of the initrds of one kernel, in the cache.
        Initrd = "initrd",
        /// A blob of the cache, as its source sent it.
        Blob = "blob",
        /// A decoded layer of the cache.
        Pack = "pack",
        /// The note of what a blob of the cache unpacks to.
        Link = "link",
        /// A download that broke off and may be gone on with.
        Partial = "partial",
        /// Something on its way into the cache.
        Incoming = "incoming",
        /// The database, and its copies.
        Database = "database",
        /// What Kiln has not made.
        Foreign = "foreign",
    }
}

words! {
    /// What keeps something on the disk.
    KeptBy, "what keeps something" {
        /// An operation that runs.
        Operation = "operation",
        /// A machine that runs, or a lease that has not ended.
        Holder = "holder",
        /// An image, or that its time is not over.
        Image = "image",
        /// That it is there to be used again, and may go when asked for.
        Cache = "cache",
        /// That Kiln removes it in another way, or never.
        Rule = "rule",
    }
}

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing needs it.
    Goes,
    /// It is kept.
    Stays(KeptBy),
}

impl Fate {
    /// Tells whether it goes.
    pub fn goes(self) -> bool {
        self == Self::Goes
    }

    /// What keeps it, if anything.
    pub fn kept_by(self) -> Option<KeptBy> {
        match self {
            Self::Goes => None,
            Self::Stays(reason) => Some(reason),
        }
    }
}

/// How much is to go, beside what nothing refers to at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneScope {
    /// Also what is only there to be used again.
    pub cache: bool,
    /// Also images that were forgotten then, or before.
    pub images_forgotten_by: Option<Timestamp>,
}

impl PruneScope {
    /// The most that can go.
    pub fn everything(now: Timestamp) -> Self {
        Self {
            cache: true,
            images_forgotten_by: Some(now),
        }
    }
}

/// What is known of an image's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// Where the image stands.
    pub state: ImageState,
    /// When it was forgotten, if it was.
    pub forgotten_at: Option<Timestamp>,
    /// Whether the daemon removes its directories.
    pub is_managed: bool,
    /// Whether machines run any version of it, or leases keep it.
    pub is_held: bool,
    /// Whether a running operation works with it.
    pub is_needed: bool,
}

impl ImageFacts {
    /// Decides what becomes of it: what people have not forgotten stays, whatever is asked.
    pub fn fate(&self, scope: PruneScope) -> Fate {
        if self.state != ImageState::Deleted {
            return Fate::Stays(KeptBy::Image);
        }
        if !self.is_managed {
            return Fate::Stays(KeptBy::Rule);
        }
        if self.is_needed {
            return Fate::Stays(KeptBy::Operation);
        }
        if self.is_held {
            return Fate::Stays(KeptBy::Holder);
        }
        match (scope.images_forgotten_by, self.forgotten_at) {
            (Some(by), Some(at)) if at <= by => Fate::Goes,
            _ => Fate::Stays(KeptBy::Image),
        }
    }
}

/// What is known of a file of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFacts {
    /// Whether a running operation needs it, or writes it.
    pub is_needed: bool,
    /// Whether an image that stays was made of it.
    pub is_of_image: bool,
    /// Whether it serves anybody who comes later, although no image was made of it: the base of an
    /// initrd, a download of today.
    pub is_useful: bool,
}

impl CacheFacts {
    /// Decides what becomes of it. All of a cache can be had again, so what is not in use goes when
    /// that is asked for; else only what nobody would look for.
    pub fn fate(&self, scope: PruneScope) -> Fate {
        if self.is_needed {
            return Fate::Stays(KeptBy::Operation);
        }
        if scope.cache {
            return Fate::Goes;
        }
        if self.is_of_image {
            return Fate::Stays(KeptBy::Image);
        }
        if self.is_useful {
            return Fate::Stays(KeptBy::Cache);
        }
        Fate::Goes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000).unwrap()
    }

    #[test]
    fn only_what_was_forgotten_long_enough_ago_and_nothing_uses_goes() {
        let forgotten = ImageFacts {
            state: ImageState::Deleted,
            forgotten_at: Some(at(100)),
            is_managed: true,
            is_held: false,
            is_needed: false,
        };
        let by = |seconds| PruneScope {
            images_forgotten_by: Some(at(seconds)),
            ..PruneScope::default()
        };
        let changed = |change: fn(&mut ImageFacts)| {
            let mut facts = forgotten;
            change(&mut facts);
            facts.fate(by(100))
        };

        assert_eq!(forgotten.fate(by(100)), Fate::Goes);
        assert_eq!(forgotten.fate(by(99)), Fate::Stays(KeptBy::Image));
        let none = PruneScope {
            cache: true,
            ..PruneScope::default()
        };
        assert_eq!(forgotten.fate(none), Fate::Stays(KeptBy::Image));
        let cases: [(Fate, KeptBy); 4] = [
            (
                changed(|facts| facts.state = ImageState::Inactive),
                KeptBy::Image,
            ),
            (changed(|facts| facts.is_managed = false), KeptBy::Rule),
            (changed(|facts| facts.is_held = true), KeptBy::Holder),
            (changed(|facts| facts.is_needed = true), KeptBy::Operation),
        ];
        for (found, want) in cases {
            assert_eq!(found, Fate::Stays(want));
        }
    }

    #[test]
    fn a_cache_gives_what_nobody_would_look_for_and_all_when_asked() {
        let cases = [
            (false, false, false, Fate::Goes, Fate::Goes),
            (false, true, false, Fate::Stays(KeptBy::Image), Fate::Goes),
            (false, false, true, Fate::Stays(KeptBy::Cache), Fate::Goes),
            (
                true,
                true,
                true,
                Fate::Stays(KeptBy::Operation),
                Fate::Stays(KeptBy::Operation),
            ),
        ];
        for (is_needed, is_of_image, is_useful, want, with_cache) in cases {
            let facts = CacheFacts {
                is_needed,
                is_of_image,
                is_useful,
            };
            let all = PruneScope {
                cache: true,
                ..PruneScope::default()
            };
            assert_eq!(facts.fate(PruneScope::default()), want, "{facts:?}");
            assert_eq!(facts.fate(all), with_cache, "{facts:?}");
        }
    }
}
