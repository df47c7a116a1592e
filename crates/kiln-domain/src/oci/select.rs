//! Choosing the document of one platform from an index.

use super::{Descriptor, DocumentType, Index};
use crate::platform::Platform;

/// The mark of attestations, which some builders list beside images.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Most platforms an error lists.
const MAX_LISTED: usize = 64;

/// The index has no image for the platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no image for {wanted}, there is {}", listed(available))]
pub struct PlatformNotFound {
    /// What was asked for.
    pub wanted: Platform,
    /// What there is, printable, at most 64 entries.
    pub available: Vec<String>,
}

fn listed(available: &[String]) -> String {
    if available.is_empty() {
        "none that names its platform".to_owned()
    } else {
        available.join(", ")
    }
}

impl Index {
    /// Returns the documents that may be for `wanted`, the best first: those that name a platform
    /// `wanted` runs, newest variant first; when there is none, those that name no platform
    /// (nested indexes, single images), whose content has to tell.
    ///
    /// Attestations and artifacts are skipped.
    pub fn candidates(&self, wanted: Platform) -> Vec<&Descriptor> {
        let mut stated: Vec<(u8, &Descriptor)> = self
            .images()
            .filter_map(|image| Some((stated_platform(image)?, image)))
            .filter(|(platform, _)| wanted.runs(*platform))
            .map(|(platform, image)| (platform.level(), image))
            .collect();
        // The sort is stable: among equals the first in the index wins.
        stated.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
        if stated.is_empty() {
            return self
                .images()
                .filter(|image| image.platform.is_none())
                .collect();
        }
        stated.into_iter().map(|(_, image)| image).collect()
    }

    /// Lists the platforms the index names, for people.
    pub fn available(&self) -> Vec<String> {
        self.images()
            .filter_map(|image| image.platform.as_ref())
            .map(ToString::to_string)
            .take(MAX_LISTED)
            .collect()
    }

    fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| {
            let is_document =
                entry.media_type.is_empty() || DocumentType::recognise(&entry.media_type).is_some();
            let is_unknown = entry
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "unknown");
            is_document && !is_unknown && !entry.annotations.contains_key(REFERENCE_TYPE)
        })
    }
}

fn stated_platform(image: &Descriptor) -> Option<Platform> {
    let words = image.platform.as_ref()?;
    Platform::from_words(&words.os, &words.architecture, words.variant.as_deref()).ok()
}

/// Returns the document of `index` that is best for `wanted`, as [`Index::candidates`] orders
/// them.
pub fn select_platform(index: &Index, wanted: Platform) -> Result<&Descriptor, PlatformNotFound> {
    index
        .candidates(wanted)
        .first()
        .copied()
        .ok_or_else(|| PlatformNotFound {
            wanted,
            available: index.available(),
        })
}

#[cfg(test)]
mod tests {
    use super::super::PlatformWords;
    use super::*;
    use crate::Digest;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    /// Builds an index of entries named by text: `linux/arm/v7`, or `-` for no platform. The
    /// digest of an entry is that of its text.
    fn index(entries: &[&str]) -> Index {
        let manifests = entries
            .iter()
            .map(|text| {
                let mut words = text.split('/');
                let platform = (*text != "-").then(|| PlatformWords {
                    os: words.next().unwrap_or_default().to_owned(),
                    architecture: words.next().unwrap_or_default().to_owned(),
                    variant: words.next().map(str::to_owned),
                });
                Descriptor {
                    platform,
                    ..Descriptor::new(MANIFEST, Digest::of(text.as_bytes()), 1)
                }
            })
            .collect();
        Index {
            document_type: DocumentType::OciIndex,
            manifests,
            artifact_type: None,
            subject: None,
            annotations: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn the_newest_variant_the_machine_runs_is_chosen() {
        let many = &[
            "unknown/unknown",
            "windows/amd64",
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/amd64",
            "linux/amd64/v3",
            "linux/arm64/v8",
            "linux/mips",
        ];
        let cases: &[(&[&str], &str, Option<&str>)] = &[
            (many, "amd64", Some("linux/amd64")),
            (many, "linux/amd64/v4", Some("linux/amd64/v3")),
            (many, "arm64", Some("linux/arm64/v8")),
            (many, "arm", Some("linux/arm/v7")),
            (many, "linux/arm/v6", Some("linux/arm/v6")),
            (many, "riscv64", None),
            (&["-", "linux/amd64"], "amd64", Some("linux/amd64")),
            (&["linux/arm64", "-"], "amd64", Some("-")),
            (&["unknown/unknown"], "amd64", None),
            (&[], "amd64", None),
        ];
        for (entries, wanted, want) in cases {
            let index = index(entries);
            let got = select_platform(&index, wanted.parse().unwrap());
            let got = got.ok().map(|descriptor| descriptor.digest);
            assert_eq!(
                got,
                want.map(|text| Digest::of(text.as_bytes())),
                "choosing {wanted} from {entries:?}"
            );
        }
    }

    #[test]
    fn the_error_lists_what_there_is_and_nothing_unprintable() {
        let index = index(&["linux/amd64", "linux/\u{1b}[31m", "unknown/unknown"]);

        let error = select_platform(&index, "arm64".parse().unwrap()).unwrap_err();

        assert_eq!(
            error.to_string(),
            r"no image for linux/arm64, there is linux/amd64, linux/\u{1b}[31m"
        );
    }

    #[test]
    fn attestations_and_artifacts_are_no_candidates() {
        let mut index = index(&["-", "linux/amd64"]);
        for entry in &mut index.manifests {
            entry
                .annotations
                .insert(REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned());
        }
        let mut artifact = Descriptor::new("application/vnd.in-toto+json", Digest::of(b"x"), 1);
        artifact.platform = None;
        index.manifests.push(artifact);

        assert!(index.candidates("amd64".parse().unwrap()).is_empty());
    }
}
