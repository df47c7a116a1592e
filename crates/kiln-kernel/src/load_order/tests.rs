//! Claims about the order of loading.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::testing;

static GO_ON: AtomicBool = AtomicBool::new(false);
const HOST: ModuleHost<'_> = ModuleHost {
    architecture: Architecture::X86_64,
    release: Some("6.1.0"),
};

/// Modules with these entries, and `built_in` inside the kernel.
fn tree(modules: &[(&str, &[&str])]) -> (TempDir, ModuleTree) {
    let top = tempfile::tempdir().unwrap();
    for (name, entries) in modules {
        let path = top.path().join(format!("{name}.ko"));
        fs::write(path, testing::module(entries)).unwrap();
    }
    fs::write(top.path().join("modules.builtin"), "kernel/built_in.ko\n").unwrap();
    let tree = ModuleTree::open(top.path(), &GO_ON).unwrap();
    (top, tree)
}

fn order(
    modules: &[(&str, &[&str])],
    wanted: &[&str],
) -> Result<(Vec<Added>, Vec<String>), LoadOrderError> {
    let (_top, mut tree) = tree(modules);
    let mut order = LoadOrder::new(&mut tree, HOST);
    let mut added = Vec::new();
    for name in wanted {
        added.push(order.add(name)?);
    }
    let names = order.finish().into_iter().map(|module| module.name);
    Ok((added, names.collect()))
}

fn check(modules: &[(&str, &[&str])], wanted: &[&str], want: &[&str]) {
    let (_, names) = order(modules, wanted).unwrap();
    assert_eq!(names, want, "{modules:?}");
}

#[test]
fn what_is_needed_comes_first_and_once() {
    check(
        &[
            ("virtio_net", &["depends=virtio_ring,virtio,net-failover"]),
            ("virtio_blk", &["depends=virtio,virtio_ring"]),
            ("virtio", &["depends=virtio_ring"]),
            ("virtio_ring", &["depends="]),
            ("net_failover", &["depends=failover,built_in"]),
            ("failover", &[]),
            ("unused", &[]),
        ],
        &["virtio_net", "virtio_blk"],
        &[
            "virtio_ring",
            "virtio",
            "failover",
            "net_failover",
            "virtio_net",
            "virtio_blk",
        ],
    );
}

#[test]
fn soft_dependencies_come_before_or_after_by_name_or_alias() {
    check(
        &[
            (
                "fs",
                &["softdep=pre: crc32c nothing-like-it post: later built_in"],
            ),
            ("crc32c_generic", &["alias=crc32c"]),
            ("crc32c_intel", &["alias=crc32c", "depends=helper"]),
            ("helper", &[]),
            ("later", &["depends=fs"]),
        ],
        &["fs"],
        &["crc32c_generic", "helper", "crc32c_intel", "fs", "later"],
    );
}

#[test]
fn a_soft_dependency_that_cannot_be_met_leaves_nothing() {
    check(
        &[
            ("fs", &["softdep=pre: broken"]),
            ("broken", &["depends=helper,missing"]),
            ("helper", &[]),
        ],
        &["fs"],
        &["fs"],
    );
}

#[test]
fn a_circle_through_a_soft_dependency_is_cut_there() {
    check(
        &[
            ("a", &["depends=b"]),
            ("b", &["softdep=pre: c"]),
            ("c", &["depends=helper,a"]),
            ("helper", &[]),
        ],
        &["a", "c"],
        &["b", "a", "helper", "c"],
    );
}

#[test]
fn a_circle_is_an_error_that_names_it() {
    let modules: &[(&str, &[&str])] = &[
        ("entry", &["depends=a"]),
        ("a", &["depends=b"]),
        ("b", &["depends=c"]),
        ("c", &["depends=a"]),
        ("soft", &["softdep=pre: a"]),
        ("own", &["depends=own"]),
    ];
    let cases: [(&str, &[&str]); 3] = [
        ("entry", &["a", "b", "c"]),
        ("soft", &["a", "b", "c"]),
        ("own", &["own"]),
    ];
    for (wanted, want) in cases {
        let error = order(modules, &[wanted]).unwrap_err();
        let LoadOrderError::Circle { modules } = error else {
            panic!("{error}");
        };
        assert_eq!(modules, want, "{wanted}");
    }
}

