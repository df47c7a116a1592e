//! Commands on several things: each is tried, each gets its line, the exit code tells how many
//! went well.

use kiln_api::Failure;
use serde::Serialize;

use crate::failure::{self, CommandError};
use crate::output::{self, Amount, Format};
use crate::session::Session;

/// The exit code when some of a batch failed and some did not.
pub(crate) const EXIT_PARTIAL: u8 = 9;

/// What came of one thing.
#[derive(Debug, Serialize)]
pub(crate) struct Item<T> {
    /// The thing, as the caller wrote it.
    pub(crate) item: String,
    /// What came of it.
    #[serde(flatten)]
    pub(crate) outcome: Outcome<T>,
}

/// How it went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome<T> {
    /// Well.
    Ok(T),
    /// Not well.
    Error(Box<Failure>),
}

impl<T> Item<T> {
    /// Notes what came of one thing. Only failures that concern this thing alone are part of a
    /// batch; a lost reader ends it.
    pub(crate) fn new(item: String, result: Result<T, CommandError>) -> Result<Self, CommandError> {
        let outcome = match result {
            Ok(value) => Outcome::Ok(value),
            Err(CommandError::Failed(failure)) => Outcome::Error(failure),
            Err(other) => return Err(other),
        };
        Ok(Self { item, outcome })
    }
}

/// Prints what came of each: what went well on stdout, in the order asked for, failures on
/// stderr. `line` tells people about one that went well.
pub(crate) fn report<T: Serialize>(
    session: &Session,
    items: &[Item<T>],
    line: impl Fn(&str, &T) -> String,
) -> Result<(), CommandError> {
    let output = session.output();
    match (output.format, output.amount) {
        (Format::Table, amount) => {
            for item in items {
                let Outcome::Ok(value) = &item.outcome else {
                    continue;
                };
                let text = match amount {
                    Amount::Everything => line(&item.item, value),
                    Amount::Names => item.item.clone(),
                };
                output::write(&(text + "\n"))?;
            }
        }
        (Format::Ndjson, _) => items.iter().try_for_each(|item| output.value(item))?,
        (Format::Json | Format::Yaml, _) => output.value(&items)?,
    }
    verdict(session, items)
}

/// Says what failed, and ends with the batch's exit code.
pub(crate) fn verdict<T>(session: &Session, items: &[Item<T>]) -> Result<(), CommandError> {
    for item in items {
        if let Outcome::Error(failure) = &item.outcome {
            let text = failure::describe(failure, session.paint(), session.detail());
            output::note(&text);
        }
    }
    match exit_code(items) {
        0 => Ok(()),
        code => Err(CommandError::Reported(code)),
    }
}

/// The code all failures share when nothing went well; 9 when something did.
fn exit_code<T>(items: &[Item<T>]) -> u8 {
    let failed: Vec<u8> = items
        .iter()
        .filter_map(|item| match &item.outcome {
            Outcome::Ok(_) => None,
            Outcome::Error(failure) => Some(failure.exit_code),
        })
        .collect();
    match failed.first() {
        None => 0,
        Some(first) if failed.len() == items.len() && failed.iter().all(|code| code == first) => {
            *first
        }
        Some(_) => EXIT_PARTIAL,
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::codes;

    use super::*;

    fn item(code: Option<kiln_api::Code>) -> Item<u8> {
        let result = code.map_or(Ok(1), |code| Err(CommandError::new(code, "x")));
        Item::new("web".to_owned(), result).unwrap()
    }

    #[test]
    fn the_exit_code_tells_a_part_from_the_whole() {
        let missing = || item(Some(codes::image::NOT_FOUND));
        let denied = || item(Some(codes::request::DENIED));

        assert_eq!(exit_code(&[item(None)]), 0);
        assert_eq!(exit_code(&[missing()]), 3);
        assert_eq!(exit_code(&[missing(), missing()]), 3);
        assert_eq!(exit_code(&[missing(), denied()]), 9);
        assert_eq!(exit_code(&[item(None), missing()]), 9);
    }

    #[test]
    fn items_are_written_as_ok_or_error() {
        let text = |item| serde_json::to_value(item).unwrap();

        assert_eq!(
            text(item(None)),
            serde_json::json!({"item": "web", "ok": 1})
        );
        let failed = text(item(Some(codes::image::NOT_FOUND)));
        assert_eq!(failed["error"]["code"], "image.not_found");
    }
}
