//! What is refused before it is a call: no JSON, no request, too long. jsonrpsee answers those
//! itself, with numbers and without codes; here they get theirs.
//!
//! Errors of calls are in the door. Where the frames of a WebSocket are found is in
//! [`frames`](crate::frames).

use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::Body as _;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use jsonrpsee::server::{HttpBody, HttpResponse, MethodResponse};
use jsonrpsee::types::error::{
    BATCHES_NOT_SUPPORTED_CODE, INTERNAL_ERROR_CODE, INVALID_REQUEST_CODE, OVERSIZED_REQUEST_CODE,
    OVERSIZED_RESPONSE_CODE, PARSE_ERROR_CODE, SERVER_IS_BUSY_CODE, TOO_BIG_BATCH_REQUEST_CODE,
    TOO_BIG_BATCH_RESPONSE_CODE, TOO_MANY_SUBSCRIPTIONS_CODE,
};
use kiln_api::{Failure, codes};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::upload::GivenUp;

/// The numbers of the protocol itself (JSON-RPC 2.0, section 5.1).
const PROTOCOL_NUMBERS: std::ops::RangeInclusive<i32> = -32_768..=-32_100;

/// Longest answer that may be a bare refusal, in bytes; they are about a hundred.
pub(crate) const MAX_BYTES: usize = 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// Says in Kiln's words what jsonrpsee means by a number.
pub(crate) fn failure(number: i32) -> Failure {
    match number {
        PARSE_ERROR_CODE => Failure::new(codes::request::MALFORMED, "the request is not JSON"),
        OVERSIZED_REQUEST_CODE => Failure::new(
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
        INTERNAL_ERROR_CODE => Failure::new(
            codes::daemon::INTERNAL,
            "the answer could not be written down",
        ),
        _ => Failure::new(
            codes::request::MALFORMED,
            "the request is not one of JSON-RPC 2.0",
        ),
    }
}

/// Gives an HTTP answer that is a bare refusal its code; every other passes as it is.
///
/// `given_up` says why the body of the request was not read to its end, if it was not.
pub(crate) async fn with_code(response: HttpResponse, given_up: Option<GivenUp>) -> HttpResponse {
    if let Some(why) = given_up {
        return answer_to_half_a_request(why);
    }
    let length = response.body().size_hint().exact();
    if length.is_none_or(|length| length == 0 || length > MAX_BYTES as u64) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        // The body is in memory, so this cannot happen; an empty answer is no lie.
        return HttpResponse::from_parts(head, HttpBody::empty());
    };
    let bytes = body.to_bytes();
    let is_json = serde_json::from_slice::<IgnoredAny>(&bytes).is_ok();
    let answer = if is_json {
        coded(&bytes)
    } else {
        head.status = refused_status(head.status);
        let text = String::from_utf8_lossy(&bytes);
        Some(answer(&of_status(head.status, text.trim())))
    };
    let Some(answer) = answer else {
        return HttpResponse::from_parts(head, HttpBody::from(bytes.to_vec()));
    };
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, JSON);
    HttpResponse::from_parts(head, HttpBody::from(answer))
}

/// Returns the status of an answer that is plain text: a handshake that fails comes as a success.
fn refused_status(status: StatusCode) -> StatusCode {
    if status.is_success() {
        StatusCode::BAD_REQUEST
    } else {
        status
    }
}

/// Says in Kiln's words what jsonrpsee answers with a status and a line of text.
fn of_status(status: StatusCode, text: &str) -> Failure {
    match status {
        StatusCode::TOO_MANY_REQUESTS => failure(SERVER_IS_BUSY_CODE),
        StatusCode::METHOD_NOT_ALLOWED => Failure::new(
            codes::request::MALFORMED,
            "calls are HTTP POST requests, or texts over a WebSocket",
        ),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Failure::new(
            codes::request::MALFORMED,
            "the request does not say that it is JSON",
        )
        .with_hint("send the header content-type: application/json", None),
        _ => Failure::new(codes::request::MALFORMED, text),
    }
}

fn answer_to_half_a_request(why: GivenUp) -> HttpResponse {
    let (status, failure) = match why {
        GivenUp::TooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            Failure::new(
                codes::request::TOO_SLOW,
                "the body of the request did not arrive in time",
            ),
        ),
        GivenUp::TooLong => (
            StatusCode::PAYLOAD_TOO_LARGE,
            failure(OVERSIZED_REQUEST_CODE),
        ),
    };
    let mut response = HttpResponse::new(HttpBody::from(answer(&failure)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    // What is left of the request would be taken for the next one.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Makes the whole answer to a request that had no id that could be read.
fn answer(failure: &Failure) -> String {
    serde_json::json!({
        "jsonrpc": "2.0",
        "id": null,
        "error": {
            "code": failure.class.rpc_number(), "message": failure.message, "data": failure,
        },
    })
    .to_string()
}

/// Finds what to say in place of a call's answer when that is one of jsonrpsee's own errors.
pub(crate) fn of_answer(response: &MethodResponse) -> Option<Failure> {
    response.as_error_code()?;
    bare(&serde_json::from_str(response.as_ref()).ok()?)
}

/// Rewrites an error without a code; `None` for everything else.
pub(crate) fn coded(bytes: &[u8]) -> Option<String> {
    let mut answer: Value = serde_json::from_slice(bytes).ok()?;
    if answer.is_null() {
        // A request whose id is no id is answered so; its caller would wait for ever.
        answer = serde_json::json!({
            "jsonrpc": "2.0", "id": null, "error": { "code": INVALID_REQUEST_CODE },
        });
    }
    let failure = bare(&answer)?;
    let error = answer.get_mut("error")?;
    let number = i32::try_from(error.get("code")?.as_i64()?).ok()?;
    error["code"] = Value::from(number_of(number, &failure));
    error["message"] = Value::from(failure.message.clone());
    error["data"] = serde_json::to_value(&failure).ok()?;
    Some(answer.to_string())
}

/// Reads an error that has no code of ours.
fn bare(answer: &Value) -> Option<Failure> {
    let error = answer.get("error")?;
    let has_code = error
        .get("data")
        .and_then(|data| data.get("code"))
        .is_some();
    let number = i32::try_from(error.get("code")?.as_i64()?).ok()?;
    (!has_code).then(|| failure(number))
}

/// Returns the number to answer with: jsonrpsee's own mean other things in the range that is left
/// to servers, the protocol's stay.
pub(crate) fn number_of(number: i32, failure: &Failure) -> i32 {
    if PROTOCOL_NUMBERS.contains(&number) {
        number
    } else {
        failure.class.rpc_number()
    }
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
            (-32603, "daemon.internal"),
            (-32006, "daemon.busy"),
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
