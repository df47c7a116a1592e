//! Just enough HTTP/1.1 to ask a registry or a daemon, and to be asked for a token.
//!
//! One exchange per connection, bodies in memory. What the daemon itself speaks is elsewhere, so
//! that a test sees the bytes another program would send.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail};

/// Largest body read, in bytes.
const MAX_BODY_BYTES: u64 = 256 << 20;

/// A request to send.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Such as `GET`.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Fields beyond `host`, `connection` and `content-length`.
    pub fields: &'a [(&'a str, &'a str)],
    /// The body; empty where there is none.
    pub body: &'a [u8],
}

/// A response, or a request as a server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The first line, without its end.
    pub start: String,
    /// Fields in the order they came, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// Returns the status of a response.
    pub fn status(&self) -> Result<u16> {
        self.start
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("no status in {:?}", self.start))
    }

    /// Returns the first field of this name, which is in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value.as_str())
    }
}

/// Sends a request over `stream` and reads the response.
pub fn exchange(
    stream: &mut (impl Read + Write),
    host: &str,
    request: Request<'_>,
) -> Result<Message> {
    let Request {
        method,
        target,
        fields,
        body,
    } = request;
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in fields {
        write!(head, "{name}: {value}\r\n")?;
    }
    write!(head, "content-length: {}\r\n\r\n", body.len())?;
    let bytes = [head.as_bytes(), body].concat();
    stream
        .write_all(&bytes)
        .context("cannot send the request")?;
    stream.flush().context("cannot send the request")?;
    read(&mut BufReader::new(stream), Body::MayEndWithStream)
}

/// Reads a request from a client.
pub(crate) fn receive(stream: impl Read) -> Result<Message> {
    read(&mut BufReader::new(stream), Body::HasLength)
}

/// Reads the head of a request; the body is still to come.
pub(crate) fn receive_head(stream: &mut impl BufRead) -> Result<Message> {
    head(stream)
}

/// Reads the body behind the head of a request.
pub(crate) fn receive_body(stream: &mut impl BufRead, message: &mut Message) -> Result<()> {
    body(stream, message, Body::HasLength)
}

/// Returns the bytes of a JSON response.
pub(crate) fn json_response(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// How a message without a length ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// It has no body: requests.
    HasLength,
    /// With the stream: responses.
    MayEndWithStream,
}

fn read(stream: &mut impl BufRead, without_length: Body) -> Result<Message> {
    let mut message = head(stream)?;
    body(stream, &mut message, without_length)?;
    Ok(message)
}

fn head(stream: &mut impl BufRead) -> Result<Message> {
    let start = line(stream)?;
    let mut fields = Vec::new();
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').context("a field without a colon")?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Message {
        start,
        fields,
        body: Vec::new(),
    })
}

fn body(stream: &mut impl BufRead, message: &mut Message, without_length: Body) -> Result<()> {
    if message.field("transfer-encoding") == Some("chunked") {
        message.body = chunks(stream)?;
    } else if let Some(length) = message.field("content-length") {
        message.body = exactly(stream, length.parse().context("a bad content-length")?)?;
    } else if without_length == Body::MayEndWithStream {
        stream
            .take(MAX_BODY_BYTES)
            .read_to_end(&mut message.body)
            .context("cannot read the body")?;
    }
    Ok(())
}

fn chunks(stream: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = line(stream)?;
        let digits = line.split(';').next().unwrap_or_default();
        let length = u64::from_str_radix(digits, 16).context("a bad length of a chunk")?;
        body.extend(exactly(stream, length)?);
        // The line end after the data, or the empty line after the last chunk.
        self::line(stream)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

fn exactly(stream: &mut impl BufRead, length: u64) -> Result<Vec<u8>> {
    if length > MAX_BODY_BYTES {
        bail!("a body of {length} bytes");
    }
    let mut bytes = vec![0; usize::try_from(length)?];
    stream
        .read_exact(&mut bytes)
        .context("the body ends early")?;
    Ok(bytes)
}

fn line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    stream
        .take(64 << 10)
        .read_line(&mut line)
        .context("cannot read a line")?;
    if !line.ends_with('\n') {
        bail!("the connection ended after {line:?}");
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_by_length_by_chunks_or_with_the_stream() -> Result<()> {
        let cases = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nhello",
        ];
        for text in cases {
            let message = read(&mut text.as_bytes(), Body::MayEndWithStream)?;
            assert_eq!(message.status()?, 200);
            assert_eq!(message.body, b"hello", "{text:?}");
        }
        Ok(())
    }

    #[test]
    fn a_message_that_ends_early_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\nA: b",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe",
        ] {
            let result = read(&mut text.as_bytes(), Body::MayEndWithStream);
            assert_eq!(result.ok(), None, "{text:?}");
        }
    }
}
