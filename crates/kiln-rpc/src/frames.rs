//! The frames jsonrpsee sends over a WebSocket: bare refusals among them get their code.
//!
//! jsonrpsee answers what is no call (no JSON, no request, too long, too many in a batch) from its
//! own loop around the connection, which no middleware sees. So the bytes it sends are cut into
//! frames (RFC 6455, section 5.2) and small texts are looked at. What comes in is not touched, and
//! what a refusal is called is in [`refusal`](crate::refusal).

use crate::refusal;

/// How the head of the answer begins behind which frames follow.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n";

/// First byte of a text that is one whole frame.
const WHOLE_TEXT: u8 = 0x81;

/// Lengths that say that the length follows, in two bytes or in eight.
const LENGTH_IN_TWO: u8 = 126;
const LENGTH_IN_EIGHT: u8 = 127;

/// Bytes on their way to one WebSocket client.
#[derive(Debug)]
pub(crate) struct Frames {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Heads of answers pass; `line` is the end of the one that is not finished.
    Head { line: Vec<u8>, is_switching: bool },
    /// The beginning of a frame, or the whole of one that may be a refusal.
    Frame { held: Vec<u8> },
    /// The rest of a frame that is none.
    Passing { left: u64 },
}

/// What the first bytes of a frame say.
struct FrameHead {
    length: usize,
    body_length: u64,
    is_whole_text: bool,
}

impl Default for Frames {
    fn default() -> Self {
        let (line, is_switching) = (Vec::new(), false);
        Self {
            state: State::Head { line, is_switching },
        }
    }
}

impl Frames {
    /// Takes the next `bytes` and appends to `ready` what can be sent.
    ///
    /// At most one small frame is held back, until it is whole.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], ready: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let (taken, next) = match &mut self.state {
                State::Head { line, is_switching } => pass_head(line, is_switching, bytes, ready),
                State::Frame { held } => hold(held, bytes, ready),
                State::Passing { left } => {
                    let taken = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                    ready.extend_from_slice(&bytes[..taken]);
                    *left -= taken as u64;
                    (taken, (*left == 0).then(next_frame))
                }
            };
            bytes = &bytes[taken..];
            if let Some(next) = next {
                self.state = next;
            }
        }
    }
}

fn next_frame() -> State {
    State::Frame { held: Vec::new() }
}

/// Passes one line, or what there is of it.
fn pass_head(
    line: &mut Vec<u8>,
    is_switching: &mut bool,
    bytes: &[u8],
    ready: &mut Vec<u8>,
) -> (usize, Option<State>) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let piece = &bytes[..end.map_or(bytes.len(), |end| end + 1)];
    ready.extend_from_slice(piece);
    // The line may begin with the body of an answer before this one, however long that is; no
    // body of ours has a line break in it.
    line.extend_from_slice(&piece[piece.len().saturating_sub(SWITCHING.len())..]);
    line.drain(..line.len().saturating_sub(SWITCHING.len()));
    if end.is_none() {
        return (piece.len(), None);
    }
    let is_head_over = *is_switching && line == b"\r\n";
    *is_switching |= line == SWITCHING;
    line.clear();
    (piece.len(), is_head_over.then(next_frame))
}

/// Takes bytes of a frame until it is clear what it is.
fn hold(held: &mut Vec<u8>, bytes: &[u8], ready: &mut Vec<u8>) -> (usize, Option<State>) {
    let Some(frame) = head_of(held) else {
        held.push(bytes[0]);
        // An empty frame is whole with its head, and nothing may follow that would show it.
        let is_empty = head_of(held).is_some_and(|frame| frame.body_length == 0);
        if is_empty {
            ready.append(held);
        }
        return (1, None);
    };
    let body_length = usize::try_from(frame.body_length).unwrap_or(usize::MAX);
    if !frame.is_whole_text || body_length > refusal::MAX_BYTES {
        ready.append(held);
        let left = frame.body_length;
        return (0, Some(State::Passing { left }));
    }
    let missing = frame.length + body_length - held.len();
    let taken = missing.min(bytes.len());
    held.extend_from_slice(&bytes[..taken]);
    if taken == missing {
        match refusal::coded(&held[frame.length..]) {
            Some(answer) => ready.extend(whole_text(&answer)),
            None => ready.extend_from_slice(held),
        }
        held.clear();
    }
    (taken, None)
}

/// Reads the head of a frame; nothing when it is not there yet.
fn head_of(bytes: &[u8]) -> Option<FrameHead> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, body_length) = match second & 0x7f {
        LENGTH_IN_TWO => (4, u64::from(u16::from_be_bytes(*bytes[2..].first_chunk()?))),
        LENGTH_IN_EIGHT => (10, u64::from_be_bytes(*bytes[2..].first_chunk()?)),
        length => (2, u64::from(length)),
    };
    Some(FrameHead {
        length,
        body_length,
        // What a server sends is not masked: its mask bit is not set.
        is_whole_text: first == WHOLE_TEXT && second & 0x80 == 0,
    })
}

fn whole_text(text: &str) -> Vec<u8> {
    let mut frame = vec![WHOLE_TEXT];
    match u16::try_from(text.len()) {
        Ok(length @ 0..=125) => frame.push(length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(LENGTH_IN_TWO);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(LENGTH_IN_EIGHT);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";
    const BARE: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#;

    /// Passes `bytes` in pieces of `step`.
    fn passed(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut frames, mut ready) = (Frames::default(), Vec::new());
        for piece in bytes.chunks(step) {
            frames.pass(piece, &mut ready);
        }
        ready
    }

    #[test]
    fn a_bare_refusal_gets_its_code_and_all_else_passes_however_it_is_cut() {
        let long = format!(r#"{{"result":"{}"}}"#, "x".repeat(70_000));
        let middling = format!(r#"{{"result":"{}"}}"#, "y".repeat(300));
        let (before, after) = (
            [HEAD, &whole_text(&long), &[0x8a, 0], &whole_text(&middling)].concat(),
            [&[0x88, 2, 3, 0xe8][..], &whole_text("{}"), &[0x81, 0]].concat(),
        );
        let sent = [&before[..], &whole_text(BARE), &after].concat();
        let coded = whole_text(&refusal::coded(BARE.as_bytes()).unwrap());
        let want = [&before[..], &coded, &after].concat();

        for step in [1, 2, 3, 7, 64, 4096, sent.len()] {
            assert!(passed(&sent, step) == want, "in pieces of {step}");
        }
    }

    #[test]
    fn an_answer_before_the_switch_is_no_frame() {
        let earlier = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"id\":\"\x81";
        let sent = [&earlier[..], HEAD, &whole_text(BARE)].concat();

        for step in [1, 5, sent.len()] {
            let got = passed(&sent, step);

            assert!(got.starts_with(earlier), "in pieces of {step}");
            let text = String::from_utf8_lossy(&got);
            assert!(text.contains("request.malformed"), "{text}");
        }
    }

    #[test]
    fn a_frame_that_is_not_one_whole_text_is_not_looked_at() {
        let mut first_half = whole_text(BARE);
        first_half[0] = 0x01;
        let mut binary = whole_text(BARE);
        binary[0] = 0x82;
        let sent = [HEAD, &first_half, &binary].concat();

        assert_eq!(passed(&sent, sent.len()), sent);
    }
}
