//! The door's patience, and its words where no call was made, on a real socket with small limits.

use std::time::{Duration, Instant};

use jsonrpsee::server::SubscriptionMessage;
use kiln_service::{AuditRetention, Roles, SystemClock};
use kiln_store::{Store, StoreOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::socket::{SocketAccess, bind};

/// What the tests' door waits for a head and for a body.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longer than the door's patience, by far.
const LONG: Duration = Duration::from_millis(2500);

/// How long the door waits for its connections when it closes.
const GRACE: Duration = Duration::from_secs(5);

/// Longest time a test waits for one thing.
const LIMIT: Duration = Duration::from_secs(30);

/// A door with a slow method and a slow subscription, until it is dropped.
struct House {
    folder: TempDir,
    stop: watch::Sender<bool>,
    drain: watch::Sender<bool>,
    /// Dropped when the door has closed.
    closed: watch::Receiver<()>,
}

impl House {
    fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = bind(&folder.path().join("kiln.sock"), SocketAccess::Owner).unwrap();
        let mut table = Table::default();
        table
            .module
            .register_async_method("slow", |_, _, _| async {
                tokio::time::sleep(LONG).await;
                "done"
            })
            .unwrap();
        table
            .module
            .register_method("long", |_, (), _| "x".repeat(3000))
            .unwrap();
        table
            .module
            .register_method("half", |_, (), _| "x".repeat(1500))
            .unwrap();
        table
            .module
            .register_subscription("watch", "item", "unwatch", |_, pending, _, _| async move {
                let sink = pending.accept().await?;
                tokio::time::sleep(LONG).await;
                let item = serde_json::value::to_raw_value("late")?;
                sink.send(SubscriptionMessage::from(item)).await?;
                // Held: a subscription counts until its client or its connection ends it.
                sink.closed().await;
                Ok(())
            })
            .unwrap();
        let streams = table.streams.clone();
        table
            .module
            .register_subscription("follow", "state", "unfollow", move |_, pending, _, _| {
                let stream = streams.token();
                async move {
                    let _stream = stream;
                    let sink = pending.accept().await?;
                    tokio::time::sleep(LONG).await;
                    let item = serde_json::value::to_raw_value("final")?;
                    sink.send(SubscriptionMessage::from(item)).await?;
                    Ok(())
                }
            })
            .unwrap();
        let server =
            Server::new(table, limits, Rates::default(), 0, ledger(folder.path())).unwrap();
        let (stop, stopped) = watch::channel(false);
        let (drain, drained) = watch::channel(false);
        let closing = Closing {
            stop: stopped,
            drained,
            grace: GRACE,
        };
        let (end, closed) = watch::channel(());
        tokio::spawn(async move {
            server.serve(socket, closing).await;
            drop(end);
        });
        Self {
            folder,
            stop,
            drain,
            closed,
        }
    }

    fn impatient() -> Self {
        Self::new(Limits {
            head_patience: PATIENCE,
            body_patience: PATIENCE,
            max_request_bytes: 4096,
            max_response_bytes: 2048,
            max_batch: 3,
            max_subscriptions: 1,
            ..Limits::default()
        })
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("kiln.sock"))
            .await
            .unwrap()
    }

    /// Connects, shakes hands, and sends `texts`.
    async fn talk(&self, texts: &[&str]) -> UnixStream {
        let mut stream = self.connect().await;
        let hello = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(hello.as_bytes()).await.unwrap();
        for text in texts {
            stream.write_all(&frame(text)).await.unwrap();
        }
        stream
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.send(true).ok();
        self.drain.send(true).ok();
    }
}

/// A ledger over a database of its own.
fn ledger(folder: &std::path::Path) -> Ledger {
    let store = Store::open(&folder.join("kiln.db"), &StoreOptions::default()).unwrap();
    let clock = std::sync::Arc::new(SystemClock);
    let retention = AuditRetention {
        days: 1,
        lines: 100,
    };
    Ledger {
        roles: Roles::new(store.clone(), clock.clone()),
        audit: Audit::new(store, clock, retention),
    }
}

/// Reads until the daemon hangs up.
async fn to_the_end(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("the daemon did not hang up")
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until `word` has come.
async fn until(stream: &mut UnixStream, word: &str) -> String {
    let mut answer = Vec::new();
    loop {
        let read = tokio::time::timeout(LIMIT, stream.read_buf(&mut answer)).await;
        let read = read.expect("nothing came").unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        if text.contains(word) {
            return text;
        }
        assert!(read > 0, "the daemon hung up after {text}");
    }
}

/// Makes a text frame of a client: its length in two bytes, its mask all zeros.
fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&[0x81, 0x80 | 0x7e], &length[..], &[0; 4], text.as_bytes()].concat()
}

