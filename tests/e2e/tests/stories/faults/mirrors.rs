//! Mirrors that misbehave before a good registry, and registries that are gone behind a good mirror.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use kiln_testkit::daemon::CallError;
use kiln_testkit::faults::{Fault, FaultRegistry, How, Place, Ranges, Target, Times, find};
use serde_json::json;

use super::Outcome::{self, Done, Refused};
use super::{CONFIG, Tried, credentials, secrets_about, try_all, wrong_ones};
use crate::stage::{Stage, pull, text};

/// Who has to have sent the first layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Giver {
    Mirror,
    Origin,
    /// Both, or it does not matter.
    Any,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Tag,
    Digest,
}

/// One trouble with mirrors.
#[derive(Clone, Copy)]
struct Trouble {
    name: &'static str,
    /// The mirrors' faults; `gone` is one that nobody listens at.
    mirrors: &'static [&'static str],
    origin: &'static str,
    /// What the rule says of each mirror besides its place.
    keys: &'static str,
    by: By,
    /// Whether the caller has a login for the mirrors.
    has_login: bool,
    outcome: Outcome,
    giver: Giver,
}

const fn trouble(name: &'static str, mirrors: &'static [&'static str]) -> Trouble {
    Trouble {
        name,
        mirrors,
        origin: "none",
        keys: "",
        by: By::Tag,
        has_login: true,
        outcome: Done,
        giver: Giver::Origin,
    }
}

impl Trouble {
    const fn given_by(self, giver: Giver) -> Self {
        Self { giver, ..self }
    }

    const fn with_origin(self, origin: &'static str) -> Self {
        Self { origin, ..self }
    }

    const fn digests_only(self) -> Self {
        let keys = "resolve = false";
        Self { keys, ..self }
    }

    const fn pinned(self) -> Self {
        let by = By::Digest;
        Self { by, ..self }
    }

    const fn without_login(self) -> Self {
        Self {
            has_login: false,
            ..self
        }
    }

    const fn refused(self, code: &'static str) -> Self {
        Self {
            outcome: Refused(code),
            giver: Giver::Any,
            ..self
        }
    }
}

const TROUBLES: &[Trouble] = &[
    trouble("good", &["none"]).given_by(Giver::Mirror),
    trouble("good_for_digests", &["none"])
        .digests_only()
        .given_by(Giver::Mirror),
    trouble("gone", &["gone"]),
    trouble("all_gone", &["gone", "gone"]),
    trouble("first_gone", &["gone", "none"]).given_by(Giver::Mirror),
    trouble("closing", &["listener_gone"]),
    trouble("no_registry", &["root_tls_alert"]),
    trouble("hangs", &["manifest_stall"]),
    trouble("hangs_at_once", &["root_stall"]),
    trouble("hangs_at_layers", &["layer_stall"]),
    trouble("hangs_in_layers", &["layer_stall_in_body"]).given_by(Giver::Any),
    trouble("drips", &["layer_drip"]).given_by(Giver::Any),
    trouble("drips_manifests", &["manifest_drip_body"]),
    trouble("knows_nothing", &["manifest_404"]).given_by(Giver::Any),
    trouble("lacks_layers", &["layer_404"]),
    trouble("broken", &["manifest_503"]).given_by(Giver::Any),
    trouble("broken_layers", &["layer_500"]),
    trouble("wants_a_long_wait", &["manifest_503_long"]).given_by(Giver::Any),
    trouble("is_asked_too_much", &["token_429_long"]),
    trouble("refuses", &["layer_403"]),
    trouble("knows_nobody", &["manifest_401_loop"]).given_by(Giver::Any),
    trouble("without_a_login", &["none"]).without_login(),
    trouble("with_a_realm_elsewhere", &["realm_elsewhere"]),
    trouble("with_a_realm_of_a_file", &["realm_file"]).without_login(),
    trouble("lies_about_manifests", &["manifest_wrong"]).given_by(Giver::Any),
    trouble("lies_about_configs", &["config_wrong"]).given_by(Giver::Mirror),
    trouble("lies_about_layers", &["layer_wrong"]),
    trouble("lies_about_lengths", &["layer_longer"]),
    trouble("two_lie_about_layers", &["layer_wrong", "layer_wrong"]),
    trouble("lies_and_breaks_off", &["layer_wrong_and_cut"]),
    trouble("breaks_off", &["layer_cut"]).given_by(Giver::Any),
    trouble("login_page", &["manifest_html"]).given_by(Giver::Any),
    trouble("leads_into_the_network", &["layer_to_network"]),
    trouble("leads_into_the_cloud", &["layer_to_cloud"]),
    trouble("leads_to_a_stranger", &["redirect_to_stranger"]).given_by(Giver::Any),
    trouble("leads_in_circles", &["redirect_loop"]).given_by(Giver::Any),
    trouble("token_dies", &["token_dies_in_layer"]).given_by(Giver::Mirror),
    trouble("origin_gone", &["none"])
        .with_origin("gone")
        .pinned()
        .given_by(Giver::Mirror),
    trouble("origin_gone_and_a_tag", &["none"])
        .with_origin("gone")
        .digests_only()
        .refused("registry.unreachable"),
    trouble("origin_lacks_it", &["none"])
        .with_origin("manifest_404")
        .pinned()
        .given_by(Giver::Mirror),
    trouble("both_lie", &["layer_wrong"])
        .with_origin("layer_wrong")
        .refused("source.digest_mismatch"),
    trouble("the_last_word_counts", &["manifest_404"])
        .with_origin("manifest_403_escapes")
        .refused("registry.denied"),
];

const fn layer(name: &'static str, how: How) -> Fault {
    Fault {
        name,
        place: Place::Layer,
        times: Times::Always,
        how,
        ranges: Ranges::Good,
    }
}

/// Faults of mirrors that registries of their own would end with, too.
const ONLY_MIRRORS: &[Fault] = &[
    layer("layer_cut", How::CutBody),
    layer("layer_wrong_and_cut", How::CutWrongBody),
    layer(
        "layer_to_network",
        How::Redirect(Target::Named("http://10.255.255.1{path}")),
    ),
    layer(
        "layer_to_cloud",
        How::Redirect(Target::Named("http://169.254.169.254{path}")),
    ),
];

fn fault(name: &str) -> Result<Fault> {
    let own = ONLY_MIRRORS.iter().find(|fault| fault.name == name);
    own.copied()
        .or_else(|| find(name))
        .with_context(|| format!("no fault {name}"))
}

/// The registries of one trouble.
struct Scene {
    origin: Option<FaultRegistry>,
    mirrors: Vec<FaultRegistry>,
    /// What is asked for.
    reference: String,
    /// The rule for it.
    rule: String,
}

/// Finds an address that nobody listens at.
fn nobody() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

impl Scene {
    fn of(trouble: &Trouble) -> Result<Self> {
        let start = |name: &str| match name {
            "gone" => Ok(None),
            // All of them have the same image.
            name => FaultRegistry::start_with(fault(name)?, trouble.name).map(Some),
        };
        let template = FaultRegistry::start_with(Fault::NONE, trouble.name)?;
        let origin = start(trouble.origin)?;
        let host = match &origin {
            Some(origin) => origin.host(),
            None => nobody()?,
        };
        let mut rule = format!("[[registry]]\nprefix = \"{host}\"\n");
        let mut mirrors = Vec::new();
        for name in trouble.mirrors {
            let mirror = start(name)?;
            let place = match &mirror {
                Some(mirror) => mirror.host(),
                None => nobody()?,
            };
            let keys = trouble.keys;
            write!(
                rule,
                "[[registry.mirror]]\nlocation = \"{place}\"\n{keys}\n"
            )?;
            mirrors.extend(mirror);
        }
        let named = match trouble.by {
            By::Tag => template.reference(),
            By::Digest => template.pinned(),
        };
        Ok(Self {
            reference: named.replace(&template.host(), &host),
            origin,
            mirrors,
            rule,
        })
    }

    fn try_out(&self, stage: &Stage, trouble: &Trouble) -> Result<Tried> {
        let mut params = pull(&self.reference, &trouble.name.replace('_', "-"));
        params["credentials"] = credentials();
        if trouble.has_login {
            let mirrors = self
                .mirrors
                .iter()
                .map(|mirror| json!({"registry": mirror.host(), "credentials": credentials()}));
            params["mirror_credentials"] = mirrors.collect();
        }
        let began = Instant::now();
        let outcome = match stage.daemon.call("image.pull", &params) {
            Ok(image) => Ok(text(&image["source"], "manifest_digest")?),
            Err(CallError::Refused(error)) => {
                let code = error.name().unwrap_or("no code").to_owned();
                Err((code, error))
            }
            Err(error @ CallError::NoAnswer(_)) => bail!("{}: {error}", trouble.name),
        };
        let took = began.elapsed();
        let strangers = self.mirrors.iter().chain(&self.origin);
        let mut leaks: Vec<String> = strangers
            .flat_map(FaultRegistry::stranger_asked)
            .filter_map(|asked| asked.authorization)
            .collect();
        if !trouble.has_login {
            let mirrors = self.mirrors.iter().flat_map(FaultRegistry::asked);
            leaks.extend(mirrors.filter_map(|asked| asked.authorization));
        }
        Ok(Tried {
            name: trouble.name,
            outcome,
            took,
            leaks,
        })
    }

    /// Lists what is wrong with who was asked for what.
    fn wrongs(&self, trouble: &Trouble) -> Vec<String> {
        let mut wrong = Vec::new();
        let sent = |registry: &FaultRegistry| {
            let asked = registry.first_layer_asked();
            asked.iter().map(|asked| asked.body_bytes).sum::<u64>()
        };
        let by_mirrors: u64 = self.mirrors.iter().map(sent).sum();
        let by_origin: u64 = self.origin.iter().map(sent).sum();
        let is_right = match trouble.giver {
            Giver::Mirror => by_mirrors > 0 && by_origin == 0,
            Giver::Origin => by_origin > 0,
            Giver::Any => true,
        };
        if !is_right {
            wrong.push(format!(
                "{}: the mirrors gave {by_mirrors} bytes, the origin {by_origin}",
                trouble.name
            ));
        }
        if !trouble.keys.is_empty() {
            let mirrors = self.mirrors.iter().flat_map(FaultRegistry::asked);
            let tags: Vec<String> = mirrors
                .map(|asked| asked.target)
                .filter(|target| target.ends_with("/manifests/1"))
                .collect();
            if !tags.is_empty() {
                wrong.push(format!("{}: asked for a tag: {tags:?}", trouble.name));
            }
        }
        wrong
    }
}

#[test]
fn every_trouble_with_mirrors_ends_as_it_should() -> Result<()> {
    let scenes: Vec<Scene> = TROUBLES.iter().map(Scene::of).collect::<Result<_>>()?;
    let rules: String = scenes.iter().map(|scene| scene.rule.as_str()).collect();
    // What is lost at mirrors is shared with those behind them: on a busy machine that takes more.
    let config = CONFIG.replace("lost_seconds = 10", "lost_seconds = 30");
    let stage = Stage::with_config(&format!("{config}\n{rules}"))?;
    let numbered: Vec<usize> = (0..TROUBLES.len()).collect();

    let tried = try_all(&numbered, |number| {
        scenes[number].try_out(&stage, &TROUBLES[number])
    })?;

    let outcomes: Vec<(&str, Outcome)> = TROUBLES
        .iter()
        .map(|trouble| (trouble.name, trouble.outcome))
        .collect();
    let mut wrong = wrong_ones(&tried, &outcomes);
    for (scene, trouble) in scenes.iter().zip(TROUBLES) {
        wrong.extend(scene.wrongs(trouble));
    }
    wrong.extend(secrets_about(&stage)?);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(tried.len(), TROUBLES.len());
    // Who gave wrong bytes is named.
    let log = fs::read_to_string(stage.daemon.log())?;
    let lying = TROUBLES
        .iter()
        .position(|one| one.name == "lies_about_layers");
    let liar = scenes[lying.context("no liar")?].mirrors[0].host();
    let named = log
        .lines()
        .any(|line| line.contains("it gave wrong bytes") && line.contains(&liar));
    assert!(named, "the log does not name {liar}");
    Ok(())
}
