//! The rules of a sync, understood: which repositories, which tags. Nothing is asked here.

use kiln_api::image::push::PushForm;
use kiln_api::registry::sync::SyncRule;
use kiln_api::{Failure, codes, destination};
use kiln_domain::{
    Credentials, Platform, Reference, ReferenceError, RegistryName, TagPattern, TagRuleError,
    TagVersion, VersionRange,
};
use kiln_registry::routes::TlsVerify;
use kiln_registry::{Breadth, Identities};

use crate::failures::short_name_failure;
use crate::pulls::credentials;
use crate::remotes::{Remotes, tls_verify};

/// What to do about a rule that cannot be followed.
const MEND: &str = "mend it in the file of rules; `kiln help sync` shows one";

/// A rule that can be followed.
#[derive(Debug)]
pub(super) struct Rule {
    /// What it chooses from, as it was written.
    pub(super) from_text: String,
    pub(super) from: Origin,
    pub(super) into: End,
    /// The repositories of the source, or the images.
    names: TagPattern,
    /// How much of such a name is not kept at the destination, in bytes.
    dropped: usize,
    /// The repository at the destination, or the namespace.
    namespace: String,
    tags: Vec<TagPattern>,
    exclude: Vec<TagPattern>,
    versions: Option<VersionRange>,
    newest: Option<u32>,
    pub(super) has_referrers: bool,
}

/// The registry at one end of a rule, and how to be there.
#[derive(Debug)]
pub(super) struct End {
    pub(super) registry: RegistryName,
    pub(super) credentials: Option<Credentials>,
    pub(super) tls: TlsVerify,
}

/// What a rule chooses from.
#[derive(Debug)]
pub(super) enum Origin {
    Registry {
        end: End,
        /// Who to be there and at its mirrors.
        identities: Identities,
        breadth: Breadth,
    },
    /// The images of this host.
    Images {
        form: PushForm,
        architecture: Option<String>,
    },
}

/// Understands a rule; a repository of the source may have a short name.
pub(super) fn understand(rule: &SyncRule, remotes: &Remotes) -> Result<Rule, Failure> {
    let from_text = match (&rule.images, rule.from.as_str()) {
        (Some(images), "") => images.as_str(),
        (None, from) if !from.is_empty() => from,
        _ => {
            return Err(unusable(
                "a rule says what to copy with one of \"from\" and \"images\"",
            ));
        }
    };
    let bad = |text: &str, error: &TagRuleError| {
        let message = format!("the rule for {from_text}: {text:?}");
        let mut failure = Failure::from_error(codes::request::INVALID_PARAMS, error);
        failure.cause.insert(0, failure.message);
        failure.message = kiln_api::failure::printable(&message);
        failure.with_hint(MEND, None)
    };
    let pattern = |text: &String| {
        text.parse::<TagPattern>()
            .map_err(|error| bad(text, &error))
    };
    let (from, names) = origin(rule, remotes)?;
    let (into_registry, namespace) = place(&rule.into)?;
    let parsed = pattern(&names)?;
    let dropped = match names.find(['*', '?']) {
        // A repository that is named keeps nothing of its name.
        None => names.len(),
        Some(star) => names[..star].rfind('/').map_or(0, |slash| slash + 1),
    };
    let versions = rule.versions.as_ref();
    let versions = versions.map(|text| text.parse().map_err(|error| bad(text, &error)));
    let understood = Rule {
        from,
        into: End {
            registry: into_registry,
            credentials: rule.into_credentials.clone().map(credentials),
            tls: tls_verify(rule.into_tls_verify),
        },
        names: parsed,
        dropped,
        namespace,
        tags: rule.tags.iter().map(pattern).collect::<Result<_, _>>()?,
        exclude: rule.exclude.iter().map(pattern).collect::<Result<_, _>>()?,
        versions: versions.transpose()?,
        newest: rule.newest,
        has_referrers: rule.referrers,
        from_text: from_text.to_owned(),
    };
    // What names one repository is a reference; what follows from a pattern is one per name.
    if let (Some(name), Origin::Registry { end, .. }) =
        (understood.literal_name(), &understood.from)
    {
        repository(&end.registry, name)?;
        understood.target(name)?;
    }
    Ok(understood)
}

/// Says what is wrong with a rule as a whole.
fn unusable(text: &str) -> Failure {
    Failure::new(codes::request::INVALID_PARAMS, text).with_hint(MEND, None)
}

