//! What came of one agent, written down as it comes.
//!
//! ```text
//! of ──▶ looked_up ──▶ ended (each image) ──▶ pruned ──▶ over
//!   └──────── failed: the agent itself, at any time ───────┘
//! ```
//! A purge that is cancelled, or breaks off, tells what stands on its sheets by then.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_api::image::purge::{PurgeError, PurgedImage, PurgedOnAgent, PurgedOnAgents};
use kiln_api::{Failure, codes};
use kiln_domain::{AgentName, Architecture};

use super::far::{Meant, What};

/// What is known of one agent.
#[derive(Debug)]
pub(super) struct Sheet {
    agent: AgentName,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    /// What was meant there, once that is known.
    images: Option<Vec<Line>>,
    pruned_bytes: Option<u64>,
    /// What went wrong with the agent itself.
    failures: Vec<Failure>,
    is_over: bool,
}

#[derive(Debug)]
struct Line {
    meant: Meant,
    /// How many bytes its removal freed, `None` where it was gone; nothing while that is not known.
    end: Option<Result<Option<u64>, Failure>>,
}

impl Sheet {
    /// Begins an empty one.
    pub(super) fn of(agent: AgentName) -> Self {
        Self {
            agent,
            written: Mutex::default(),
        }
    }

    /// Writes down what was meant there.
    pub(super) fn looked_up(&self, meant: &[Meant]) {
        let lines = meant.iter().cloned();
        let lines = lines.map(|meant| Line { meant, end: None });
        self.lock().images = Some(lines.collect());
    }

    /// Writes down what came of one image.
    pub(super) fn ended(&self, index: usize, end: Result<Option<u64>, Failure>) {
        let mut written = self.lock();
        if let Some(line) = written.images.iter_mut().flatten().nth(index) {
            line.end = Some(end);
        }
    }

    /// Writes down what the cache gave up.
    pub(super) fn pruned(&self, bytes: Option<u64>) {
        self.lock().pruned_bytes = bytes;
    }

    /// Writes down what went wrong with the agent itself.
    pub(super) fn failed(&self, failure: Failure) {
        self.lock().failures.push(failure);
    }

    /// Says that nothing more comes.
    pub(super) fn over(&self) {
        self.lock().is_over = true;
    }

    /// Tells whether an image went.
    pub(super) fn has_purged(&self) -> bool {
        let went = |line: &Line| matches!(line.end, Some(Ok(Some(_))));
        self.lock().images.iter().flatten().any(went)
    }

    /// Tells whether anything went wrong.
    pub(super) fn has_failed(&self) -> bool {
        let written = self.lock();
        let failed = |line: &Line| matches!(line.end, Some(Err(_)));
        !written.failures.is_empty() || written.images.iter().flatten().any(failed)
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(self, all: &mut PurgedOnAgents) {
        let agent = self.agent;
        let written = self.written.into_inner();
        let written = written.unwrap_or_else(PoisonError::into_inner);
        let mut whole = written.failures;
        if !written.is_over {
            whole.push(left(&agent, written.images.as_deref()));
        }
        if let Some(lines) = written.images {
            let mut entry = PurgedOnAgent {
                agent_id: agent.clone(),
                images: Vec::new(),
                freed_bytes: 0,
                pruned_bytes: written.pruned_bytes,
            };
            for line in lines {
                match line.end {
                    Some(Ok(freed_bytes)) => entry.images.push(gone(line.meant, freed_bytes)),
                    Some(Err(failure)) => all.errors.push(of_item(&agent, line.meant, failure)),
                    None => {}
                }
            }
            let already = entry.images.iter().filter(|image| image.already_purged);
            let already = already.count() as u64;
            all.already_purged += already;
            all.purged += entry.images.len() as u64 - already;
            // The numbers are an agent's, which may say anything.
            let freed = entry.images.iter().map(|image| image.freed_bytes);
            entry.freed_bytes = freed.fold(0, u64::saturating_add);
            let pruned = entry.pruned_bytes.unwrap_or(0);
            let freed = entry.freed_bytes.saturating_add(pruned);
            all.freed_bytes = all.freed_bytes.saturating_add(freed);
            all.purged_images.push(entry);
        }
        let whole = whole.into_iter().map(|failure| of_agent(&agent, failure));
        all.errors.extend(whole);
    }
}

/// Sums up what stands on the sheets of a purge, in their order.
pub(super) fn summed(sheets: Vec<Sheet>, is_dry_run: bool) -> PurgedOnAgents {
    let mut all = PurgedOnAgents {
        dry_run: is_dry_run,
        ..PurgedOnAgents::default()
    };
    for sheet in sheets {
        sheet.tell(&mut all);
    }
    all
}

/// Says what was left when a purge was cancelled. An agent that was asked already goes on with it.
fn left(agent: &AgentName, lines: Option<&[Line]>) -> Failure {
    let message = match lines {
        None => format!("agent {agent}: the purge was cancelled before it was asked for anything"),
        Some(lines) => {
            let left = lines.iter().filter(|line| line.end.is_none()).count();
            format!(
                "agent {agent}: the purge was cancelled before the end of {left} of {} images",
                lines.len()
            )
        }
    };
    Failure::new(codes::operation::CANCELLED, message).with_hint(
        "what it was being asked for may be gone all the same; the same call again tells, and goes \
         on",
        None,
    )
}

fn gone(meant: Meant, freed_bytes: Option<u64>) -> PurgedImage {
    let (image_id, name) = match meant.what {
        What::Image { id, name } => (Some(id), Some(name)),
        What::Nothing | What::Failed(_) => (None, None),
    };
    PurgedImage {
        item: meant.item,
        architecture: word(meant.architecture),
        image_id,
        name,
        freed_bytes: freed_bytes.unwrap_or(0),
        already_purged: freed_bytes.is_none(),
    }
}

fn of_item(agent: &AgentName, meant: Meant, error: Failure) -> PurgeError {
    PurgeError {
        agent_id: agent.clone(),
        item: Some(meant.item),
        architecture: word(meant.architecture),
        image_id: match meant.what {
            What::Image { id, .. } => Some(id),
            What::Nothing | What::Failed(_) => None,
        },
        error,
    }
}

fn of_agent(agent: &AgentName, error: Failure) -> PurgeError {
    PurgeError {
        agent_id: agent.clone(),
        item: None,
        architecture: None,
        image_id: None,
        error,
    }
}

fn word(architecture: Option<Architecture>) -> Option<String> {
    architecture.map(|known| known.as_str().to_owned())
}
