//! Errors of tools and desks as the wire answers them: an exhaustive match each, so that a new
//! variant does not compile until it has a code.

mod fetch;

use std::io;

use kiln_api::{Code, Failure, codes};
use kiln_artifacts::{ArtifactError, FileError};
use kiln_domain::ByteSize;
use kiln_ext4::{PlanError, WriteError};
use kiln_kernel::{CatalogueError, ConfigError, DebError, KernelError, StageError};
use kiln_store::StoreError;
use kiln_tree::MergeError;
use kiln_vault::{KeyError, VaultError};

use crate::blocking::PoolError;
use crate::board::BoardError;
use crate::build::BuildError;
use crate::host_files::HostFileError;
use crate::pulls::ProbeError;
use crate::space::NoRoom;
use crate::system_logins::LoginError;

pub(crate) use fetch::{
    document_failure, fetch_failure, name_failure, of_source, short_name_failure, source_failure,
};

/// Tells a full disk from every other reason the system gives.
pub(crate) fn storage_code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => codes::storage::FULL,
        _ => codes::storage::FAILED,
    }
}

/// Tells an error with its causes in one line, for the log.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn full_or_failed(is_no_space: bool) -> Code {
    if is_no_space {
        codes::storage::FULL
    } else {
        codes::storage::FAILED
    }
}

pub(crate) fn store_failure(error: &StoreError) -> Failure {
    let code = match error {
        StoreError::Replaced { .. } => {
            return Failure::from_error(codes::storage::DATABASE_FAILED, error).with_hint(
                "put that file back where it was, or start the daemon anew: it goes on from a \
                 snapshot where there is no database",
                None,
            );
        }
        StoreError::Full { .. } => codes::storage::FULL,
        StoreError::Closed => codes::daemon::STOPPING,
        StoreError::Busy { .. }
        | StoreError::Corrupt { .. }
        | StoreError::RowInvalid { .. }
        | StoreError::Sql { .. } => codes::storage::DATABASE_FAILED,
        StoreError::Panicked { .. } => codes::daemon::INTERNAL,
    };
    Failure::from_error(code, error)
}

pub(crate) fn login_failure(error: &LoginError) -> Failure {
    match error {
        LoginError::Store(error) => store_failure(error),
        LoginError::Pool(error) => pool_failure(error),
        LoginError::Full => Failure::from_error(codes::request::INVALID_PARAMS, error),
        LoginError::Vault(VaultError::Key(KeyError::Io { source, .. })) => {
            Failure::from_error(storage_code(source), error)
        }
        LoginError::Vault(VaultError::Key(KeyError::Exposed { path, .. })) => {
            Failure::from_error(codes::registry::LOGIN_UNREADABLE, error).with_hint(
                "close it to others, and change the passwords if others are on this host:",
                Some(format!("sudo chmod 600 {}", path.display())),
            )
        }
        LoginError::Vault(
            VaultError::Key(KeyError::Missing { .. } | KeyError::Short { .. })
            | VaultError::NotOurs { .. }
            | VaultError::Sealing { .. },
        ) => Failure::from_error(codes::registry::LOGIN_UNREADABLE, error),
    }
}

pub(crate) fn pool_failure(error: &PoolError) -> Failure {
    let code = match error {
        PoolError::NoThread { .. } => codes::daemon::BUSY,
        PoolError::Panicked { .. } => codes::daemon::INTERNAL,
    };
    Failure::from_error(code, error)
}

pub(crate) fn board_failure(error: BoardError) -> Failure {
    let code = match error {
        BoardError::Busy { .. } => codes::daemon::BUSY,
        BoardError::Stopping => codes::daemon::STOPPING,
    };
    Failure::from_error(code, &error)
}

