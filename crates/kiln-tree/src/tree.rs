//! What a stack of layers shows: names, and the objects they name, in one canonical order.
//!
//! Nodes are numbered so that the children of a directory lie side by side, sorted by name.
//! Inodes are numbered in tree order: depth first, children by name, an object at its first name.
//! Both orders depend on the layers alone. The tree owns its indexes and borrows every text from
//! them; a name costs 24 bytes and an object 16.
//!
//! How the layers are applied is not here; see the merge.

use std::sync::atomic::AtomicBool;

use crate::cancel::{CancelCheck, Cancelled};
use crate::entry::{Body, Device, Kind, Timestamp, Xattrs};
use crate::index::Index;
use crate::limits::Limits;
use crate::merge::{self, MergeError, Merger, NONE, ROOT};
use crate::resolve::{self, Budget, Located, Step, Walk};

/// Mode of a directory that paths imply and no layer lists.
const IMPLIED_MODE: u16 = 0o755;

/// Symbolic links followed by one lookup, as Linux counts them.
const LOOKUP_HOPS: u32 = 40;

/// A name in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// An object in a tree; hard links are several names of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl NodeId {
    /// Returns a number from 0 up to [`Tree::node_count`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl InodeId {
    /// Returns a number from 0 up to [`Tree::inode_count`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The merged tree of an image.
///
/// Invariant: everything in it is reachable from the root; what upper layers hide is gone.
#[derive(Debug)]
pub struct Tree {
    layers: Vec<Index>,
    nodes: Vec<Node>,
    objects: Vec<Object>,
}

/// An object of a tree, borrowed from the index of the layer that last described it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode<'a> {
    /// What it is.
    pub kind: InodeKind<'a>,
    /// Permission, set-id and sticky bits (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name.
    pub xattrs: Xattrs<'a>,
    /// Names of it; 1 for a directory, whose link count is `2 + subdirectories`.
    pub links: u32,
    /// Its first name in tree order.
    pub first_node: NodeId,
    /// Which layer describes it, and so which pack a body is in; bottom layer 0.
    pub layer: usize,
}

/// What an object of a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeKind<'a> {
    /// A directory.
    Directory {
        /// Number of directories directly in it.
        subdirectories: u32,
    },
    /// A regular file.
    Regular(Body<'a>),
    /// A symbolic link and what it says.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    inode: u32,
    first_child: u32,
    children: u32,
    name_at: u32,
    name_layer: u16,
    name_len: u8,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    record: u32,
    first_node: u32,
    /// Names of anything but a directory; subdirectories of a directory.
    links: u32,
    layer: u16,
}

impl Tree {
    /// Applies `layers`, bottom first, to an empty root (OCI image specification, "Applying
    /// Changesets").
    ///
    /// Whiteouts and opaque markers hide lower layers only, wherever they stand in the archive.
    /// Of several entries of one path in a layer the last wins. A directory over a directory
    /// replaces all metadata and keeps the children; any other meeting replaces what was there.
    /// A hard link binds to what its target is at that point, whichever layer that is from.
    /// A directory that paths only imply keeps what lower layers say of it, and is 0755, root,
    /// time 0, where none does. Parents that are symbolic links are followed inside the root.
    ///
    /// `cancelled` is looked at every 1,000 entries. Only the sorting of one directory's names is
    /// not interrupted.
    pub fn merge(
        layers: Vec<Index>,
        limits: &Limits,
        cancelled: &AtomicBool,
    ) -> Result<Self, MergeError> {
        let check = CancelCheck::new(cancelled);
        let merged = merge::merge(&layers, limits, &check)?;
        let (nodes, objects) = Freezer::freeze(&merged, &layers, &check)?;
        drop(merged);
        Ok(Self {
            layers,
            nodes,
            objects,
        })
    }

    /// Returns the root directory's node.
    pub fn root(&self) -> NodeId {
        NodeId(ROOT)
    }

    /// Counts the names, the root included.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Counts the objects, the root included.
    pub fn inode_count(&self) -> usize {
        self.objects.len()
    }

