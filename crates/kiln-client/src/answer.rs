//! Reads error answers: the daemon's own error object, or a bare number of the protocol.

use jsonrpsee::types::ErrorObjectOwned;
use kiln_api::{Code, Failure, codes};

/// Returns the failure an error answer carries. Errors that never reached Kiln's own code, such
/// as jsonrpsee's, carry none; their number tells the code.
pub(crate) fn failure_of(method: &str, error: &ErrorObjectOwned) -> Failure {
    let carried = error
        .data()
        .and_then(|data| serde_json::from_str::<Failure>(data.get()).ok());
    carried.unwrap_or_else(|| from_number(method, error))
}

fn from_number(method: &str, error: &ErrorObjectOwned) -> Failure {
    let (code, message) = match code_of(error.code()) {
        Some(code) if code == codes::request::UNKNOWN_METHOD => {
            (code, format!("the daemon has no method {method}"))
        }
        Some(code) => (code, format!("{method}: {}", error.message())),
        None => {
            let number = error.code();
            let message = format!("{method}: {} (JSON-RPC error {number})", error.message());
            (codes::daemon::INTERNAL, message)
        }
    };
    let mut failure = Failure::new(code, message);
    if let Some(data) = error.data() {
        // Text that a protocol layer adds, such as the name of a missing member.
        let text = serde_json::from_str::<String>(data.get());
        failure
            .cause
            .extend(text.ok().map(|text| kiln_api::failure::printable(&text)));
    }
    failure
}

/// The numbers are those of JSON-RPC 2.0, section 5.1, and jsonrpsee's own in the server range.
fn code_of(number: i32) -> Option<Code> {
    match number {
        // A parse error, an invalid request, or a batch where none is taken.
        -32_700 | -32_600 | -32_005 => Some(codes::request::MALFORMED),
        -32_601 => Some(codes::request::UNKNOWN_METHOD),
        -32_602 => Some(codes::request::INVALID_PARAMS),
        // The request, or a batch, is too large.
        -32_007 | -32_010 => Some(codes::request::TOO_LARGE),
        // Too many subscriptions, or too many requests at once.
        -32_006 | -32_009 => Some(codes::daemon::BUSY),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(number: i32) -> Failure {
        let error = ErrorObjectOwned::owned(number, "Text of the layer", None::<()>);
        failure_of("image.get", &error)
    }

    #[test]
    fn bare_protocol_numbers_have_codes() {
        let cases = [
            (-32_700, "request.malformed"),
            (-32_600, "request.malformed"),
            (-32_601, "request.unknown_method"),
            (-32_602, "request.invalid_params"),
            (-32_007, "request.too_large"),
            (-32_009, "daemon.busy"),
            (-32_603, "daemon.internal"),
            (12, "daemon.internal"),
        ];
        for (number, code) in cases {
            assert_eq!(bare(number).code, code, "{number}");
        }
        assert_eq!(bare(-32_601).message, "the daemon has no method image.get");
        assert_eq!(
            bare(12).message,
            "image.get: Text of the layer (JSON-RPC error 12)"
        );
    }

    #[test]
    fn the_daemons_error_object_wins_over_the_number() {
        let sent = Failure::new(codes::image::NOT_FOUND, "no image answers to x");
        let error = ErrorObjectOwned::owned(-32_602, "x", Some(sent.clone()));

        assert_eq!(failure_of("image.get", &error), sent);
    }

    #[test]
    fn text_in_the_place_of_an_error_object_becomes_the_cause() {
        let error =
            ErrorObjectOwned::owned(-32_602, "Invalid params", Some("missing field \u{1b}"));

        assert_eq!(
            failure_of("image.get", &error).cause,
            [r"missing field \u{1b}"]
        );
    }
}
