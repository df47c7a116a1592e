//! Which hosts are asked for an image, in which order, how, and why.
//!
//! A [`Network`] is everything that was configured: rules, certificates, proxies. It decides the
//! [`Route`] of a reference without asking anybody; [`crate::Remote`] then walks it. Not here:
//! reading files and the environment.
//!
//! ```text
//! text as written ─short names, aliases─▶ reference ─rule with the longest prefix─▶ mirrors, in order
//!                                                                                  └ the location itself
//! ```
//! Who may say what a tag means: the location itself may. A mirror may where that is written
//! (`resolve = true`, `pull-from-mirror = "all"` or `"tag-only"`), or where the mirror's host, as
//! it is written, is an address of this host or of a private network. Everybody else's mirror
//! serves content by its digest only, which is checked, so it can withhold but not deceive.

mod certificates;
mod endpoint;
mod prefix;
mod proxy;
mod rules;
mod short_names;
mod written;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kiln_domain::{Reference, RegistryName};
use tokio::sync::Semaphore;

pub use certificates::{HostCertificates, PemFile};
pub use endpoint::{Endpoint, Role, Security};
pub use prefix::PlaceError;
pub use proxy::{Proxies, ProxyError, ProxyUrl, ProxyWords};
pub use rules::{Rules, RulesError};
pub use short_names::{ShortNameError, ShortNames, Spelled};

use self::prefix::with_end_of;
use self::rules::{Rule, Ways};
use crate::config::Config;
use crate::error::FetchError;

/// Whether the caller insists on certificates that can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVerify {
    /// As the configuration says.
    #[default]
    AsConfigured,
    /// Everywhere, whatever the configuration says and also on this host: nobody is spoken to in
    /// plain HTTP. Mirrors to which it might be spoken are not asked.
    Demanded,
    /// Not at the registry that the reference names: plain HTTP will do, and any certificate.
    Waived,
}

impl TlsVerify {
    /// Joins what the configuration says about one place, which a demand outweighs.
    fn at(self, is_insecure: bool) -> Self {
        match self {
            Self::AsConfigured if is_insecure => Self::Waived,
            other => other,
        }
    }

    /// What of it holds for mirrors: a waiver is for the registry that is named and for no other.
    fn of_mirrors(self) -> Self {
        match self {
            Self::Waived => Self::AsConfigured,
            other => other,
        }
    }
}

/// Everything that is configured about reaching registries.
#[derive(Debug, Default)]
pub struct Network {
    /// What holds where nothing special was said.
    pub config: Arc<Config>,
    /// What was written about registries.
    pub rules: Rules,
    /// What the certificate directories hold, those that win first.
    pub certificates: Vec<HostCertificates>,
    /// The files that rules name, read.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// What to do with short names.
    pub short_names: ShortNames,
    /// How many may download at a time, by registry; shared by all who pull.
    pub permits: Permits,
}

/// Turns for downloading, by registry.
#[derive(Debug, Default)]
pub struct Permits(Mutex<HashMap<(RegistryName, usize), Arc<Semaphore>>>);

impl Permits {
    fn of(&self, registry: &RegistryName, count: usize) -> Arc<Semaphore> {
        let mut permits = match self.0.lock() {
            Ok(permits) => permits,
            // Nothing is left half done by whoever panicked: the map is only added to.
            Err(poisoned) => poisoned.into_inner(),
        };
        let permits = permits.entry((registry.clone(), count));
        permits
            .or_insert_with(|| Arc::new(Semaphore::new(count)))
            .clone()
    }
}

/// The places that are asked for one image.
#[derive(Debug)]
pub struct Route {
    /// The image, in full.
    pub reference: Reference,
    /// The rule that holds, as `FILE:LINE`.
    pub rule: Option<String>,
    /// The prefix of that rule.
    pub prefix: Option<String>,
    /// Whether the rule forbids the image.
    pub is_blocked: bool,
    /// Places that have copies, in the order in which they are asked.
    pub mirrors: Vec<Endpoint>,
    /// Where it lies; asked last.
    pub location: Endpoint,
    /// Mirrors that are not asked for this image, with the reason.
    pub passed_over: Vec<(String, String)>,
}

impl Network {
    /// Spells a short name out.
    pub fn spell_out(&self, text: &str) -> Result<Spelled, ShortNameError> {
        short_names::spell_out(text, &self.rules, self.short_names)
    }

