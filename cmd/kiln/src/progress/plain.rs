//! Progress as lines for logs: one per change of state, and one every ten seconds.

use std::collections::HashSet;
use std::time::Duration;

use kiln_api::operation::{AgentWork, LayerState, Operation, Progress, Stage};
use kiln_domain::OperationKind;

use super::{sentence, short};
use crate::text::cell;

/// How long nothing may be said.
const SILENCE: Duration = Duration::from_secs(10);

/// What was said already.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    is_introduced: bool,
    stage: Option<Stage>,
    finished_layers: HashSet<String>,
    finished_agents: HashSet<String>,
    latest: Option<Progress>,
    said_at: Duration,
}

impl Lines {
    /// Returns the lines that an item is worth: none while nothing changed but amounts.
    pub(crate) fn observe(&mut self, operation: &Operation, elapsed: Duration) -> String {
        let mut lines = Vec::new();
        if !self.is_introduced {
            self.is_introduced = true;
            lines.push(format!(
                "{} {} (operation {})\n",
                operation.kind,
                cell(&operation.subject),
                operation.id
            ));
        }
        if let Some(progress) = &operation.progress {
            for layer in &progress.layers {
                let how = match layer.state {
                    LayerState::Done => "done",
                    LayerState::Cached if sends(operation) => "was there",
                    LayerState::Cached => "from the cache",
                    LayerState::Waiting
                    | LayerState::Fetching
                    | LayerState::Decoding
                    | LayerState::Sending => continue,
                };
                if self.finished_layers.insert(layer.digest.clone()) {
                    lines.push(format!("layer {} {how}\n", short(&layer.digest)));
                }
            }
            for agent in &progress.agents {
                let how = match agent.state {
                    AgentWork::Done => "done",
                    AgentWork::Failed => "failed",
                    AgentWork::Waiting | AgentWork::Reaching | AgentWork::Purging => continue,
                };
                let name = cell(agent.agent_id.as_str());
                if self.finished_agents.insert(name.clone()) {
                    lines.push(format!("agent {name} {how}\n"));
                }
            }
            if self.stage != Some(progress.stage) {
                self.stage = Some(progress.stage);
                lines.push(line(progress));
            }
            self.latest = Some(progress.clone());
        }
        if operation.state.is_final() {
            lines.push(format!(
                "{} after {:.1} s\n",
                end(operation),
                elapsed.as_secs_f64()
            ));
            self.latest = None;
        }
        if lines.is_empty() {
            return self.tick(elapsed);
        }
        self.said_at = elapsed;
        lines.concat()
    }

    /// Returns a line when ten seconds passed without one.
    pub(crate) fn tick(&mut self, elapsed: Duration) -> String {
        match &self.latest {
            Some(progress) if elapsed.saturating_sub(self.said_at) >= SILENCE => {
                self.said_at = elapsed;
                line(progress)
            }
            _ => String::new(),
        }
    }
}

/// Says how an operation ended. One of many parts succeeds when each was seen to: some may have
/// failed.
fn end(operation: &Operation) -> String {
    let of_sync = operation.synced.as_ref().map_or(0, |synced| synced.failed);
    let purged = operation.purged.as_ref();
    let of_purge = purged.map_or(0, |purged| purged.errors.len() as u64);
    match of_sync + of_purge {
        0 => operation.state.to_string(),
        1 => "ended with 1 failure".to_owned(),
        failures => format!("ended with {failures} failures"),
    }
}

/// Says whether an operation sends what it has instead of taking something in.
fn sends(operation: &Operation) -> bool {
    matches!(
        operation.kind,
        OperationKind::ImagePush | OperationKind::RegistryCopy | OperationKind::RegistrySync
    )
}

fn line(progress: &Progress) -> String {
    sentence(progress) + "\n"
}

#[cfg(test)]
mod tests {
    use kiln_domain::OperationState;

    use super::super::testing;
    use super::*;

    #[test]
    fn a_pull_reads_as_a_log() {
        let mut lines = Lines::default();
        let mut operation = testing::operation();
        let mut log = String::new();
        let mut at = |operation: &Operation, seconds| {
            log += &lines.observe(operation, Duration::from_secs(seconds));
        };
        let layers = |operation: &mut Operation, states: [LayerState; 2]| {
            let progress = operation.progress.as_mut().unwrap();
            progress.bytes_done += 1 << 20;
            for (layer, state) in progress.layers.iter_mut().zip(states) {
                layer.state = state;
            }
        };

        at(&operation, 0);
        layers(&mut operation, [LayerState::Decoding, LayerState::Waiting]);
        at(&operation, 1);
        layers(&mut operation, [LayerState::Done, LayerState::Cached]);
        at(&operation, 2);
        at(&operation, 3);
        operation.progress = Some(Progress {
            stage: Stage::Build,
            ..Progress::default()
        });
        at(&operation, 4);
        operation.state = OperationState::Succeeded;
        at(&operation, 5);

        assert_eq!(
            log,
            "image.pull docker.io/library/debian:bookworm (operation 3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11)\n\
             fetching: 1.0 MiB of 4.0 MiB, 0 of 2 layers\n\
             layer aaaaaaaaaaaa done\n\
             layer bbbbbbbbbbbb from the cache\n\
             building\n\
             succeeded after 5.0 s\n"
        );
    }

    #[test]
    fn silence_lasts_ten_seconds_at_most() {
        let mut lines = Lines::default();
        let operation = testing::operation();
        drop(lines.observe(&operation, Duration::ZERO));

        assert_eq!(lines.tick(Duration::from_secs(9)), "");
        let said = "fetching: 1.0 MiB of 4.0 MiB, 0 of 2 layers\n";
        assert_eq!(lines.tick(Duration::from_secs(10)), said);
        assert_eq!(lines.tick(Duration::from_secs(15)), "");
        assert_eq!(lines.observe(&operation, Duration::from_secs(21)), said);
    }

    #[test]
    fn what_failed_in_part_is_not_said_to_have_succeeded() {
        let said = |field: &str, result: serde_json::Value| {
            let mut operation = serde_json::to_value(testing::operation()).unwrap();
            operation["state"] = "succeeded".into();
            operation[field] = result;
            let operation = serde_json::from_value(operation).unwrap();
            let log = Lines::default().observe(&operation, Duration::from_secs(2));
            log.lines().last().unwrap().to_owned()
        };
        let synced = |failed: u64| {
            serde_json::json!({
                "items": [], "copied": 0, "up_to_date": 0, "failed": failed,
                "sent_bytes": 0, "dry_run": false,
            })
        };
        let purged = serde_json::json!({
            "purged_images": [], "purged": 0, "already_purged": 0, "freed_bytes": 0,
            "dry_run": false,
            "errors": [{"agent_id": "agent-1", "error": {"code": "agent.unreachable",
                "class": "network", "message": "no", "retryable": true, "exit_code": 8, "http_status": 502}}],
        });

        assert_eq!(said("synced", synced(0)), "succeeded after 2.0 s");
        assert_eq!(
            said("synced", synced(2)),
            "ended with 2 failures after 2.0 s"
        );
        assert_eq!(said("purged", purged), "ended with 1 failure after 2.0 s");
    }

    #[test]
    fn nothing_is_said_after_the_end() {
        let mut lines = Lines::default();
        let mut operation = testing::operation();
        operation.state = OperationState::Failed;
        drop(lines.observe(&operation, Duration::ZERO));

        assert_eq!(lines.tick(Duration::from_secs(60)), "");
    }
}