fn identities_of(rule: &SyncRule, registry: &RegistryName) -> Identities {
    let own = rule.from_credentials.clone().map(credentials);
    let mut identities = Identities::at(registry.clone(), own);
    for other in &rule.from_mirror_credentials {
        identities.add(
            other.registry.clone(),
            credentials(other.credentials.clone()),
        );
    }
    identities
}

/// Splits the place of a source. One repository may have a short name; for which registry a pattern
/// is must be said.
fn from_place(text: &str, remotes: &Remotes) -> Result<(RegistryName, String), Failure> {
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    if bare.contains(['*', '?']) || !Reference::is_short(bare) {
        return place(bare);
    }
    let spelled = remotes.reference(bare);
    let spelled = spelled.map_err(|error| short_name_failure(&error))?;
    refuse_tag(bare, &bare.parse().map_err(|error| invalid(&error))?)?;
    Ok((RegistryName::of(&spelled), spelled.repository().to_owned()))
}

fn refuse_tag(text: &str, reference: &Reference) -> Result<(), Failure> {
    if reference.written_tag().is_none() && reference.digest().is_none() {
        return Ok(());
    }
    let message = format!("{text:?} names a tag; tags stand in the rule beside it");
    Err(Failure::new(codes::source::INVALID_REFERENCE, message))
}

fn invalid(error: &ReferenceError) -> Failure {
    Failure::from_error(codes::source::INVALID_REFERENCE, error)
}

/// Understands what a rule chooses from, and returns the pattern of its names.
fn origin(rule: &SyncRule, remotes: &Remotes) -> Result<(Origin, String), Failure> {
    let platform = rule
        .platform
        .as_ref()
        .map(|text| text.parse::<Platform>())
        .transpose()
        .map_err(|error| Failure::from_error(codes::source::INVALID_PLATFORM, &error))?;
    let refused = |text: &str| Err(unusable(text));
    let Some(images) = &rule.images else {
        if rule.form.is_some() {
            return refused(
                "\"as\" is for rules of \"images\": a registry's are copied as they are",
            );
        }
        let (registry, pattern) = from_place(&rule.from, remotes)?;
        let origin = Origin::Registry {
            identities: identities_of(rule, &registry),
            breadth: platform.map_or(Breadth::Everything, Breadth::Platform),
            end: End {
                registry,
                credentials: rule.from_credentials.clone().map(credentials),
                tls: tls_verify(rule.from_tls_verify),
            },
        };
        return Ok((origin, pattern));
    };
    let form = rule.form.unwrap_or_default();
    if rule.referrers && form != PushForm::Oci {
        return refused("referrers go with the OCI image, not with a built one");
    }
    let origin = Origin::Images {
        form,
        architecture: platform.map(|platform| platform.architecture().to_string()),
    };
    Ok((origin, images.clone()))
}

/// Names a repository of a registry.
pub(super) fn repository(registry: &RegistryName, name: &str) -> Result<Reference, Failure> {
    let parsed = format!("{registry}/{name}").parse::<Reference>();
    parsed.map_err(|error| invalid(&error))
}

/// Splits a place into registry and repository; the registry is written out.
fn place(text: &str) -> Result<(RegistryName, String), Failure> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    // A name with the same host and no pattern tells where the host ends.
    let plain: String = text
        .chars()
        .map(|letter| {
            if matches!(letter, '*' | '?') {
                'x'
            } else {
                letter
            }
        })
        .collect();
    if plain != text && Reference::is_short(&plain) {
        let message = format!("{text:?} names no registry, and a pattern is searched for in one");
        return Err(
            Failure::new(codes::source::INVALID_REFERENCE, message).with_hint(
                format!("write it with its registry, such as docker.io/{text}"),
                None,
            ),
        );
    }
    let reference = destination(&plain)?;
    refuse_tag(text, &reference)?;
    let name = reference.repository();
    let repository = match plain.strip_suffix(name) {
        Some(host) => text[host.len()..].to_owned(),
        // The Docker Hub's own images have a namespace that nobody writes.
        None => format!("library/{}", text.rsplit('/').next().unwrap_or_default()),
    };
    Ok((RegistryName::of(&reference), repository))
}

impl Rule {
    /// Returns the repository or image that is named, where none is searched for.
    pub(super) fn literal_name(&self) -> Option<&str> {
        self.names.literal()
    }

    /// Says whether a repository or an image is among those that the rule means.
    pub(super) fn means(&self, name: &str) -> bool {
        self.names.matches(name)
    }

