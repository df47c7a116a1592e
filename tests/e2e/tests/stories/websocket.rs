//! Just enough WebSocket (RFC 6455) to subscribe to something, byte by byte as another program
//! would.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::stage::LIMIT;

/// Opcodes (RFC 6455, section 5.2).
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;

pub(crate) struct WebSocket {
    stream: BufReader<UnixStream>,
    next_id: u64,
}

impl WebSocket {
    /// Connects and shakes hands.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(
            b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )?;
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                bail!("the handshake ended after {head:?}");
            }
        }
        // The answer to the key above (RFC 6455, section 1.3).
        if !head.starts_with("HTTP/1.1 101") || !head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            bail!("no handshake: {head}");
        }
        Ok(Self { stream, next_id: 1 })
    }

    /// Sends one text.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        let mut frame = vec![0x80 | TEXT];
        match u16::try_from(text.len()) {
            Ok(length @ 0..=125) => frame.push(0x80 | length.to_be_bytes()[1]),
            Ok(length) => {
                frame.push(0x80 | 0x7e);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 0x7f);
                frame.extend((text.len() as u64).to_be_bytes());
            }
        }
        // A mask of zeros leaves the text as it is.
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        Ok(self.stream.get_mut().write_all(&frame)?)
    }

    /// Receives the next text as JSON; nothing when the daemon closes.
    pub(crate) fn receive(&mut self) -> Result<Option<Value>> {
        loop {
            let mut head = [0; 2];
            if self.stream.read_exact(&mut head).is_err() {
                return Ok(None);
            }
            let length = match head[1] {
                126 => {
                    let mut bytes = [0; 2];
                    self.stream.read_exact(&mut bytes)?;
                    u64::from(u16::from_be_bytes(bytes))
                }
                127 => {
                    let mut bytes = [0; 8];
                    self.stream.read_exact(&mut bytes)?;
                    u64::from_be_bytes(bytes)
                }
                length => u64::from(length),
            };
            let mut body = vec![0; usize::try_from(length)?];
            self.stream.read_exact(&mut body)?;
            match head[0] & 0x0f {
                TEXT => return Ok(Some(serde_json::from_slice(&body)?)),
                CLOSE => return Ok(None),
                PING => {}
                opcode => bail!("a frame of kind {opcode}"),
            }
        }
    }

    /// Calls a method and returns its whole answer.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(&request.to_string())?;
        loop {
            let answer = self.receive()?.context("closed before the answer")?;
            if answer["id"] == json!(id) {
                return Ok(answer);
            }
        }
    }
}
