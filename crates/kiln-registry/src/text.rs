//! Text from servers and archives, made fit for people's eyes and for logs.

use std::fmt;

/// Most bytes kept of what a server says about an error.
const MAX_KEPT_BYTES: usize = 1024;

/// Something a server said: at most 1 KiB, printed on one line without control characters.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerText(String);

impl ServerText {
    /// Keeps the first KiB of `text`.
    pub(crate) fn new(text: &str) -> Self {
        let mut end = text.len().min(MAX_KEPT_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].trim().to_owned())
    }

    /// Takes what matters out of an error body: the codes and messages of the distribution
    /// specification's error document, or else the text itself.
    pub(crate) fn of_error_body(body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct ErrorDocument {
            errors: Vec<ErrorEntry>,
        }
        #[derive(serde::Deserialize)]
        struct ErrorEntry {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        #[derive(serde::Deserialize)]
        struct Details {
            details: String,
        }
        if let Ok(document) = serde_json::from_slice::<ErrorDocument>(body) {
            let lines: Vec<String> = document
                .errors
                .iter()
                .take(4)
                .map(|entry| format!("{}: {}", entry.code, entry.message))
                .collect();
            return Self::new(&lines.join("; "));
        }
        if let Ok(document) = serde_json::from_slice::<Details>(body) {
            return Self::new(&document.details);
        }
        Self::new(&String::from_utf8_lossy(body))
    }

    /// Says whether the server said nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ServerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.0, f)
    }
}

impl fmt::Debug for ServerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Writes `text` with control and direction characters as escapes; everything else stays.
fn escape(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use fmt::Write as _;
    for letter in text.chars() {
        let turns_direction = matches!(
            letter,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        if letter.is_control() || turns_direction {
            write!(f, "{}", letter.escape_default())?;
        } else {
            f.write_char(letter)?;
        }
    }
    Ok(())
}

/// Returns what may be shown of a URL: query strings may be signatures, and user names come with
/// passwords, so neither is.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    if scheme.is_empty() {
        format!("{host}{path}")
    } else {
        format!("{scheme}://{host}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_short_and_printable() {
        let cases: &[(&[u8], &str)] = &[
            (
                br#"{"errors":[{"code":"DENIED","message":"no \u001b[31m way"},{"code":"X"}]}"#,
                r"DENIED: no \u{1b}[31m way; X: ",
            ),
            (
                br#"{"details":"incorrect username or password"}"#,
                "incorrect username or password",
            ),
            (b"one\ntwo\r\n", r"one\ntwo"),
            ("a\u{202e}b".as_bytes(), r"a\u{202e}b"),
            (b"\xff", "\u{fffd}"),
            (b"", ""),
        ];
        for (body, want) in cases {
            assert_eq!(
                ServerText::of_error_body(body).to_string(),
                want.trim_end(),
                "reading {:?}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn one_kibibyte_is_kept_and_no_character_cut() {
        let text = "€".repeat(1000);

        assert_eq!(ServerText::new(&text).to_string().len(), 1023);
    }

    #[test]
    fn what_is_shown_of_a_url_has_no_secrets() {
        let cases = [
            ("https://a.example/k?sig=s#x", "https://a.example/k"),
            ("https://ann:secret@a.example:8/k", "https://a.example:8/k"),
            ("https://a.example/k@v1", "https://a.example/k@v1"),
            ("/boot/vmlinux", "/boot/vmlinux"),
            ("https://", "https://"),
        ];
        for (url, want) in cases {
            assert_eq!(shown(url), want, "{url}");
        }
    }
}
