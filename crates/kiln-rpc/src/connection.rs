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

/// Most bytes of a WebSocket taken in one write. A whole answer comes as one write, and a client
/// that does not read must not cost a second copy of it.
const TAKEN_BYTES: usize = 64 << 10;

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
        let bytes = &bytes[..bytes.len().min(TAKEN_BYTES)];
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";

    /// Makes a text frame as soketto does.
    fn long_text(length: usize) -> Vec<u8> {
        let head = [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat();
        [head, vec![b'x'; length]].concat()
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_costs_no_copy_of_a_long_answer() {
        let (daemon, mut client) = UnixStream::pair().unwrap();
        let switch = Switch(Arc::new(AtomicBool::new(true)));
        let mut stream = Stream::new(daemon, switch);
        stream.write_all(HEAD).await.unwrap();
        let answer = long_text(8 << 20);
        let mut taken = 0;

        // Until it takes no more: nobody reads.
        loop {
            let write = tokio::time::timeout(Duration::from_millis(100), async {
                stream.write(&answer[taken..]).await
            });
            match write.await {
                Ok(count) => taken += count.unwrap(),
                Err(_) => break,
            }
            assert!(stream.ready.capacity() <= 2 * TAKEN_BYTES);
        }

        assert!(taken < answer.len(), "the socket took all of it");
        assert!(!stream.ready.is_empty(), "nothing is held");
        let reading = async {
            let mut got = vec![0; HEAD.len() + answer.len()];
            client.read_exact(&mut got).await.map(|_| got)
        };
        let writing = async {
            stream.write_all(&answer[taken..]).await?;
            stream.flush().await
        };
        let (got, wrote) = tokio::join!(reading, writing);
        wrote.unwrap();
        assert!(got.unwrap()[HEAD.len()..] == answer, "other bytes came");
    }
}
