//! Machines that run images: the desk that registers, lists, shows and removes them.
//!
//! The daemon starts and signals none. Whoever runs a machine registers it from the process that
//! looks after it, says when it runs and how it ended; that process is watched, so that an end
//! without a word is noticed. While a machine runs, its version is held.

mod finding;
mod parameters;
mod records;
mod watching;

use std::sync::Arc;

use kiln_api::instance::{
    FinishParams, Instance, InstanceParams, ListParams, RegisterParams, StartParams,
};
use kiln_api::page::Page;
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, may_change};
use kiln_domain::{
    Architecture, ImageName, ImageState, InstanceId, InstanceName, InstanceState, NameError,
    Timestamp,
};
use kiln_store::events::EventActor;
use kiln_store::instances::{
    self, InsertInstanceError, InstanceEnd, InstanceFilter, InstanceRow, NewInstance, ProcessRow,
    RunningUnder,
};
use kiln_store::{Store, StoreError, WriteTransaction};

use self::finding::FindInstanceError;
use self::parameters::{ParameterError, check, check_word, ports, shortened};
pub(crate) use self::records::prune;
pub use self::watching::InstanceWatch;
use self::watching::WatchError;
use crate::clock::Clock;
use crate::events::{cursor, page_limit};
use crate::failures::store_failure;
use crate::find_image::{
    FindImageError, Named, Naming, architecture, find_image, find_image_failure, visible_to,
};
use crate::host_process::ProcessError;
use crate::views;
use crate::wholly::wholly;

/// How many digits of its id tell a machine from others that were named after the same image: four
/// do nearly always, and all of them always.
const TELLING_DIGITS: [usize; 3] = [4, 8, 32];

/// Registers, lists, shows and removes machines.
#[derive(Clone, Debug)]
pub struct Instances {
    store: Store,
    clock: Arc<dyn Clock>,
    watch: InstanceWatch,
    naming: Naming,
}

