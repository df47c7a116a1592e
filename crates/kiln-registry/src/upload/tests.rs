use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::testing::{ADA, Asked, Reply, Server, ada, descriptor, impatient};

/// A registry's uploads: it takes parts, tells how far it is, and keeps what is closed.
#[derive(Default)]
struct Uploads {
    held: Mutex<Vec<u8>>,
    blobs: Mutex<Vec<Vec<u8>>>,
}

impl Uploads {
    fn answer(&self, asked: &Asked) -> Reply {
        let is_upload = asked.target.contains("/uploads/");
        match asked.method.as_str() {
            "HEAD" => self.look(asked),
            "POST" => {
                self.held.lock().unwrap().clear();
                self.told(202)
            }
            "PATCH" => {
                let first = asked.header("content-range").unwrap().split('-').next();
                let mut held = self.held.lock().unwrap();
                if first != Some(&held.len().to_string()) {
                    return Reply::status(416);
                }
                held.extend_from_slice(asked.body.as_bytes());
                drop(held);
                self.told(202)
            }
            "PUT" => {
                let mut held = self.held.lock().unwrap();
                held.extend_from_slice(asked.body.as_bytes());
                let digest = Digest::of(&held).to_string().replace(':', "%3A");
                if !asked.target.ends_with(&format!("digest={digest}")) {
                    return Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                self.blobs.lock().unwrap().push(std::mem::take(&mut held));
                Reply::status(201)
            }
            "GET" if is_upload => self.told(204),
            _ => Reply::status(405),
        }
    }

    fn look(&self, asked: &Asked) -> Reply {
        let blobs = self.blobs.lock().unwrap();
        let found = blobs
            .iter()
            .find(|blob| asked.target.ends_with(&Digest::of(blob).to_string()));
        match found {
            // The client does not wait for the body of an answer to HEAD.
            Some(blob) => Reply::ok(blob.clone()).cut_after(0),
            None => Reply::status(404),
        }
    }

    fn told(&self, status: u16) -> Reply {
        let held = self.held.lock().unwrap().len();
        Reply::status(status)
            .with("location", &format!("/up/1/uploads/?_state=s%2B{held}&x"))
            .with("range", &format!("0-{}", held.saturating_sub(1)))
    }
}

/// Four bytes a request, and a second try at once.
fn in_parts(server: &Server, credentials: Option<kiln_domain::Credentials>) -> Registry {
    let config = Config {
        chunk_bytes: 4,
        attempts: 3,
        backoff: Duration::from_millis(1),
        ..(*impatient()).clone()
    };
    Registry::new(&server.reference(), credentials, Arc::new(config)).unwrap()
}

/// Lists methods with what they sent.
fn bodies(server: &Server) -> Vec<String> {
    let asked = server.asked();
    let line = |asked: &Asked| format!("{} {}", asked.method, asked.body).trim().to_owned();
    asked.iter().map(line).collect()
}

async fn push(
    server: &Server,
    registry: &Registry,
    text: &'static str,
) -> Result<Pushed, FetchError> {
    let blob = descriptor(text.as_bytes());
    let content = Content::bytes(text.into());
    registry
        .push_blob(&server.reference(), &blob, content, None)
        .await
}

#[tokio::test]
async fn a_small_blob_goes_in_one_request_and_not_twice() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, _| uploads.answer(asked)).await;
    let registry = server.registry(None);

    let first = push(&server, &registry, "layer").await.unwrap();
    let second = push(&server, &registry, "layer").await.unwrap();

    assert_eq!((first, second), (Pushed::Sent, Pushed::Existed));
    assert_eq!(bodies(&server), ["HEAD", "POST", "PUT layer", "HEAD"]);
    let digest = Digest::of(b"layer").to_string().replace(':', "%3A");
    assert_eq!(
        server.targets()[2],
        format!("/up/1/uploads/?_state=s%2B0&x&digest={digest}")
    );
}

#[tokio::test]
async fn a_blob_of_no_bytes_is_a_blob() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, _| uploads.answer(asked)).await;

    push(&server, &server.registry(None), "").await.unwrap();

    assert_eq!(server.asked()[2].header("content-length"), Some("0"));
}

