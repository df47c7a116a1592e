//! Standard output: everything the runner tells passes here, in order and at once.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line.
pub(crate) fn line(text: impl Display) {
    bytes(format!("{text}\n").as_bytes());
}

/// Prints a heading between two parts of the output.
pub(crate) fn heading(text: impl Display) {
    line(format_args!("\n=== {text}"));
}

/// Prints a command as a user would type it.
pub(crate) fn typed<W: AsRef<str>>(words: &[W]) {
    let words: Vec<String> = words.iter().map(|word| quoted(word.as_ref())).collect();
    line(format_args!("$ {}", words.join(" ")));
}

/// Prints bytes as they are.
pub(crate) fn bytes(piece: &[u8]) {
    let mut output = io::stdout().lock();
    // Whoever closed the output has nobody left to tell; the exit code still says how it went.
    drop(output.write_all(piece).and_then(|()| output.flush()));
}

/// Quotes a word for a shell, where it needs that; `&` stands for itself.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if word == "&" || !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        let cases = [
            ("unix:///a/b.sock", "unix:///a/b.sock"),
            ("a b", "'a b'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
        ];
        for (word, want) in cases {
            assert_eq!(quoted(word), want);
        }
    }
}
