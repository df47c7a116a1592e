//! The wire: both transports, and everything that is refused before a desk is asked.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::{fs, io::Read as _};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::{post, post_raw};
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::websocket::WebSocket;

/// Returns the code and the number of an answer that is an error.
fn refusal(answer: &Value) -> (String, i64) {
    let error = &answer["error"];
    let code = error["data"]["code"].as_str().unwrap_or("no code");
    (code.to_owned(), error["code"].as_i64().unwrap_or_default())
}

#[test]
fn http_and_websocket_answer_the_same() -> Result<()> {
    let house = Stage::new()?;
    let request = json!({"jsonrpc": "2.0", "id": "a", "method": "daemon.info"});

    let by_http = post(&house.daemon.socket(), request.to_string().as_bytes())?;
    let mut socket = WebSocket::connect(&house.daemon.socket())?;
    let by_websocket = socket.call("daemon.info", &json!({}))?;

    assert_eq!(by_http["id"], "a");
    assert_eq!(by_http["result"], by_websocket["result"]);
    let info = &by_http["result"];
    assert_eq!(info["pid"], house.daemon.id());
    assert_eq!(info["api"]["major"], 1);
    assert_eq!(info["places"]["state"], house.root().display().to_string());
    assert_eq!(info["caller"]["uid"], rustix::process::geteuid().as_raw());
    assert_eq!(info["counts"]["kernels"], 1);
    let origins = info["config"].as_array().context("no config")?;
    let place = origins
        .iter()
        .find(|setting| setting["key"] == "daemon.state_dir");
    assert_eq!(place.context("no state_dir")?["origin"], "--root");
    Ok(())
}

#[test]
fn the_socket_and_the_state_are_their_owners_alone() -> Result<()> {
    let stage = Stage::new()?;
    let mode = |name: &str| -> Result<u32> {
        let found = fs::metadata(stage.root().join(name))?;
        Ok(found.permissions().mode() & 0o777)
    };

    assert_eq!(mode("kiln.sock")?, 0o600);
    assert_eq!(mode("kiln-files.sock")?, 0o600);
    assert_eq!(mode("kiln.db")?, 0o600);
    Ok(())
}

