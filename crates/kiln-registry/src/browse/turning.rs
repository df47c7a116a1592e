//! Following a list to its end, where it has one.

use std::collections::HashSet;

use super::error::BrowseError;
use super::page::Cursor;
use crate::client::Registry;

/// Most pages that are asked for of one list: a registry may have many that are empty.
const MAX_PAGES: usize = 10_000;

/// The pages of one list that were asked for, so that one whose pages come again ends.
#[derive(Debug)]
pub struct Turning {
    host: String,
    seen: HashSet<Cursor>,
}

impl Registry {
    /// Begins to follow a list of this registry's page by page.
    pub fn turning(&self) -> Turning {
        Turning {
            host: self.host().to_owned(),
            seen: HashSet::new(),
        }
    }
}

impl Turning {
    /// Takes where a page says that the list goes on, and gives it back when that is a page not
    /// had before. Fails when it was, and after 10,000 pages.
    pub fn on(&mut self, next: Option<Cursor>) -> Result<Option<Cursor>, BrowseError> {
        let Some(next) = next else {
            return Ok(None);
        };
        if self.seen.len() + 1 >= MAX_PAGES || !self.seen.insert(next.clone()) {
            return Err(BrowseError::EndlessList {
                host: self.host.clone(),
                limit: MAX_PAGES,
            });
        }
        Ok(Some(next))
    }
}