    /// Counts the layers the tree was merged from.
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// Lists what is in a directory, sorted by the bytes of the names; nothing for other nodes.
    pub fn children(&self, node: NodeId) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        let Node {
            first_child,
            children,
            ..
        } = *self.node(node);
        // A range of u32 is no ExactSizeIterator, one of usize is.
        let first = first_child as usize;
        (first..first + children as usize).map(|node| NodeId(number(node)))
    }

    /// Returns the last component of a node's path; empty for the root.
    pub fn name(&self, node: NodeId) -> &[u8] {
        let Node {
            name_at,
            name_layer,
            name_len,
            ..
        } = *self.node(node);
        match name_len {
            0 => &[],
            _ => self.layers[usize::from(name_layer)].text(name_at, usize::from(name_len)),
        }
    }

    /// Returns the directory a node is in; `None` for the root.
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        (node.0 != ROOT).then(|| NodeId(self.node(node).parent))
    }

    /// Returns a node's path without a leading slash; empty for the root.
    pub fn path(&self, node: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut current = node;
        while let Some(parent) = self.parent(current) {
            names.push(self.name(current));
            current = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Returns the object a node names.
    pub fn inode_of(&self, node: NodeId) -> InodeId {
        InodeId(self.node(node).inode)
    }

    /// Returns what is known of an object.
    pub fn inode(&self, inode: InodeId) -> Inode<'_> {
        let object = self.objects[inode.index()];
        if object.record == NONE {
            return object.implied();
        }
        let entry = self.layers[usize::from(object.layer)]
            .record(object.record)
            .entry;
        let kind = match entry.kind {
            Kind::Regular(body) => InodeKind::Regular(body),
            Kind::Symlink { target } => InodeKind::Symlink(target),
            Kind::CharDevice(device) => InodeKind::CharDevice(device),
            Kind::BlockDevice(device) => InodeKind::BlockDevice(device),
            Kind::Fifo => InodeKind::Fifo,
            Kind::Socket => InodeKind::Socket,
            // The last three never describe an object.
            Kind::Directory | Kind::Hardlink { .. } | Kind::Whiteout | Kind::Opaque => {
                InodeKind::Directory {
                    subdirectories: object.links,
                }
            }
        };
        Inode {
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs,
            links: match kind {
                InodeKind::Directory { .. } => 1,
                _ => object.links,
            },
            first_node: NodeId(object.first_node),
            layer: usize::from(object.layer),
        }
    }

    /// Finds a path, leading slash or not, following symbolic links inside the root for all but
    /// the last component.
    pub fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        let path = trim_slashes(path);
        let (directory, name) = crate::whiteout::split(path);
        let is_plain = !matches!(name, b"" | b"." | b"..");
        let directory = if is_plain { directory } else { path };
        let mut steps = u64::MAX;
        let budget = Budget {
            hops: LOOKUP_HOPS,
            steps: &mut steps,
        };
        let text = Located {
            bytes: directory,
            layer: 0,
            at: 0,
        };
        let place = resolve::directory(&Walker(self), ROOT, text, budget).ok()?;
        match name {
            _ if !place.missing.is_empty() => None,
            name if is_plain => self.child(place.directory, name).map(NodeId),
            _ => Some(NodeId(place.directory)),
        }
    }

    /// Lists the objects in tree order: depth first, children by name, each at its first name.
    pub fn inodes(&self) -> impl ExactSizeIterator<Item = InodeId> + use<> {
        (0..self.objects.len()).map(|inode| InodeId(number(inode)))
    }

    /// Lists the regular files that have data in a pack, by layer and then by entry, which is
    /// their order in the packs.
    pub fn bodies(&self) -> impl ExactSizeIterator<Item = InodeId> + use<> {
        let mut bodies: Vec<InodeId> = self
            .inodes()
            .filter(|inode| match self.inode(*inode).kind {
                InodeKind::Regular(body) => body.segments().next().is_some(),
                _ => false,
            })
            .collect();
        bodies.sort_unstable_by_key(|inode| {
            let object = self.objects[inode.index()];
            (object.layer, object.record)
        });
        bodies.into_iter()
    }

    fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.index()]
    }

    fn child(&self, directory: u32, name: &[u8]) -> Option<u32> {
        let Node {
            first_child,
            children,
            ..
        } = self.nodes[directory as usize];
        let first = first_child as usize;
        let siblings = &self.nodes[first..first + children as usize];
        let place = siblings
            .binary_search_by(|node| {
                self.layers[usize::from(node.name_layer)]
                    .text(node.name_at, usize::from(node.name_len))
                    .cmp(name)
            })
            .ok()?;
        Some(number(first + place))
    }
}

