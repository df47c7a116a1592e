//! An HTTP proxy on loopback that remembers what went through it, and answers for names that no
//! resolver knows.
//!
//! It speaks `CONNECT` for HTTPS, and passes on plain requests that name a whole URL. Whatever host
//! was named, the connection goes to the one address that it was started for: so a test can have a
//! registry under a name of its own, which nobody is asked about.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest silence on a connection.
const SILENCE: Duration = Duration::from_secs(60);

/// Longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// A running proxy; it takes no more connections once this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request that went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `CONNECT`, or the method of a plain request.
    pub method: String,
    /// What was asked for: `host:port`, or a whole URL.
    pub target: String,
    /// The `Proxy-Authorization` field.
    pub authorization: Option<String>,
}

impl Proxy {
    /// Starts one that connects everybody to `target`, whatever they name.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::downgrade(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // The owner has gone, and woke us to see that.
                let Some(log) = log.upgrade() else {
                    return;
                };
                if let Ok(stream) = stream {
                    // A connection that breaks is the client's to report.
                    thread::spawn(move || serve(&stream, target, &log).ok());
                }
            }
        });
        Ok(Self { address, seen })
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns what went through so far.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.seen = Arc::default();
        // Wakes the listener; when it has ended already there is nobody to wake.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(client: &TcpStream, target: SocketAddr, log: &Mutex<Vec<Seen>>) -> Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let head = head_of(&mut reader)?;
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, asked) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let fields: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let field = |name: &str| {
        let found = fields.iter().filter_map(|line| line.split_once(": "));
        let mut found = found.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.to_owned())
    };
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Seen {
            method: method.to_owned(),
            target: asked.to_owned(),
            authorization: field("proxy-authorization"),
        });
    let mut server = TcpStream::connect(target)?;
    server.set_read_timeout(Some(SILENCE))?;
    let mut to_client = client.try_clone()?;
    if method == "CONNECT" {
        to_client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        let (_, rest) = asked
            .split_once("://")
            .context("a plain request without a URL")?;
        let path = rest.find('/').map_or("/", |slash| &rest[slash..]);
        // One request for a connection: the next one might be for another host.
        let kept = fields.iter().filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            !name.eq_ignore_ascii_case("connection")
                && !name.to_ascii_lowercase().starts_with("proxy-")
        });
        write!(server, "{method} {path} HTTP/1.1\r\n")?;
        for line in kept {
            write!(server, "{line}\r\n")?;
        }
        server.write_all(b"connection: close\r\n\r\n")?;
    }
    let mut from_server = server.try_clone()?;
    let answers = thread::spawn(move || {
        let copied = io::copy(&mut from_server, &mut to_client);
        // Whoever has hung up already has nothing to be told.
        to_client.shutdown(Shutdown::Write).ok();
        copied.ok()
    });
    io::copy(&mut reader, &mut server).ok();
    server.shutdown(Shutdown::Write).ok();
    answers.join().ok();
    Ok(())
}

fn head_of(reader: &mut impl BufRead) -> Result<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        reader
            .by_ref()
            .take(MAX_HEAD_BYTES as u64)
            .read_line(&mut head)?;
        if head.len() == before || head.len() > MAX_HEAD_BYTES {
            bail!("the head of a request breaks off");
        }
        if matches!(&head[before..], "\r\n" | "\n") {
            return Ok(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{self, Request};

    /// A server that says what it was asked, once.
    fn echo() -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let asked = http::receive(stream.try_clone()?)?;
            stream.write_all(&http::json_response("200 OK", &asked.start))?;
            Ok(())
        });
        Ok(address)
    }

    #[test]
    fn plain_requests_and_tunnels_lead_to_the_one_address() -> Result<()> {
        let request = |target| Request {
            method: "GET",
            target,
            fields: &[("proxy-authorization", "Basic eDp5")],
            body: b"",
        };
        let proxy = Proxy::start(echo()?)?;
        let mut plain = TcpStream::connect(proxy.address)?;
        let answer = http::exchange(&mut plain, "a.test", request("http://a.test/v2/"))?;
        assert_eq!(answer.body, b"GET /v2/ HTTP/1.1");

        let tunnelled = Proxy::start(echo()?)?;
        let mut tunnel = TcpStream::connect(tunnelled.address)?;
        tunnel.write_all(b"CONNECT b.test:443 HTTP/1.1\r\n\r\n")?;
        let mut greeting = [0; 39];
        tunnel.read_exact(&mut greeting)?;
        assert!(greeting.starts_with(b"HTTP/1.1 200"));
        let answer = http::exchange(&mut tunnel, "b.test", request("/x"))?;

        assert_eq!(answer.body, b"GET /x HTTP/1.1");
        assert_eq!(proxy.seen()[0].authorization.as_deref(), Some("Basic eDp5"));
        assert_eq!(tunnelled.seen()[0].target, "b.test:443");
        Ok(())
    }
}
