//! What happens around every call: who calls, whether that role may, a number, a time, a log line,
//! an audit line, and an error with a code even where no handler ran.
//!
//! What the calls do is not here, nor what is refused before it is a call at all.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jsonrpsee::core::middleware::{Batch, BatchEntry, Notification, RpcServiceT};
use jsonrpsee::core::server::BatchResponseBuilder;
use jsonrpsee::server::MethodResponse;
use jsonrpsee::types::error::METHOD_NOT_FOUND_CODE;
use jsonrpsee::types::{ErrorObjectOwned, Id, Request};
use kiln_api::{Code, Failure, codes};
use kiln_domain::access::{Actor, Right, Role, may_call};
use kiln_service::ConnectionId;

use serde_json::value::RawValue;

use crate::ledger::{Entry, Ledger};
use crate::rates::Rates;
use crate::{claims, refusal, spellings};

/// Who made a call, and its number.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who the kernel says is at the other end, in the role it has for this call.
    pub actor: Actor,
    /// Over which connection.
    pub connection: ConnectionId,
    /// The call's number in the log.
    pub request_id: String,
}

/// How a request came in: subscriptions exist on one of the two only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Http,
    WebSocket,
}

/// The names the door knows, so that it can answer for the ones it does not.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) methods: Vec<&'static str>,
    /// What begins subscriptions and what ends them.
    pub(crate) subscriptions: Vec<&'static str>,
    /// What methods take; ending a subscription takes nothing.
    pub(crate) rights: HashMap<&'static str, Right>,
    /// Methods whose calls are counted.
    pub(crate) costly: HashSet<&'static str>,
}

/// Numbers, times, logs and keeps every call of one connection, and lets in what may be called.
#[derive(Clone, Debug)]
pub(crate) struct Door<S> {
    pub(crate) inner: S,
    pub(crate) names: Arc<Names>,
    /// Who callers are, and what they did.
    pub(crate) ledger: Ledger,
    /// What users have left of their costly calls.
    pub(crate) rates: Rates,
    /// Who the kernel says is at the other end; its role is looked up for each call.
    pub(crate) peer: Actor,
    pub(crate) connection: ConnectionId,
    pub(crate) transport: Transport,
    /// Longest answer to a batch, in bytes.
    pub(crate) max_response_bytes: usize,
}

/// Numbers the requests of this process. With the process id in the log that is unique enough.
static NEXT_REQUEST: AtomicU64 = AtomicU64::new(1);

impl<S> RpcServiceT for Door<S>
where
    S: RpcServiceT<MethodResponse = MethodResponse> + Send + Sync + Clone + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = S::NotificationResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let started = Instant::now();
        let number = NEXT_REQUEST.fetch_add(1, Ordering::Relaxed);
        let door = self.clone();
        async move {
            let method = request.method_name().to_owned();
            let request_id = format!("r{number}");
            let response = door.answer(request, request_id.clone()).await;
            tracing::info!(
                request = request_id,
                uid = door.peer.uid,
                pid = door.peer.pid,
                method = kiln_api::failure::printable(&method.chars().take(80).collect::<String>()),
                ok = response.is_success(),
                milliseconds = started.elapsed().as_millis(),
                "call"
            );
            response
        }
    }

    /// Every call of a batch goes through the same door, one after the other.
    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let door = self.clone();
        async move {
            let mut answers = BatchResponseBuilder::new_with_limit(door.max_response_bytes);
            let mut is_notified = false;
            for entry in batch {
                let answer = match entry {
                    Ok(BatchEntry::Call(request)) => door.call(request).await,
                    Ok(BatchEntry::Notification(notification)) => {
                        is_notified = true;
                        door.notification(notification).await;
                        continue;
                    }
                    Err(error) => {
                        let (error, id) = error.into_parts();
                        MethodResponse::error(id, with_code(error.code()))
                    }
                };
                if let Err(too_long) = answers.append(answer) {
                    return too_long;
                }
            }
            // Notifications alone are answered with nothing; nothing at all is no request.
            if answers.is_empty() && is_notified {
                return MethodResponse::notification();
            }
            MethodResponse::from_batch(answers.finish())
        }
    }

    fn notification<'a>(
        &self,
        notification: Notification<'a>,
    ) -> impl Future<Output = Self::NotificationResponse> + Send + 'a {
        self.inner.notification(notification)
    }
}

