//! What a purge's parameters mean: pure, and the same for both ways to say it.

use std::collections::{BTreeMap, BTreeSet};

use kiln_api::image::purge::{MAX_IMAGES, PurgeImage, PurgeParams};
use kiln_api::{Failure, codes};
use kiln_domain::{AgentName, Architecture, ImagePattern};

use crate::find_image::architecture;

/// Longest text that names images, in bytes: a reference has 255 for the repository, 128 for the
/// tag, and a registry before both.
const NAME_MAX: usize = 1_024;

/// The images to remove on one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) agent: AgentName,
    pub(super) images: Vec<WantedImage>,
}

/// An image, or those that a pattern chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedImage {
    /// As the call named it.
    pub(super) item: String,
    pub(super) architecture: Option<Architecture>,
    pub(super) pattern: Option<ImagePattern>,
}

/// Reads who is to remove what. Agents and images that are named twice are one.
pub(super) fn understand(params: &PurgeParams) -> Result<Vec<Wanted>, Failure> {
    let keys = params.keys.iter();
    let long = keys.flat_map(|key| {
        key.images
            .iter()
            .map(|image| (&key.agent_id, image.clone()))
    });
    let long = collected(long)?;
    if params.keys.iter().any(|key| key.images.is_empty()) {
        return Err(invalid("a key names an agent and no image"));
    }
    let agents = params.agent_ids.iter();
    let short = agents.flat_map(|agent| params.image_names.iter().map(move |name| (agent, name)));
    let short = short.map(|(agent, name)| {
        let image = PurgeImage {
            name: name.clone(),
            architecture: params.architecture.clone(),
        };
        (agent, image)
    });
    let short = collected(short)?;
    let is_half = params.image_names.is_empty() != params.agent_ids.is_empty();
    if is_half || (params.architecture.is_some() && params.image_names.is_empty()) {
        return Err(invalid("image_names and agent_ids belong together"));
    }
    match (long.is_empty(), short.is_empty()) {
        (true, true) => Err(invalid(
            "nothing is named: say `keys`, or `image_names` with `agent_ids`",
        )),
        (false, true) => Ok(long),
        (true, false) => Ok(short),
        (false, false) if sorted(&long) == sorted(&short) => Ok(long),
        (false, false) => Err(invalid(
            "`keys` and `image_names` with `agent_ids` say different things; one of them will do",
        )),
    }
}

fn collected<'a>(
    named: impl Iterator<Item = (&'a AgentName, PurgeImage)>,
) -> Result<Vec<Wanted>, Failure> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut places: BTreeMap<AgentName, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (agent, image) in named {
        let image = read(image)?;
        let key = (agent.clone(), image.item.clone(), word(image.architecture));
        if !seen.insert(key) {
            continue;
        }
        if seen.len() > MAX_IMAGES {
            let message = format!("one call names at most {MAX_IMAGES} images over all agents");
            return Err(invalid(message));
        }
        let place = *places.entry(agent.clone()).or_insert_with(|| {
            wanted.push(Wanted {
                agent: agent.clone(),
                images: Vec::new(),
            });
            wanted.len() - 1
        });
        wanted[place].images.push(image);
    }
    Ok(wanted)
}

fn read(image: PurgeImage) -> Result<WantedImage, Failure> {
    let item = image.name;
    if item.is_empty() || item.len() > NAME_MAX {
        return Err(invalid(format!(
            "an image is named by 1 to {NAME_MAX} bytes"
        )));
    }
    let pattern = ImagePattern::is_meant_by(&item)
        .then(|| item.parse())
        .transpose()
        .map_err(|error| Failure::from_error(codes::request::INVALID_PARAMS, &error))?;
    Ok(WantedImage {
        architecture: architecture(image.architecture.as_deref())?,
        pattern,
        item,
    })
}

