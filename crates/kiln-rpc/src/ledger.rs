//! What is kept of calls: who made them, about what, how they ended.
//!
//! One place for all methods. What a call was about is read from the few parameters that name
//! things; no other parameter gets here, so no secret does. Which calls are kept is decided in
//! `kiln_service::Audit`.

use jsonrpsee::server::MethodResponse;
use kiln_api::Failure;
use kiln_domain::access::Right;
use kiln_service::{Audit, Call, Ending, Followed, Identified, Roles};
use serde_json::Value;

/// Longest parameters of a look that are read for what they name, in bytes: nobody's look names
/// anything behind it, and looks are many.
const LOOK_MAX: usize = 64 << 10;

/// Longest answer that is read for ids, in bytes. Those with ids are a few thousand.
const ANSWER_MAX: usize = 1 << 20;

/// Tells who calls, and keeps what they did.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Who callers are.
    pub roles: Roles,
    /// What they did.
    pub audit: Audit,
}

/// A call that has begun. When it is dropped before its end, its caller has gone: that is told too,
/// for what it began goes on.
#[derive(Debug)]
pub(crate) struct Entry {
    audit: Audit,
    call: Option<Call>,
    followed: Followed,
}

impl Entry {
    /// Begins to keep a call.
    pub(crate) fn begin(
        ledger: &Ledger,
        caller: &Identified,
        (method, right): (&'static str, Right),
        params: Option<&str>,
        request_id: &str,
    ) -> Self {
        let params = params.filter(|text| right.changes() || text.len() <= LOOK_MAX);
        let params = params.and_then(|text| serde_json::from_str::<Value>(text).ok());
        let params = params.unwrap_or(Value::Null);
        let named = Named::of(method, &params);
        let call = Call {
            actor: caller.actor,
            user_name: caller.name.clone(),
            method,
            right,
            object_kind: Some(noun(method)),
            object_name: named.name,
            object_id: named.id,
            operation_id: None,
            request_id: request_id.to_owned(),
            is_dry_run: params["dry_run"] == true,
        };
        Self {
            audit: ledger.audit.clone(),
            followed: ledger.audit.follow(&call),
            call: Some(call),
        }
    }

    /// Makes the call; its first change is written with its line.
    pub(crate) async fn follow<F: Future>(&self, call: F) -> F::Output {
        self.followed.call(call).await
    }

    /// Refuses the call when it changes something and nothing can be kept of it.
    pub(crate) async fn ready(&self) -> Result<(), Failure> {
        match &self.call {
            Some(call) if call.right.changes() && !call.is_dry_run => self.audit.ready(call).await,
            _ => Ok(()),
        }
    }

    /// Keeps how it ended. The line is written when this returns, and also when the caller has gone
    /// meanwhile.
    pub(crate) async fn end(mut self, response: &MethodResponse) {
        let Some(mut call) = self.call.take() else {
            return;
        };
        let answer = response.as_json().get();
        // Looks that went well are many and leave no trace.
        if response.is_success() && !call.right.changes() {
            return;
        }
        let answer = Some(answer).filter(|text| text.len() <= ANSWER_MAX);
        let answer = answer.and_then(|text| serde_json::from_str::<Value>(text).ok());
        let answer = answer.unwrap_or(Value::Null);
        let told = if response.is_success() {
            &answer["result"]
        } else {
            &answer["error"]["data"]
        };
        call.object_id = call.object_id.or_else(|| object_id(told));
        // Who reads the line later finds the image by its name, and it may be gone by then.
        let name = &told["image"]["name"];
        call.object_name = call.object_name.or_else(|| text(name));
        call.operation_id = operation_id(told);
        let ending = if response.is_success() {
            Ending::Well
        } else {
            Ending::Failed {
                code: told["code"].as_str().unwrap_or("unknown").to_owned(),
                is_denied: told["class"] == "denied",
            }
        };
        let (audit, followed) = (self.audit.clone(), self.followed.clone());
        let kept = tokio::spawn(async move { audit.end(&followed, call, ending).await });
        if let Err(error) = kept.await {
            tracing::error!(%error, "an audit line was not written");
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        // Outside a runtime there is no daemon to keep anything for.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (audit, followed) = (self.audit.clone(), self.followed.clone());
            runtime.spawn(async move { audit.give_up(&followed, call).await });
        }
    }
}

/// What a call's parameters name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    name: Option<String>,
    id: Option<String>,
}

