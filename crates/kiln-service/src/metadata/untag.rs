//! Taking the tag that an image came from off it, in the registry.

use kiln_api::image::remote::{UntagParams, Untagged};
use kiln_api::{Failure, codes};
use kiln_domain::Reference;
use kiln_domain::access::Actor;

use super::{Metadata, Sourced, Wanted};
use crate::failures::source_failure;
use crate::pulls::credentials;
use crate::registries::take_off;
use crate::remotes;

impl Metadata {
    /// Takes one tag off in a registry, when it names what the image was made from. The manifest,
    /// its other tags, and the image here stay.
    pub async fn untag(&self, actor: &Actor, params: UntagParams) -> Result<Untagged, Failure> {
        let wanted = Wanted::read(params.image, params.architecture.as_deref())?;
        let Sourced {
            // Changing it there takes the right to change it here.
            grant: _,
            image,
            reference,
            digests,
        } = self.find_source(actor, wanted).await?;
        let registry = params
            .registry
            .as_ref()
            .map_or(reference.registry(), |name| name.as_str());
        let own_tag = match reference.digest() {
            Some(_) => reference.written_tag(),
            None => reference.tag(),
        };
        let tag = params
            .tag
            .as_ref()
            .map(kiln_domain::TagName::as_str)
            .or(own_tag);
        let Some(tag) = tag else {
            let message = format!("{reference} names no tag");
            return Err(Failure::new(codes::source::INVALID_REFERENCE, message)
                .with_hint("say which with --tag", None));
        };
        let text = format!("{registry}/{}:{tag}", reference.repository());
        let target = text.parse::<Reference>();
        let target = target
            .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
        let tls = remotes::tls_verify(params.tls_verify);
        let opened = self
            .remotes
            .registry_of(&target, params.credentials.map(credentials), tls);
        let opened = opened.map_err(|error| source_failure(&error))?;
        let fetched = opened.manifest(&target).await;
        let fetched = fetched.map_err(|error| source_failure(&error))?;
        if !digests.contains(&fetched.digest) {
            let message = format!(
                "{target} names {}, which is not what the image {} was made from",
                fetched.digest, image.name
            );
            return Err(Failure::new(codes::source::CHANGED, message).with_hint(
                "if that tag is what you mean, take it off by its own name:",
                Some(format!("kiln registry untag {target}")),
            ));
        }
        let done = take_off(&opened, &target, &fetched, params.dry_run).await?;
        Ok(Untagged {
            image,
            reference: done.reference,
            digest: done.digest,
            by_replacement: done.by_replacement,
            dry_run: done.dry_run,
        })
    }
}