#[test]
fn what_is_lacking_is_named_and_leaves_nothing() {
    let (added, names) = order(
        &[
            ("good", &[]),
            ("bad", &["depends=helper,gone"]),
            ("helper", &[]),
        ],
        &["bad", "good", "built_in", "unheard_of"],
    )
    .unwrap();

    let want = [
        Added::Lacks("gone".to_owned()),
        Added::Ordered,
        Added::BuiltIn,
        Added::Lacks("unheard_of".to_owned()),
    ];
    assert_eq!(added, want);
    assert_eq!(names, ["good"]);
}

#[test]
fn modules_of_another_kernel_are_refused() {
    let error = order(&[("a", &["vermagic=6.2.0 SMP"])], &["a"]).unwrap_err();

    assert_eq!(
        error.to_string(),
        "the module a is for the kernel \"6.2.0 SMP\", and this kernel is 6.1.0"
    );
}

#[test]
fn modules_for_another_machine_are_refused() {
    let (_top, mut tree) = tree(&[("a", &[])]);
    let host = ModuleHost {
        architecture: Architecture::Aarch64,
        release: None,
    };

    let error = LoadOrder::new(&mut tree, host).add("a").unwrap_err();

    assert_eq!(
        error.to_string(),
        "the module a is for x86_64, and this kernel for aarch64"
    );
}

#[test]
fn a_chain_without_end_is_given_up() {
    let names: Vec<String> = (0..300).map(|number| format!("m{number}")).collect();
    let depends: Vec<String> = (1..=300).map(|next| format!("depends=m{next}")).collect();
    let entries: Vec<[&str; 1]> = depends.iter().map(|entry| [entry.as_str()]).collect();
    let modules: Vec<(&str, &[&str])> = names
        .iter()
        .zip(&entries)
        .map(|(name, entries)| (name.as_str(), &entries[..]))
        .collect();

    let error = order(&modules, &["m0"]).unwrap_err();

    assert!(matches!(error, LoadOrderError::TooMany { .. }), "{error}");
}

#[test]
fn wishes_that_fail_again_and_again_are_given_up() {
    // Each helper wishes twice for the next module, which fails only behind its own helper: two
    // to the power of thirty looks.
    let mut modules = Vec::new();
    for number in 0..30 {
        let next = number + 1;
        modules.push((
            format!("m{number}"),
            [
                format!("depends=h{number},gone"),
                format!("alias=a{number}"),
            ],
        ));
        modules.push((
            format!("h{number}"),
            [format!("softdep=pre: m{next} a{next}"), String::new()],
        ));
    }
    let entries: Vec<[&str; 2]> = modules
        .iter()
        .map(|(_, [one, other])| [one.as_str(), other.as_str()])
        .collect();
    let modules: Vec<(&str, &[&str])> = modules
        .iter()
        .zip(&entries)
        .map(|((name, _), entries)| (name.as_str(), &entries[..]))
        .collect();

    let error = order(&modules, &["m0"]).unwrap_err();

    assert!(matches!(error, LoadOrderError::TooMany { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_order_has_what_is_needed_first(
        // Modules may need those with a higher number only, so there are no circles.
        needs in proptest::collection::vec(proptest::collection::btree_set(1_usize..12, 0..4), 12),
        wanted in proptest::collection::vec(0_usize..12, 1..5),
    ) {
        let mut modules = BTreeMap::new();
        for (number, needs) in needs.iter().enumerate() {
            let later = needs.iter().filter(|need| **need > number);
            let later: Vec<String> = later.map(|need| format!("m{need}")).collect();
            modules.insert(format!("m{number}"), later);
        }
        let entries: Vec<(String, [String; 1])> = modules
            .iter()
            .map(|(name, needs)| (name.clone(), [format!("depends={}", needs.join(","))]))
            .collect();
        let entries: Vec<(&str, Vec<&str>)> = entries
            .iter()
            .map(|(name, entries)| (name.as_str(), entries.iter().map(String::as_str).collect()))
            .collect();
        let entries: Vec<(&str, &[&str])> =
            entries.iter().map(|(name, entries)| (*name, &entries[..])).collect();
        let wanted: Vec<String> = wanted.iter().map(|number| format!("m{number}")).collect();
        let words: Vec<&str> = wanted.iter().map(String::as_str).collect();

        let (_, names) = order(&entries, &words).unwrap();

        for (at, name) in names.iter().enumerate() {
            for need in &modules[name] {
                prop_assert!(names[..at].contains(need), "{name} before {need}: {names:?}");
            }
            prop_assert!(!names[..at].contains(name), "{name} comes twice");
        }
        for name in &wanted {
            prop_assert!(names.contains(name));
        }
    }
}
