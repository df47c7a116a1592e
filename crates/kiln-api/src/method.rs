//! What a method is: a name with the types of its parameters and its result.
//!
//! Which methods a daemon serves is decided where they are registered.

use kiln_domain::access::Right;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::code::Code;
use crate::codes;

/// One method of the wire. Its parameters are one struct that refuses unknown keys.
pub trait Method {
    /// `noun.verb`.
    const NAME: &'static str;
    /// What it does, one sentence.
    const SUMMARY: &'static str;
    /// What calling it takes; the door asks before it reads a parameter.
    const RIGHT: Right;
    /// What a call costs the daemon; the door counts costly ones.
    const COST: Cost;
    /// The codes a caller should be ready for, beside those every method may answer with.
    const ERRORS: &'static [Code];
    /// What the caller sends.
    type Params: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
    /// What the caller gets.
    type Result: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
}

/// What a call costs the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// A look at the store, or a change of it.
    Light,
    /// It begins long work, asks many hosts, or looks at everything on the disk: one user may make so
    /// many in a while.
    Costly,
}

/// A method's description without its types: what documents are printed from.
#[derive(Clone, Debug)]
pub struct Description {
    /// `noun.verb`.
    pub name: &'static str,
    /// What it does, one sentence.
    pub summary: &'static str,
    /// What calling it takes.
    pub right: Right,
    /// What a call costs the daemon.
    pub cost: Cost,
    /// The codes a caller should be ready for.
    pub errors: &'static [Code],
    /// JSON Schema of the parameters.
    pub params: Schema,
    /// JSON Schema of the result.
    pub result: Schema,
    /// For a subscription: the name of its notifications and of the call that ends it.
    pub subscription: Option<Subscription>,
}

/// What a subscription has beyond a method.
#[derive(Clone, Copy, Debug)]
pub struct Subscription {
    /// The method name of the notifications.
    pub notification: &'static str,
    /// The method that ends the subscription.
    pub unsubscribe: &'static str,
}

impl Description {
    /// Describes a method.
    pub fn of<M: Method>() -> Self {
        Self {
            name: M::NAME,
            summary: M::SUMMARY,
            right: M::RIGHT,
            cost: M::COST,
            errors: M::ERRORS,
            params: schema_of::<M::Params>(),
            result: schema_of::<M::Result>(),
            subscription: None,
        }
    }

    /// Describes a subscription whose items are the method's result.
    pub fn of_subscription<M: Method>(subscription: Subscription) -> Self {
        Self {
            subscription: Some(subscription),
            ..Self::of::<M>()
        }
    }
}

fn schema_of<T: JsonSchema>() -> Schema {
    // Draft 7 with inlined definitions: what OpenRPC 1.3 documents and its tools expect.
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    settings.into_generator().into_root_schema_for::<T>()
}

/// Joins lists of codes into one, as long as they are together.
pub(crate) const fn joined<const N: usize>(lists: &[&[Code]]) -> [Code; N] {
    let mut all = [codes::daemon::INTERNAL; N];
    let (mut list, mut end) = (0, 0);
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            all[end] = lists[list][at];
            (at, end) = (at + 1, end + 1);
        }
        list += 1;
    }
    all
}

/// Counts the codes of some lists.
pub(crate) const fn counted(lists: &[&[Code]]) -> usize {
    let (mut list, mut count) = (0, 0);
    while list < lists.len() {
        count += lists[list].len();
        list += 1;
    }
    count
}

/// Declares a method: its type, name, summary, parameters, result, right, `costly` where a call is, and
/// codes, of which whole groups may be added by name.
macro_rules! method {
    ($(#[$doc:meta])* $type:ident = $name:literal, $summary:literal, ($params:ty) -> $result:ty, $right:ident $($cost:ident)?, [$($code:expr),* $(,)?] $(+ $group:path)*) => {
        $(#[$doc])*
        #[doc = $summary]
        #[derive(Clone, Copy, Debug)]
        pub struct $type;

        impl $crate::method::Method for $type {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = $summary;
            const RIGHT: kiln_domain::access::Right = kiln_domain::access::Right::$right;
            const COST: $crate::method::Cost = $crate::method::cost!($($cost)?);
            const ERRORS: &'static [$crate::code::Code] = {
                const LISTS: &[&[$crate::code::Code]] = &[&[$($code),*], $($group),*];
                &$crate::method::joined::<{ $crate::method::counted(LISTS) }>(LISTS)
            };
            type Params = $params;
            type Result = $result;
        }
    };
}

/// Reads the word of a declaration that says what a call costs.
macro_rules! cost {
    () => {
        $crate::method::Cost::Light
    };
    (costly) => {
        $crate::method::Cost::Costly
    };
}

pub(crate) use {cost, method};
