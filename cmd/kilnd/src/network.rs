//! What this host has about registries, read: the containers' `registries.conf` and drop-ins,
//! certificate directories, our own `[[registry]]` tables and the files they name.
//!
//! What any of it means is `kiln-registry`'s (`routes`). Read at start and again at SIGHUP; whoever
//! reads gets all of it or an error, never half.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_api::daemon::Setting;
use kiln_domain::RegistryName;
use kiln_files::{KeptError, read_kept, read_kept_text};
use kiln_registry::FetchError;
use kiln_registry::routes::{
    ClientProblem, HostCertificates, Network, PemFile, Permits, Proxies, ProxyError, ProxyWords,
    Rules, RulesError,
};

use crate::config::Config;

/// Longest file that is read, in bytes. The aliases that distributions ship have 10 KiB; bundles of
/// authorities have 250 KiB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Most hosts or files of one directory: no person keeps more.
const MAX_ENTRIES: usize = 4_096;

/// What was read.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) network: Network,
    /// The files that were found, and what came of them: for `kiln info --config`.
    pub(crate) settings: Vec<Setting>,
    /// What was passed over, for the log.
    pub(crate) problems: Vec<String>,
}

/// Why the surroundings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: KeptError },
    #[error("{} has more than {MAX_ENTRIES} entries", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} has no certificate authorities that can be used", path.display())]
    Authority {
        path: PathBuf,
        source: Box<FetchError>,
    },
    #[error("the client certificate {} and its key cannot be used: {problem}", certificate.display())]
    Client {
        certificate: PathBuf,
        problem: String,
    },
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error("a proxy variable of the environment cannot be used")]
    Proxy(#[from] ProxyError),
}

/// Reads everything that `config` names.
pub(crate) fn read(config: &Config, words: &ProxyWords) -> Result<Surroundings, NetworkError> {
    let mut rules = Rules::default();
    let mut found = Vec::new();
    let must_exist = config.conf_files.is_set();
    for path in &config.conf_files.value {
        for file in files_at(path, must_exist)? {
            rules.add_containers_conf(&text_of(&file)?, &file)?;
            found.push(file.display().to_string());
        }
    }
    let own = config.own_file.as_ref();
    if let Some((path, text)) = own.filter(|_| config.has_own_rules) {
        rules.add_own(text, path)?;
        found.push(path.display().to_string());
    }
    let mut files = BTreeMap::new();
    for path in rules.files() {
        files.insert(path.to_owned(), bytes_of(path)?);
    }
    for path in rules.authority_files() {
        let pem = files.get(path).map(Vec::as_slice).unwrap_or_default();
        kiln_registry::check_authorities(pem).map_err(|source| NetworkError::Authority {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
    }
    for (certificate, key) in rules.client_files() {
        let pem = |path: &Path| files.get(path).map(Vec::as_slice).unwrap_or_default();
        let pair = [pem(certificate), b"\n", pem(key)].concat();
        kiln_registry::check_client(&pair).map_err(|problem| NetworkError::Client {
            certificate: certificate.to_owned(),
            problem,
        })?;
    }
    let mut problems = rules.problems().to_vec();
    let mut certificates = Vec::new();
    for folder in &config.certs_dirs.value {
        certificates.extend(certificates_in(folder, &mut problems)?);
    }
    let proxies = Proxies::of_environment(words)?;
    let settings = vec![
        Setting {
            key: "registries.read".to_owned(),
            value: format!("{found:?}"),
            origin: format!("{} registries have rules", rules.len()),
        },
        Setting {
            key: "registries.certificates".to_owned(),
            value: format!("{:?}", hosts_of(&certificates)),
            origin: config.certs_dirs.origin.clone(),
        },
        Setting {
            key: "registries.proxy".to_owned(),
            value: format!("{:?}", proxies_shown(&proxies)),
            origin: "environment".to_owned(),
        },
    ];
    let transport = kiln_service::RegistryConfig {
        insecure_hosts: config.insecure_registries.value.clone(),
        extra_ca_pem: config.ca_pem.clone(),
        proxies,
        ..config.patience.registry_config()
    };
    Ok(Surroundings {
        network: Network {
            config: Arc::new(transport),
            rules,
            certificates,
            files,
            short_names: config.short_names.value,
            permits: Permits::default(),
        },
        settings,
        problems,
    })
}

fn hosts_of(certificates: &[HostCertificates]) -> Vec<&str> {
    let hosts = certificates.iter();
    hosts.map(|found| found.registry.as_str()).collect()
}

/// Shows which proxies there are, without their passwords.
fn proxies_shown(proxies: &Proxies) -> Vec<String> {
    ["https", "http"]
        .iter()
        .filter_map(|scheme| Some((scheme, proxies.of_scheme(scheme)?)))
        .map(|(scheme, proxy)| format!("{scheme} through {proxy}"))
        .collect()
}

/// Lists a file, or the `*.conf` of a directory in the order of their names.
fn files_at(path: &Path, must_exist: bool) -> Result<Vec<PathBuf>, NetworkError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let mut files = entries(path)?;
            files.retain(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "conf")
            });
            Ok(files)
        }
        Ok(_) => Ok(vec![path.to_owned()]),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => Ok(Vec::new()),
        Err(source) => Err(unreadable(path, source)),
    }
}

