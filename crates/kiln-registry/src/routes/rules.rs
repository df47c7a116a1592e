//! What people wrote about registries, as rules: containers-registries.conf(5), and the
//! `[[registry]]` tables of our own configuration.
//!
//! Text comes in, rules come out; files are read elsewhere. Later texts win over earlier ones:
//! prefix by prefix, alias by alias.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_domain::without_user_info;

use super::prefix::{Location, PlaceError, Prefix};
use super::proxy::{ProxyError, ProxyUrl};
use super::written::{self, TomlProblem, Written, WrittenMirror, WrittenRegistry};
use crate::headers::Headers;

/// Most rules of one text, and most mirrors of one rule: no person writes more.
const MAX_RULES: usize = 4_096;

/// Most downloads from one registry that can be asked for.
const MAX_CONCURRENCY: usize = 1_024;

/// Longest silence that can be asked for, in seconds.
const MAX_TIMEOUT_SECONDS: u64 = 3_600;

/// Headers that a configuration may not send: the first would be credentials in a file for all
/// to read, the others belong to the transport.
const RESERVED_HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "range",
];

/// Everything that was written, put together.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    registries: BTreeMap<Prefix, Rule>,
    aliases: BTreeMap<String, Alias>,
    search: Option<(Vec<String>, String)>,
    mode: ShortNameMode,
    problems: Vec<String>,
}

/// Whose file a rule is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The containers' tools', which take some of what we cannot: a mistake is that rule's alone.
    Theirs,
    /// Our own, where a mistake is an error.
    Ours,
}

/// What holds for names with one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) prefix: Prefix,
    pub(crate) location: Option<Location>,
    pub(crate) insecure: bool,
    pub(crate) blocked: bool,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) ways: Ways,
    /// `FILE:LINE`.
    pub(crate) origin: String,
    /// Why it cannot be used. It stays, so that what it is for is not asked for elsewhere.
    pub(crate) problem: Option<String>,
    /// Mirrors that cannot be used, as they are written, and why.
    pub(crate) unusable_mirrors: Vec<(String, String)>,
}

/// A place that has copies.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    pub(crate) location: Location,
    pub(crate) insecure: bool,
    pub(crate) use_for: UseFor,
    pub(crate) ways: Ways,
}

/// What a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UseFor {
    /// Nothing is written: content by its digest, and tags where the place is one of our own.
    Unsaid,
    /// `pull-from-mirror = "all"`, or `resolve = true`.
    Everything,
    /// `pull-from-mirror = "digest-only"`, `mirror-by-digest-only`, or `resolve = false`.
    Digests,
    /// `pull-from-mirror = "tag-only"`.
    Tags,
}

/// How one registry is spoken to, beyond what the containers' files can say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    pub(crate) proxy: Option<ProxyRule>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(crate) headers: Headers,
    pub(crate) concurrency: Option<usize>,
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) enum ProxyRule {
    Through(ProxyUrl),
    Direct,
}

/// The full name that a short one stands for.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    pub(crate) target: String,
    pub(crate) origin: String,
}

/// What is done about short names that have no alias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ShortNameMode {
    #[default]
    Permissive,
    Enforcing,
}

