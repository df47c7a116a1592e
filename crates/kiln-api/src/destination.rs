//! Where something is written, or deleted: at a registry that is named.
//!
//! Reading a short name, such as `app:1`, is a matter of this host's aliases and search registries.
//! Whoever writes must not be led elsewhere by them, so nothing is guessed there, not even
//! docker.io.

use kiln_domain::Reference;

use crate::{Failure, codes};

/// Reads where something is to be written.
pub fn destination(text: &str) -> Result<Reference, Failure> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    let reference: Reference = text
        .parse()
        .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    if !Reference::is_short(text) {
        return Ok(reference);
    }
    let message =
        format!("{text:?} names no registry, and nothing is changed at one that is guessed");
    Err(
        Failure::new(codes::source::INVALID_REFERENCE, message).with_hint(
            format!(
                "write the registry in front, such as docker.io/{}",
                reference.repository()
            ),
            None,
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_write_to_names_its_registry() {
        let cases = [
            ("r.example/app:1", Ok("r.example/app:1")),
            ("docker://localhost/app", Ok("localhost/app:latest")),
            ("docker.io/app", Ok("docker.io/library/app:latest")),
            ("app", Err("docker.io/library/app")),
            ("team/app:1", Err("docker.io/team/app")),
            ("app:1", Err("docker.io/library/app")),
        ];
        for (text, want) in cases {
            match (destination(text), want) {
                (Ok(found), Ok(want)) => assert_eq!(found.to_string(), want),
                (Err(failure), Err(want)) => {
                    assert_eq!(failure.code, "source.invalid_reference");
                    assert!(failure.hint.unwrap().text.ends_with(want), "{text}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        let unreadable = destination("r.example/UPPER").unwrap_err();
        assert_eq!(unreadable.code, "source.invalid_reference");
    }
}