#[tokio::test]
async fn a_long_blob_goes_in_parts() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, _| uploads.answer(asked)).await;

    push(&server, &in_parts(&server, None), "0123456789")
        .await
        .unwrap();

    assert_eq!(
        bodies(&server),
        [
            "HEAD",
            "POST",
            "PATCH 0123",
            "PATCH 4567",
            "PATCH 89",
            "PUT"
        ]
    );
    let ranges: Vec<_> = server.asked()[2..5]
        .iter()
        .map(|asked| asked.header("content-range").unwrap().to_owned())
        .collect();
    assert_eq!(ranges, ["0-3", "4-7", "8-9"]);
}

#[tokio::test]
async fn the_registry_says_how_long_parts_are_at_least() {
    let uploads = Uploads::default();
    let server =
        Server::start(move |asked, _| uploads.answer(asked).with("oci-chunk-min-length", "6"))
            .await;

    push(&server, &in_parts(&server, None), "0123456789")
        .await
        .unwrap();

    assert_eq!(bodies(&server)[2..], ["PATCH 012345", "PATCH 6789", "PUT"]);
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_the_registry_is() {
    let uploads = Uploads::default();
    let broken = Mutex::new(false);
    let server = Server::start(move |asked, _| {
        let is_second = asked.body == "4567";
        if is_second && !std::mem::replace(&mut *broken.lock().unwrap(), true) {
            // Half of it has arrived.
            uploads.held.lock().unwrap().extend_from_slice(b"45");
            return Reply::hang_up();
        }
        uploads.answer(asked)
    })
    .await;

    let pushed = push(&server, &in_parts(&server, None), "0123456789").await;

    assert_eq!(pushed.unwrap(), Pushed::Sent);
    assert_eq!(
        bodies(&server)[2..],
        [
            "PATCH 0123",
            "PATCH 4567",
            "HEAD",
            "GET",
            "PATCH 6789",
            "PUT"
        ]
    );
}

#[tokio::test]
async fn a_closing_request_that_was_heard_is_not_repeated() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, _| {
        let reply = uploads.answer(asked);
        if asked.method == "PUT" {
            return Reply::hang_up();
        }
        reply
    })
    .await;

    let pushed = push(&server, &in_parts(&server, None), "layer").await;

    assert_eq!(pushed.unwrap(), Pushed::Sent);
    assert_eq!(
        bodies(&server)[2..],
        ["PATCH laye", "PATCH r", "PUT", "HEAD"]
    );
}

#[tokio::test]
async fn an_upload_the_registry_forgot_begins_anew() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, before| {
        let is_lost = asked.body == "r" && before == 0;
        if is_lost {
            return Reply::new(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#);
        }
        uploads.answer(asked)
    })
    .await;

    push(&server, &in_parts(&server, None), "layer")
        .await
        .unwrap();

    assert_eq!(
        bodies(&server)[2..],
        [
            "PATCH laye",
            "PATCH r",
            "POST",
            "PATCH laye",
            "PATCH r",
            "PUT"
        ]
    );
}

#[tokio::test]
async fn an_upload_that_is_always_forgotten_ends() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, _| match asked.method.as_str() {
        "PATCH" => Reply::status(404),
        _ => uploads.answer(asked),
    })
    .await;

    let error = push(&server, &in_parts(&server, None), "layer")
        .await
        .unwrap_err();

    assert!(matches!(error, FetchError::ServerError { status: 404, .. }));
    let begun = bodies(&server)
        .iter()
        .filter(|line| *line == "POST")
        .count();
    assert_eq!(begun, 5);
}

#[tokio::test]
async fn a_registry_elsewhere_in_the_upload_is_asked_where() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, before| {
        if asked.body == "4567" && before == 0 {
            uploads.held.lock().unwrap().truncate(2);
            return Reply::status(416);
        }
        uploads.answer(asked)
    })
    .await;

    push(&server, &in_parts(&server, None), "0123456789")
        .await
        .unwrap();

    assert_eq!(
        bodies(&server)[2..],
        [
            "PATCH 0123",
            "PATCH 4567",
            "GET",
            "PATCH 2345",
            "PATCH 6789",
            "PUT"
        ]
    );
}

#[tokio::test]
async fn a_registry_without_parts_gets_the_whole() {
    for status in [400, 405, 411, 501] {
        let uploads = Uploads::default();
        let server = Server::start(move |asked, _| match asked.method.as_str() {
            "PATCH" => Reply::status(status),
            _ => uploads.answer(asked),
        })
        .await;

        push(&server, &in_parts(&server, None), "layer")
            .await
            .unwrap();

        assert_eq!(
            bodies(&server)[2..],
            ["PATCH laye", "POST", "PUT layer"],
            "status {status}"
        );
    }
}

