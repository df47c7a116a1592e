//! `registry.doctor`: what was seen of a registry, in words.

use kiln_api::Failure;
use kiln_api::registry::doctor::{Diagnosis, DoctorParams, Finding, Level};
use kiln_domain::RegistryName;
use kiln_registry::routes::Endpoint;
use kiln_registry::{Answered, Deletes, Diagnosis as Seen, FetchError, Registry};

use super::Registries;
use crate::failures::source_failure;
use crate::pulls::credentials;
use crate::remotes::tls_verify;

/// From which difference of clocks on tokens and certificates may count as not yet valid, or not any
/// more, in seconds: most token servers allow a minute.
const SKEW_SECONDS: i64 = 60;

impl Registries {
    /// Looks at everything between here and a registry.
    pub async fn doctor(&self, params: DoctorParams) -> Result<Diagnosis, Failure> {
        let network = self.remotes.network();
        let tls = tls_verify(params.tls_verify);
        let endpoint = network.registry(&params.registry, tls);
        let endpoint = endpoint.map_err(|error| source_failure(&error))?;
        let has_login = params.credentials.is_some();
        let registry = Registry::at(&endpoint, params.credentials.map(credentials));
        let registry = registry.map_err(|error| source_failure(&error))?;
        let seen = registry.diagnose().await;
        let now_seconds = self.logins.now().as_micros().div_euclid(1_000_000);
        let name = &params.registry;
        let mut findings = way(&seen, &endpoint, name);
        match &seen.answer {
            Ok(answered) => {
                findings.extend(answer(answered, has_login, name));
                findings.extend(clock(answered, now_seconds));
                findings.push(deletion(seen.deletes));
            }
            Err(error) => findings.push(no_answer(error, name)),
        }
        Ok(Diagnosis {
            registry: params.registry,
            findings,
        })
    }
}

fn finding(check: &str, level: Level, message: impl Into<String>) -> Finding {
    Finding {
        check: check.to_owned(),
        level,
        message: message.into(),
        command: None,
    }
}

/// What lies between here and there. Behind a proxy, neither name nor address need be known here.
fn way(seen: &Seen, endpoint: &Endpoint, name: &RegistryName) -> Vec<Finding> {
    let bad = if endpoint.proxy.is_some() {
        Level::Warn
    } else {
        Level::Fail
    };
    let mut findings = vec![match &seen.addresses {
        Ok(addresses) if !addresses.is_empty() => {
            let addresses: Vec<String> = addresses
                .iter()
                .map(|address| address.ip().to_string())
                .collect();
            finding("name", Level::Ok, addresses.join(", "))
        }
        Ok(_) => look_up(finding("name", bad, "the name has no address"), name),
        Err(error) => {
            let message = format!("the name cannot be looked up: {error}");
            look_up(finding("name", bad, message), name)
        }
    }];
    let failed: Vec<String> = seen
        .connections
        .iter()
        .filter_map(|(address, outcome)| {
            let error = outcome.as_ref().err()?;
            Some(format!("{address}: {error}"))
        })
        .collect();
    findings.extend(match (seen.connections.len(), failed.len()) {
        (0, _) => None,
        (_, 0) => Some(finding(
            "connection",
            Level::Ok,
            "every address takes connections",
        )),
        (all, some) => {
            let level = if some == all { bad } else { Level::Warn };
            let seen = finding("connection", level, failed.join("; "));
            Some(Finding {
                command: Some(ask_it(name)),
                ..seen
            })
        }
    });
    let proxy = match &endpoint.proxy {
        Some(proxy) => format!("through {proxy} ({})", endpoint.proxy_reason),
        None => format!("none: {}", endpoint.proxy_reason),
    };
    findings.push(finding("proxy", Level::Ok, proxy));
    findings
}

