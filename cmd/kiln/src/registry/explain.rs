//! `kiln registry explain`: where an image would be asked for, and as whom.

use clap::Args;
use kiln_api::registry::{
    Endpoint, EndpointRole, EndpointSecurity, Explain, ExplainParams, Explanation,
};
use kiln_domain::{Reference, RegistryName};
use serde::Serialize;

use crate::credentials::CredentialsArguments;
use crate::failure::CommandError;
use crate::reach::TlsArguments;
use crate::session::Session;
use crate::text::cell;

/// What to explain.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Reference as you would pull it
    #[arg(value_name = "REFERENCE")]
    reference: String,
    #[command(flatten)]
    credentials: CredentialsArguments,
    #[command(flatten)]
    tls: TlsArguments,
}

/// An explanation with what only the caller's side knows.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    /// Who the caller would be at each endpoint; none where nothing was found.
    users: Vec<Option<String>>,
}

/// Explains.
pub(super) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let stated = arguments.credentials.stated(session)?;
    let client = session.connect().await?;
    let mut params = ExplainParams {
        reference: arguments.reference,
        tls_verify: None,
    };
    let mut explanation = session.call::<Explain>(&client, &params).await?;
    let own = explanation.reference.parse::<Reference>().ok();
    let own = own.as_ref().map(RegistryName::of);
    if let Some(own) = &own {
        params.tls_verify = arguments.tls.verify(own, session)?;
        if params.tls_verify.is_some() {
            explanation = session.call::<Explain>(&client, &params).await?;
        }
    }
    let mut users = Vec::new();
    for endpoint in &explanation.endpoints {
        let is_own = own.as_ref() == Some(&endpoint.registry);
        let found = match (&stated, endpoint.reference.parse()) {
            (Some(stated), _) if is_own => Some(stated.clone()),
            (_, Ok(reference)) => arguments.credentials.find(&reference, session).await?,
            (_, Err(_)) => None,
        };
        users.push(found.map(|found| found.username));
    }
    let explained = Explained { explanation, users };
    let name = explained.explanation.reference.clone();
    session.output().one(&explained, &name, lines)
}

fn lines(explained: &Explained) -> String {
    let Explained { explanation, users } = explained;
    let mut lines = vec![cell(&explanation.reference)];
    if let Some(reason) = &explanation.short_name {
        lines.push(format!("  {}", cell(reason)));
    }
    lines.push(match (&explanation.rule, &explanation.prefix) {
        (Some(rule), Some(prefix)) => {
            format!("  rule for {} in {}", cell(prefix), cell(rule))
        }
        _ => "  no rule is for it".to_owned(),
    });
    if explanation.blocked {
        lines.push("  blocked: nobody is asked".to_owned());
    }
    for (at, endpoint) in explanation.endpoints.iter().enumerate() {
        let user = users.get(at).and_then(Option::as_deref);
        lines.extend(endpoint_lines(at + 1, endpoint, user));
    }
    for passed in &explanation.passed_over {
        let location = cell(&passed.location);
        lines.push(format!(
            "-  {location} is not asked: {}",
            cell(&passed.reason)
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn endpoint_lines(number: usize, endpoint: &Endpoint, user: Option<&str>) -> Vec<String> {
    let what = match endpoint.role {
        EndpointRole::Mirror => "mirror",
        EndpointRole::Location => "location",
    };
    let security = match endpoint.security {
        EndpointSecurity::Https => "https, with a certificate that can be trusted",
        EndpointSecurity::Loopback => "http or https, on this host",
        EndpointSecurity::Insecure => "http, or https with any certificate: insecure",
    };
    let tags = if endpoint.resolves_tags { "yes" } else { "no" };
    let mut lines = vec![
        format!("{number}. {}  ({what})", cell(&endpoint.reference)),
        format!("   because     {}", cell(&endpoint.reason)),
        format!("   speaks      {security}"),
        format!("   tags        {tags}: {}", cell(&endpoint.tags_reason)),
        match &endpoint.proxy {
            Some(proxy) => format!(
                "   proxy       {}, from {}",
                cell(proxy),
                cell(&endpoint.proxy_reason)
            ),
            None => format!("   proxy       none: {}", cell(&endpoint.proxy_reason)),
        },
        match user {
            Some(user) => format!("   user        {}", cell(user)),
            None => "   user        nobody: no credentials were found".to_owned(),
        },
    ];
    let files = endpoint.authorities.iter();
    lines.extend(files.map(|file| format!("   authority   {}", cell(file))));
    let file = endpoint.client_certificate.iter();
    lines.extend(file.map(|file| format!("   certificate {}", cell(file))));
    if !endpoint.headers.is_empty() {
        lines.push(format!(
            "   headers     {}",
            cell(&endpoint.headers.join(", "))
        ));
    }
    if let Some(count) = endpoint.concurrency {
        lines.push(format!("   downloads   {count} at a time"));
    }
    lines
}
