//! The reference model: what a stack of layers must come to, computed the plainest way.
//!
//! It keeps every body in memory and looks at every path for each mark. It shares no code with
//! the daemon, so that a mistake in one shows against the other.
//!
//! Rules (OCI image specification 1.1, `layer.md`, and what container engines do):
//! marks hide the layers below only, wherever they stand in their archive; the last of several
//! entries at one path wins; a directory on a directory changes only its own metadata; anything
//! else replaces what stood there with all below it; a hard link binds to what has that name at
//! that moment; links in the middle of a path are followed inside the tree; a parent nobody
//! names is a directory of root with mode 0755.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use super::{Kind, Manifest, Node};
use crate::fixtures::sha256_hex;
use crate::images::entry::{Body, Entry, Moment};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Most links followed on the way to one file.
const MAX_LINKS: usize = 40;

/// Applies `layers`, lowest first, to an empty tree.
///
/// Fails on entries that no tree can hold: a link to a file that is not there, an endless chain
/// of links on the way to a file.
pub fn apply(layers: &[Vec<Entry>]) -> Result<Manifest> {
    let mut tree = Tree::new();
    for layer in layers {
        tree.apply_layer(layer)?;
    }
    Ok(tree.into_manifest())
}

/// Names point to files by number, so that several names can share one.
#[derive(Debug)]
struct Tree {
    names: BTreeMap<Vec<u8>, usize>,
    files: Vec<Node>,
    implied: BTreeSet<Vec<u8>>,
}

impl Tree {
    fn new() -> Self {
        let mut tree = Self {
            names: BTreeMap::new(),
            files: Vec::new(),
            implied: BTreeSet::new(),
        };
        tree.imply(Vec::new());
        tree
    }

    fn apply_layer(&mut self, layer: &[Entry]) -> Result<()> {
        for entry in layer {
            let (parent, name) = split(&entry.path);
            if name == OPAQUE {
                let parent = self.resolve(parent)?;
                self.remove_below(&parent);
            } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                let path = join(&self.resolve(parent)?, hidden);
                self.remove(&path);
            }
        }
        for entry in layer {
            let (_, name) = split(&entry.path);
            if !name.starts_with(WHITEOUT) {
                self.add(entry)
                    .with_context(|| entry.path.escape_ascii().to_string())?;
            }
        }
        Ok(())
    }

    fn add(&mut self, entry: &Entry) -> Result<()> {
        let path = if entry.path.is_empty() {
            Vec::new()
        } else {
            let (parent, name) = split(&entry.path);
            let parent = self.resolve(parent)?;
            self.make_parents(&parent);
            join(&parent, name)
        };
        if let Body::Hardlink(target) = &entry.body {
            let (parent, name) = split(target);
            let target = join(&self.resolve(parent)?, name);
            let file = *self.names.get(&target).context("a link to nothing")?;
            if target != path {
                self.remove(&path);
                self.names.insert(path, file);
            }
            return Ok(());
        }
        let is_directory_on_directory =
            entry.body == Body::Directory && self.kind(&path) == Some(&Kind::Directory);
        if !is_directory_on_directory {
            self.remove(&path);
        }
        self.implied.remove(&path);
        let node = node(entry)?;
        self.insert(path, node);
        Ok(())
    }

    fn insert(&mut self, path: Vec<u8>, node: Node) {
        self.names.insert(path, self.files.len());
        self.files.push(node);
    }

    fn kind(&self, path: &[u8]) -> Option<&Kind> {
        let file = self.names.get(path)?;
        self.files.get(*file).map(|node| &node.kind)
    }

    fn remove(&mut self, path: &[u8]) {
        self.names.remove(path);
        self.implied.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, path: &[u8]) {
        let stays = |name: &[u8]| !is_below(name, path);
        self.names.retain(|name, _| stays(name));
        self.implied.retain(|name| stays(name));
    }

    fn make_parents(&mut self, path: &[u8]) {
        let mut prefix = Vec::new();
        for part in parts(path) {
            prefix = join(&prefix, part);
            if self.kind(&prefix) != Some(&Kind::Directory) {
                self.remove(&prefix);
                self.imply(prefix.clone());
            }
        }
    }

    fn imply(&mut self, path: Vec<u8>) {
        let directory = Node {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Moment::at(0),
            xattrs: BTreeMap::new(),
            names: BTreeSet::new(),
            links: 1,
        };
        self.implied.insert(path.clone());
        self.insert(path, directory);
    }

    /// Follows the links in `path`, its last part included, without leaving the tree.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        let mut ahead: Vec<Vec<u8>> = parts(path).map(<[u8]>::to_vec).rev().collect();
        let mut resolved = Vec::new();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == b".." {
                resolved = split(&resolved).0.to_vec();
                continue;
            }
            let next = join(&resolved, &part);
            let Some(Kind::Symlink(target)) = self.kind(&next) else {
                resolved = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                bail!("too many links on the way");
            }
            if target.starts_with(b"/") {
                resolved.clear();
            }
            ahead.extend(parts(target).map(<[u8]>::to_vec).rev());
        }
        Ok(resolved)
    }

    fn into_manifest(self) -> Manifest {
        let mut names_of: BTreeMap<usize, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (name, file) in &self.names {
            names_of.entry(*file).or_default().insert(name.clone());
        }
        let mut nodes = BTreeMap::new();
        for (file, names) in names_of {
            let Some(node) = self.files.get(file) else {
                continue;
            };
            for name in &names {
                let mut node = node.clone();
                node.links = names.len() as u64;
                node.names.clone_from(&names);
                nodes.insert(name.clone(), node);
            }
        }
        Manifest {
            nodes,
            implied: self.implied,
        }
    }
}

