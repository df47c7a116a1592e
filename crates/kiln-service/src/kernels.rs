//! The kernel catalogue: the desk that imports, pulls, lists, shows, checks and removes kernels, and
//! knows which is the default.

mod check;
mod in_tree;
mod pull;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_api::kernel::{
    Checked, Default, ImportParams, Kernel, Kernels as KernelList, SetDefaultParams,
};
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Role, may_change};
use kiln_domain::{KernelName, OperationId, Timestamp};
use kiln_kernel::{Catalogue, CatalogueError, Import, Removal};
use kiln_store::events::{self, EventActor, NewEvent};
use kiln_store::kernels::{self, InsertKernelError, KernelRow};
use kiln_store::{Object, Store, StoreError, WriteTransaction, operations, users};

use crate::blocking::Pool;
use crate::board::Running;
use crate::clock::Clock;
use crate::failures::{catalogue_failure, host_file_failure, pool_failure, store_failure};
use crate::guest_initrds::{GuestInitrds, guest_initrd_failure};
use crate::host_files::{Claim, HostFileError, HostFiles};
use crate::keyed_lock::KeyedLock;
use crate::pulls::{ClaimedKernel, DEFAULT, KernelWords, cancelled, record_progress};
use crate::views;
use crate::wholly::wholly;

pub use pull::KernelSources;

/// Imports, pulls, lists, shows, checks and removes kernels.
#[derive(Clone, Debug)]
pub struct Kernels {
    store: Store,
    clock: Arc<dyn Clock>,
    catalogue: Catalogue,
    initrds: GuestInitrds,
    files: Arc<HostFiles>,
    sources: KernelSources,
    work: Work,
}

/// Threads that copy, and the names being worked on.
#[derive(Clone, Debug)]
struct Work {
    pool: Pool,
    names: Arc<KeyedLock<KernelName>>,
}

/// What an import is made from, not opened yet.
#[derive(Debug)]
enum ClaimedImport {
    Files {
        files: ClaimedKernel,
        config: Option<Claim>,
    },
    Deb {
        package: Claim,
        initrd: Option<Claim>,
    },
}

impl ClaimedImport {
    /// Opens it. It blocks.
    fn open(self) -> Result<Import, HostFileError> {
        Ok(match self {
            Self::Files { files, config } => Import::Files {
                files: files.open()?,
                config: config.map(Claim::file).transpose()?,
            },
            Self::Deb { package, initrd } => Import::Deb {
                package: package.file()?,
                initrd: initrd.map(Claim::file).transpose()?,
            },
        })
    }
}

