//! `registry.explain`: where an image would be asked for.

use kiln_api::Failure;
use kiln_api::registry::{
    Endpoint, EndpointRole, EndpointSecurity, ExplainParams, Explanation, PassedOver,
};
use kiln_registry::routes::{self, Role, Security};

use super::Registries;
use crate::failures::short_name_failure;
use crate::remotes::tls_verify;

impl Registries {
    /// Tells which hosts would be asked for an image, in which order, how and why.
    pub fn explain(&self, params: &ExplainParams) -> Result<Explanation, Failure> {
        let network = self.remotes.network();
        let text = params.reference.strip_prefix("docker://");
        let text = text.unwrap_or(&params.reference);
        let spelled = network.spell_out(text);
        let spelled = spelled.map_err(|error| short_name_failure(&error))?;
        let route = network.route(&spelled.reference, tls_verify(params.tls_verify));
        let endpoints = route.endpoints().map(view).collect();
        let passed_over = route.passed_over.into_iter();
        Ok(Explanation {
            reference: route.reference.to_string(),
            short_name: spelled.reason,
            rule: route.rule,
            prefix: route.prefix,
            blocked: route.is_blocked,
            rule_problem: route.rule_problem,
            endpoints,
            passed_over: passed_over
                .map(|(location, reason)| PassedOver { location, reason })
                .collect(),
        })
    }
}

fn view(endpoint: &routes::Endpoint) -> Endpoint {
    let reference = endpoint.reference.as_ref();
    Endpoint {
        reference: reference.map(ToString::to_string).unwrap_or_default(),
        role: match endpoint.role {
            Role::Mirror => EndpointRole::Mirror,
            Role::Location => EndpointRole::Location,
        },
        reason: endpoint.reason.to_owned(),
        resolves_tags: endpoint.resolves_tags,
        tags_reason: endpoint.tags_reason.to_owned(),
        security: match endpoint.security {
            Security::Https => EndpointSecurity::Https,
            Security::Loopback => EndpointSecurity::Loopback,
            Security::Insecure => EndpointSecurity::Insecure,
        },
        authorities: endpoint.authorities.clone(),
        client_certificate: endpoint.client_certificate.clone(),
        client_problem: endpoint.client_problem.as_ref().map(ToString::to_string),
        proxy: endpoint.proxy.clone(),
        proxy_reason: endpoint.proxy_reason.clone(),
        headers: endpoint.headers.clone(),
        concurrency: endpoint.concurrency,
        registry: endpoint.registry.clone(),
    }
}
