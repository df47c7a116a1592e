//! What people say of an image beside its name: labels, keywords, a description.

use std::fmt;
use std::str::FromStr;

use crate::text::serde_through_text;

/// Longest key of a label, in bytes. Reversed domain names with a path are a third of it.
const LABEL_KEY_MAX: usize = 256;

/// Longest value of a label, in bytes: builders put whole documents into some.
const LABEL_VALUE_MAX: usize = 4096;

/// Longest keyword, in bytes.
const KEYWORD_MAX: usize = 64;

/// Longest description, in bytes.
const DESCRIPTION_MAX: usize = 4096;

/// Why a text is no label, keyword or description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordingError {
    /// It is shorter or longer than that.
    #[error("the {noun} {text:?} has {found} bytes; it may have {least} to {limit}")]
    Length {
        /// What it should be.
        noun: &'static str,
        /// Its first 40 characters.
        text: String,
        /// How long it is, in bytes.
        found: usize,
        /// How long it must be, in bytes.
        least: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// It has a character that this may not have.
    #[error("the {noun} {text:?} has the character {character:?}, which it may not")]
    Character {
        /// What it should be.
        noun: &'static str,
        /// Its first 40 characters.
        text: String,
        /// The character.
        character: char,
    },
}

macro_rules! wordings {
    ($($(#[$doc:meta])* $name:ident = $noun:literal, $least:literal to $limit:expr, not $forbidden:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Borrows the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = WordingError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let start = || text.chars().take(40).collect::<String>();
                if !($least..=$limit).contains(&text.len()) {
                    return Err(WordingError::Length {
                        noun: $noun,
                        text: start(),
                        found: text.len(),
                        least: $least,
                        limit: $limit,
                    });
                }
                match text.chars().find(|c| $forbidden(*c)) {
                    None => Ok(Self(text.to_owned())),
                    Some(character) => Err(WordingError::Character {
                        noun: $noun,
                        text: start(),
                        character,
                    }),
                }
            }
        }

        serde_through_text!($name);
    )*};
}

wordings! {
    /// The key of a label, such as `version` or `com.example.team`.
    ///
    /// Invariant: 1 to 256 bytes without whitespace, control characters and `=`, so that
    /// `KEY=VALUE` has one reading.
    LabelKey = "key of a label", 1 to LABEL_KEY_MAX, not is_no_part_of_a_key;
    /// The value of a label.
    ///
    /// Invariant: at most 4,096 bytes without control characters.
    LabelValue = "value of a label", 0 to LABEL_VALUE_MAX, not char::is_control;
    /// A word to find an image by, such as `gpu`.
    ///
    /// Invariant: 1 to 64 bytes without whitespace, control characters and commas, so that a list
    /// of them is one word on a command line.
    Keyword = "keyword", 1 to KEYWORD_MAX, not is_no_part_of_a_keyword;
    /// What an image is, for people.
    ///
    /// Invariant: 1 to 4,096 bytes without control characters other than line feeds and tabs.
    Description = "description", 1 to DESCRIPTION_MAX, not is_no_part_of_a_description;
}

fn is_no_part_of_a_key(c: char) -> bool {
    c == '=' || c.is_whitespace() || c.is_control()
}

fn is_no_part_of_a_keyword(c: char) -> bool {
    c == ',' || c.is_whitespace() || c.is_control()
}

fn is_no_part_of_a_description(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_characters_are_bounded() {
        fn takes<T: FromStr>(text: &str) -> bool {
            text.parse::<T>().is_ok()
        }
        let long = |length: usize| "a".repeat(length);
        let cases = [
            (takes::<LabelKey>("com.example/a"), true),
            (takes::<LabelKey>("'; DROP TABLE images; --"), false),
            (takes::<LabelKey>("';DROP_TABLE"), true),
            (takes::<LabelKey>("a=b"), false),
            (takes::<LabelKey>(""), false),
            (takes::<LabelKey>(&long(256)), true),
            (takes::<LabelKey>(&long(257)), false),
            (takes::<LabelValue>(""), true),
            (takes::<LabelValue>("2.0 beta"), true),
            (takes::<LabelValue>("a\u{1b}[31m"), false),
            (takes::<LabelValue>(&long(4097)), false),
            (takes::<Keyword>("gpu"), true),
            (takes::<Keyword>("ml,gpu"), false),
            (takes::<Keyword>("a b"), false),
            (takes::<Keyword>(&long(65)), false),
            (takes::<Description>("two\nlines"), true),
            (takes::<Description>("a\0"), false),
            (takes::<Description>(""), false),
            (takes::<Description>(&long(4097)), false),
        ];
        for (n, (takes, want)) in cases.into_iter().enumerate() {
            assert_eq!(takes, want, "case {n}");
        }
    }
}
