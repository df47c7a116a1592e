//! Answers: a good one, and every way of spoiling it.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use flate2::write::GzEncoder;
use rustix::net::sockopt::set_socket_linger;

use super::fault::{Fault, Fields, How, Target};
use super::server::{Shared, pause, send, wait_for_end};
use crate::http::Message;

/// More than any document may have, in bytes.
const HUGE_BYTES: usize = 9 << 20;

/// Bytes sent at a time of what has no end.
const PIECE_BYTES: usize = 64 << 10;

/// How much of what has no end is sent, in bytes: a client that reads all of it has no limit.
const ENDLESS_BYTES: usize = 64 << 20;

/// How a body in chunks is announced.
const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// A demand for a new token.
const DEMAND: Fields = &[("www-authenticate", "Bearer realm=\"http://{home}/token\"")];

/// An informational answer.
const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";

/// Wait between two bytes of an answer that drips.
const DRIP: Duration = Duration::from_millis(50);

/// A connection on which one request was read.
pub(super) struct Connection<'c> {
    pub(super) stream: &'c TcpStream,
    pub(super) shared: &'c Shared,
    /// Whether the request was one whose answer has no body: HEAD.
    pub(super) is_bodiless: bool,
    /// Told how many bytes of the body were sent.
    pub(super) count: &'c dyn Fn(u64),
}

/// An answer as a good registry gives it.
#[derive(Clone, Debug)]
pub(super) struct Good {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Good {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            fields: Vec::new(),
            body: body.into(),
        }
    }

    /// The same under another status.
    fn under(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub(super) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, body).with("content-type", "application/json")
    }

    /// Says something in the head, in the place of what was said under this name.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.retain(|(other, _)| other != name);
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns what is said under this name.
    fn field(&self, name: &str) -> &str {
        let mut fields = self.fields.iter();
        let found = fields.find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(other, _)| other != name);
        self
    }

    /// Writes the head, which announces the length in the words of `length`.
    fn head(&self, length: &str) -> String {
        let mut head = format!("HTTP/1.1 {} Fault\r\n", self.status);
        for (name, value) in &self.fields {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str(length);
        head.push_str("\r\n");
        head
    }

    fn length(&self) -> String {
        format!("content-length: {}\r\n", self.body.len())
    }
}

/// Writes an answer; the connection goes on.
pub(super) fn write_good(connection: &mut Connection<'_>, good: &Good) -> Result<bool> {
    send(connection.stream, good.head(&good.length()).as_bytes())?;
    connection.body(&good.body)?;
    Ok(true)
}

impl Connection<'_> {
    fn body(&self, bytes: &[u8]) -> Result<()> {
        let bytes = if self.is_bodiless { b"" } else { bytes };
        for piece in bytes.chunks(PIECE_BYTES) {
            send(self.stream, piece)?;
            (self.count)(piece.len() as u64);
        }
        Ok(())
    }

    fn head_and(&self, good: &Good, length: &str, body: &[u8]) -> Result<()> {
        send(self.stream, good.head(length).as_bytes())?;
        self.body(body)
    }

    /// Ends the connection as a crash does.
    fn reset(&self) -> Result<bool> {
        set_socket_linger(self.stream, Some(Duration::ZERO))?;
        Ok(false)
    }

    fn endless(&self, piece: &[u8]) -> Result<()> {
        for _ in 0..ENDLESS_BYTES / piece.len() {
            send(self.stream, piece)?;
        }
        Ok(())
    }

    fn filled_in(&self, text: &str, target: &str) -> String {
        text.replace("{home}", &self.shared.home.to_string())
            .replace("{stranger}", &self.shared.stranger.to_string())
            .replace("{path}", target)
    }
}

