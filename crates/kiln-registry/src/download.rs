//! One file by its URL: over HTTPS only, without credentials, bounded in size and time.
//!
//! Redirects are followed as a registry's are: a few, never away from HTTPS, and never from a
//! public host into a private network. A broken connection is gone on with where it broke, as
//! often as a registry's is. Comparing the digest is the caller's.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use reqwest::StatusCode;
use tokio::time::Instant;
use url::Url;

use crate::client::failure;
use crate::config::{Config, MinimumRate};
use crate::error::FetchError;
use crate::retry::{Attempts, Patience};
use crate::text::{ServerText, shown};
use crate::transport::{Answer, Ask, Caches, Transport};

/// What is waited for, in messages.
const WHAT: &str = "a file";

/// After so many bytes earlier failures are forgiven: the connection is bad, but it works.
const FORGIVING_BYTES: u64 = 1 << 20;

/// A file that is being downloaded. Dropping it closes the connection.
#[derive(Debug)]
pub struct Download {
    transport: Transport,
    target: Url,
    /// The URL as it may be shown.
    url: String,
    limit_bytes: u64,
    /// The length the server announced at first.
    size_bytes: Option<u64>,
    position: u64,
    live: Option<Live>,
    patience: Patience,
    attempts: Attempts,
    /// Where the last failure was.
    failed_at: u64,
    caches: Caches,
}

/// The connection in use and how fast it was lately.
#[derive(Debug)]
struct Live {
    answer: Answer,
    /// How many bytes come again that were had before: the server knows no ranges.
    repeated_bytes: u64,
    slowest: MinimumRate,
    /// How long was waited for what came in the window.
    window: Duration,
    window_bytes: u64,
}

impl Download {
    /// Asks for the file at `url`, of at most `limit_bytes`.
    pub async fn open(
        url: &str,
        limit_bytes: u64,
        config: Arc<Config>,
    ) -> Result<Self, FetchError> {
        let refused = |reason| FetchError::UrlRefused {
            url: ServerText::new(&shown(url)),
            reason,
        };
        let target = Url::parse(url).map_err(|_| refused("it is not a URL"))?;
        if target.scheme() != "https" {
            return Err(refused("only https is fetched"));
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(refused("it carries a user name or password"));
        }
        Self::connected(target, limit_bytes, config).await
    }

    /// Does the same for a URL that was judged.
    async fn connected(
        target: Url,
        limit_bytes: u64,
        config: Arc<Config>,
    ) -> Result<Self, FetchError> {
        let url = shown(target.as_str());
        let host = target.host().ok_or_else(|| FetchError::UrlRefused {
            url: ServerText::new(&url),
            reason: "it names no host",
        })?;
        let name = target.host_str().unwrap_or_default();
        let transport = Transport::new(name, host.to_owned(), config)?;
        let patience = Patience::default();
        let mut download = Self {
            transport,
            url,
            limit_bytes,
            size_bytes: None,
            position: 0,
            live: None,
            attempts: Attempts::sharing(&patience),
            patience,
            failed_at: 0,
            caches: Caches::Welcome,
            target,
        };
        download.connect().await?;
        let announced = download.live.as_ref().map(|live| &live.answer.response);
        download.size_bytes = announced.and_then(reqwest::Response::content_length);
        let is_too_large = |length: u64| length > limit_bytes;
        if download.size_bytes.is_some_and(is_too_large) {
            return Err(download.too_large());
        }
        Ok(download)
    }

    /// Begins again, past the caches on the way: what came was wrong. The patience with faults is
    /// what is left of it.
    pub async fn begin_anew(&mut self) -> Result<(), FetchError> {
        self.live = None;
        self.position = 0;
        self.failed_at = 0;
        self.caches = Caches::PassedBy;
        self.connect().await
    }

