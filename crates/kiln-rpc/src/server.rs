//! The accept loop: peers in, one jsonrpsee service per connection, a drain at the end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::middleware::RpcServiceBuilder;
use jsonrpsee::server::{
    BatchRequestConfig, HttpRequest, Methods, ServerConfig, StopHandle, TowerServiceBuilder,
    stop_channel,
};
use kiln_domain::access::Actor;
use kiln_service::{
    Agents, Aliases, Audit, ConnectionId, DaemonDesk, Events, Images, Instances, Kernels, Leases,
    Metadata, Operations, Orgs, Pulls, Purges, Registries, Storage, Transfers, Users,
};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::connection::Switch;
use crate::door::{Door, Names, Transport};
use crate::ledger::Ledger;
use crate::rates::Rates;
use crate::socket::BoundSocket;
use crate::table::Table;
use crate::upload::{Appetite, Fate, Upload};
use crate::{
    agent, alias, audit, connection, daemon, event, image, instance, kernel, lease, operation, org,
    refusal, registry, storage, transfer, user,
};

/// How much the door takes, and how long it waits. Every default of jsonrpsee is set on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most requests served at one time, and most WebSocket connections.
    pub max_connections: u32,
    /// Longest request, in bytes.
    pub max_request_bytes: u32,
    /// Longest answer, in bytes. A page of 1,000 images with their configs must fit.
    pub max_response_bytes: u32,
    /// Most requests in one batch.
    pub max_batch: u32,
    /// Most subscriptions of one connection.
    pub max_subscriptions: u32,
    /// Longest time until the head of the next HTTP request is there, silence before it included.
    /// It cuts no call in flight, and no WebSocket.
    pub head_patience: Duration,
    /// Longest time from the head of an HTTP request to the last byte of its body.
    pub body_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 8_192,
            max_request_bytes: 1 << 20,
            max_response_bytes: 32 << 20,
            max_batch: 64,
            max_subscriptions: 64,
            head_patience: Duration::from_secs(30),
            body_patience: Duration::from_secs(30),
        }
    }
}

impl Limits {
    fn appetite(&self) -> Appetite {
        Appetite {
            patience: self.body_patience,
            max_bytes: u64::from(self.max_request_bytes),
        }
    }
}

/// Every desk the door leads to.
#[derive(Clone)]
pub struct Desks {
    /// The daemon itself.
    pub daemon: Arc<DaemonDesk>,
    /// Pulling and registering.
    pub pulls: Arc<Pulls>,
    /// Images that exist.
    pub images: Arc<Images>,
    /// What is said of images.
    pub metadata: Arc<Metadata>,
    /// Other daemons.
    pub agents: Arc<Agents>,
    /// Other names of images.
    pub aliases: Arc<Aliases>,
    /// What keeps images.
    pub leases: Arc<Leases>,
    /// Removing images for good.
    pub purges: Arc<Purges>,
    /// Machines that run images.
    pub instances: Arc<Instances>,
    /// The kernel catalogue.
    pub kernels: Arc<Kernels>,
    /// Registries over the network.
    pub registries: Arc<Registries>,
    /// Sending content to registries.
    pub transfers: Arc<Transfers>,
    /// What lies on the disk.
    pub storage: Arc<Storage>,
    /// Long work.
    pub operations: Arc<Operations>,
    /// What happened.
    pub events: Arc<Events>,
    /// Users.
    pub users: Arc<Users>,
    /// Organisations.
    pub orgs: Arc<Orgs>,
    /// What callers did.
    pub audit: Arc<Audit>,
}

impl fmt::Debug for Desks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desks").finish_non_exhaustive()
    }
}

impl Desks {
    /// Registers every method of every desk.
    pub fn table(&self) -> Result<Table, RegisterMethodError> {
        let mut table = Table::default();
        daemon::register(&mut table, &self.daemon)?;
        image::register(&mut table, &self.pulls, &self.images, &self.purges)?;
        image::register_metadata(&mut table, &self.metadata, &self.pulls)?;
        agent::register(&mut table, &self.agents)?;
        alias::register(&mut table, &self.aliases)?;
        lease::register(&mut table, &self.leases)?;
        instance::register(&mut table, &self.instances)?;
        kernel::register(&mut table, &self.kernels)?;
        registry::register(&mut table, &self.registries)?;
        transfer::register(&mut table, &self.transfers)?;
        storage::register(&mut table, &self.storage)?;
        operation::register(&mut table, &self.operations)?;
        event::register(&mut table, &self.events)?;
        user::register(&mut table, &self.users)?;
        org::register(&mut table, &self.orgs)?;
        audit::register(&mut table, &self.audit)?;
        Ok(table)
    }
}

/// The door, ready to serve.
#[derive(Debug)]
pub struct Server {
    methods: Methods,
    names: Arc<Names>,
    /// Subscriptions that have items to send.
    streams: TaskTracker,
    limits: Limits,
    rates: Rates,
    daemon_uid: u32,
    ledger: Ledger,
}

/// When a door closes, and how.
#[derive(Debug)]
pub struct Closing {
    /// Turns true when no new connection is to be taken.
    pub stop: watch::Receiver<bool>,
    /// Turns true when nothing is left that a connection could wait for: every operation has ended.
    pub drained: watch::Receiver<bool>,
    /// How long connections may last after `stop`, whatever `drained` is.
    pub grace: Duration,
}

