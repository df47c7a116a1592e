use std::time::Duration;

use super::*;
use crate::config::{Config, MinimumRate};
use crate::testing::{Asked, Reply, Server, descriptor, impatient};

const CONTENT: &[u8] = b"0123456789";

/// Serves ranges of the content like a good registry.
fn ranged(asked: &Asked) -> Reply {
    let start = asked.header("range").map_or(0, |range| {
        range["bytes=".len()..range.len() - 1].parse().unwrap()
    });
    if start == 0 {
        return Reply::ok(CONTENT);
    }
    Reply::new(206, &CONTENT[start..]).with(
        "content-range",
        &format!("bytes {start}-{}/{}", CONTENT.len() - 1, CONTENT.len()),
    )
}

fn patient() -> Config {
    Config {
        attempts: 4,
        backoff: Duration::from_millis(1),
        ..Config::clone(&impatient())
    }
}

/// Reads the blob from `start` on, with a server that does as the script says.
async fn read(
    config: Config,
    start: u64,
    script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Result<Vec<u8>, FetchError>, Vec<Asked>) {
    let server = Server::start(move |asked, before| match asked.target.as_str() {
        "/v2/" => Reply::ok("{}"),
        _ => script(asked, before),
    })
    .await;
    let registry = Registry::new(&server.reference(), None, Arc::new(config)).unwrap();
    let result = async {
        let blob = descriptor(CONTENT);
        let mut stream = registry.blob(&server.reference(), &blob, start).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(stream.position(), CONTENT.len() as u64);
        Ok(bytes)
    };
    (result.await, server.asked())
}

#[tokio::test]
async fn a_blob_arrives_whole_or_from_a_given_byte() {
    for start in [0, 1, 9] {
        let (result, asked) = read(patient(), start as u64, |asked, _| ranged(asked)).await;

        assert_eq!(result.unwrap(), &CONTENT[start..], "from {start}");
        assert_eq!(asked.len(), 1);
        let path = format!("/v2/app/blobs/{}", descriptor(CONTENT).digest);
        assert_eq!(asked[0].target, path);
    }
}

