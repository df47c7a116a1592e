//! The OpenRPC document, made from method descriptions (OpenRPC specification 1.3.2).

use serde_json::{Value, json};

use crate::code::Code;
use crate::method::{Cost, Description};
use crate::spellings;

/// Makes the document that `rpc.discover` answers with.
///
/// `descriptions` come in the order they were registered, and so do the methods.
pub fn document(descriptions: &[Description]) -> Value {
    let methods: Vec<Value> = descriptions.iter().map(method).collect();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "Kiln",
            "description": "Turns OCI images into bootable microVM images and looks after them.",
            "version": format!("{}.{}.0", crate::daemon::API_MAJOR, crate::daemon::API_MINOR),
            "license": { "name": "Apache-2.0" },
        },
        "methods": methods,
    })
}

fn method(description: &Description) -> Value {
    let schema = description.params.as_value();
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|n| n == name));
    let properties = schema.get("properties").and_then(Value::as_object);
    let params: Vec<Value> = properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| {
            let mut param =
                json!({ "name": name, "required": is_required(name), "schema": schema });
            if let Some(spelling) = spellings::of(description.name)
                && spelling.parameter == name
            {
                param["x-also"] = json!(spelling.others);
            }
            param
        })
        .collect();
    let mut method = json!({
        "name": description.name,
        "summary": description.summary,
        "x-right": description.right.as_str(),
        "paramStructure": "by-name",
        "params": params,
        "result": { "name": "result", "schema": description.result },
        "errors": description.errors.iter().map(error).collect::<Vec<_>>(),
    });
    if description.cost == Cost::Costly {
        method["x-costly"] = json!(true);
    }
    if let Some(subscription) = description.subscription {
        method["x-subscription"] = json!({
            "notification": subscription.notification,
            "unsubscribe": subscription.unsubscribe,
        });
    }
    method
}

fn error(code: &Code) -> Value {
    json!({
        "code": code.class.rpc_number(),
        "message": code.meaning,
        "data": { "code": code.name, "class": code.class },
    })
}