    /// Returns the length the server announces.
    pub fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// Returns the next bytes, never empty, or nothing after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        // Before now the reader was busy: that time is not lost to the server.
        self.attempts.progress();
        loop {
            self.connect().await?;
            match self.read().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => {
                    self.position = self.position.saturating_add(bytes.len() as u64);
                    if self.position > self.limit_bytes {
                        return Err(self.too_large());
                    }
                    self.attempts.progress();
                    if self.position - self.failed_at >= FORGIVING_BYTES {
                        self.attempts.forgive();
                    }
                    return Ok(Some(bytes));
                }
                Ok(None) => return Ok(None),
                Err(error) => self.fail(error).await?,
            }
        }
    }

    /// Reads from the connection in use, and gives up on a server that drips: it would hold the
    /// operation for ever.
    async fn read(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Some(live) = &mut self.live else {
            return Ok(None);
        };
        let asked_at = Instant::now();
        let transport = &self.transport;
        let reading = transport.next_chunk(&mut live.answer.response, WHAT);
        let mut chunk = self
            .attempts
            .within_patience(transport, WHAT, reading)
            .await?;
        live.window += asked_at.elapsed();
        live.window_bytes += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if live.window >= live.slowest.window {
            if live.window_bytes < live.slowest.bytes && chunk.is_some() {
                self.attempts.no_progress_for(live.window);
                return Err(self.transport.timeout(WHAT, live.slowest.window));
            }
            live.window = Duration::ZERO;
            live.window_bytes = 0;
        }
        if let Some(bytes) = chunk.as_mut().filter(|_| live.repeated_bytes > 0) {
            let repeated = live.repeated_bytes.min(bytes.len() as u64);
            live.repeated_bytes -= repeated;
            bytes.advance(usize::try_from(repeated).unwrap_or(bytes.len()));
        }
        Ok(chunk)
    }

    async fn fail(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.live = None;
        self.failed_at = self.position;
        let config = self.transport.config();
        self.attempts.wait_after(error, config).await
    }

    async fn connect(&mut self) -> Result<(), FetchError> {
        while self.live.is_none() {
            let mut attempts = self.attempts.clone();
            let connecting = self.connect_once();
            let connected = attempts.attempt(&self.transport, WHAT, connecting).await;
            self.attempts = attempts;
            match connected {
                Ok(live) => self.live = Some(live),
                Err(error) => self.fail(error).await?,
            }
        }
        Ok(())
    }

    async fn connect_once(&self) -> Result<Live, FetchError> {
        if self.position > 0 {
            let answer = self.ask(self.position).await?;
            match answer.response.status() {
                StatusCode::PARTIAL_CONTENT if answer.range_start() == Some(self.position) => {
                    return Ok(self.live(answer, 0));
                }
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {}
                _ => return self.whole(answer).await,
            }
        }
        let answer = self.ask(0).await?;
        self.whole(answer).await
    }

    async fn ask(&self, start: u64) -> Result<Answer, FetchError> {
        let ask = Ask {
            start,
            caches: self.caches,
            ..Ask::get(WHAT)
        };
        self.transport.ask(&self.target, ask, None).await
    }

    async fn whole(&self, answer: Answer) -> Result<Live, FetchError> {
        let answer = expect_ok(&self.transport, answer, &self.url).await?;
        Ok(self.live(answer, self.position))
    }

    fn live(&self, answer: Answer, repeated_bytes: u64) -> Live {
        let config = self.transport.config();
        Live {
            answer,
            repeated_bytes,
            slowest: config.slowest.within(self.patience.left(config)),
            window: Duration::ZERO,
            window_bytes: 0,
        }
    }

    fn too_large(&self) -> FetchError {
        FetchError::TooLarge {
            url: self.url.clone(),
            limit_bytes: self.limit_bytes,
        }
    }
}