/// Spoils a good answer; says whether the connection goes on.
pub(super) fn misbehave(
    connection: &mut Connection<'_>,
    fault: &Fault,
    good: &Good,
    request: &Message,
) -> Result<bool> {
    let target = request.start.split(' ').nth(1).unwrap_or_default();
    if let Some(answer) = another(connection, fault.how, good, target)? {
        return write_good(connection, &answer);
    }
    let stream = connection.stream;
    let half = good.body.len() / 2;
    let first = good.body.get(..half).unwrap_or_default();
    match fault.how {
        How::ResetBeforeHead | How::DoneAndReset => return connection.reset(),
        How::ResetInHead => {
            send(stream, b"HTTP/1.1 200 OK\r\ncontent-ty")?;
            return connection.reset();
        }
        How::ResetBody => {
            connection.head_and(good, &good.length(), first)?;
            return connection.reset();
        }
        How::CutBody => connection.head_and(good, &good.length(), first)?,
        How::CutBodyAndForgetToken => {
            connection.shared.forget_tokens();
            connection.head_and(good, &good.length(), first)?;
        }
        How::CutWrongBody => {
            let mut wrong = first.to_vec();
            if let Some(byte) = wrong.get_mut(half / 2) {
                *byte ^= 0x20;
            }
            connection.head_and(good, &good.length(), &wrong)?;
        }
        How::EndUnannounced => connection.head_and(good, "", first)?,
        How::LongerUnannounced => connection.head_and(good, "", &longer(good))?,
        How::CutChunks => connection.head_and(good, CHUNKED, &chunk(first))?,
        How::BrokenChunks => {
            let body = [chunk(first), b"no length\r\n".to_vec()].concat();
            connection.head_and(good, CHUNKED, &body)?;
        }
        How::GoodChunks => {
            let rest = good.body.get(half..).unwrap_or_default();
            let body = [chunk(first), chunk(rest), b"0\r\n\r\n".to_vec()].concat();
            connection.head_and(good, CHUNKED, &body)?;
            return Ok(true);
        }
        How::StallBeforeHead | How::DoneAndStall => wait_for_end(stream),
        How::StallBody => {
            connection.head_and(good, &good.length(), first)?;
            wait_for_end(stream);
        }
        How::DripHead => drip(connection, good.head(&good.length()).as_bytes())?,
        How::DripBody => {
            send(stream, good.head(&good.length()).as_bytes())?;
            drip(connection, &good.body)?;
        }
        How::EndlessBody(status) => {
            let answer = Good {
                status,
                ..good.clone()
            };
            connection.head_and(&answer, "", b"")?;
            connection.endless(&vec![b' '; PIECE_BYTES])?;
        }
        How::EndlessFields => {
            send(stream, b"HTTP/1.1 200 OK\r\n")?;
            connection.endless(b"x-filler: filler\r\n")?;
        }
        How::EndlessHints => while send(stream, HINT).is_ok() && pause(stream, DRIP) {},
        How::Hints => {
            send(stream, HINT)?;
            return write_good(connection, good);
        }
        How::Raw(bytes) => send(stream, bytes)?,
        How::CloseListener => {
            connection.shared.close();
            return connection.reset();
        }
        How::CloseAfterAnswer => drop(write_good(connection, good)?),
        // It closes the connection, or was answered above.
        _ => {}
    }
    Ok(false)
}

/// Returns the answer that is given in the place of the good one, where it is a whole one.
fn another(
    connection: &Connection<'_>,
    how: How,
    good: &Good,
    target: &str,
) -> Result<Option<Good>> {
    let body = |body| Good {
        body,
        ..good.clone()
    };
    let own = good.field("location");
    let filled_in = |answer: Good, fields: Fields| {
        fields.iter().fold(answer, |answer, (name, value)| {
            let value = connection.filled_in(value, target);
            answer.with(name, &value.replace("{location}", own))
        })
    };
    Ok(Some(match how {
        How::None | How::Image(_) | How::Edit(..) | How::WithoutQuery => good.clone(),
        How::As(status) => good.clone().under(status),
        How::Status(status, fields, body) => filled_in(Good::json(status, body), fields),
        How::Fields(fields) => filled_in(good.clone(), fields),
        How::Without(name) => good.clone().without(name),
        How::Body(media_type, body) => Good::new(200, body).with("content-type", media_type),
        How::Redirect(to) => redirect(connection, to, target),
        How::ForgetToken => {
            connection.shared.forget_tokens();
            filled_in(Good::json(401, "{}"), DEMAND)
        }
        How::Longer => body(longer(good)),
        How::Shorter => {
            let length = good.body.len().saturating_sub(1);
            body(good.body.get(..length).unwrap_or_default().to_vec())
        }
        How::WrongBytes => {
            let mut wrong = good.body.clone();
            let half = wrong.len() / 2;
            if let Some(byte) = wrong.get_mut(half) {
                *byte ^= 0x20;
            }
            body(wrong)
        }
        How::HugeAnnounced => body(vec![b' '; HUGE_BYTES]),
        How::HugeField => good.clone().with("x-filler", &"x".repeat(1 << 20)),
        How::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&good.body)?;
            body(encoder.finish()?).with("content-encoding", "gzip")
        }
        _ => return Ok(None),
    }))
}

fn longer(good: &Good) -> Vec<u8> {
    [good.body.as_slice(), b"and more"].concat()
}

fn redirect(connection: &Connection<'_>, to: Target, target: &str) -> Good {
    let answer = Good::json(307, "{}");
    let location = match to {
        Target::Itself => target.to_owned(),
        Target::Stranger => format!("http://{{stranger}}{target}?signature=secret-signature"),
        Target::Locked(scheme) => format!("http://{{stranger}}/locked/{scheme}{target}"),
        Target::Named(location) => location.to_owned(),
        Target::Nowhere => return answer,
    };
    answer.with("location", &connection.filled_in(&location, target))
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// Sends byte by byte, until all is sent or the client has had enough.
fn drip(connection: &Connection<'_>, bytes: &[u8]) -> Result<()> {
    for byte in bytes {
        send(connection.stream, &[*byte])?;
        if !pause(connection.stream, DRIP) {
            return Ok(());
        }
    }
    Ok(())
}
