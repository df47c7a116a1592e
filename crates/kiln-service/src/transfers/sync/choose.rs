//! What the rules of a sync choose: registries' lists and this host's images are read, nothing is
//! copied.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use kiln_api::{Failure, codes};
use kiln_domain::access::Actor;
use kiln_domain::{ImageId, ImageName, Reference};
use kiln_registry::{Breadth, Identities, Registry, Remote};
use kiln_store::images::{self, ImageFilter, ImageRow};
use kiln_store::{StoreError, tags};

use super::rules::{End, Origin, Rule, repository};
use super::{Job, MAX_ITEMS, repository_of};
use crate::failures::{source_failure, store_failure};
use crate::find_image::visible_to;
use crate::transfers::Transfers;

/// Most names that are read of one list of a registry's.
const MAX_NAMES: usize = 100_000;

/// Images that are read of the store at a time.
const PAGE: u32 = 500;

/// One thing that a rule chose.
pub(super) struct Chosen<'a> {
    /// What it is called in the result.
    pub(super) item: String,
    pub(super) what: What<'a>,
}

/// What was chosen.
pub(super) enum What<'a> {
    /// A tag of a repository.
    Tag { pair: Arc<Pair<'a>>, tag: String },
    /// An image of this host.
    Image(ChosenImage<'a>),
    /// Nothing: why it could not be chosen.
    Nothing(Failure),
}

/// One repository that a rule chose, on both sides.
pub(super) struct Pair<'a> {
    pub(super) rule: &'a Rule,
    pub(super) breadth: Breadth,
    /// The source's registry with its mirrors; each tag is work of its own there.
    pub(super) from: Remote,
    pub(super) into: Registry,
    pub(super) source: Reference,
    pub(super) target: Reference,
}

/// An image of this host that a rule chose, by one of its tags.
pub(super) struct ChosenImage<'a> {
    pub(super) rule: &'a Rule,
    /// Image and tag, as calls name them.
    pub(super) text: String,
    pub(super) into: Registry,
    /// Repository and tag.
    pub(super) target: Reference,
}

/// An image with its tags.
struct Tagged {
    id: ImageId,
    name: ImageName,
    tags: Vec<String>,
}

/// A list of a registry's.
#[derive(Clone, Copy)]
enum List<'a> {
    Repositories,
    Tags(&'a Reference),
}

type Names<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, Failure>> + Send + 'a>>;

/// What was chosen, and where it goes: no two things go to one place.
#[derive(Default)]
struct Choice<'a> {
    chosen: Vec<Chosen<'a>>,
    targets: HashMap<String, String>,
    /// Whether anything was chosen since this was last false, also what another rule chose before.
    has_met: bool,
}

impl<'a> Choice<'a> {
    fn fail(&mut self, item: String, failure: Failure) -> Result<(), Failure> {
        let what = What::Nothing(failure);
        self.put(Chosen { item, what })
    }

    /// Adds what goes to `target`; `way` tells apart what else a thing is brought as.
    fn add(
        &mut self,
        item: String,
        way: &str,
        target: &Reference,
        what: What<'a>,
    ) -> Result<(), Failure> {
        self.has_met = true;
        let (target, origin) = (target.to_string(), format!("{item} {way}"));
        match self.targets.get(&target) {
            // Rules may overlap.
            Some(other) if *other == origin => Ok(()),
            Some(_) => {
                let message = format!("another rule brings something else to {target}");
                let failure = Failure::new(codes::request::INVALID_PARAMS, message)
                    .with_hint("give them different places in the rules", None);
                self.fail(item, failure)
            }
            None => {
                self.targets.insert(target, origin);
                self.put(Chosen { item, what })
            }
        }
    }

    fn put(&mut self, chosen: Chosen<'a>) -> Result<(), Failure> {
        self.has_met = true;
        if self.chosen.len() >= MAX_ITEMS {
            let message = format!("the rules choose more than {MAX_ITEMS} tags");
            return Err(Failure::new(codes::request::INVALID_PARAMS, message)
                .with_hint("write more rules of fewer tags, in several files", None));
        }
        self.chosen.push(chosen);
        Ok(())
    }
}

