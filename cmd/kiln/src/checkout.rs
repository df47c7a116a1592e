//! `kiln checkout`: a private, writable copy of an image's root filesystem in a file of the
//! caller's.
//!
//! The daemon hands out a descriptor and does nothing else: file, copy and UUID are made here, with
//! the caller's rights.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use clap::Args;
use kiln_api::image::{Image, ImageFile, Open};
use kiln_api::{Failure, Method as _, codes};
use kiln_domain::ByteSize;
use kiln_ext4::UuidError;
use kiln_files::{Copied, CopyMethod, Existing, FileError, NewFile};
use serde::Serialize;
use uuid::Uuid;

use crate::failure::CommandError;
use crate::interruptible::{self, Leaves};
use crate::output;
use crate::session::Session;
use crate::text::{cell, size};

/// Unit of a file's size, in bytes: an ext4 block, and a multiple of every disk's sector.
const BLOCK_BYTES: u64 = 4096;

/// What to make of which image.
#[derive(Debug, Args)]
#[command(after_help = "\
The file is readable for you alone, since a root filesystem holds what its users may not see. It
shares its blocks with the image where both lie on one filesystem that can (btrfs, XFS); elsewhere
it is copied, holes left out. The image never changes.")]
pub(crate) struct Arguments {
    /// Id, name with an optional :TAG or :VERSION, or source reference
    image: String,
    /// File to make
    file: PathBuf,
    /// UUID of the filesystem in it: keep the image's, a random one, or this one
    #[arg(long, value_name = "keep|random|UUID", default_value = "keep")]
    uuid: UuidChoice,
    /// Size of the file, such as 20G; the filesystem in it grows when Kiln's init boots it, or with
    /// resize2fs
    #[arg(long)]
    size: Option<ByteSize>,
    /// Replace a regular file that is there already
    #[arg(long)]
    force: bool,
    /// One architecture of the image; the host's when left out
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
}

/// Which UUID the filesystem gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UuidChoice {
    Keep,
    Random,
    Given(Uuid),
}

/// Why a text chooses no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither keep, random nor a UUID such as 9d1f3c4e-7a52-4b8e-9f00-2b5d6c7e8f90")]
struct UuidChoiceError;

/// What was made.
#[derive(Debug, Serialize)]
struct Checkout {
    image: String,
    image_id: String,
    version_id: String,
    path: String,
    size_bytes: u64,
    /// `cloned` or `copied`.
    method: &'static str,
    /// Bytes that were read and written; holes and shared blocks are not.
    copied_bytes: u64,
    /// Absent where the image's file system has none that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    filesystem_uuid: Option<String>,
}

/// What is to be done to the file.
#[derive(Debug)]
struct Wanted {
    path: PathBuf,
    existing: Existing,
    size_bytes: Option<u64>,
    uuid: UuidChoice,
}

/// Why the file was not made.
#[derive(Debug, thiserror::Error)]
enum CheckoutError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Uuid(#[from] UuidError),
}

impl FromStr for UuidChoice {
    type Err = UuidChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "keep" => Ok(Self::Keep),
            "random" => Ok(Self::Random),
            _ => match text.parse::<Uuid>() {
                Ok(uuid) if !uuid.is_nil() => Ok(Self::Given(uuid)),
                _ => Err(UuidChoiceError),
            },
        }
    }
}

/// Makes the file.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    if arguments.file == Path::new("-") {
        let failure = Failure::new(
            codes::file::WRONG_KIND,
            "a checkout is a file, not a stream",
        );
        let command = format!("kiln image open {} rootfs | …", arguments.image);
        return Err(failure
            .with_hint("send the bytes to another program:", Some(command))
            .into());
    }
    let path = std::path::absolute(&arguments.file)?;
    let client = session.connect().await?;
    let architecture = arguments.architecture.as_deref();
    let files = [ImageFile::Rootfs];
    let opening = client.open_image(&arguments.image, architecture, &files);
    let mut opened = session.limited(Open::NAME, opening).await?;
    let Some(source) = opened.take(ImageFile::Rootfs) else {
        let text = "the daemon gave no root filesystem";
        return Err(CommandError::new(codes::daemon::INTERNAL, text));
    };
    let wanted = Wanted {
        path,
        existing: if arguments.force {
            Existing::Replaced
        } else {
            Existing::Refused
        },
        size_bytes: file_size(arguments.size, &opened.image)?,
        uuid: arguments.uuid,
    };
    let image = opened.image;
    let work = move |cancelled: &AtomicBool| {
        make(&source, &wanted, &image, cancelled).map_err(|error| failure(&error))
    };
    let made = interruptible::run(session, Leaves::Files, work).await?;
    session.output().one(&made, &made.path, lines)
}

/// Decides how long the file is to be; whole blocks, and never less than the image.
fn file_size(wanted: Option<ByteSize>, image: &Image) -> Result<Option<u64>, CommandError> {
    let least = image.rootfs.size_bytes;
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    if wanted.0 < least {
        let text = format!("{wanted} cannot hold the image: it has {}", size(least));
        let failure = Failure::new(codes::rootfs::TOO_SMALL, text);
        let hint = format!("ask for at least {least} bytes, or leave --size out");
        return Err(failure.with_hint(hint, None).into());
    }
    let rounded = wanted.0.checked_next_multiple_of(BLOCK_BYTES);
    rounded.map(Some).ok_or_else(|| {
        let text = format!("{wanted} is more than a file can hold");
        CommandError::new(codes::request::INVALID_PARAMS, text)
    })
}

