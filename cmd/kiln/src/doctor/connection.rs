//! The way to the daemon: its socket, who may use it, what answers.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use kiln_api::daemon::{GetInfo, Info, InfoParams, Recovered};
use kiln_api::kernel::{Default, GetDefault, ListParams};

use super::{Finding, Level};
use crate::failure::CommandError;
use crate::session::Session;
use crate::text::cell;

/// The permission bits of everybody who is neither owner nor in the group.
const OTHERS: u32 = 0o007;

/// Checks the way to the daemon; returns what the daemon says of itself when it answers.
pub(super) async fn check(session: &Session) -> Result<(Vec<Finding>, Option<Info>), CommandError> {
    let (host, origin) = match session.host() {
        Ok(found) => found,
        Err(CommandError::Failed(failure)) => {
            return Ok((vec![Finding::from_failure("socket", &failure)], None));
        }
        Err(other) => return Err(other),
    };
    let mut findings = vec![rights("rights", host.socket())];
    let (info, default) = match ask(session).await {
        Ok(told) => told,
        Err(CommandError::Failed(failure)) => {
            findings.insert(0, Finding::from_failure("socket", &failure));
            return Ok((findings, None));
        }
        Err(other) => return Err(other),
    };
    let answers = format!(
        "kilnd {} answers at {host} (by {}), API {}.{}",
        info.version,
        origin.as_str(),
        info.api.major,
        info.api.minor
    );
    findings.insert(0, Finding::new("socket", Level::Ok, answers));
    findings.push(version(&info));
    findings.push(rights("files socket", &host.files_socket()));
    let default = default.kernel.as_ref().map(|kernel| kernel.name.as_str());
    findings.push(kernels(info.counts.kernels, default));
    findings.push(match &info.database.error {
        Some(failure) => Finding::from_failure("database", failure),
        None => database(&info.recovered),
    });
    Ok((findings, Some(info)))
}

async fn ask(session: &Session) -> Result<(Info, Default), CommandError> {
    let client = session.connect().await?;
    let asked = InfoParams::default();
    let info = session.call::<GetInfo>(&client, &asked).await?;
    let asked = ListParams::default();
    let default = session.call::<GetDefault>(&client, &asked).await?;
    Ok((info, default))
}

fn version(info: &Info) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    if info.version == own {
        Finding::new("version", Level::Ok, format!("client and daemon are {own}"))
    } else {
        let message = format!("the client is {own}, the daemon {}", info.version);
        Finding::new("version", Level::Warn, message)
    }
}

fn rights(check: &'static str, socket: &Path) -> Finding {
    let metadata = match fs::metadata(socket) {
        Ok(metadata) => metadata,
        Err(error) => {
            let message = format!("cannot look at {}: {error}", socket.display());
            return Finding::new(check, Level::Warn, message);
        }
    };
    if !metadata.file_type().is_socket() {
        let message = format!("{} is no socket", socket.display());
        return Finding::new(check, Level::Fail, message);
    }
    let mode = metadata.mode() & 0o777;
    let owner = format!("uid {}, gid {}", metadata.uid(), metadata.gid());
    let message = format!("{} is {mode:04o}, {owner}", socket.display());
    if mode & OTHERS == 0 {
        return Finding::new(check, Level::Ok, message);
    }
    let message = format!("{message}: every user of this host may connect");
    Finding::new(check, Level::Warn, message)
        .with_command(format!("chmod o-rwx {}", socket.display()))
}

/// Tells whether a pull finds a kernel that nobody has to name.
fn kernels(count: u64, default: Option<&str>) -> Finding {
    const CHECK: &str = "kernels";
    let count = match count {
        0 => {
            let message = "the catalogue is empty; a pull needs a kernel";
            return Finding::new(CHECK, Level::Warn, message)
                .with_command("kiln kernel import debian --deb linux-image-*.deb --default");
        }
        1 => "1 kernel".to_owned(),
        count => format!("{count} kernels"),
    };
    if let Some(name) = default {
        let message = format!("{count} in the catalogue; {} is the default", cell(name));
        return Finding::new(CHECK, Level::Ok, message);
    }
    let message = format!("{count} in the catalogue, and none is the default");
    Finding::new(CHECK, Level::Warn, message).with_command("kiln kernel default NAME")
}

/// Tells what the last start made of database and directories.
fn database(recovered: &Recovered) -> Finding {
    let mut wrong: Vec<String> = recovered
        .replaced_database
        .iter()
        .map(crate::daemon::replaced)
        .collect();
    let counts = [
        (
            recovered.adopted_images,
            "images without a record were adopted; kiln images --all lists them",
        ),
        (
            recovered.left_unrecorded,
            "directories of images have no record and were left in place; the log names them",
        ),
        (
            recovered.missing_versions,
            "versions of images have no files any more; the log names them: forget those images and pull them again",
        ),
    ];
    let told = counts.iter().filter(|(count, _)| *count > 0);
    wrong.extend(told.map(|(count, what)| format!("{count} {what}")));
    if wrong.is_empty() {
        return Finding::new("database", Level::Ok, "it agrees with the directories");
    }
    Finding::new("database", Level::Warn, wrong.join("; "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use kiln_api::daemon::ReplacedDatabase;

    use super::*;

    #[test]
    fn a_replaced_database_and_what_became_of_the_images_is_doubtful() {
        assert_eq!(database(&Recovered::default()).level, Level::Ok);
        let told = database(&Recovered {
            adopted_images: 2,
            replaced_database: Some(ReplacedDatabase {
                cause: "damaged: file is not a database".to_owned(),
                damaged: Some("kiln.db.damaged-1".to_owned()),
                snapshot: None,
                unusable_snapshots: vec![],
            }),
            ..Recovered::default()
        });

        assert_eq!(told.level, Level::Warn);
        assert_eq!(
            told.message,
            "the database (damaged: file is not a database) was replaced by an empty one: there \
             was no healthy snapshot; it is kept as kiln.db.damaged-1; 2 images without a record \
             were adopted; kiln images --all lists them"
        );
    }

    #[test]
    fn a_kernel_is_found_without_a_name_or_the_way_to_one_is_told() {
        let cases = [
            (
                0,
                None,
                Level::Warn,
                Some("kiln kernel import debian --deb linux-image-*.deb --default"),
            ),
            (1, None, Level::Warn, Some("kiln kernel default NAME")),
            (2, Some("debian"), Level::Ok, None),
        ];
        for (count, default, level, command) in cases {
            let finding = kernels(count, default);
            assert_eq!(
                (finding.level, finding.command.as_deref()),
                (level, command)
            );
        }
        let message = kernels(2, Some("debian")).message;
        assert_eq!(message, "2 kernels in the catalogue; debian is the default");
    }

    #[test]
    fn a_socket_open_to_everybody_is_doubtful_and_a_file_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kiln.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let level_at = |mode| {
            fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).unwrap();
            rights("rights", &socket).level
        };

        assert_eq!(level_at(0o600), Level::Ok);
        assert_eq!(level_at(0o660), Level::Ok);
        assert_eq!(level_at(0o666), Level::Warn);
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(rights("rights", &file).level, Level::Fail);
        assert_eq!(
            rights("rights", &directory.path().join("none")).level,
            Level::Warn
        );
    }
}