fn node(entry: &Entry) -> Result<Node> {
    let kind = match &entry.body {
        Body::File(bytes) => file(bytes),
        Body::Sparse {
            size_bytes,
            extents,
        } => {
            let mut bytes = vec![0; usize::try_from(*size_bytes)?];
            for extent in extents {
                let start = usize::try_from(extent.offset)?;
                let target = bytes.get_mut(start..start + extent.bytes.len());
                target
                    .context("an extent beyond the end")?
                    .copy_from_slice(&extent.bytes);
            }
            file(&bytes)
        }
        Body::Directory => Kind::Directory,
        Body::Symlink(target) => Kind::Symlink(target.clone()),
        Body::Hardlink(_) => bail!("a link is no file of its own"),
        Body::CharacterDevice(major, minor) => Kind::CharacterDevice(*major, *minor),
        Body::BlockDevice(major, minor) => Kind::BlockDevice(*major, *minor),
        Body::Fifo => Kind::Fifo,
    };
    let xattrs = entry
        .xattrs
        .iter()
        .map(|(name, value)| (name.clone().into_bytes(), value.clone()));
    Ok(Node {
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: xattrs.collect(),
        names: BTreeSet::new(),
        links: 1,
    })
}

fn file(bytes: &[u8]) -> Kind {
    Kind::File {
        size_bytes: bytes.len() as u64,
        sha256: sha256_hex(bytes),
    }
}

fn is_below(path: &[u8], top: &[u8]) -> bool {
    if top.is_empty() {
        return !path.is_empty();
    }
    path.strip_prefix(top)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => {
            let (parent, name) = path.split_at(slash);
            (parent, name.get(1..).unwrap_or_default())
        }
        None => (&[], path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(layers: &[Vec<Entry>]) -> Result<Vec<String>> {
        let manifest = apply(layers)?;
        let names = manifest.nodes.keys().filter(|path| !path.is_empty());
        Ok(names.map(|path| path.escape_ascii().to_string()).collect())
    }

    #[test]
    fn marks_hide_lower_layers_only_wherever_they_stand() -> Result<()> {
        let lower = vec![Entry::file("d/old", ""), Entry::file("f", "old")];
        let cases = [
            (
                vec![Entry::file("d/new", ""), Entry::opaque("d")],
                vec!["d", "d/new", "f"],
            ),
            (
                vec![Entry::file("f", "new"), Entry::whiteout("f")],
                vec!["d", "d/old", "f"],
            ),
            (vec![Entry::whiteout("f"), Entry::whiteout("d")], vec![]),
            (vec![Entry::whiteout("d/nothing")], vec!["d", "d/old", "f"]),
        ];
        for (upper, want) in cases {
            assert_eq!(paths(&[lower.clone(), upper.clone()])?, want, "{upper:?}");
        }
        Ok(())
    }

    #[test]
    fn links_bind_to_what_is_current() -> Result<()> {
        let layers = [
            vec![Entry::file("a", "one"), Entry::hardlink("b", "a")],
            vec![Entry::file("a", "two"), Entry::hardlink("c", "a")],
        ];

        let manifest = apply(&layers)?;

        let names = |path: &str| {
            manifest
                .nodes
                .get(path.as_bytes())
                .map(|node| node.names.len())
        };
        assert_eq!(
            (names("a"), names("b"), names("c")),
            (Some(2), Some(1), Some(2))
        );
        Ok(())
    }

    #[test]
    fn parents_are_followed_inside_the_tree() -> Result<()> {
        let layers = [
            vec![
                Entry::directory("real"),
                Entry::symlink("link", "/real"),
                Entry::symlink("up", "../../../real"),
            ],
            vec![Entry::file("link/a", ""), Entry::file("up/b", "")],
        ];

        assert_eq!(paths(&layers)?, ["link", "real", "real/a", "real/b", "up"]);
        Ok(())
    }

    #[test]
    fn an_endless_chain_of_links_is_refused() {
        let layers = [vec![Entry::symlink("a", "a"), Entry::file("a/b", "")]];

        let error = apply(&layers).err().map(|error| format!("{error:#}"));
        assert_eq!(error.as_deref(), Some("a/b: too many links on the way"));
    }
}