/// Why a text cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It is no TOML, or a key has a value of the wrong kind, or none that is known.
    #[error("{origin} is wrong")]
    Toml {
        /// The file.
        origin: String,
        /// Where and why.
        source: TomlProblem,
    },
    /// It is in the format that was given up in 2019.
    #[error(
        "{origin} has the table [registries.…] of version 1, which is not read; write [[registry]] \
         tables as in containers-registries.conf(5)"
    )]
    VersionOne {
        /// The file.
        origin: String,
    },
    /// A place breaks the grammar.
    #[error("the registry in {origin} cannot be used")]
    Place {
        /// `FILE:LINE`.
        origin: String,
        /// Why.
        source: PlaceError,
    },
    /// A proxy is none.
    #[error("the registry in {origin} cannot be used")]
    Proxy {
        /// `FILE:LINE`.
        origin: String,
        /// Why.
        source: ProxyError,
    },
    /// A rule contradicts itself or says too little.
    #[error("the registry in {origin} {problem}")]
    Rule {
        /// `FILE:LINE`.
        origin: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A header is one of credentials or of the transport.
    #[error("the registry in {origin} sets the header {name:?}, which may not be set here")]
    Header {
        /// `FILE:LINE`.
        origin: String,
        /// The name.
        name: String,
    },
    /// An alias breaks the grammar.
    #[error("the alias {name:?} in {origin} {problem}")]
    Alias {
        /// The file.
        origin: String,
        /// The short name, cut to 80 characters.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// There are more rules than are read.
    #[error("{origin} has more than {MAX_RULES} registries, mirrors or aliases")]
    TooMany {
        /// The file.
        origin: String,
    },
}

impl Rules {
    /// Adds the text of a `registries.conf` or of a drop-in. Keys that Kiln does not know are
    /// other tools' business. A rule that cannot be used [is told](Rules::problems), and nobody is
    /// asked for what it is for; a mirror that cannot be used is not asked.
    pub fn add_containers_conf(&mut self, text: &str, file: &Path) -> Result<(), RulesError> {
        let origin = file.display().to_string();
        let written = written::containers(text).map_err(|source| RulesError::Toml {
            origin: origin.clone(),
            source: TomlProblem::of(text, &source),
        })?;
        if written.registries.is_some() {
            return Err(RulesError::VersionOne { origin });
        }
        if written.aliases.len() > MAX_RULES {
            return Err(RulesError::TooMany { origin });
        }
        for (name, target) in &written.aliases {
            self.add_alias(name, target, &origin)?;
        }
        if let Some(search) = &written.search {
            let hosts = self.search_of(search, &origin);
            self.search = Some((hosts, origin.clone()));
        }
        match written.mode.as_deref() {
            None => {}
            Some("enforcing") => self.mode = ShortNameMode::Enforcing,
            Some("" | "permissive" | "disabled") => self.mode = ShortNameMode::Permissive,
            Some(_) => {
                return Err(RulesError::Rule {
                    origin,
                    problem: "has a short-name-mode other than enforcing, permissive, disabled",
                });
            }
        }
        self.add_registries(text, written, &origin, Whose::Theirs)
    }

    /// Adds the `[[registry]]` tables of Kiln's own configuration, where an unknown key is an
    /// error.
    pub fn add_own(&mut self, text: &str, file: &Path) -> Result<(), RulesError> {
        let origin = file.display().to_string();
        let written = written::own(text).map_err(|source| RulesError::Toml {
            origin: origin.clone(),
            source: TomlProblem::of(text, &source),
        })?;
        self.add_registries(text, written, &origin, Whose::Ours)
    }

    /// Lists what was written and cannot be used, for people.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Lists the files that rules name: authorities, client certificates and keys.
    pub fn files(&self) -> Vec<&Path> {
        self.files_of(Ways::files)
    }

    /// Lists the files of certificate authorities among them.
    pub fn authority_files(&self) -> Vec<&Path> {
        self.files_of(|ways| ways.ca.iter().map(PathBuf::as_path))
    }

    /// Lists the pairs of a client certificate and its key that rules name.
    pub fn client_files(&self) -> impl Iterator<Item = (&Path, &Path)> {
        let rules = self.registries.values();
        let ways = rules.flat_map(|rule| {
            let mirrors = rule.mirrors.iter().map(|mirror| &mirror.ways);
            mirrors.chain([&rule.ways])
        });
        let pairs = ways.filter_map(|ways| ways.client.as_ref());
        pairs.map(|(certificate, key)| (certificate.as_path(), key.as_path()))
    }

    fn files_of<'a, Files>(&'a self, of: impl Fn(&'a Ways) -> Files) -> Vec<&'a Path>
    where
        Files: Iterator<Item = &'a Path>,
    {
        let mirrors = |rule: &'_ Rule| rule.mirrors.len();
        let mut ways = Vec::new();
        for rule in self.registries.values() {
            ways.push(&rule.ways);
            ways.extend((0..mirrors(rule)).filter_map(|at| Some(&rule.mirrors.get(at)?.ways)));
        }
        let mut files: Vec<&Path> = ways.into_iter().flat_map(of).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Counts the rules.
    pub fn len(&self) -> usize {
        self.registries.len()
    }

    /// Says whether nothing was written about any registry.
    pub fn is_empty(&self) -> bool {
        self.registries.is_empty()
    }

    /// Finds the rule for a full name, such as `docker.io/library/debian:12`: the one with the
    /// longest match, and how long that is.
    pub(crate) fn of_name(&self, name: &str) -> Option<(&Rule, usize)> {
        let matching = self.registries.values();
        let matching = matching.filter_map(|rule| Some((rule, rule.prefix.matches(name)?)));
        // Wildcards end where the host does, however much of it they spell out.
        matching.max_by_key(|(rule, length)| (*length, rule.prefix.to_string().len()))
    }

    pub(crate) fn alias(&self, short: &str) -> Option<&Alias> {
        self.aliases.get(short)
    }

    pub(crate) fn search(&self) -> Option<(&[String], &str)> {
        let (hosts, origin) = self.search.as_ref()?;
        Some((hosts, origin))
    }

    pub(crate) fn mode(&self) -> ShortNameMode {
        self.mode
    }

    fn add_alias(&mut self, name: &str, target: &str, origin: &str) -> Result<(), RulesError> {
        let refused = |problem| RulesError::Alias {
            origin: origin.to_owned(),
            name: name.chars().take(80).collect(),
            problem,
        };
        if !kiln_domain::Reference::is_short(name) || name.contains([':', '@']) {
            return Err(refused("is not a short name without tag and digest"));
        }
        if target.is_empty() {
            self.aliases.remove(name);
            return Ok(());
        }
        if kiln_domain::Reference::is_short(target) || Location::parse(target).is_err() {
            return Err(refused(
                "does not stand for a name with registry and repository, without tag and digest",
            ));
        }
        let alias = Alias {
            target: target.to_owned(),
            origin: origin.to_owned(),
        };
        self.aliases.insert(name.to_owned(), alias);
        Ok(())
    }

    fn add_registries(
        &mut self,
        text: &str,
        written: Written,
        file: &str,
        whose: Whose,
    ) -> Result<(), RulesError> {
        let mirrors = written.registry.iter();
        let mirrors: usize = mirrors.map(|rule| rule.get_ref().mirror.len()).sum();
        if written.registry.len().max(mirrors) > MAX_RULES {
            let origin = file.to_owned();
            return Err(RulesError::TooMany { origin });
        }
        for registry in written.registry {
            let line = line_of(text, registry.span().start);
            let origin = format!("{file}:{line}");
            let registry = registry.into_inner();
            let prefix = written_prefix(&registry);
            let rule = match (rule_of(registry, &origin, whose), whose) {
                (Ok(rule), _) => rule,
                (Err(error), Whose::Ours) => return Err(error),
                (Err(error), Whose::Theirs) => {
                    let problem = error.told();
                    self.problems.push(problem.clone());
                    // Of what has no prefix no image's name can begin like it.
                    let Some(prefix) = prefix else { continue };
                    Rule::unusable(prefix, origin, problem)
                }
            };
            let mirrors = rule.unusable_mirrors.iter();
            self.problems.extend(mirrors.map(|(_, why)| why.clone()));
            self.registries.insert(rule.prefix.clone(), rule);
        }
        Ok(())
    }

    /// Takes the registries that short names are looked for in. One that is none keeps its place: who
    /// comes first decides what a short name means.
    fn search_of(&mut self, hosts: &[String], origin: &str) -> Vec<String> {
        let mut taken = Vec::with_capacity(hosts.len());
        for host in hosts {
            taken.push(match Location::parse(host) {
                Ok(location) => location.to_string(),
                Err(source) => {
                    let list = "unqualified-search-registries";
                    self.problems.push(format!("{list} in {origin}: {source}"));
                    without_user_info(host)
                }
            });
        }
        taken
    }
}

impl Ways {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let client = self.client.iter().flat_map(|(one, other)| [one, other]);
        self.ca.iter().chain(client).map(PathBuf::as_path)
    }
}

impl Rule {
    /// A rule under which nobody is asked.
    fn unusable(prefix: Prefix, origin: String, problem: String) -> Self {
        Self {
            prefix,
            location: None,
            insecure: false,
            blocked: false,
            mirrors: Vec::new(),
            ways: Ways::default(),
            origin,
            problem: Some(problem),
            unusable_mirrors: Vec::new(),
        }
    }
}

impl RulesError {
    /// Tells it with its cause in one line.
    fn told(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Reads what a rule is for, whatever else stands in it.
fn written_prefix(written: &WrittenRegistry) -> Option<Prefix> {
    let stated = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let prefix = stated(&written.prefix).or_else(|| stated(&written.location))?;
    Prefix::parse(&prefix).ok()
}

fn rule_of(written: WrittenRegistry, origin: &str, whose: Whose) -> Result<Rule, RulesError> {
    let place = |source| RulesError::Place {
        origin: origin.to_owned(),
        source,
    };
    let refused = |problem| RulesError::Rule {
        origin: origin.to_owned(),
        problem,
    };
    let stated = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (prefix, location) = (stated(written.prefix), stated(written.location));
    let location = location.as_deref().map(Location::parse).transpose();
    let location = location.map_err(place)?;
    let prefix = match (&prefix, &location) {
        (Some(prefix), _) => Prefix::parse(prefix),
        (None, Some(location)) => Prefix::parse(&location.to_string()),
        (None, None) => return Err(refused("has neither prefix nor location")),
    };
    let prefix = prefix.map_err(place)?;
    let by_digest = written.mirror_by_digest_only.unwrap_or(false);
    let (mut mirrors, mut unusable_mirrors) = (Vec::new(), Vec::new());
    for mirror in written.mirror {
        let place = without_user_info(&mirror.location);
        match (mirror_of(mirror, by_digest, origin), whose) {
            (Ok(mirror), _) => mirrors.push(mirror),
            (Err(error), Whose::Ours) => return Err(error),
            (Err(error), Whose::Theirs) => unusable_mirrors.push((place, error.told())),
        }
    }
    if written.resolve.is_some() {
        return Err(refused("has resolve, which is for its mirrors"));
    }
    let ways = ways_of(written.ways, origin)?;
    Ok(Rule {
        location: location.or_else(|| prefix.to_location()),
        prefix,
        insecure: written.insecure.unwrap_or(false),
        blocked: written.blocked.unwrap_or(false),
        mirrors,
        ways,
        origin: origin.to_owned(),
        problem: None,
        unusable_mirrors,
    })
}

fn mirror_of(written: WrittenMirror, by_digest: bool, origin: &str) -> Result<Mirror, RulesError> {
    let refused = |problem| RulesError::Rule {
        origin: origin.to_owned(),
        problem,
    };
    let location = Location::parse(&written.location).map_err(|source| RulesError::Place {
        origin: origin.to_owned(),
        source,
    })?;
    let pull = written
        .pull_from_mirror
        .as_deref()
        .filter(|word| !word.is_empty());
    if by_digest && pull.is_some() {
        return Err(refused(
            "has pull-from-mirror beside mirror-by-digest-only, which excludes it",
        ));
    }
    let use_for = match (by_digest, pull, written.resolve) {
        (_, Some("digest-only"), Some(true)) | (true, _, Some(true)) => {
            return Err(refused(
                "has a mirror that is for digests only and has resolve = true",
            ));
        }
        (_, Some("tag-only" | "all"), Some(false)) => {
            return Err(refused(
                "has a mirror that is for tags and has resolve = false",
            ));
        }
        (true, ..) | (_, Some("digest-only"), _) | (_, None, Some(false)) => UseFor::Digests,
        (_, Some("tag-only"), _) => UseFor::Tags,
        (_, Some("all"), _) | (_, None, Some(true)) => UseFor::Everything,
        (_, None, None) => UseFor::Unsaid,
        _ => {
            return Err(refused(
                "has a pull-from-mirror other than all, digest-only, tag-only",
            ));
        }
    };
    Ok(Mirror {
        location,
        insecure: written.insecure.unwrap_or(false),
        use_for,
        ways: ways_of(written.ways, origin)?,
    })
}

fn ways_of(written: written::WrittenWays, origin: &str) -> Result<Ways, RulesError> {
    let refused = |problem| RulesError::Rule {
        origin: origin.to_owned(),
        problem,
    };
    let proxy = match written.proxy.as_deref() {
        None => None,
        Some("" | "none") => Some(ProxyRule::Direct),
        Some(text) => {
            let proxy = ProxyUrl::parse(text).map_err(|source| RulesError::Proxy {
                origin: origin.to_owned(),
                source,
            })?;
            Some(ProxyRule::Through(proxy))
        }
    };
    let client = match (written.client_cert, written.client_key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(refused(
                "has one of client_cert and client_key, and needs both",
            ));
        }
    };
    let named = written
        .ca
        .iter()
        .chain(client.iter().flat_map(|(a, b)| [a, b]));
    if named.into_iter().any(|path| !path.is_absolute()) {
        return Err(refused("names a file by a path that is not absolute"));
    }
    let headers: Headers = written.headers.into_iter().collect();
    for (name, value) in headers.iter() {
        if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(RulesError::Header {
                origin: origin.to_owned(),
                name: name.to_owned(),
            });
        }
        let is_header = reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && reqwest::header::HeaderValue::from_str(value).is_ok();
        if !is_header {
            return Err(refused("has a header that is none"));
        }
    }
    let concurrency = written.concurrency;
    if concurrency.is_some_and(|count| !(1..=MAX_CONCURRENCY).contains(&count)) {
        return Err(refused("has a concurrency outside of 1 to 1024"));
    }
    let timeout = written.timeout;
    if timeout.is_some_and(|seconds| !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds)) {
        return Err(refused("has a timeout outside of 1 to 3600 seconds"));
    }
    Ok(Ways {
        proxy,
        ca: written.ca,
        client,
        headers,
        concurrency,
        timeout: timeout.map(Duration::from_secs),
    })
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    before.bytes().filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
