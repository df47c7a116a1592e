//! `kiln sync`: what is new in some repositories, copied by the rules of a file.
//!
//! ```toml
//! [[rule]]
//! from = "registry.example/team/*"
//! into = "mirror.example/team"
//! tags = ["v*", "latest"]
//! exclude = ["*-rc*"]
//! versions = ">=1.2, <2"
//! newest = 5
//! platform = "linux/amd64"
//! referrers = true
//!
//! [[rule]]
//! images = "web-*"
//! as = "bootable"
//! into = "mirror.example/hosts"
//! ```

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_api::image::push::PushForm;
use kiln_api::registry::sync::{
    Sync, SyncItemOutcome, SyncOutcome, SyncParams, SyncRule, Synced, SyncedItem,
};
use kiln_api::{Failure, codes};
use kiln_client::Client;
use kiln_domain::Reference;
use kiln_files::KeptError;
use kiln_registry::routes::TomlProblem;
use serde::Deserialize;

use crate::batch::{self, Item, Outcome};
use crate::credentials::CredentialsArguments;
use crate::failure::CommandError;
use crate::follow;
use crate::output::{self, Amount, Format};
use crate::reach::{BothTlsArguments, Caller, Reach, ReachArguments};
use crate::session::Session;
use crate::text::{cell, size};

/// Longest file of rules, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Which rules to follow.
#[derive(Debug, Args)]
#[command(after_help = "\
File:
  [[rule]]
  from = \"registry.example/team/app\"  a repository, or with * and ? those of the catalogue
  images = \"web-*\"                   in place of from: images of this host
  as = \"bootable\"                    images as oci, bootable or containerdisk; oci when left out
  into = \"mirror.example/team/app\"    where it goes, or the namespace where several go
  tags = [\"v*\", \"latest\"]             patterns; all tags when left out
  exclude = [\"*-rc*\"]                 patterns of tags to leave out
  versions = \">=1.2, <2\"              only versions in this range
  newest = 5                          only so many of the newest versions
  platform = \"linux/amd64\"            one platform; all when left out
  referrers = true                    signatures and SBOMs too")]
pub(crate) struct Arguments {
    /// TOML file with the rules
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only tell what would be copied, and how many bytes
    #[arg(long)]
    dry_run: bool,
    /// Auth file of docker, podman or skopeo, in place of the usual ones
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    #[command(flatten)]
    tls: BothTlsArguments,
    /// Return the operation at once and let the daemon go on
    #[arg(long)]
    detach: bool,
}

/// A file of rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    rule: Vec<Rule>,
}

/// A rule as people write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    from: String,
    images: Option<String>,
    #[serde(rename = "as")]
    form: Option<PushForm>,
    into: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    versions: Option<String>,
    newest: Option<u32>,
    platform: Option<String>,
    #[serde(default)]
    referrers: bool,
}

/// Syncs.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let rules = read(&arguments.file)?;
    let client = session.connect().await?;
    let flags = |tls| {
        let credentials = CredentialsArguments::of(None, arguments.authfile.clone());
        ReachArguments::of(credentials, tls)
    };
    let from_flags = flags(arguments.tls.source());
    let into_flags = flags(arguments.tls.destination());
    let mut params = SyncParams {
        rules: Vec::with_capacity(rules.rule.len()),
        dry_run: arguments.dry_run,
        detach: true,
    };
    for rule in rules.rule {
        let caller = from_flags.caller(session)?;
        let (from, here) = if rule.images.is_some() {
            // An image that came from a registry may have to be asked for there again, as nobody.
            (rule.from, Reach::nowhere(None))
        } else {
            source(caller, rule.from, &client).await?
        };
        let (_, there) = into_flags.caller(session)?.for_writing(&rule.into).await?;
        params.rules.push(SyncRule {
            from_credentials: here.credentials,
            from_mirror_credentials: here.mirror_credentials,
            from_tls_verify: here.tls_verify,
            into_credentials: there.credentials,
            into_tls_verify: there.tls_verify,
            from,
            images: rule.images,
            form: rule.form,
            into: rule.into,
            tags: rule.tags,
            exclude: rule.exclude,
            versions: rule.versions,
            newest: rule.newest,
            platform: rule.platform,
            referrers: rule.referrers,
        });
    }
    let started = match session.call::<Sync>(&client, &params).await? {
        SyncOutcome::Synced(synced) => return print(session, *synced),
        SyncOutcome::Started(started) => started,
    };
    let id = started.operation_id;
    if arguments.detach {
        let name = id.to_string();
        return session.output().one(&*started, &name, |_| {
            format!("started operation {id}; wait for it:  kiln op wait {id}\n")
        });
    }
    let ended = follow::to_the_end(session, &client, id, follow::Interrupt::Cancels).await?;
    let Some(synced) = ended.operation.synced else {
        let message = format!("operation {id} succeeded and says not what came of it");
        return Err(CommandError::new(codes::daemon::INTERNAL, message));
    };
    print(session, *synced)
}

