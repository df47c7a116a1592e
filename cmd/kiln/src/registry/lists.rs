//! Lists of a registry: repositories, tags, referrers; and its limits.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use clap::Args;
use kiln_api::page::MAX_LIMIT;
use kiln_api::registry::{
    Catalog, CatalogParams, Limit, Names, Pointer, RateLimit, RateLimitParams, Referrers,
    ReferrersParams, Tags, TagsParams,
};
use kiln_api::{Failure, codes};
use kiln_domain::RegistryName;

use super::natural;
use crate::failure::CommandError;
use crate::output::{self, Columns};
use crate::reach::{self, ReachArguments};
use crate::session::Session;
use crate::text::{cell, or_dash, size};

/// How many names are shown when nobody says.
const USUAL_LIMIT: usize = 1_000;

/// Most pages that are asked for in all: a registry may have many that are empty, and it must not
/// be without end.
const MAX_PAGES: usize = 10_000;

/// Most entries that `--all` shows, as many as a sync reads: a list may be made up as it is read.
const MAX_ALL: usize = 100_000;

/// How often somebody who waits for a long list is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How much of a list.
#[derive(Debug, Args)]
pub(crate) struct Amount {
    /// Most entries to show; 1000 when left out
    #[arg(long, value_name = "N", conflicts_with = "all")]
    limit: Option<usize>,
    /// Show them all, up to 100,000
    #[arg(long)]
    all: bool,
}

/// Which registry's repositories.
#[derive(Debug, Args)]
#[command(after_help = "\
Many registries, docker.io and ghcr.io among them, show their catalogue to nobody.")]
pub(crate) struct CatalogArguments {
    /// Host of the registry, such as localhost:5000; that of `REGISTRY_URL` when left out
    registry: Option<RegistryName>,
    #[command(flatten)]
    amount: Amount,
    #[command(flatten)]
    reach: ReachArguments,
}

/// Which repository's tags.
#[derive(Debug, Args)]
pub(crate) struct TagsArguments {
    /// The repository, such as debian or ghcr.io/org/app; a tag behind it says nothing
    #[arg(value_name = "REFERENCE")]
    reference: String,
    #[command(flatten)]
    amount: Amount,
    #[command(flatten)]
    reach: ReachArguments,
}

/// What refers to which image.
#[derive(Debug, Args)]
pub(crate) struct ReferrersArguments {
    /// The image, by tag or digest
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// Only artifacts of this kind, such as application/spdx+json
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    #[command(flatten)]
    amount: Amount,
    #[command(flatten)]
    reach: ReachArguments,
}

/// Whose limits.
#[derive(Debug, Args)]
pub(crate) struct RateLimitArguments {
    /// Host of the registry
    #[arg(default_value = "docker.io")]
    registry: RegistryName,
    /// An image of it to ask about, since limits may differ
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    #[command(flatten)]
    reach: ReachArguments,
}

/// Lists repositories.
pub(crate) async fn catalog(
    arguments: CatalogArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let registry = reach::named(arguments.registry, session)?;
    let caller = arguments.reach.caller(session)?;
    let reach = caller.at_registry(&registry).await?;
    let client = session.connect().await?;
    let fetch = async |after, limit| {
        let params = CatalogParams {
            registry: registry.clone(),
            limit: Some(limit),
            after,
            credentials: reach.credentials.clone(),
            tls_verify: reach.tls_verify,
        };
        let page = session.call::<Catalog>(&client, &params).await?;
        Ok(page.into())
    };
    let listed = arguments.amount.collect(fetch, telling(session)).await?;
    names(listed, "REPOSITORY", session)
}

/// Lists tags.
pub(crate) async fn tags(arguments: TagsArguments, session: &Session) -> Result<(), CommandError> {
    if is_registry_alone(&arguments.reference) {
        return Err(names_a_registry(&arguments.reference).into());
    }
    let caller = arguments.reach.caller(session)?;
    let client = session.connect().await?;
    let (reference, reach) = caller.for_fetching(&arguments.reference, &client).await?;
    let fetch = async |after, limit| {
        let params = TagsParams {
            reference: reference.to_string(),
            limit: Some(limit),
            after,
            credentials: reach.credentials.clone(),
            mirror_credentials: reach.mirror_credentials.clone(),
            tls_verify: reach.tls_verify,
        };
        let page = session.call::<Tags>(&client, &params).await?;
        Ok(page.into())
    };
    let listed = arguments.amount.collect(fetch, telling(session)).await?;
    names(listed, "TAG", session)
}

/// Says whether a text is a host with a port. As a reference it would be an image of the Docker Hub
/// whose tag is the port.
fn is_registry_alone(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, port)| {
        let is_host = host == "localhost" || host.contains('.');
        is_host && port.parse::<u16>().is_ok()
    })
}

fn names_a_registry(text: &str) -> Failure {
    let message = format!("{text} is a registry, and no repository of it is named");
    Failure::new(codes::source::INVALID_REFERENCE, message).with_hint(
        "list its repositories:",
        Some(format!("kiln registry catalog {text}")),
    )
}

