//! The one bridge to blocking code: bounded pools of threads below normal priority.
//!
//! What runs there is not here; everything that burns CPU or waits for the disk does.

use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, oneshot};

/// How much below normal the workers run, in nice levels: calls are answered first while an
/// image is built on every core.
const NICENESS: i32 = 10;

/// A bounded number of threads for one kind of work.
#[derive(Clone, Debug)]
pub struct Pool {
    name: &'static str,
    permits: Arc<Semaphore>,
}

/// Why work on a pool came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The machine gave no thread.
    #[error("no thread for {name} work could be started")]
    NoThread {
        /// Which pool.
        name: &'static str,
    },
    /// The work panicked: a defect, contained here.
    #[error("{name} work panicked")]
    Panicked {
        /// Which pool.
        name: &'static str,
    },
}

impl Pool {
    /// Makes a pool of at most `size` threads. Threads exist only while there is work.
    pub fn new(name: &'static str, size: usize) -> Self {
        Self {
            name,
            permits: Arc::new(Semaphore::new(size.max(1))),
        }
    }

    /// Runs `work` on a thread of its own as soon as the pool has room, and waits for it.
    ///
    /// Dropping the future does not stop the work: whoever starts it hands it a switch.
    pub async fn run<T, W>(&self, work: W) -> Result<T, PoolError>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let name = self.name;
        // The semaphore is never closed, so a missing permit cannot happen; no room is the answer.
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| PoolError::NoThread { name })?;
        let (done, answer) = oneshot::channel();
        let body = move || {
            let _permit = permit;
            lower_priority();
            // Nobody may be listening any more; then the result has no use.
            done.send(work()).ok();
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|_| PoolError::NoThread { name })?;
        answer.await.map_err(|_| PoolError::Panicked { name })
    }
}

/// Lowers the calling thread alone: on Linux a priority belongs to a thread (setpriority(2)).
fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "working at normal priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stays_in_the_pool() {
        let pool = Pool::new("test", 1);

        let panicked = pool.run(|| panic!("on purpose")).await.map(|()| 0);
        let next = pool.run(|| 7).await;

        assert_eq!(panicked, Err(PoolError::Panicked { name: "test" }));
        assert_eq!(next, Ok(7));
    }
}