impl Kernels {
    /// Makes the desk.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        catalogue: Catalogue,
        initrds: GuestInitrds,
        files: Arc<HostFiles>,
        sources: KernelSources,
        pool: Pool,
    ) -> Self {
        let work = Work {
            pool,
            names: Arc::default(),
        };
        Self {
            store,
            clock,
            catalogue,
            initrds,
            files,
            sources,
            work,
        }
    }

    /// Takes a kernel into the catalogue.
    pub async fn import(&self, actor: &Actor, params: ImportParams) -> Result<Kernel, Failure> {
        let name = params.name.clone();
        refuse_word(&name)?;
        // Taken before anything is awaited: a handle lives a minute.
        let import = self.claim(actor, params)?;
        let desk = self.clone();
        let actor = *actor;
        // A caller that hangs up must not leave a catalogue directory without its row.
        wholly(async move { desk.import_claimed(actor, name, import).await }).await?
    }

    async fn import_claimed(
        &self,
        actor: Actor,
        name: KernelName,
        import: ClaimedImport,
    ) -> Result<Kernel, Failure> {
        let _turn = self.work.names.lock(name.clone()).await;
        let source = match &import {
            ClaimedImport::Files { .. } => "file",
            ClaimedImport::Deb { .. } => "deb",
        };
        let (catalogue, asked) = (self.catalogue.clone(), name.clone());
        let initrds = self.initrds.clone();
        let work = move || {
            let import = import.open().map_err(|error| host_file_failure(&error))?;
            let imported = catalogue
                .import(asked.as_str(), import, &AtomicBool::new(false))
                .map_err(|error| catalogue_failure(&error))?;
            make_ready(&initrds, &imported);
            Ok(imported)
        };
        let imported = self.work.pool.run(work).await;
        let imported = imported.map_err(|error| pool_failure(&error))??;
        let row = kernel_row(&imported, source, actor.uid, self.clock.now());
        let row = row.ok_or_else(|| {
            Failure::new(codes::daemon::INTERNAL, format!("{name} is no kernel name"))
        })?;
        self.record_import(actor, row, None).await
    }

    /// Records an import, and with it the end of the operation it belongs to; when that fails its
    /// directory is removed again.
    async fn record_import(
        &self,
        actor: Actor,
        row: KernelRow,
        ending: Option<Ending>,
    ) -> Result<Kernel, Failure> {
        let (now, inserted) = (row.created_at, row.clone());
        let kernel = views::kernel(self.catalogue.path(), row.clone());
        let result = kernel.clone();
        let recorded = self
            .store
            .write(move |tx| {
                users::see(tx, actor.uid, now)?;
                kernels::insert(tx, &inserted)?;
                let data = serde_json::json!({
                    "version": inserted.version, "sha256": inserted.sha256,
                    "source": inserted.source,
                });
                append(tx, now, actor, "kernel.imported", &inserted.name, data)?;
                match &ending {
                    Some(ending) => ending.record(tx, actor, &result, now),
                    None => Ok(()),
                }
            })
            .await;
        match recorded {
            Ok(()) => Ok(kernel),
            Err(error) => {
                let (catalogue, name) = (self.catalogue.clone(), row.name);
                let removed = self
                    .work
                    .pool
                    .run(move || catalogue.remove(name.as_str()))
                    .await;
                if !matches!(removed, Ok(Ok(Removal::Removed))) {
                    tracing::error!(?removed, "cannot remove a kernel that was not recorded");
                }
                Err(match &error {
                    RecordError::Insert(InsertKernelError::Taken { .. }) => {
                        Failure::from_error(codes::kernel::ALREADY_EXISTS, &error)
                    }
                    RecordError::Insert(InsertKernelError::Store(error))
                    | RecordError::Store(error) => store_failure(error),
                    RecordError::Cancelled => cancelled(),
                })
            }
        }
    }

    /// Takes the files a call names.
    fn claim(&self, actor: &Actor, params: ImportParams) -> Result<ClaimedImport, Failure> {
        let claim = |named| {
            self.files
                .claim(actor, named)
                .map_err(|error| host_file_failure(&error))
        };
        let initrd_path = params.initrd_path;
        match (params.kernel_path, params.deb_path) {
            (Some(_), Some(_)) => Err(Failure::new(
                codes::kernel::CHOICE_CONFLICT,
                "a kernel file and a Debian package were both named",
            )
            .with_hint("choose one of --kernel and --deb", None)),
            (None, Some(_)) if params.modules_dir.is_some() || params.config_path.is_some() => {
                Err(Failure::new(
                    codes::kernel::CHOICE_CONFLICT,
                    "a Debian package brings its own modules and configuration",
                )
                .with_hint(
                    "leave out --modules and --config, or name a kernel file in place of the \
                     package",
                    None,
                ))
            }
            (None, Some(deb)) => {
                let package = claim(&deb)?;
                let initrd = initrd_path.as_ref().map(claim).transpose()?;
                Ok(ClaimedImport::Deb { package, initrd })
            }
            (kernel_path, None) => {
                let modules_dir = params.modules_dir;
                let words = KernelWords {
                    kernel_ref: None,
                    kernel_path,
                    initrd_path,
                    modules_dir,
                };
                let files = ClaimedKernel::claim(&self.files, actor, &words)
                    .map_err(|error| host_file_failure(&error))?;
                let files = files.ok_or_else(|| {
                    let message = "neither a kernel file nor a Debian package was named";
                    Failure::new(codes::kernel::REQUIRED, message)
                        .with_hint("name one with --kernel or --deb", None)
                })?;
                let config = params.config_path.as_ref().map(claim).transpose()?;
                Ok(ClaimedImport::Files { files, config })
            }
        }
    }

    /// Lists the catalogue by name.
    pub async fn list(&self) -> Result<KernelList, Failure> {
        let rows = self
            .store
            .read(kernels::list)
            .await
            .map_err(|error| store_failure(&error))?;
        let items = rows
            .into_iter()
            .map(|row| views::kernel(self.catalogue.path(), row))
            .collect();
        Ok(KernelList { items })
    }

    /// Shows one kernel.
    pub async fn get(&self, name: &KernelName) -> Result<Kernel, Failure> {
        Ok(views::kernel(self.catalogue.path(), self.find(name).await?))
    }

    /// Tells which kernel is the default.
    pub async fn default(&self) -> Result<Default, Failure> {
        let row = self.store.read(kernels::default).await;
        let row = row.map_err(|error| store_failure(&error))?;
        Ok(self.shown_default(row))
    }

    /// Makes a kernel the default, or none: a choice for everybody on this host.
    pub async fn set_default(
        &self,
        actor: &Actor,
        params: SetDefaultParams,
    ) -> Result<Default, Failure> {
        if actor.role != Role::Superadmin {
            let message =
                "the default kernel is everybody's; only root and the daemon's own user choose it";
            return Err(Failure::new(codes::request::DENIED, message));
        }
        let name = params.name;
        let (now, actor) = (self.clock.now(), *actor);
        let chosen = self.store.write(move |tx| {
            users::see(tx, actor.uid, now)?;
            let before = kernels::default(tx)?;
            if !kernels::set_default(tx, name.as_ref())? {
                return Err(SetDefaultError::NotFound);
            }
            let after = kernels::default(tx)?;
            let data = serde_json::json!({ "before": before.as_ref().map(|row| &row.name) });
            // The event stands with the kernel that it is about: the new one, else the old one.
            if let Some(about) = after.as_ref().or(before.as_ref()) {
                let kind = match &after {
                    Some(_) => "kernel.made_default",
                    None => "kernel.no_longer_default",
                };
                append(tx, now, actor, kind, &about.name, data)?;
            }
            Ok(after)
        });
        match chosen.await {
            Ok(row) => Ok(self.shown_default(row)),
            Err(SetDefaultError::Store(error)) => Err(store_failure(&error)),
            Err(error @ SetDefaultError::NotFound) => {
                Err(Failure::from_error(codes::kernel::NOT_FOUND, &error))
            }
        }
    }

    fn shown_default(&self, row: Option<KernelRow>) -> Default {
        let kernel = row.map(|row| views::kernel(self.catalogue.path(), row));
        Default { kernel }
    }

    /// Tells which monitors boot a kernel.
    pub async fn check(&self, name: &KernelName) -> Result<Checked, Failure> {
        let row = self.find(name).await?;
        let (catalogue, asked) = (self.catalogue.clone(), name.clone());
        let look = move || check::look(&catalogue, &asked);
        let known = self.work.pool.run(look).await;
        let known = known.map_err(|error| pool_failure(&error))??;
        let kernel = views::kernel(self.catalogue.path(), row);
        Ok(known.checked(kernel))
    }

    /// Removes a kernel: its row first, so that nobody starts to use what is going away. That it
    /// goes is noted beside it before, so that a start after a crash does not adopt it.
    pub async fn remove(&self, actor: &Actor, name: &KernelName) -> Result<Kernel, Failure> {
        let (desk, actor, name) = (self.clone(), *actor, name.clone());
        // A caller that hangs up must not leave a directory whose name nobody can use again.
        wholly(async move { desk.remove_wholly(&actor, &name).await }).await?
    }

    async fn remove_wholly(&self, actor: &Actor, name: &KernelName) -> Result<Kernel, Failure> {
        let _turn = self.work.names.lock(name.clone()).await;
        let row = self.find(name).await?;
        may_change(actor, row.owner_id)
            .map_err(|denied| Failure::from_error(codes::request::DENIED, &denied))?;
        self.in_catalogue(name, Catalogue::announce_removal).await?;
        let (now, actor, gone) = (self.clock.now(), *actor, name.clone());
        let recorded = self
            .store
            .write(move |tx| {
                kernels::delete(tx, &gone)?;
                append(
                    tx,
                    now,
                    actor,
                    "kernel.removed",
                    &gone,
                    serde_json::json!({}),
                )?;
                Ok::<_, StoreError>(())
            })
            .await;
        if let Err(error) = recorded {
            let withdrawn = self.in_catalogue(name, Catalogue::withdraw_removal).await;
            if withdrawn.is_err() {
                // The next start does it, for the row is there.
                tracing::warn!(%name, ?withdrawn, "a kernel that stays is noted as unwanted");
            }
            return Err(store_failure(&error));
        }
        self.in_catalogue(name, Catalogue::remove).await?;
        Ok(views::kernel(self.catalogue.path(), row))
    }

    /// Does one step with a kernel's directory, off the runtime's threads.
    async fn in_catalogue<T: Send + 'static>(
        &self,
        name: &KernelName,
        step: fn(&Catalogue, &str) -> Result<T, CatalogueError>,
    ) -> Result<T, Failure> {
        let (catalogue, asked) = (self.catalogue.clone(), name.clone());
        let work = move || step(&catalogue, asked.as_str());
        let done = self.work.pool.run(work).await;
        done.map_err(|error| pool_failure(&error))?
            .map_err(|error| catalogue_failure(&error))
    }

    async fn find(&self, name: &KernelName) -> Result<KernelRow, Failure> {
        let asked = name.clone();
        let row = self.store.read(move |tx| kernels::get(tx, &asked)).await;
        row.map_err(|error| store_failure(&error))?.ok_or_else(|| {
            let message = format!("the catalogue has no kernel named {name}");
            Failure::new(codes::kernel::NOT_FOUND, message)
        })
    }
}