impl Object {
    fn implied<'a>(self) -> Inode<'a> {
        Inode {
            kind: InodeKind::Directory {
                subdirectories: self.links,
            },
            mode: IMPLIED_MODE,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::NONE,
            links: 1,
            first_node: NodeId(self.first_node),
            layer: usize::from(self.layer),
        }
    }
}

/// Walks a finished tree.
struct Walker<'a>(&'a Tree);

impl<'a> Walk<'a> for Walker<'a> {
    fn parent(&self, node: u32) -> u32 {
        self.0.nodes[node as usize].parent
    }

    fn child(&self, directory: u32, name: &[u8]) -> Option<u32> {
        self.0.child(directory, name)
    }

    fn step(&self, node: u32) -> Step<'a> {
        match self.0.inode(self.0.inode_of(NodeId(node))).kind {
            InodeKind::Directory { .. } => Step::Directory,
            InodeKind::Symlink(bytes) => Step::Symlink(Located {
                bytes,
                layer: 0,
                at: 0,
            }),
            _ => Step::Other,
        }
    }
}

/// Renumbers what is reachable in a merge's result.
struct Freezer<'a> {
    layers: &'a [Index],
    merged: &'a Merger<'a>,
    nodes: Vec<Node>,
    objects: Vec<Object>,
    /// For each new node the old one.
    old_nodes: Vec<u32>,
    /// For each old inode the new one.
    new_inodes: Vec<u32>,
}

impl<'a> Freezer<'a> {
    fn freeze(
        merged: &'a Merger<'a>,
        layers: &'a [Index],
        check: &CancelCheck<'_>,
    ) -> Result<(Vec<Node>, Vec<Object>), Cancelled> {
        let mut freezer = Self {
            layers,
            merged,
            nodes: Vec::new(),
            objects: Vec::new(),
            old_nodes: Vec::new(),
            new_inodes: vec![NONE; merged.objects.len()],
        };
        freezer.push(ROOT, ROOT);
        let mut pending = vec![ROOT];
        while let Some(node) = pending.pop() {
            check.entry()?;
            freezer.visit(node);
            let Node {
                first_child,
                children,
                ..
            } = freezer.nodes[node as usize];
            pending.extend((first_child..first_child + children).rev());
        }
        Ok((freezer.nodes, freezer.objects))
    }

    /// Numbers a node's object, if this is its first name, and its children.
    fn visit(&mut self, node: u32) {
        let merged = self.merged;
        let old = merged.nodes[self.old_nodes[node as usize] as usize];
        let slot = &mut self.new_inodes[old.inode as usize];
        if *slot == NONE {
            *slot = number(self.objects.len());
            let object = merged.objects[old.inode as usize];
            self.objects.push(Object {
                record: object.record,
                first_node: node,
                links: if object.is_directory() {
                    0
                } else {
                    object.links
                },
                layer: object.layer,
            });
        }
        let inode = *slot;
        let first_child = number(self.nodes.len());
        let mut children = Vec::new();
        let mut child = old.first_child;
        while child != NONE {
            children.push(child);
            child = merged.nodes[child as usize].next;
        }
        children.sort_unstable_by_key(|child| self.old_name(*child));
        for child in &children {
            let object = merged.objects[merged.nodes[*child as usize].inode as usize];
            if object.is_directory() {
                self.objects[inode as usize].links += 1;
            }
            self.push(*child, node);
        }
        let node = &mut self.nodes[node as usize];
        node.inode = inode;
        node.first_child = first_child;
        node.children = number(children.len());
    }

    fn push(&mut self, old: u32, parent: u32) {
        let merge::Node {
            name_at,
            name_layer,
            name_len,
            ..
        } = self.merged.nodes[old as usize];
        self.old_nodes.push(old);
        self.nodes.push(Node {
            parent,
            inode: NONE,
            first_child: 0,
            children: 0,
            name_at,
            name_layer,
            name_len,
        });
    }

    fn old_name(&self, old: u32) -> &'a [u8] {
        let node = &self.merged.nodes[old as usize];
        self.layers[usize::from(node.name_layer)].text(node.name_at, usize::from(node.name_len))
    }
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/');
    end.map_or(&[], |end| &path[..=end])
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a merge makes fewer than u32::MAX nodes"
)]
fn number(at: usize) -> u32 {
    at as u32
}

#[cfg(test)]
mod overlay_tests;
#[cfg(test)]
mod tests;
