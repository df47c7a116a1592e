//! Lists of names, page by page.
//!
//! A registry says in a `Link` header where its next page is (distribution specification,
//! "Content Discovery"). Of that link only the query is used, at the path that was asked before:
//! nobody is sent anywhere. A link to another origin is refused.
//!
//! Registries that know nothing of pages send everything at once, so pages are also cut here;
//! the cursor then says how many names of the registry's own page were given already.

use std::fmt;
use std::str::FromStr;

use kiln_domain::Reference;
use reqwest::StatusCode;
use reqwest::header::LINK;
use serde_json::Value;

use super::error::{BrowseError, CursorError};
use super::link;
use crate::client::{MAX_DOCUMENT_BYTES, Registry, failure};
use crate::error::FetchError;
use crate::retry::Attempts;
use crate::scope::Scope;
use crate::text::ServerText;
use crate::transport::{Answer, Ask, BodyFault};
use crate::trust::shares_origin;

/// Longest name of a repository or tag that is taken, in bytes: a repository has at most 255, and
/// a tag 128.
const MAX_NAME_BYTES: usize = 512;

/// Longest query of a next page, in bytes.
const MAX_QUERY_BYTES: usize = 2048;

/// What lists are asked for as.
const JSON: &str = "application/json";

/// A place in a list: where a page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The query with which the registry's own page is asked for; none for the first.
    query: Option<String>,
    /// How many of that page's names were given already.
    skip: usize,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What is in it, in the registry's order.
    pub items: Vec<T>,
    /// Where the list goes on; none on the last page.
    pub next: Option<Cursor>,
}

impl Cursor {
    pub(super) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = self.query.as_deref().unwrap_or_default();
        write!(f, "{};{query}", self.skip)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (skip, query) = text.split_once(';').ok_or(CursorError)?;
        let is_query = query.len() <= MAX_QUERY_BYTES
            && query
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !is_query {
            return Err(CursorError);
        }
        Ok(Self {
            query: (!query.is_empty()).then(|| query.to_owned()),
            skip: skip.parse().map_err(|_| CursorError)?,
        })
    }
}

impl Registry {
    /// Lists repositories: at most `limit` of them where one is given, from `after` on.
    pub async fn catalog(
        &self,
        limit: Option<u32>,
        after: Option<&Cursor>,
    ) -> Result<Page<String>, FetchError> {
        let list = List {
            scope: Scope::Catalog,
            path: "_catalog".to_owned(),
            member: "repositories",
            what: "a list of repositories",
            of: None,
        };
        self.names(&list, limit, after).await
    }

    /// Lists the tags of the repository of `reference`: at most `limit` of them where one is
    /// given, from `after` on.
    pub async fn tags(
        &self,
        reference: &Reference,
        limit: Option<u32>,
        after: Option<&Cursor>,
    ) -> Result<Page<String>, FetchError> {
        let repository = reference.repository();
        let list = List {
            scope: Scope::Pull(repository),
            path: format!("{repository}/tags/list"),
            member: "tags",
            what: "a list of tags",
            of: Some(reference),
        };
        self.names(&list, limit, after).await
    }

    async fn names(
        &self,
        list: &List<'_>,
        limit: Option<u32>,
        after: Option<&Cursor>,
    ) -> Result<Page<String>, FetchError> {
        let mut attempts = Attempts::default();
        loop {
            let asking = self.names_once(list, limit, after);
            match attempts.attempt(self.transport(), list.what, asking).await {
                Ok(page) => return Ok(page),
                Err(error) => attempts.wait_after(error, self.config()).await?,
            }
        }
    }

