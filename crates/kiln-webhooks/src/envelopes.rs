//! Notifications, in the forms in which registries send them.
//!
//! ```text
//! distribution   {"events": [{"action": "push", "target": {"repository", "tag", "digest"}}]}
//! Harbor         {"type": "PUSH_ARTIFACT", "event_data": {"repository": {"repo_full_name"},
//!                                                         "resources": [{"tag", "digest"}]}}
//! CloudEvents    {"specversion", "type": "….pushed", "data": …}, or headers ce-… and data as the body;
//!                data as of the two above, or {"repository", "tag", "digest"}
//! ```
//! Sources: distribution's "Work with notifications"; Harbor's "Configure Webhook Notifications";
//! CloudEvents 1.0 with its JSON format and HTTP binding. Only pushes of manifests under a tag count;
//! everything else is counted and passed over, for registries send again what is refused.

use kiln_domain::Pushed;
use serde::Deserialize;
use serde_json::Value;

/// Most events of one notification that are looked at.
const MAX_EVENTS: usize = 1_000;

/// Why a notification is none.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It is not JSON.
    #[error("the notification is not JSON: line {line}, column {column}")]
    NotJson {
        /// The line at which reading stopped.
        line: usize,
        /// The column.
        column: usize,
    },
    /// It is of no form that is known.
    #[error("the notification is not one of distribution's, Harbor's or CloudEvents'")]
    Unknown,
    /// It has more events than are looked at.
    #[error("the notification has more than {MAX_EVENTS} events")]
    TooMany,
}

/// What a notification says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Manifests that were pushed under tags.
    pub pushes: Vec<Pushed>,
    /// How many events were something else.
    pub others: usize,
}

#[derive(Deserialize)]
struct Target {
    repository: Option<String>,
    tag: Option<String>,
    digest: Option<String>,
}

#[derive(Deserialize)]
struct HarborData {
    repository: HarborRepository,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct HarborRepository {
    repo_full_name: String,
}

#[derive(Deserialize)]
struct Resource {
    tag: Option<String>,
    digest: Option<String>,
}

/// Reads a notification. `event_type` is the header `ce-type` of a CloudEvent whose data are the body.
pub fn pushes(event_type: Option<&str>, body: &[u8]) -> Result<Said, EnvelopeError> {
    let value: Value = serde_json::from_slice(body).map_err(|error| EnvelopeError::NotJson {
        line: error.line(),
        column: error.column(),
    })?;
    let mut said = Said::default();
    match event_type {
        Some(kind) => said.data(kind, &value),
        None => said.envelope(&value)?,
    }
    Ok(said)
}

impl Said {
    fn envelope(&mut self, value: &Value) -> Result<(), EnvelopeError> {
        if let Some(batch) = value.as_array() {
            if batch.len() > MAX_EVENTS {
                return Err(EnvelopeError::TooMany);
            }
            // A batch holds events and no further batches.
            return batch.iter().try_for_each(|event| self.cloud_event(event));
        }
        if let Some(events) = value.get("events").and_then(Value::as_array) {
            if events.len() > MAX_EVENTS {
                return Err(EnvelopeError::TooMany);
            }
            for event in events {
                self.distribution(event);
            }
            return Ok(());
        }
        if let (Some(kind), Some(data)) = (text(value, "type"), value.get("event_data")) {
            if kind == "PUSH_ARTIFACT" {
                self.harbor(data);
            } else {
                self.others += 1;
            }
            return Ok(());
        }
        self.cloud_event(value)
    }

    fn cloud_event(&mut self, value: &Value) -> Result<(), EnvelopeError> {
        let (Some(_), Some(kind)) = (text(value, "specversion"), text(value, "type")) else {
            return Err(EnvelopeError::Unknown);
        };
        match value.get("data") {
            Some(data) => self.data(kind, data),
            None => self.others += 1,
        }
        Ok(())
    }

    /// Reads the data of a CloudEvent, which tells what happened by its type.
    fn data(&mut self, kind: &str, data: &Value) {
        let kind = kind.to_ascii_lowercase();
        if !kind.ends_with("pushed") && !kind.ends_with("push") {
            self.others += 1;
        } else if data.get("target").is_some() {
            self.distribution(data);
        } else if data.get("resources").is_some() {
            self.harbor(data);
        } else {
            self.target(data);
        }
    }

    fn distribution(&mut self, event: &Value) {
        match (text(event, "action"), event.get("target")) {
            (Some("push"), Some(target)) => self.target(target),
            _ => self.others += 1,
        }
    }

    fn target(&mut self, target: &Value) {
        match Target::deserialize(target) {
            Ok(target) => self.pushed(target.repository, target.tag, target.digest),
            Err(_) => self.others += 1,
        }
    }

