//! `Link` headers (RFC 8288): where the next page of a list is.

/// Finds the target of the link with `rel="next"`.
///
/// Targets stand between angle brackets and may hold commas and semicolons, so the header is not
/// cut at those.
pub(super) fn next(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let (_, from_target) = rest.split_once('<')?;
        let (target, parameters) = from_target.split_once('>')?;
        let end = end_of_parameters(parameters);
        if is_next(&parameters[..end]) {
            return Some(target);
        }
        rest = &parameters[end..];
    }
}

/// Finds the comma that ends a link's parameters: one outside of quotation marks.
fn end_of_parameters(parameters: &str) -> usize {
    let mut is_quoted = false;
    for (at, letter) in parameters.char_indices() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => return at,
            _ => {}
        }
    }
    parameters.len()
}

fn is_next(parameters: &str) -> bool {
    parameters.split(';').any(|parameter| {
        let Some((name, value)) = parameter.split_once('=') else {
            return false;
        };
        let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel")
            && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_other_links() {
        let cases = [
            (
                r#"</v2/_catalog?last=a&n=2>; rel="next""#,
                Some("/v2/_catalog?last=a&n=2"),
            ),
            ("<https://r.io/v2/x>; rel=next", Some("https://r.io/v2/x")),
            (
                r#"</a,b;c>; title="x, <y>"; rel=prev, </n>; REL="last Next""#,
                Some("/n"),
            ),
            (r#"</a>; rel="prev""#, None),
            (r#"</a>; title="next""#, None),
            ("</a>", None),
            ("/a; rel=next", None),
            ("</a; rel=next", None),
            ("", None),
        ];
        for (header, want) in cases {
            assert_eq!(next(header), want, "{header}");
        }
    }
}
