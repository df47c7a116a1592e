//! The files of a source that lies on this host: what the client passed, or paths of callers who
//! may name them.

use std::collections::BTreeMap;

use kiln_api::{Failure, HostFile, codes};
use kiln_domain::Source;
use kiln_domain::access::Actor;

use crate::failures::host_file_failure;
use crate::fetch::SourceFiles;
use crate::host_files::{Claim, HostFileError, HostFiles};

/// The files of a source that a caller may have, not looked at yet.
#[derive(Debug)]
pub(crate) enum ClaimedSource {
    /// The source is no local one.
    None,
    /// The layout that a path names.
    Directory(Claim),
    /// The archive that a path names.
    Archive(Claim),
    /// Files that the caller opened.
    Passed(Vec<(String, Claim)>),
}

impl ClaimedSource {
    /// Opens what was passed, and looks whether what was named is there. It blocks.
    pub(crate) fn open(self) -> Result<SourceFiles, HostFileError> {
        Ok(match self {
            Self::None => SourceFiles::None,
            Self::Directory(claim) => claim.directory().map(|_| SourceFiles::Named)?,
            Self::Archive(claim) => claim.file().map(|_| SourceFiles::Named)?,
            Self::Passed(files) => {
                let opened = files
                    .into_iter()
                    .map(|(name, claim)| Ok((name, claim.file()?)));
                SourceFiles::Passed(opened.collect::<Result<_, HostFileError>>()?)
            }
        })
    }
}

/// Takes the files of a local source: those the client passed, or paths for callers who may
/// name them.
pub(crate) fn claim_source(
    host_files: &HostFiles,
    actor: &Actor,
    source: &Source,
    passed: Option<&BTreeMap<String, HostFile>>,
) -> Result<ClaimedSource, Failure> {
    let path = match source {
        Source::Registry(_) => return Ok(ClaimedSource::None),
        Source::OciLayout { path, .. }
        | Source::OciArchive { path, .. }
        | Source::DockerArchive { path, .. }
        | Source::Directory { path } => path,
    };
    let claim = |named| {
        let claimed = host_files.claim(actor, named);
        claimed.map_err(|error| host_file_failure(&error))
    };
    if let Some(files) = passed {
        let claimed = files
            .iter()
            .map(|(name, named)| Ok((name.clone(), claim(named)?)));
        return Ok(ClaimedSource::Passed(claimed.collect::<Result<_, _>>()?));
    }
    let named = path
        .parse::<kiln_api::HostFile>()
        .map_err(|error| Failure::from_error(codes::source::INVALID_REFERENCE, &error))?;
    let claimed = claim(&named)?;
    Ok(match source {
        Source::OciLayout { .. } | Source::Directory { .. } => ClaimedSource::Directory(claimed),
        _ => ClaimedSource::Archive(claimed),
    })
}
