//! The rules of a sync, understood: which repositories, which tags. Nothing is asked here.

use kiln_api::registry::sync::SyncRule;
use kiln_api::{Failure, codes};
use kiln_domain::{
    Credentials, Reference, RegistryName, TagPattern, TagRuleError, TagVersion, VersionRange,
};
use kiln_registry::Breadth;

use crate::pulls::credentials;

/// A rule that can be followed.
#[derive(Debug)]
pub(super) struct Rule {
    /// As it was written.
    pub(super) from_text: String,
    pub(super) from_registry: RegistryName,
    pub(super) into_registry: RegistryName,
    /// The repositories of the source.
    from: TagPattern,
    /// How much of a repository's name is not kept at the destination, in bytes.
    dropped: usize,
    into: String,
    tags: Vec<TagPattern>,
    exclude: Vec<TagPattern>,
    versions: Option<VersionRange>,
    newest: Option<u32>,
    pub(super) breadth: Breadth,
    pub(super) has_referrers: bool,
    pub(super) from_credentials: Option<Credentials>,
    pub(super) into_credentials: Option<Credentials>,
}

/// Understands a rule.
pub(super) fn understand(rule: &SyncRule) -> Result<Rule, Failure> {
    let bad = |text: &str, error: &TagRuleError| {
        let message = format!("the rule for {}: {text:?}", rule.from);
        let mut failure = Failure::from_error(codes::request::INVALID_PARAMS, error);
        failure.cause.insert(0, failure.message);
        failure.message = kiln_api::failure::printable(&message);
        failure
    };
    let pattern = |text: &String| {
        text.parse::<TagPattern>()
            .map_err(|error| bad(text, &error))
    };
    let (from_registry, from) = place(&rule.from)?;
    let (into_registry, into) = place(&rule.into)?;
    let parsed = pattern(&from)?;
    let dropped = match from.find(['*', '?']) {
        // A repository that is named keeps nothing of its name.
        None => from.len(),
        Some(star) => from[..star].rfind('/').map_or(0, |slash| slash + 1),
    };
    let versions = rule.versions.as_ref();
    let versions = versions.map(|text| text.parse().map_err(|error| bad(text, &error)));
    let platform = rule.platform.as_ref().map(|text| text.parse());
    let platform = platform
        .transpose()
        .map_err(|error: kiln_domain::PlatformError| {
            Failure::from_error(codes::source::INVALID_PLATFORM, &error)
        })?;
    let understood = Rule {
        from_registry,
        into_registry,
        from: parsed,
        dropped,
        into,
        tags: rule.tags.iter().map(pattern).collect::<Result<_, _>>()?,
        exclude: rule.exclude.iter().map(pattern).collect::<Result<_, _>>()?,
        versions: versions.transpose()?,
        newest: rule.newest,
        breadth: platform.map_or(Breadth::Everything, Breadth::Platform),
        has_referrers: rule.referrers,
        from_credentials: rule.from_credentials.clone().map(credentials),
        into_credentials: rule.into_credentials.clone().map(credentials),
        from_text: rule.from.clone(),
    };
    // What names one repository is a reference; what follows from a pattern is one per name.
    if let Some(name) = understood.repository() {
        understood.places(name)?;
    }
    Ok(understood)
}

/// Splits a place into registry and repository; `docker.io` is spelled out as in references.
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
    let reference: Reference = plain
        .parse()
        .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    if reference.written_tag().is_some() || reference.digest().is_some() {
        let message = format!("{text:?} names a tag; tags stand in the rule beside it");
        return Err(Failure::new(codes::source::INVALID_REFERENCE, message));
    }
    let name = reference.repository();
    let repository = match plain.strip_suffix(name) {
        Some(host) => text[host.len()..].to_owned(),
        // The Docker Hub's own images have a namespace that nobody writes.
        None => format!("library/{}", text.rsplit('/').next().unwrap_or_default()),
    };
    Ok((RegistryName::of(&reference), repository))
}

impl Rule {
    /// Returns the repository that is named, where none is searched for.
    pub(super) fn repository(&self) -> Option<&str> {
        self.from.literal()
    }

    /// Says whether a repository is among those that the rule means.
    pub(super) fn means(&self, repository: &str) -> bool {
        self.from.matches(repository)
    }

    /// Says where a repository is, and where it goes.
    pub(super) fn places(&self, repository: &str) -> Result<(Reference, Reference), Failure> {
        let kept = repository.get(self.dropped..).unwrap_or_default();
        let into = if kept.is_empty() {
            self.into.clone()
        } else {
            format!("{}/{kept}", self.into)
        };
        let reference = |registry: &RegistryName, name: &str| {
            let parsed = format!("{registry}/{name}").parse::<Reference>();
            parsed.map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))
        };
        Ok((
            reference(&self.from_registry, repository)?,
            reference(&self.into_registry, &into)?,
        ))
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
    use super::*;

    fn rule(from: &str, into: &str) -> SyncRule {
        SyncRule {
            from: from.to_owned(),
            into: into.to_owned(),
            tags: Vec::new(),
            exclude: Vec::new(),
            versions: None,
            newest: None,
            platform: None,
            referrers: false,
            from_credentials: None,
            into_credentials: None,
        }
    }

    fn chosen(change: impl FnOnce(&mut SyncRule)) -> Vec<String> {
        let mut rule = rule("a.example/app", "b.example/app");
        change(&mut rule);
        let list = "sha256-".to_owned() + &"0".repeat(64);
        let tags = ["1.0", "latest", "1.2", "v1.10", "2.0-rc1", "2.0", &list];
        understand(&rule)
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
            (
                "docker.io/deb*",
                "b.example/m",
                "library/debian",
                "b.example/m/debian",
            ),
        ];
        for (from, into, name, want) in cases {
            let rule = understand(&rule(from, into)).unwrap();
            assert!(rule.means(name), "{from} and {name}");
            let (source, target) = rule.places(name).unwrap();
            assert_eq!(source.repository(), name, "{from}");
            assert_eq!(target.to_string(), format!("{want}:latest"), "{from}");
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let code = |from: &str, change: fn(&mut SyncRule)| {
            let mut rule = rule(from, "b.example/app");
            change(&mut rule);
            understand(&rule).unwrap_err().code
        };
        let reference = "source.invalid_reference";
        assert_eq!(code("a.example/app:1", |_| {}), reference);
        assert_eq!(code("a.example/UPPER", |_| {}), reference);
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
        assert_eq!(understand(&named).unwrap().literal_tags().unwrap(), ["1"]);

        let all = understand(&rule("a.example/app", "b.example/app")).unwrap();
        assert_eq!(all.literal_tags(), None);
    }
}
