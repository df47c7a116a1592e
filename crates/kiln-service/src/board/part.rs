//! Parts of an operation that are done side by side, each with layers of its own.
//!
//! What they do is shown as one: the layers of those that are at work, one after the other. When a
//! part is given up, what its threads still do is given up with it, and nothing else is.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kiln_api::operation::{LayerProgress, Progress};
use tokio::sync::watch;

use super::Running;
use crate::cancel::Cancel;

/// The layers of each part that is at work; a part that has ended leaves its place to another.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<Vec<Option<Vec<LayerProgress>>>>);

/// What a part belongs to.
#[derive(Debug)]
pub(super) struct Whole {
    running: Arc<Running>,
    lane: usize,
}

/// A part at work. Dropping it gives up what its threads still do.
#[derive(Debug)]
pub(crate) struct Part(Arc<Running>);

impl Part {
    /// Borrows it as an operation's work knows it.
    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.0
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.abandon();
        self.0.let_go();
        if let Some(whole) = &self.0.whole {
            whole.leave();
        }
    }
}

impl Running {
    /// Begins a part of the operation. It is stopped when the operation is, and can be given up
    /// alone.
    pub(crate) fn part(self: &Arc<Self>) -> Part {
        let lane = self.lanes.take();
        Part(Arc::new(Self {
            id: self.id,
            cancel: self.cancel.clone(),
            work: Cancel::default(),
            threads: self.threads.clone(),
            progress: watch::Sender::new(Progress::default()),
            watchers: self.watchers.clone(),
            ended: self.ended.clone(),
            unrecorded: OnceLock::new(),
            kept: OnceLock::new(),
            lanes: Lanes::default(),
            whole: Some(Whole {
                running: self.clone(),
                lane,
            }),
            needs: Mutex::default(),
        }))
    }
}

impl Whole {
    /// Counts bytes of the part for the whole.
    pub(super) fn count(&self, fetched: u64, sent: u64) {
        self.running.progress.send_modify(|progress| {
            progress.fetched_bytes += fetched;
            progress.sent_bytes += sent;
        });
    }

    /// Shows the part's layers among those of the others.
    pub(super) fn show(&self, layers: Vec<LayerProgress>) {
        self.running.lanes.set(self.lane, Some(layers));
        self.refresh();
    }

    fn leave(&self) {
        self.running.lanes.set(self.lane, None);
        self.refresh();
    }

    fn refresh(&self) {
        self.running.progress.send_modify(|progress| {
            let layers = self.running.lanes.all();
            progress.bytes_done = layers.iter().map(|layer| layer.bytes_done).sum();
            progress.bytes_total = Some(layers.iter().map(|layer| layer.bytes_total).sum());
            progress.layers = layers;
        });
    }
}

impl Lanes {
    fn take(&self) -> usize {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places = lanes.iter_mut().enumerate();
        if let Some((lane, place)) = places.find(|(_, place)| place.is_none()) {
            *place = Some(Vec::new());
            return lane;
        }
        lanes.push(Some(Vec::new()));
        lanes.len() - 1
    }

    fn set(&self, lane: usize, layers: Option<Vec<LayerProgress>>) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = lanes.get_mut(lane) {
            *place = layers;
        }
    }

    fn all(&self) -> Vec<LayerProgress> {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().flatten().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::operation::LayerState;
    use kiln_domain::OperationId;

    use super::super::Board;
    use super::*;

    fn layer(name: &str) -> LayerProgress {
        LayerProgress {
            digest: name.to_owned(),
            state: LayerState::Waiting,
            bytes_done: 0,
            bytes_total: 10,
        }
    }

    fn names(running: &Running) -> Vec<String> {
        let layers = running.progress().layers;
        layers.into_iter().map(|layer| layer.digest).collect()
    }

    #[tokio::test]
    async fn parts_are_shown_as_one_and_given_up_alone() {
        let board = Arc::new(Board::new(1));
        let id = OperationId::new(uuid::Uuid::new_v4());
        board.start(id, board.admit().unwrap(), |_| std::future::pending());
        let whole = board.find(id).unwrap();

        let (one, other) = (whole.part(), whole.part());
        one.running().layers(vec![layer("a"), layer("b")]);
        other.running().layers(vec![layer("c")]);
        other.running().layer_sent(0, 7);
        other.running().sent(7);
        assert_eq!(names(&whole), ["a", "b", "c"]);
        let progress = whole.progress();
        assert_eq!((progress.bytes_done, progress.bytes_total), (7, Some(30)));
        assert_eq!(progress.sent_bytes, 7);

        let work = one.running().work().clone();
        drop(one);
        assert!(work.is_cancelled());
        assert!(!other.running().work().is_cancelled());
        assert!(!whole.work().is_cancelled());
        assert_eq!(names(&whole), ["c"]);

        let third = whole.part();
        third.running().layers(vec![layer("d")]);
        assert_eq!(names(&whole), ["d", "c"], "a place that was left is taken");
        whole.cancel();
        assert!(third.running().is_cancelled());
    }
}
