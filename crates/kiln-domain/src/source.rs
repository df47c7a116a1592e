//! Where an image comes from: a registry, or a layout or archive on the host.
//!
//! Not here: opening any of them.
//!
//! ```text
//! debian:bookworm                      a reference; docker:// in front means the same
//! oci:DIR[:TAG]                        an OCI image layout directory
//! oci-archive:FILE[:TAG]               the same layout in a tar archive
//! docker-archive:FILE[:REFERENCE]      what `docker save` writes
//! dir:DIR                              one image in a directory, as skopeo writes it
//! ```

use std::fmt;
use std::str::FromStr;

use crate::reference::{Reference, ReferenceError, derived_name, hyphenated};

/// Longest accepted tag of a layout, in bytes. The `org.opencontainers.image.ref.name`
/// annotation may hold a whole reference: registry, repository, tag and digest.
const MAX_LAYOUT_TAG_LEN: usize = 255 + 255 + 128 + 80;

/// Where an image comes from, in the notation of containers-transports(5).
///
/// Paths are kept as the caller wrote them. As in that notation a path holds no colon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A registry's image: a bare reference, or one behind `docker://`.
    Registry(Reference),
    /// A directory that holds an OCI image layout.
    OciLayout {
        /// The directory.
        path: String,
        /// The value of the `org.opencontainers.image.ref.name` annotation to look for.
        tag: Option<String>,
    },
    /// A tar archive that holds an OCI image layout.
    OciArchive {
        /// The file.
        path: String,
        /// The value of the `org.opencontainers.image.ref.name` annotation to look for.
        tag: Option<String>,
    },
    /// A tar archive as `docker save` writes it.
    DockerArchive {
        /// The file.
        path: String,
        /// Which of the archive's images.
        reference: Option<Reference>,
    },
    /// A directory that holds one image, as skopeo writes it.
    Directory {
        /// The directory.
        path: String,
    },
}

/// Why a text is not a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The reference is broken.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// There is no path behind the transport, or it holds control characters.
    #[error("{transport}: needs a path without control characters")]
    Path {
        /// `oci`, `oci-archive`, `docker-archive` or `dir`.
        transport: &'static str,
    },
    /// The tag is empty, too long or holds control characters.
    #[error("{tag:?} cannot be the tag of an image in a layout")]
    Tag {
        /// The tag, cut to 80 characters.
        tag: String,
    },
    /// The transport is known but not read here.
    #[error("{transport}: is not supported, copy the image with `skopeo copy {text} oci:DIR`")]
    Unsupported {
        /// `docker-daemon` or `containers-storage`.
        transport: &'static str,
        /// The whole text, cut to 80 characters.
        text: String,
    },
}

impl Source {
    /// Returns the name an image gets when the caller names none, or nothing when the path says
    /// nothing (`oci:/`).
    ///
    /// A reference decides alone. Otherwise it is the last part of the path, without an
    /// archive's ending, then a hyphen and the tag; `latest` adds nothing.
    pub fn derived_image_name(&self) -> Option<String> {
        match self {
            Self::Registry(reference)
            | Self::DockerArchive {
                reference: Some(reference),
                ..
            } => Some(reference.derived_image_name()),
            Self::OciLayout { path, tag } => layout_name(last_part(path), tag.as_deref()),
            Self::OciArchive { path, tag } => layout_name(archive_stem(path), tag.as_deref()),
            Self::Directory { path } => layout_name(last_part(path), None),
            Self::DockerArchive {
                path,
                reference: None,
            } => layout_name(archive_stem(path), None),
        }
    }
}

/// Names an image of a layout. Tools write a tag or a whole reference into the annotation.
fn layout_name(stem: &str, tag: Option<&str>) -> Option<String> {
    if let Some(reference) = tag
        .filter(|tag| tag.contains('/'))
        .and_then(|tag| tag.parse::<Reference>().ok())
    {
        return Some(reference.derived_image_name());
    }
    let base = hyphenated(stem);
    let base = base.trim_matches('-');
    (!base.is_empty()).then(|| derived_name(base, tag.filter(|tag| *tag != "latest")))
}

fn last_part(path: &str) -> &str {
    let last = path.trim_end_matches('/').rsplit('/').next();
    last.unwrap_or_default()
}

