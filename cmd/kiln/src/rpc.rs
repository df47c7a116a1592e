//! `kiln rpc METHOD`: any method of the daemon, as it stands on the wire.

use std::io::{self, Read as _};
use std::path::Path;

use clap::Args;
use kiln_api::operation::{OperationParams, Watch};
use kiln_api::{Failure, Method as _, codes};
use kiln_client::REQUEST_LIMIT_BYTES;
use kiln_files::{KeptError, read_kept_text};
use serde_json::{Map, Value};

use crate::failure::CommandError;
use crate::operation;
use crate::session::Session;

/// What to call.
#[derive(Debug, Args)]
#[command(after_help = "\
Values are JSON where they can be read as JSON, and text otherwise:
  kiln rpc image.list limit=5 all=true
  kiln rpc image.get image=web
  kiln rpc kernel.get name='\"123\"'
  kiln rpc rpc.discover")]
pub(crate) struct Arguments {
    /// Method such as image.list
    method: String,
    #[command(flatten)]
    params: Params,
}

/// With which parameters.
#[derive(Debug, Args)]
pub(crate) struct Params {
    /// Parameters as KEY=VALUE
    #[arg(value_name = "KEY=VALUE", conflicts_with = "input")]
    params: Vec<String>,
    /// File with the parameters as one JSON object; - is stdin
    #[arg(long, value_name = "FILE")]
    input: Option<String>,
}

/// Calls and prints the answer.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    // `kiln rpc discover` is that method with its dot turned into a space.
    let method = match arguments.method.as_str() {
        "discover" => "rpc.discover",
        method => method,
    };
    if method == Watch::NAME {
        let params = arguments.params.read()?;
        let params: OperationParams = serde_json::from_value(params)
            .map_err(|error| Failure::from_error(codes::request::INVALID_PARAMS, &error))?;
        return operation::watch(params.operation_id, session).await;
    }
    call(method, &arguments.params, session).await
}

/// Calls a method that is no subscription, and prints the answer.
pub(crate) async fn call(
    method: &str,
    params: &Params,
    session: &Session,
) -> Result<(), CommandError> {
    let params = params.read()?;
    let client = session.connect().await?;
    let answer = session.limited(method, client.raw(method, params)).await?;
    session.output().value(&answer)
}

impl Params {
    fn read(&self) -> Result<Value, CommandError> {
        match &self.input {
            Some(path) => read_params(path),
            None => Ok(Value::Object(parse_params(&self.params)?)),
        }
    }
}

fn parse_params(texts: &[String]) -> Result<Map<String, Value>, CommandError> {
    let mut params = Map::new();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| refused(format!("{text:?} is not a parameter such as limit=5")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        if params.insert(key.to_owned(), value).is_some() {
            return Err(refused(format!("the parameter {key:?} is given twice")));
        }
    }
    Ok(params)
}

fn read_params(path: &str) -> Result<Value, CommandError> {
    let limit = u64::from(REQUEST_LIMIT_BYTES);
    let mut text = String::new();
    let read = if path == "-" {
        let mut input = io::stdin().lock().take(limit + 1);
        input.read_to_string(&mut text).map(drop)
    } else {
        let read = read_kept_text(Path::new(path), limit);
        read.map(|read| text = read).map_err(|error| match error {
            KeptError::Io(error) => error,
            error => io::Error::other(error),
        })
    };
    read.map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => codes::file::NOT_FOUND,
            _ => codes::file::UNREADABLE,
        };
        let mut failure = Failure::new(code, format!("cannot read {path}"));
        failure.cause.push(error.to_string());
        failure
    })?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(params)) => Ok(Value::Object(params)),
        Ok(_) => Err(refused(format!("{path} does not hold one JSON object"))),
        Err(error) => {
            let mut failure = Failure::new(
                codes::request::INVALID_PARAMS,
                format!("{path} does not hold JSON"),
            );
            failure.cause.push(error.to_string());
            Err(failure.into())
        }
    }
}

fn refused(message: String) -> CommandError {
    CommandError::new(codes::request::INVALID_PARAMS, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(texts: &[&str]) -> Option<Value> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        parse_params(&texts).ok().map(Value::Object)
    }

    #[test]
    fn values_are_json_where_they_can_be() {
        let cases: &[(&[&str], Option<Value>)] = &[
            (&[], Some(json!({}))),
            (
                &["limit=5", "all=true"],
                Some(json!({"limit": 5, "all": true})),
            ),
            (&["image=web"], Some(json!({"image": "web"}))),
            (&["name=\"123\""], Some(json!({"name": "123"}))),
            (&["ref=a=b"], Some(json!({"ref": "a=b"}))),
            (&["x="], Some(json!({"x": ""}))),
            (&["limit"], None),
            (&["=5"], None),
            (&["a=1", "a=2"], None),
        ];
        for (texts, want) in cases {
            assert_eq!(parse(texts), *want, "{texts:?}");
        }
    }
}
