//! Who calls: roles, organisations, and what each may do to whose images.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::RpcError;
use kiln_testkit::tools;
use serde_json::{Value, json};

use crate::descriptors::{NEEDS, NOBODY, as_user, open_stage};
use crate::source::{self, oci};
use crate::stage::{Stage, code, pull, text};

/// Two users who own nothing.
const ALICE: u32 = 54_001;
const BOB: u32 = 54_002;

fn refused_to(stage: &Stage, uid: u32, method: &str, params: &Value) -> Result<RpcError> {
    as_user(uid, || stage.refused(method, params))
}

fn called_by(stage: &Stage, uid: u32, method: &str, params: &Value) -> Result<Value> {
    as_user(uid, || stage.call(method, params))
}

/// Lists every method but subscriptions, from the daemon's own document.
fn methods(stage: &Stage) -> Result<Vec<String>> {
    let document = stage.call("rpc.discover", &json!({}))?;
    let methods = document["methods"].as_array().context("no methods")?;
    let calls = methods
        .iter()
        .filter(|method| method["x-subscription"].is_null());
    calls.map(|method| text(method, "name")).collect()
}

#[test]
fn a_caller_is_told_who_it_is() -> Result<()> {
    let stage = Stage::new()?;

    let me = stage.call("user.whoami", &json!({}))?;

    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(me["uid"], uid);
    assert_eq!(me["actor"], format!("unix:{uid}"));
    assert_eq!(me["role"], "superadmin");
    assert_eq!(me["may_name_host_paths"], true);
    assert_eq!(me["organizations"], json!([]));
    Ok(())
}

#[test]
fn every_method_takes_the_callers_own_words_and_no_others() -> Result<()> {
    let stage = Stage::new()?;
    let uid = rustix::process::geteuid().as_raw();
    let methods = methods(&stage)?;
    assert!(methods.len() > 50, "{methods:?}");
    for method in methods {
        for (claim, want) in [
            (json!({"user_id": uid + 1}), "request.denied"),
            (json!({"client_role": "user"}), "request.denied"),
            (json!({"user_id": []}), "request.invalid_params"),
            (json!({"client_role": "root"}), "request.invalid_params"),
        ] {
            let error = stage.refused(&method, &claim)?;
            assert_eq!(code(&error), want, "{method} {claim}: {error}");
        }
        // The caller's own words change nothing: a key that no method has is what is refused.
        let own = json!({"user_id": uid, "client_role": "superadmin", "no_such_key": 1});
        let error = stage.refused(&method, &own)?;
        assert_eq!(code(&error), "request.invalid_params", "{method}: {error}");
        let told = error.message.as_str();
        let about = told.contains("no_such_key") || told.contains("missing field");
        assert!(about && !told.contains("user_id"), "{method}: {error}");
    }
    let me = json!({"user_id": uid.to_string(), "client_role": "superadmin"});
    assert_eq!(stage.call("user.whoami", &me)?["uid"], uid);
    Ok(())
}

/// What it takes to call each method. A new method must be placed here.
fn rights() -> BTreeMap<&'static str, &'static str> {
    let table = [
        (
            "read",
            "daemon.info image.list image.get image.open image.limits image.history image.outdated image.why storage.usage kernel.list kernel.get kernel.get_default \
             kernel.check instance.list instance.get operation.list operation.get operation.wait \
             event.list registry.ping registry.doctor registry.catalog registry.tags \
             registry.manifest registry.blob registry.referrers registry.ratelimit \
             registry.explain alias.list user.whoami user.get org.list org.get audit.list",
        ),
        (
            "make",
            "image.pull image.register image.push image.alias image.lease kernel.import kernel.pull instance.register \
             registry.copy registry.sync",
        ),
        (
            "change",
            "image.forget image.forget_by_id image.restore image.purge_by_id image.dealias \
             image.renew_lease image.release image.modify image.clear_limits image.scan image.untag \
             kernel.remove instance.start instance.finish instance.remove \
             operation.cancel registry.delete registry.untag",
        ),
        ("lead", "org.add_member org.remove_member"),
        (
            "oversee",
            "user.list registry.logins agent.list agent.get agent.ping",
        ),
        (
            "administer",
            "kernel.set_default registry.login registry.logout user.add user.set_role \
             user.rename user.remove org.add org.remove storage.prune agent.add \
             agent.remove image.purge",
        ),
    ];
    let rows = table.iter();
    rows.flat_map(|(right, methods)| methods.split_whitespace().map(|method| (method, *right)))
        .collect()
}

