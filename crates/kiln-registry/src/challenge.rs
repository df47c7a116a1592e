//! The `WWW-Authenticate` header (RFC 9110, 11.6.1): what a registry demands.
//!
//! ```text
//! Bearer realm="https://auth.example/token",service="example",scope="a,b", Basic realm="x"
//! ```

/// One demand of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password, with every request.
    Basic,
    /// A token, to be fetched from the realm.
    Bearer {
        /// The URL of the token endpoint, unchecked.
        realm: String,
        /// The name of the registry at the token endpoint.
        service: Option<String>,
    },
}

/// Reads all challenges out of all headers and returns the one to answer: a token before a
/// password. Schemes that are not known are skipped.
pub(crate) fn choose<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for (scheme, parameters) in split_challenges(header) {
            let value_of = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = value_of("realm")
            {
                let service = value_of("service");
                return Some(Challenge::Bearer { realm, service });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// Tells whether a registry knows the token and says that it allows too little (RFC 6750, 3.1).
pub(crate) fn is_scope_insufficient<'a>(headers: impl IntoIterator<Item = &'a str>) -> bool {
    let challenges = headers.into_iter().flat_map(split_challenges);
    challenges
        .flat_map(|(_, parameters)| parameters)
        .any(|(key, value)| key.eq_ignore_ascii_case("error") && value == "insufficient_scope")
}

type Parameters = Vec<(String, String)>;

/// Splits a header into schemes with their parameters. A word that is followed by `=` is a
/// parameter's name, any other begins a new challenge; commas inside quotes separate nothing.
fn split_challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        if word.is_empty() {
            return challenges;
        }
        if let Some(value) = behind.trim_start_matches([' ', '\t']).strip_prefix('=') {
            let (value, behind) = take_value(value.trim_start_matches([' ', '\t']));
            if let Some((_, parameters)) = challenges.last_mut() {
                parameters.push((word.to_owned(), value));
            }
            rest = behind;
        } else {
            challenges.push((word.to_owned(), Parameters::new()));
            rest = behind;
        }
    }
}

/// Takes a token or a quoted string, in which a backslash escapes one character.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, behind) = text.split_at(end);
        return (value.to_owned(), behind);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn a_token_that_allows_too_little_is_told_from_one_that_is_none() {
        for (header, want) in [
            (
                r#"Bearer realm="https://a",error="insufficient_scope""#,
                true,
            ),
            (
                r#"Basic realm="x", Bearer realm="a", Error=insufficient_scope"#,
                true,
            ),
            (r#"Bearer realm="https://a",error="invalid_token""#, false),
            (r#"Bearer realm="error=insufficient_scope""#, false),
        ] {
            assert_eq!(is_scope_insufficient([header]), want, "{header}");
        }
    }

    #[test]
    fn the_chosen_challenge_is_read_from_any_spelling() {
        let cases: Vec<(&[&str], Option<Challenge>)> = vec![
            (
                &[r#"Bearer realm="https://a/token",service="reg",scope="repository:x:pull,push""#],
                Some(bearer("https://a/token", Some("reg"))),
            ),
            (
                &[r#"bearer   Realm = "https://a/t" , SERVICE=plain"#],
                Some(bearer("https://a/t", Some("plain"))),
            ),
            (
                &[r#"Bearer realm="a\"b\\c,d""#],
                Some(bearer(r#"a"b\c,d"#, None)),
            ),
            (&[r#"Basic realm="Registry""#], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (
                &[r#"Basic realm="x", Bearer realm="https://a""#],
                Some(bearer("https://a", None)),
            ),
            (
                &[r#"Basic realm="x""#, r#"Bearer realm="https://a""#],
                Some(bearer("https://a", None)),
            ),
            (
                &[r#"Negotiate, Digest qop="auth, Bearer realm=evil", Basic realm=x"#],
                Some(Challenge::Basic),
            ),
            (&[r#"Bearer service="no realm""#], None),
            (&["Negotiate"], None),
            (&[""], None),
            (&[",,, ="], None),
            (
                &[r#"Bearer realm="unclosed"#],
                Some(bearer("unclosed", None)),
            ),
            (&["=x"], None),
            (&[r#"""#], None),
            (&[], None),
        ];
        for (headers, want) in cases {
            assert_eq!(choose(headers.iter().copied()), want, "reading {headers:?}");
        }
    }
}
