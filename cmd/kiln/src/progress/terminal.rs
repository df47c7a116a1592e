//! Progress as bars that move: one for the stage, one for each layer at work.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kiln_api::operation::{LayerState, Operation, Progress};

use super::{amount, short, stage_words};

/// Most layers shown at once; an image may have more than a screen has lines.
const MAX_LAYERS: usize = 8;

/// Units of a bar whose total is unknown or zero.
const UNKNOWN: u64 = 0;

/// The bars of one operation.
#[derive(Debug)]
pub(crate) struct Bars {
    screen: MultiProgress,
    stage: ProgressBar,
    layers: HashMap<String, ProgressBar>,
}

impl Bars {
    /// Puts the first bar on the screen.
    pub(crate) fn new() -> Self {
        let screen = MultiProgress::new();
        let stage = screen.add(ProgressBar::no_length());
        stage.enable_steady_tick(Duration::from_millis(125));
        Self {
            screen,
            stage,
            layers: HashMap::new(),
        }
    }

    /// Moves the bars.
    pub(crate) fn observe(&mut self, operation: &Operation) {
        if let Some(progress) = &operation.progress {
            self.show(progress);
        }
    }

    /// Moves the bars of work that is no operation.
    pub(crate) fn show(&mut self, progress: &Progress) {
        let total = progress.bytes_total.unwrap_or(UNKNOWN);
        self.stage.set_style(stage_style(total));
        self.stage.set_length(total);
        self.stage.set_position(progress.bytes_done);
        self.stage.set_prefix(stage_words(progress.stage));
        self.stage.set_message(amount(progress));
        self.observe_layers(progress);
    }

    /// Says something above the bars.
    pub(crate) fn note(&self, text: &str) {
        // A screen that is gone has nobody in front of it.
        drop(self.screen.println(text.trim_end()));
    }

    /// Takes the bars off the screen.
    pub(crate) fn close(self) {
        self.stage.finish_and_clear();
        // As above.
        drop(self.screen.clear());
    }

    fn observe_layers(&mut self, progress: &Progress) {
        for layer in &progress.layers {
            let is_at_work = matches!(
                layer.state,
                LayerState::Fetching | LayerState::Decoding | LayerState::Sending
            );
            if !is_at_work {
                if let Some(bar) = self.layers.remove(&layer.digest) {
                    bar.finish_and_clear();
                    self.screen.remove(&bar);
                }
                continue;
            }
            if !self.layers.contains_key(&layer.digest) {
                if self.layers.len() >= MAX_LAYERS {
                    continue;
                }
                let bar = self.screen.add(ProgressBar::new(layer.bytes_total));
                bar.set_style(layer_style());
                bar.set_prefix(short(&layer.digest));
                self.layers.insert(layer.digest.clone(), bar);
            }
            if let Some(bar) = self.layers.get(&layer.digest) {
                bar.set_position(layer.bytes_done);
            }
        }
    }
}

fn stage_style(total: u64) -> ProgressStyle {
    if total == UNKNOWN {
        styled("{spinner} {prefix:<10} {msg}")
    } else {
        styled("{spinner} {prefix:<10} [{bar:30}] {msg}")
    }
}

fn layer_style() -> ProgressStyle {
    styled("    {prefix} [{bar:26}] {binary_bytes} of {binary_total_bytes}")
}

/// A template that indicatif cannot read leaves its usual bar; a test reads them all.
fn styled(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;
    use indicatif::ProgressDrawTarget;

    use super::super::testing;
    use super::*;

    #[test]
    fn the_stage_and_the_layers_at_work_have_bars() {
        let screen = InMemoryTerm::new(10, 80);
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let mut bars = Bars::new();
        bars.screen.set_draw_target(target);
        let mut operation = testing::operation();

        bars.observe(&operation);
        let first = screen.contents();
        operation.progress.as_mut().unwrap().layers[0].state = LayerState::Done;
        bars.observe(&operation);
        let second = screen.contents();

        assert!(
            first.contains("fetching   [") && first.contains("1.0 MiB of 4.0 MiB"),
            "{first}"
        );
        assert!(first.contains("aaaaaaaaaaaa ["), "{first}");
        assert!(!second.contains("aaaaaaaaaaaa"), "{second}");
        bars.close();
        assert_eq!(screen.contents(), "");
    }
}
