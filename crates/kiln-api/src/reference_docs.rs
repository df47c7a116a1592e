//! The reference pages `docs/api.md` and `docs/errors.md`, printed from the same descriptions that
//! the daemon serves from.

use std::fmt::Write as _;

use serde_json::Value;

use crate::code::Class;
use crate::codes;
use crate::method::{Cost, Description};
use crate::spellings;

/// Prints `docs/errors.md`.
pub fn errors_page() -> String {
    let mut page = String::from(
        "# Errors\n\nThis page is printed from the code; do not edit it.\n\n\
         Every failed call carries a `code` from this table, a `message`, the `cause` chain, a `hint` \
         with the next step, and whether the same call may succeed later (`retryable`). The class \
         decides the client's exit code, the JSON-RPC number, and the HTTP status that says the same \
         (`http_status`): JSON-RPC over HTTP answers 200 whatever came of the call. `daemon.unreachable` \
         is the client's own and exits with 7.\n\n\
         ## Classes\n\n| class | exit code | HTTP | JSON-RPC |\n|---|---|---|---|\n",
    );
    for class in Class::ALL {
        line(
            &mut page,
            &[
                class.as_str(),
                &class.exit_code().to_string(),
                &class.http_status().to_string(),
                &class.rpc_number().to_string(),
            ],
        );
    }
    page.push_str("\n## Codes\n\n| code | class | retry | what it means | what to do |\n|---|---|---|---|---|\n");
    for code in codes::all() {
        let name = format!("`{}`", code.name);
        let retry = if code.retryable { "yes" } else { "no" };
        line(
            &mut page,
            &[
                &name,
                code.class.as_str(),
                retry,
                code.meaning,
                code.next_step,
            ],
        );
    }
    page
}

/// Prints `docs/api.md`.
pub fn api_page(descriptions: &[Description]) -> String {
    let mut page = String::from(
        "# API\n\nThis page is printed from the code; do not edit it. The same as a machine reads it: \
         `kiln rpc rpc.discover`.\n\n\
         JSON-RPC 2.0 over HTTP POST or WebSocket on the daemon's Unix socket. Parameters are one \
         object; unknown keys are refused. Every method also takes `user_id` and `client_role`, and refuses \
         the call when they are not the caller's own (`user.whoami`). An `id` is a string, null, or an unsigned integer of at most 64 bits: a \
         request with any other, such as -1 or 1.5, is taken for a notification, and gets no answer over \
         a WebSocket and `request.malformed` over HTTP. For instance:\n\n```\n\
         curl --unix-socket /run/kiln/kiln.sock -H 'content-type: application/json' \\\n  \
         -d '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"image.list\",\"params\":{}}' http://localhost/\n```\n",
    );
    for description in descriptions {
        method(&mut page, description);
    }
    page
}

fn method(page: &mut String, description: &Description) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "\n## `{}`\n\n{}",
        description.name, description.summary
    );
    if let Some(subscription) = description.subscription {
        let _ = writeln!(
            page,
            "\nA subscription: items come as `{}`; `{}` ends it.",
            subscription.notification, subscription.unsubscribe
        );
    }
    if description.cost == Cost::Costly {
        let _ = writeln!(
            page,
            "\nCostly: one user may make so many of these calls in a while (`request.rate_limited`)."
        );
    }
    fields(page, "Parameters", description.params.as_value());
    if let Some(spelling) = spellings::of(description.name) {
        let others: Vec<_> = spelling
            .others
            .iter()
            .map(|word| format!("`{word}`"))
            .collect();
        let _ = writeln!(
            page,
            "\n`{}` may also be called {}; two of them in one call must say the same.",
            spelling.parameter,
            others.join(", ")
        );
    }
    fields(page, "Result", description.result.as_value());
    if !description.errors.is_empty() {
        let names: Vec<_> = description
            .errors
            .iter()
            .map(|code| format!("`{}`", code.name))
            .collect();
        let _ = writeln!(page, "\nErrors: {}.", names.join(", "));
    }
}

fn fields(page: &mut String, title: &str, schema: &Value) {
    let schema = match schema.get("anyOf").and_then(Value::as_array) {
        Some(choices) => choices.first().unwrap_or(schema),
        None => schema,
    };
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    if properties.is_empty() {
        return;
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let _ = writeln!(
        page,
        "\n{title}:\n\n| field | type | always | meaning |\n|---|---|---|---|"
    );
    for (name, schema) in properties {
        let always = if required.contains(&name.as_str()) {
            "yes"
        } else {
            ""
        };
        let description = schema
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or("");
        line(
            page,
            &[
                &format!("`{name}`"),
                &type_of(schema),
                always,
                &description.replace('\n', " "),
            ],
        );
    }
}

fn type_of(schema: &Value) -> String {
    match schema.get("type") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(types)) => types
            .iter()
            .filter_map(Value::as_str)
            .filter(|text| *text != "null")
            .collect::<Vec<_>>()
            .join(" or "),
        _ if schema.get("anyOf").is_some() => "object".to_owned(),
        _ if schema.get("enum").is_some() || schema.get("oneOf").is_some() => "string".to_owned(),
        _ => "any".to_owned(),
    }
}

fn line(page: &mut String, cells: &[&str]) {
    let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(page, "| {} |", escaped.join(" | "));
}