    /// Says where a repository or an image goes.
    pub(super) fn target(&self, name: &str) -> Result<Reference, Failure> {
        let kept = name.get(self.dropped..).unwrap_or_default();
        let (registry, namespace) = (&self.into.registry, &self.namespace);
        if kept.is_empty() {
            repository(registry, namespace)
        } else {
            repository(registry, &format!("{namespace}/{kept}"))
        }
    }

    /// Returns the tags where they are all named, so that no list has to be read.
    pub(super) fn literal_tags(&self) -> Option<Vec<String>> {
        if self.tags.is_empty() {
            return None;
        }
        let literal = self.tags.iter().map(|tag| tag.literal().map(str::to_owned));
        literal
            .collect::<Option<Vec<_>>>()
            .map(|tags| self.choose(tags))
    }

    /// Chooses among tags, in their order; versions newest first where their number counts.
    pub(super) fn choose(&self, tags: Vec<String>) -> Vec<String> {
        let is_wanted = |tag: &String| {
            (self.tags.is_empty() || self.tags.iter().any(|one| one.matches(tag)))
                && !self.exclude.iter().any(|one| one.matches(tag))
                && !is_list_of_referrers(tag)
        };
        let wanted = tags.into_iter().filter(is_wanted);
        if self.versions.is_none() && self.newest.is_none() {
            return wanted.collect();
        }
        let mut versions: Vec<(TagVersion, String)> = wanted
            .filter_map(|tag| Some((TagVersion::of(&tag)?, tag)))
            .filter(|(version, _)| {
                let range = self.versions.as_ref();
                range.is_none_or(|range| range.contains(version))
            })
            .collect();
        if let Some(newest) = self.newest {
            versions.sort_by(|(one, _), (other, _)| other.cmp(one));
            versions.truncate(usize::try_from(newest).unwrap_or(usize::MAX));
        }
        versions.into_iter().map(|(_, tag)| tag).collect()
    }
}