fn archive_stem(path: &str) -> &str {
    let mut stem = last_part(path);
    for ending in [".gz", ".zst", ".tgz", ".tar"] {
        stem = stem.strip_suffix(ending).unwrap_or(stem);
    }
    stem
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, tag) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::OciLayout { path, tag } => ("oci", path, tag.clone()),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag.clone()),
            Self::Directory { path } => ("dir", path, None),
            Self::DockerArchive { path, reference } => (
                "docker-archive",
                path,
                reference.as_ref().map(ToString::to_string),
            ),
        };
        write!(f, "{transport}:{path}")?;
        if let Some(tag) = tag {
            write!(f, ":{tag}")?;
        }
        Ok(())
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(reference) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(reference.parse()?));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = split_path("oci", rest)?;
            let tag = tag.map(parse_layout_tag).transpose()?;
            return Ok(Self::OciLayout { path, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (path, tag) = split_path("oci-archive", rest)?;
            let tag = tag.map(parse_layout_tag).transpose()?;
            return Ok(Self::OciArchive { path, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, reference) = split_path("docker-archive", rest)?;
            let reference = reference.map(str::parse).transpose()?;
            return Ok(Self::DockerArchive { path, reference });
        }
        if let Some(rest) = text.strip_prefix("dir:") {
            return match split_path("dir", rest)? {
                (path, None) => Ok(Self::Directory { path }),
                // It holds one image; a colon can only be meant as part of the path.
                (_, Some(_)) => Err(SourceError::Path { transport: "dir" }),
            };
        }
        for transport in ["docker-daemon", "containers-storage"] {
            if text
                .strip_prefix(transport)
                .is_some_and(|rest| rest.starts_with(':'))
            {
                return Err(SourceError::Unsupported {
                    transport,
                    text: text.chars().take(80).collect(),
                });
            }
        }
        Ok(Self::Registry(text.parse()?))
    }
}

fn split_path<'a>(
    transport: &'static str,
    rest: &'a str,
) -> Result<(String, Option<&'a str>), SourceError> {
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if path.is_empty() || path.contains(char::is_control) {
        return Err(SourceError::Path { transport });
    }
    Ok((path.to_owned(), tag))
}

fn parse_layout_tag(tag: &str) -> Result<String, SourceError> {
    if tag.is_empty() || tag.len() > MAX_LAYOUT_TAG_LEN || tag.contains(char::is_control) {
        return Err(SourceError::Tag {
            tag: tag.chars().take(80).collect(),
        });
    }
    Ok(tag.to_owned())
}

crate::text::serde_through_text!(Source);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, canonical: &str, name: Option<&str>) {
        let source: Source = text
            .parse()
            .unwrap_or_else(|error| panic!("parsing {text:?}: {error}"));
        assert_eq!(source.to_string(), canonical, "writing {text:?}");
        assert_eq!(
            source.derived_image_name().as_deref(),
            name,
            "naming {text:?}"
        );
        assert_eq!(canonical.parse(), Ok(source), "reading {canonical:?} again");
    }

    #[test]
    fn every_transport_round_trips_and_derives_a_name() {
        let debian = "docker.io/library/debian:12";
        check("debian:12", debian, Some("debian-12"));
        check("docker://debian:12", debian, Some("debian-12"));
        check(
            "oci:/srv/My_Layout/",
            "oci:/srv/My_Layout/",
            Some("my-layout"),
        );
        check("oci:lay:v1.2", "oci:lay:v1.2", Some("lay-v1-2"));
        check("oci:lay:latest", "oci:lay:latest", Some("lay"));
        check(
            "oci:lay:docker.io/library/debian:12",
            "oci:lay:docker.io/library/debian:12",
            Some("debian-12"),
        );
        check("oci:/", "oci:/", None);
        check("dir:/srv/My_App", "dir:/srv/My_App", Some("my-app"));
        check(
            "oci-archive:/a/debian-12.5.oci.tar:x",
            "oci-archive:/a/debian-12.5.oci.tar:x",
            Some("debian-12-5-oci-x"),
        );
        check(
            "docker-archive:app.tar.gz",
            "docker-archive:app.tar.gz",
            Some("app"),
        );
        check(
            "docker-archive:app.tar:debian",
            "docker-archive:app.tar:docker.io/library/debian:latest",
            Some("debian"),
        );
    }

    #[test]
    fn broken_sources_are_refused_by_name() {
        let cases: Vec<(&str, SourceError)> = vec![
            ("oci:", SourceError::Path { transport: "oci" }),
            ("oci::x", SourceError::Path { transport: "oci" }),
            ("oci:a\u{1b}b", SourceError::Path { transport: "oci" }),
            ("oci-archive:f:", SourceError::Tag { tag: String::new() }),
            ("dir:", SourceError::Path { transport: "dir" }),
            ("dir:a:b", SourceError::Path { transport: "dir" }),
            (
                "docker-archive:",
                SourceError::Path {
                    transport: "docker-archive",
                },
            ),
            (
                "docker-daemon:debian",
                SourceError::Unsupported {
                    transport: "docker-daemon",
                    text: "docker-daemon:debian".to_owned(),
                },
            ),
            ("", ReferenceError::Empty.into()),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Source>(), Err(want), "parsing {text:?}");
        }
    }
}
