//! The one method table: what is registered here is what is served and what is documented.

use std::future::Future;
use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::server::RpcModule;
use jsonrpsee::types::{ErrorObjectOwned, Params};
use jsonrpsee::{Extensions, Methods};
use kiln_api::method::Subscription;
use kiln_api::{Cost, Description, Failure, Method, codes, openrpc};
use kiln_domain::access::Actor;
use kiln_service::ConnectionId;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use crate::door::{Caller, Names, invalid_params, rejection};

/// Methods with their handlers and descriptions.
#[derive(Debug)]
pub struct Table {
    pub(crate) module: RpcModule<()>,
    /// Subscriptions that have items to send hold a token each.
    pub(crate) streams: TaskTracker,
    descriptions: Vec<Description>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            module: RpcModule::new(()),
            streams: TaskTracker::new(),
            descriptions: Vec::new(),
        }
    }
}

impl Table {
    /// Borrows the descriptions of what is registered, in order.
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    /// Registers a method: its parameters are decoded strictly, its desk is called once.
    pub(crate) fn method<M, D, H, F>(
        &mut self,
        desk: &Arc<D>,
        handler: H,
    ) -> Result<(), RegisterMethodError>
    where
        M: Method,
        D: Send + Sync + 'static,
        H: Fn(Arc<D>, Caller, M::Params) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<M::Result, Failure>> + Send + 'static,
        M::Result: Clone,
    {
        let desk = desk.clone();
        self.module
            .register_async_method(M::NAME, move |params, _context, extensions| {
                let desk = desk.clone();
                let handler = handler.clone();
                async move {
                    let caller = caller_of(&extensions)?;
                    let params: M::Params =
                        decode(&params).map_err(|failure| rejection(failure, &caller))?;
                    let answer = handler(desk, caller.clone(), params).await;
                    answer.map_err(|failure| rejection(failure, &caller))
                }
            })?;
        self.descriptions.push(Description::of::<M>());
        Ok(())
    }

    /// Notes a subscription that was registered on the module.
    pub(crate) fn describe_subscription<M: Method>(&mut self, subscription: Subscription) {
        self.descriptions
            .push(Description::of_subscription::<M>(subscription));
    }

    /// Adds `rpc.discover` and seals the table.
    pub(crate) fn seal(mut self) -> Result<(Methods, Names), RegisterMethodError> {
        let document = Arc::new(openrpc::document(&self.descriptions));
        self.module
            .register_method("rpc.discover", move |_, (), _| document.as_ref().clone())?;
        // Beginning one needs a WebSocket, and so does ending it.
        let subscriptions: Vec<_> = self
            .descriptions
            .iter()
            .filter_map(|description| Some((description.name, description.subscription?)))
            .flat_map(|(name, subscription)| [name, subscription.unsubscribe])
            .collect();
        let methods: Methods = self.module.into();
        let rights = self.descriptions.iter();
        let costly = self.descriptions.iter();
        let costly = costly.filter(|description| description.cost == Cost::Costly);
        let costly = costly.map(|description| description.name).collect();
        let names = Names {
            methods: methods.method_names().collect(),
            subscriptions,
            costly,
            rights: rights
                .map(|description| (description.name, description.right))
                .collect(),
        };
        Ok((methods, names))
    }
}

/// Reads who calls from what the connection and the door left in the extensions.
pub(crate) fn caller_of(extensions: &Extensions) -> Result<Caller, ErrorObjectOwned> {
    extensions.get::<Caller>().cloned().ok_or_else(|| {
        // The accept loop puts it there, so this is a defect, not a caller's mistake.
        let nobody = Actor::from_peer(u32::MAX, u32::MAX, None, 0);
        let caller = Caller {
            actor: nobody,
            connection: ConnectionId::unique(),
            request_id: "r0".to_owned(),
        };
        rejection(
            Failure::new(codes::daemon::INTERNAL, "the caller is not known"),
            &caller,
        )
    })
}

/// Decodes one object of named parameters; nothing at all counts as an empty object.
pub(crate) fn decode<T: DeserializeOwned>(params: &Params<'_>) -> Result<T, Failure> {
    let text = params.as_str().map_or("{}", str::trim);
    if text.starts_with('[') {
        return Err(invalid_params(
            "parameters are one object with names, not a list",
        ));
    }
    serde_json::from_str(text).map_err(|error| invalid_params(&describe(&error)))
}

/// Says what is wrong without serde's position, which means nothing to a caller.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = match text.rfind(" at line ") {
        Some(end) => &text[..end],
        None => &text,
    };
    // The name of a type behind it is a name of the source code; all of them come as objects.
    match text.rsplit_once("expected struct ") {
        Some((found, name)) if !name.contains([' ', '"', '`']) => {
            format!("{found}expected an object")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::daemon::InfoParams;
    use kiln_api::image::PullParams;

    use super::*;

    #[test]
    fn parameters_that_do_not_decode_are_told_in_words_of_the_wire() {
        let told = |text: &str| {
            let params = Params::new(Some(text));
            decode::<PullParams>(&params).unwrap_err().message
        };
        let own = decode::<InfoParams>(&Params::new(Some("7"))).unwrap_err();

        assert_eq!(own.message, "invalid type: integer `7`, expected an object");
        let want = "invalid type: string \"expected struct X\", expected an object";
        assert_eq!(told("\"expected struct X\""), want);
        assert!(told("{\"expected struct X\": 1}").contains("unknown field `expected struct X`"));
        let list = told("[]");
        assert_eq!(list, "parameters are one object with names, not a list");
    }
}