/// Lists what refers to an image.
pub(crate) async fn referrers(
    arguments: ReferrersArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let caller = arguments.reach.caller(session)?;
    let client = session.connect().await?;
    let (mut reference, reach) = caller.for_fetching(&arguments.reference, &client).await?;
    let fetch = async |after, limit| {
        let params = ReferrersParams {
            reference: reference.to_string(),
            artifact_type: arguments.artifact_type.clone(),
            limit: Some(limit),
            after,
            credentials: reach.credentials.clone(),
            mirror_credentials: reach.mirror_credentials.clone(),
            tls_verify: reach.tls_verify,
        };
        let page = session.call::<Referrers>(&client, &params).await?;
        if reference.digest().is_none()
            && let Ok(subject) = page.subject.parse()
        {
            // The pages to come are of the same image, wherever its tag moves.
            reference = reference.with_digest(subject);
        }
        Ok(Fetched {
            items: page.items,
            next: page.next,
        })
    };
    let listed = arguments.amount.collect(fetch, telling(session)).await?;
    let columns = Columns::<Pointer> {
        header: &["ARTIFACT TYPE", "DIGEST", "SIZE"],
        row: &|referrer| {
            vec![
                or_dash(referrer.artifact_type.as_deref()),
                cell(&referrer.digest),
                size(referrer.size_bytes),
            ]
        },
        name: &|referrer| cell(&referrer.digest),
    };
    listed.note_rest();
    session.output().list(&listed.items, &columns)
}

/// Tells how often a registry lets itself be asked.
pub(crate) async fn ratelimit(
    arguments: RateLimitArguments,
    session: &Session,
) -> Result<(), CommandError> {
    let registry = arguments.registry;
    let caller = arguments.reach.caller(session)?;
    let client = session.connect().await?;
    let (image, reach) = match &arguments.image {
        Some(image) => {
            let (image, reach) = caller.for_looking(image, &client).await?;
            (Some(image), reach)
        }
        None => (None, caller.at_registry(&registry).await?),
    };
    let registry = image.as_ref().map_or(registry, RegistryName::of);
    let params = RateLimitParams {
        registry,
        reference: image.map(|image| image.to_string()),
        credentials: reach.credentials,
        tls_verify: reach.tls_verify,
    };
    let told = session.call::<RateLimit>(&client, &params).await?;
    let name = told.registry.as_str().to_owned();
    session.output().one(&told, &name, |told| {
        let name = cell(&name);
        if told.limits.is_empty() {
            return format!("{name} says nothing of limits\n");
        }
        let of = told.source.as_deref().map(cell);
        let of = of.map_or_else(String::new, |source| format!(", counted for {source}"));
        let lines = told.limits.iter().map(sentence);
        let lines: Vec<_> = lines.map(|line| format!("{name}: {line}{of}\n")).collect();
        lines.concat()
    })
}

fn sentence(limit: &Limit) -> String {
    let called = limit.name.as_deref().map(cell);
    let called = called.map_or_else(String::new, |name| format!("{name}: "));
    let counted = match (limit.remaining, limit.limit) {
        (Some(left), Some(all)) => format!("{left} of {all} requests left"),
        (Some(left), None) => format!("{left} requests left"),
        (None, Some(all)) => format!("{all} requests"),
        (None, None) => "an unknown number of requests".to_owned(),
    };
    let window = limit
        .window_seconds
        .map_or_else(String::new, |seconds| format!(" in {}", span(seconds)));
    let anew = limit.reset_seconds.map_or_else(String::new, |seconds| {
        format!(", anew in {}", span(seconds))
    });
    format!("{called}{counted}{window}{anew}")
}

/// Writes a time span in its largest whole unit.
fn span(seconds: u64) -> String {
    match seconds {
        0 => "0 s".to_owned(),
        hours if hours % 3_600 == 0 => format!("{} h", hours / 3_600),
        minutes if minutes % 60 == 0 => format!("{} min", minutes / 60),
        seconds => format!("{seconds} s"),
    }
}

fn names(listed: Listed<String>, header: &str, session: &Session) -> Result<(), CommandError> {
    let mut names = listed.items;
    names.sort_by(|one, other| natural::compare(one, other));
    let columns = Columns::<String> {
        header: &[header],
        row: &|name| vec![cell(name)],
        name: &|name| cell(name),
    };
    if listed.has_more {
        note_rest(names.len());
    }
    session.output().list(&names, &columns)
}

fn note_rest(count: usize) {
    output::note(&format!(
        "there are more than these {count}; --all shows them\n"
    ));
}

/// One page, as it came.
struct Fetched<T> {
    items: Vec<T>,
    next: Option<String>,
}

/// What was collected.
#[derive(Debug, PartialEq, Eq)]
struct Listed<T> {
    items: Vec<T>,
    has_more: bool,
}

impl From<Names> for Fetched<String> {
    fn from(page: Names) -> Self {
        Self {
            items: page.items,
            next: page.next,
        }
    }
}

impl<T> Listed<T> {
    fn note_rest(&self) {
        if self.has_more {
            note_rest(self.items.len());
        }
    }
}

