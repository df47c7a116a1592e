//! What is asked of one agent: which images words and patterns mean there, and that they go.
//!
//! The agent decides what this daemon's user there may see and remove; nothing is known of its
//! images but what it answers.

use std::collections::HashSet;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use kiln_api::codes;
use kiln_api::image::removal::{PurgeById, PurgeByIdParams};
use kiln_api::image::{Get, GetParams, List, ListParams};
use kiln_api::page::{MAX_LIMIT, Page};
use kiln_domain::{Architecture, ImageId, ImageName, ImagePattern};
use serde::Deserialize;
use serde_json::{Value, json};

use super::keys::WantedImage;
use super::reach::{Agent, AgentError, call};

/// How many images of one agent are looked up, or removed, side by side: each is a short wait for
/// its answer, and the agent's own work goes one after the other anyway.
pub(super) const IMAGES_AT_A_TIME: usize = 4;

/// Without parameters: what of a daemon's cache no image there was made of. What those that stay
/// were made of stays too. Daemons that lack it keep their caches small by themselves.
const PRUNE: &str = "storage.prune";

/// What this reads of an image of an agent's.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) id: ImageId,
    pub(super) name: ImageName,
    architecture: String,
    #[serde(default)]
    tags: Vec<String>,
    source: Source,
}

#[derive(Clone, Debug, Deserialize)]
struct Source {
    kind: String,
    #[serde(default)]
    reference: String,
}

/// What came of a removal, as far as this reads it.
#[derive(Deserialize)]
struct Gone {
    freed_bytes: u64,
    #[serde(default)]
    confirm_token: Option<String>,
}

/// What words turned out to mean on an agent.
#[derive(Clone, Debug)]
pub(super) struct Meant {
    /// As the call named it.
    pub(super) item: String,
    pub(super) architecture: Option<Architecture>,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// This image.
    Image { id: ImageId, name: ImageName },
    /// None that is there.
    Nothing,
    /// That could not be found out.
    Failed(AgentError),
}

/// How images are removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) force: bool,
    pub(super) dry_run: bool,
}

/// Finds out what is meant: each name that has no image is told, a pattern that chooses none is not.
/// An image that several words mean is there once, for the first of them.
pub(super) async fn look_up(agent: &dyn Agent, wanted: &[WantedImage]) -> Vec<Meant> {
    let listed = if wanted.iter().any(|image| image.pattern.is_some()) {
        Some(list(agent).await)
    } else {
        None
    };
    let names = wanted.iter().filter(|image| image.pattern.is_none());
    let found = side_by_side(names.map(|image| get(agent, image))).await;
    let mut found = found.into_iter();
    let mut seen = HashSet::new();
    let mut meant = Vec::new();
    for image in wanted {
        let whats = match (&image.pattern, &listed) {
            (Some(pattern), Some(Ok(listed))) => chosen(pattern, image.architecture, listed),
            (Some(_), Some(Err(error))) => vec![What::Failed(error.clone())],
            _ => found.next().into_iter().collect(),
        };
        let once = |what: &What| match what {
            What::Image { id, .. } => seen.insert(*id),
            What::Nothing | What::Failed(_) => true,
        };
        meant.extend(whats.into_iter().filter(once).map(|what| Meant {
            item: image.item.clone(),
            architecture: image.architecture,
            what,
        }));
    }
    meant
}