#[tokio::test]
async fn requests_that_are_too_long_become_shorter() {
    let text: &'static str = "0123456789abcdef".repeat(100 << 10).leak();
    let uploads = Uploads::default();
    let server = Server::start(move |asked, _| {
        if asked.body.len() > 1 << 20 {
            return Reply::status(413);
        }
        uploads.answer(asked)
    })
    .await;

    push(&server, &server.registry(None), text).await.unwrap();

    let sent: Vec<_> = server
        .asked()
        .iter()
        .map(|asked| (asked.method.clone(), asked.body.len()))
        .collect();
    let want = [
        ("HEAD", 0),
        ("POST", 0),
        ("PUT", 1_638_400),
        ("DELETE", 0),
        ("POST", 0),
        ("PATCH", 524_288),
        ("PATCH", 524_288),
        ("PATCH", 524_288),
        ("PATCH", 65_536),
        ("PUT", 0),
    ];
    assert_eq!(sent, want.map(|(method, len)| (method.to_owned(), len)));
}

#[tokio::test]
async fn other_bytes_are_not_sent_to_the_last() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, _| uploads.answer(asked)).await;
    let blob = descriptor(b"layer");
    let content = Content::bytes("laxer".into());

    let error = in_parts(&server, None)
        .push_blob(&server.reference(), &blob, content, None)
        .await
        .unwrap_err();

    assert!(
        matches!(error, FetchError::DigestMismatch { found, .. } if found == Digest::of(b"laxer"))
    );
    assert_eq!(bodies(&server), ["HEAD", "POST", "PATCH laxe"]);
}