impl Named {
    fn of(method: &str, params: &Value) -> Self {
        if method == "image.purge" {
            let name = on_agents(params);
            return Self { name, id: None };
        }
        let name = keys(method).iter().find_map(|key| text(&params[key]));
        let name = match (name, text(&params["user"])) {
            // A membership is of two.
            (Some(org), Some(user)) if noun(method) == "org" => Some(format!("{org} {user}")),
            (name, _) => name,
        };
        let ids = ["operation_id", "instance_id", "image_id"];
        let id = ids.iter().find_map(|key| text(&params[key]));
        Self { name, id }
    }
}

/// The parameters that may name what a method is about, the telling one first.
fn keys(method: &str) -> &'static [&'static str] {
    match noun(method) {
        "image" => &["image", "alias", "name", "ref"],
        "instance" => &["instance", "name", "image"],
        "kernel" => &["name"],
        "registry" => &["into", "ref", "registry"],
        "agent" => &["agent", "name"],
        "user" => &["user", "uid"],
        "org" => &["org", "name"],
        "operation" => &["operation_id"],
        "audit" => &["user"],
        _ => &[],
    }
}

/// Names the images of a purge with their agents: `app:old, cache:old on agent-1; …`.
fn on_agents(params: &Value) -> Option<String> {
    let joined = |list: &Value, key: Option<&str>| {
        let words = list.as_array()?.iter();
        let words = words.filter_map(|word| key.map_or(word, |key| &word[key]).as_str());
        Some(words.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
    };
    let keys = params["keys"].as_array().map_or(&[][..], Vec::as_slice);
    let long = keys.iter().filter_map(|key| {
        let images = joined(&key["images"], Some("name"))?;
        Some(format!("{images} on {}", key["agent_id"].as_str()?))
    });
    let images = joined(&params["image_names"], None);
    let short = images.zip(joined(&params["agent_ids"], None));
    let short = short.map(|(images, agents)| format!("{images} on {agents}"));
    let all: Vec<String> = long.chain(short).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn noun(method: &'_ str) -> &'_ str {
    method.split_once('.').map_or(method, |(noun, _)| noun)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The id of what an answer shows.
fn object_id(told: &Value) -> Option<String> {
    let places = [
        &told["image_id"],
        &told["id"],
        &told["image"]["id"],
        &told["alias"]["image_id"],
        &told["org"]["id"],
        &told["user"]["uid"],
        &told["uid"],
    ];
    places.into_iter().find_map(text)
}

/// The operation that an answer, or a failure, tells of.
fn operation_id(told: &Value) -> Option<String> {
    let places = [
        &told["operation_id"],
        &told["operation"]["id"],
        &told["registered"]["operation_id"],
    ];
    places.into_iter().find_map(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_call_is_about_is_what_it_names() {
        let named = |name: Option<&str>, id: Option<&str>| Named {
            name: name.map(str::to_owned),
            id: id.map(str::to_owned),
        };
        let cases = [
            (
                "image.purge",
                json!({
                    "keys": [{"agent_id": "a", "images": [{"name": "x"}, {"name": "y"}]}],
                    "image_names": ["z"], "agent_ids": ["b", "c"],
                }),
                named(Some("x, y on a; z on b, c"), None),
            ),
            ("image.purge", json!({}), named(None, None)),
            (
                "image.pull",
                json!({"ref": "debian:12", "name": "web", "credentials": {"secret": "s"}}),
                named(Some("web"), None),
            ),
            (
                "image.pull",
                json!({"ref": "debian:12"}),
                named(Some("debian:12"), None),
            ),
            (
                "image.forget",
                json!({"image": "web"}),
                named(Some("web"), None),
            ),
            (
                "org.add_member",
                json!({"org": "web", "user": "7", "standing": "admin"}),
                named(Some("web 7"), None),
            ),
            ("user.add", json!({"uid": 7}), named(Some("7"), None)),
            (
                "operation.cancel",
                json!({"operation_id": "o"}),
                named(Some("o"), Some("o")),
            ),
            (
                "instance.finish",
                json!({"instance_id": "i"}),
                named(None, Some("i")),
            ),
            ("registry.sync", json!({"rules": []}), named(None, None)),
            (
                "image.alias",
                json!({"alias": "www", "target": "web"}),
                named(Some("www"), None),
            ),
            (
                "image.purge_by_id",
                json!({"image_id": "i"}),
                named(None, Some("i")),
            ),
            (
                "image.forget",
                json!({"image": {"a": 1}}),
                named(None, None),
            ),
            ("daemon.info", Value::Null, named(None, None)),
        ];
        for (method, params, want) in cases {
            assert_eq!(Named::of(method, &params), want, "{method} {params}");
        }
    }
}
