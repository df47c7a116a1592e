use kiln_domain::Digest;

use super::*;
use crate::client::Registry;
use crate::testing::{Reply, Server, impatient, manifest};

#[tokio::test(start_paused = true)]
async fn waits_are_spread_between_a_fifth_of_a_second_and_ten() {
    let config = Config::default();
    let longest_ms = [400, 800, 1_600, 3_200, 6_400, 10_000, 10_000];
    for (before, longest) in longest_ms.into_iter().enumerate() {
        let attempts = Attempts {
            failures: u32::try_from(before).unwrap() + 1,
            ..Attempts::default()
        };

        let waits: Vec<u128> = (0..200)
            .map(|_| attempts.backoff(&config).as_millis())
            .collect();

        assert!(
            waits.iter().all(|wait| (200..=longest).contains(wait)),
            "after {before} failures: {waits:?}"
        );
        let (low, high) = (200 + (longest - 200) / 4, longest - (longest - 200) / 4);
        assert!(waits.iter().any(|wait| *wait < low), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait > high), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_side_by_side_counts_once() {
    let config = Config::default();
    let patience = Patience::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let cases = [
        ((0, 10), 105),
        // Inside, overlapping at either end, around, and apart.
        ((2, 8), 105),
        ((5, 20), 95),
        ((30, 40), 85),
        ((25, 45), 75),
        ((60, 70), 65),
    ];
    for ((from, to), left) in cases {
        patience.lose(at(from), at(to));
        assert_eq!(
            patience.left(&config).as_secs(),
            left,
            "after {from} to {to}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn ten_good_minutes_give_the_patience_back() {
    let config = Config::default();
    let patience = Patience::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);

    patience.lose(at(0), at(100));
    tokio::time::advance(Duration::from_secs(700)).await;
    assert_eq!(patience.left(&config).as_secs(), 15);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(patience.left(&config).as_secs(), 115);

    patience.lose(at(1000), at(1100));
    patience.lose(at(1690), at(1710));
    assert_eq!(patience.left(&config).as_secs(), 0);
    patience.lose(at(2400), at(2420));
    assert_eq!(patience.left(&config).as_secs(), 95);
}

/// A mirror that does not answer leaves time for those behind it.
#[tokio::test(start_paused = true)]
async fn places_that_are_asked_in_turn_share_the_patience() {
    let config = Config::default();
    let patience = Patience::default();
    let places = [1, 2, 3].map(|number| patience.of_place(number, 3));
    let left = || places.each_ref().map(|place| place.left(&config).as_secs());

    assert_eq!(left(), [38, 76, 115]);
    let start = Instant::now();
    places[0].lose(start, start + Duration::from_secs(40));
    assert_eq!(left(), [0, 36, 75]);
}

fn timeout() -> FetchError {
    FetchError::Timeout {
        host: "registry".to_owned(),
        what: "a blob",
        after: Duration::from_secs(30),
    }
}

/// Silence, and a server that asks for the longest waits, one after the other.
#[tokio::test(start_paused = true)]
async fn one_pull_loses_two_minutes_at_most() {
    let config = Config::default();
    for silence in [1, 10, 30, 60, 119].map(Duration::from_secs) {
        for retry_after in [None, Some(Duration::from_secs(59))] {
            let patience = Patience::default();
            let began = Instant::now();

            // A manifest and a config that come after one fault, and a layer that never does.
            'pull: for faults in [1, 1, usize::MAX] {
                let mut attempts = Attempts::sharing(&patience);
                for _ in 0..faults {
                    let left = patience.left(&config).max(last_chance(&config));
                    attempts.progress();
                    tokio::time::sleep(silence.min(left)).await;
                    let error = match retry_after {
                        None => timeout(),
                        retry_after => FetchError::RateLimited {
                            host: "registry".to_owned(),
                            retry_after,
                            message: crate::text::ServerText::default(),
                        },
                    };
                    if attempts.wait_after(error, &config).await.is_err() {
                        break 'pull;
                    }
                }
            }

            let took = began.elapsed();
            assert!(
                took <= Duration::from_millis(120_010),
                "{silence:?} and {retry_after:?} took {took:?}"
            );
        }
    }
}

/// The last attempt has what is left, also where lists are read and questions asked.
#[tokio::test]
async fn a_silent_registry_takes_no_longer_than_patience() {
    // Connections wait in its backlog, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("{}/x:1", silent.local_addr().unwrap());
    let reference: kiln_domain::Reference = reference.parse().unwrap();
    let config = Arc::new(Config {
        attempts: 10,
        backoff: Duration::from_millis(1),
        stall_timeout: Duration::from_secs(4),
        patience: Duration::from_secs(5),
        ..Config::default()
    });
    let digest = Digest::of(b"");
    let registry = || Registry::new(&reference, None, config.clone()).unwrap();
    let timed = async |asking: std::pin::Pin<Box<dyn Future<Output = bool> + '_>>| {
        let began = Instant::now();
        assert!(asking.await, "it answered");
        began.elapsed()
    };
    let [tags, catalog, blob, manifest] = [(); 4].map(|()| registry());

    let took = tokio::join!(
        timed(Box::pin(async {
            tags.tags(&reference, None, None).await.is_err()
        })),
        timed(Box::pin(async {
            catalog.catalog(None, None).await.is_err()
        })),
        timed(Box::pin(async {
            blob.has_blob(&reference, &digest).await.is_err()
        })),
        timed(Box::pin(async {
            manifest.manifest_digest(&reference).await.is_err()
        })),
    );

    for took in <[Duration; 4]>::from(took) {
        assert!(took < Duration::from_secs(7), "{took:?}");
    }
}

/// Wrong bytes once are a disturbance on the way; twice they are what the registry has.
#[tokio::test]
async fn a_wrong_manifest_is_fetched_once_more_past_the_caches() {
    for wrong_answers in [1, 2] {
        let digest = Digest::of(manifest().as_bytes());
        let server = Server::start(move |asked, before| match asked.target.as_str() {
            "/v2/" => Reply::ok("{}"),
            _ if before < wrong_answers => Reply::ok("{}"),
            _ => Reply::ok(manifest()),
        })
        .await;
        let patient = Config {
            attempts: 5,
            backoff: Duration::from_millis(1),
            ..Config::clone(&impatient())
        };
        let registry = Registry::new(&server.reference(), None, Arc::new(patient)).unwrap();

        let pinned = server.reference().with_digest(digest);
        let result = registry.manifest(&pinned).await;

        assert_eq!(
            matches!(result, Err(FetchError::DigestMismatch { .. })),
            wrong_answers == 2,
            "{result:?}"
        );
        let asked = server.asked();
        let caches: Vec<Option<&str>> = asked
            .iter()
            .map(|asked| asked.header("cache-control"))
            .collect();
        assert_eq!(caches, [None, Some("no-cache")]);
    }
}

#[tokio::test]
async fn what_does_not_help_is_not_tried_again() {
    for status in [400, 403, 404, 405, 410, 501, 505] {
        let server = Server::start(move |asked, _| match asked.target.as_str() {
            "/v2/" => Reply::ok("{}"),
            _ => Reply::status(status),
        })
        .await;
        let config = Arc::new(Config::default());
        let registry = Registry::new(&server.reference(), None, config).unwrap();

        registry.manifest(&server.reference()).await.unwrap_err();

        assert_eq!(server.asked().len(), 1, "after status {status}");
    }
}

/// Waits for a manifest of a registry that first answers `status` and asks to wait: itself, or
/// its token endpoint.
async fn waited_for(status: u16, at_token: bool, wish: &'static str) -> Duration {
    let server = Server::start(move |asked, before| {
        let own = asked.header("host").unwrap_or_default().to_owned();
        let is_token = asked.target.starts_with("/token");
        if is_token == at_token && before == 0 && asked.target != "/v2/" {
            let reply = Reply::status(status).with("retry-after", wish);
            return reply.with("date", "Tue, 01 Dec 2026 10:00:00 GMT");
        }
        if is_token {
            return Reply::ok(r#"{"token":"t"}"#);
        }
        if asked.header("authorization").is_none() {
            return Reply::demand(&format!(r#"Bearer realm="http://{own}/token""#));
        }
        Reply::ok(manifest())
    })
    .await;
    let patient = Config {
        attempts: 3,
        backoff: Duration::from_millis(1),
        ..Config::clone(&impatient())
    };
    let registry = Registry::new(&server.reference(), None, Arc::new(patient)).unwrap();

    let began = std::time::Instant::now();
    registry.manifest(&server.reference()).await.unwrap();
    began.elapsed()
}

/// The wish counts wherever it is uttered, and in either spelling.
#[tokio::test]
async fn a_wish_to_wait_is_honoured_by_status_and_endpoint() {
    let mut waiting = tokio::task::JoinSet::new();
    for status in [429, 503] {
        for at_token in [false, true] {
            for wish in ["1", "Tue, 01 Dec 2026 10:00:01 GMT"] {
                waiting.spawn(async move {
                    let waited = waited_for(status, at_token, wish).await;
                    (status, at_token, wish, waited)
                });
            }
        }
    }

    for (status, at_token, wish, waited) in waiting.join_all().await {
        assert!(
            waited >= Duration::from_secs(1),
            "{status} with {wish}, at the token endpoint {at_token}: {waited:?}"
        );
    }
}
