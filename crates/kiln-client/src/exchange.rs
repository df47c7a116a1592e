//! What went over the wire, for whoever wants to look on, with its secrets masked.
//!
//! Who looks on and where it is shown is not here.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// Members whose value is never shown.
const SECRET_MEMBERS: &[&str] = &["secret", "password", "token"];

/// What stands in the place of a secret.
const MASK: &str = "***";

/// One message between client and daemon.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Exchange<'a> {
    /// The client calls a method.
    Request {
        /// The method's name.
        method: &'a str,
        /// Its parameters, masked.
        params: Value,
    },
    /// The daemon answers.
    Answer {
        /// The method's name.
        method: &'a str,
        /// The result, or the error object, masked.
        result: Result<Value, Value>,
    },
    /// Descriptors go to the daemon.
    Passed {
        /// How many.
        descriptors: usize,
    },
    /// Descriptors came from the daemon.
    Taken {
        /// How many.
        descriptors: usize,
    },
}

/// Somebody who looks on.
#[derive(Clone)]
pub struct Tap(Arc<dyn Fn(Exchange<'_>) + Send + Sync>);

impl Tap {
    /// Calls `look` for every message.
    pub fn new(look: impl Fn(Exchange<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    pub(crate) fn show(&self, exchange: Exchange<'_>) {
        (self.0)(exchange);
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}

/// Replaces secrets and descriptor handles by `***`: whoever knows a handle may use it.
pub fn masked(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let is_secret = SECRET_MEMBERS.contains(&name.as_str()) && !value.is_null();
                let shown = if is_secret {
                    MASK.into()
                } else {
                    masked(value)
                };
                (name.clone(), shown)
            })
            .collect(),
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::String(text) if text.starts_with("fd:") => format!("fd:{MASK}").into(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_and_handles_are_masked_at_any_depth() {
        let value = json!({
            "ref": "debian",
            "credentials": {"username": "ann", "secret": "hunter2"},
            "source_files": {"index.json": "fd:000102030405060708090a0b0c0d0e0f"},
            "list": [{"password": "p", "token": null}],
        });

        let shown = masked(&value);

        assert_eq!(
            shown,
            json!({
                "ref": "debian",
                "credentials": {"username": "ann", "secret": "***"},
                "source_files": {"index.json": "fd:***"},
                "list": [{"password": "***", "token": null}],
            })
        );
    }
}
