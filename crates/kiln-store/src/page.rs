//! A page of a list in the order of sequence numbers, with the cursor to the next one.
//!
//! How a cursor looks to a client is not here.

/// Some rows of a list, oldest first.
///
/// A cursor stays good whatever is added or removed meanwhile: sequence numbers are never used
/// twice, so paging neither repeats a row nor leaves one out that stayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows, at most as many as were asked for.
    pub rows: Vec<T>,
    /// The sequence number to ask for rows after; `None` when these were the last.
    pub next_after: Option<i64>,
}

impl<T> Page<T> {
    /// Cuts `rows`, read with [`probe_limit`], to a page.
    pub(crate) fn cut(mut rows: Vec<T>, limit: u32, seq: impl Fn(&T) -> i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_after = rows.last().map(seq).filter(|_| has_more);
        Self { rows, next_after }
    }

    /// Takes the first `limit` rows of those there are.
    pub fn first_of(rows: impl Iterator<Item = T>, limit: u32, seq: impl Fn(&T) -> i64) -> Self {
        let probed = usize::try_from(limit)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        Self::cut(rows.take(probed).collect(), limit, seq)
    }

    /// Keeps the cursor and changes the rows.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page {
            rows: self.rows.into_iter().map(change).collect(),
            next_after: self.next_after,
        }
    }
}

/// Returns how many rows to read so that one more than `limit` tells whether a page follows.
pub(crate) fn probe_limit(limit: u32) -> i64 {
    i64::from(limit).saturating_add(1)
}

/// The conditions of a list query, gathered as constant texts and bound values.
#[derive(Default)]
pub(crate) struct Conditions {
    clauses: Vec<&'static str>,
    values: Vec<(&'static str, rusqlite::types::Value)>,
}

impl Conditions {
    /// Adds a clause without a value.
    pub(crate) fn require(&mut self, clause: &'static str) {
        self.clauses.push(clause);
    }

    /// Adds a clause whose parameter `name`, such as `:after`, is `value`.
    pub(crate) fn bind(
        &mut self,
        clause: &'static str,
        name: &'static str,
        value: impl Into<rusqlite::types::Value>,
    ) {
        self.clauses.push(clause);
        self.set(name, value);
    }

    /// Gives a parameter its value without a clause.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<rusqlite::types::Value>) {
        self.values.push((name, value.into()));
    }

    /// Returns the clauses joined by `AND`; always true when there are none.
    pub(crate) fn to_sql(&self) -> String {
        if self.clauses.is_empty() {
            return "TRUE".to_owned();
        }
        self.clauses.join(" AND ")
    }

    /// Borrows the values as SQLite wants them.
    pub(crate) fn params(&self) -> Vec<(&'static str, &dyn rusqlite::ToSql)> {
        let values = self.values.iter();
        values
            .map(|(name, value)| (*name, value as &dyn rusqlite::ToSql))
            .collect()
    }
}