    fn harbor(&mut self, data: &Value) {
        let Ok(data) = HarborData::deserialize(data) else {
            self.others += 1;
            return;
        };
        let repository = data.repository.repo_full_name;
        for resource in data.resources.into_iter().take(MAX_EVENTS) {
            self.pushed(Some(repository.clone()), resource.tag, resource.digest);
        }
    }

    /// Notes a push whose words obey the grammar of references. A blob has no tag.
    fn pushed(&mut self, repository: Option<String>, tag: Option<String>, digest: Option<String>) {
        let parts = repository.zip(tag).zip(digest);
        let pushed = parts.and_then(|((repository, tag), digest)| {
            Some(Pushed {
                repository,
                tag,
                digest: digest.parse().ok()?,
            })
        });
        match pushed.filter(|pushed| pushed.check().is_ok()) {
            Some(pushed) => self.pushes.push(pushed),
            None => self.others += 1,
        }
    }
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:fea8895f450959fa676bcc1df0611ea93823a735a01205fd8622846041d0c7cf";

    fn check(event_type: Option<&str>, body: &Value, want: &[(&str, &str)], others: usize) {
        let said = pushes(event_type, body.to_string().as_bytes()).unwrap();
        let found: Vec<(&str, &str)> = said
            .pushes
            .iter()
            .map(|pushed| (pushed.repository.as_str(), pushed.tag.as_str()))
            .collect();
        assert_eq!((found.as_slice(), said.others), (want, others), "{body}");
        let digests = said.pushes.iter().map(|pushed| pushed.digest.to_string());
        assert!(digests.into_iter().all(|digest| digest == DIGEST));
    }

    #[test]
    fn distributions_envelope_tells_manifests_from_everything_else() {
        let target = |tag: Value| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 708,
                "digest": DIGEST, "length": 708, "repository": "hello/world", "tag": tag,
                "url": "http://example.com/v2/hello-world/manifests/sha256:fea8",
            })
        };
        let events = json!({"events": [
            {"id": "1", "action": "push", "target": target(json!("latest"))},
            {"id": "2", "action": "pull", "target": target(json!("latest"))},
            {"id": "3", "action": "push", "target": target(Value::Null)},
            {"id": "4", "action": "delete", "target": {"digest": DIGEST}},
            {"id": "5", "action": "push", "target": {"repository": "../etc", "tag": "a", "digest": DIGEST}},
            {"id": "6", "action": "push", "target": {"repository": "a", "tag": "a", "digest": "md5:1"}},
            {"id": "7", "action": "push", "target": {"repository": 7}},
            7,
        ]});

        check(None, &events, &[("hello/world", "latest")], 7);
    }

    #[test]
    fn harbors_envelope_has_its_resources() {
        let harbor = |kind: &str| {
            json!({
                "type": kind, "occur_at": 1_586_922_308, "operator": "admin",
                "event_data": {
                    "resources": [
                        {"digest": DIGEST, "tag": "v1", "resource_url": "hub.harbor.com/p/debian:v1"},
                        {"digest": DIGEST, "tag": "v2", "resource_url": "hub.harbor.com/p/debian:v2"},
                    ],
                    "repository": {
                        "date_created": 1, "name": "debian", "namespace": "p",
                        "repo_full_name": "p/debian", "repo_type": "private",
                    },
                },
            })
        };

        check(
            None,
            &harbor("PUSH_ARTIFACT"),
            &[("p/debian", "v1"), ("p/debian", "v2")],
            0,
        );
        check(None, &harbor("DELETE_ARTIFACT"), &[], 1);
    }

    #[test]
    fn cloud_events_are_read_in_all_their_modes() {
        let plain = json!({"repository": "team/app", "tag": "v1", "digest": DIGEST});
        let harbor = json!({
            "resources": [{"digest": DIGEST, "tag": "v1"}],
            "repository": {"repo_full_name": "team/app"},
        });
        let distribution = json!({"action": "push", "target": plain});
        let event = |kind: &str, data: &Value| {
            json!({
                "specversion": "1.0", "id": "1", "source": "/projects/1", "type": kind,
                "datacontenttype": "application/json", "data": data,
            })
        };
        let want: &[(&str, &str)] = &[("team/app", "v1")];

        for data in [&plain, &harbor, &distribution] {
            check(None, &event("harbor.artifact.pushed", data), want, 0);
            check(Some("org.example.image.push"), data, want, 0);
            check(None, &event("harbor.artifact.deleted", data), &[], 1);
        }
        let batch = json!([event("x.pushed", &plain), event("x.pulled", &plain)]);
        check(None, &batch, want, 1);
    }

    #[test]
    fn what_is_no_notification_is_refused() {
        let nested = "[".repeat(500);
        let many = format!("[{}1]", "1,".repeat(MAX_EVENTS));
        for body in ["", "{", "7", "{}", "[1]", r#"{"type":"x"}"#, &nested, &many] {
            assert!(pushes(None, body.as_bytes()).is_err(), "{body}");
        }
    }
}