impl Amount {
    /// Follows the pages until there are enough.
    async fn collect<T>(
        &self,
        mut fetch: impl AsyncFnMut(Option<String>, u32) -> Result<Fetched<T>, CommandError>,
        mut tell: impl FnMut(usize),
    ) -> Result<Listed<T>, CommandError> {
        let limit = match (self.all, self.limit) {
            (true, _) => usize::MAX,
            (false, limit) => limit.unwrap_or(USUAL_LIMIT),
        };
        let mut items = Vec::new();
        let mut seen = HashSet::new();
        let mut after = None;
        while items.len() < limit {
            if self.all && items.len() > MAX_ALL {
                return Err(too_many().into());
            }
            let missing = u32::try_from(limit - items.len()).unwrap_or(MAX_LIMIT);
            let page = fetch(after, missing.min(MAX_LIMIT)).await?;
            items.extend(page.items);
            after = page.next;
            tell(items.len());
            match &after {
                None => break,
                Some(next) if seen.len() < MAX_PAGES && seen.insert(next.clone()) => {}
                Some(_) => return Err(endless().into()),
            }
        }
        let has_more = after.is_some() || items.len() > limit;
        items.truncate(limit);
        Ok(Listed { items, has_more })
    }
}

/// Says how many entries there are so far, now and then, where a person waits for them.
fn telling(session: &Session) -> impl FnMut(usize) + use<> {
    let is_wanted = session.shows_waiting();
    let mut said_at = Instant::now();
    move |count| {
        if is_wanted && said_at.elapsed() >= TELL_EVERY {
            said_at = Instant::now();
            output::note(&format!("{count} entries so far\n"));
        }
    }
}

fn too_many() -> Failure {
    let text = "the registry's list has more than 100,000 entries";
    Failure::new(codes::source::UNSUPPORTED, text)
        .with_hint("ask for its beginning with --limit", None)
}

fn endless() -> Failure {
    let text = "the registry's list has no end: its pages come again, or are more than 10,000";
    Failure::new(codes::registry::UNEXPECTED_ANSWER, text)
        .with_hint("ask for its beginning with --limit", None)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(
        amount: Amount,
        next: impl Fn(usize) -> Option<String>,
    ) -> Result<(usize, bool, usize), String> {
        let mut pages = 0;
        let fetch = async |_, limit: u32| {
            pages += 1;
            let items = vec![(); usize::try_from(limit.min(400)).unwrap()];
            Ok(Fetched {
                items,
                next: next(pages),
            })
        };
        let listed = amount.collect(fetch, drop);
        match listed.await {
            Ok(listed) => Ok((listed.items.len(), listed.has_more, pages)),
            Err(CommandError::Failed(failure)) => Err(failure.code),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn limited(limit: Option<usize>) -> Amount {
        Amount { limit, all: false }
    }

    const ALL: Amount = Amount {
        limit: None,
        all: true,
    };

    #[tokio::test]
    async fn pages_are_followed_as_far_as_wanted() {
        let many = |page: usize| Some(page.to_string());
        let five = |page: usize| (page < 5).then(|| page.to_string());

        assert_eq!(collect(limited(None), many).await, Ok((1_000, true, 3)));
        assert_eq!(collect(limited(Some(7)), many).await, Ok((7, true, 1)));
        assert_eq!(collect(ALL, five).await, Ok((2_000, false, 5)));
        assert_eq!(collect(limited(None), |_| None).await, Ok((400, false, 1)));
    }

    #[tokio::test]
    async fn a_list_without_end_is_given_up() {
        let endless = Err("registry.unexpected_answer".to_owned());

        let again = collect(ALL, |_| Some("same".to_owned())).await;
        let turns = collect(ALL, |page| Some((page % 3).to_string())).await;

        let grows = collect(ALL, |page| Some(page.to_string())).await;

        assert_eq!(again, endless);
        assert_eq!(turns, endless);
        assert_eq!(grows, Err("source.unsupported".to_owned()));
        let asked = collect(limited(Some(200_000)), |page| Some(page.to_string()));
        assert_eq!(asked.await, Ok((200_000, true, 500)));
    }

    #[test]
    fn a_registry_is_told_from_an_image_with_a_tag() {
        let cases = [
            ("localhost:5000", true),
            ("reg.lan:5000", true),
            ("debian:12", false),
            ("localhost:latest", false),
            ("localhost:5000/x", false),
        ];
        for (text, want) in cases {
            assert_eq!(is_registry_alone(text), want, "{text}");
        }
    }

    #[test]
    fn limits_read_as_sentences() {
        let hub = Limit {
            name: None,
            limit: Some(100),
            remaining: Some(76),
            window_seconds: Some(21_600),
            reset_seconds: None,
        };
        assert_eq!(sentence(&hub), "76 of 100 requests left in 6 h");
        let draft = Limit {
            name: Some("burst".to_owned()),
            limit: None,
            remaining: Some(1),
            window_seconds: None,
            reset_seconds: Some(90),
        };
        assert_eq!(sentence(&draft), "burst: 1 requests left, anew in 90 s");
    }
}
