//! What happened: the desk that lists events.

use kiln_api::event::{Event, ListParams};
use kiln_api::page::{DEFAULT_LIMIT, MAX_LIMIT, Page};
use kiln_api::{Failure, codes};
use kiln_domain::access::{Actor, Role};
use kiln_store::events::{self, EventActor, EventFilter};
use kiln_store::{Object, ObjectKind, Store, StoreError};

use crate::failures::store_failure;
use crate::views;

/// Lists what happened.
#[derive(Clone, Debug)]
pub struct Events {
    store: Store,
}

impl Events {
    /// Makes the desk.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Lists events, oldest first: all for a superadmin, those they caused for others.
    pub async fn list(&self, actor: &Actor, params: ListParams) -> Result<Page<Event>, Failure> {
        let after = cursor(params.after)?;
        let limit = page_limit(params.limit)?;
        let wanted_object = params.object_id;
        let filter = EventFilter {
            kind_prefix: params.kind,
            actor: (actor.role != Role::Superadmin).then(|| EventActor::from(actor)),
            ..EventFilter::default()
        };
        let page = self
            .store
            .read(move |tx| match wanted_object {
                None => events::page(tx, after, limit, &filter),
                Some(id) => of_object(tx, after, limit, &filter, &id),
            })
            .await
            .map_err(|error| store_failure(&error))?;
        Ok(Page {
            items: page.rows.into_iter().map(views::event).collect(),
            next: page.next_after.and_then(|seq| u64::try_from(seq).ok()),
        })
    }
}

/// An object is named by its id alone; ids of two kinds never collide, kernel names are none.
fn of_object(
    tx: &kiln_store::ReadTransaction<'_>,
    after: i64,
    limit: u32,
    filter: &EventFilter,
    id: &str,
) -> Result<kiln_store::Page<events::EventRow>, StoreError> {
    let kinds = [
        ObjectKind::Image,
        ObjectKind::Operation,
        ObjectKind::Kernel,
        ObjectKind::Version,
        ObjectKind::Instance,
    ];
    for kind in kinds {
        let filter = EventFilter {
            object: Some(Object::new(kind, id)),
            ..filter.clone()
        };
        let page = events::page(tx, after, limit, &filter)?;
        if !page.rows.is_empty() {
            return Ok(page);
        }
    }
    Ok(kiln_store::Page {
        rows: Vec::new(),
        next_after: None,
    })
}

/// Reads a page's cursor.
pub(crate) fn cursor(after: Option<u64>) -> Result<i64, Failure> {
    i64::try_from(after.unwrap_or(0)).map_err(|_| {
        Failure::new(
            codes::request::INVALID_PARAMS,
            "after is not a cursor of an earlier page",
        )
    })
}

/// Decides how many rows a page gets. None at all is refused: whoever pages on would never end.
pub(crate) fn page_limit(asked: Option<u32>) -> Result<u32, Failure> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        0 => Err(Failure::new(
            codes::request::INVALID_PARAMS,
            format!("limit is 0; a page has 1 to {MAX_LIMIT} rows"),
        )),
        asked => Ok(asked.min(MAX_LIMIT)),
    }
}