fn make(
    source: &File,
    wanted: &Wanted,
    image: &Image,
    cancelled: &AtomicBool,
) -> Result<Checkout, CheckoutError> {
    let new = NewFile::create(&wanted.path, wanted.existing)?;
    let Copied {
        size_bytes,
        moved_bytes,
        method,
    } = new.copy_from(source, cancelled)?;
    if let Some(size_bytes) = wanted.size_bytes {
        new.grow(size_bytes)?;
    }
    let uuid = match wanted.uuid {
        UuidChoice::Keep => kiln_ext4::uuid(new.file()).ok().map(Uuid::from_bytes),
        UuidChoice::Random => Some(Uuid::new_v4()),
        UuidChoice::Given(uuid) => Some(uuid),
    };
    if let (UuidChoice::Random | UuidChoice::Given(_), Some(uuid)) = (wanted.uuid, uuid) {
        kiln_ext4::set_uuid(new.file(), *uuid.as_bytes())?;
    }
    new.place()?;
    Ok(Checkout {
        image: image.name.to_string(),
        image_id: image.id.to_string(),
        version_id: image.version.id.to_string(),
        path: wanted.path.display().to_string(),
        size_bytes: wanted.size_bytes.unwrap_or(size_bytes),
        method: match method {
            CopyMethod::Cloned => "cloned",
            CopyMethod::Moved => "copied",
        },
        copied_bytes: moved_bytes,
        filesystem_uuid: uuid.map(|uuid| uuid.to_string()),
    })
}

fn failure(error: &CheckoutError) -> Failure {
    match error {
        CheckoutError::File(error) => file_failure(error),
        CheckoutError::Uuid(error) => uuid_failure(error),
    }
}

/// Says why a file of the caller's could not be made.
pub(crate) fn file_failure(error: &FileError) -> Failure {
    match error {
        FileError::AlreadyExists { .. } => Failure::from_error(codes::file::ALREADY_EXISTS, error)
            .with_hint(
                "choose another path, or replace the file with --force",
                None,
            ),
        FileError::NotRegular { .. } => Failure::from_error(codes::file::WRONG_KIND, error),
        FileError::Cancelled { .. } => Failure::from_error(codes::operation::CANCELLED, error)
            .with_hint("nothing was kept", None),
        FileError::Unsafe { .. } => Failure::from_error(codes::storage::FAILED, error),
        FileError::Io { source, .. } => {
            let (code, hint) = match source.kind() {
                _ if error.is_no_space() => {
                    (codes::storage::FULL, "free some space; nothing was kept")
                }
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                    (codes::file::NOT_FOUND, "make the directory first")
                }
                std::io::ErrorKind::PermissionDenied => {
                    (codes::file::UNREADABLE, "name a directory you may write to")
                }
                std::io::ErrorKind::IsADirectory => {
                    (codes::file::WRONG_KIND, "name a file in the directory")
                }
                _ => (
                    codes::storage::FAILED,
                    "look at the cause; nothing was kept",
                ),
            };
            Failure::from_error(code, error).with_hint(hint, None)
        }
    }
}

fn uuid_failure(error: &UuidError) -> Failure {
    let code = match error {
        UuidError::NotExt4 => codes::rootfs::NOT_EXT4,
        UuidError::Nil => codes::request::INVALID_PARAMS,
        UuidError::NotClean
        | UuidError::Unsupported { .. }
        | UuidError::Damaged { .. }
        | UuidError::Truncated { .. } => codes::rootfs::UUID_FIXED,
        UuidError::Io { .. } => codes::storage::FAILED,
    };
    Failure::from_error(code, error).with_hint("leave --uuid out to keep the image's", None)
}

fn lines(made: &Checkout) -> String {
    let how = match made.method {
        "cloned" => "cloned, sharing its blocks with the image".to_owned(),
        _ => format!("copied, {}", size(made.copied_bytes)),
    };
    output::pairs(&[
        ("file", cell(&made.path)),
        ("image", cell(&made.image)),
        ("size", size(made.size_bytes)),
        ("made", how),
        (
            "filesystem",
            crate::text::or_dash(made.filesystem_uuid.as_deref()),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_kept_random_or_given_and_never_nil() {
        let given = "9d1f3c4e-7a52-4b8e-9f00-2b5d6c7e8f90";
        let parsed = Uuid::parse_str(given).unwrap();
        let cases = [
            ("keep", Ok(UuidChoice::Keep)),
            ("random", Ok(UuidChoice::Random)),
            (given, Ok(UuidChoice::Given(parsed))),
            ("00000000-0000-0000-0000-000000000000", Err(UuidChoiceError)),
            ("Random", Err(UuidChoiceError)),
            ("", Err(UuidChoiceError)),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<UuidChoice>(), want, "parsing {text:?}");
        }
    }
}
