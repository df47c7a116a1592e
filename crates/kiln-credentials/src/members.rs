//! A JSON object that is changed here and there, and otherwise written as it was read: numbers with
//! all their digits, texts with their escapes, members in their order, also those that occur twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::value::RawValue;

/// The members of an object. Not `Debug`: it is full of passwords.
#[derive(Default)]
pub(crate) struct Members(Vec<(String, Node)>);

/// A value: as it was written, or an object that was looked into.
pub(crate) enum Node {
    Raw(Box<RawValue>),
    Object(Members),
}

impl Members {
    /// Lists the names of the members.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Keeps the members that `keep` wants.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&str, &mut Node) -> bool) {
        self.0.retain_mut(|(name, node)| keep(name, node));
    }

    /// Puts a text into a member, in its place where it has one.
    pub(crate) fn set(&mut self, name: &str, text: &str) -> serde_json::Result<()> {
        let node = Node::Raw(serde_json::value::to_raw_value(text)?);
        match self.position(name).and_then(|at| self.0.get_mut(at)) {
            Some((_, found)) => *found = node,
            None => self.0.push((name.to_owned(), node)),
        }
        Ok(())
    }

    /// Says whether there is a member of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Returns the object of that name, where there is one.
    pub(crate) fn object_mut(&mut self, name: &str) -> Option<&mut Members> {
        let at = self.position(name)?;
        self.0.get_mut(at)?.1.object_mut()
    }

    /// Returns the object of that name, made where there is none.
    pub(crate) fn object_or_new(&mut self, name: &str) -> &mut Members {
        let at = self.position(name).unwrap_or_else(|| {
            self.0
                .push((name.to_owned(), Node::Object(Members::default())));
            self.0.len() - 1
        });
        let (_, node) = &mut self.0[at];
        if node.object_mut().is_none() {
            *node = Node::Object(Members::default());
        }
        match node {
            Node::Object(members) => members,
            Node::Raw(_) => unreachable!("it has just been made an object"),
        }
    }

    /// Returns the last one: that is the one readers of JSON take.
    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().rposition(|(found, _)| found == name)
    }
}

impl Node {
    /// Looks into an object; nothing when it is none.
    pub(crate) fn object_mut(&mut self) -> Option<&mut Members> {
        if let Self::Raw(raw) = self {
            *self = Self::Object(serde_json::from_str(raw.get()).ok()?);
        }
        match self {
            Self::Object(members) => Some(members),
            Self::Raw(_) => None,
        }
    }

    /// Says whether it is a text with something in it, or anything else but nothing.
    pub(crate) fn is_filled(&self) -> bool {
        match self {
            Self::Raw(raw) => !matches!(raw.get(), "\"\"" | "null"),
            Self::Object(_) => true,
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((name, raw)) = map.next_entry()? {
                    members.push((name, Node::Raw(raw)));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reading)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, node) in &self.0 {
            match node {
                Node::Raw(raw) => map.serialize_entry(name, raw)?,
                Node::Object(members) => map.serialize_entry(name, members)?,
            }
        }
        map.end()
    }
}
