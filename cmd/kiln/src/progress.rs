//! Shows how far long work is, on stderr.
//!
//! ```text
//! tty    bars that move                    terminal.rs
//! plain  a line per change, and per 10 s   plain.rs
//! json   the daemon's items, one per line
//! ```

mod plain;
mod terminal;

pub(crate) use plain::Lines;

use std::time::Duration;

use clap::ValueEnum;
use kiln_api::operation::{LayerState, Operation, Progress, Stage};

use crate::output;
use crate::surroundings::Surroundings;
use crate::text::size;

/// How to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Style {
    /// Bars on a terminal, lines elsewhere
    Auto,
    /// Bars that move
    Tty,
    /// A line for each change, and every 10 seconds
    Plain,
    /// The daemon's own items, one JSON document per line
    Json,
    /// Nothing
    None,
}

impl Style {
    /// Decides for `auto`: bars where somebody looks at a screen that can show them.
    fn resolve(self, surroundings: &Surroundings) -> Self {
        let is_screen =
            surroundings.stderr_is_terminal && !surroundings.is_dumb && !surroundings.is_ci;
        match self {
            Self::Auto if is_screen => Self::Tty,
            Self::Auto => Self::Plain,
            stated => stated,
        }
    }
}

/// Shows one operation's progress.
#[derive(Debug)]
pub(crate) enum Renderer {
    Terminal(terminal::Bars),
    Plain(plain::Lines),
    Json,
    Silent,
}

impl Renderer {
    /// Chooses how to show.
    pub(crate) fn new(style: Style, surroundings: &Surroundings) -> Self {
        match style.resolve(surroundings) {
            Style::Tty => Self::Terminal(terminal::Bars::new()),
            Style::Json => Self::Json,
            Style::None => Self::Silent,
            Style::Plain | Style::Auto => Self::Plain(plain::Lines::default()),
        }
    }

    /// Takes note of how the operation stands, `elapsed` after the start.
    pub(crate) fn observe(&mut self, operation: &Operation, elapsed: Duration) {
        match self {
            Self::Terminal(bars) => bars.observe(operation),
            Self::Plain(lines) => output::note(&lines.observe(operation, elapsed)),
            Self::Json => output::note(&json_line(operation)),
            Self::Silent => {}
        }
    }

    /// Shows how far work of this client's own is, where bars move. Elsewhere it speaks for itself.
    pub(crate) fn show(&mut self, progress: &Progress) {
        if let Self::Terminal(bars) = self {
            bars.show(progress);
        }
    }

    /// Lets time pass without news.
    pub(crate) fn tick(&mut self, elapsed: Duration) {
        if let Self::Plain(lines) = self {
            output::note(&lines.tick(elapsed));
        }
    }

    /// Says something beside the progress.
    pub(crate) fn note(&self, text: &str) {
        match self {
            Self::Terminal(bars) => bars.note(text),
            Self::Plain(_) | Self::Json | Self::Silent => output::note(text),
        }
    }

    /// Says whether nothing of the progress is wanted.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Silent)
    }

    /// Takes bars off the screen.
    pub(crate) fn close(self) {
        if let Self::Terminal(bars) = self {
            bars.close();
        }
    }
}

/// Writes an operation as one line, as the daemon sent it.
pub(crate) fn json_line(operation: &Operation) -> String {
    // Serialising a view cannot fail: its maps have text keys.
    output::harmless(&serde_json::to_string(operation).unwrap_or_default()) + "\n"
}