pub(crate) fn host_file_failure(error: &HostFileError) -> Failure {
    let code = match error {
        HostFileError::NotFound { .. } => codes::file::NOT_FOUND,
        HostFileError::WrongKind { .. } | HostFileError::NotReadOnly => codes::file::WRONG_KIND,
        HostFileError::Unreadable { .. } => codes::file::UNREADABLE,
        HostFileError::PathNotAllowed { .. } => codes::file::PATH_NOT_ALLOWED,
        HostFileError::HandleUnknown => codes::file::HANDLE_UNKNOWN,
        HostFileError::TooMany { .. } => codes::daemon::BUSY,
    };
    Failure::from_error(code, error)
}

pub(crate) fn artifact_failure(error: &ArtifactError) -> Failure {
    let code = match error {
        ArtifactError::File(FileError::Io { .. }) => full_or_failed(error.is_no_space()),
        ArtifactError::File(FileError::Unsafe { .. } | FileError::AlreadyExists { .. }) => {
            codes::storage::FAILED
        }
        ArtifactError::File(FileError::NotRegular { .. }) => codes::file::WRONG_KIND,
        ArtifactError::File(FileError::Cancelled { .. }) => codes::operation::CANCELLED,
        ArtifactError::InvalidId { .. } | ArtifactError::InvalidName { .. } => {
            codes::daemon::INTERNAL
        }
    };
    Failure::from_error(code, error)
}

pub(crate) fn file_failure(error: &FileError) -> Failure {
    Failure::from_error(full_or_failed(error.is_no_space()), error)
}

pub(crate) fn kernel_failure(error: &KernelError) -> Failure {
    let code = match error {
        KernelError::NotAKernel
        | KernelError::Malformed { .. }
        | KernelError::Unsupported { .. }
        | KernelError::UnsupportedArchitecture { .. }
        | KernelError::Corrupt { .. }
        | KernelError::NothingInside => codes::kernel::UNRECOGNISED,
        KernelError::NotRegular => codes::file::WRONG_KIND,
        KernelError::TooLarge { .. } => codes::file::TOO_LARGE,
        KernelError::Cancelled => codes::operation::CANCELLED,
        KernelError::Io { .. } => full_or_failed(error.is_no_space()),
    };
    Failure::from_error(code, error)
}

pub(crate) fn stage_failure(error: &StageError) -> Failure {
    match error {
        StageError::Kernel(error) => kernel_failure(error),
        StageError::TooLarge { .. } => Failure::from_error(codes::file::TOO_LARGE, error),
        StageError::Damaged { .. } => Failure::from_error(codes::storage::FAILED, error).with_hint(
            "remove the kernel from the catalogue and import it again",
            None,
        ),
        StageError::Modules(inner) if inner.is_no_space() => {
            Failure::from_error(codes::storage::FULL, error)
        }
        StageError::Modules(_) => Failure::from_error(codes::kernel::BROKEN_MODULES, error),
        StageError::File(inner) => Failure::from_error(full_or_failed(inner.is_no_space()), error),
    }
}

pub(crate) fn catalogue_failure(error: &CatalogueError) -> Failure {
    match error {
        CatalogueError::InvalidName { .. } => {
            Failure::from_error(codes::kernel::NAME_INVALID, error)
        }
        CatalogueError::AlreadyExists { .. } => {
            Failure::from_error(codes::kernel::ALREADY_EXISTS, error)
        }
        CatalogueError::Record { .. } => Failure::from_error(codes::storage::FAILED, error),
        CatalogueError::Kernel(error) => kernel_failure(error),
        CatalogueError::Deb(error) => deb_failure(error),
        CatalogueError::Config(config) => {
            let code = match config {
                ConfigError::Read { source } if source.raw_os_error().is_some() => {
                    storage_code(source)
                }
                _ => codes::kernel::BROKEN_CONFIG,
            };
            Failure::from_error(code, error)
        }
        CatalogueError::Stage(error) => stage_failure(error),
        CatalogueError::File(inner) => {
            Failure::from_error(full_or_failed(inner.is_no_space()), error)
        }
    }
}

