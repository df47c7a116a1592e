//! What a stack of layers shows, rule by rule.

use super::*;
use crate::entry::{Entry, Xattr};
use crate::index::IndexBuilder;

const CAPABILITY: &[Xattr<'_>] = &[Xattr {
    name: b"security.capability",
    value: b"\n\0",
}];

/// An entry whose owner is `mark`, by which a test tells entries of one path apart.
fn entry<'a>(path: &'a str, kind: Kind<'a>, mark: u32) -> Entry<'a> {
    Entry {
        path: path.as_bytes(),
        kind,
        mode: 0o644,
        uid: mark,
        gid: 0,
        mtime: Timestamp {
            seconds: i64::from(mark),
            nanoseconds: 0,
        },
        xattrs: Xattrs::NONE,
    }
}

fn file(path: &str, mark: u32) -> Entry<'_> {
    entry(path, Kind::Regular(Body::whole(0, 0)), mark)
}

fn directory(path: &str, mark: u32) -> Entry<'_> {
    entry(path, Kind::Directory, mark)
}

fn symlink<'a>(path: &'a str, target: &'a str, mark: u32) -> Entry<'a> {
    let target = target.as_bytes();
    entry(path, Kind::Symlink { target }, mark)
}

fn hardlink<'a>(path: &'a str, target: &'a str) -> Entry<'a> {
    let target = target.as_bytes();
    entry(path, Kind::Hardlink { target }, 999)
}

fn whiteout(path: &str) -> Entry<'_> {
    entry(path, Kind::Whiteout, 0)
}

fn opaque(path: &str) -> Entry<'_> {
    entry(path, Kind::Opaque, 0)
}

fn merge(layers: &[Vec<Entry<'_>>]) -> Result<Tree, MergeError> {
    let index = |layer: &Vec<Entry<'_>>| {
        let mut builder = IndexBuilder::new();
        for entry in layer {
            builder.push(entry).unwrap();
        }
        builder.finish()
    };
    Tree::merge(
        layers.iter().map(index).collect(),
        &Limits::default(),
        &AtomicBool::new(false),
    )
}

/// Writes a tree as one word a name: its path, what it is, its owner, and `=` with the number of
/// names where there are several.
fn show(tree: &Tree) -> Vec<String> {
    let mut shown = Vec::new();
    let mut pending = vec![tree.root()];
    while let Some(node) = pending.pop() {
        let inode = tree.inode(tree.inode_of(node));
        let mark = match inode.kind {
            InodeKind::Directory { .. } => "/".to_owned(),
            InodeKind::Symlink(target) => format!("->{}", target.escape_ascii()),
            _ => String::new(),
        };
        let links = match inode.links {
            1 => String::new(),
            links => format!("={links}"),
        };
        let path = tree.path(node);
        shown.push(format!(
            "{}{mark}:{}{links}",
            path.escape_ascii(),
            inode.uid
        ));
        let mut children: Vec<_> = tree.children(node).collect();
        children.reverse();
        pending.extend(children);
    }
    shown
}