impl Server {
    /// Seals a table. `daemon_uid` is the user whose calls have the daemon's own rights; `rates` says
    /// how many costly calls others may make.
    pub fn new(
        table: Table,
        limits: Limits,
        rates: Rates,
        daemon_uid: u32,
        ledger: Ledger,
    ) -> Result<Self, RegisterMethodError> {
        let streams = table.streams.clone();
        let (methods, names) = table.seal()?;
        Ok(Self {
            methods,
            names: Arc::new(names),
            streams,
            limits,
            rates,
            daemon_uid,
            ledger,
        })
    }

    /// Serves until it is told to stop, then takes no new connection.
    ///
    /// Those there are stay until all is drained: whoever follows an operation hears its end.
    /// Then calls in flight may end, and every other connection is closed.
    pub async fn serve(&self, socket: BoundSocket, closing: Closing) {
        let Closing {
            mut stop,
            mut drained,
            grace,
        } = closing;
        let (stop_handle, server_handle) = stop_channel();
        let service = self.service_builder();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = socket.listener().accept() => match accepted {
                    Ok((stream, _)) => self.welcome(&mut connections, &service, &stop_handle, stream),
                    Err(error) => {
                        // Out of descriptors, most likely: going on at once would spin.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = until_true(&mut stop) => break,
            }
        }
        drop(socket);
        let latest = Instant::now() + grace;
        let last_items = async {
            until_true(&mut drained).await;
            self.streams.close();
            self.streams.wait().await;
        };
        let mut all_told = timeout_at(latest, last_items).await.is_ok();
        // A WebSocket is closed at once now, but for the answers to its calls.
        if server_handle.stop().is_err() {
            tracing::debug!("the connections were gone before they were told to stop");
        }
        // What has become a WebSocket is no longer among the connections; it holds the handle.
        drop(stop_handle);
        let closed = async {
            while connections.join_next().await.is_some() {}
            server_handle.stopped().await;
        };
        all_told &= timeout_at(latest, closed).await.is_ok();
        if !all_told {
            tracing::warn!("some connections did not end within {grace:?} and were cut");
        }
    }

    fn service_builder(
        &self,
    ) -> TowerServiceBuilder<tower::layer::util::Identity, tower::layer::util::Identity> {
        let config = ServerConfig::builder()
            .max_connections(self.limits.max_connections)
            .max_request_body_size(self.limits.max_request_bytes)
            .max_response_body_size(self.limits.max_response_bytes)
            .set_batch_request_config(BatchRequestConfig::Limit(self.limits.max_batch))
            .max_subscriptions_per_connection(self.limits.max_subscriptions)
            .set_message_buffer_capacity(256)
            .build();
        jsonrpsee::server::Server::builder()
            .set_config(config)
            .to_service_builder()
    }

    fn welcome(
        &self,
        connections: &mut JoinSet<()>,
        builder: &TowerServiceBuilder<tower::layer::util::Identity, tower::layer::util::Identity>,
        stop_handle: &StopHandle,
        stream: UnixStream,
    ) {
        let peer = match stream.peer_cred() {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "cannot tell who connected");
                return;
            }
        };
        let peer = Actor::from_peer(peer.uid(), peer.gid(), peer.pid(), self.daemon_uid);
        let connection = ConnectionId::unique();
        let (builder, methods, names) = (builder.clone(), self.methods.clone(), self.names.clone());
        let handle = stop_handle.clone();
        let (ledger, rates) = (self.ledger.clone(), self.rates.clone());
        let limits = self.limits;
        let max_response_bytes = usize::try_from(limits.max_response_bytes).unwrap_or(usize::MAX);
        let switch = Switch::default();
        let switched = switch.clone();
        let service = service_fn(move |request: HttpRequest<Incoming>| {
            let transport = transport_of(&request);
            let (names, ledger, rates) = (names.clone(), ledger.clone(), rates.clone());
            let door = RpcServiceBuilder::new().layer_fn(move |inner| Door {
                inner,
                names: names.clone(),
                ledger: ledger.clone(),
                rates: rates.clone(),
                peer,
                connection,
                transport,
                max_response_bytes,
            });
            let mut service = builder
                .clone()
                .set_rpc_middleware(door)
                .build(methods.clone(), handle.clone());
            let fate = Fate::default();
            let request = request.map(|body| Upload::new(body, limits.appetite(), fate.clone()));
            let switch = switched.clone();
            async move {
                let response = service.call(request).await?;
                switch.notice(&response);
                Ok::<_, tower::BoxError>(refusal::with_code(response, fate.get().copied()).await)
            }
        });
        connections.spawn(connection::serve(
            stream,
            service,
            switch,
            limits.head_patience,
            stop_handle.clone(),
        ));
    }
}

async fn until_true(stop: &mut watch::Receiver<bool>) {
    // Whoever could say so being gone says so too.
    stop.wait_for(|stopped| *stopped).await.ok();
}

fn transport_of<B>(request: &HttpRequest<B>) -> Transport {
    if request.headers().contains_key(hyper::header::UPGRADE) {
        Transport::WebSocket
    } else {
        Transport::Http
    }
}

#[cfg(test)]
mod tests;
