//! Who a call says its caller is: `user_id` and `client_role` beside the parameters of any method.
//!
//! They are accepted so that programs written for other image services need no change, and change
//! nothing: the kernel says who calls. A call that says something else is refused. What is left of
//! the parameters is decoded strictly, elsewhere.

use std::fmt;

use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Role};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serializer as _};
use serde_json::Value;

use crate::door::invalid_params;

/// The user: a uid, as a number or in digits.
const USER_ID: &str = "user_id";

/// The role: `superadmin`, `admin`, `user` or `agent`.
const CLIENT_ROLE: &str = "client_role";

/// Members of an object in their order, those that are there twice included.
pub(crate) struct Members(pub(crate) Vec<(String, Value)>);

impl Members {
    /// Reads an object; `None` for what is none.
    pub(crate) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Writes it again, as it was but for spaces.
    pub(crate) fn write(&self) -> Result<String, Failure> {
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut text);
        serializer
            .collect_map(self.0.iter().map(|(key, value)| (key, value)))
            .map_err(|error| invalid_params(&error.to_string()))?;
        String::from_utf8(text).map_err(|error| invalid_params(&error.to_string()))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reading)
    }
}

/// Compares what parameters say of the caller with who calls, and returns them without it; `None`
/// when they say nothing, and stay as they are.
///
/// A key that is escaped in the JSON is not seen here, and refused where parameters are decoded.
pub(crate) fn check(params: &str, actor: &Actor) -> Result<Option<String>, Failure> {
    if !params.contains(USER_ID) && !params.contains(CLIENT_ROLE) {
        return Ok(None);
    }
    // What is no object is refused where it is decoded.
    let Some(Members(members)) = Members::read(params) else {
        return Ok(None);
    };
    let mut kept = Vec::with_capacity(members.len());
    for (key, value) in members {
        match key.as_str() {
            USER_ID => check_user(&value, actor)?,
            CLIENT_ROLE => check_role(&value, actor)?,
            _ => kept.push((key, value)),
        }
    }
    Members(kept).write().map(Some)
}

fn check_user(value: &Value, actor: &Actor) -> Result<(), Failure> {
    let said = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let Some(said) = said else {
        return Err(invalid_params(&format!("{USER_ID} is a uid, or left out")));
    };
    if said == u64::from(actor.uid) {
        return Ok(());
    }
    let uid = actor.uid;
    let message = format!("the call says that user {said} makes it, and user {uid} does");
    Err(denied(&message))
}

fn check_role(value: &Value, actor: &Actor) -> Result<(), Failure> {
    let said = value.as_str().and_then(|text| text.parse::<Role>().ok());
    let Some(said) = said else {
        let message = format!("{CLIENT_ROLE} is superadmin, admin, user or agent, or left out");
        return Err(invalid_params(&message));
    };
    if said == actor.role {
        return Ok(());
    }
    let role = actor.role;
    Err(denied(&format!(
        "the call says that its caller is {said}, and it is {role}"
    )))
}

fn denied(message: &str) -> Failure {
    Failure::new(codes::request::DENIED, message)
        .with_hint("leave it out: the kernel says who calls", None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(params: &str) -> Result<Option<String>, &'static str> {
        let actor = Actor::from_peer(1000, 1000, None, 0);
        check(params, &actor).map_err(|failure| match failure {
            failure if failure.is(codes::request::DENIED) => "denied",
            failure if failure.is(codes::request::INVALID_PARAMS) => "invalid",
            _ => "another code",
        })
    }

    #[test]
    fn the_callers_own_words_are_taken_out_and_others_refused() {
        let rest = |text: &str| Ok(Some(text.to_owned()));
        let cases = [
            (r#"{"image":"web"}"#, Ok(None)),
            (r#"{"image":"user_id"}"#, rest(r#"{"image":"user_id"}"#)),
            (
                r#"{"image":"web","user_id":1000}"#,
                rest(r#"{"image":"web"}"#),
            ),
            (r#"{"user_id":"1000"}"#, rest("{}")),
            (r#"{"client_role":"user"}"#, rest("{}")),
            (r#"{"client_role":"user","user_id":1000}"#, rest("{}")),
            (r#"{"user_id":1001}"#, Err("denied")),
            (r#"{"user_id":"0"}"#, Err("denied")),
            (r#"{"client_role":"superadmin"}"#, Err("denied")),
            (r#"{"client_role":"admin"}"#, Err("denied")),
            (r#"{"user_id":1000,"user_id":1001}"#, Err("denied")),
            (r#"{"user_id":-1}"#, Err("invalid")),
            (r#"{"user_id":null}"#, Err("invalid")),
            (r#"{"user_id":"alice"}"#, Err("invalid")),
            (r#"{"client_role":"root"}"#, Err("invalid")),
            (r#"{"client_role":1}"#, Err("invalid")),
            // What is there twice stays twice, and is refused where it is decoded.
            (r#"{"a":1,"a":2,"user_id":1000}"#, rest(r#"{"a":1,"a":2}"#)),
            (r#"{"user\u005fid":1001}"#, Ok(None)),
            (r#"["user_id"]"#, Ok(None)),
            (r#""user_id""#, Ok(None)),
        ];
        for (params, want) in cases {
            assert_eq!(told(params), want, "{params}");
        }
    }
}
