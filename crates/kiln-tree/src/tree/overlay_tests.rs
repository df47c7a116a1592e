//! Random stacks of layers show what a naive model of overlays shows.
//!
//! The model is a map from whole paths to objects and knows nothing of arenas, hash tables or
//! places: it was written from the rules alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use crate::{Body, Entry, Index, IndexBuilder, InodeKind, Kind, Limits, Timestamp, Tree, Xattrs};

type Path = Vec<&'static str>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Directory,
    File,
    Symlink(&'static str),
    Hardlink(Path),
    Whiteout,
    Opaque,
}

/// One entry of a layer; `mark` becomes its owner.
#[derive(Clone, Debug)]
struct Change {
    path: Path,
    what: What,
    mark: u32,
}

/// What one path shows: kind, mark, and the first path of the same object.
type Shown = BTreeMap<String, (String, u32, String)>;

#[derive(Clone, Debug, Default)]
struct Model {
    objects: Vec<(What, u32)>,
    paths: BTreeMap<Path, usize>,
}

/// A change cannot be applied.
#[derive(Debug)]
struct Refused;

impl Model {
    fn new() -> Self {
        Self {
            objects: vec![(What::Directory, 0)],
            paths: BTreeMap::from([(Path::new(), 0)]),
        }
    }

    fn what(&self, path: &Path) -> Option<&What> {
        self.paths.get(path).map(|object| &self.objects[*object].0)
    }

