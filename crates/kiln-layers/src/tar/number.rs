//! The number formats of tar headers and PAX records.
//!
//! What a number means, and whether it is in range for that, is not here.

use kiln_tree::Timestamp;

const NANOSECONDS: i128 = 1_000_000_000;

/// Reads a header's number: octal digits between spaces and NULs, or base 256 when the first bit
/// is set (two's complement behind that bit, GNU and star). An empty field is 0.
pub(crate) fn header_field(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn base256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    // The flag bit goes, the next one is the sign.
    let start = i128::from((first << 1).cast_signed() >> 1);
    let value = rest.iter().try_fold(start, |value, byte| {
        value.checked_mul(256)?.checked_add(i128::from(*byte))
    })?;
    value.try_into().ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_padding(byte));
    let text = &field[start.unwrap_or(field.len())..];
    let end = text.iter().position(is_padding).unwrap_or(text.len());
    let (digits, padding) = text.split_at(end);
    if !padding.iter().all(is_padding) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Reads a decimal number without sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Reads a PAX time: decimal seconds since 1970, perhaps negative, perhaps with a fraction, which
/// is rounded down to nanoseconds.
pub(crate) fn time(text: &[u8]) -> Option<Timestamp> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (kept, dropped) = fraction.split_at(fraction.len().min(9));
    let nanoseconds = kept
        .iter()
        .chain(std::iter::repeat(&b'0'))
        .take(9)
        .fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
    let size = i128::from(decimal(whole)?) * NANOSECONDS + nanoseconds;
    let has_rest = dropped.iter().any(|digit| *digit != b'0');
    let value = match (is_negative, has_rest) {
        (false, _) => size,
        (true, false) => -size,
        (true, true) => -size - 1,
    };
    Some(Timestamp {
        seconds: value.div_euclid(NANOSECONDS).try_into().ok()?,
        nanoseconds: value.rem_euclid(NANOSECONDS).try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_numbers_are_octal_or_base_256() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"  644 \0 ", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"77777777777", Some(0o77_777_777_777)),
            (b"0000649\0", None),
            (b"+644\0", None),
            (b"-1\0", None),
            (b"64 4\0", None),
            (b"0x1f\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfb", Some(-5)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (field, want) in cases {
            assert_eq!(header_field(field), *want, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn decimals_have_digits_only() {
        let cases: &[(&[u8], Option<u64>)] = &[
            (b"0", Some(0)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"+1", None),
            (b"-1", None),
            (b" 1", None),
            (b"", None),
        ];
        for (text, want) in cases {
            assert_eq!(decimal(text), *want, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn times_are_rounded_down() {
        let at = |seconds, nanoseconds| {
            Some(Timestamp {
                seconds,
                nanoseconds,
            })
        };
        let cases: &[(&[u8], Option<Timestamp>)] = &[
            (b"0", at(0, 0)),
            (b"1700000000.123456789", at(1_700_000_000, 123_456_789)),
            (b"1.5", at(1, 500_000_000)),
            (b"1.", at(1, 0)),
            (b"1.1234567899", at(1, 123_456_789)),
            (b"-5", at(-5, 0)),
            (b"-0.5", at(-1, 500_000_000)),
            (b"-1.0000000001", at(-2, 999_999_999)),
            (b"-9223372036854775808", at(i64::MIN, 0)),
            (b"-9223372036854775808.1", None),
            (b"9223372036854775808", None),
            (b".5", None),
            (b"--5", None),
            (b"1.5.5", None),
            (b"1e5", None),
            (b"", None),
        ];
        for (text, want) in cases {
            assert_eq!(time(text), *want, "{}", text.escape_ascii());
        }
    }
}