/// Lists a directory, sorted.
fn entries(path: &Path) -> Result<Vec<PathBuf>, NetworkError> {
    let read = fs::read_dir(path).map_err(|source| unreadable(path, source))?;
    let mut entries = Vec::new();
    for entry in read {
        let entry = entry.map_err(|source| unreadable(path, source))?;
        entries.push(entry.path());
        if entries.len() > MAX_ENTRIES {
            return Err(NetworkError::TooLarge {
                path: path.to_owned(),
            });
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

fn text_of(path: &Path) -> Result<String, NetworkError> {
    read_kept_text(path, MAX_FILE_BYTES).map_err(|source| unread(path, source))
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, NetworkError> {
    read_kept(path, MAX_FILE_BYTES).map_err(|source| unread(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> NetworkError {
    unread(path, KeptError::Io(source))
}

fn unread(path: &Path, source: KeptError) -> NetworkError {
    let path = path.to_owned();
    NetworkError::Unreadable { path, source }
}

/// Reads a certificate directory. What cannot be read of it is a problem of that host alone: the
/// directories of the system hold keys that are root's, and most users need none of them.
fn certificates_in(
    folder: &Path,
    problems: &mut Vec<String>,
) -> Result<Vec<HostCertificates>, NetworkError> {
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            problems.push(format!("{}: {error}", folder.display()));
            return Ok(Vec::new());
        }
    }
    let mut hosts = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(registry) = name.and_then(|name| name.parse::<RegistryName>().ok()) else {
            problems.push(format!("{} is not named like a registry", path.display()));
            continue;
        };
        match certificates_of(&path, registry, problems) {
            Ok(found) => hosts.push(found),
            Err(error) => problems.push(told(&error)),
        }
    }
    Ok(hosts)
}

fn certificates_of(
    folder: &Path,
    registry: RegistryName,
    problems: &mut Vec<String>,
) -> Result<HostCertificates, NetworkError> {
    let mut found = HostCertificates {
        registry,
        authorities: Vec::new(),
        clients: Vec::new(),
        problem: None,
    };
    for path in entries(folder)? {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let read = match extension {
            Some("crt") => bytes_of(&path).map(|pem| found.authorities.push(pem_file(&path, pem))),
            Some("cert") => match client_of(&path) {
                Ok(pem) => {
                    found.clients.push(pem_file(&path, pem));
                    Ok(())
                }
                Err(ClientError::Unread(error)) => Err(error),
                Err(ClientError::Problem(problem)) => {
                    problems.push(problem.to_string());
                    found.problem = found.problem.or(Some(problem));
                    Ok(())
                }
            },
            Some("key") => {
                let certificate = path.with_extension("cert");
                if matches!(certificate.try_exists(), Ok(false)) {
                    let problem = ClientProblem::Lone {
                        present: path.clone(),
                        missing: certificate,
                    };
                    problems.push(problem.to_string());
                    found.problem = found.problem.or(Some(problem));
                }
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = read {
            problems.push(told(&error));
        }
    }
    Ok(found)
}

/// Why there is no client certificate.
enum ClientError {
    /// One of its files cannot be read, as keys of root's by users.
    Unread(NetworkError),
    /// They are there, and are none.
    Problem(ClientProblem),
}

/// Reads a client certificate and the key of the same name.
fn client_of(certificate: &Path) -> Result<Vec<u8>, ClientError> {
    let key = certificate.with_extension("key");
    if matches!(key.try_exists(), Ok(false)) {
        return Err(ClientError::Problem(ClientProblem::Lone {
            present: certificate.to_owned(),
            missing: key,
        }));
    }
    let mut pem = bytes_of(certificate).map_err(ClientError::Unread)?;
    pem.push(b'\n');
    pem.extend_from_slice(&bytes_of(&key).map_err(ClientError::Unread)?);
    kiln_registry::check_client(&pem).map_err(|reason| {
        ClientError::Problem(ClientProblem::NoPair {
            certificate: certificate.to_owned(),
            key,
            reason,
        })
    })?;
    Ok(pem)
}

fn pem_file(path: &Path, pem: Vec<u8>) -> PemFile {
    let path = path.display().to_string();
    PemFile { path, pem }
}

fn told(error: &NetworkError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
