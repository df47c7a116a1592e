//! The connection to a daemon: typed and untyped calls.
//!
//! Descriptors go through [`HostFiles`], subscriptions through [`Watch`].

use std::io;
use std::path::Path;
use std::time::Duration;

use jsonrpsee::client_transport::ws::{WsHandshakeError, WsTransportClientBuilder};
use jsonrpsee::core::client::{Client as RpcClient, ClientBuilder, ClientT, Error as RpcError};
use jsonrpsee::core::traits::ToRpcParams;
use kiln_api::daemon::{API_MAJOR, GetInfo};
use kiln_api::{Failure, Method, codes};
use kiln_domain::OperationId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::UnixStream;
use url::Url;

use crate::answer::failure_of;
use crate::exchange::{Exchange, Tap, masked};
use crate::files::HostFiles;
use crate::{ClientError, Host, Watch};

/// Largest answer that is read, in bytes. A page of 1,000 images stays below a tenth of it.
pub const RESPONSE_LIMIT_BYTES: u32 = 32 << 20;

/// Largest request that is sent, in bytes. The daemon would answer a larger one by ending the
/// connection, so it is refused here.
pub const REQUEST_LIMIT_BYTES: u32 = 1 << 20;

/// Room for the frame of a request around its method and parameters, in bytes.
const FRAME_BYTES: usize = 256;

/// How long to wait for the daemon to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call may last. The daemon keeps operations for seven days; callers who want to
/// wait less say so.
const CALL_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Progress items that may pile up before the subscription is opened anew.
const SUBSCRIPTION_BUFFER: usize = 256;

/// A connection to a daemon, of a version of the API that this client speaks.
#[derive(Debug)]
pub struct Client {
    rpc: RpcClient,
    host: Host,
    tap: Option<Tap>,
}

/// Parameters that are JSON already.
pub(crate) struct Params(Box<RawValue>);

impl ToRpcParams for Params {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        Ok(Some(self.0))
    }
}

impl Client {
    /// Connects to a daemon and makes sure that it speaks this client's major version.
    ///
    /// Must be called within a tokio runtime with I/O and time.
    pub async fn connect(host: &Host) -> Result<Self, ClientError> {
        Self::connect_with(host, None).await
    }

    /// Connects as [`connect`](Self::connect) does and shows `tap` every message.
    pub async fn connect_with(host: &Host, tap: Option<Tap>) -> Result<Self, ClientError> {
        let client = Self {
            rpc: open(host.socket()).await?,
            host: host.clone(),
            tap,
        };
        client.refuse_other_major().await?;
        Ok(client)
    }

    /// Returns the address of the daemon.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Calls a method.
    pub async fn call<M: Method>(&self, params: &M::Params) -> Result<M::Result, ClientError> {
        self.request(M::NAME, params).await
    }

    /// Calls a method by name, with its parameters as one JSON object.
    pub async fn raw(&self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.request(method, &params).await
    }

