//! Patterns that choose images by their names and tags: `old-app:*`, `*:old-*`.

use std::fmt;
use std::str::FromStr;

use crate::tag_rules::{TagPattern, TagRuleError};

/// A pattern of images: one for the name, and one for the tag where a colon stands. `*` stands for
/// any characters, slashes too, and `?` for one.
///
/// Invariant: at least one of both has a `*` or a `?`; what has none names an image, which is read
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePattern {
    name: TagPattern,
    tag: Option<TagPattern>,
}

/// Why a text is no pattern of images.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImagePatternError {
    /// It has neither `*` nor `?`.
    #[error("{text:?} is a name and no pattern: it has neither * nor ?")]
    Literal {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// A part of it is empty or too long.
    #[error(transparent)]
    Part(#[from] TagRuleError),
}

impl ImagePattern {
    /// Tells whether a text is meant as a pattern.
    pub fn is_meant_by(text: &str) -> bool {
        text.contains(['*', '?'])
    }

    /// Tells whether an image is chosen that is called so. Without a colon in the pattern every tag
    /// will do.
    pub fn matches(&self, name: &str, tag: &str) -> bool {
        self.name.matches(name) && self.tag.as_ref().is_none_or(|pattern| pattern.matches(tag))
    }
}

impl FromStr for ImagePattern {
    type Err = ImagePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !Self::is_meant_by(text) {
            let text = text.chars().take(80).collect();
            return Err(ImagePatternError::Literal { text });
        }
        // A colon before a slash is that of a registry's port.
        let (name, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.parse()?)),
            _ => (text, None),
        };
        let name = name.parse()?;
        Ok(Self { name, tag })
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tag {
            Some(tag) => write!(f, "{}:{tag}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_tag_are_matched_apart() {
        let cases = [
            ("*:old-*", "app", "old-1", true),
            ("*:old-*", "team/app", "old-", true),
            ("*:old-*", "app-old-1", "latest", false),
            ("*:old-*", "app:old-1", "latest", false),
            ("app-?", "app-1", "latest", true),
            ("app-?", "app-12", "latest", false),
            ("app:v?.0", "app", "v1.0", true),
            ("app:v?.0", "apps", "v1.0", false),
            ("127.0.0.1:5000/a*", "127.0.0.1:5000/app", "1", true),
            ("127.0.0.1:5000/a*:2*", "127.0.0.1:5000/app", "1", false),
            ("*", "anything/at/all", "1", true),
        ];
        for (pattern, name, tag, want) in cases {
            let read: ImagePattern = pattern.parse().unwrap();
            assert_eq!(read.to_string(), pattern);
            assert_eq!(read.matches(name, tag), want, "{pattern} {name}:{tag}");
        }
    }

    #[test]
    fn a_name_is_no_pattern_and_neither_is_half_of_one() {
        for text in ["app:old", "", "*:", ":*"] {
            assert!(text.parse::<ImagePattern>().is_err(), "{text:?}");
        }
    }
}