fn check(layers: &[Vec<Entry<'_>>], want: &[&str]) {
    let tree = merge(layers).unwrap();
    let shown = show(&tree);

    assert_eq!(shown[0].split(':').next(), Some("/"));
    assert_eq!(shown[1..], *want, "{layers:?}");
}

#[test]
fn directories_keep_children_and_everything_else_replaces() {
    let lower = || vec![directory("a", 1), file("a/f", 1), file("b", 1)];
    check(
        &[lower(), vec![directory("a", 2)]],
        &["a/:2", "a/f:1", "b:1"],
    );
    check(&[lower(), vec![file("a", 2)]], &["a:2", "b:1"]);
    check(
        &[lower(), vec![directory("b", 2), file("b/x", 2)]],
        &["a/:1", "a/f:1", "b/:2", "b/x:2"],
    );
    check(&[lower(), vec![symlink("a", "b", 2)]], &["a->b:2", "b:1"]);
    check(
        &[lower(), vec![file("b", 2), file("b", 3)]],
        &["a/:1", "a/f:1", "b:3"],
    );
}

#[test]
fn whiteouts_hide_lower_layers_only_wherever_they_stand() {
    let lower = || vec![directory("a", 1), file("a/f", 1), file("a/g", 1)];
    for layer in [
        vec![whiteout("a/f"), file("a/f", 2), file("a/f", 3)],
        vec![file("a/f", 2), whiteout("a/f"), file("a/f", 3)],
        vec![file("a/f", 2), file("a/f", 3), whiteout("a/f")],
    ] {
        check(&[lower(), layer], &["a/:1", "a/f:3", "a/g:1"]);
    }
    for layer in [
        vec![opaque("a"), file("a/h", 2)],
        vec![file("a/h", 2), opaque("a")],
    ] {
        check(&[lower(), layer], &["a/:1", "a/h:2"]);
    }
    check(&[lower(), vec![whiteout("a")]], &[]);
    check(&[lower(), vec![opaque("")]], &[]);
    check(
        &[
            lower(),
            vec![whiteout("a/missing"), whiteout("x/y"), opaque("z")],
        ],
        &["a/:1", "a/f:1", "a/g:1"],
    );
    // A file is not a directory that could be emptied.
    check(
        &[lower(), vec![opaque("a/f"), whiteout("a/f/x")]],
        &["a/:1", "a/f:1", "a/g:1"],
    );
}

#[test]
fn implied_directories_keep_what_lower_layers_say() {
    let tree = merge(&[vec![directory("a", 7)], vec![file("a/b/c", 1)]]).unwrap();

    let a = tree.inode(tree.inode_of(tree.lookup(b"a").unwrap()));
    let b = tree.inode(tree.inode_of(tree.lookup(b"a/b").unwrap()));

    assert_eq!((a.uid, a.mode, a.layer), (7, 0o644, 0));
    assert_eq!(
        (b.uid, b.gid, b.mode, b.mtime),
        (0, 0, 0o755, Timestamp::default())
    );
    assert_eq!(a.kind, InodeKind::Directory { subdirectories: 1 });
    assert_eq!(b.kind, InodeKind::Directory { subdirectories: 0 });
}

#[test]
fn a_listed_directory_replaces_all_metadata() {
    let rich = Entry {
        mode: 0o1777,
        xattrs: Xattrs::sorted(CAPABILITY),
        ..directory("a", 1)
    };
    let tree = merge(&[vec![rich], vec![directory("a", 2)]]).unwrap();
    let a = tree.inode(tree.inode_of(tree.lookup(b"a").unwrap()));
    assert_eq!((a.uid, a.mode, a.mtime.seconds), (2, 0o644, 2));
    assert!(a.xattrs.is_empty());

    let tree = merge(&[vec![directory("a", 2)], vec![rich]]).unwrap();
    let a = tree.inode(tree.inode_of(tree.lookup(b"a").unwrap()));
    assert_eq!((a.uid, a.mode), (1, 0o1777));
    assert_eq!(a.xattrs, Xattrs::sorted(CAPABILITY));
}

#[test]
fn the_root_takes_metadata_and_nothing_else() {
    let tree = merge(&[vec![directory("", 3)], vec![file("a", 1)]]).unwrap();
    assert_eq!(tree.inode(tree.inode_of(tree.root())).uid, 3);

    let tree = merge(&[]).unwrap();
    let root = tree.inode(tree.inode_of(tree.root()));
    assert_eq!((root.mode, root.uid, tree.node_count()), (0o755, 0, 1));

    let replaced = merge(&[vec![], vec![symlink("", "a", 1)]]);
    assert_eq!(replaced.err(), Some(MergeError::RootReplaced { layer: 1 }));
}

#[test]
fn hard_links_bind_to_what_is_current() {
    check(
        &[vec![
            file("a", 1),
            hardlink("b", "a"),
            file("a", 2),
            hardlink("c", "a"),
        ]],
        &["a:2=2", "b:1", "c:2=2"],
    );
    // Lower layers count, and replacing one name leaves the others.
    check(
        &[
            vec![file("a", 1)],
            vec![hardlink("b", "a"), hardlink("c", "b")],
            vec![whiteout("b")],
        ],
        &["a:1=2", "c:1=2"],
    );
    check(
        &[vec![file("a", 1)], vec![hardlink("b", "a"), file("b", 2)]],
        &["a:1", "b:2"],
    );
    check(
        &[vec![symlink("s", "x", 1), hardlink("t", "s")]],
        &["s->x:1=2", "t->x:1=2"],
    );
    check(&[vec![file("a", 1), hardlink("a", "a")]], &["a:1"]);
    check(&[vec![file("d/f", 1), hardlink("d", "d/f")]], &["d:1"]);
    check(
        &[vec![
            directory("usr", 1),
            symlink("u", "usr", 1),
            file("u/f", 1),
            hardlink("g", "u/f"),
        ]],
        &["g:1=2", "u->usr:1", "usr/:1", "usr/f:1=2"],
    );
}

#[test]
fn hard_links_to_nothing_or_to_directories_are_refused() {
    let dangling = |layer, path: &str, target: &str| MergeError::DanglingHardlink {
        layer,
        path: crate::ShownPath::new(path.as_bytes()),
        target: crate::ShownPath::new(target.as_bytes()),
    };
    let to_directory = |path: &str, target: &str| MergeError::HardlinkToDirectory {
        layer: 0,
        path: crate::ShownPath::new(path.as_bytes()),
        target: crate::ShownPath::new(target.as_bytes()),
    };
    let cases = [
        (
            vec![vec![hardlink("b", "a"), file("a", 1)]],
            dangling(0, "b", "a"),
        ),
        (
            vec![vec![file("a", 1), hardlink("b", "a/x")]],
            dangling(0, "b", "a/x"),
        ),
        (vec![vec![hardlink("b", "x/a")]], dangling(0, "b", "x/a")),
        (
            vec![vec![file("a", 1)], vec![hardlink("b", "a"), whiteout("a")]],
            dangling(1, "b", "a"),
        ),
        (
            vec![vec![directory("d", 1), hardlink("b", "d")]],
            to_directory("b", "d"),
        ),
        (vec![vec![hardlink("b", "")]], to_directory("b", "")),
    ];
    for (layers, want) in cases {
        assert_eq!(merge(&layers).err(), Some(want), "{layers:?}");
    }
}

#[test]
fn parents_that_are_links_are_followed_inside_the_root() {
    let lower = || {
        vec![
            directory("usr", 1),
            directory("usr/lib", 1),
            symlink("lib", "usr/lib", 1),
        ]
    };
    check(
        &[lower(), vec![file("lib/x", 2)]],
        &["lib->usr/lib:1", "usr/:1", "usr/lib/:1", "usr/lib/x:2"],
    );
    check(
        &[
            lower(),
            vec![file("lib/x", 2)],
            vec![whiteout("lib/x"), file("lib/y", 3)],
        ],
        &["lib->usr/lib:1", "usr/:1", "usr/lib/:1", "usr/lib/y:3"],
    );
    check(
        &[lower(), vec![file("lib/x", 2)], vec![opaque("lib")]],
        &["lib->usr/lib:1", "usr/:1", "usr/lib/:1"],
    );
    // Absolute targets and `..` beyond the root stay inside it.
    check(
        &[vec![symlink("a", "/../../b/./c", 1), file("a/x", 2)]],
        &["a->/../../b/./c:1", "b/:0", "b/c/:0", "b/c/x:2"],
    );
    // A missing directory that `..` leaves again is not made.
    check(
        &[vec![symlink("a", "no/../b", 1), file("a/x", 2)]],
        &["a->no/../b:1", "b/:0", "b/x:2"],
    );
    // The last component is replaced, not followed.
    check(
        &[lower(), vec![directory("lib", 2)]],
        &["lib/:2", "usr/:1", "usr/lib/:1"],
    );
}

#[test]
fn a_whiteout_in_a_directory_that_replaces_a_link_hides_nothing_elsewhere() {
    let lower = vec![file("usr/lib/x", 1), symlink("lib", "usr/lib", 1)];
    for upper in [
        vec![directory("lib", 2), whiteout("lib/x"), opaque("lib")],
        vec![whiteout("lib/x"), opaque("lib"), directory("lib", 2)],
    ] {
        check(
            &[lower.clone(), upper],
            &["lib/:2", "usr/:0", "usr/lib/:0", "usr/lib/x:1"],
        );
    }
}

#[test]
fn paths_that_lead_nowhere_are_refused() {
    let path = |path: &str| crate::ShownPath::new(path.as_bytes());
    let through = |text: &str| MergeError::ParentNotDirectory {
        layer: 0,
        path: path(text),
    };
    assert_eq!(
        merge(&[vec![file("a", 1), file("a/b", 1)]]).err(),
        Some(through("a/b"))
    );
    assert_eq!(
        merge(&[vec![file("f", 1), symlink("a", "f", 1), file("a/b", 1)]]).err(),
        Some(through("a/b"))
    );
    assert_eq!(
        merge(&[vec![
            symlink("a", "b", 1),
            symlink("b", "a", 1),
            file("a/x", 1)
        ]])
        .err(),
        Some(MergeError::SymlinkLoop {
            layer: 0,
            path: path("a/x"),
            limit: 40
        })
    );
}

#[test]
fn limits_are_typed_errors() {
    let index = |layer: &[Entry<'_>]| {
        let mut builder = IndexBuilder::new();
        for entry in layer {
            builder.push(entry).unwrap();
        }
        builder.finish()
    };
    let small = Limits {
        layers: 2,
        entries: 4,
        depth: 3,
        symlink_hops: 2,
        symlink_steps: 3,
    };
    let merge = |layers: &[Vec<Entry<'_>>]| {
        Tree::merge(
            layers.iter().map(|layer| index(layer)).collect(),
            &small,
            &AtomicBool::new(false),
        )
        .err()
    };
    let path = |path: &str| crate::ShownPath::new(path.as_bytes());

    assert_eq!(
        merge(&[vec![], vec![], vec![]]),
        Some(MergeError::TooManyLayers { found: 3, limit: 2 })
    );
    let five: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| file(name, 1)).into();
    assert_eq!(
        merge(&[five]),
        Some(MergeError::TooManyEntries { limit: 4 })
    );
    // Directories that paths imply count too.
    let implied = vec![file("a/b/c", 1), file("d/e/f", 1)];
    assert_eq!(
        merge(&[implied]),
        Some(MergeError::TooManyEntries { limit: 4 })
    );
    assert_eq!(
        merge(&[vec![file("a/b/c/d", 1)]]),
        Some(MergeError::TooDeep {
            layer: 0,
            path: path("a/b/c/d"),
            limit: 3
        })
    );
    let steps = vec![symlink("a", "././././.", 1), file("a/x", 1)];
    assert_eq!(
        merge(&[steps]),
        Some(MergeError::TooManySymlinkSteps { limit: 3 })
    );
}

