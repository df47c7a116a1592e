//! `operation.*`.

use std::sync::Arc;

use jsonrpsee::PendingSubscriptionSink;
use jsonrpsee::core::{RegisterMethodError, SubscriptionResult};
use jsonrpsee::server::SubscriptionMessage;
use kiln_api::method::Method as _;
use kiln_api::operation::{Cancel, Get, List, OperationParams, WATCH, Wait, Watch};
use kiln_service::Operations;

use crate::door::rejection;
use crate::table::{Table, caller_of, decode};

pub(crate) fn register(
    table: &mut Table,
    desk: &Arc<Operations>,
) -> Result<(), RegisterMethodError> {
    table.method::<List, _, _, _>(desk, |desk, caller, params| async move {
        desk.list(&caller.actor, params).await
    })?;
    table.method::<Get, _, _, _>(desk, |desk, caller, params| async move {
        desk.get(&caller.actor, params.operation_id).await
    })?;
    table.method::<Wait, _, _, _>(desk, |desk, caller, params| async move {
        desk.wait(&caller.actor, caller.connection, params).await
    })?;
    table.method::<Cancel, _, _, _>(desk, |desk, caller, params| async move {
        let (id, connection) = (params.operation_id, caller.connection);
        if params.unless_watched {
            desk.cancel_unless_watched(&caller.actor, connection, id)
                .await
        } else {
            desk.cancel(&caller.actor, id).await
        }
    })?;
    let watched = desk.clone();
    let streams = table.streams.clone();
    table.module.register_subscription(
        Watch::NAME,
        WATCH.notification,
        WATCH.unsubscribe,
        move |params, pending, _context, extensions| {
            let desk = watched.clone();
            // Held until the last item is on its way: a stop waits for that.
            let stream = streams.token();
            async move {
                let _stream = stream;
                let caller = match caller_of(&extensions) {
                    Ok(caller) => caller,
                    Err(error) => {
                        pending.reject(error).await;
                        return Ok(());
                    }
                };
                match decode(&params) {
                    Ok(params) => watch(&desk, params, pending, &caller).await,
                    Err(failure) => {
                        pending.reject(rejection(failure, &caller)).await;
                        Ok(())
                    }
                }
            }
        },
    )?;
    table.describe_subscription::<Watch>(WATCH);
    Ok(())
}

/// Sends the operation whenever it has changed; the last item is in a final state.
async fn watch(
    desk: &Operations,
    params: OperationParams,
    pending: PendingSubscriptionSink,
    caller: &crate::door::Caller,
) -> SubscriptionResult {
    let mut watcher = match desk
        .watch(&caller.actor, caller.connection, params.operation_id)
        .await
    {
        Ok(watcher) => watcher,
        Err(failure) => {
            pending.reject(rejection(failure, caller)).await;
            return Ok(());
        }
    };
    let sink = pending.accept().await?;
    loop {
        let item = tokio::select! {
            item = watcher.next() => item,
            () = sink.closed() => return Ok(()),
        };
        // The stream ends behind its final item; whoever reads knows it by its state.
        let Some(item) = item else { return Ok(()) };
        let message = serde_json::value::to_raw_value(&item)?;
        if sink.send(SubscriptionMessage::from(message)).await.is_err() {
            return Ok(());
        }
    }
}