#[test]
fn what_is_no_good_call_is_refused_with_a_code() -> Result<()> {
    let stage = Stage::new()?;
    let call = |method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
    };
    let cases = [
        (
            call("image.pul", "{}"),
            "request.unknown_method",
            "image.pul",
        ),
        (call("image.get", "{}"), "request.invalid_params", "image"),
        (
            call("image.get", r#"{"image":"a","imgae":"b"}"#),
            "request.invalid_params",
            "imgae",
        ),
        (
            call("image.get", r#"{"image":7}"#),
            "request.invalid_params",
            "string",
        ),
        (
            call("image.get", r#"["a"]"#),
            "request.invalid_params",
            "list",
        ),
        (
            call("operation.watch", "{}"),
            "request.needs_websocket",
            "operation.watch",
        ),
        (
            call("operation.unwatch", "[1]"),
            "request.needs_websocket",
            "operation.unwatch",
        ),
        (
            call("daemon.info", "7"),
            "request.invalid_params",
            "expected an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":-1,"method":"image.list","params":{}}"#.to_owned(),
            "request.malformed",
            "JSON-RPC",
        ),
        ("{no json".to_owned(), "request.malformed", "JSON"),
        (String::new(), "request.malformed", ""),
        (r#"{"id":1}"#.to_owned(), "request.malformed", "JSON-RPC"),
        (
            r#"{"jsonrpc":"1.0","id":1,"method":"daemon.info"}"#.to_owned(),
            "request.malformed",
            "JSON-RPC",
        ),
        ("[]".to_owned(), "request.malformed", "JSON-RPC"),
        (
            format!("[{}]", vec![call("daemon.info", "{}"); 65].join(",")),
            "request.too_large",
            "batch",
        ),
    ];
    for (body, want, noun) in cases {
        let answer = post(&stage.daemon.socket(), body.as_bytes())?;

        let shown: String = body.chars().take(80).collect();
        assert_eq!(refusal(&answer).0, want, "{shown}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(noun), "{shown}: {message}");
        assert!(
            answer["error"]["data"]["hint"]["text"].is_string(),
            "{answer}"
        );
    }
    stage.assert_nothing_left()
}

#[test]
fn what_is_no_call_is_refused_over_a_websocket_as_over_http() -> Result<()> {
    let stage = Stage::new()?;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"daemon.info"}"#;
    let many = format!("[{}]", [call; 65].join(","));
    let mut socket = WebSocket::connect(&stage.daemon.socket())?;
    for body in [
        "{no json",
        "neither",
        r#"{"id":1}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"daemon.info"}"#,
        "[]",
        "[1]",
        &many,
    ] {
        let by_http = post(&stage.daemon.socket(), body.as_bytes())?;
        socket.send(body)?;
        let by_websocket = socket.receive()?.context("the daemon hung up")?;

        let shown: String = body.chars().take(60).collect();
        assert_eq!(by_websocket, by_http, "{shown}");
        let first = by_http.get(0).unwrap_or(&by_http);
        let (code, number) = refusal(first);
        assert!(
            ["request.malformed", "request.too_large"].contains(&code.as_str()),
            "{shown}: {by_http}"
        );
        // The protocol's own numbers, or that of the class; none of jsonrpsee's.
        assert!(
            [-32_700, -32_600, -32_001].contains(&number),
            "{shown}: {number}"
        );
    }
    // Over HTTP the daemon hangs up on this one before it is read; that has a story of its own.
    socket.send(&format!("{{\"x\":\"{}\"}}", "a".repeat(2 << 20)))?;
    let answer = socket.receive()?.context("the daemon hung up")?;
    assert_eq!(refusal(&answer), ("request.too_large".to_owned(), -32_001));
    // The connection outlives every one of them.
    let told = socket.call("daemon.info", &json!({}))?;
    assert_eq!(told["result"]["pid"], stage.daemon.id());
    Ok(())
}

/// Sends `body` as far as the daemon takes it, and returns what it answers.
fn answer_to(stage: &Stage, framing: &str, body: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(stage.daemon.socket())?;
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         connection: close\r\n{framing}\r\n\r\n",
    )?;
    // The daemon may answer before it has read everything; then it hangs up.
    stream.write_all(body).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn an_oversized_request_is_too_large_with_a_length_and_in_chunks() -> Result<()> {
    let stage = Stage::new()?;
    let body = [b"{\"x\":\"".to_vec(), vec![b'a'; 2 << 20]].concat();
    let length = format!("content-length: {}", body.len());
    let chunks: Vec<u8> = body
        .chunks(1 << 16)
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
        .collect();

    for (framing, body) in [
        (length.as_str(), &body),
        ("transfer-encoding: chunked", &chunks),
    ] {
        let answer = answer_to(&stage, framing, body)?;

        assert!(answer.contains("request.too_large"), "{framing}: {answer}");
    }
    stage.assert_nothing_left()
}

#[test]
fn calls_of_a_batch_get_the_answers_they_would_get_alone() -> Result<()> {
    let stage = Stage::new()?;
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "image.list", "params": {}},
        {"jsonrpc": "2.0", "id": 2, "method": "image.lits", "params": {}},
        {"jsonrpc": "2.0", "id": 3, "method": "operation.watch", "params": {}},
        {"jsonrpc": "2.0", "id": 4, "method": "image.get", "params": {"image": "none"}},
        {"no": "request"},
    ]);

    let answers = post(&stage.daemon.socket(), batch.to_string().as_bytes())?;

    let answers = answers.as_array().context("no list")?;
    let codes: Vec<String> = answers.iter().map(|answer| refusal(answer).0).collect();
    let want = [
        "no code",
        "request.unknown_method",
        "request.needs_websocket",
        "image.not_found",
        "request.malformed",
    ];
    assert_eq!(codes, want);
    assert!(answers[0]["result"]["items"].is_array());
    let hint = &answers[1]["error"]["data"]["hint"]["text"];
    assert_eq!(hint, "did you mean image.list?");
    let log = fs::read_to_string(stage.daemon.log())?;
    assert!(
        log.contains("image.lits"),
        "calls of a batch are not logged"
    );
    Ok(())
}

#[test]
fn a_request_that_is_not_json_by_its_own_account_is_no_call() -> Result<()> {
    let stage = Stage::new()?;
    let mut stream = UnixStream::connect(stage.daemon.socket())?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;

    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.contains("request.malformed"), "{answer}");
    let answer = post_raw(&stage.daemon.socket(), b"{}")?;
    assert_eq!(answer.status()?, 200);
    Ok(())
}