/// The end of the operation that an import belongs to.
#[derive(Debug)]
struct Ending {
    operation_id: OperationId,
    running: Arc<Running>,
}

/// Why an import could not be recorded.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("cancelled before the commit")]
    Cancelled,
    #[error(transparent)]
    Insert(#[from] InsertKernelError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Ending {
    /// Records that the operation has succeeded, unless it was cancelled up to now: nobody has
    /// been told anything yet.
    fn record(
        &self,
        tx: &WriteTransaction<'_>,
        actor: Actor,
        kernel: &Kernel,
        now: Timestamp,
    ) -> Result<(), RecordError> {
        if self.running.is_cancelled() {
            return Err(RecordError::Cancelled);
        }
        let id = self.operation_id;
        record_progress(tx, id, &self.running.progress(), now)?;
        let result = serde_json::to_value(kernel).unwrap_or_default();
        operations::finish(tx, id, &operations::Outcome::Succeeded { result }, now)?;
        let succeeded = NewEvent {
            at: now,
            actor: EventActor::Unix(actor.uid),
            kind: "operation.succeeded",
            object: Object::operation(id),
            data: serde_json::json!({ "name": kernel.name }),
        };
        events::append(tx, &succeeded)?;
        Ok(())
    }
}

/// Refuses the name that stands for another kernel.
fn refuse_word(name: &KernelName) -> Result<(), Failure> {
    if name.as_str() != DEFAULT {
        return Ok(());
    }
    let message = format!("{DEFAULT} stands for whichever kernel is the default");
    Err(Failure::new(codes::kernel::NAME_INVALID, message).with_hint("choose another name", None))
}