#[tokio::test]
async fn credentials_stay_with_the_registry() {
    let storage = Server::start(|asked, _| match asked.method.as_str() {
        "PUT" => Reply::status(201),
        _ => Reply::status(500),
    })
    .await;
    let elsewhere = format!("http://{}/store?sig=1", storage.authority());
    let server = Server::start(move |asked, _| match asked.header("authorization") {
        None => Reply::demand(r#"Basic realm="x""#),
        Some(_) if asked.method == "HEAD" => Reply::status(404),
        Some(_) => Reply::status(202).with("location", &elsewhere),
    })
    .await;

    push(&server, &server.registry(Some(ada())), "layer")
        .await
        .unwrap();

    let post = server.asked().pop().unwrap();
    assert_eq!(
        (post.method.as_str(), post.header("authorization")),
        ("POST", Some(ADA))
    );
    let put = storage.asked().pop().unwrap();
    assert_eq!(
        (put.body.as_str(), put.header("authorization")),
        ("layer", None)
    );
    assert!(put.target.starts_with("/store?sig=1&digest=sha256%3A"));
}

#[tokio::test]
async fn a_location_is_not_followed_everywhere() {
    let cases = [
        ("file:///etc/passwd", "it is neither https nor http"),
        (
            "http://ann:secret@127.0.0.1/",
            "it carries a user name or password",
        ),
    ];
    for (location, want) in cases {
        let server = Server::start(move |asked, _| match asked.method.as_str() {
            "HEAD" => Reply::status(404),
            _ => Reply::status(202).with("location", location),
        })
        .await;

        let error = push(&server, &server.registry(None), "layer")
            .await
            .unwrap_err();

        assert!(
            matches!(error, FetchError::RedirectRefused { reason, .. } if reason == want),
            "{location}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_blob_of_the_same_registry_is_mounted_or_else_sent() {
    let cases: [(u16, Pushed); 3] = [
        (201, Pushed::Mounted),
        (202, Pushed::Sent),
        (403, Pushed::Sent),
    ];
    for (status, want) in cases {
        let uploads = Uploads::default();
        let server = Server::start(move |asked, _| match status {
            201 if asked.target.contains("mount=") => Reply::status(201),
            403 if asked.target.contains("mount=") => Reply::status(403),
            _ => uploads.answer(asked),
        })
        .await;
        let registry = server.registry(None);
        let from = format!("{}/other:1", server.authority()).parse().unwrap();

        let pushed = registry
            .push_blob(
                &server.reference(),
                &descriptor(b"layer"),
                Content::bytes("layer".into()),
                Some(&from),
            )
            .await
            .unwrap();

        assert_eq!(pushed, want, "status {status}");
        let digest = Digest::of(b"layer");
        assert_eq!(
            server.targets()[1],
            format!("/v2/app/blobs/uploads/?mount={digest}&from=other")
        );
    }
}

#[tokio::test]
async fn nothing_is_mounted_from_another_registry() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, _| uploads.answer(asked)).await;
    let from = "ghcr.io/other:1".parse().unwrap();

    server
        .registry(None)
        .push_blob(
            &server.reference(),
            &descriptor(b"layer"),
            Content::bytes("layer".into()),
            Some(&from),
        )
        .await
        .unwrap();

    assert_eq!(server.targets()[1], "/v2/app/blobs/uploads/");
}

#[tokio::test]
async fn a_registry_that_takes_no_more_bytes_is_given_up() {
    // It accepts a connection and reads nothing; the blob is more than the sockets' buffers hold.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf = listener.local_addr().unwrap();
    let holding = tokio::spawn(async move { listener.accept().await });
    let target = format!("http://{deaf}/up");
    let server = Server::start(move |asked, _| match asked.method.as_str() {
        "HEAD" => Reply::status(404),
        _ => Reply::status(202).with("location", &target),
    })
    .await;
    let bytes = vec![7; 64 << 20];
    let blob = descriptor(&bytes);
    let config = Config {
        chunk_bytes: u64::MAX,
        stall_timeout: Duration::from_secs(1),
        ..(*impatient()).clone()
    };
    let registry = Registry::new(&server.reference(), None, Arc::new(config)).unwrap();

    let error = registry
        .push_blob(
            &server.reference(),
            &blob,
            Content::bytes(bytes.into()),
            None,
        )
        .await
        .unwrap_err();

    assert!(
        matches!(
            error,
            FetchError::Timeout {
                what: "room for more of a blob",
                ..
            }
        ),
        "{error:?}"
    );
    holding.abort();
}

/// It takes the bytes and says nothing, whatever it is asked then: what is asked in between is no
/// progress either.
#[tokio::test]
async fn a_silent_end_of_an_upload_takes_no_longer_than_patience() {
    // Connections wait in its backlog, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}/up", silent.local_addr().unwrap());
    let server = Server::start(move |asked, _| match asked.method.as_str() {
        "HEAD" => Reply::status(404),
        "GET" => Reply::status(200),
        _ => Reply::status(202).with("location", &target),
    })
    .await;
    let config = Config {
        attempts: 10,
        backoff: Duration::from_millis(1),
        stall_timeout: Duration::from_secs(3),
        document_timeout: Duration::from_secs(3),
        patience: Duration::from_secs(6),
        ..(*impatient()).clone()
    };
    let registry = Registry::new(&server.reference(), None, Arc::new(config)).unwrap();
    let began = tokio::time::Instant::now();

    let error = push(&server, &registry, "layer").await.unwrap_err();

    let took = began.elapsed();
    assert!(matches!(error, FetchError::Timeout { .. }), "{error:?}");
    assert!(took < Duration::from_millis(7500), "{took:?}");
}

#[tokio::test]
async fn who_loses_an_upload_or_finds_other_bytes_is_named_and_at_fault() {
    for (status, code) in [
        (404, "BLOB_UPLOAD_UNKNOWN"),
        (416, "RANGE_INVALID"),
        (400, "DIGEST_INVALID"),
    ] {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":""}}]}}"#);
        let elsewhere = Server::start(move |_, _| Reply::new(status, body.clone())).await;
        let target = format!("http://{}/up", elsewhere.authority());
        let server = Server::start(move |asked, _| match asked.method.as_str() {
            "HEAD" => Reply::status(404),
            "GET" => Reply::status(200),
            _ => Reply::status(202).with("location", &target),
        })
        .await;

        let error = push(&server, &server.registry(None), "layer")
            .await
            .unwrap_err();

        let FetchError::ServerError {
            host, status: told, ..
        } = &error
        else {
            panic!("{status} {code}: {error:?}");
        };
        assert_eq!((host.as_str(), *told), (elsewhere.authority(), status));
        assert!(!error.is_retryable(), "{error:?}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    type Check = fn(&FetchError) -> bool;
    let cases: [(u16, &str, Check); 6] = [
        (403, "DENIED", |error| {
            matches!(error, FetchError::Denied { .. })
        }),
        (403, "quota of the project", |error| {
            matches!(error, FetchError::QuotaExceeded { .. })
        }),
        (507, "", |error| {
            matches!(error, FetchError::QuotaExceeded { .. })
        }),
        (405, "UNSUPPORTED", |error| {
            matches!(error, FetchError::ReadOnly { .. })
        }),
        (404, "NAME_UNKNOWN", |error| {
            matches!(error, FetchError::ReferenceNotFound { .. })
        }),
        (400, "NAME_INVALID", |error| {
            matches!(error, FetchError::PushRefused { status: 400, .. })
        }),
    ];
    for (status, code, check) in cases {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":""}}]}}"#);
        let server = Server::start(move |asked, _| match asked.method.as_str() {
            "HEAD" => Reply::status(404),
            "GET" => Reply::status(200),
            _ => Reply::new(status, body.clone()),
        })
        .await;

        let error = push(&server, &server.registry(None), "layer")
            .await
            .unwrap_err();

        assert!(check(&error), "status {status} {code}: {error:?}");
    }
}

#[test]
fn how_far_an_upload_is() {
    let cases = [
        ("0-0", Some(0)),
        ("0-9", Some(10)),
        ("bytes=0-9", Some(10)),
        ("1-9", None),
        ("0-18446744073709551615", None),
        ("", None),
    ];
    for (text, want) in cases {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, text.parse().unwrap());
        assert_eq!(received_bytes(&headers), want, "{text:?}");
    }
}

#[tokio::test]
async fn a_token_that_expires_on_the_way_is_renewed() {
    let uploads = Uploads::default();
    let server = Server::start(move |asked, before| {
        if asked.target.starts_with("/token") {
            return Reply::ok(format!(r#"{{"token":"t{before}","expires_in":300}}"#));
        }
        let is_over = asked.body == "4567" && asked.header("authorization") == Some("Bearer t0");
        if is_over || asked.header("authorization").is_none() {
            let host = asked.header("host").unwrap();
            let demand = format!(r#"Bearer realm="http://{host}/token",service="reg""#);
            return Reply::demand(&demand);
        }
        uploads.answer(asked)
    })
    .await;

    push(&server, &in_parts(&server, Some(ada())), "0123456789")
        .await
        .unwrap();

    assert_eq!(
        bodies(&server),
        [
            "HEAD",
            "GET",
            "HEAD",
            "POST",
            "PATCH 0123",
            "PATCH 4567",
            "GET",
            "PATCH 4567",
            "PATCH 89",
            "PUT"
        ]
    );
    let token = &server.asked()[1];
    assert!(
        token.target.contains("repository%3Aapp%3Apull%2Cpush"),
        "{token:?}"
    );
}

#[tokio::test]
async fn an_upload_longer_than_patience_goes_on_after_a_break() {
    const PATIENCE: Duration = Duration::from_secs(2);
    // It reads slowly for longer than patience lasts, and is gone then.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}/up", listener.local_addr().unwrap());
    let slow = tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        let began = tokio::time::Instant::now();
        let mut buffer = vec![0; 64 << 10];
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while began.elapsed() < PATIENCE * 3 / 2 {
            tick.tick().await;
            assert_ne!(stream.read(&mut buffer).await.unwrap(), 0);
        }
    });
    let uploads = Uploads::default();
    let server = Server::start(move |asked, before| match asked.method.as_str() {
        "POST" if before == 0 => Reply::status(202).with("location", &target),
        _ => uploads.answer(asked),
    })
    .await;
    let bytes = vec![b'7'; 64 << 20];
    let blob = descriptor(&bytes);
    let config = Config {
        chunk_bytes: u64::MAX,
        attempts: 2,
        backoff: Duration::from_millis(1),
        patience: PATIENCE,
        ..(*impatient()).clone()
    };
    let registry = Registry::new(&server.reference(), None, Arc::new(config)).unwrap();

    let pushed = registry
        .push_blob(
            &server.reference(),
            &blob,
            Content::bytes(bytes.into()),
            None,
        )
        .await;

    assert_eq!(pushed.unwrap(), Pushed::Sent);
    slow.await.unwrap();
    let asked = server.asked();
    let methods: Vec<&str> = asked.iter().map(|asked| asked.method.as_str()).collect();
    assert_eq!(methods, ["HEAD", "POST", "HEAD", "POST", "PATCH", "PUT"]);
}
