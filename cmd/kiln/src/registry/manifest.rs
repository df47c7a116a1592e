//! `kiln registry manifest`: a document of a registry, as it is or as it reads.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_api::failure::printable;
use kiln_api::registry::{
    DocumentKind, ImageConfig, Manifest, ManifestParams, ManifestView, Pointer,
};
use kiln_files::{Existing, FileError, NewFile, at};

use crate::checkout::file_failure;
use crate::failure::CommandError;
use crate::output;
use crate::reach::ReachArguments;
use crate::session::Session;
use crate::text::{cell, or_dash, size};

/// Which document, and what to do with it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image or artifact, by tag or digest
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// The manifest for this platform, such as linux/arm64, in place of the index
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Print the document itself, byte for byte
    #[arg(long)]
    raw: bool,
    /// Write the document itself into a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a regular file that is there already
    #[arg(long, requires = "output")]
    force: bool,
    #[command(flatten)]
    reach: ReachArguments,
}

/// Fetches it.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let caller = arguments.reach.caller(session)?;
    let client = session.connect().await?;
    let (reference, reach) = caller.for_fetching(&arguments.reference, &client).await?;
    let params = ManifestParams {
        reference: reference.to_string(),
        platform: arguments.platform,
        credentials: reach.credentials,
        mirror_credentials: reach.mirror_credentials,
        tls_verify: reach.tls_verify,
    };
    let document = session.call::<Manifest>(&client, &params).await?;
    if let Some(path) = &arguments.output {
        write(path, arguments.force, document.content.as_bytes())?;
        return session.output().one(&document, &document.digest, |_| {
            let path = cell(&path.display().to_string());
            format!("wrote {} to {path}\n", cell(&document.reference))
        });
    }
    if arguments.raw {
        if session.surroundings().stdout_is_terminal {
            return output::write(&printable(&document.content));
        }
        return output::write(&document.content);
    }
    session.output().one(&document, &document.digest, readable)
}

fn write(path: &Path, force: bool, content: &[u8]) -> Result<(), CommandError> {
    let existing = if force {
        Existing::Replaced
    } else {
        Existing::Refused
    };
    let made = NewFile::create(path, existing).and_then(|new| {
        let mut file = new.file();
        file.write_all(content)
            .map_err(at::<std::io::Error>("write", path))?;
        new.place()
    });
    made.map_err(|error: FileError| file_failure(&error).into())
}

/// Writes a document for people.
fn readable(document: &ManifestView) -> String {
    let mut head = vec![
        ("reference", cell(&document.reference)),
        ("kind", kind(document)),
        ("media type", cell(&document.media_type)),
        ("size", size(document.size_bytes)),
    ];
    if let Some(subject) = &document.subject {
        head.push(("about", cell(&subject.digest)));
    }
    if let Some(config) = &document.config {
        let text = format!("{} ({})", cell(&config.digest), size(config.size_bytes));
        head.push(("config", text));
    }
    if let Some(image) = &document.image {
        head.extend(about_image(image));
    }
    let notes = document.annotations.iter();
    head.extend(notes.map(|(key, value)| ("note", format!("{}={}", cell(key), cell(value)))));
    let mut text = output::pairs(&head);
    if !document.manifests.is_empty() {
        text.push('\n');
        text.push_str(&manifests(&document.manifests));
    }
    if !document.layers.is_empty() {
        text.push('\n');
        text.push_str(&layers(&document.layers));
    }
    text
}

fn kind(document: &ManifestView) -> String {
    let word = match document.kind {
        DocumentKind::Index => "index",
        DocumentKind::Image => "image",
        DocumentKind::Artifact => "artifact",
    };
    match &document.artifact_type {
        Some(artifact_type) => format!("{word} of type {}", cell(artifact_type)),
        None => word.to_owned(),
    }
}

fn about_image(image: &ImageConfig) -> Vec<(&'static str, String)> {
    let words = |words: &[String]| {
        let words = words.iter().map(|word| cell(word));
        words.collect::<Vec<_>>().join(" ")
    };
    let lines = [
        ("platform", cell(&image.platform)),
        (
            "created",
            image.created.as_deref().map(cell).unwrap_or_default(),
        ),
        ("entrypoint", words(&image.entrypoint)),
        ("command", words(&image.cmd)),
        ("user", cell(&image.user)),
        ("directory", cell(&image.working_dir)),
        ("environment", words(&image.env)),
    ];
    let lines = lines.into_iter();
    lines.filter(|(_, value)| !value.is_empty()).collect()
}

fn manifests(manifests: &[Pointer]) -> String {
    let rows = manifests.iter().map(|entry| {
        vec![
            or_dash(entry.platform.as_deref()),
            cell(&entry.digest),
            size(entry.size_bytes),
            or_dash(entry.artifact_type.as_deref()),
        ]
    });
    let header = ["PLATFORM", "DIGEST", "SIZE", "ARTIFACT TYPE"];
    output::table(&header, rows.collect())
}

fn layers(layers: &[Pointer]) -> String {
    let rows = layers.iter().map(|layer| {
        vec![
            cell(&layer.digest),
            size(layer.size_bytes),
            cell(&layer.media_type),
        ]
    });
    output::table(&["LAYER", "SIZE", "MEDIA TYPE"], rows.collect())
}
