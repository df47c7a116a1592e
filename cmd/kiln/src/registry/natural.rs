//! The order in which people count: `1.9` before `1.10`.

use std::cmp::Ordering;

/// Compares two texts, numbers in them by their value.
pub(super) fn compare(one: &str, other: &str) -> Ordering {
    let (mut one_left, mut other_left) = (one, other);
    while let (Some(first), Some(second)) = (next(&mut one_left), next(&mut other_left)) {
        let ordering = match (first.number(), second.number()) {
            (Some(first), Some(second)) => first
                .len()
                .cmp(&second.len())
                .then_with(|| first.cmp(second)),
            _ => first.0.cmp(second.0),
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    // What goes on comes later; and `01` is not `1`, although they count alike.
    one_left
        .len()
        .cmp(&other_left.len())
        .then_with(|| one.cmp(other))
}

/// A run of digits, or of anything else.
struct Part<'a>(&'a str);

impl<'a> Part<'a> {
    /// Returns the digits without leading zeros, where it has any.
    fn number(&self) -> Option<&'a str> {
        let is_number = self.0.starts_with(|letter: char| letter.is_ascii_digit());
        is_number.then(|| self.0.trim_start_matches('0'))
    }
}

fn next<'a>(text: &mut &'a str) -> Option<Part<'a>> {
    let is_digit = text.chars().next()?.is_ascii_digit();
    let end = text.find(|letter: char| letter.is_ascii_digit() != is_digit);
    let (part, rest) = text.split_at(end.unwrap_or(text.len()));
    *text = rest;
    Some(Part(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_by_their_value() {
        let sorted = [
            "",
            "1",
            "01",
            "1.9",
            "1.9-rc1",
            "1.10",
            "1.10.0",
            "2",
            "10",
            "latest",
            "v2",
            "v10",
            "v10-alpine",
            "v18446744073709551616",
            "v99999999999999999999",
        ];
        for (at, one) in sorted.iter().enumerate() {
            for (other_at, other) in sorted.iter().enumerate() {
                // `1` and `01` count alike, and then the text decides.
                if [at, other_at] == [1, 2] || [at, other_at] == [2, 1] {
                    assert_eq!(compare(one, other), one.cmp(other));
                    continue;
                }
                assert_eq!(compare(one, other), at.cmp(&other_at), "{one:?} {other:?}");
            }
        }
    }
}