    async fn names_once(
        &self,
        list: &List<'_>,
        limit: Option<u32>,
        after: Option<&Cursor>,
    ) -> Result<Page<String>, FetchError> {
        let query = query_of(limit, after);
        let ask = Ask {
            accept: Some(JSON),
            ..Ask::get(list.what)
        };
        let path = with_query(&list.path, query.as_deref());
        let answer = self.ask(list.scope, &path, ask).await?;
        let answer = match answer.response.status() {
            StatusCode::OK => answer,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                return Err(self.without(list, answer).await);
            }
            _ => self.expect(StatusCode::OK, answer, list.scope).await?,
        };
        let next = self.next_page(&answer, query.as_deref())?;
        let body = self.read_list(answer, list.what).await?;
        let names = list
            .names(&body)
            .map_err(|problem| BrowseError::AnswerMalformed {
                host: self.host().to_owned(),
                what: list.what,
                problem,
            })?;
        Ok(cut(names, String::clone, limit, after, query, next))
    }

    /// Reads the `Link` header: the query of the next page.
    pub(super) fn next_page(
        &self,
        answer: &Answer,
        asked: Option<&str>,
    ) -> Result<Option<String>, FetchError> {
        let links = answer.response.headers().get_all(LINK);
        let mut links = links.iter().filter_map(|value| value.to_str().ok());
        let Some(target) = links.find_map(link::next) else {
            return Ok(None);
        };
        let refuse = |reason| {
            let shown = target.split(['?', '#']).next().unwrap_or_default();
            Err(BrowseError::PageRefused {
                host: self.host().to_owned(),
                link: ServerText::new(shown),
                reason,
            }
            .into())
        };
        let here = answer.response.url();
        match here.join(target) {
            Err(_) => refuse("it is no URL"),
            Ok(next) if !shares_origin(here, &next) => refuse("it lies at another origin"),
            Ok(next) => match next.query() {
                None | Some("") => refuse("it has no query"),
                Some(query) if query.len() > MAX_QUERY_BYTES => refuse("its query is too long"),
                Some(query) if Some(query) == asked => refuse("it is the page that has this link"),
                Some(query) => Ok(Some(query.to_owned())),
            },
        }
    }

    pub(super) async fn read_list(
        &self,
        answer: Answer,
        what: &'static str,
    ) -> Result<Vec<u8>, FetchError> {
        let reading = self
            .transport()
            .read_capped(answer.response, MAX_DOCUMENT_BYTES, what);
        reading.await.map_err(|fault| match fault {
            BodyFault::Fetch(error) => error,
            BodyFault::TooLarge(_) => BrowseError::AnswerMalformed {
                host: self.host().to_owned(),
                what,
                problem: "it has more than 4 MiB",
            }
            .into(),
        })
    }

    /// Says why there is no list: the repository does not exist, or there are no such lists.
    async fn without(&self, list: &List<'_>, answer: Answer) -> FetchError {
        let status = answer.response.status();
        let (message, _) = failure(self.transport(), &answer.host, answer.response).await;
        match list.of {
            Some(reference) if status == StatusCode::NOT_FOUND => FetchError::ReferenceNotFound {
                reference: format!("{}/{}", reference.registry(), reference.repository()),
                message,
            },
            of => BrowseError::NotOffered {
                host: self.host().to_owned(),
                what: if of.is_some() {
                    "lists of tags"
                } else {
                    "a catalogue of its repositories"
                },
                message,
            }
            .into(),
        }
    }
}

/// One of a registry's lists.
struct List<'a> {
    scope: Scope<'a>,
    path: String,
    /// The member of the answer that holds the names.
    member: &'static str,
    what: &'static str,
    /// Something in the repository, where the list is of one.
    of: Option<&'a Reference>,
}

impl List<'_> {
    /// Reads the names. `null` is an empty list: Go's encoder writes one so, and a repository whose
    /// tags are all gone answers with it.
    fn names(&self, body: &[u8]) -> Result<Vec<String>, &'static str> {
        let document: Value = serde_json::from_slice(body).map_err(|_| "it is no JSON")?;
        let document = document.as_object().ok_or("it is no JSON object")?;
        let names = match document.get(self.member) {
            Some(Value::Array(names)) => names,
            Some(Value::Null) => return Ok(Vec::new()),
            // Some leave out a list that is empty.
            None if document.contains_key("name") => return Ok(Vec::new()),
            _ => return Err("it has no list of names"),
        };
        let name = |value: &Value| match value.as_str() {
            Some(name) if name.len() <= MAX_NAME_BYTES => Ok(name.to_owned()),
            Some(_) => Err("a name has more than 512 bytes"),
            None => Err("a name is no text"),
        };
        names.iter().map(name).collect()
    }
}

/// Returns what to ask for: what the cursor says, or a first page of `limit`.
fn query_of(limit: Option<u32>, after: Option<&Cursor>) -> Option<String> {
    match after.and_then(|cursor| cursor.query.clone()) {
        Some(query) => Some(query),
        None => limit.map(|limit| format!("n={limit}")),
    }
}

pub(super) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// Makes a page of at most `limit` of what a registry's page holds.
///
/// What does not fit is asked for again later, and some registries then answer in another order:
/// a page that is cut is sorted by `key` first.
pub(super) fn cut<T, K: Ord>(
    mut items: Vec<T>,
    key: impl Fn(&T) -> K,
    limit: Option<u32>,
    after: Option<&Cursor>,
    asked: Option<String>,
    next: Option<String>,
) -> Page<T> {
    let skip = after.map_or(0, |cursor| cursor.skip);
    let limit = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    let count = items.len();
    if skip > 0 || count > limit {
        items.sort_by_key(key);
    }
    let items: Vec<T> = items.into_iter().skip(skip).take(limit).collect();
    let given = skip.saturating_add(items.len());
    let next = if given < count {
        Some(Cursor {
            query: asked,
            skip: given,
        })
    } else {
        next.map(|query| Cursor {
            query: Some(query),
            skip: 0,
        })
    };
    Page { items, next }
}