impl<S> Door<S>
where
    S: RpcServiceT<MethodResponse = MethodResponse> + Send + Sync + Clone + 'static,
{
    /// Learns who calls, lets in what the caller's role may call and can be kept, and keeps what came
    /// of it.
    async fn answer(&self, mut request: Request<'_>, request_id: String) -> MethodResponse {
        let id = request.id.clone().into_owned();
        let mut caller = Caller {
            actor: self.peer,
            connection: self.connection,
            request_id,
        };
        if let Some((number, mut failure)) = self.refusal(request.method_name()) {
            failure.request_id = Some(caller.request_id);
            return MethodResponse::error(id, error_object(number, &failure));
        }
        let identified = match self.ledger.roles.identify(self.peer).await {
            Ok(identified) => identified,
            Err(failure) => return MethodResponse::error(id, rejection(failure, &caller)),
        };
        caller.actor = identified.actor;
        let right = self.names.rights.get_key_value(request.method_name());
        let right = right.map(|(method, right)| (*method, *right));
        let in_our_words = put_into_our_words(&mut request);
        let entry = right.map(|right| {
            let params = request.params.as_ref().map(|params| params.get());
            Entry::begin(&self.ledger, &identified, right, params, &caller.request_id)
        });
        let admitted = in_our_words
            .and_then(|()| admit(&mut request, &caller.actor, right))
            .and_then(|()| self.count(&caller.actor, right));
        let admitted = match (admitted, &entry) {
            (Ok(()), Some(entry)) => entry.ready().await,
            (admitted, _) => admitted,
        };
        let response = match admitted {
            Ok(()) => {
                request.extensions.insert(caller.clone());
                let call = self.inner.call(request);
                let answer = match &entry {
                    Some(entry) => entry.follow(call).await,
                    None => call.await,
                };
                own_words(answer, id, &caller)
            }
            Err(failure) => MethodResponse::error(id, rejection(failure, &caller)),
        };
        if let Some(entry) = entry {
            entry.end(&response).await;
        }
        response
    }
}