    /// Watches an operation: its progress, and how it ends.
    pub async fn watch(&self, operation_id: OperationId) -> Result<Watch<'_>, ClientError> {
        Watch::open(self, operation_id).await
    }

    /// Returns the way by which files of the host reach the daemon.
    pub fn files(&self) -> HostFiles {
        HostFiles::new(self.host.files_socket(), self.tap.clone())
    }

    pub(crate) fn rpc(&self) -> &RpcClient {
        &self.rpc
    }

    /// Checks the size and shows the request to the tap.
    pub(crate) fn encode(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<Params, ClientError> {
        let protocol = |source| ClientError::Protocol {
            method: method.to_owned(),
            source: RpcError::ParseError(source),
        };
        let raw = serde_json::value::to_raw_value(params).map_err(protocol)?;
        if let Some(tap) = &self.tap {
            let params = masked(&serde_json::from_str(raw.get()).unwrap_or_default());
            tap.show(Exchange::Request { method, params });
        }
        let size_bytes = raw.get().len() + method.len() + FRAME_BYTES;
        let limit_bytes = usize::try_from(REQUEST_LIMIT_BYTES).unwrap_or(usize::MAX);
        if size_bytes > limit_bytes {
            return Err(ClientError::TooLarge {
                method: method.to_owned(),
                size_bytes,
                limit_bytes,
            });
        }
        Ok(Params(raw))
    }

    /// Says what an error of the JSON-RPC layer means.
    pub(crate) fn explain(&self, method: &str, error: RpcError) -> ClientError {
        match error {
            RpcError::Call(error) => ClientError::Failed(Box::new(failure_of(method, &error))),
            RpcError::Transport(_) | RpcError::RestartNeeded(_) | RpcError::ServiceDisconnect => {
                self.disconnected(Some(error))
            }
            RpcError::RequestTimeout => ClientError::TimedOut {
                method: method.to_owned(),
                seconds: CALL_TIMEOUT.as_secs(),
            },
            source => ClientError::Protocol {
                method: method.to_owned(),
                source,
            },
        }
    }

    pub(crate) fn disconnected(&self, source: Option<RpcError>) -> ClientError {
        // What the transport itself says is the cause; that somebody is to start a client of the
        // library's anew is none of the caller's business.
        let source = match source {
            Some(RpcError::Transport(error)) => Some(RpcError::Transport(error)),
            _ => None,
        };
        ClientError::Disconnected {
            path: self.host.socket().to_owned(),
            source,
        }
    }

    async fn request<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<R, ClientError> {
        let params = self.encode(method, params)?;
        let answer = self.rpc.request::<Box<RawValue>, _>(method, params).await;
        let answer = answer.map_err(|error| self.explain(method, error));
        if let Some(tap) = &self.tap {
            let result = match &answer {
                Ok(raw) => Ok(masked(&serde_json::from_str(raw.get()).unwrap_or_default())),
                Err(error) => Err(serde_json::json!(error.to_failure())),
            };
            tap.show(Exchange::Answer { method, result });
        }
        serde_json::from_str(answer?.get()).map_err(|source| ClientError::Protocol {
            method: method.to_owned(),
            source: RpcError::ParseError(source),
        })
    }

    /// Reads the version alone: the rest of another major's answer may have any form.
    async fn refuse_other_major(&self) -> Result<(), ClientError> {
        let info = self.raw(GetInfo::NAME, serde_json::json!({})).await?;
        match info.pointer("/api/major").and_then(Value::as_u64) {
            Some(major) if major == u64::from(API_MAJOR) => Ok(()),
            Some(major) => Err(ClientError::Incompatible { major }),
            None => Err(ClientError::Protocol {
                method: GetInfo::NAME.to_owned(),
                source: RpcError::Custom("it does not tell the version of the API".to_owned()),
            }),
        }
    }
}

async fn open(socket: &Path) -> Result<RpcClient, ClientError> {
    let unreachable = |source| ClientError::Unreachable {
        path: socket.to_owned(),
        source,
    };
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, shake_hands(socket)).await;
    opened.map_err(|_| unreachable(silent()))?
}

async fn shake_hands(socket: &Path) -> Result<RpcClient, ClientError> {
    let unreachable = |source| ClientError::Unreachable {
        path: socket.to_owned(),
        source,
    };
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    // The host name is the protocol's formality: the stream is connected already.
    let url =
        Url::parse("ws://localhost/").map_err(|error| unreachable(io::Error::other(error)))?;
    let transport = WsTransportClientBuilder::default()
        .connection_timeout(CONNECT_TIMEOUT)
        .max_request_size(REQUEST_LIMIT_BYTES)
        .max_response_size(RESPONSE_LIMIT_BYTES);
    let (sender, receiver) = transport
        .build_with_stream(url, stream)
        .await
        .map_err(|error| refused(error).unwrap_or_else(unreachable))?;
    Ok(ClientBuilder::default()
        .request_timeout(CALL_TIMEOUT)
        .max_buffer_capacity_per_subscription(SUBSCRIPTION_BUFFER)
        .build_with_tokio(sender, receiver))
}

fn silent() -> io::Error {
    let seconds = CONNECT_TIMEOUT.as_secs();
    let text = format!("no answer within {seconds} seconds");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// A full daemon refuses connections with an HTTP status; anything else is no daemon of ours.
fn refused(error: WsHandshakeError) -> Result<ClientError, io::Error> {
    match error {
        WsHandshakeError::Rejected {
            status_code: 429 | 503,
        } => Ok(ClientError::Failed(Box::new(Failure::new(
            codes::daemon::BUSY,
            "the daemon takes no more connections now",
        )))),
        WsHandshakeError::Io(error) => Err(error),
        WsHandshakeError::Timeout(_) => Err(silent()),
        error => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

#[cfg(test)]
mod tests;
