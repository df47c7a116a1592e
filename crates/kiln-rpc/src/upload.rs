//! The body of a request on its way in, with an end to the daemon's patience and appetite.
//!
//! jsonrpsee reads it and answers every failure alike; [`Fate`] tells afterwards what it was.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

/// What the daemon takes of one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appetite {
    /// Longest time from the head to the last byte.
    pub(crate) patience: Duration,
    /// Most bytes.
    pub(crate) max_bytes: u64,
}

/// Why a body was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// It was not there as a whole in time.
    TooSlow,
    /// It has more bytes than the daemon takes.
    TooLong,
}

/// What became of a body; empty while it may still arrive.
pub(crate) type Fate = Arc<OnceLock<GivenUp>>;

/// A body that is given up when it is too slow or too long.
#[derive(Debug)]
pub(crate) struct Upload {
    inner: Incoming,
    timer: Pin<Box<Sleep>>,
    left_bytes: u64,
    fate: Fate,
}

impl Upload {
    /// Takes a body whose head has just been read.
    pub(crate) fn new(inner: Incoming, appetite: Appetite, fate: Fate) -> Self {
        Self {
            inner,
            timer: Box::pin(tokio::time::sleep(appetite.patience)),
            left_bytes: appetite.max_bytes,
            fate,
        }
    }

    fn give_up(&self, why: GivenUp, text: &'static str) -> tower::BoxError {
        // The first reason stands.
        self.fate.set(why).ok();
        io::Error::other(text).into()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = tower::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tower::BoxError>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                std::task::ready!(self.timer.as_mut().poll(context));
                let error = self.give_up(GivenUp::TooSlow, "the body took too long");
                return Poll::Ready(Some(Err(error)));
            }
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(left) = self.left_bytes.checked_sub(length) else {
            let error = self.give_up(GivenUp::TooLong, "the body is too long");
            return Poll::Ready(Some(Err(error)));
        };
        self.left_bytes = left;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
