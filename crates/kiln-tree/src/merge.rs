//! Applies a stack of layers, bottom first, to an empty root.
//!
//! For each layer, first what it hides of the layers below (wherever its whiteouts stand in the
//! archive), then its entries in archive order, the last one of a path winning. Everything is an
//! array and a hash table of 32-bit numbers; names stay where they are in the indexes. Removing
//! a name costs the same in a directory of one or of a million.
//!
//! Not here: the finished tree and its order; see [`crate::Tree`].

use std::cell::OnceCell;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use crate::cancel::{CancelCheck, Cancelled};
use crate::entry::{Entry, Kind};
use crate::index::Index;
use crate::limits::Limits;
use crate::path::ShownPath;
use crate::record::Record;
use crate::resolve::{self, Budget, Located, Lost, Place, Step, Walk};
use crate::whiteout;

/// No node, no inode, or an inode that no entry describes.
pub(crate) const NONE: u32 = u32::MAX;

/// The root's place among the nodes.
pub(crate) const ROOT: u32 = 0;

/// Why a stack of layers shows no tree. Layers and entries are counted from 0, bottom first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// More layers than the limit.
    #[error("the image has {found} layers, the limit is {limit}")]
    TooManyLayers {
        /// Layers of the image.
        found: usize,
        /// [`Limits::layers`].
        limit: usize,
    },
    /// More entries, or more names after adding implied directories, than the limit.
    #[error("the image has more than {limit} entries")]
    TooManyEntries {
        /// [`Limits::entries`].
        limit: usize,
    },
    /// A name lies below more directories than the limit.
    #[error("{path} in layer {layer} lies below more than {limit} directories")]
    TooDeep {
        /// Layer of the entry.
        layer: usize,
        /// Path of the entry.
        path: ShownPath,
        /// [`Limits::depth`].
        limit: u16,
    },
    /// A hard link names something that is not there when the link is applied.
    #[error("hard link {path} in layer {layer} names {target}, which does not exist")]
    DanglingHardlink {
        /// Layer of the entry.
        layer: usize,
        /// Path of the entry.
        path: ShownPath,
        /// What it names.
        target: ShownPath,
    },
    /// A hard link names a directory.
    #[error("hard link {path} in layer {layer} names the directory {target}")]
    HardlinkToDirectory {
        /// Layer of the entry.
        layer: usize,
        /// Path of the entry.
        path: ShownPath,
        /// What it names.
        target: ShownPath,
    },
    /// The root is listed as something other than a directory.
    #[error("layer {layer} replaces the root by something that is not a directory")]
    RootReplaced {
        /// Layer of the entry.
        layer: usize,
    },
    /// A component in the middle of a path is neither a directory nor a link to one.
    #[error("{path} in layer {layer} lies below something that is not a directory")]
    ParentNotDirectory {
        /// Layer of the entry.
        layer: usize,
        /// Path of the entry.
        path: ShownPath,
    },
    /// A path goes through a loop of symbolic links, or through too many.
    #[error("{path} in layer {layer} goes through more than {limit} symbolic links")]
    SymlinkLoop {
        /// Layer of the entry.
        layer: usize,
        /// Path of the entry.
        path: ShownPath,
        /// [`Limits::symlink_hops`].
        limit: u32,
    },
    /// All paths together walk through too much of symbolic links' targets.
    #[error("the image's paths walk more than {limit} components of symbolic links")]
    TooManySymlinkSteps {
        /// [`Limits::symlink_steps`].
        limit: u64,
    },
    /// The cancel flag was thrown.
    #[error("merging the layers was cancelled")]
    Cancelled,
}

impl From<Cancelled> for MergeError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// A name in the tree. Siblings form a doubly linked list, so that any can leave at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) parent: u32,
    pub(crate) inode: u32,
    pub(crate) first_child: u32,
    pub(crate) next: u32,
    previous: u32,
    pub(crate) name_at: u32,
    pub(crate) name_layer: u16,
    depth: u16,
    pub(crate) name_len: u8,
}

/// An object that has one name or more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    /// Where the entry that describes it lies in its layer's index; [`NONE`] for a directory that
    /// paths only imply.
    pub(crate) record: u32,
    /// Names, for anything but a directory.
    pub(crate) links: u32,
    pub(crate) layer: u16,
    is_directory: bool,
}