fn post(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn call(id: u32, method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"}}"#)
}

#[tokio::test]
async fn a_silent_or_hesitant_connection_is_cut() {
    let house = House::impatient();
    for beginning in ["", "POST / HT", "POST / HTTP/1.1\r\nhost: local"] {
        let mut stream = house.connect().await;
        let began = Instant::now();
        stream.write_all(beginning.as_bytes()).await.unwrap();

        to_the_end(&mut stream).await;

        assert!(began.elapsed() >= PATIENCE, "{beginning:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_silent_behind_an_answer_is_cut() {
    let house = House::impatient();
    let mut stream = house.connect().await;
    stream
        .write_all(post(&call(1, "no")).as_bytes())
        .await
        .unwrap();

    let answer = to_the_end(&mut stream).await;

    assert!(answer.contains("request.unknown_method"), "{answer}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_told_so_and_cut() {
    let house = House::impatient();
    let whole = post(&call(1, "slow"));
    let mut stream = house.connect().await;
    stream
        .write_all(&whole.as_bytes()[..whole.len() - 1])
        .await
        .unwrap();

    let answer = to_the_end(&mut stream).await;

    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("request.too_slow"), "{answer}");
}

#[tokio::test]
async fn calls_subscriptions_and_idle_websockets_outlast_the_patience() {
    let house = House::impatient();
    let call_over_http = async {
        let mut stream = house.connect().await;
        let request = post(&call(1, "slow"));
        stream.write_all(request.as_bytes()).await.unwrap();
        until(&mut stream, "done").await;
    };
    let over_websocket = async {
        let mut socket = house.talk(&[&call(1, "watch"), &call(2, "slow")]).await;
        let got = until(&mut socket, "late").await;
        assert!(got.contains("HTTP/1.1 101"), "{got}");
    };
    let idle = async {
        let mut socket = house.talk(&[]).await;
        // That nothing happens can only be seen by giving it time to.
        tokio::time::sleep(LONG).await;
        socket.write_all(&frame("no")).await.unwrap();
        until(&mut socket, "request.malformed").await;
    };

    tokio::join!(call_over_http, over_websocket, idle);
}

#[tokio::test]
async fn every_refusal_over_a_websocket_has_its_code_and_our_number() {
    let house = House::impatient();
    let many = format!("[{}]", vec![call(1, "no"); 4].join(","));
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(5000));
    let long_batch = format!("[{},{}]", call(1, "half"), call(2, "half"));
    let long_in_batch = format!("[{}]", call(1, "long"));
    let cases = [
        ("{no json", "request.malformed", -32_700),
        ("nothing", "request.malformed", -32_700),
        (r#"{"id":1}"#, "request.malformed", -32_600),
        ("[]", "request.malformed", -32_600),
        ("[{\"no\":1}]", "request.malformed", -32_600),
        (&many, "request.too_large", -32_001),
        (&large, "request.too_large", -32_001),
        (&call(3, "long"), "request.too_large", -32_001),
        (&long_batch, "request.too_large", -32_001),
        (&long_in_batch, "request.too_large", -32_001),
    ];
    for (text, code, number) in cases {
        let shown: String = text.chars().take(40).collect();
        let mut socket = house.talk(&[text]).await;

        let got = until(&mut socket, "\"exit_code\":").await;

        assert!(
            got.contains(&format!("\"code\":{number},")),
            "{shown}: {got}"
        );
        assert!(got.contains(code), "{shown}: {got}");
    }
    let mut socket = house.talk(&[&call(1, "watch"), &call(2, "watch")]).await;
    until(&mut socket, "daemon.busy").await;
}

#[tokio::test]
async fn a_stop_takes_nobody_new_and_lets_streams_and_calls_come_to_their_end() {
    let mut house = House::impatient();
    let mut follower = house.talk(&[&call(1, "follow")]).await;
    until(&mut follower, "result").await;
    let mut caller = house.talk(&[&call(2, "slow")]).await;
    until(&mut caller, "HTTP/1.1 101").await;

    house.stop.send(true).unwrap();
    while UnixStream::connect(house.folder.path().join("kiln.sock"))
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    // Connections that are there still call, and are heard.
    follower.write_all(&frame(&call(3, "half"))).await.unwrap();
    until(&mut follower, "xxx").await;
    house.drain.send(true).unwrap();
    let last_item = to_the_end(&mut follower).await;
    let answer = to_the_end(&mut caller).await;

    assert!(last_item.contains("final"), "{last_item}");
    assert!(answer.contains("done"), "{answer}");
    let closed = tokio::time::timeout(LIMIT, house.closed.changed()).await;
    assert!(closed.expect("the door stays open").is_err());
}

#[tokio::test]
async fn a_door_that_nobody_says_is_drained_closes_when_its_grace_is_over() {
    let mut house = House::impatient();
    let mut idle = house.talk(&[]).await;
    until(&mut idle, "HTTP/1.1 101").await;
    let began = Instant::now();

    house.stop.send(true).unwrap();
    let closed = tokio::time::timeout(LIMIT, house.closed.changed()).await;

    assert!(closed.expect("the door stays open").is_err());
    assert!(began.elapsed() >= GRACE);
}
