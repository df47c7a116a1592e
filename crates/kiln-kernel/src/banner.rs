//! Finds the release of a kernel in its bytes.

use memchr::memmem;

/// How the kernel's `linux_banner` begins.
const MARK: &[u8] = b"Linux version ";

/// Longest release, in bytes: `__NEW_UTS_LEN` of the kernel.
const MAX_RELEASE_BYTES: usize = 64;

/// What must be kept of one piece to find a banner that continues in the next.
const OVERLAP_BYTES: usize = MARK.len() + MAX_RELEASE_BYTES + 1;

/// Looks for `Linux version <release> ` in bytes that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct Banner {
    release: Option<String>,
    /// The end of what came before.
    tail: Vec<u8>,
}

impl Banner {
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        if self.release.is_some() {
            return;
        }
        // A banner across the border is found in the seam, any other in the piece itself.
        let mut seam = std::mem::take(&mut self.tail);
        seam.extend_from_slice(&bytes[..bytes.len().min(OVERLAP_BYTES)]);
        self.release = find(&seam).or_else(|| find(bytes));
        if bytes.len() < OVERLAP_BYTES {
            let surplus = seam.len().saturating_sub(OVERLAP_BYTES);
            self.tail = seam.split_off(surplus);
        } else {
            self.tail = bytes[bytes.len() - OVERLAP_BYTES..].to_vec();
        }
    }

    pub(crate) fn finish(self) -> Option<String> {
        self.release
    }
}

fn find(bytes: &[u8]) -> Option<String> {
    memmem::find_iter(bytes, MARK).find_map(|at| first_word(&bytes[at + MARK.len()..]))
}

/// Returns the release that a version text begins with: printable, starting with a digit, at
/// most 64 bytes, and followed by a space.
pub(crate) fn first_word(text: &[u8]) -> Option<String> {
    let length = text
        .iter()
        .take(MAX_RELEASE_BYTES + 1)
        .position(|byte| *byte == b' ')?;
    let word = &text[..length];
    let is_release = word.first()?.is_ascii_digit() && word.iter().all(u8::is_ascii_graphic);
    is_release.then(|| String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banner_is_found_wherever_the_pieces_are_cut() {
        let text =
            b"\0\0%s version %s\0Linux version \0Linux version 6.1.0-56-cloud-amd64 (x) #1\n";
        for size in 1..text.len() {
            let mut banner = Banner::default();
            for piece in text.chunks(size) {
                banner.take(piece);
            }
            assert_eq!(
                banner.finish().as_deref(),
                Some("6.1.0-56-cloud-amd64"),
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn only_plain_short_words_are_releases() {
        let long = format!("6{} ", "1".repeat(64));
        let cases: &[(&str, Option<&str>)] = &[
            ("6.1.0 (gcc)", Some("6.1.0")),
            ("6.1.0", None),
            ("six ", None),
            (" 6.1.0 ", None),
            ("6.1\x1b[31m ", None),
            (&long, None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(first_word(text.as_bytes()).as_deref(), *want, "{text:?}");
        }
    }
}