#[tokio::test]
async fn nothing_is_asked_when_nothing_is_left() {
    let (result, asked) = read(patient(), 10, |_, _| Reply::status(500)).await;

    assert_eq!(result.unwrap(), b"");
    assert!(asked.is_empty(), "{asked:?}");
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let (result, asked) = read(patient(), 0, |asked, before| match before {
        0 => ranged(asked).cut_after(3),
        1 => ranged(asked).stall_after(2),
        2 => Reply::status(503),
        _ => ranged(asked),
    })
    .await;

    assert_eq!(result.unwrap(), CONTENT);
    let ranges: Vec<Option<&str>> = asked.iter().map(|asked| asked.header("range")).collect();
    let rest = Some("bytes=5-");
    assert_eq!(ranges, [None, Some("bytes=3-"), rest, rest]);
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_and_the_known_part_is_passed_over() {
    let (result, _) = read(patient(), 4, |_, _| Reply::ok(CONTENT)).await;

    assert_eq!(result.unwrap(), &CONTENT[4..]);
}

#[tokio::test]
async fn troubles_without_end_are_reported() {
    let (result, asked) = read(patient(), 0, |_, _| Reply::ok(CONTENT).cut_after(0)).await;

    assert!(
        matches!(result, Err(FetchError::Unreachable { .. })),
        "{result:?}"
    );
    assert_eq!(asked.len(), 4);
}

#[tokio::test]
async fn wrong_lengths_are_caught_announced_or_not() {
    let replies = [
        Reply::ok(&CONTENT[..9]),
        Reply::ok(&CONTENT[..9]).unannounced(),
        Reply::ok([CONTENT, b"x"].concat()),
        Reply::ok([CONTENT, b"x"].concat()).unannounced(),
    ];
    for reply in replies {
        let scripted = reply.clone();
        let (result, _) = read(patient(), 0, move |_, _| scripted.clone()).await;
        assert!(
            matches!(result, Err(FetchError::SizeMismatch { .. })),
            "{reply:?} gave {result:?}"
        );
    }
}

/// A length that is wrong once is a disturbance on the way: what comes next is asked of the
/// registry itself.
#[tokio::test]
async fn a_length_that_was_wrong_once_costs_one_more_request() {
    let wrong = [
        Reply::ok(&CONTENT[..9]),
        Reply::ok([CONTENT, b"x"].concat()),
        Reply::ok([CONTENT, b"x"].concat()).unannounced(),
        Reply::ok("<html>Log in to the network</html>"),
    ];
    for reply in wrong {
        let scripted = reply.clone();
        let (result, asked) = read(patient(), 0, move |asked, before| match before {
            0 => scripted.clone(),
            _ => ranged(asked),
        })
        .await;

        assert_eq!(result.unwrap(), CONTENT, "after {reply:?}");
        let caches: Vec<Option<&str>> = asked
            .iter()
            .map(|asked| asked.header("cache-control"))
            .collect();
        assert_eq!(caches, [None, Some("no-cache")], "after {reply:?}");
    }
}

#[tokio::test]
async fn an_end_without_a_length_is_taken_for_a_broken_connection() {
    let (result, asked) = read(patient(), 0, |asked, before| match before {
        0 => Reply::ok(&CONTENT[..6]).unannounced(),
        _ => ranged(asked),
    })
    .await;

    assert_eq!(result.unwrap(), CONTENT);
    assert_eq!(asked[1].header("range"), Some("bytes=6-"));
}

#[tokio::test]
async fn a_server_that_misreads_ranges_is_asked_for_everything() {
    let misreadings = [
        Reply::status(416),
        Reply::new(206, &CONTENT[3..9]).with("content-range", "bytes 3-8/10"),
        Reply::new(206, &CONTENT[4..]).with("content-range", "pages 4-9/10"),
        Reply::new(206, &CONTENT[4..]),
    ];
    for misreading in misreadings {
        let scripted = misreading.clone();
        let (result, asked) = read(patient(), 4, move |asked, _| match asked.header("range") {
            Some(_) => scripted.clone(),
            None => Reply::ok(CONTENT),
        })
        .await;

        assert_eq!(result.unwrap(), &CONTENT[4..], "after {misreading:?}");
        assert_eq!(asked.len(), 2, "after {misreading:?}");

        let status = if misreading == Reply::status(416) {
            416
        } else {
            206
        };
        let (result, _) = read(patient(), 4, move |_, _| misreading.clone()).await;
        assert!(
            matches!(result, Err(FetchError::UnexpectedStatus { status: found, .. }) if found == status),
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn refusals_keep_their_names() {
    let (result, _) = read(patient(), 0, |_, _| Reply::status(404)).await;
    assert!(matches!(result, Err(FetchError::BlobNotFound { .. })));

    let (result, _) = read(patient(), 0, |_, _| Reply::status(403)).await;
    assert!(matches!(result, Err(FetchError::Denied { .. })));
}

#[tokio::test]
async fn a_blob_slower_than_allowed_is_given_up() {
    let config = Config {
        slowest: MinimumRate {
            bytes: u64::MAX,
            window: Duration::ZERO,
        },
        attempts: 1,
        ..patient()
    };

    let (result, _) = read(config, 0, |asked, _| ranged(asked)).await;

    assert!(
        matches!(result, Err(FetchError::Timeout { .. })),
        "{result:?}"
    );
}

/// The registry forgets the token while a layer is on its way, and breaks the connection.
#[tokio::test]
async fn a_token_that_dies_in_the_middle_of_a_blob_costs_no_byte() {
    let server = Server::start(|asked, before| {
        let own = asked.header("host").unwrap_or_default().to_owned();
        if asked.target.starts_with("/token") {
            return Reply::ok(format!(r#"{{"token":"t{before}","expires_in":300}}"#));
        }
        if asked.target == "/v2/" {
            return Reply::ok("{}");
        }
        let good = if asked.header("range").is_some() {
            "Bearer t1"
        } else {
            "Bearer t0"
        };
        if asked.header("authorization") != Some(good) {
            return Reply::demand(&format!(r#"Bearer realm="http://{own}/token""#));
        }
        match asked.header("range") {
            None => ranged(asked).cut_after(6),
            Some(_) => ranged(asked),
        }
    })
    .await;
    let registry = Registry::new(&server.reference(), None, Arc::new(patient())).unwrap();

    let blob = descriptor(CONTENT);
    let mut stream = registry.blob(&server.reference(), &blob, 0).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }

    assert_eq!(bytes, CONTENT);
    let asked = server.asked();
    let ranges: Vec<Option<&str>> = asked
        .iter()
        .filter(|asked| !asked.target.starts_with("/token"))
        .map(|asked| asked.header("range"))
        .collect();
    let rest = Some("bytes=6-");
    assert_eq!(ranges, [None, None, rest, rest]);
}

/// Each silence comes after some bytes, so that no attempt fails to begin.
#[tokio::test]
async fn silences_in_the_body_use_up_the_patience_too() {
    let config = Config {
        attempts: 100,
        stall_timeout: Duration::from_secs(1),
        patience: Duration::from_millis(2_400),
        ..patient()
    };
    let began = std::time::Instant::now();

    let (result, asked) = read(config, 0, |asked, _| ranged(asked).stall_after(1)).await;

    assert!(
        matches!(result, Err(FetchError::Timeout { .. })),
        "{result:?}"
    );
    // Two whole silences, and one that is cut short.
    assert_eq!(asked.len(), 3);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2_900), "{took:?}");
}

#[test]
fn a_rate_is_the_same_over_a_shorter_window() {
    let rate = MinimumRate {
        bytes: 60_000,
        window: Duration::from_secs(60),
    };

    let short = rate.within(Duration::from_secs(7));
    let long = rate.within(Duration::from_secs(61));

    assert_eq!((short.bytes, short.window.as_secs()), (7_000, 7));
    assert_eq!((long.bytes, long.window.as_secs()), (60_000, 60));
}

#[test]
fn a_file_part_ends_where_it_should_or_fails() {
    use std::io::Write as _;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(CONTENT).unwrap();
    let file = Arc::new(file);
    let read = |offset, size| {
        let mut text = String::new();
        FileRange::new(file.clone(), offset, size)
            .read_to_string(&mut text)
            .map(|_| text)
    };

    assert_eq!(read(2, 3).unwrap(), "234");
    assert_eq!(read(0, 0).unwrap(), "");
    assert_eq!(read(8, 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(read(u64::MAX, 3).unwrap(), "", "no byte lies there");
}
