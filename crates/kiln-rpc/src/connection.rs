//! One connection: HTTP/1.1 that is not waited for without end, and a WebSocket when it becomes
//! one.
//!
//! What is answered is not here; the accept loop is in [`server`](crate::server).

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use jsonrpsee::server::{HttpResponse, StopHandle};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::frames::Frames;

/// Tells a [`Stream`] that the answer that is being made switches it to WebSocket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch(Arc<AtomicBool>);

impl Switch {
    /// Looks at an answer before it is sent.
    pub(crate) fn notice(&self, response: &HttpResponse) {
        if response.status() == hyper::StatusCode::SWITCHING_PROTOCOLS {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Serves one connection to its end. A stop lets the call in flight end.
///
/// A head that is not there after `patience`, silence before it included, ends the connection.
/// A call in flight and a WebSocket have no such end.
pub(crate) async fn serve<S>(
    stream: UnixStream,
    service: S,
    switch: Switch,
    patience: Duration,
    stop: StopHandle,
) where
    S: Service<Request<Incoming>, Response = HttpResponse, Error = tower::BoxError>,
    S::Future: Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .serve_connection(TokioIo::new(Stream::new(stream, switch)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.shutdown() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A stream whose outgoing bytes pass through [`Frames`] once it is switched.
#[derive(Debug)]
struct Stream {
    inner: UnixStream,
    switch: Switch,
    frames: Frames,
    /// Bytes that were taken and are not sent yet.
    ready: Vec<u8>,
    /// How many of `ready` are sent.
    sent: usize,
}

impl Stream {
    fn new(inner: UnixStream, switch: Switch) -> Self {
        Self {
            inner,
            switch,
            frames: Frames::default(),
            ready: Vec::new(),
            sent: 0,
        }
    }

    fn is_switched(&self) -> bool {
        self.switch.0.load(Ordering::Acquire)
    }

    /// Sends what was taken.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.ready.len() {
            let rest = &self.ready[self.sent..];
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        // A long answer's room is not kept for the life of the connection.
        self.ready = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.is_switched() {
            return Pin::new(&mut self.inner).poll_write(context, bytes);
        }
        // What was taken before goes first, so never more than one write is held.
        ready!(self.poll_send(context))?;
        let stream = &mut *self;
        stream.frames.pass(bytes, &mut stream.ready);
        match self.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.is_switched() {
            return Pin::new(&mut self.inner).poll_write_vectored(context, parts);
        }
        let first = parts.iter().find(|part| !part.is_empty());
        self.poll_write(context, first.map_or(&[][..], |part| part))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