/// Why something could not be done to a machine.
#[derive(Debug, thiserror::Error)]
enum InstanceError {
    #[error(transparent)]
    Find(#[from] FindInstanceError),
    #[error(transparent)]
    Image(#[from] FindImageError),
    #[error("the image \"{}\" is {}, and only images that are available are run", image, state.in_words())]
    NotAvailable { image: ImageName, state: ImageState },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error(transparent)]
    Insert(#[from] InsertInstanceError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("the machine \"{name}\" is {state}")]
    Running {
        name: InstanceName,
        state: InstanceState,
    },
    #[error("the machine \"{name}\" has ended")]
    Ended { name: InstanceName },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Instances {
    /// Makes the desk.
    pub fn new(store: Store, clock: Arc<dyn Clock>, watch: InstanceWatch, naming: Naming) -> Self {
        Self {
            store,
            clock,
            watch,
            naming,
        }
    }

    /// Registers a machine that the calling process is about to run, and watches that process.
    pub async fn register(
        &self,
        actor: &Actor,
        params: RegisterParams,
    ) -> Result<Instance, Failure> {
        let asked = architecture(params.architecture.as_deref())?;
        let (desk, actor) = (self.clone(), *actor);
        // A caller that hangs up must not leave a machine that nobody watches.
        let registered = wholly(async move { desk.register_wholly(actor, params, asked).await });
        let registered = registered.await?.map_err(|error| failure(&error))?;
        Ok(views::instance(registered))
    }

    async fn register_wholly(
        &self,
        actor: Actor,
        params: RegisterParams,
        architecture: Option<Architecture>,
    ) -> Result<InstanceRow, InstanceError> {
        let name = params.name.as_deref().map(str::parse).transpose()?;
        name.as_ref().map_or(Ok(()), InstanceName::refuse_id)?;
        check(&params)?;
        let watchable = self.watch.open(actor.pid, actor.uid)?;
        let id = params.instance_id;
        let registration = Registration {
            name,
            architecture: (architecture, self.naming),
            process: watchable.identity().clone(),
            now: self.clock.now(),
            params,
        };
        let registered = self
            .store
            .write(move |tx| register_in(tx, &actor, registration))
            .await?;
        self.watch.begin(id, watchable);
        Ok(registered)
    }

    /// Notes that a machine runs. Saying so again changes nothing.
    pub async fn start(&self, actor: &Actor, params: StartParams) -> Result<Instance, Failure> {
        let (actor, now) = (*actor, self.clock.now());
        let started = self
            .store
            .write(move |tx| {
                check_word("the monitor", &params.monitor)?;
                check_word("the accelerator", &params.accelerator)?;
                let row = find_to_change(tx, &actor, params.instance_id)?;
                if row.state == InstanceState::Ended {
                    return Err(InstanceError::Ended { name: row.name });
                }
                let under = RunningUnder {
                    monitor: params.monitor,
                    accelerator: params.accelerator,
                };
                records::start(tx, EventActor::from(&actor), row.id, &under, now)?;
                Ok(finding::by_id(tx, &actor, row.id)?)
            })
            .await;
        answer(started)
    }

    /// Notes how a machine ended. The first word about that counts.
    pub async fn finish(&self, actor: &Actor, params: FinishParams) -> Result<Instance, Failure> {
        let (actor, now, id) = (*actor, self.clock.now(), params.instance_id);
        let finished = self
            .store
            .write(move |tx| {
                let row = find_to_change(tx, &actor, id)?;
                let end = InstanceEnd {
                    exit_code: params.exit_code,
                    reason: params.reason.as_deref().map(shortened),
                };
                let ended = records::finish(tx, EventActor::from(&actor), id, &end, now)?;
                Ok::<_, InstanceError>(ended.unwrap_or(row))
            })
            .await;
        if finished.is_ok() {
            self.watch.let_go(id);
        }
        answer(finished)
    }

    /// Lists machines in the order of their registration: the caller's own, or all for a
    /// superadmin.
    pub async fn list(&self, actor: &Actor, params: ListParams) -> Result<Page<Instance>, Failure> {
        let after = cursor(params.after)?;
        let limit = page_limit(params.limit)?;
        let filter = InstanceFilter {
            ended: params.all,
            owner_uid: visible_to(actor),
        };
        let page = self
            .store
            .read(move |tx| instances::page(tx, after, limit, filter))
            .await
            .map_err(|error| store_failure(&error))?;
        Ok(Page {
            next: page.next_after.and_then(|seq| u64::try_from(seq).ok()),
            items: page.rows.into_iter().map(views::instance).collect(),
        })
    }

    /// Shows one machine.
    pub async fn get(&self, actor: &Actor, params: InstanceParams) -> Result<Instance, Failure> {
        let actor = *actor;
        let found = self
            .store
            .read(move |tx| Ok(finding::by_word(tx, &actor, &params.instance)?))
            .await;
        answer(found)
    }

    /// Forgets a machine that has ended, and shows it for the last time.
    pub async fn remove(&self, actor: &Actor, params: InstanceParams) -> Result<Instance, Failure> {
        let (actor, now) = (*actor, self.clock.now());
        let removed = self
            .store
            .write(move |tx| {
                let row = finding::by_word(tx, &actor, &params.instance)?;
                if records::remove(tx, EventActor::from(&actor), &row, now)? {
                    return Ok(row);
                }
                Err(InstanceError::Running {
                    name: row.name,
                    state: row.state,
                })
            })
            .await;
        answer(removed)
    }
}

/// What a call to register brought, checked, and what was found of its process.
struct Registration {
    params: RegisterParams,
    name: Option<InstanceName>,
    /// The one asked for, and the host's.
    architecture: (Option<Architecture>, Naming),
    process: ProcessRow,
    now: Timestamp,
}

fn register_in(
    tx: &WriteTransaction<'_>,
    actor: &Actor,
    registration: Registration,
) -> Result<InstanceRow, InstanceError> {
    let Registration { params, name, .. } = registration;
    let named = Named {
        text: &params.image,
        architecture: registration.architecture.0,
        naming: registration.architecture.1,
    };
    let (image, version) = find_image(tx, actor, named)?;
    if !image.state.is_active() {
        return Err(InstanceError::NotAvailable {
            image: image.name,
            state: image.state,
        });
    }
    let is_given = name.is_some();
    let id = params.instance_id;
    let derived = |image: &ImageName| {
        let name = InstanceName::after(image);
        match name.refuse_id() {
            Ok(()) => name,
            // The last part of an image's name may read as an id.
            Err(_) => name.with_digits_of(id, TELLING_DIGITS[0]),
        }
    };
    let instance = NewInstance {
        id: params.instance_id,
        name: name.unwrap_or_else(|| derived(&image.name)),
        owner_uid: actor.uid,
        image_id: image.id,
        image_name: image.name,
        version_id: version.id,
        process: registration.process,
        directory: params.directory,
        console_path: params.console_path,
        cpus: params.cpus,
        memory_bytes: params.memory_bytes,
        ports: ports(&params.ports),
        created_at: registration.now,
    };
    if is_given {
        records::register(tx, &instance)?;
    } else {
        register_under_free_name(tx, instance)?;
    }
    Ok(finding::by_id(tx, actor, params.instance_id)?)
}

/// Registers a machine that was named after its image, under a name of its own.
fn register_under_free_name(
    tx: &WriteTransaction<'_>,
    mut instance: NewInstance,
) -> Result<(), InsertInstanceError> {
    let derived = instance.name.clone();
    let mut others = TELLING_DIGITS.iter();
    loop {
        match (records::register(tx, &instance), others.next()) {
            (Err(InsertInstanceError::NameTaken { .. }), Some(digits)) => {
                instance.name = derived.with_digits_of(instance.id, *digits);
            }
            (registered, _) => return registered,
        }
    }
}

fn find_to_change(
    tx: &WriteTransaction<'_>,
    actor: &Actor,
    id: InstanceId,
) -> Result<InstanceRow, InstanceError> {
    let row = finding::by_id(tx, actor, id)?;
    // Strangers are not told that it exists.
    may_change(actor, row.owner_uid).map_err(|_| FindInstanceError::NotFound {
        text: id.to_string(),
    })?;
    Ok(row)
}

fn answer(row: Result<InstanceRow, InstanceError>) -> Result<Instance, Failure> {
    row.map(views::instance).map_err(|error| failure(&error))
}

fn failure(error: &InstanceError) -> Failure {
    let code = match error {
        InstanceError::Find(FindInstanceError::NotFound { .. }) => codes::instance::NOT_FOUND,
        InstanceError::Find(FindInstanceError::Ambiguous { .. }) => codes::instance::AMBIGUOUS,
        InstanceError::Image(error) => return find_image_failure(error),
        InstanceError::NotAvailable { .. } => codes::image::NOT_FOUND,
        InstanceError::Name(_) => codes::instance::NAME_INVALID,
        InstanceError::Parameter(_) => codes::request::INVALID_PARAMS,
        InstanceError::Insert(InsertInstanceError::IdTaken { .. }) => {
            codes::instance::ALREADY_EXISTS
        }
        InstanceError::Insert(InsertInstanceError::NameTaken { .. }) => codes::instance::NAME_TAKEN,
        InstanceError::Watch(error) => watch_code(error),
        InstanceError::Running { .. } => codes::instance::RUNNING,
        InstanceError::Ended { .. } => codes::instance::ENDED,
        InstanceError::Find(FindInstanceError::Store(error))
        | InstanceError::Insert(InsertInstanceError::Store(error))
        | InstanceError::Store(error) => return store_failure(error),
    };
    Failure::from_error(code, error)
}

fn watch_code(error: &WatchError) -> kiln_api::Code {
    match error {
        WatchError::Full { .. } | WatchError::Process(ProcessError::NoDescriptor { .. }) => {
            codes::daemon::BUSY
        }
        WatchError::Runtime { .. } => codes::daemon::INTERNAL,
        WatchError::Process(
            ProcessError::Unseen
            | ProcessError::Gone { .. }
            | ProcessError::OtherUser { .. }
            | ProcessError::Io { .. }
            | ProcessError::Stat { .. },
        ) => codes::instance::NO_PROCESS,
    }
}

#[cfg(test)]
mod tests;