/// A tree in the making. Nodes and inodes are never reused, so places stay valid.
pub(crate) struct Merger<'a> {
    layers: &'a [Index],
    limits: &'a Limits,
    check: &'a CancelCheck<'a>,
    hasher: RandomState,
    /// Live nodes but the root, by parent and name.
    names: HashTable<u32>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) objects: Vec<Object>,
    steps_left: u64,
}

/// The paths a layer lists as directories, collected only when a whiteout goes through a link.
type Relisted<'a> = OnceCell<HashSet<&'a [u8]>>;

/// Applies all layers.
pub(crate) fn merge<'a>(
    layers: &'a [Index],
    limits: &'a Limits,
    check: &'a CancelCheck<'a>,
) -> Result<Merger<'a>, MergeError> {
    if layers.len() > limits.layers.min(usize::from(u16::MAX)) {
        return Err(MergeError::TooManyLayers {
            found: layers.len(),
            limit: limits.layers,
        });
    }
    let entries = layers.iter().map(Index::len).sum::<usize>();
    if entries > limits.entries {
        return Err(MergeError::TooManyEntries {
            limit: limits.entries,
        });
    }
    let mut merger = Merger::new(layers, limits, check);
    for layer in 0..u16::try_from(layers.len()).unwrap_or(u16::MAX) {
        merger.hide(layer)?;
        merger.apply(layer)?;
    }
    Ok(merger)
}

impl<'a> Merger<'a> {
    fn new(layers: &'a [Index], limits: &'a Limits, check: &'a CancelCheck<'a>) -> Self {
        let root = Node {
            parent: ROOT,
            inode: 0,
            first_child: NONE,
            next: NONE,
            previous: NONE,
            name_at: 0,
            name_layer: 0,
            depth: 0,
            name_len: 0,
        };
        Self {
            layers,
            limits,
            check,
            hasher: RandomState::new(),
            names: HashTable::new(),
            nodes: vec![root],
            objects: vec![Object::implied(0)],
            steps_left: limits.symlink_steps,
        }
    }

