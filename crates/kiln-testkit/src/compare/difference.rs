//! How two trees differ, in words; judges nothing beyond what it is told to allow.

use std::collections::BTreeSet;
use std::fmt;

use super::{Manifest, Node};

/// What one of the two trees may do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance<'a> {
    /// This path and all below it is not looked at.
    Path(&'a str),
    /// The time of directories that no layer has an entry of, and of the directories they were
    /// made in: umoci leaves its own time on both.
    TimesOfImplied,
    /// The time of this path is not looked at.
    TimeOf(&'a str),
    /// The time and the permissions of the root are not looked at.
    Root,
}

/// One path at which two trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path, in which bytes that are no printable ASCII are escaped.
    pub path: String,
    /// What differs, in words.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/{}: {}", self.path, self.what)
    }
}

/// Returns how `got` differs from `want`, path by path.
pub fn differences(want: &Manifest, got: &Manifest, allowed: &[Allowance<'_>]) -> Vec<Difference> {
    let paths: BTreeSet<&Vec<u8>> = want.nodes.keys().chain(got.nodes.keys()).collect();
    let implied = implied_and_parents(want.implied.iter().chain(&got.implied));
    let mut found = Vec::new();
    for path in paths {
        if is_unseen(path, allowed) {
            continue;
        }
        let what = match (want.nodes.get(path), got.nodes.get(path)) {
            (Some(want), Some(got)) => {
                let times = if is_timeless(path, implied.contains(path.as_slice()), allowed) {
                    Times::Unseen
                } else {
                    Times::Compared
                };
                let root = path.is_empty() && allowed.contains(&Allowance::Root);
                if root {
                    Vec::new()
                } else {
                    between(want, got, times)
                }
            }
            (Some(_), None) => vec!["is missing".to_owned()],
            (None, Some(node)) => vec![format!("should not exist, is {:?}", node.kind)],
            (None, None) => Vec::new(),
        };
        let path = path.escape_ascii().to_string();
        found.extend(what.into_iter().map(|what| Difference {
            path: path.clone(),
            what,
        }));
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Compared,
    Unseen,
}

fn implied_and_parents<'a>(implied: impl Iterator<Item = &'a Vec<u8>>) -> BTreeSet<&'a [u8]> {
    let mut paths = BTreeSet::new();
    for path in implied {
        paths.insert(path.as_slice());
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        paths.insert(path.get(..slash).unwrap_or_default());
    }
    paths
}

fn is_unseen(path: &[u8], allowed: &[Allowance<'_>]) -> bool {
    allowed.iter().any(|allowance| match allowance {
        Allowance::Path(top) => path
            .strip_prefix(top.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")),
        _ => false,
    })
}

fn is_timeless(path: &[u8], is_implied: bool, allowed: &[Allowance<'_>]) -> bool {
    allowed.iter().any(|allowance| match allowance {
        Allowance::TimesOfImplied => is_implied,
        Allowance::TimeOf(this) => path == this.as_bytes(),
        Allowance::Path(_) | Allowance::Root => false,
    })
}

fn between(want: &Node, got: &Node, times: Times) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, want: &dyn fmt::Debug, got: &dyn fmt::Debug| {
        let (want, got) = (format!("{want:?}"), format!("{got:?}"));
        if want != got {
            found.push(format!("{what} should be {want}, is {got}"));
        }
    };
    compare("kind", &want.kind, &got.kind);
    compare("mode", &Octal(want.mode), &Octal(got.mode));
    compare("owner", &(want.uid, want.gid), &(got.uid, got.gid));
    if times == Times::Compared {
        compare("time", &want.mtime, &got.mtime);
    }
    compare("link count", &want.links, &got.links);
    compare("names of the file", &Names(&want.names), &Names(&got.names));
    let xattrs: BTreeSet<&Vec<u8>> = want.xattrs.keys().chain(got.xattrs.keys()).collect();
    for name in xattrs {
        let what = format!("attribute {}", name.escape_ascii());
        let value = |node: &Node| node.xattrs.get(name).map(|value| Bytes(value.clone()));
        compare(&what, &value(want), &value(got));
    }
    found
}

struct Octal(u32);

impl fmt::Debug for Octal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04o}", self.0)
    }
}

struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", self.0.escape_ascii())
    }
}

struct Names<'a>(&'a BTreeSet<Vec<u8>>);

impl fmt::Debug for Names<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|name| name.escape_ascii().to_string());
        formatter.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Kind;
    use super::*;
    use crate::images::entry::Moment;

    fn tree(path: &str, change: impl FnOnce(&mut Node)) -> Manifest {
        let mut node = Node {
            kind: Kind::Symlink(b"target".to_vec()),
            mode: 0o777,
            uid: 0,
            gid: 0,
            mtime: Moment::at(5),
            xattrs: BTreeMap::new(),
            names: BTreeSet::from([path.as_bytes().to_vec()]),
            links: 1,
        };
        change(&mut node);
        Manifest {
            nodes: BTreeMap::from([(path.as_bytes().to_vec(), node)]),
            implied: BTreeSet::new(),
        }
    }

    #[test]
    fn every_field_is_compared() {
        type Change = fn(&mut Node);
        let cases: &[(Change, &str)] = &[
            (|node| node.kind = Kind::Fifo, "/a: kind should be Symlink"),
            (|node| node.mode = 0o755, "/a: mode should be 0777, is 0755"),
            (|node| node.uid = 7, "/a: owner should be (0, 0), is (7, 0)"),
            (|node| node.gid = 7, "/a: owner should be (0, 0), is (0, 7)"),
            (|node| node.mtime.nanoseconds = 1, "/a: time should be"),
            (|node| node.links = 2, "/a: link count should be 1, is 2"),
            (
                |node| node.names.extend([b"b".to_vec()]),
                "/a: names of the file",
            ),
            (
                |node| drop(node.xattrs.insert(b"user.x".to_vec(), b"\0".to_vec())),
                "/a: attribute user.x should be None, is Some(\"\\x00\")",
            ),
        ];
        let want = tree("a", |_| ());
        assert_eq!(differences(&want, &want, &[]), []);

        for (change, expected) in cases {
            let found = differences(&want, &tree("a", change), &[]);
            assert_eq!(found.len(), 1, "{found:?}");
            let text = found.first().map(ToString::to_string).unwrap_or_default();
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn a_path_on_one_side_only_is_a_difference_unless_allowed() {
        let (want, got) = (tree("a", |_| ()), tree("b/c", |_| ()));

        let found: Vec<String> = differences(&want, &got, &[])
            .iter()
            .map(ToString::to_string)
            .collect();
        let allowed = [Allowance::Path("b"), Allowance::Path("a")];

        assert_eq!(found.first().map(String::as_str), Some("/a: is missing"));
        assert!(
            found
                .get(1)
                .is_some_and(|text| text.starts_with("/b/c: should not exist"))
        );
        assert_eq!(differences(&want, &got, &allowed), []);
    }
}
