//! The client against a stand-in that speaks the protocol, for what the real daemon does not do
//! on demand: flood, vanish, speak another version.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonrpsee::server::{
    Methods, PendingSubscriptionSink, RpcModule, ServerHandle, SubscriptionSink,
    serve_with_graceful_shutdown, stop_channel,
};
use kiln_api::operation::{self, Operation};
use kiln_domain::OperationState;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{Mutex, Notify};

use super::*;

const ID: &str = "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11";

/// A stand-in for the daemon; it ends with its handle.
struct StandIn {
    host: Host,
    handle: ServerHandle,
    _directory: tempfile::TempDir,
}

impl StandIn {
    fn start(major: u32, mut module: RpcModule<()>) -> Self {
        module
            .register_method(
                GetInfo::NAME,
                move |_, (), _| json!({ "api": { "major": major, "minor": 0 } }),
            )
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let host = Host::at(directory.path().join("kiln.sock"));
        let listener = UnixListener::bind(host.socket()).unwrap();
        let (stop, handle) = stop_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let methods = Methods::from(module.clone());
                let service = jsonrpsee::server::Server::builder()
                    .to_service_builder()
                    .build(methods, stop.clone());
                tokio::spawn(serve_with_graceful_shutdown(
                    stream,
                    service,
                    stop.clone().shutdown(),
                ));
            }
        });
        Self {
            host,
            handle,
            _directory: directory,
        }
    }

    async fn connect(&self) -> Client {
        Client::connect(&self.host).await.unwrap()
    }
}

fn operation(state: OperationState) -> Operation {
    let json = json!({
        "id": ID, "kind": "image.pull", "state": state, "subject": "debian", "owner_uid": 0,
        "created_at": "2026-01-31T12:00:00.000000Z", "updated_at": "2026-01-31T12:00:00.000000Z",
    });
    serde_json::from_value(json).unwrap()
}

async fn send(sink: &SubscriptionSink, state: OperationState) {
    let item = serde_json::value::to_raw_value(&operation(state)).unwrap();
    sink.send(item).await.unwrap();
}

/// Registers `operation.watch`; `feed` gets the sink and how often it was called before.
fn watched<F, Fut>(feed: F) -> RpcModule<()>
where
    F: Fn(SubscriptionSink, usize) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut module = RpcModule::new(());
    let calls = Arc::new(AtomicUsize::new(0));
    module
        .register_subscription(
            operation::Watch::NAME,
            operation::WATCH.notification,
            operation::WATCH.unsubscribe,
            move |_, pending: PendingSubscriptionSink, _, _| {
                let feed = feed.clone();
                let before = calls.fetch_add(1, Ordering::Relaxed);
                async move { feed(pending.accept().await.unwrap(), before).await }
            },
        )
        .unwrap();
    module
}

#[tokio::test]
async fn a_watch_ends_with_the_final_item_though_the_subscription_stays_open() {
    let daemon = StandIn::start(
        API_MAJOR,
        watched(async |sink, _| {
            send(&sink, OperationState::Running).await;
            send(&sink, OperationState::Succeeded).await;
            sink.closed().await;
        }),
    );
    let client = daemon.connect().await;
    let mut watch = client.watch(ID.parse().unwrap()).await.unwrap();

    let mut states = Vec::new();
    while let Some(item) = watch.next().await {
        states.push(item.unwrap().state);
    }

    assert_eq!(states, [OperationState::Running, OperationState::Succeeded]);
}

#[tokio::test]
async fn a_daemon_that_goes_away_is_an_error_and_never_an_end() {
    let daemon = StandIn::start(
        API_MAJOR,
        watched(async |sink, _| {
            send(&sink, OperationState::Running).await;
            sink.closed().await;
        }),
    );
    let client = daemon.connect().await;
    let mut watch = client.watch(ID.parse().unwrap()).await.unwrap();
    assert_eq!(
        watch.next().await.unwrap().unwrap().state,
        OperationState::Running
    );

    daemon.handle.stop().unwrap();

    let error = watch.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, ClientError::Disconnected { .. }),
        "{error:?}"
    );
    assert!(watch.next().await.is_none());
    let error = client.raw("daemon.info", json!({})).await.unwrap_err();
    assert_eq!(error.to_failure().exit_code, 7, "{error:?}");
}

#[tokio::test]
async fn a_watch_that_lags_behind_begins_anew() {
    let flooded = Arc::new(Notify::new());
    let is_flooded = Arc::clone(&flooded);
    let mut module = watched(move |sink, before| {
        let flooded = Arc::clone(&flooded);
        async move {
            if before > 0 {
                return send(&sink, OperationState::Succeeded).await;
            }
            // The client drops the subscription in the midst of this, which ends the sending.
            let item =
                serde_json::value::to_raw_value(&operation(OperationState::Running)).unwrap();
            for _ in 0..4 * SUBSCRIPTION_BUFFER {
                if sink.send(item.clone()).await.is_err() {
                    break;
                }
            }
            flooded.notify_one();
        }
    });
    module
        .register_async_method("wait", move |_, _, _| {
            let is_flooded = Arc::clone(&is_flooded);
            async move { is_flooded.notified().await }
        })
        .unwrap();
    let daemon = StandIn::start(API_MAJOR, module);
    let client = daemon.connect().await;
    let watch = client.watch(ID.parse().unwrap()).await.unwrap();

    client.raw("wait", json!({})).await.unwrap();

    let last = watch.last().await.unwrap();
    assert_eq!(last.state, OperationState::Succeeded);
}

#[tokio::test]
async fn another_major_version_is_refused() {
    let daemon = StandIn::start(API_MAJOR + 1, RpcModule::new(()));

    let error = Client::connect(&daemon.host).await.unwrap_err();

    assert!(
        matches!(error, ClientError::Incompatible { major: 2 }),
        "{error:?}"
    );
    assert_eq!(error.to_failure().code, "daemon.incompatible");
}

#[tokio::test]
async fn an_oversized_request_is_refused_here_and_the_connection_lives() {
    let daemon = StandIn::start(API_MAJOR, RpcModule::new(()));
    let client = daemon.connect().await;

    let error = client
        .raw("image.get", json!({ "image": "x".repeat(1 << 20) }))
        .await;

    assert_eq!(error.unwrap_err().to_failure().code, "request.too_large");
    client.raw("daemon.info", json!({})).await.unwrap();
    let error = client.raw("image.get", json!({})).await.unwrap_err();
    assert_eq!(error.to_failure().code, "request.unknown_method");
}

#[tokio::test]
async fn whoever_looks_on_sees_no_secret() {
    let mut module = RpcModule::new(());
    module
        .register_method("image.pull", |_, (), _| "fine")
        .unwrap();
    let daemon = StandIn::start(API_MAJOR, module);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let tap = Tap::new(move |exchange| {
        notes.try_lock().unwrap().push(format!("{exchange:?}"));
    });
    let client = Client::connect_with(&daemon.host, Some(tap)).await.unwrap();

    let params = json!({ "credentials": { "username": "ann", "secret": "hunter2" } });
    client.raw("image.pull", params).await.unwrap();

    let seen = seen.lock().await.join("\n");
    assert!(seen.contains("ann") && seen.contains("fine"), "{seen}");
    assert!(!seen.contains("hunter2"), "{seen}");
}