    /// Decides where an image is asked for.
    pub fn route(&self, reference: &Reference, tls: TlsVerify) -> Route {
        let name = reference.to_string();
        let found = self.rules.of_name(&name);
        let rule = found.map(|(rule, _)| rule);
        let moved = found.and_then(|(rule, matched)| {
            let location = rule.location.as_ref()?;
            location.rewrite(reference, matched)
        });
        let location = moved.unwrap_or_else(|| reference.clone());
        let because = if location == *reference {
            "the name says so"
        } else {
            "the rule has moved the name there"
        };
        let mut route = Route {
            reference: reference.clone(),
            rule: rule.map(|rule| rule.origin.clone()),
            prefix: rule.map(|rule| rule.prefix.to_string()),
            is_blocked: rule.is_some_and(|rule| rule.blocked),
            mirrors: Vec::new(),
            location: self.endpoint(
                Role::Location,
                location,
                tls.at(rule.is_some_and(|rule| rule.insecure)),
                rule.map(|rule| &rule.ways),
                because,
            ),
            passed_over: Vec::new(),
        };
        if tls == TlsVerify::Waived && !rule.is_some_and(|rule| rule.insecure) {
            route.location = route.location.without_secrets();
        }
        if let Some((rule, matched)) = found {
            self.add_mirrors(&mut route, rule, matched, tls.of_mirrors());
        }
        route
    }

    /// Decides how a registry is spoken to as a whole: under its own name, without mirrors.
    ///
    /// Fails where its use is forbidden.
    pub fn registry(&self, name: &RegistryName, tls: TlsVerify) -> Result<Endpoint, FetchError> {
        self.registry_as(name, name.as_str(), tls)
    }

    /// Decides how the registry of a repository is spoken to, under its own name and without
    /// mirrors: as the rule for the repository says, which may differ from that for the registry.
    ///
    /// Fails where its use is forbidden.
    pub fn registry_of(
        &self,
        reference: &Reference,
        tls: TlsVerify,
    ) -> Result<Endpoint, FetchError> {
        self.registry_as(&RegistryName::of(reference), &reference.to_string(), tls)
    }

    fn registry_as(
        &self,
        name: &RegistryName,
        subject: &str,
        tls: TlsVerify,
    ) -> Result<Endpoint, FetchError> {
        let found = self.rules.of_name(subject);
        let rule = found.map(|(rule, _)| rule);
        if let Some(rule) = rule.filter(|rule| rule.blocked) {
            return Err(FetchError::Blocked {
                what: subject.to_owned(),
                origin: rule.origin.clone(),
            });
        }
        let is_insecure = rule.is_some_and(|rule| rule.insecure);
        let endpoint = self.endpoint_of(
            Role::Location,
            name.clone(),
            None,
            tls.at(is_insecure),
            rule.map(|rule| &rule.ways),
            "the name says so",
        );
        if tls == TlsVerify::Waived && !is_insecure {
            return Ok(endpoint.without_secrets());
        }
        Ok(endpoint)
    }

    fn add_mirrors(&self, route: &mut Route, rule: &Rule, matched: usize, tls: TlsVerify) {
        for mirror in &rule.mirrors {
            let place = mirror.location.to_string();
            let Some(moved) = mirror.location.rewrite(&route.reference, matched) else {
                let why = "the name does not fit behind it".to_owned();
                route.passed_over.push((place, why));
                continue;
            };
            let host = RegistryName::of(&moved);
            match endpoint::tags_at(mirror.use_for, &host, &route.reference) {
                Ok(tags) => {
                    let ways = Some(&mirror.ways);
                    let endpoint = |tls: TlsVerify| {
                        let tls = tls.at(mirror.insecure);
                        self.endpoint(Role::Mirror, moved.clone(), tls, ways, "it is a mirror")
                    };
                    let usual = endpoint(TlsVerify::AsConfigured).security;
                    if tls == TlsVerify::Demanded && usual != Security::Https {
                        let why = "certificates are insisted on, and it may speak plain HTTP";
                        route.passed_over.push((place, why.to_owned()));
                        continue;
                    }
                    let mut endpoint = endpoint(tls);
                    (endpoint.resolves_tags, endpoint.tags_reason) = tags;
                    route.mirrors.push(endpoint);
                }
                Err(why) => route.passed_over.push((place, why.to_owned())),
            }
        }
    }

    fn endpoint(
        &self,
        role: Role,
        reference: Reference,
        tls: TlsVerify,
        ways: Option<&Ways>,
        because: &'static str,
    ) -> Endpoint {
        let registry = RegistryName::of(&reference);
        self.endpoint_of(role, registry, Some(reference), tls, ways, because)
    }
}

impl Route {
    /// Lists all places in the order in which they are asked.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.mirrors.iter().chain([&self.location])
    }

    /// Returns the route unless the image is forbidden.
    pub fn unless_blocked(self) -> Result<Self, FetchError> {
        match (&self.rule, self.is_blocked) {
            (Some(origin), true) => Err(FetchError::Blocked {
                what: self.reference.to_string(),
                origin: origin.clone(),
            }),
            _ => Ok(self),
        }
    }
}

/// Gives the reference of an endpoint the tag and digest of another.
pub(crate) fn same_place(endpoint: &Reference, asked: &Reference) -> Option<Reference> {
    let name = format!("{}/{}", endpoint.registry(), endpoint.repository());
    with_end_of(&name, asked)
}

#[cfg(test)]
mod tests;