#[test]
fn every_role_may_call_what_the_table_says() -> Result<()> {
    if tools::must_skip("every_role_may_call_what_the_table_says", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let rights = rights();
    let methods = methods(&stage)?;
    let listed: Vec<&str> = rights.keys().copied().collect();
    let mut found: Vec<&str> = methods.iter().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(listed, found, "place each method in the table");
    stage.call("org.add", &json!({"name": "web"}))?;
    let admin = json!({"org": "web", "user": ALICE.to_string(), "standing": "admin"});
    stage.call("org.add_member", &admin)?;
    let agent = json!({"uid": BOB, "name": "builder"});
    stage.call("user.add", &agent)?;
    stage.call(
        "user.set_role",
        &json!({"user": "builder", "role": "agent"}),
    )?;
    let roles = [
        (0, "superadmin", "read make change lead oversee administer"),
        (ALICE, "admin", "read make change lead"),
        (NOBODY, "user", "read make change"),
        (BOB, "agent", "read"),
    ];
    for (uid, role, may) in roles {
        let me = called_by(&stage, uid, "user.whoami", &json!({}))?;
        assert_eq!(me["role"], role);
        for (method, right) in &rights {
            // Whoever may call it is told that there is no such key, before anything happens.
            let error = refused_to(&stage, uid, method, &json!({"no_such_key": 1}))?;
            let want = if may.split(' ').any(|word| word == *right) {
                "request.invalid_params"
            } else {
                "request.denied"
            };
            assert_eq!(code(&error), want, "{role} {method}: {error}");
        }
    }
    Ok(())
}

#[test]
fn owner_administrator_and_superadmin_forget_and_strangers_do_not() -> Result<()> {
    if tools::must_skip("owner_administrator_and_superadmin_forget", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    let layout = source::small(&stage.path("layout"))?;
    stage.call("org.add", &json!({"name": "web"}))?;
    let member = |user: u32, standing: &str| {
        let params = json!({"org": "web", "user": user.to_string(), "standing": standing});
        stage.call("org.add_member", &params)
    };
    let forget = |name: &str| json!({"image": name});
    let pull_for = |name: &str| {
        let mut params = pull(&oci(&layout, "1"), name);
        params["org"] = json!("web");
        params
    };
    // An image of the organisation, and one of root's own.
    let mine = stage.call("image.pull", &pull_for("ours"))?;
    assert_eq!(mine["visibility"], "organization");
    stage.pull(&oci(&layout, "1"), "private")?;

    // 1.5: a stranger may do nothing to either; a member sees what is the organisation's and changes nothing.
    for name in ["ours", "private"] {
        let error = refused_to(&stage, ALICE, "image.forget", &forget(name))?;
        assert_eq!(code(&error), "request.denied", "{name}: {error}");
    }
    member(ALICE, "member")?;
    let shown = called_by(&stage, ALICE, "image.get", &forget("ours"))?;
    assert_eq!(shown["org_id"], mine["org_id"]);
    let listed = called_by(&stage, ALICE, "image.list", &json!({}))?;
    assert_eq!(
        listed["items"].as_array().map(Vec::len),
        Some(1),
        "{listed}"
    );
    let error = refused_to(&stage, ALICE, "image.forget", &forget("ours"))?;
    assert_eq!(code(&error), "request.denied");
    assert!(error.message.contains("user 54001"), "{error}");

    // An administrator does, at once and on any connection; another organisation's does not.
    member(ALICE, "admin")?;
    stage.call("org.add", &json!({"name": "data"}))?;
    let other = json!({"org": "data", "user": BOB.to_string(), "standing": "admin"});
    stage.call("org.add_member", &other)?;
    let error = refused_to(&stage, BOB, "image.forget", &forget("ours"))?;
    assert_eq!(code(&error), "request.denied");
    let error = refused_to(&stage, ALICE, "image.forget", &forget("private"))?;
    assert_eq!(code(&error), "request.denied");
    let forgotten = called_by(&stage, ALICE, "image.forget", &forget("ours"))?;
    assert_eq!(forgotten["already_forgotten"], false);

    // Who is made a superadmin does everything but name host files; who is not any more does not.
    let role = |role: &str| {
        let params = json!({"user": BOB.to_string(), "role": role});
        stage.call("user.set_role", &params)
    };
    role("superadmin")?;
    let by_path = refused_to(
        &stage,
        BOB,
        "image.pull",
        &pull(&oci(&layout, "1"), "theirs"),
    )?;
    assert_eq!(code(&by_path), "file.path_not_allowed");
    called_by(&stage, BOB, "image.get", &forget("private"))?;
    role("user")?;
    let error = refused_to(&stage, BOB, "image.forget", &forget("private"))?;
    assert_eq!(code(&error), "request.denied");
    role("superadmin")?;
    called_by(&stage, BOB, "image.forget", &forget("private"))?;
    Ok(())
}

#[test]
fn users_and_organisations_come_change_and_go() -> Result<()> {
    let stage = Stage::new()?;
    let user = |uid: u32| json!({"user": uid.to_string()});
    let added = stage.call("user.add", &json!({"uid": ALICE, "name": "alice"}))?;
    assert_eq!(
        (&added["user"]["name"], &added["already_known"]),
        (&json!("alice"), &json!(false))
    );
    let again = stage.call("user.add", &json!({"uid": ALICE, "name": "other"}))?;
    assert_eq!(
        (&again["user"]["name"], &again["already_known"]),
        (&json!("alice"), &json!(true))
    );
    stage.call("user.add", &json!({"uid": BOB}))?;

    let refused = |method: &str, params: &Value, want: &str| -> Result<()> {
        let error = stage.refused(method, params)?;
        assert_eq!(code(&error), want, "{method} {params}: {error}");
        Ok(())
    };
    refused(
        "user.rename",
        &json!({"user": "54002", "name": "alice"}),
        "user.name_taken",
    )?;
    refused(
        "user.rename",
        &json!({"user": "54002", "name": "77"}),
        "request.invalid_params",
    )?;
    refused("user.get", &json!({"user": "carol"}), "user.not_found")?;
    refused(
        "user.get",
        &json!({"user": "'; DROP TABLE users; --"}),
        "user.not_found",
    )?;
    refused(
        "user.set_role",
        &json!({"user": "54002", "role": "admin"}),
        "request.invalid_params",
    )?;
    stage.call("user.set_role", &json!({"user": "alice", "role": "agent"}))?;
    assert_eq!(stage.call("user.get", &user(ALICE))?["role"], "agent");
    let own = rustix::process::geteuid().as_raw();
    let demoted = json!({"user": own.to_string(), "role": "user"});
    refused("user.set_role", &demoted, "user.role_fixed")?;
    // The stage's kernel is the caller's.
    refused("user.remove", &user(own), "user.in_use")?;

    let org = stage.call("org.add", &json!({"name": "web"}))?;
    refused("org.add", &json!({"name": "web"}), "org.already_exists")?;
    refused("org.get", &json!({"org": "data"}), "org.not_found")?;
    let bob = |org: &str| json!({"org": org, "user": "54002", "standing": "member"});
    assert_eq!(stage.call("org.add_member", &bob("web"))?["changed"], true);
    assert_eq!(stage.call("org.add_member", &bob("web"))?["changed"], false);
    for n in 1..64 {
        let name = format!("org-{n}");
        stage.call("org.add", &json!({"name": name}))?;
        stage.call("org.add_member", &bob(&name))?;
    }
    stage.call("org.add", &json!({"name": "one-too-many"}))?;
    refused("org.add_member", &bob("one-too-many"), "org.too_many")?;
    let id = json!({"org": org["id"], "user": "54002"});
    assert_eq!(stage.call("org.remove_member", &id)?["changed"], true);
    assert_eq!(stage.call("org.remove_member", &id)?["changed"], false);
    let layout = source::small(&stage.path("layout"))?;
    let mut params = pull(&oci(&layout, "1"), "ours");
    params["org"] = json!("web");
    stage.call("image.pull", &params)?;
    refused("org.remove", &json!({"org": "web"}), "org.in_use")?;
    stage.call("org.remove", &json!({"org": "org-7"}))?;

    stage.call("user.remove", &user(BOB))?;
    refused("user.get", &user(BOB), "user.not_found")?;
    let listed = stage.call("user.list", &json!({"limit": 1}))?;
    assert_eq!(listed["items"][0]["uid"], own);
    let rest = stage.call("user.list", &json!({"after": listed["next"]}))?;
    assert_eq!(rest["items"][0]["name"], "alice", "{rest}");
    Ok(())
}

#[test]
fn an_organisation_is_for_who_is_in_it() -> Result<()> {
    if tools::must_skip("an_organisation_is_for_who_is_in_it", NEEDS)? {
        return Ok(());
    }
    let stage = open_stage()?;
    stage.call("org.add", &json!({"name": "web"}))?;
    let member = |user: u32, standing: &str| json!({"org": "web", "user": user.to_string(), "standing": standing});
    stage.call("org.add_member", &member(ALICE, "admin"))?;

    let shown = refused_to(&stage, BOB, "org.get", &json!({"org": "web"}))?;
    assert_eq!(code(&shown), "request.denied");
    let listed = called_by(&stage, BOB, "org.list", &json!({}))?;
    assert_eq!(listed["items"], json!([]));
    let layout = source::small(&stage.path("layout"))?;
    let mut theirs = pull(&oci(&layout, "1"), "theirs");
    theirs["org"] = json!("web");
    let pulled = refused_to(&stage, BOB, "image.pull", &theirs)?;
    assert_eq!(code(&pulled), "request.denied", "{pulled}");
    // An administrator takes users in, and others as administrators.
    called_by(&stage, ALICE, "org.add_member", &member(BOB, "admin"))?;
    called_by(&stage, BOB, "org.get", &json!({"org": "web"}))?;
    let out = json!({"org": "web", "user": ALICE.to_string()});
    called_by(&stage, BOB, "org.remove_member", &out)?;
    let error = refused_to(&stage, ALICE, "org.add_member", &member(ALICE, "admin"))?;
    assert_eq!(code(&error), "request.denied");
    // Others are not told who exists.
    for user in [BOB.to_string(), "carol".to_owned()] {
        let error = refused_to(&stage, ALICE, "user.get", &json!({"user": user}))?;
        assert_eq!(code(&error), "request.denied", "{user}");
    }
    Ok(())
}