    /// Removes what `layer` hides of the layers below it.
    fn hide(&mut self, layer: u16) -> Result<(), MergeError> {
        let index = self.index(layer);
        let relisted = Relisted::new();
        for (record_at, record) in index.records() {
            self.check.entry()?;
            let path = located(layer, record_at, record.path_at, record.entry.path);
            match record.entry.kind {
                Kind::Whiteout => {
                    let (directory, name) = split(path);
                    if let Some(directory) = self.below(directory, &relisted)?
                        && let Some(node) = self.child(directory, name.bytes)
                    {
                        self.remove(node)?;
                    }
                }
                Kind::Opaque => {
                    if let Some(directory) = self.below(path, &relisted)? {
                        self.remove_children(directory)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Finds the directory of lower layers that a whiteout's path means, if there is one.
    fn below(
        &mut self,
        path: Located<'a>,
        relisted: &Relisted<'a>,
    ) -> Result<Option<u32>, MergeError> {
        match self.walk(path) {
            Ok(place) if !place.missing.is_empty() => Ok(None),
            Ok(_) if self.goes_through_relisted(path, relisted) => Ok(None),
            Ok(place) => Ok(Some(place.directory)),
            // What is no directory has nothing below it to hide.
            Err(Lost::NotADirectory | Lost::TooManyHops) => Ok(None),
            Err(lost @ Lost::TooManySteps) => Err(self.lost(lost, path)),
        }
    }

    /// Tells whether `path` goes through a lower layer's symbolic link that the whiteout's own
    /// layer lists as a directory. That directory starts empty, so the whiteout hides nothing;
    /// following the link would remove something elsewhere.
    fn goes_through_relisted(&self, path: Located<'a>, relisted: &Relisted<'a>) -> bool {
        let mut node = ROOT;
        let mut end = 0;
        for component in path.bytes.split(|byte| *byte == b'/') {
            end += component.len();
            let Some(child) = self.child(node, component) else {
                return false;
            };
            if !self.objects[self.nodes[child as usize].inode as usize].is_directory {
                let listed = relisted.get_or_init(|| listed_directories(self.index(path.layer)));
                return listed.contains(&path.bytes[..end]);
            }
            node = child;
            end += 1;
        }
        false
    }

    /// Applies the entries of `layer` in archive order.
    fn apply(&mut self, layer: u16) -> Result<(), MergeError> {
        let index = self.index(layer);
        for (record_at, record) in index.records() {
            self.check.entry()?;
            let path = located(layer, record_at, record.path_at, record.entry.path);
            match record.entry.kind {
                Kind::Whiteout | Kind::Opaque => {}
                _ if path.bytes.is_empty() => self.set_root(layer, record_at, &record.entry)?,
                Kind::Directory => self.put_directory(path, record_at)?,
                Kind::Hardlink { .. } => self.put_hardlink(path, record_at, &record)?,
                _ => self.put_object(path, record_at)?,
            }
        }
        Ok(())
    }

    fn set_root(&mut self, layer: u16, record: u32, entry: &Entry<'_>) -> Result<(), MergeError> {
        if entry.kind != Kind::Directory {
            return Err(MergeError::RootReplaced {
                layer: usize::from(layer),
            });
        }
        self.objects[0] = Object::described(layer, record, true);
        Ok(())
    }

    fn put_directory(&mut self, path: Located<'a>, record: u32) -> Result<(), MergeError> {
        let (parent, name) = self.parent_of(path)?;
        let object = Object::described(path.layer, record, true);
        match self.child(parent, name.bytes) {
            Some(node) if self.is_directory(node) => {
                let inode = self.nodes[node as usize].inode;
                self.objects[inode as usize] = object;
            }
            existing => {
                self.replace(existing)?;
                self.add(parent, name, object, path)?;
            }
        }
        Ok(())
    }

    fn put_object(&mut self, path: Located<'a>, record: u32) -> Result<(), MergeError> {
        let (parent, name) = self.parent_of(path)?;
        let existing = self.child(parent, name.bytes);
        self.replace(existing)?;
        let object = Object::described(path.layer, record, false);
        self.add(parent, name, object, path)?;
        Ok(())
    }

    fn put_hardlink(
        &mut self,
        path: Located<'a>,
        record_at: u32,
        record: &Record<'a>,
    ) -> Result<(), MergeError> {
        let Kind::Hardlink { target } = record.entry.kind else {
            return Ok(());
        };
        let target = located(path.layer, record_at, record.target_at, target);
        let inode = self.hardlink_inode(path, target)?;
        let (parent, name) = self.parent_of(path)?;
        let existing = self.child(parent, name.bytes);
        if existing.is_some_and(|node| self.nodes[node as usize].inode == inode) {
            return Ok(());
        }
        self.replace(existing)?;
        self.add_node(parent, name, inode, path)
    }

    /// Finds the inode a hard link binds to: what its target is now, whichever layer it is from.
    fn hardlink_inode(
        &mut self,
        path: Located<'a>,
        target: Located<'a>,
    ) -> Result<u32, MergeError> {
        let dangling = || MergeError::DanglingHardlink {
            layer: usize::from(path.layer),
            path: ShownPath::new(path.bytes),
            target: ShownPath::new(target.bytes),
        };
        let node = if target.bytes.is_empty() {
            ROOT
        } else {
            let (directory, name) = split(target);
            match self.walk(directory) {
                Ok(place) if place.missing.is_empty() => self
                    .child(place.directory, name.bytes)
                    .ok_or_else(dangling)?,
                Ok(_) | Err(Lost::NotADirectory) => return Err(dangling()),
                Err(lost) => return Err(self.lost(lost, path)),
            }
        };
        if self.is_directory(node) {
            return Err(MergeError::HardlinkToDirectory {
                layer: usize::from(path.layer),
                path: ShownPath::new(path.bytes),
                target: ShownPath::new(target.bytes),
            });
        }
        Ok(self.nodes[node as usize].inode)
    }

    /// Finds the directory an entry belongs in, making those that its path only implies.
    fn parent_of(&mut self, path: Located<'a>) -> Result<(u32, Located<'a>), MergeError> {
        let (directory, name) = split(path);
        let place = self.walk(directory).map_err(|lost| self.lost(lost, path))?;
        let mut parent = place.directory;
        for name in place.missing {
            parent = self.add(parent, name, Object::implied(path.layer), path)?;
        }
        Ok((parent, name))
    }

    fn walk(&mut self, path: Located<'a>) -> Result<Place<'a>, Lost> {
        let mut steps = self.steps_left;
        let budget = Budget {
            hops: self.limits.symlink_hops,
            steps: &mut steps,
        };
        let place = resolve::directory(self, ROOT, path, budget);
        self.steps_left = steps;
        place
    }

    fn lost(&self, lost: Lost, path: Located<'_>) -> MergeError {
        let layer = usize::from(path.layer);
        let path = ShownPath::new(path.bytes);
        match lost {
            Lost::NotADirectory => MergeError::ParentNotDirectory { layer, path },
            Lost::TooManyHops => MergeError::SymlinkLoop {
                layer,
                path,
                limit: self.limits.symlink_hops,
            },
            Lost::TooManySteps => MergeError::TooManySymlinkSteps {
                limit: self.limits.symlink_steps,
            },
        }
    }

    /// Adds a new object under a new name and returns the node.
    fn add(
        &mut self,
        parent: u32,
        name: Located<'a>,
        object: Object,
        path: Located<'a>,
    ) -> Result<u32, MergeError> {
        let inode = number(self.objects.len());
        self.add_node(parent, name, inode, path)?;
        self.objects.push(object);
        Ok(number(self.nodes.len() - 1))
    }

    /// Adds a name for `inode`; `path` is the entry to blame.
    fn add_node(
        &mut self,
        parent: u32,
        name: Located<'a>,
        inode: u32,
        path: Located<'a>,
    ) -> Result<(), MergeError> {
        let too_many = MergeError::TooManyEntries {
            limit: self.limits.entries,
        };
        // The root is not an entry's.
        if self.nodes.len() > self.limits.entries || self.nodes.len() >= NONE as usize {
            return Err(too_many);
        }
        let Node {
            depth, first_child, ..
        } = self.nodes[parent as usize];
        if depth >= self.limits.depth {
            return Err(MergeError::TooDeep {
                layer: usize::from(path.layer),
                path: ShownPath::new(path.bytes),
                limit: self.limits.depth,
            });
        }
        let node = number(self.nodes.len());
        self.nodes.push(Node {
            parent,
            inode,
            first_child: NONE,
            next: first_child,
            previous: NONE,
            name_at: name.at,
            name_layer: name.layer,
            depth: depth + 1,
            name_len: u8::try_from(name.bytes.len()).unwrap_or(u8::MAX),
        });
        if first_child != NONE {
            self.nodes[first_child as usize].previous = node;
        }
        self.nodes[parent as usize].first_child = node;
        if let Some(object) = self.objects.get_mut(inode as usize) {
            object.links += 1;
        }
        let Self {
            names,
            nodes,
            hasher,
            layers,
            ..
        } = self;
        names.insert_unique(hasher.hash_one((parent, name.bytes)), node, |node| {
            let node = &nodes[*node as usize];
            hasher.hash_one((node.parent, name_of(layers, node)))
        });
        Ok(())
    }

    fn replace(&mut self, existing: Option<u32>) -> Result<(), Cancelled> {
        existing.map_or(Ok(()), |node| self.remove(node))
    }

    /// Takes `node` and all below it out of the tree.
    fn remove(&mut self, node: u32) -> Result<(), Cancelled> {
        self.remove_children(node)?;
        let Node {
            parent,
            next,
            previous,
            ..
        } = self.nodes[node as usize];
        match previous {
            NONE => self.nodes[parent as usize].first_child = next,
            _ => self.nodes[previous as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        self.forget(node);
        Ok(())
    }

    /// Takes all below `directory` out of the tree; a merge that is cancelled meanwhile is of no
    /// more use.
    fn remove_children(&mut self, directory: u32) -> Result<(), Cancelled> {
        let first = std::mem::replace(&mut self.nodes[directory as usize].first_child, NONE);
        let mut pending = vec![first];
        while let Some(node) = pending.pop() {
            if node == NONE {
                continue;
            }
            self.check.entry()?;
            let Node {
                next, first_child, ..
            } = self.nodes[node as usize];
            pending.extend([next, first_child]);
            self.forget(node);
        }
        Ok(())
    }

    /// Drops a name from the table and from its object's count.
    fn forget(&mut self, node: u32) {
        let entry = &self.nodes[node as usize];
        let hash = self
            .hasher
            .hash_one((entry.parent, name_of(self.layers, entry)));
        if let Ok(found) = self.names.find_entry(hash, |other| *other == node) {
            found.remove();
        }
        self.objects[entry.inode as usize].links -= 1;
    }

    fn is_directory(&self, node: u32) -> bool {
        self.objects[self.nodes[node as usize].inode as usize].is_directory
    }

    fn index(&self, layer: u16) -> &'a Index {
        &self.layers[usize::from(layer)]
    }
}

impl<'a> Walk<'a> for Merger<'a> {
    fn parent(&self, node: u32) -> u32 {
        self.nodes[node as usize].parent
    }

    fn child(&self, directory: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((directory, name));
        let is_it = |node: &u32| {
            let node = &self.nodes[*node as usize];
            node.parent == directory && name_of(self.layers, node) == name
        };
        self.names.find(hash, is_it).copied()
    }

    fn step(&self, node: u32) -> Step<'a> {
        let object = &self.objects[self.nodes[node as usize].inode as usize];
        if object.is_directory {
            return Step::Directory;
        }
        let record = self.index(object.layer).record(object.record);
        match record.entry.kind {
            Kind::Symlink { target } => Step::Symlink(located(
                object.layer,
                object.record,
                record.target_at,
                target,
            )),
            _ => Step::Other,
        }
    }
}

impl Object {
    pub(crate) fn is_directory(self) -> bool {
        self.is_directory
    }

    fn implied(layer: u16) -> Self {
        Self::described(layer, NONE, true)
    }

    fn described(layer: u16, record: u32, is_directory: bool) -> Self {
        Self {
            record,
            links: 1,
            layer,
            is_directory,
        }
    }
}

/// Collects the paths a layer lists as directories.
fn listed_directories(index: &Index) -> HashSet<&[u8]> {
    let directories = index
        .entries()
        .filter(|entry| entry.kind == Kind::Directory);
    directories.map(|entry| entry.path).collect()
}

fn name_of<'a>(layers: &'a [Index], node: &Node) -> &'a [u8] {
    layers[usize::from(node.name_layer)].text(node.name_at, usize::from(node.name_len))
}

fn located(layer: u16, record_at: u32, text_at: usize, bytes: &[u8]) -> Located<'_> {
    Located {
        bytes,
        layer,
        at: record_at + number(text_at),
    }
}

/// Splits a located path at its last slash.
fn split(path: Located<'_>) -> (Located<'_>, Located<'_>) {
    let (directory, name) = whiteout::split(path.bytes);
    let len = path.bytes.len();
    (
        resolve::part(path, 0, directory.len()),
        resolve::part(path, len - name.len(), len),
    )
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "nodes are capped below u32::MAX, and an index is shorter than 4 GiB"
)]
fn number(at: usize) -> u32 {
    at as u32
}

/// Runs each pass over a fresh merge of one layer with the flag as it is.
#[cfg(test)]
pub(crate) fn merge_passes(
    layers: &[Index],
    limits: &Limits,
    cancelled: &std::sync::atomic::AtomicBool,
) -> [Result<(), MergeError>; 3] {
    let calm = std::sync::atomic::AtomicBool::new(false);
    let calm = CancelCheck::new(&calm);
    let check = || CancelCheck::new(cancelled);
    let hidden = Merger::new(layers, limits, &check()).hide(0);
    let applied = Merger::new(layers, limits, &check()).apply(0);
    let removing = check();
    let mut full = Merger::new(layers, limits, &calm);
    let removed = full.apply(0).and_then(|()| {
        full.check = &removing;
        full.remove_children(ROOT).map_err(MergeError::from)
    });
    [hidden, applied, removed]
}
