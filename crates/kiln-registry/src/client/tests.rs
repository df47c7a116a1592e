use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::routes::{Proxies, ProxyUrl};
use crate::testing::{ADA, Asked, OCI_MANIFEST, Reply, Server, ada, impatient, manifest};

/// Answers every manifest request with the manifest.
fn serving(asked: &Asked, _: usize) -> Reply {
    match asked.target.as_str() {
        "/v2/app/manifests/1" => Reply::ok(manifest()).with("content-type", OCI_MANIFEST),
        _ => Reply::status(404),
    }
}

/// Fetches `app:1` once and returns the error's debug name and text.
async fn failure_of(
    credentials: Option<Credentials>,
    script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (String, FetchError) {
    let server = Server::start(script).await;
    let registry = server.registry(credentials);
    let error = registry.manifest(&server.reference()).await.unwrap_err();
    let name = format!("{error:?}");
    let name = name.split([' ', '(', '{']).next().unwrap().to_owned();
    (name, error)
}

#[tokio::test]
async fn a_manifest_is_had_without_credentials_when_nobody_asks() {
    let server = Server::start(serving).await;

    let fetched = server
        .registry(Some(ada()))
        .manifest(&server.reference())
        .await
        .unwrap();

    assert_eq!(fetched.bytes, manifest());
    assert_eq!(fetched.digest, Digest::of(manifest().as_bytes()));
    assert_eq!(fetched.media_type.as_deref(), Some(OCI_MANIFEST));
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!(
        asked[0].header("accept").unwrap().split(", ").count(),
        document_media_types().len()
    );
}

#[tokio::test]
async fn a_password_is_sent_after_a_basic_challenge_and_remembered() {
    let server = Server::start(|asked, before| match asked.header("authorization") {
        Some(ADA) => serving(asked, before),
        _ => Reply::demand(r#"Basic realm="x""#),
    })
    .await;
    let registry = server.registry(Some(ada()));

    registry.manifest(&server.reference()).await.unwrap();
    registry.manifest(&server.reference()).await.unwrap();

    let sent: Vec<bool> = server
        .asked()
        .iter()
        .map(|asked| asked.header("authorization").is_some())
        .collect();
    assert_eq!(sent, [false, true, true]);
}

/// A registry that wants tokens, and its token endpoint, in one server.
fn token_registry(authority: &str, asked: &Asked, before: usize) -> Reply {
    if asked.target.starts_with("/token") {
        return Reply::ok(format!(r#"{{"token":"t{before}","expires_in":300}}"#));
    }
    match asked.header("authorization") {
        Some("Bearer t0" | "Bearer t1") => serving(asked, before),
        _ => Reply::demand(&format!(
            r#"Bearer realm="http://{authority}/token",service="reg",scope="repository:app:pull,push,delete""#
        )),
    }
}

/// The address a request was sent to: how a script learns where it runs.
fn own_authority(asked: &Asked) -> String {
    asked.header("host").unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_token_is_fetched_for_pull_only_and_used_until_it_is_old() {
    let server =
        Server::start(|asked, before| token_registry(&own_authority(asked), asked, before)).await;
    let registry = server.registry(Some(ada()));

    registry.manifest(&server.reference()).await.unwrap();
    registry.manifest(&server.reference()).await.unwrap();

    assert_eq!(
        server.targets(),
        [
            "/v2/app/manifests/1",
            "/token?service=reg&scope=repository%3Aapp%3Apull",
            "/v2/app/manifests/1",
            "/v2/app/manifests/1",
        ]
    );
    let sent: Vec<Option<String>> = server
        .asked()
        .iter()
        .map(|asked| asked.header("authorization").map(str::to_owned))
        .collect();
    let want = [None, Some(ADA), Some("Bearer t0"), Some("Bearer t0")];
    assert_eq!(sent, want.map(|header| header.map(str::to_owned)));
}

#[tokio::test]
async fn an_anonymous_token_is_asked_for_without_credentials() {
    let server =
        Server::start(|asked, before| token_registry(&own_authority(asked), asked, before)).await;

    server
        .registry(None)
        .manifest(&server.reference())
        .await
        .unwrap();

    assert_eq!(server.asked()[1].header("authorization"), None);
}

#[tokio::test]
async fn an_identity_token_travels_in_a_form() {
    let server =
        Server::start(|asked, before| token_registry(&own_authority(asked), asked, before)).await;
    let token = Credentials::IdentityToken(kiln_domain::Secret::new("ident&ity".to_owned()));

    server
        .registry(Some(token))
        .manifest(&server.reference())
        .await
        .unwrap();

    let asked = server.asked()[1].clone();
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("POST", "/token")
    );
    assert_eq!(
        asked.body,
        "grant_type=refresh_token&client_id=kiln&scope=repository%3Aapp%3Apull\
         &refresh_token=ident%26ity&service=reg"
    );
}

#[tokio::test]
async fn a_token_that_stops_working_is_replaced_once() {
    let server = Server::start(|asked, before| {
        let is_revoked = asked.header("authorization") == Some("Bearer t0") && before > 1;
        if is_revoked {
            return Reply::demand(&format!(
                r#"Bearer realm="http://{}/token",service="reg""#,
                own_authority(asked)
            ));
        }
        token_registry(&own_authority(asked), asked, before)
    })
    .await;
    let registry = server.registry(None);

    registry.manifest(&server.reference()).await.unwrap();
    registry.manifest(&server.reference()).await.unwrap();

    let tokens = server.targets();
    let tokens = tokens.iter().filter(|target| target.starts_with("/token"));
    assert_eq!(tokens.count(), 2);
}

#[tokio::test]
async fn parallel_requests_fetch_one_token() {
    let server =
        Server::start(|asked, before| token_registry(&own_authority(asked), asked, before)).await;
    let (registry, reference) = (server.registry(None), server.reference());

    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (registry, reference) = (registry.clone(), reference.clone());
        requests.spawn(async move { registry.manifest(&reference).await.map(drop) });
    }
    for result in requests.join_all().await {
        result.unwrap();
    }

    let tokens = server.targets();
    let tokens = tokens.iter().filter(|target| target.starts_with("/token"));
    assert_eq!(tokens.count(), 1);
}

/// Runs a story about `registry.test`, which is spoken to in plain HTTP through a proxy, so
/// that the script sees every host.
async fn story(
    trusted_hosts: &[&str],
    script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Result<Fetched, FetchError>, Vec<Asked>) {
    let server = Server::start(script).await;
    let config = Config {
        insecure_hosts: vec!["registry.test".to_owned()],
        trusted_hosts: trusted_hosts.iter().map(|&host| host.to_owned()).collect(),
        proxies: Proxies::always(
            ProxyUrl::parse(server.authority()).unwrap(),
            "this test".to_owned(),
        ),
        ..Config::clone(&impatient())
    };
    let reference: Reference = "registry.test/app:1".parse().unwrap();
    let registry = Registry::new(&reference, Some(ada()), Arc::new(config)).unwrap();
    let result = registry.manifest(&reference).await;
    (result, server.asked())
}

#[tokio::test]
async fn a_foreign_realm_hears_nothing() {
    for realm in [
        "http://evil.test/token",
        "https://evil.example/token",
        "http://127.0.0.1:1/token",
        "http://registry.test.evil.test/token",
        "http://ada@registry.test/token",
        "file:///etc/passwd",
    ] {
        let (result, asked) = story(&[], move |_, _| {
            Reply::demand(&format!(r#"Bearer realm="{realm}""#))
        })
        .await;

        assert!(
            matches!(result, Err(FetchError::RealmRefused { .. })),
            "{realm} gave {result:?}"
        );
        assert_eq!(asked.len(), 1, "asked because of {realm}: {asked:?}");
        assert_eq!(asked[0].header("authorization"), None);
    }
}

#[tokio::test]
async fn a_realm_the_configuration_trusts_gets_the_password() {
    let (result, asked) = story(&["sso.test"], |asked, before| {
        if asked.target.starts_with("http://sso.test/") {
            return Reply::ok(r#"{"access_token":"a"}"#);
        }
        match asked.header("authorization") {
            Some("Bearer a") => Reply::ok(manifest()).with("content-type", OCI_MANIFEST),
            _ if before == 0 => Reply::demand(r#"Bearer realm="http://sso.test/token""#),
            _ => Reply::status(500),
        }
    })
    .await;

    result.unwrap();
    assert_eq!(asked[1].header("authorization"), Some(ADA));
}

#[tokio::test]
async fn a_token_endpoint_that_redirects_is_refused() {
    let (result, asked) = story(&[], |asked, _| {
        if asked.target.contains("/token") {
            Reply::redirect("http://evil.test/")
        } else {
            Reply::demand(r#"Bearer realm="http://registry.test/token""#)
        }
    })
    .await;

    assert!(
        matches!(result, Err(FetchError::RedirectRefused { .. })),
        "{result:?}"
    );
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn a_redirect_loses_the_authorization_for_good() {
    let (result, asked) = story(&[], |asked, before| match asked.target.as_str() {
        "http://registry.test/v2/app/manifests/1" if before == 0 => {
            Reply::demand(r#"Basic realm="x""#)
        }
        "http://registry.test/v2/app/manifests/1" => Reply::redirect("/moved"),
        "http://registry.test/moved" => Reply::redirect("http://cdn.test/x"),
        "http://cdn.test/x" => Reply::redirect("http://registry.test/back"),
        "http://registry.test/back" => Reply::ok(manifest()).with("content-type", OCI_MANIFEST),
        _ => Reply::status(500),
    })
    .await;

    result.unwrap();
    let sent: Vec<(&str, Option<&str>)> = asked
        .iter()
        .map(|asked| (asked.target.as_str(), asked.header("authorization")))
        .collect();
    assert_eq!(
        sent,
        [
            ("http://registry.test/v2/app/manifests/1", None),
            ("http://registry.test/v2/app/manifests/1", Some(ADA)),
            ("http://registry.test/moved", Some(ADA)),
            ("http://cdn.test/x", None),
            ("http://registry.test/back", None),
        ]
    );
}

#[tokio::test]
async fn redirects_end_after_five_and_never_leave_http() {
    let (name, error) = failure_of(None, |_, _| Reply::redirect("/again?signature=secret")).await;
    assert_eq!(name, "RedirectRefused");
    assert!(error.to_string().contains("more than 5"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");

    let (name, _) = failure_of(None, |_, _| Reply::redirect("file:///etc/passwd")).await;
    assert_eq!(name, "RedirectRefused");
    let (name, _) = failure_of(None, |_, _| Reply::status(302)).await;
    assert_eq!(name, "RedirectRefused");
}

#[tokio::test]
async fn every_status_has_its_error() {
    let basic = || Reply::demand(r#"Basic realm="x""#);
    let cases: Vec<(Reply, Option<Credentials>, &str)> = vec![
        (Reply::status(404), None, "ReferenceNotFound"),
        (basic(), None, "AuthRequired"),
        (basic(), Some(ada()), "AuthFailed"),
        (Reply::status(401), Some(ada()), "ChallengeMalformed"),
        (
            Reply::demand("Negotiate"),
            Some(ada()),
            "ChallengeMalformed",
        ),
        (Reply::status(403), Some(ada()), "Denied"),
        (Reply::status(429), None, "RateLimited"),
        (Reply::status(500), None, "ServerError"),
        (Reply::status(503), None, "ServerError"),
        (Reply::status(204), None, "UnexpectedStatus"),
        (Reply::status(418), None, "UnexpectedStatus"),
    ];
    for (reply, credentials, want) in cases {
        let scripted = reply.clone();
        let (name, error) = failure_of(credentials, move |_, _| scripted.clone()).await;
        assert_eq!(name, want, "{reply:?} gave {error}");
    }
}

#[tokio::test]
async fn refusals_of_the_token_endpoint_are_told_apart() {
    let cases: Vec<(Reply, Option<Credentials>, &str)> = vec![
        (Reply::status(401), None, "AuthRequired"),
        (Reply::status(401), Some(ada()), "AuthFailed"),
        (Reply::status(403), Some(ada()), "Denied"),
        (Reply::status(503), None, "ServerError"),
        (Reply::ok("{}"), None, "TokenMalformed"),
        (Reply::ok(vec![b' '; 1 << 21]), None, "TokenMalformed"),
        // A token that does not help: with credentials they are to blame.
        (Reply::ok(r#"{"token":"useless"}"#), None, "AuthRequired"),
        (
            Reply::ok(r#"{"token":"useless"}"#),
            Some(ada()),
            "AuthFailed",
        ),
    ];
    for (reply, credentials, want) in cases {
        let scripted = reply.clone();
        let (name, error) = failure_of(credentials, move |asked, before| {
            if asked.target.starts_with("/token") {
                scripted.clone()
            } else {
                token_registry(&own_authority(asked), asked, before)
            }
        })
        .await;
        assert_eq!(name, want, "{want} expected, got {error}");
    }
}

#[tokio::test]
async fn what_a_server_says_reaches_people_escaped() {
    let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no\n\u001b[2Jsuch tag"}]}"#;

    let (_, error) = failure_of(None, move |_, _| Reply::new(404, body)).await;

    let text = error.to_string();
    assert!(
        text.ends_with(r"/app:1 does not exist (MANIFEST_UNKNOWN: no\n\u{1b}[2Jsuch tag)"),
        "{text}"
    );
}

#[tokio::test]
async fn an_oversize_manifest_is_refused_announced_or_not() {
    let large = vec![b' '; 5 << 20];
    let announced = Reply::ok(large.clone()).with("content-type", OCI_MANIFEST);
    for reply in [announced.clone(), announced.unannounced()] {
        let (_, error) = failure_of(None, move |_, _| reply.clone()).await;
        assert!(
            matches!(
                error,
                FetchError::Document {
                    source: DocumentError::TooLarge { .. },
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn lies_about_digests_are_caught() {
    let other = Digest::of(b"other").to_string();
    let announced =
        move |_: &Asked, _: usize| Reply::ok(manifest()).with("docker-content-digest", &other);
    let (name, _) = failure_of(None, announced).await;
    assert_eq!(name, "DigestMismatch");

    let server = Server::start(|_, _| Reply::ok(manifest())).await;
    let pinned = server.reference().with_digest(Digest::of(b"other"));
    let error = server.registry(None).manifest(&pinned).await.unwrap_err();
    assert!(
        matches!(error, FetchError::DigestMismatch { .. }),
        "{error}"
    );

    let good = server
        .reference()
        .with_digest(Digest::of(manifest().as_bytes()));
    server.registry(None).manifest(&good).await.unwrap();
    let path = format!("/v2/app/manifests/{}", good.digest().unwrap());
    assert_eq!(server.targets().last(), Some(&path));
}

#[tokio::test]
async fn silence_ends_in_a_timeout() {
    let silent = Reply::ok(manifest()).stall_after(10);

    let (name, _) = failure_of(None, move |asked, _| match asked.target.as_str() {
        "/v2/" => Reply::ok("{}"),
        _ => silent.clone(),
    })
    .await;

    assert_eq!(name, "Timeout");
}

#[tokio::test]
async fn endless_headers_are_an_unexpected_answer_from_the_first_request_on() {
    let long = "x".repeat(1 << 20);
    let server = Server::start(move |_, _| Reply::ok("{}").with("x-long", &long)).await;

    let answer = server.registry(None).manifest(&server.reference()).await;

    let error = answer.unwrap_err();
    assert!(
        matches!(error, FetchError::HeadersTooLarge { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_server_that_answers_plain_text_with_an_alert_is_asked_with_tls() {
    // What OpenSSL sends to who speaks no TLS: a fatal alert, unexpected message.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        let mut first_bytes = Vec::new();
        while first_bytes.len() < 2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 16];
            let count = stream.read(&mut request).await.unwrap();
            first_bytes.extend(request[..count].first().copied());
            stream
                .write_all(b"\x15\x03\x03\0\x02\x02\x0a")
                .await
                .unwrap();
        }
        first_bytes
    });
    let reference: Reference = format!("{authority}/app:1").parse().unwrap();
    let registry = Registry::new(&reference, None, impatient()).unwrap();

    let error = registry.manifest(&reference).await.unwrap_err();

    assert!(matches!(error, FetchError::Tls { .. }), "{error:?}");
    // A plain request begins with GET, one of TLS with a handshake record.
    assert_eq!(serving.await.unwrap(), [b'G', 0x16]);
}

/// A server that hangs up once is no server of TLS.
#[tokio::test]
async fn a_bad_first_moment_does_not_make_a_registry_one_of_tls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut first = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            first.push(byte[0]);
            if first.len() > 2 {
                let body = manifest();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
            if first.len() == 4 {
                return first;
            }
        }
    });
    let reference: Reference = format!("{address}/app:1").parse().unwrap();
    let patient = Config {
        attempts: 2,
        backoff: Duration::from_millis(1),
        ..Config::clone(&impatient())
    };
    let registry = Registry::new(&reference, None, Arc::new(patient)).unwrap();

    registry.manifest(&reference).await.unwrap();

    // Plain, TLS, then plain again for good.
    assert_eq!(serving.await.unwrap(), [b'G', 0x16, b'G', b'G']);
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let server = Server::start(serving).await;
    let (registry, reference) = (server.registry(None), server.reference());
    drop(server);

    // The listener closes when its task is next polled.
    tokio::task::yield_now().await;
    let error = registry.manifest(&reference).await.unwrap_err();

    assert!(matches!(error, FetchError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn passing_troubles_are_outlived() {
    let server = Server::start(|asked, before| match (asked.target.as_str(), before) {
        ("/v2/", _) => Reply::ok("{}"),
        (_, 0) => Reply::status(503),
        (_, 1) => Reply::status(429).with("retry-after", "0"),
        (_, 2) => Reply::ok(manifest()).cut_after(7),
        _ => Reply::ok(manifest()),
    })
    .await;
    let patient = Config {
        attempts: 5,
        backoff: Duration::from_millis(1),
        ..Config::clone(&impatient())
    };
    let registry = Registry::new(&server.reference(), None, Arc::new(patient)).unwrap();

    registry.manifest(&server.reference()).await.unwrap();

    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn a_long_retry_after_is_reported_and_not_waited_for() {
    let patient = Config {
        attempts: 5,
        ..Config::clone(&impatient())
    };
    let server = Server::start(|_, _| Reply::status(429).with("retry-after", "3600")).await;
    let registry = Registry::new(&server.reference(), None, Arc::new(patient)).unwrap();

    let error = registry.manifest(&server.reference()).await.unwrap_err();

    assert!(
        matches!(
            error,
            FetchError::RateLimited { retry_after: Some(wait), .. } if wait.as_secs() == 3600
        ),
        "{error:?}"
    );
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn retry_after_is_seconds_or_a_date_beside_the_servers_own() {
    let now = "Fri, 20 Nov 2026 19:00:00 GMT";
    let cases = [
        ("7", None, Some(7)),
        (" 0 ", None, Some(0)),
        ("Fri, 20 Nov 2026 19:01:30 GMT", Some(now), Some(90)),
        ("Fri, 20 Nov 2026 18:00:00 GMT", Some(now), Some(0)),
        ("Fri, 20 Nov 2026 19:01:30 GMT", None, None),
        ("-7", Some(now), None),
        ("soon", Some(now), None),
    ];
    for (wish, date, want) in cases {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(wish));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_static(date));
        }
        assert_eq!(
            retry_after(&headers),
            want.map(Duration::from_secs),
            "reading {wish:?}"
        );
    }
}

#[tokio::test]
async fn a_loopback_server_that_speaks_tls_is_spoken_to_in_tls() {
    // What Go's and nginx's TLS servers answer to plain HTTP; the TLS that follows is not real.
    let server = Server::start(|_, _| Reply::status(400)).await;

    let error = server
        .registry(None)
        .manifest(&server.reference())
        .await
        .unwrap_err();

    assert!(
        matches!(
            error,
            FetchError::Tls { .. } | FetchError::Unreachable { .. } | FetchError::Timeout { .. }
        ),
        "{error:?}"
    );
    assert_eq!(server.targets(), Vec::<String>::new());
}

#[tokio::test]
async fn a_demand_without_a_word_of_how_is_told_as_such() {
    let no_word = "demands credentials and says not which (it has no WWW-Authenticate header)";
    let no_realm = "names no token realm, which is refused: it is not a URL";
    let cases = [
        (Reply::status(401), "ChallengeMalformed", no_word),
        (
            Reply::demand(r#"Bearer realm="""#),
            "RealmRefused",
            no_realm,
        ),
        (
            Reply::demand("Negotiate"),
            "ChallengeMalformed",
            "demands credentials in a way that is not understood: Negotiate",
        ),
    ];
    for (reply, name, text) in cases {
        let (found, error) = failure_of(Some(ada()), move |_, _| reply.clone()).await;

        assert_eq!(found, name, "{error}");
        let told = error.to_string();
        assert!(told.starts_with("127.0.0.1:"), "{told}");
        assert!(told.ends_with(text), "{told}");
    }
}

/// What a server does that knows no TLS: it answers in HTTP, or waits for the rest of the line.
#[tokio::test]
async fn a_plain_registry_on_this_host_hears_no_http_where_that_is_forbidden() {
    for says in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            assert!(count > 0);
            stream.write_all(says).await.unwrap();
            let first_byte = request[0];
            // Until the other side gives up; whoever comes again finds nobody.
            drop(listener);
            while stream.read(&mut request).await.unwrap_or(0) > 0 {}
            first_byte
        });
        let config = Config {
            https_only: true,
            connect_timeout: Duration::from_millis(300),
            ..Config::clone(&impatient())
        };
        let reference: Reference = format!("{address}/app:1").parse().unwrap();
        let registry = Registry::new(&reference, Some(ada()), Arc::new(config)).unwrap();

        let error = registry.manifest(&reference).await.unwrap_err();

        assert_eq!(
            error.to_string(),
            format!("{address} does not answer in HTTPS")
        );
        // The handshake record of TLS.
        assert_eq!(serving.await.unwrap(), 0x16);
    }
}

#[test]
fn debug_output_shows_no_password() {
    let reference: Reference = "registry.test/app:1".parse().unwrap();

    let registry = Registry::new(&reference, Some(ada()), impatient()).unwrap();

    let text = format!("{registry:?}");
    assert!(text.contains("ada") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_name_that_is_no_address_is_refused_at_once() {
    let reference: Reference = "256.1.1.1/app".parse().unwrap();

    let error = Registry::new(&reference, None, impatient()).unwrap_err();

    assert_eq!(
        error.to_string(),
        "256.1.1.1 is not the address of a registry"
    );
}

/// Plain servers of files call everything HTML that has no ending.
#[tokio::test]
async fn a_page_for_people_is_told_from_a_manifest() {
    for (body, is_page) in [
        ("<html>Log in</html>".to_owned(), true),
        (manifest(), false),
    ] {
        let server = Server::start(move |asked, _| match asked.target.as_str() {
            "/v2/" => Reply::ok("{}"),
            _ => Reply::ok(body.clone()).with("content-type", "text/html; charset=utf-8"),
        })
        .await;

        let fetched = server.registry(None).manifest(&server.reference()).await;

        match fetched {
            Ok(_) => assert!(!is_page),
            Err(error) => {
                assert!(is_page, "{error:?}");
                let host = server.authority();
                let want = format!(
                    "{host} answered with the unexpected status 200 (a page of HTML, no manifest)"
                );
                assert_eq!(error.to_string(), want);
            }
        }
    }
}