/// Removes an image for good and tells how many bytes that freed, or would; `None` when it was gone.
pub(super) async fn purge(
    agent: &dyn Agent,
    id: ImageId,
    how: How,
) -> Result<Option<u64>, AgentError> {
    let purged = match (how.force, how.dry_run) {
        (false, _) | (true, true) => once(agent, id, how, None)
            .await
            .map(|gone| gone.freed_bytes),
        (true, false) => by_force(agent, id).await,
    };
    match purged {
        Ok(freed_bytes) => Ok(Some(freed_bytes)),
        Err(error) if is(&error, codes::image::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lets the agent's cache give up what nothing needs and tells how many bytes that freed; `None`
/// where the agent cannot, or this daemon's user may not.
pub(super) async fn prune(agent: &dyn Agent) -> Result<Option<u64>, AgentError> {
    match agent.call(PRUNE, json!({})).await {
        Ok(answer) => Ok(answer.get("freed_bytes").and_then(Value::as_u64)),
        Err(error)
            if is(&error, codes::request::UNKNOWN_METHOD) || is(&error, codes::request::DENIED) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Runs futures a few at a time and returns what came of them, in their order.
pub(super) async fn side_by_side<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    at_most(IMAGES_AT_A_TIME, futures).await
}

/// Runs at most `limit` futures at a time and returns what came of them, in their order.
pub(super) async fn at_most<F: Future>(
    limit: usize,
    futures: impl Iterator<Item = F>,
) -> Vec<F::Output> {
    let mut waiting = futures;
    let mut running = FuturesOrdered::new();
    let mut done = Vec::new();
    loop {
        while running.len() < limit
            && let Some(future) = waiting.next()
        {
            running.push_back(future);
        }
        match running.next().await {
            Some(output) => done.push(output),
            None => return done,
        }
    }
}

/// Looks first, as a forced removal asks for. The image may change in between, then once more.
async fn by_force(agent: &dyn Agent, id: ImageId) -> Result<u64, AgentError> {
    let look = How {
        force: true,
        dry_run: true,
    };
    let act = How {
        dry_run: false,
        ..look
    };
    let token = once(agent, id, look, None).await?.confirm_token;
    match once(agent, id, act, token).await {
        Err(error) if is(&error, codes::image::CONFIRMATION_NEEDED) => {
            let token = once(agent, id, look, None).await?.confirm_token;
            Ok(once(agent, id, act, token).await?.freed_bytes)
        }
        gone => Ok(gone?.freed_bytes),
    }
}

async fn once(
    agent: &dyn Agent,
    id: ImageId,
    how: How,
    confirm_token: Option<String>,
) -> Result<Gone, AgentError> {
    let params = PurgeByIdParams {
        image_id: id.to_string(),
        force: how.force,
        confirm_token,
        dry_run: how.dry_run,
    };
    call::<PurgeById, _>(agent, &params).await
}

async fn get(agent: &dyn Agent, image: &WantedImage) -> What {
    let params = GetParams {
        image: image.item.clone(),
        architecture: image.architecture.map(|known| known.as_str().to_owned()),
    };
    match call::<Get, Listed>(agent, &params).await {
        Ok(found) => What::Image {
            id: found.id,
            name: found.name,
        },
        Err(error) if is(&error, codes::image::NOT_FOUND) => What::Nothing,
        Err(error) => What::Failed(error),
    }
}

async fn list(agent: &dyn Agent) -> Result<Vec<Listed>, AgentError> {
    let mut images = Vec::new();
    let mut after = None;
    loop {
        let params = ListParams {
            after,
            limit: Some(MAX_LIMIT),
            all: true,
            ..ListParams::default()
        };
        let page: Page<Listed> = call::<List, _>(agent, &params).await?;
        images.extend(page.items);
        // A cursor that does not move would ask for ever.
        if page.next.is_none() || page.next <= after {
            return Ok(images);
        }
        after = page.next;
    }
}

fn chosen(
    pattern: &ImagePattern,
    architecture: Option<Architecture>,
    listed: &[Listed],
) -> Vec<What> {
    let fits = |image: &&Listed| {
        let runs = image.architecture.parse::<Architecture>().ok();
        architecture.is_none_or(|asked| runs == Some(asked)) && is_chosen(pattern, image)
    };
    let images = listed.iter().filter(fits);
    images
        .map(|image| What::Image {
            id: image.id,
            name: image.name.clone(),
        })
        .collect()
}

/// Tells whether a pattern chooses an image: by its name with one of its tags, or by the repository
/// and tag it was pulled from, the repository in full or as people write those of the Docker Hub.
fn is_chosen(pattern: &ImagePattern, image: &Listed) -> bool {
    let name = image.name.as_str();
    if image.tags.iter().any(|tag| pattern.matches(name, tag)) {
        return true;
    }
    if image.tags.is_empty() && pattern.matches(name, "") {
        return true;
    }
    let source = &image.source;
    let written = source.reference.split_once('@');
    let written = written.map_or(source.reference.as_str(), |(tagged, _)| tagged);
    let Some((repository, tag)) = written.rsplit_once(':') else {
        return false;
    };
    if source.kind != "registry" || tag.contains('/') {
        return false;
    }
    let hub = repository.strip_prefix("docker.io/");
    let official = hub.and_then(|rest| rest.strip_prefix("library/"));
    [Some(repository), hub, official]
        .into_iter()
        .flatten()
        .any(|repository| pattern.matches(repository, tag))
}

fn is(error: &AgentError, code: kiln_api::Code) -> bool {
    error.refusal().is_some_and(|failure| failure.is(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, tags: &[&str], reference: &str) -> Listed {
        let json = json!({
            "id": "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11", "name": name, "architecture": "amd64",
            "tags": tags, "source": {"kind": "registry", "reference": reference}, "more": [],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_pattern_chooses_by_name_and_tag_here_or_at_the_source() {
        let app = image("app-old-1", &["latest"], "docker.io/library/app:old-1");
        let web = image("team/web", &["old-2"], "127.0.0.1:5000/team/web@sha256:00");
        let cases = [
            ("*:old-*", &app, true),
            ("app:old-?", &app, true),
            ("library/app:old-1*", &app, true),
            ("docker.io/*:old-*", &app, true),
            ("app-old-*", &app, true),
            ("app-old-*:latest", &app, true),
            ("*:new-*", &app, false),
            ("web:old-*", &app, false),
            ("*:old-*", &web, true),
            ("team/*", &web, true),
            ("127.0.0.1:5000/*", &web, false),
        ];
        for (pattern, image, want) in cases {
            let read: ImagePattern = pattern.parse().unwrap();
            assert_eq!(is_chosen(&read, image), want, "{pattern} {image:?}");
        }
    }
}