impl Transfers {
    /// Chooses by all rules, in their order; what rules choose from that nothing matched comes beside.
    pub(super) async fn choose<'a>(
        &self,
        job: &'a Job,
    ) -> Result<(Vec<Chosen<'a>>, Vec<String>), Failure> {
        let (mut choice, mut unmatched) = (Choice::default(), Vec::new());
        for rule in &job.rules {
            choice.has_met = false;
            let chosen = match &rule.from {
                Origin::Registry {
                    end,
                    identities,
                    breadth,
                } => match self.pairs_of(rule, end, identities, *breadth).await {
                    Ok(pairs) => {
                        for pair in pairs {
                            self.choose_tags(Arc::new(pair), &mut choice).await?;
                        }
                        Ok(())
                    }
                    Err(failure) => Err(failure),
                },
                Origin::Images { .. } => self.choose_images(&job.actor, rule, &mut choice).await?,
            };
            if let Err(failure) = chosen {
                choice.fail(rule.from_text.clone(), failure)?;
            }
            if !choice.has_met {
                unmatched.push(rule.from_text.clone());
            }
        }
        Ok((choice.chosen, unmatched))
    }

    /// Finds the repositories that a rule means.
    async fn pairs_of<'a>(
        &self,
        rule: &'a Rule,
        end: &End,
        identities: &Identities,
        breadth: Breadth,
    ) -> Result<Vec<Pair<'a>>, Failure> {
        let into = self.open(&rule.into)?;
        let names = if let Some(name) = rule.literal_name() {
            vec![name.to_owned()]
        } else {
            let listed = all_names(&self.open(end)?, List::Repositories).await?;
            let wanted = |name: &String| rule.means(name);
            listed.into_iter().filter(wanted).collect()
        };
        let pair = |found: String| {
            let (source, target) = (repository(&end.registry, &found)?, rule.target(&found)?);
            let from = self.remotes.remote(&source, identities, end.tls);
            Ok(Pair {
                rule,
                breadth,
                from: from.map_err(|error| source_failure(&error))?,
                into: into.clone(),
                source,
                target,
            })
        };
        names.into_iter().map(pair).collect()
    }

    fn open(&self, end: &End) -> Result<Registry, Failure> {
        let credentials = end.credentials.clone();
        let opened = self
            .remotes
            .registry_with(&end.registry, credentials, end.tls);
        opened.map_err(|error| source_failure(&error))
    }

    async fn choose_tags<'a>(
        &self,
        pair: Arc<Pair<'a>>,
        choice: &mut Choice<'a>,
    ) -> Result<(), Failure> {
        let tags = if let Some(tags) = pair.rule.literal_tags() {
            tags
        } else {
            let (registry, reference) = pair.from.location(&pair.source);
            match all_names(registry, List::Tags(&reference)).await {
                Ok(tags) => pair.rule.choose(tags),
                Err(failure) => return choice.fail(repository_of(&pair.source), failure),
            }
        };
        for tag in tags {
            let item = format!("{}:{tag}", repository_of(&pair.source));
            match with_tag(&pair.target, &tag) {
                Ok(target) => {
                    let (pair, way) = (pair.clone(), format!("{:?}", pair.breadth));
                    choice.add(item, &way, &target, What::Tag { pair, tag })?;
                }
                Err(failure) => choice.fail(item, failure)?,
            }
        }
        Ok(())
    }

    /// Chooses among the images that the caller sees. The inner failure is the rule's alone.
    async fn choose_images<'a>(
        &self,
        actor: &Actor,
        rule: &'a Rule,
        choice: &mut Choice<'a>,
    ) -> Result<Result<(), Failure>, Failure> {
        let into = match self.open(&rule.into) {
            Ok(into) => into,
            Err(failure) => return Ok(Err(failure)),
        };
        let visible_to = visible_to(actor);
        let (mut after, mut is_found) = (0, false);
        loop {
            let filter = ImageFilter {
                visible_to,
                ..ImageFilter::default()
            };
            let read = self.records.store.read(move |tx| {
                let page = images::page(tx, after, PAGE, &filter)?;
                let tagged = |image: ImageRow| {
                    let mut names: Vec<String> = tags::of_image(tx, image.id)?
                        .into_iter()
                        .map(|row| row.tag.to_string())
                        .collect();
                    // One per architecture.
                    names.dedup();
                    Ok(Tagged {
                        id: image.id,
                        name: image.name,
                        tags: names,
                    })
                };
                let rows = page.rows.into_iter().map(tagged);
                Ok::<_, StoreError>((
                    rows.collect::<Result<Vec<_>, StoreError>>()?,
                    page.next_after,
                ))
            });
            let (found, next) = read.await.map_err(|error| store_failure(&error))?;
            for image in found
                .into_iter()
                .filter(|image| rule.means(image.name.as_str()))
            {
                is_found = true;
                let target = match rule.target(image.name.as_str()) {
                    Ok(target) => target,
                    Err(failure) => {
                        choice.fail(image.name.to_string(), failure)?;
                        continue;
                    }
                };
                for tag in rule.choose(image.tags) {
                    let item = format!("{}:{tag}", image.name);
                    let target = with_tag(&target, &tag)?;
                    let what = What::Image(ChosenImage {
                        rule,
                        text: format!("{}:{tag}", image.id),
                        into: into.clone(),
                        target: target.clone(),
                    });
                    choice.add(item, &format!("{:?}", rule.from), &target, what)?;
                }
            }
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        match rule.literal_name() {
            Some(name) if !is_found => {
                let message = format!("there is no image {name:?}");
                Ok(Err(Failure::new(codes::image::NOT_FOUND, message)))
            }
            _ => Ok(Ok(())),
        }
    }
}

pub(super) fn with_tag(repository: &Reference, tag: &str) -> Result<Reference, Failure> {
    let tagged = repository.with_tag(tag);
    tagged.map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))
}

/// Reads a list of a registry's, page after page.
fn all_names<'a>(registry: &'a Registry, list: List<'a>) -> Names<'a> {
    // Boxed: the compiler does not see through the lifetimes of what it awaits otherwise.
    Box::pin(async move {
        let mut names = Vec::new();
        let mut after = None;
        let mut turning = registry.turning();
        loop {
            let page = match list {
                List::Repositories => registry.catalog(None, after.as_ref()).await,
                List::Tags(reference) => registry.tags(reference, None, after.as_ref()).await,
            };
            let page = page.map_err(|error| source_failure(&error))?;
            names.extend(page.items);
            let next = turning.on(page.next);
            after = next.map_err(|error| source_failure(&error.into()))?;
            if after.is_none() {
                return Ok(names);
            }
            if names.len() > MAX_NAMES {
                let message = format!("a registry's list has more than {MAX_NAMES} names");
                let next = "name the repository, or its tags, without patterns";
                return Err(Failure::new(codes::source::UNSUPPORTED, message).with_hint(next, None));
            }
        }
    })
}