/// Says how far a stage is: `12.0 MiB of 34.0 MiB, 1 of 3 layers`.
fn amount(progress: &Progress) -> String {
    let bytes = match progress.bytes_total {
        Some(total) if total > 0 => {
            Some(format!("{} of {}", size(progress.bytes_done), size(total)))
        }
        _ if progress.bytes_done > 0 => Some(size(progress.bytes_done)),
        _ => None,
    };
    let noun = match progress.stage {
        Stage::Resolve | Stage::Fetch => "layers",
        Stage::Send => "blobs",
        Stage::Purge => "agents",
        Stage::Merge | Stage::Build => "entries",
        Stage::Stage | Stage::Publish => "files",
    };
    let items = match progress.items_total {
        Some(total) if total > 0 => Some(format!("{} of {total} {noun}", progress.items_done)),
        _ if progress.items_done > 0 => Some(format!("{} {noun}", progress.items_done)),
        _ => None,
    };
    let waits =
        waits_for_others(progress).then(|| "waiting for another push of the same blobs".to_owned());
    [bytes, items, waits]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

/// Says whether nothing is sent because all that is left is on its way to elsewhere in the registry:
/// what is there may be taken over from there.
fn waits_for_others(progress: &Progress) -> bool {
    let is_any = |wanted: &[LayerState]| {
        let mut layers = progress.layers.iter();
        layers.any(|layer| wanted.contains(&layer.state))
    };
    progress.stage == Stage::Send
        && is_any(&[LayerState::Waiting])
        && !is_any(&[
            LayerState::Fetching,
            LayerState::Decoding,
            LayerState::Sending,
        ])
}

/// Says where an operation is: `fetching: 1.0 MiB of 4.0 MiB`.
pub(crate) fn sentence(progress: &Progress) -> String {
    let amount = amount(progress);
    let gap = if amount.is_empty() { "" } else { ": " };
    format!("{}{gap}{amount}", stage_words(progress.stage))
}

/// Says in words what a stage does.
fn stage_words(stage: Stage) -> &'static str {
    match stage {
        Stage::Resolve => "resolving",
        Stage::Fetch => "fetching",
        Stage::Send => "sending",
        Stage::Purge => "purging",
        Stage::Merge => "merging",
        Stage::Build => "building",
        Stage::Stage => "staging",
        Stage::Publish => "publishing",
    }
}

/// Returns the digits of a digest that people compare.
fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    crate::text::cell(&hex.chars().take(12).collect::<String>())
}

/// Operations for the tests of this and other modules.
#[cfg(test)]
pub(crate) mod testing {
    use kiln_api::operation::{LayerProgress, LayerState};

    use super::*;

    /// A pull of two layers that is fetching.
    pub(crate) fn operation() -> Operation {
        let json = serde_json::json!({
            "id": "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11",
            "kind": "image.pull",
            "state": "running",
            "subject": "docker.io/library/debian:bookworm",
            "owner_uid": 1000,
            "created_at": "2026-01-31T12:00:00.000000Z",
            "updated_at": "2026-01-31T12:00:00.000000Z",
        });
        Operation {
            progress: Some(progress()),
            ..serde_json::from_value(json).unwrap()
        }
    }

    pub(crate) fn progress() -> Progress {
        let layer = |digit: &str, state| LayerProgress {
            digest: format!("sha256:{}", digit.repeat(64)),
            state,
            bytes_done: 0,
            bytes_total: 2 << 20,
        };
        Progress {
            stage: Stage::Fetch,
            bytes_done: 1 << 20,
            bytes_total: Some(4 << 20),
            items_done: 0,
            items_total: Some(2),
            sent_bytes: 0,
            fetched_bytes: 1 << 20,
            layers: vec![
                layer("a", LayerState::Fetching),
                layer("b", LayerState::Waiting),
            ],
            agents: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_for_screens() {
        let style = |terminal, is_ci, is_dumb| {
            Style::Auto.resolve(&Surroundings {
                stderr_is_terminal: terminal,
                is_ci,
                is_dumb,
                ..Surroundings::default()
            })
        };

        assert_eq!(style(true, false, false), Style::Tty);
        assert_eq!(style(false, false, false), Style::Plain);
        assert_eq!(style(true, true, false), Style::Plain);
        assert_eq!(style(true, false, true), Style::Plain);
        assert_eq!(Style::Json.resolve(&Surroundings::default()), Style::Json);
    }

    #[test]
    fn amounts_say_what_is_known() {
        let mut progress = testing::progress();
        assert_eq!(amount(&progress), "1.0 MiB of 4.0 MiB, 0 of 2 layers");

        progress.bytes_total = None;
        progress.items_total = None;
        assert_eq!(amount(&progress), "1.0 MiB");

        progress.bytes_done = 0;
        progress.items_done = 7;
        progress.stage = Stage::Build;
        assert_eq!(amount(&progress), "7 entries");
        assert_eq!(amount(&Progress::default()), "");
    }

    #[test]
    fn waiting_for_another_push_is_said_when_nothing_else_is_done() {
        const WAITS: &str = ", waiting for another push of the same blobs";
        let mut progress = testing::progress();
        progress.stage = Stage::Send;
        assert!(!sentence(&progress).ends_with(WAITS));

        progress.layers[0].state = LayerState::Cached;
        assert!(
            sentence(&progress).ends_with(WAITS),
            "{}",
            sentence(&progress)
        );

        progress.stage = Stage::Fetch;
        assert!(!sentence(&progress).ends_with(WAITS));
    }

    #[test]
    fn a_json_line_is_the_item_as_it_came() {
        let operation = testing::operation();

        let line = json_line(&operation);

        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<Operation>(&line).unwrap(), operation);
    }
}
