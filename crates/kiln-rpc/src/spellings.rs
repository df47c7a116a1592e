//! Calls that use another service's words are put into Kiln's, before anything else reads them.
//!
//! Which words those are is [`kiln_api::spellings`]'s to say. What is not in that table stays, and is
//! refused where parameters are decoded. A word that says to be an id is held to it here, for behind
//! the door it is one name among others.

use kiln_api::{Failure, codes, spellings};
use kiln_domain::ImageId;
use serde_json::Value;

use crate::claims::Members;
use crate::door::invalid_params;

/// Rewrites the parameters of a call; `None` when they are in Kiln's words already, and stay as they
/// are. Two words for one thing are fine while they say the same.
///
/// A key that is escaped in the JSON is not seen here.
pub(crate) fn normalise(method: &str, params: &str) -> Result<Option<String>, Failure> {
    let Some(spelling) = spellings::of(method) else {
        return Ok(None);
    };
    if !spelling.others.iter().any(|word| params.contains(word)) {
        return Ok(None);
    }
    // What is no object is refused where it is decoded.
    let Some(Members(members)) = Members::read(params) else {
        return Ok(None);
    };
    let mut said: Option<(String, Value)> = None;
    let mut kept = Vec::with_capacity(members.len());
    for (key, value) in members {
        let is_own = key == spelling.parameter;
        if !is_own && !spelling.others.contains(&key.as_str()) {
            kept.push((key, value));
            continue;
        }
        if key == spellings::ID {
            check_id(&value)?;
        }
        match &said {
            // Left out, in the way of clients that write every field.
            _ if value.is_null() && !is_own => {}
            None => said = Some((key, value)),
            // The same key twice stays twice, and is refused where it is decoded.
            Some((before, _)) if *before == key => kept.push((key, value)),
            Some((_, same)) if *same == value => {}
            Some((before, _)) => {
                let message = format!("{before} and {key} are one parameter, and say two things");
                return Err(invalid_params(&message));
            }
        }
    }
    if let Some((_, value)) = said {
        kept.push((spelling.parameter.to_owned(), value));
    }
    Members(kept).write().map(Some)
}

/// Refuses a text that is no id; what is no text is refused where it is decoded.
fn check_id(value: &Value) -> Result<(), Failure> {
    match value.as_str().map(str::parse::<ImageId>) {
        Some(Err(error)) => Err(Failure::from_error(codes::request::INVALID_ID, &error)),
        Some(Ok(_)) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(method: &str, params: &str) -> Result<Option<String>, String> {
        normalise(method, params).map_err(|failure| failure.message)
    }

    #[test]
    fn other_words_become_ours_and_contradictions_are_refused() {
        let rest = |text: &str| Ok(Some(text.to_owned()));
        let cases = [
            ("image.forget", r#"{"image":"web"}"#, Ok(None)),
            (
                "image.forget",
                r#"{"reference":"web"}"#,
                rest(r#"{"image":"web"}"#),
            ),
            (
                "image.forget",
                r#"{"image_name":"web","architecture":null}"#,
                rest(r#"{"architecture":null,"image":"web"}"#),
            ),
            (
                "image.forget",
                r#"{"image":"web","reference":"web"}"#,
                rest(r#"{"image":"web"}"#),
            ),
            (
                "image.forget",
                r#"{"image":"web","reference":null}"#,
                rest(r#"{"image":"web"}"#),
            ),
            ("image.forget", r#"{"reference":null}"#, rest("{}")),
            (
                "image.alias",
                r#"{"alias":"a","image_canonical":"web"}"#,
                rest(r#"{"alias":"a","target":"web"}"#),
            ),
            ("image.alias", r#"{"alias":"a","target":"web"}"#, Ok(None)),
            // Of a method that takes an id alone, and of one that takes no image.
            ("image.purge_by_id", r#"{"reference":"web"}"#, Ok(None)),
            ("kernel.list", r#"{"reference":"web"}"#, Ok(None)),
            // A word inside a value is no key.
            (
                "image.forget",
                r#"{"image":"reference"}"#,
                rest(r#"{"image":"reference"}"#),
            ),
            // What is there twice stays twice.
            (
                "image.forget",
                r#"{"image":"a","image":"a","target":"a"}"#,
                rest(r#"{"image":"a","image":"a"}"#),
            ),
            (
                "image.forget",
                r#"{"image":"a","target":"b"}"#,
                Err("image and target are one parameter, and say two things".to_owned()),
            ),
            (
                "image.forget",
                r#"{"reference":"a","image_id":7}"#,
                Err("reference and image_id are one parameter, and say two things".to_owned()),
            ),
            ("image.forget", r#"["target"]"#, Ok(None)),
            (
                "image.modify",
                r#"{"image_id":"7e0a9bd2-4c11-4d7f-8f0e-2b8a6f1c9d34","name":"b"}"#,
                rest(r#"{"name":"b","image":"7e0a9bd2-4c11-4d7f-8f0e-2b8a6f1c9d34"}"#),
            ),
            (
                "image.alias",
                r#"{"alias":"a","image_id":"web"}"#,
                Err(
                    "\"web\" is not a UUID such as 3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11".to_owned(),
                ),
            ),
            ("image.scan", r#"{"image_id":7}"#, rest(r#"{"image":7}"#)),
        ];
        for (method, params, want) in cases {
            assert_eq!(told(method, params), want, "{method} {params}");
        }
    }
}