/// Makes the base of a kernel's initrds now, so that no pull waits for it. What stands in its way
/// is told by the pull that needs it, and by a check of the kernel.
fn make_ready(initrds: &GuestInitrds, kernel: &kiln_kernel::Kernel) {
    if kernel.initrd.is_some() {
        return;
    }
    if let Err(error) = initrds.base(kernel.folder(), &AtomicBool::new(false)) {
        let error = guest_initrd_failure(&error);
        tracing::info!(kernel = %kernel.name, error = %error.message, "no initrd could be made");
    }
}

/// Why a kernel did not become the default. What was done until then is undone.
#[derive(Debug, thiserror::Error)]
enum SetDefaultError {
    #[error("the catalogue has no kernel of that name")]
    NotFound,
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn append(
    tx: &kiln_store::WriteTransaction<'_>,
    at: Timestamp,
    actor: Actor,
    kind: &str,
    name: &KernelName,
    data: serde_json::Value,
) -> Result<(), StoreError> {
    let actor = EventActor::Unix(actor.uid);
    events::append(
        tx,
        &NewEvent {
            at,
            actor,
            kind,
            object: Object::kernel(name),
            data,
        },
    )?;
    Ok(())
}

/// Describes a kernel of the catalogue as the store records it; nothing when its name is none.
pub(crate) fn kernel_row(
    kernel: &kiln_kernel::Kernel,
    source: &str,
    owner_id: u32,
    created_at: Timestamp,
) -> Option<KernelRow> {
    Some(KernelRow {
        name: kernel.name.parse().ok()?,
        architecture: word(kernel.facts.architecture).to_owned(),
        format: format_word(kernel.facts.format).to_owned(),
        version: kernel.facts.release.clone(),
        sha256: kernel.facts.sha256,
        size_bytes: kernel.facts.size_bytes,
        initrd_sha256: kernel.initrd.map(|initrd| initrd.sha256),
        has_modules: kernel.modules.is_some(),
        has_elf: kernel.vmlinux.is_some(),
        source: source.to_owned(),
        is_default: false,
        owner_id,
        created_at,
    })
}

/// The architecture in the words of the wire.
fn word(architecture: kiln_kernel::Architecture) -> &'static str {
    match architecture {
        kiln_kernel::Architecture::X86_64 => "amd64",
        kiln_kernel::Architecture::Aarch64 => "arm64",
    }
}

fn format_word(format: kiln_kernel::KernelFormat) -> &'static str {
    match format {
        kiln_kernel::KernelFormat::Elf => "elf",
        kiln_kernel::KernelFormat::BzImage => "bzimage",
        kiln_kernel::KernelFormat::Arm64Image => "arm64-image",
    }
}
