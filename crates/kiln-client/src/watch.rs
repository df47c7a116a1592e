//! A subscription to one operation's progress.
//!
//! A finished subscription does not close by itself in this protocol, so the end is the item in a
//! final state; a connection that breaks is an error, never an end.

use jsonrpsee::core::client::{
    Error as RpcError, Subscription, SubscriptionClientT as _, SubscriptionCloseReason,
};
use kiln_api::Method as _;
use kiln_api::operation::{Operation, OperationParams, WATCH, Watch as WatchMethod};
use kiln_domain::OperationId;

use crate::{Client, ClientError};

/// The items of an operation's progress, ending with the operation in a final state.
#[derive(Debug)]
pub struct Watch<'a> {
    client: &'a Client,
    operation_id: OperationId,
    subscription: Subscription<Operation>,
    ended: bool,
}

impl<'a> Watch<'a> {
    pub(crate) async fn open(
        client: &'a Client,
        operation_id: OperationId,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            client,
            operation_id,
            subscription: subscribe(client, operation_id).await?,
            ended: false,
        })
    }

    /// Returns the next item: the operation as it stands. Nothing comes after the item in a
    /// final state, nor after an error. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Result<Operation, ClientError>> {
        if self.ended {
            return None;
        }
        let item = self.receive().await;
        self.ended = item
            .as_ref()
            .map_or(true, |operation| operation.state.is_final());
        Some(item)
    }

    /// Waits for the end and returns the operation in its final state.
    pub async fn last(mut self) -> Result<Operation, ClientError> {
        loop {
            match self.next().await {
                Some(Ok(operation)) if operation.state.is_final() => return Ok(operation),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(self.client.disconnected(None)),
            }
        }
    }

    async fn receive(&mut self) -> Result<Operation, ClientError> {
        loop {
            if let Some(item) = self.subscription.next().await {
                return item.map_err(|source| ClientError::Protocol {
                    method: WATCH.notification.to_owned(),
                    source: RpcError::ParseError(source),
                });
            }
            match self.subscription.close_reason() {
                // Only the newest state counts, and a new subscription begins with it.
                Some(SubscriptionCloseReason::Lagged) => {
                    self.subscription = subscribe(self.client, self.operation_id).await?;
                }
                _ => return Err(self.client.disconnected(None)),
            }
        }
    }
}

async fn subscribe(
    client: &Client,
    operation_id: OperationId,
) -> Result<Subscription<Operation>, ClientError> {
    let name = WatchMethod::NAME;
    let params = client.encode(name, &OperationParams { operation_id })?;
    let opened = client
        .rpc()
        .subscribe(name, params, WATCH.unsubscribe)
        .await;
    opened.map_err(|error| client.explain(name, error))
}
