//! What is refused before it is a call: no JSON, no request, too long. jsonrpsee answers those
//! itself, with numbers and without codes; here they get theirs.
//!
//! Errors of calls are in the door. Over a WebSocket jsonrpsee's own words reach the client as they
//! are: nothing stands between its frames and the stream.

use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use jsonrpsee::server::{HttpBody, HttpResponse};
use jsonrpsee::types::error::{
    BATCHES_NOT_SUPPORTED_CODE, INTERNAL_ERROR_CODE, INVALID_REQUEST_CODE, OVERSIZED_REQUEST_CODE,
    OVERSIZED_RESPONSE_CODE, PARSE_ERROR_CODE, SERVER_IS_BUSY_CODE, TOO_BIG_BATCH_REQUEST_CODE,
    TOO_BIG_BATCH_RESPONSE_CODE, TOO_MANY_SUBSCRIPTIONS_CODE,
};
use kiln_api::{Failure, codes};
use serde_json::Value;

/// The numbers of the protocol itself (JSON-RPC 2.0, section 5.1).
const PROTOCOL_NUMBERS: std::ops::RangeInclusive<i32> = -32_768..=-32_100;

/// Longest answer that may be a bare refusal, in bytes; they are about a hundred.
const MAX_REFUSAL_BYTES: u64 = 1024;

/// Says in Kiln's words what jsonrpsee means by a number.
pub(crate) fn failure(number: i32) -> Failure {
    match number {
        PARSE_ERROR_CODE => Failure::new(codes::request::MALFORMED, "the request is not JSON"),
        // Only a body that cannot be read ends so, and the one that can be told is too long: it
        // came in chunks, without a length ahead.
        OVERSIZED_REQUEST_CODE | INTERNAL_ERROR_CODE => Failure::new(
            codes::request::TOO_LARGE,
            "the request is longer than the daemon takes",
        ),
        TOO_BIG_BATCH_REQUEST_CODE | BATCHES_NOT_SUPPORTED_CODE => Failure::new(
            codes::request::TOO_LARGE,
            "the batch has more requests than the daemon takes in one",
        ),
        OVERSIZED_RESPONSE_CODE | TOO_BIG_BATCH_RESPONSE_CODE => Failure::new(
            codes::request::TOO_LARGE,
            "the answer would be longer than the daemon sends",
        )
        .with_hint("ask for less in one call, for instance with a limit", None),
        SERVER_IS_BUSY_CODE | TOO_MANY_SUBSCRIPTIONS_CODE => Failure::new(
            codes::daemon::BUSY,
            "the daemon serves as many connections or subscriptions as it may",
        ),
        _ => Failure::new(
            codes::request::MALFORMED,
            "the request is not one of JSON-RPC 2.0",
        ),
    }
}

/// Gives a refusal its code; every other answer passes as it is.
pub(crate) async fn with_code(response: HttpResponse) -> HttpResponse {
    let length = response.body().size_hint().exact();
    if length.is_none_or(|length| length == 0 || length > MAX_REFUSAL_BYTES) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        // The body is in memory, so this cannot happen; an empty answer is no lie.
        return HttpResponse::from_parts(head, HttpBody::empty());
    };
    let bytes = body.to_bytes();
    let Some(answer) = coded(&bytes) else {
        return HttpResponse::from_parts(head, HttpBody::from(bytes.to_vec()));
    };
    head.headers.remove(hyper::header::CONTENT_LENGTH);
    HttpResponse::from_parts(head, HttpBody::from(answer))
}

/// Rewrites an error without a code; `None` for everything else.
fn coded(bytes: &[u8]) -> Option<String> {
    let mut answer: Value = serde_json::from_slice(bytes).ok()?;
    if answer.is_null() {
        // A request whose id is no id is answered so; its caller would wait for ever.
        answer = serde_json::json!({
            "jsonrpc": "2.0", "id": null, "error": { "code": INVALID_REQUEST_CODE },
        });
    }
    let error = answer.get_mut("error")?;
    if error
        .get("data")
        .and_then(|data| data.get("code"))
        .is_some()
    {
        return None;
    }
    let number = i32::try_from(error.get("code")?.as_i64()?).ok()?;
    let failure = failure(number);
    if !PROTOCOL_NUMBERS.contains(&number) {
        // jsonrpsee's own numbers mean other things in the range that is left to servers.
        error["code"] = Value::from(failure.class.rpc_number());
    }
    error["message"] = Value::from(failure.message.clone());
    error["data"] = serde_json::to_value(&failure).ok()?;
    Some(answer.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_error_gets_its_code_and_the_protocols_numbers_stay() {
        let cases = [
            (-32700, "request.malformed"),
            (-32600, "request.malformed"),
            (-32007, "request.too_large"),
            (-32010, "request.too_large"),
            (-32603, "request.too_large"),
            (-32009, "daemon.busy"),
        ];
        for (number, want) in cases {
            let bare = format!(
                r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{number},"message":"x"}}}}"#
            );

            let answer: Value = serde_json::from_str(&coded(bare.as_bytes()).unwrap()).unwrap();

            assert_eq!(answer["error"]["data"]["code"], want, "{number}");
            let own = match want {
                "daemon.busy" => -32_011,
                _ => -32_001,
            };
            let kept = if number < -32_100 { number } else { own };
            assert_eq!(answer["error"]["code"], kept);
            assert!(answer["id"].is_null());
        }
    }

    #[test]
    fn a_request_whose_id_is_none_is_told_so() {
        let answer: Value = serde_json::from_str(&coded(b"null").unwrap()).unwrap();

        assert_eq!(answer["error"]["code"], INVALID_REQUEST_CODE);
        assert_eq!(answer["error"]["data"]["code"], "request.malformed");
        assert!(answer["id"].is_null());
    }

    #[test]
    fn other_answers_pass() {
        let cases = [
            r#"{"jsonrpc":"2.0","id":1,"result":{"error":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"data":{"code":"daemon.internal"}}}"#,
            "Used HTTP Method is not allowed",
        ];
        for answer in cases {
            assert_eq!(coded(answer.as_bytes()), None, "{answer}");
        }
    }
}
