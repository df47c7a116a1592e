//! Prints data on stdout: a table for people, JSON or YAML for programs.
//!
//! Names of members are those of the wire. Messages and progress go to stderr, elsewhere.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use kiln_api::failure::{is_hostile, printable};
use kiln_api::{Failure, codes};
use serde::Serialize;

use crate::failure::CommandError;

/// How to print data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns or lines for people
    Table,
    /// One JSON document
    Json,
    /// One JSON document in a line for each item
    Ndjson,
    /// One YAML document
    Yaml,
}

/// How much to print in the table format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// All of it.
    Everything,
    /// Ids or names.
    Names,
}

/// Where data goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) amount: Amount,
}

/// How a list looks to people.
pub(crate) struct Columns<'a, T> {
    pub(crate) header: &'a [&'a str],
    pub(crate) row: &'a dyn Fn(&T) -> Vec<String>,
    pub(crate) name: &'a dyn Fn(&T) -> String,
}

impl Output {
    /// Prints a list.
    pub(crate) fn list<T: Serialize>(
        self,
        items: &[T],
        columns: &Columns<'_, T>,
    ) -> Result<(), CommandError> {
        let text = match (self.format, self.amount) {
            (Format::Table, Amount::Everything) => {
                table(columns.header, items.iter().map(columns.row).collect())
            }
            (Format::Table, Amount::Names) => items
                .iter()
                .map(|item| printable(&(columns.name)(item)) + "\n")
                .collect(),
            (Format::Ndjson, _) => lines(items)?,
            (Format::Json | Format::Yaml, _) => self.document(&items)?,
        };
        write(&text)
    }

    /// Prints one thing; `table` writes it for people, `name` is its id or name.
    pub(crate) fn one<T: Serialize>(
        self,
        item: &T,
        name: &str,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), CommandError> {
        let text = match (self.format, self.amount) {
            (Format::Table, Amount::Everything) => table(item),
            (Format::Table, Amount::Names) => printable(name) + "\n",
            (Format::Json | Format::Ndjson | Format::Yaml, _) => self.document(item)?,
        };
        write(&text)
    }

    /// Prints one thing that has no form for people: JSON in place of a table.
    pub(crate) fn value(self, item: &impl Serialize) -> Result<(), CommandError> {
        write(&self.document(item)?)
    }

    fn document(self, item: &impl Serialize) -> Result<String, CommandError> {
        Ok(match self.format {
            Format::Table | Format::Json => harmless(&serde_json::to_string_pretty(item)?) + "\n",
            Format::Ndjson => harmless(&serde_json::to_string(item)?) + "\n",
            Format::Yaml => serde_yaml_ng::to_string(item).map_err(io::Error::other)?,
        })
    }
}

/// Writes text to stdout.
pub(crate) fn write(text: &str) -> Result<(), CommandError> {
    write_bytes(text.as_bytes())
}

/// Writes bytes to stdout, which may be no text.
pub(crate) fn write_bytes(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes);
    written.and_then(|()| stdout.flush()).map_err(not_written)
}

/// Copies bytes to stdout.
pub(crate) fn write_from(bytes: &mut impl io::Read) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    let written = io::copy(bytes, &mut stdout);
    written.and_then(|_| stdout.flush()).map_err(not_written)
}

fn not_written(error: io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return error.into();
    }
    let mut failure = Failure::new(codes::storage::FAILED, "cannot write the output");
    failure.cause.push(error.to_string());
    failure.hint = None;
    failure.into()
}

/// Writes a message to stderr.
pub(crate) fn note(text: &str) {
    // Whoever closed stderr does not want to know, and there is nobody else to tell.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Escapes in a JSON document what would command a terminal, in JSON's own way: it means the same to
/// whoever reads it. JSON itself demands that of less than half of it.
pub(crate) fn harmless(document: &str) -> String {
    if !document.contains(is_hostile) {
        return document.to_owned();
    }
    let escaped = |c: char| {
        if is_hostile(c) {
            // All of them are in the first plane: one unit of UTF-16 each.
            format!("\\u{:04x}", u32::from(c))
        } else {
            c.to_string()
        }
    };
    document.chars().map(escaped).collect()
}

/// Writes one JSON document per line.
fn lines(items: &[impl Serialize]) -> Result<String, CommandError> {
    items.iter().try_fold(String::new(), |text, item| {
        Ok(text + &harmless(&serde_json::to_string(item)?) + "\n")
    })
}

/// Lays out columns without borders; lines do not end in blanks.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// Lays out pairs of a label and a value, one per line.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs
        .iter()
        .map(|(label, _)| label.len())
        .max()
        .unwrap_or(0);
    let line = |(label, value): &(&str, String)| format!("{label:<width$}  {value}\n");
    pairs.iter().map(line).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_means_the_same_and_commands_no_terminal() {
        let text = "\u{1b}[2J\u{9b}2J\u{202e}\u{7f}é\n";
        let document = harmless(&serde_json::to_string(text).unwrap());

        assert!(!document.contains(is_hostile), "{document:?}");
        let back: String = serde_json::from_str(&document).unwrap();
        assert_eq!(back, text);
    }

    #[test]
    fn a_table_has_columns_and_no_borders() {
        let rows = vec![
            vec!["web".to_owned(), "1.0 GiB".to_owned()],
            vec!["debian-bookworm".to_owned(), "4.0 GiB".to_owned()],
        ];

        assert_eq!(
            table(&["NAME", "SIZE"], rows),
            "NAME             SIZE\nweb              1.0 GiB\ndebian-bookworm  4.0 GiB\n"
        );
        assert_eq!(table(&["NAME", "SIZE"], Vec::new()), "NAME  SIZE\n");
    }

    #[test]
    fn pairs_line_up() {
        assert_eq!(
            pairs(&[("id", "1".to_owned()), ("name", "web".to_owned())]),
            "id    1\nname  web\n"
        );
    }

    #[test]
    fn documents_keep_the_names_of_the_wire() {
        #[derive(Serialize)]
        struct Item {
            size_bytes: u64,
        }
        let output = |format| Output {
            format,
            amount: Amount::Everything,
        };
        let item = Item { size_bytes: 4 };

        let text = |format| output(format).document(&item).unwrap();
        assert_eq!(text(Format::Json), "{\n  \"size_bytes\": 4\n}\n");
        assert_eq!(text(Format::Ndjson), "{\"size_bytes\":4}\n");
        assert_eq!(text(Format::Yaml), "size_bytes: 4\n");
        assert_eq!(lines(&[1, 2]).unwrap(), "1\n2\n");
    }
}