fn answer(answered: &Answered, has_login: bool, name: &RegistryName) -> Vec<Finding> {
    let pong = &answered.pong;
    let is_plain = pong.url.starts_with("http://");
    let answer = if is_plain {
        finding(
            "answer",
            Level::Warn,
            format!("{} answers, unencrypted", pong.url),
        )
    } else {
        finding("answer", Level::Ok, format!("{} answers", pong.url))
    };
    let protocol = match pong.api_version.as_deref() {
        Some(version) if version.contains("registry/2") => finding("protocol", Level::Ok, version),
        Some(version) => finding("protocol", Level::Warn, format!("it says {version}")),
        None => finding(
            "protocol",
            Level::Ok,
            "it does not say, as the specification allows",
        ),
    };
    let login = match (pong.is_authenticated, has_login) {
        (true, _) => finding("login", Level::Ok, "your login is accepted"),
        (false, true) => finding(
            "login",
            Level::Warn,
            "it did not ask who you are: what your login is worth is not known",
        ),
        (false, false) => Finding {
            command: Some(format!("kiln login {name}")),
            ..finding("login", Level::Ok, "you have none, and it asks for none")
        },
    };
    vec![answer, protocol, login]
}

fn clock(answered: &Answered, now_seconds: i64) -> Option<Finding> {
    let theirs = answered.date_seconds?;
    let ahead = theirs.saturating_sub(now_seconds);
    if ahead.abs() <= SKEW_SECONDS {
        return Some(finding("clock", Level::Ok, "both clocks agree"));
    }
    let message = format!(
        "its clock is {} s {} ours: tokens and certificates may count as invalid",
        ahead.abs(),
        if ahead > 0 { "ahead of" } else { "behind" }
    );
    Some(Finding {
        command: Some("timedatectl status".to_owned()),
        ..finding("clock", Level::Warn, message)
    })
}

fn deletion(deletes: Deletes) -> Finding {
    let (level, message) = match deletes {
        Deletes::Yes => (Level::Ok, "it deletes what it is asked to"),
        Deletes::No => (
            Level::Warn,
            "it deletes nothing (distribution: REGISTRY_STORAGE_DELETE_ENABLED=true)",
        ),
        Deletes::NotForUs => (Level::Warn, "it deletes nothing for you"),
        Deletes::Unknown => (Level::Warn, "it does not tell whether it deletes"),
    };
    finding("deletion", level, message)
}

/// Asks the host's own resolver for the name.
fn look_up(finding: Finding, name: &RegistryName) -> Finding {
    let (host, _) = host_and_port(name);
    let host = host.trim_matches(['[', ']']);
    Finding {
        command: Some(format!("getent ahosts {host}")),
        ..finding
    }
}

/// Writes a command that shows the whole of one request.
fn ask_it(name: &RegistryName) -> String {
    let scheme = if name.is_loopback() { "http" } else { "https" };
    format!("curl -v {scheme}://{name}/v2/")
}

/// Writes a command that shows which certificates are exchanged.
fn show_certificates(name: &RegistryName) -> String {
    let (host, port) = host_and_port(name);
    format!("openssl s_client -showcerts -connect {host}:{port} </dev/null")
}

fn host_and_port(name: &RegistryName) -> (&str, &str) {
    let text = name.as_str();
    match text.rsplit_once(':') {
        // The colons of an address stand in brackets.
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, "443"),
    }
}

fn no_answer(error: &FetchError, name: &RegistryName) -> Finding {
    let failure = source_failure(error);
    let causes = failure.cause.iter().map(String::as_str);
    let message = std::iter::once(failure.message.as_str()).chain(causes);
    let is_login = matches!(
        error,
        FetchError::AuthRequired { .. } | FetchError::AuthFailed { .. } | FetchError::Denied { .. }
    );
    let advised = failure.hint.as_ref().and_then(|hint| hint.command.clone());
    let command = match error {
        FetchError::Tls { .. } => show_certificates(name),
        FetchError::ClientCertificateWanted { .. } => {
            format!("ls -l /etc/containers/certs.d/{name}/")
        }
        _ => advised.unwrap_or_else(|| ask_it(name)),
    };
    Finding {
        command: Some(command),
        ..finding(
            if is_login { "login" } else { "answer" },
            Level::Fail,
            message.collect::<Vec<_>>().join(": "),
        )
    }
}
