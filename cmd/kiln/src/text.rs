//! Words for people: sizes, times, and text from outside that must not command a terminal.

use kiln_api::failure::printable;
use kiln_domain::ByteSize;

/// Returns text from outside as it may stand in one line.
pub(crate) fn cell(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Returns a size in binary units.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Returns a time of the wire to the second: `2026-01-31 12:00:00Z`.
pub(crate) fn time(text: &str) -> String {
    let is_ours = text.len() >= 20 && text.is_ascii() && text.ends_with('Z');
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(clock)) if is_ours => cell(&format!("{day} {clock}Z")),
        _ => cell(text),
    }
}

/// Returns what stands for an absent value.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(time("2026-01-31T12:00:00.123456Z"), "2026-01-31 12:00:00Z");
        assert_eq!(time("2026-01-31T12:00:00Z"), "2026-01-31 12:00:00Z");
        assert_eq!(time("soon"), "soon");
        assert_eq!(time("\u{1b}[2J"), r"\u{1b}[2J");
    }

    #[test]
    fn a_cell_is_one_harmless_line() {
        assert_eq!(cell("a\nb\tc\u{7}"), r"a b c\u{7}");
    }
}