async fn expect_ok(transport: &Transport, answer: Answer, url: &str) -> Result<Answer, FetchError> {
    let status = answer.response.status();
    if status == StatusCode::OK {
        return Ok(answer);
    }
    let (message, error) = failure(transport, &answer.host, answer.response).await;
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return Err(FetchError::ReferenceNotFound {
            reference: url.to_owned(),
            message,
        });
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asked, Reply, Server, impatient};

    const CONTENT: &[u8] = b"a kernel, perhaps";

    /// Downloads from a server that does as the script says, twice where `is_wrong` says so.
    async fn download(
        script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
        is_wrong: impl Fn(&[u8]) -> bool,
    ) -> (Result<Vec<u8>, FetchError>, Vec<Asked>) {
        let server = Server::start(script).await;
        let config = Config {
            attempts: 3,
            backoff: Duration::from_millis(1),
            ..Config::clone(&impatient())
        };
        // In plain HTTP: what is asked for by people has to be https, and is judged before.
        let target = Url::parse(&format!("http://{}/kernel", server.authority())).unwrap();
        let result = async {
            let mut download = Download::connected(target, 100, Arc::new(config)).await?;
            let bytes = read(&mut download).await?;
            if !is_wrong(&bytes) {
                return Ok(bytes);
            }
            download.begin_anew().await?;
            read(&mut download).await
        };
        (result.await, server.asked())
    }

    async fn read(download: &mut Download) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = download.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn rest(asked: &Asked) -> Reply {
        let Some(range) = asked.header("range") else {
            return Reply::ok(CONTENT);
        };
        let start: usize = range["bytes=".len()..range.len() - 1].parse().unwrap();
        let range = format!("bytes {start}-{}/{}", CONTENT.len() - 1, CONTENT.len());
        Reply::new(206, &CONTENT[start..]).with("content-range", &range)
    }

    #[tokio::test]
    async fn a_broken_download_goes_on_where_it_broke() {
        let (result, asked) = download(
            |asked, before| match before {
                0 => rest(asked).cut_after(4),
                1 => Reply::status(503),
                _ => rest(asked),
            },
            |_| false,
        )
        .await;

        assert_eq!(result.unwrap(), CONTENT);
        let ranges: Vec<Option<&str>> = asked.iter().map(|asked| asked.header("range")).collect();
        assert_eq!(ranges, [None, Some("bytes=4-"), Some("bytes=4-")]);
    }

    #[tokio::test]
    async fn a_server_without_ranges_sends_all_again() {
        for misreading in [
            Reply::ok(CONTENT),
            Reply::status(416),
            Reply::new(206, "rnel").with("content-range", "bytes 5-8/17"),
        ] {
            let (result, _) = download(
                move |asked, before| match (before, asked.header("range")) {
                    (0, _) => Reply::ok(CONTENT).cut_after(4),
                    (_, Some(_)) => misreading.clone(),
                    (_, None) => Reply::ok(CONTENT),
                },
                |_| false,
            )
            .await;

            assert_eq!(result.unwrap(), CONTENT);
        }
    }

    #[tokio::test]
    async fn a_download_that_began_anew_passes_caches_by() {
        let (result, asked) = download(
            |_, before| match before {
                0 => Reply::ok("something else"),
                _ => Reply::ok(CONTENT),
            },
            |bytes| bytes != CONTENT,
        )
        .await;

        assert_eq!(result.unwrap(), CONTENT);
        assert_eq!(asked[1].header("cache-control"), Some("no-cache"));
    }

    #[tokio::test]
    async fn a_download_ends_with_troubles_that_do_not_and_with_too_many_bytes() {
        let (result, asked) = download(|_, _| Reply::ok(CONTENT).cut_after(0), |_| false).await;
        assert!(
            matches!(result, Err(FetchError::Unreachable { .. })),
            "{result:?}"
        );
        assert_eq!(asked.len(), 3);

        for reply in [Reply::ok([b'x'; 101]), Reply::ok([b'x'; 101]).unannounced()] {
            let (result, asked) = download(move |_, _| reply.clone(), |_| false).await;
            assert!(
                matches!(result, Err(FetchError::TooLarge { .. })),
                "{result:?}"
            );
            assert_eq!(asked.len(), 1);
        }
    }
}