    /// Follows every component, existing or not, to a path without links.
    fn canonical(&self, path: &[&'static str]) -> Result<Path, Refused> {
        let mut pending: VecDeque<&'static str> = path.iter().copied().collect();
        let mut current = Path::new();
        let mut hops = 0;
        while let Some(component) = pending.pop_front() {
            if component == ".." {
                current.pop();
                continue;
            }
            current.push(component);
            match self.what(&current) {
                None | Some(What::Directory) => {}
                Some(What::Symlink(target)) => {
                    hops += 1;
                    if hops > 40 {
                        return Err(Refused);
                    }
                    current.pop();
                    if target.starts_with('/') {
                        current.clear();
                    }
                    let parts = target.split('/').filter(|part| !part.is_empty());
                    for part in parts.rev() {
                        pending.push_front(part);
                    }
                }
                Some(_) => return Err(Refused),
            }
        }
        Ok(current)
    }

    fn remove_below(&mut self, path: &Path) {
        self.paths
            .retain(|other, _| other == path || !other.starts_with(path));
    }

    fn remove(&mut self, path: &Path) {
        self.paths.retain(|other, _| !other.starts_with(path));
    }

    fn hide(&mut self, change: &Change, listed: &BTreeSet<Path>) {
        let walked = match change.what {
            What::Opaque => &change.path[..],
            _ => &change.path[..change.path.len() - 1],
        };
        for len in 1..=walked.len() {
            let prefix = walked[..len].to_vec();
            if self.what(&prefix) != Some(&What::Directory) {
                if listed.contains(&prefix) {
                    return;
                }
                break;
            }
        }
        let Ok(mut path) = self.canonical(walked) else {
            return;
        };
        if self.what(&path) != Some(&What::Directory) {
            return;
        }
        if change.what == What::Opaque {
            self.remove_below(&path);
        } else {
            path.extend(change.path.last());
            self.remove(&path);
        }
    }

    fn put(&mut self, change: &Change) -> Result<(), Refused> {
        let Some((name, parent)) = change.path.split_last() else {
            if change.what != What::Directory {
                return Err(Refused);
            }
            self.objects[0].1 = change.mark;
            return Ok(());
        };
        let linked = match &change.what {
            What::Hardlink(target) => Some(self.link_target(target)?),
            _ => None,
        };
        let mut path = self.canonical(parent)?;
        for len in 1..=path.len() {
            let prefix = path[..len].to_vec();
            if !self.paths.contains_key(&prefix) {
                self.insert(prefix, What::Directory, 0);
            }
        }
        path.push(name);
        let is_directory = self.what(&path) == Some(&What::Directory);
        match linked {
            Some(object) => {
                if self.paths.get(&path) != Some(&object) {
                    self.remove(&path);
                    self.paths.insert(path, object);
                }
            }
            None if change.what == What::Directory && is_directory => {
                self.objects[self.paths[&path]].1 = change.mark;
            }
            None => {
                self.remove(&path);
                self.insert(path, change.what.clone(), change.mark);
            }
        }
        Ok(())
    }

    fn link_target(&self, target: &Path) -> Result<usize, Refused> {
        let (name, parent) = target.split_last().ok_or(Refused)?;
        let mut path = self.canonical(parent)?;
        path.push(name);
        match self.paths.get(&path) {
            Some(object) if self.objects[*object].0 != What::Directory => Ok(*object),
            _ => Err(Refused),
        }
    }

    fn insert(&mut self, path: Path, what: What, mark: u32) {
        self.paths.insert(path, self.objects.len());
        self.objects.push((what, mark));
    }

    /// Applies what of a layer can be applied, and returns it.
    ///
    /// What cannot be applied must not count for the rest either: a directory that is listed and
    /// refused would still keep a whiteout from following a link.
    fn apply(&mut self, layer: &[Change]) -> Vec<Change> {
        let mut layer = layer.to_vec();
        loop {
            let mut trial = self.clone();
            let applied = trial.try_apply(&layer);
            if applied.len() == layer.len() {
                *self = trial;
                return applied;
            }
            layer = applied;
        }
    }

    /// Applies a layer and returns the changes that could be applied.
    fn try_apply(&mut self, layer: &[Change]) -> Vec<Change> {
        let is_marker = |change: &&Change| matches!(change.what, What::Whiteout | What::Opaque);
        let listed = layer
            .iter()
            .filter(|change| change.what == What::Directory)
            .map(|change| change.path.clone())
            .collect();
        for change in layer.iter().filter(is_marker) {
            self.hide(change, &listed);
        }
        let applied = |change: &&Change| is_marker(change) || self.put(change).is_ok();
        layer.iter().filter(applied).cloned().collect()
    }

    fn show(&self) -> Shown {
        let mut first_paths = BTreeMap::new();
        for (path, object) in &self.paths {
            first_paths.entry(*object).or_insert(path);
        }
        let line = |(path, object): (&Path, &usize)| {
            let (what, mark) = &self.objects[*object];
            let what = match what {
                What::Directory => "directory".to_owned(),
                What::Symlink(target) => format!("-> {target}"),
                _ => "file".to_owned(),
            };
            (path.join("/"), (what, *mark, first_paths[object].join("/")))
        };
        self.paths.iter().map(line).collect()
    }
}

fn show(tree: &Tree) -> Shown {
    let mut shown = Shown::new();
    let mut pending = vec![tree.root()];
    let mut names = vec![0; tree.inode_count()];
    while let Some(node) = pending.pop() {
        let inode = tree.inode(tree.inode_of(node));
        names[tree.inode_of(node).index()] += 1;
        let what = match inode.kind {
            InodeKind::Directory { subdirectories } => {
                let is_directory = |child: &_| {
                    let kind = tree.inode(tree.inode_of(*child)).kind;
                    matches!(kind, InodeKind::Directory { .. })
                };
                let counted = tree.children(node).filter(is_directory).count();
                assert_eq!(counted, subdirectories as usize);
                "directory".to_owned()
            }
            InodeKind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
            _ => "file".to_owned(),
        };
        let path = |node| String::from_utf8(tree.path(node)).unwrap();
        assert_eq!(
            tree.name(node),
            path(node).rsplit('/').next().unwrap().as_bytes()
        );
        shown.insert(path(node), (what, inode.uid, path(inode.first_node)));
        let mut children: Vec<_> = tree.children(node).collect();
        assert!(children.is_sorted_by(|a, b| tree.name(*a) < tree.name(*b)));
        assert!(
            children
                .iter()
                .all(|child| tree.parent(*child) == Some(node))
        );
        children.reverse();
        pending.extend(children);
    }
    for inode in tree.inodes() {
        assert_eq!(tree.inode(inode).links, names[inode.index()]);
    }
    shown
}

fn index(layer: &[Change]) -> Index {
    let mut builder = IndexBuilder::new();
    for change in layer {
        let path = change.path.join("/");
        let target = match &change.what {
            What::Hardlink(target) => target.join("/"),
            _ => String::new(),
        };
        let kind = match &change.what {
            What::Directory => Kind::Directory,
            What::File => Kind::Regular(Body::whole(0, 0)),
            What::Symlink(target) => Kind::Symlink {
                target: target.as_bytes(),
            },
            What::Hardlink(_) => Kind::Hardlink {
                target: target.as_bytes(),
            },
            What::Whiteout => Kind::Whiteout,
            What::Opaque => Kind::Opaque,
        };
        let entry = Entry {
            path: path.as_bytes(),
            kind,
            mode: 0o755,
            uid: change.mark,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::NONE,
        };
        builder.push(&entry).unwrap();
    }
    Index::decode(builder.finish().as_bytes().to_vec()).unwrap()
}

fn merge(layers: &[Vec<Change>]) -> Option<Tree> {
    let indexes = layers.iter().map(|layer| index(layer)).collect();
    Tree::merge(indexes, &Limits::default(), &AtomicBool::new(false)).ok()
}

fn path(longest: usize) -> impl Strategy<Value = Path> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..=longest)
}