impl<S> Door<S> {
    /// Counts a costly call, and refuses one too many. Superadmins look after the host, and a daemon of
    /// one user's own has no other.
    fn count(&self, actor: &Actor, right: Option<(&'static str, Right)>) -> Result<(), Failure> {
        match right {
            Some((method, _))
                if self.names.costly.contains(method) && actor.role != Role::Superadmin =>
            {
                self.rates.admit(actor.uid, method, Instant::now())
            }
            _ => Ok(()),
        }
    }
}

/// Puts what a call says in another service's words into Kiln's, for all that read it from here on.
fn put_into_our_words(request: &mut Request<'_>) -> Result<(), Failure> {
    let params = request.params.as_ref().map(|params| params.get());
    let spelled = spellings::normalise(request.method_name(), params.unwrap_or_default())?;
    replace_params(request, spelled)
}

fn replace_params(request: &mut Request<'_>, params: Option<String>) -> Result<(), Failure> {
    if let Some(params) = params {
        let params =
            RawValue::from_string(params).map_err(|error| invalid_params(&error.to_string()))?;
        request.params = Some(Cow::Owned(params));
    }
    Ok(())
}

/// Refuses a call that says to be somebody else's, or whose method the caller's role may not call
/// at all; what it says of its caller is taken out of its parameters.
fn admit(
    request: &mut Request<'_>,
    actor: &Actor,
    right: Option<(&'static str, Right)>,
) -> Result<(), Failure> {
    let params = request.params.as_ref().map(|params| params.get());
    let rest = claims::check(params.unwrap_or_default(), actor)?;
    replace_params(request, rest)?;
    let Some((method, right)) = right else {
        return Ok(());
    };
    if may_call(actor.role, right) {
        return Ok(());
    }
    let Actor { uid, role, .. } = actor;
    let message = format!("user {uid} is {role}, and {method} is not for that role");
    Err(Failure::new(codes::request::DENIED, message).with_hint(
        "a superadmin, such as root, can call it, or give you a role; who you are is told by",
        Some("kiln whoami".to_owned()),
    ))
}

impl<S> Door<S> {
    /// Answers for methods that have no handler, or none on this transport.
    fn refusal(&self, method: &str) -> Option<(i32, Failure)> {
        if self.names.subscriptions.contains(&method) && self.transport == Transport::Http {
            let code = codes::request::NEEDS_WEBSOCKET;
            let failure = Failure::new(code, format!("{method} is about a subscription"));
            return Some((code.class.rpc_number(), failure));
        }
        if self.names.methods.contains(&method) {
            return None;
        }
        let shown: String = method.chars().take(80).collect();
        let failure = Failure::new(
            codes::request::UNKNOWN_METHOD,
            format!("there is no method {shown:?}"),
        );
        let failure = match nearest(method, &self.names.methods) {
            Some(name) => failure.with_hint(format!("did you mean {name}?"), None),
            None => failure,
        };
        Some((METHOD_NOT_FOUND_CODE, failure))
    }
}

/// Makes the JSON-RPC error of a failed call.
pub(crate) fn error_object(number: i32, failure: &Failure) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(number, failure.message.clone(), Some(failure))
}

/// Makes the JSON-RPC error of a failed call from its class's number.
pub(crate) fn rejection(mut failure: Failure, caller: &Caller) -> ErrorObjectOwned {
    failure.request_id = Some(caller.request_id.clone());
    if failure.is(codes::daemon::INTERNAL) {
        tracing::error!(request = caller.request_id, cause = ?failure.cause, "{}", failure.message);
    }
    error_object(failure.class.rpc_number(), &failure)
}

/// Puts an error of jsonrpsee's own into Kiln's words: an answer too long, a subscription too many.
fn own_words(response: MethodResponse, id: Id<'static>, caller: &Caller) -> MethodResponse {
    match refusal::of_answer(&response) {
        Some(failure) => MethodResponse::error(id, rejection(failure, caller)),
        None => response,
    }
}

/// Says in Kiln's words what jsonrpsee refused before there was a call.
fn with_code(number: i32) -> ErrorObjectOwned {
    let failure = refusal::failure(number);
    error_object(refusal::number_of(number, &failure), &failure)
}

/// Refuses parameters that do not decode.
pub(crate) fn invalid_params(text: &str) -> Failure {
    const CODE: Code = codes::request::INVALID_PARAMS;
    Failure::new(CODE, text.to_owned())
}

/// Finds the name that differs from `word` by the fewest single-letter edits, at most three.
fn nearest(word: &str, names: &[&'static str]) -> Option<&'static str> {
    let word: String = word.chars().take(40).collect();
    names
        .iter()
        .map(|name| (distance(&word, name), *name))
        .filter(|(edits, _)| *edits <= 3)
        .min()
        .map(|(_, name)| name)
}

/// Counts edits: letters put in, left out, replaced, or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut before = vec![0; right.len() + 1];
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut next = vec![i + 1; right.len() + 1];
        for (j, b) in right.iter().enumerate() {
            let substituted = row[j] + usize::from(a != b);
            next[j + 1] = substituted.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                next[j + 1] = next[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_method_is_answered_with_the_nearest() {
        let names = ["image.alias", "image.pull", "image.list", "daemon.info"];

        assert_eq!(nearest("image.pul", &names), Some("image.pull"));
        assert_eq!(nearest("images.list", &names), Some("image.list"));
        assert_eq!(nearest("image.lits", &names), Some("image.list"));
        assert_eq!(nearest("volume.create", &names), None);
    }
}