fn read(path: &Path) -> Result<Rules, CommandError> {
    let shown = path.display();
    let text = kiln_files::read_kept_text(path, MAX_FILE_BYTES).map_err(|error| {
        let code = match &error {
            KeptError::TooLarge { .. } => codes::file::TOO_LARGE,
            KeptError::NotRegular | KeptError::NotText => codes::file::WRONG_KIND,
            KeptError::Io(error) if error.kind() == io::ErrorKind::IsADirectory => {
                codes::file::WRONG_KIND
            }
            error if error.is_not_found() => codes::file::NOT_FOUND,
            KeptError::Io(_) => codes::file::UNREADABLE,
        };
        let mut failure = Failure::new(code, format!("cannot read the rules in {shown}"));
        failure.cause.push(error.to_string());
        failure
    })?;
    toml::from_str(&text).map_err(|error| {
        let problem = TomlProblem::of(&text, &error);
        let message = format!("{shown} is no file of rules: {problem}");
        Failure::new(codes::request::INVALID_PARAMS, message)
            .with_hint("see what stands in one:", Some("kiln help sync".to_owned()))
            .into()
    })
}

/// Finds out how to reach the source of a rule. One repository may have a short name, which is
/// spelled out here; a pattern names its registry.
async fn source(
    caller: Caller<'_>,
    from: String,
    client: &Client,
) -> Result<(String, Reach), CommandError> {
    if from.contains(['*', '?']) {
        let reach = caller.for_fetching_many(&from, client).await?;
        return Ok((from, reach));
    }
    let (reference, reach) = caller.for_fetching(&from, client).await?;
    let bare = from.strip_prefix("docker://").unwrap_or(&from);
    let is_repository = bare
        .parse::<Reference>()
        .is_ok_and(|written| written.written_tag().is_none() && written.digest().is_none());
    if is_repository {
        let place = format!("{}/{}", reference.registry(), reference.repository());
        return Ok((place, reach));
    }
    // Names a tag, which a rule has apart: the daemon's to refuse.
    Ok((from, reach))
}

/// Prints what came of each, and ends with 9 when some of it failed.
fn print(session: &Session, synced: Synced) -> Result<(), CommandError> {
    let output = session.output();
    match (output.format, output.amount) {
        (Format::Table, Amount::Everything) => output::write(&table(&synced))?,
        (Format::Table, Amount::Names) => {
            for item in moved(&synced) {
                output::write(&format!("{}\n", cell(&item.into)))?;
            }
        }
        _ => output.value(&synced)?,
    }
    for rule in &synced.unmatched {
        let label = session.paint().doubtful("warning:");
        output::note(&format!(
            "{label} nothing matched the rule for {}\n",
            cell(rule)
        ));
    }
    let items: Vec<Item<()>> = synced.items.into_iter().map(item).collect();
    batch::verdict(session, &items)
}

fn item(done: kiln_api::registry::sync::SyncItem) -> Item<()> {
    Item {
        item: done.item,
        outcome: match done.outcome {
            SyncItemOutcome::Ok(_) => Outcome::Ok(()),
            SyncItemOutcome::Error(failure) => Outcome::Error(failure),
        },
    }
}

/// Lists what was copied, or would be.
fn moved(synced: &Synced) -> impl Iterator<Item = &SyncedItem> {
    synced.items.iter().filter_map(|item| match &item.outcome {
        SyncItemOutcome::Ok(done) if !done.is_up_to_date => Some(done),
        _ => None,
    })
}

fn table(synced: &Synced) -> String {
    let mut lines: Vec<String> = moved(synced)
        .map(|done| format!("{}  {}", cell(&done.into), size(done.sent_bytes)))
        .collect();
    let (copied, sent) = if synced.dry_run {
        ("to copy", "to send")
    } else {
        ("copied", "sent")
    };
    let mut sum = format!(
        "{} {copied}, {} there already, {} {sent}",
        synced.copied,
        synced.up_to_date,
        size(synced.sent_bytes)
    );
    if synced.failed > 0 {
        sum = format!("{sum}, {} failed", synced.failed);
    }
    lines.push(sum);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(into: &str, is_up_to_date: bool) -> kiln_api::registry::sync::SyncItem {
        kiln_api::registry::sync::SyncItem {
            item: "a.example/app:1".to_owned(),
            outcome: SyncItemOutcome::Ok(SyncedItem {
                into: into.to_owned(),
                digest: "sha256:00".to_owned(),
                is_up_to_date,
                sent_bytes: 2 << 20,
            }),
        }
    }

    #[test]
    fn what_moved_is_listed_and_the_rest_counted() {
        let synced = Synced {
            items: vec![
                done("b.example/app:1", false),
                done("b.example/app:2", true),
            ],
            unmatched: Vec::new(),
            copied: 1,
            up_to_date: 1,
            failed: 1,
            sent_bytes: 2 << 20,
            dry_run: true,
        };

        assert_eq!(
            table(&synced),
            "b.example/app:1  2.0 MiB\n1 to copy, 1 there already, 2.0 MiB to send, 1 failed\n"
        );
    }

    #[test]
    fn rules_are_read_strictly() {
        let good = "[[rule]]\nfrom = 'a.example/x'\ninto = 'b.example/x'\nnewest = 3\n";
        let rules: Rules = toml::from_str(good).unwrap();
        assert_eq!((rules.rule.len(), rules.rule[0].newest), (1, Some(3)));

        for (bad, line) in [
            ("# a\n[[rule]]\nfrom = 'a.example/x'\n", "line 2,"),
            (
                "[[rule]]\nimages = 'web'\nas = 'iso'\ninto = 'b.example/x'\n",
                "line 3,",
            ),
            ("[[rule]]\nfrom = 'a'\ninto = 'b'\ntag = 'x'\n", "line 4,"),
            ("\n[[rules]]\n", "line 2,"),
        ] {
            let error = toml::from_str::<Rules>(bad).unwrap_err();
            let told = TomlProblem::of(bad, &error).to_string();
            assert!(told.contains(line), "{bad}: {told}");
        }
    }
}