fn change() -> impl Strategy<Value = Change> {
    let targets = vec!["a", "b", "/c", "../a", "/a/b", "b/../c", "/", "../../b/c"];
    let what = prop_oneof![
        4 => Just(What::Directory),
        5 => Just(What::File),
        2 => prop::sample::select(targets).prop_map(What::Symlink),
        3 => path(3).prop_map(What::Hardlink),
        3 => Just(What::Whiteout),
        2 => Just(What::Opaque),
    ];
    let root = prop::bool::weighted(0.03);
    (path(3), what, 1..1000_u32, root).prop_map(|(path, what, mark, at_root)| Change {
        path: match what {
            What::Directory | What::Opaque if at_root => Path::new(),
            _ => path,
        },
        what,
        mark,
    })
}

fn stack() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec(prop::collection::vec(change(), 0..14), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_stack_shows_what_the_model_shows(layers in stack()) {
        let mut model = Model::new();
        let applied: Vec<_> = layers.iter().map(|layer| model.apply(layer)).collect();

        let tree = merge(&applied).expect("the model could apply it");

        prop_assert_eq!(show(&tree), model.show());
    }

    #[test]
    fn a_stack_is_refused_when_the_model_refuses(layers in stack()) {
        let mut model = Model::new();
        let is_whole = layers.iter().all(|layer| model.apply(layer).len() == layer.len());

        prop_assert_eq!(merge(&layers).is_some(), is_whole);
    }
}

/// Removing must cost the same in a directory of a million as in one of two: with a list that is
/// searched, a debug build of this takes minutes.
#[test]
fn masking_a_hundred_thousand_files_is_linear() {
    let names: Vec<String> = (0..100_000).map(|number| format!("d/{number}")).collect();
    let layer = |kind: Kind<'_>| {
        let mut builder = IndexBuilder::new();
        for name in &names {
            let entry = Entry {
                path: name.as_bytes(),
                kind,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: Timestamp::default(),
                xattrs: Xattrs::NONE,
            };
            builder.push(&entry).unwrap();
        }
        builder.finish()
    };
    let file = Kind::Regular(Body::whole(0, 0));

    let tree = Tree::merge(
        vec![
            layer(file),
            layer(Kind::Whiteout),
            layer(file),
            layer(file),
            layer(Kind::Whiteout),
        ],
        &Limits::default(),
        &AtomicBool::new(false),
    )
    .unwrap();

    assert_eq!((tree.node_count(), tree.inode_count()), (2, 2));
}
