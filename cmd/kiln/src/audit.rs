//! `kiln audit …`: what callers did and were refused.

use clap::{Args, Subcommand, ValueEnum};
use kiln_api::audit::{Line, List, ListParams};
use kiln_api::page::MAX_LIMIT;
use kiln_domain::Timestamp;

use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::session::Session;
use crate::text::{cell, or_dash, time};
use crate::{pages, passwd};

/// What there is to do with lines.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the calls that changed something or were refused, oldest first
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Write them to standard output, as many as there are
    Export(ExportArguments),
}

/// Which lines.
#[derive(Debug, Args)]
pub(crate) struct FilterArguments {
    /// Only calls of this user: a uid, what the daemon calls the user, or the name on this host
    #[arg(long)]
    user: Option<String>,
    /// Only methods that begin so, such as image. or image.forget
    #[arg(long)]
    method: Option<String>,
    /// Only calls about this: an id, or what calls named it
    #[arg(long, value_name = "ID|NAME")]
    object: Option<String>,
    /// Only calls that ended so: ok, failed, or an error's code such as request.denied
    #[arg(long)]
    result: Option<String>,
    /// Only calls that ended then or later, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only calls that ended before, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only lines behind this sequence number
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
}

/// Which lines to list.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Which lines to write, and how.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// How to write them
    #[arg(long = "as", value_enum, value_name = "FORM", default_value_t = Form::Jsonl)]
    form: Form,
}

/// How an export looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One JSON object in a line for each call
    Jsonl,
    /// Comma-separated values with a header (RFC 4180)
    Csv,
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::List(arguments) => list(arguments, session).await,
            Self::Export(arguments) => export(arguments, session).await,
        }
    }
}

impl FilterArguments {
    fn page(&self, user: Option<&str>, after: Option<u64>, limit: u32) -> ListParams {
        ListParams {
            after,
            limit: Some(limit),
            user: user.map(str::to_owned),
            method: self.method.clone(),
            object: self.object.clone(),
            result: self.result.clone(),
            since: self.since,
            until: self.until,
        }
    }
}

async fn list(arguments: ListArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let filter = &arguments.filter;
    let first = filter.after;
    let lines = of_user(filter, async |user| {
        pages::collect(first, arguments.limit, async |after, limit| {
            let params = filter.page(user.as_deref(), after, limit);
            session.call::<List>(&client, &params).await
        })
        .await
    })
    .await?;
    session.output().list(
        &lines,
        &Columns {
            header: &["SEQ", "TIME", "WHO", "ROLE", "METHOD", "OBJECT", "RESULT"],
            row: &row,
            name: &|line: &Line| line.seq.to_string(),
        },
    )
}

/// Writes page after page, so that no number of lines is too many for this process.
async fn export(arguments: ExportArguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let filter = &arguments.filter;
    of_user(filter, async |user| {
        let mut after = filter.after;
        let mut is_first = true;
        loop {
            let params = filter.page(user.as_deref(), after, MAX_LIMIT);
            let page = session.call::<List>(&client, &params).await?;
            let mut text = String::new();
            if is_first && arguments.form == Form::Csv {
                text += HEADER;
            }
            is_first = false;
            for line in &page.items {
                match arguments.form {
                    Form::Jsonl => {
                        text += &output::harmless(&serde_json::to_string(line)?);
                        text.push('\n');
                    }
                    Form::Csv => text += &csv(line),
                }
            }
            output::write(&text)?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    })
    .await
}

/// Asks for the lines of a user whom the daemon may not know by that name.
async fn of_user<T>(
    filter: &FilterArguments,
    ask: impl AsyncFn(Option<String>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    match &filter.user {
        None => ask(None).await,
        Some(user) => passwd::by_name_or_uid(user, async |user| ask(Some(user)).await).await,
    }
}

fn row(line: &Line) -> Vec<String> {
    let who = match &line.user_name {
        Some(name) => format!("{} ({})", cell(&line.actor), cell(name)),
        None => cell(&line.actor),
    };
    let named = line.object_name.as_deref().or(line.object_id.as_deref());
    let result = match line.unwritten {
        0 => cell(&line.result),
        more => format!("{} (and {more} failed calls before)", cell(&line.result)),
    };
    vec![
        line.seq.to_string(),
        time(&line.at),
        who,
        line.role.to_string(),
        cell(&line.method),
        or_dash(named),
        result,
    ]
}

/// The names of the columns, those of the wire.
const HEADER: &str = "seq,at,actor,user_name,role,method,object_kind,object_name,object_id,\
                      result,request_id,operation_id,unwritten\r\n";

fn csv(line: &Line) -> String {
    let (seq, unwritten) = (line.seq.to_string(), line.unwritten.to_string());
    let text = |value: &'_ Option<String>| value.clone().unwrap_or_default();
    let fields = [
        seq,
        line.at.clone(),
        line.actor.clone(),
        text(&line.user_name),
        line.role.to_string(),
        line.method.clone(),
        text(&line.object_kind),
        text(&line.object_name),
        text(&line.object_id),
        line.result.clone(),
        line.request_id.clone(),
        text(&line.operation_id),
        unwritten,
    ];
    let fields: Vec<_> = fields.iter().map(|field| quoted(field)).collect();
    fields.join(",") + "\r\n"
}

/// Writes a field so that neither a reader of CSV nor a spreadsheet makes more of it than text: what
/// begins like a formula gets an apostrophe, as spreadsheets expect.
fn quoted(field: &str) -> String {
    let field = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{field}")
    } else {
        field.to_owned()
    };
    if field.contains([',', '"', '\n', '\r', '\'']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field
}

#[cfg(test)]
mod tests {
    use kiln_domain::access::Role;

    use super::*;

    #[test]
    fn a_field_is_text_to_readers_and_spreadsheets() {
        for (field, want) in [
            ("web", "web"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=cmd|' /C calc'!A0", "\"'=cmd|' /C calc'!A0\""),
            ("-1+1", "\"'-1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
        ] {
            assert_eq!(quoted(field), want, "{field}");
        }
    }

    #[test]
    fn a_line_has_as_many_fields_as_the_header() {
        let line = Line {
            seq: 7,
            at: "2026-01-31T12:00:00.000000Z".to_owned(),
            actor: "unix:1000".to_owned(),
            user_name: None,
            role: Role::User,
            method: "image.forget".to_owned(),
            object_kind: Some("image".to_owned()),
            object_name: Some("web".to_owned()),
            object_id: None,
            result: "request.denied".to_owned(),
            request_id: "r1".to_owned(),
            operation_id: None,
            unwritten: 2,
        };

        let text = csv(&line);

        let want = "7,2026-01-31T12:00:00.000000Z,unix:1000,,user,image.forget,image,web,,\
                    request.denied,r1,,2\r\n";
        assert_eq!(text, want);
        assert_eq!(HEADER.split(',').count(), text.split(',').count());
    }
}