/// Says the same thing in the same way, whatever the order.
fn sorted(wanted: &[Wanted]) -> BTreeSet<(&AgentName, &str, Option<&'static str>)> {
    let all = wanted.iter();
    all.flat_map(|one| {
        let images = one.images.iter();
        images.map(|image| (&one.agent, image.item.as_str(), word(image.architecture)))
    })
    .collect()
}

fn word(architecture: Option<Architecture>) -> Option<&'static str> {
    architecture.map(Architecture::as_str)
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(codes::request::INVALID_PARAMS, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(params: Value) -> Result<Vec<(String, Vec<String>)>, Failure> {
        let params: PurgeParams = serde_json::from_value(params).unwrap();
        let wanted = understand(&params)?.into_iter();
        let shown = wanted.map(|one| {
            let images = one.images.into_iter().map(|image| {
                let architecture = word(image.architecture).unwrap_or("-");
                let is_pattern = if image.pattern.is_some() { "~" } else { "" };
                format!("{is_pattern}{} {architecture}", image.item)
            });
            (one.agent.to_string(), images.collect())
        });
        Ok(shown.collect())
    }

    #[test]
    fn both_ways_to_say_it_mean_the_same() {
        let want = vec![
            (
                "a".to_owned(),
                vec!["x:1 amd64".to_owned(), "~*:old-* amd64".to_owned()],
            ),
            (
                "b".to_owned(),
                vec!["x:1 amd64".to_owned(), "~*:old-* amd64".to_owned()],
            ),
        ];
        let short = json!({
            "image_names": ["x:1", "*:old-*", "x:1"], "agent_ids": ["a", "b", "a"],
            "architecture": "x86_64",
        });
        let images = json!([
            {"name": "x:1", "architecture": "amd64"},
            {"name": "*:old-*", "architecture": "amd64"},
        ]);
        let long = json!({"keys": [
            {"agent_id": "a", "images": images}, {"agent_id": "b", "images": images},
        ]});
        let mut both = short.clone();
        both["keys"] = long["keys"].clone();

        assert_eq!(read(short).unwrap(), want);
        assert_eq!(read(long).unwrap(), want);
        assert_eq!(read(both).unwrap(), want);
    }

    #[test]
    fn an_agent_that_is_named_twice_is_asked_once() {
        let keys = json!({"keys": [
            {"agent_id": "a", "images": [{"name": "x"}]},
            {"agent_id": "b", "images": [{"name": "x"}]},
            {"agent_id": "a", "images": [{"name": "y"}, {"name": "x"}]},
        ]});

        let read = read(keys).unwrap();

        let want = vec![
            ("a".to_owned(), vec!["x -".to_owned(), "y -".to_owned()]),
            ("b".to_owned(), vec!["x -".to_owned()]),
        ];
        assert_eq!(read, want);
    }

    #[test]
    fn what_means_nothing_or_two_things_is_refused() {
        let key = json!({"agent_id": "a", "images": [{"name": "x"}]});
        let cases = [
            (json!({}), "request.invalid_params"),
            (json!({"image_names": ["x"]}), "request.invalid_params"),
            (json!({"agent_ids": ["a"]}), "request.invalid_params"),
            (
                json!({"keys": [{"agent_id": "a", "images": []}]}),
                "request.invalid_params",
            ),
            (
                json!({"keys": [key], "image_names": ["y"], "agent_ids": ["a"]}),
                "request.invalid_params",
            ),
            (
                json!({"keys": [key], "architecture": "amd64"}),
                "request.invalid_params",
            ),
            (
                json!({"image_names": [""], "agent_ids": ["a"]}),
                "request.invalid_params",
            ),
            (
                json!({"image_names": ["*:"], "agent_ids": ["a"]}),
                "request.invalid_params",
            ),
            (
                json!({"image_names": ["x"], "agent_ids": ["a"], "architecture": "vax"}),
                "source.invalid_platform",
            ),
        ];
        for (params, code) in cases {
            let failure = read(params.clone()).unwrap_err();
            assert_eq!(failure.code, code, "{params}: {failure}");
        }
    }
}
