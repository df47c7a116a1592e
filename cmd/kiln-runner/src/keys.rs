//! What a person types at the console of a guest: everything is the guest's, but one escape.
//!
//! ```text
//! Ctrl-]  q        stop the machine
//! Ctrl-]  Ctrl-]   one Ctrl-] for the guest
//! Ctrl-]  other    both for the guest
//! ```

/// Ctrl-], as with telnet.
const ESCAPE: u8 = 0x1d;

/// Reads keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    is_escaped: bool,
}

/// What a piece of typing means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// For the guest.
    pub(crate) bytes: Vec<u8>,
    /// How often stopping was asked for.
    pub(crate) stops: usize,
}

impl Keys {
    /// Takes a piece of typing, cut anywhere.
    pub(crate) fn type_in(&mut self, piece: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for &byte in piece {
            match (self.is_escaped, byte) {
                (false, ESCAPE) => self.is_escaped = true,
                (false, _) => typed.bytes.push(byte),
                (true, b'q') => {
                    self.is_escaped = false;
                    typed.stops += 1;
                }
                (true, ESCAPE) => {
                    self.is_escaped = false;
                    typed.bytes.push(ESCAPE);
                }
                (true, _) => {
                    self.is_escaped = false;
                    typed.bytes.extend([ESCAPE, byte]);
                }
            }
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_escape_is_kept_from_the_guest() {
        type Case<'a> = (&'a [&'a [u8]], &'a [u8], usize);
        let cases: &[Case<'_>] = &[
            (&[b"ls\r"], b"ls\r", 0),
            (&[b"a\x1dqb"], b"ab", 1),
            (&[b"a\x1d", b"q"], b"a", 1),
            (&[b"\x1d\x1dq"], b"\x1dq", 0),
            (&[b"\x1dx"], b"\x1dx", 0),
            (&[b"\x1dq\x1dq"], b"", 2),
            (&[b"\x03q"], b"\x03q", 0),
        ];
        for (pieces, bytes, stops) in cases {
            let mut keys = Keys::default();
            let mut all = Typed::default();
            for piece in *pieces {
                let typed = keys.type_in(piece);
                all.bytes.extend(typed.bytes);
                all.stops += typed.stops;
            }
            let want = Typed {
                bytes: bytes.to_vec(),
                stops: *stops,
            };
            assert_eq!(all, want, "{pieces:?}");
        }
    }
}
