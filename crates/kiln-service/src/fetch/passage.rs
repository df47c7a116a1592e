//! Room for blobs that pass through: what is promised to those in flight counts for the next one.
//!
//! A blob that does not fit beside the others waits until some of them are gone, and is refused only
//! when it does not fit alone. Nobody is overtaken: a large one would wait for ever behind small ones.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

/// The room that blobs in flight were promised.
#[derive(Debug, Default)]
pub(crate) struct Passages {
    /// In bytes.
    promised: watch::Sender<u64>,
    /// Who asks for room, one after the other.
    turn: Mutex<()>,
}

/// The room of one blob, promised until it is dropped.
#[derive(Debug)]
pub(crate) struct Passage {
    passages: Arc<Passages>,
    size_bytes: u64,
}

impl Passages {
    /// Waits for room for `size_bytes`. `check` says whether so many bytes fit, those that others
    /// were promised among them: what these have written by now counts twice, which is but a reason
    /// to wait.
    pub(crate) async fn claim<E, F>(
        self: &Arc<Self>,
        size_bytes: u64,
        check: impl Fn(u64) -> F,
    ) -> Result<Passage, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let _turn = self.turn.lock().await;
        let mut changes = self.promised.subscribe();
        loop {
            let promised = *changes.borrow_and_update();
            match check(promised.saturating_add(size_bytes)).await {
                Ok(()) => break,
                Err(error) if promised == 0 => return Err(error),
                // The sender is ours, so there will be a change or nobody waits any more.
                Err(_) => drop(changes.changed().await),
            }
        }
        self.promised
            .send_modify(|promised| *promised = promised.saturating_add(size_bytes));
        Ok(Passage {
            passages: self.clone(),
            size_bytes,
        })
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let size_bytes = self.size_bytes;
        let promised = &self.passages.promised;
        promised.send_modify(|promised| *promised = promised.saturating_sub(size_bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::FutureExt as _;

    use super::*;

    /// A disk of 10 bytes.
    fn fits(bytes: u64) -> std::future::Ready<Result<(), &'static str>> {
        ready(if bytes <= 10 { Ok(()) } else { Err("full") })
    }

    #[tokio::test]
    async fn what_does_not_fit_beside_others_waits_for_them() {
        let passages = Arc::new(Passages::default());
        let six = passages.claim(6, fits).await.unwrap();
        let four = passages.claim(4, fits).await.unwrap();

        let mut waiting = Box::pin(passages.claim(5, fits));
        assert!((&mut waiting).now_or_never().is_none());
        // Smaller ones do not overtake it.
        drop(four);
        let mut small = Box::pin(passages.claim(1, fits));
        assert!((&mut waiting).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none());

        drop(six);
        let five = waiting.await.unwrap();
        let one = small.await.unwrap();
        assert_eq!(*passages.promised.borrow(), 6);
        drop((five, one));
        assert_eq!(*passages.promised.borrow(), 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_alone_is_refused() {
        let passages = Arc::new(Passages::default());

        assert_eq!(passages.claim(11, fits).await.unwrap_err(), "full");

        let one = passages.claim(1, fits).await.unwrap();
        let mut waiting = Box::pin(passages.claim(11, fits));
        assert!((&mut waiting).now_or_never().is_none());
        drop(one);
        assert_eq!(waiting.await.unwrap_err(), "full");
    }
}