#[test]
fn numbering_follows_the_tree() {
    let tree = merge(&[vec![
        file("z", 1),
        file("a/y", 1),
        hardlink("a.link", "z"),
        directory("a/b", 1),
    ]])
    .unwrap();

    let paths: Vec<_> = tree
        .inodes()
        .map(|inode| tree.path(tree.inode(inode).first_node))
        .collect();

    // "a" comes before "a.link" because names are compared, not paths.
    assert_eq!(paths, [&b""[..], b"a", b"a/b", b"a/y", b"a.link"]);
    assert_eq!((tree.node_count(), tree.inode_count()), (6, 5));
    let names: Vec<_> = tree
        .children(tree.root())
        .map(|node| tree.name(node))
        .collect();
    assert_eq!(names, [&b"a"[..], b"a.link", b"z"]);
}

#[test]
fn bodies_come_in_pack_order() {
    let body = |path, block| entry(path, Kind::Regular(Body::whole(1, block)), 1);
    let tree = merge(&[
        vec![
            body("z", 0),
            body("gone", 1),
            body("b", 2),
            file("empty", 1),
        ],
        vec![body("a", 0), whiteout("gone")],
    ])
    .unwrap();

    let bodies: Vec<_> = tree
        .bodies()
        .map(|inode| tree.inode(inode))
        .map(|inode| (inode.layer, tree.path(inode.first_node)))
        .collect();

    assert_eq!(
        bodies,
        [(0, b"z".to_vec()), (0, b"b".to_vec()), (1, b"a".to_vec())]
    );
}

