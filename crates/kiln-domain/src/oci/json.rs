//! JSON from outside: no object may hold a key twice.
//!
//! Two readers may choose differently among equal keys, and then the checked document is not
//! the used one. Serde's derived readers notice that for the fields they know; this looks at
//! every object.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Most characters kept of what is wrong; serde quotes the offending value, however long.
const MAX_PROBLEM_LEN: usize = 200;

/// What is wrong with a JSON document, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct JsonError {
    /// At most 200 characters, printable.
    problem: String,
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let text = error.to_string();
        let letters = text.chars().take(MAX_PROBLEM_LEN);
        let problem = letters
            .map(|letter| if letter.is_control() { ' ' } else { letter })
            .collect();
        Self { problem }
    }
}

/// Reads one JSON document; unknown fields are ignored, duplicate keys are errors.
pub(super) fn parse<T: de::DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    serde_json::from_slice::<UniqueKeys>(bytes)?;
    Ok(serde_json::from_slice(bytes)?)
}

/// Any JSON value, read only to look at its keys.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                let shown: String = key.chars().take(80).collect();
                return Err(de::Error::custom(format_args!("duplicate key {shown:?}")));
            }
            keys.insert(key);
            map.next_value::<Self>()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self, A::Error> {
        while sequence.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_are_refused_at_every_depth() {
        let cases = [
            (r#"{"a":1,"b":[{"c":null,"d":-1.5}]}"#, true),
            (r#"{"a":1,"a":2}"#, false),
            (r#"{"a":1,"\u0061":2}"#, false),
            (r#"{"x":[{"y":{"z":true,"z":true}}]}"#, false),
            (r#"{"a":1} trailing"#, false),
        ];
        for (text, good) in cases {
            let got = parse::<serde_json::Value>(text.as_bytes());
            assert_eq!(got.is_ok(), good, "reading {text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_briefly() {
        let text = format!("\"{}\"", "x".repeat(1 << 20));

        let error = parse::<u64>(text.as_bytes()).unwrap_err();

        assert!(error.to_string().starts_with("invalid type: string \"xxx"));
        assert_eq!(error.to_string().len(), MAX_PROBLEM_LEN);
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let text = "[".repeat(100_000);

        let error = parse::<serde_json::Value>(text.as_bytes()).unwrap_err();

        assert!(
            error.to_string().starts_with("recursion limit exceeded"),
            "{error}"
        );
    }
}