/// Says whether a tag is a list of referrers that clients keep: it goes along with its image.
fn is_list_of_referrers(tag: &str) -> bool {
    let hex = tag.strip_prefix("sha256-").unwrap_or_default();
    hex.len() >= 64 && hex.bytes().take(64).all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kiln_registry::routes::Network;

    use super::*;

    fn rule(from: &str, into: &str) -> SyncRule {
        SyncRule {
            from: from.to_owned(),
            images: None,
            form: None,
            into: into.to_owned(),
            tags: Vec::new(),
            exclude: Vec::new(),
            versions: None,
            newest: None,
            platform: None,
            referrers: false,
            from_credentials: None,
            from_mirror_credentials: Vec::new(),
            from_tls_verify: None,
            into_credentials: None,
            into_tls_verify: None,
        }
    }

    fn understood(rule: &SyncRule) -> Result<Rule, Failure> {
        let mut network = Network::default();
        let aliases = "[aliases]\n'short' = 'c.example/long'\n";
        network
            .rules
            .add_containers_conf(aliases, Path::new("/c"))
            .unwrap();
        understand(rule, &Remotes::new(network))
    }

    fn chosen(change: impl FnOnce(&mut SyncRule)) -> Vec<String> {
        let mut rule = rule("a.example/app", "b.example/app");
        change(&mut rule);
        let list = "sha256-".to_owned() + &"0".repeat(64);
        let tags = ["1.0", "latest", "1.2", "v1.10", "2.0-rc1", "2.0", &list];
        understood(&rule)
            .unwrap()
            .choose(tags.map(str::to_owned).to_vec())
    }

    #[test]
    fn tags_are_chosen_by_form_range_and_age() {
        let all = ["1.0", "latest", "1.2", "v1.10", "2.0-rc1", "2.0"];
        assert_eq!(chosen(|_| {}), all);
        assert_eq!(
            chosen(|rule| rule.tags = vec!["l*".to_owned(), "?.0".to_owned()]),
            ["1.0", "latest", "2.0"]
        );
        assert_eq!(
            chosen(|rule| rule.exclude = vec!["*-rc*".to_owned(), "latest".to_owned()]),
            ["1.0", "1.2", "v1.10", "2.0"]
        );
        assert_eq!(
            chosen(|rule| rule.versions = Some(">=1.2, <2".to_owned())),
            ["1.2", "v1.10"]
        );
        assert_eq!(chosen(|rule| rule.newest = Some(2)), ["2.0", "2.0-rc1"]);
        let both = chosen(|rule| {
            rule.versions = Some("^1".to_owned());
            rule.newest = Some(1);
        });
        assert_eq!(both, ["v1.10"]);
    }

    #[test]
    fn repositories_go_where_the_rule_says() {
        let cases = [
            (
                "a.example/team/app",
                "b.example/mirror/app",
                "team/app",
                "b.example/mirror/app",
            ),
            (
                "a.example/team/*",
                "b.example/mirror",
                "team/web/x",
                "b.example/mirror/web/x",
            ),
            (
                "a.example/*",
                "b.example:5000/m",
                "team/app",
                "b.example:5000/m/team/app",
            ),
            (
                "a.example/t?am/*",
                "b.example/m",
                "team/app",
                "b.example/m/team/app",
            ),
            (
                "debian",
                "b.example/debian",
                "library/debian",
                "b.example/debian",
            ),
            ("short", "b.example/x", "long", "b.example/x"),
            (
                "docker.io/deb*",
                "b.example/m",
                "library/debian",
                "b.example/m/debian",
            ),
        ];
        for (from, into, name, want) in cases {
            let rule = understood(&rule(from, into)).unwrap();
            assert!(rule.means(name), "{from} and {name}");
            let target = rule.target(name).unwrap();
            assert_eq!(target.to_string(), format!("{want}:latest"), "{from}");
        }
    }

    #[test]
    fn images_go_under_their_names() {
        let cases = [
            ("web-*", "web-1", "b.example/m/web-1"),
            ("team/*", "team/web", "b.example/m/web"),
            ("*", "team/web", "b.example/m/team/web"),
            ("web", "web", "b.example/m"),
        ];
        for (images, name, want) in cases {
            let mut rule = rule("", "b.example/m");
            rule.images = Some(images.to_owned());
            rule.form = Some(PushForm::Bootable);
            let rule = understood(&rule).unwrap();
            assert!(rule.means(name), "{images} and {name}");
            let target = rule.target(name).unwrap();
            assert_eq!(target.to_string(), format!("{want}:latest"), "{images}");
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let code = |from: &str, change: fn(&mut SyncRule)| {
            let mut rule = rule(from, "b.example/app");
            change(&mut rule);
            understood(&rule).unwrap_err().code
        };
        let reference = "source.invalid_reference";
        assert_eq!(code("a.example/app:1", |_| {}), reference);
        assert_eq!(code("a.example/UPPER", |_| {}), reference);
        // A pattern of no registry, and a place to write to without one.
        assert_eq!(code("team/*", |_| {}), reference);
        let unplaced = understood(&rule("alp*", "b.example/app")).unwrap_err();
        assert_eq!(unplaced.code, reference);
        assert!(
            unplaced.message.starts_with("\"alp*\" names"),
            "{unplaced:?}"
        );
        let nowhere = code("a.example/app", |rule| rule.into = "short".to_owned());
        assert_eq!(nowhere, reference);
        let params = "request.invalid_params";
        assert_eq!(
            code("a.example/app", |rule| rule.versions =
                Some("1.2".to_owned())),
            params
        );
        assert_eq!(
            code("a.example/app", |rule| rule.tags = vec![String::new()]),
            params
        );
        let images = |rule: &mut SyncRule| rule.images = Some("web".to_owned());
        assert_eq!(code("", |_| {}), params);
        assert_eq!(code("a.example/app", images), params);
        let form: fn(&mut SyncRule) = |rule| rule.form = Some(PushForm::Oci);
        assert_eq!(code("a.example/app", form), params);
        let referrers = code("", |rule| {
            rule.images = Some("web".to_owned());
            rule.form = Some(PushForm::Bootable);
            rule.referrers = true;
        });
        assert_eq!(referrers, params);
        let platform = code("a.example/app", |rule| {
            rule.platform = Some("amiga".to_owned());
        });
        assert_eq!(platform, "source.invalid_platform");
    }

    #[test]
    fn named_tags_need_no_list() {
        let mut named = rule("a.example/app", "b.example/app");
        named.tags = vec!["1".to_owned(), "2".to_owned()];
        named.exclude = vec!["2".to_owned()];
        assert_eq!(understood(&named).unwrap().literal_tags().unwrap(), ["1"]);

        let all = understood(&rule("a.example/app", "b.example/app")).unwrap();
        assert_eq!(all.literal_tags(), None);
    }
}