#[test]
fn lookup_follows_parents_and_not_the_last_component() {
    let tree = merge(&[vec![file("usr/lib/x", 1), symlink("lib", "/usr/lib", 1)]]).unwrap();
    let cases: &[(&str, Option<&str>)] = &[
        ("", Some("")),
        ("/", Some("")),
        ("lib", Some("lib")),
        ("/lib/x", Some("usr/lib/x")),
        ("lib/../lib/./x", Some("usr/lib/x")),
        ("lib/..", Some("usr")),
        ("../..", Some("")),
        ("lib/", Some("lib")),
        ("lib/.", Some("usr/lib")),
        ("lib/y", None),
        ("lib/x/y", None),
        ("no/such", None),
    ];
    for (path, want) in cases {
        let found = tree.lookup(path.as_bytes()).map(|node| tree.path(node));
        assert_eq!(found, want.map(|path| path.as_bytes().to_vec()), "{path:?}");
    }
}

/// Each pass alone looks at the flag: none of them may run through a million entries unasked.
#[test]
fn a_thrown_flag_stops_every_pass() {
    let mut builder = IndexBuilder::new();
    builder.push(&file("a", 1)).unwrap();
    let layers = [builder.finish()];
    let limits = Limits::default();
    let thrown = AtomicBool::new(true);
    let check = || CancelCheck::new(&thrown);
    let calm = AtomicBool::new(false);
    let calm = CancelCheck::new(&calm);

    let merged = merge::merge(&layers, &limits, &calm).unwrap();
    let frozen = Freezer::freeze(&merged, &layers, &check());
    assert_eq!(frozen.err(), Some(Cancelled));

    let stopped = merge::merge_passes(&layers, &limits, &thrown);
    let stopped = stopped.map(Result::err);
    assert_eq!(stopped, [const { Some(MergeError::Cancelled) }; 3]);

    let whole = Tree::merge(layers.to_vec(), &limits, &thrown);
    assert_eq!(whole.err(), Some(MergeError::Cancelled));
}