fn deb_failure(error: &DebError) -> Failure {
    let code = match error {
        DebError::NotAPackage { .. }
        | DebError::Unsupported { .. }
        | DebError::NotOneKernel { .. }
        | DebError::TooLarge { .. }
        | DebError::Read { .. }
        | DebError::Archive(_) => codes::kernel::BROKEN_PACKAGE,
        DebError::Modules(_) | DebError::File(_) if error.is_no_space() => codes::storage::FULL,
        DebError::Modules(_) => codes::kernel::BROKEN_MODULES,
        DebError::File(_) => codes::storage::FAILED,
    };
    Failure::from_error(code, error)
}

pub(crate) fn probe_failure(error: &ProbeError) -> Failure {
    let code = match error {
        ProbeError::OtherFormat { .. } | ProbeError::Unknown | ProbeError::Truncated { .. } => {
            codes::rootfs::NOT_EXT4
        }
        ProbeError::Io(source) => storage_code(source),
    };
    Failure::from_error(code, error)
}

/// Says what a disk lacks; `error` is the error that carries it.
pub(crate) fn room_failure(room: &NoRoom, error: &(dyn std::error::Error + 'static)) -> Failure {
    let missing = ByteSize(room.needed_bytes.saturating_sub(room.free_bytes));
    Failure::from_error(codes::storage::FULL, error).with_hint(
        format!(
            "free {missing} in {} and try again",
            room.directory.display()
        ),
        None,
    )
}

pub(crate) fn build_failure(error: &BuildError) -> Failure {
    match error {
        BuildError::Merge(merge) => merge_failure(merge, error),
        BuildError::Plan(plan) => plan_failure(plan, error),
        BuildError::Write(write) => write_failure(write, error),
        BuildError::NoRoom(room) => room_failure(room, error),
    }
}

fn merge_failure(merge: &MergeError, error: &BuildError) -> Failure {
    let code = match merge {
        MergeError::TooManyLayers { .. }
        | MergeError::TooManyEntries { .. }
        | MergeError::TooDeep { .. }
        | MergeError::SymlinkLoop { .. }
        | MergeError::TooManySymlinkSteps { .. } => codes::layer::LIMIT_EXCEEDED,
        MergeError::DanglingHardlink { .. }
        | MergeError::HardlinkToDirectory { .. }
        | MergeError::RootReplaced { .. }
        | MergeError::ParentNotDirectory { .. } => codes::layer::CANNOT_BE_APPLIED,
        MergeError::Cancelled => codes::operation::CANCELLED,
    };
    Failure::from_error(code, error)
}

fn plan_failure(plan: &PlanError, error: &BuildError) -> Failure {
    match plan {
        PlanError::TooSmall { minimum_bytes, .. } => {
            let size = ByteSize(*minimum_bytes);
            Failure::from_error(codes::rootfs::TOO_SMALL, error).with_hint(
                format!("ask for at least {minimum_bytes} bytes ({size})"),
                None,
            )
        }
        PlanError::TooLarge { .. }
        | PlanError::TooManyEntries { .. }
        | PlanError::TooManyLinks { .. }
        | PlanError::XattrsTooLarge { .. }
        | PlanError::InvalidAcl { .. }
        | PlanError::NameHash { .. }
        | PlanError::DirectoryTooLarge { .. }
        | PlanError::FileTooLarge { .. }
        | PlanError::DeviceNumber { .. } => Failure::from_error(codes::rootfs::CANNOT_HOLD, error),
        PlanError::Cancelled => Failure::from_error(codes::operation::CANCELLED, error),
    }
}

fn write_failure(write: &WriteError, error: &BuildError) -> Failure {
    let code = match write {
        WriteError::Cancelled => codes::operation::CANCELLED,
        WriteError::Sources { .. } | WriteError::OutputNotEmpty { .. } => codes::daemon::INTERNAL,
        WriteError::SourceTooShort { .. } => codes::storage::FAILED,
        // The host's own filesystem has a longest file.
        WriteError::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => {
            codes::rootfs::CANNOT_HOLD
        }
        WriteError::Io { source, .. } => storage_code(source),
    };
    Failure::from_error(code, error)
}
