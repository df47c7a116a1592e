//! The floor plan of `ARCHITECTURE.md`: a room uses lower floors only, and some things live in
//! one room only.

use anyhow::Result;

use crate::rooms::{self, Room};

/// Where each room stands. A room that is not listed may not exist.
const FLOORS: &[(&str, u8)] = &[
    ("kiln-boot", 0),
    ("kiln-domain", 0),
    ("kiln-tree", 0),
    ("kiln-files", 1),
    ("kiln-api", 2),
    ("kiln-artifacts", 2),
    ("kiln-bootable", 2),
    ("kiln-cache", 2),
    ("kiln-credentials", 2),
    ("kiln-ext4", 2),
    ("kiln-kernel", 2),
    ("kiln-layers", 2),
    ("kiln-registry", 2),
    ("kiln-store", 2),
    ("kiln-vault", 2),
    ("kiln-vmm", 2),
    ("kiln-client", 3),
    ("kiln-service", 3),
    ("kiln-agents", 4),
    ("kiln-rpc", 4),
    ("kiln-webhooks", 4),
    ("kiln", 5),
    ("kiln-hello", 5),
    ("kiln-init", 5),
    ("kiln-runner", 5),
    ("kilnd", 5),
];

/// Rooms that exist for tests and benchmarks; they may use every floor, and no floor uses them
/// outside its own tests.
const DEVELOPMENT: &[&str] = &["kiln-testkit", "floorplan", "e2e", "runner"];

/// Modules that may hold `unsafe`, as `ARCHITECTURE.md` lists them.
const UNSAFE_MODULES: &[&str] = &["cmd/kiln-init/src/kernel_calls.rs"];

/// Third-party packages that one room alone may know.
const ONE_ROOM_ONLY: &[(&str, &str)] = &[
    ("jsonrpsee", "kiln-rpc"),
    ("rusqlite", "kiln-store"),
    ("reqwest", "kiln-registry"),
    ("aws-lc-rs", "kiln-vault"),
    ("flate2", "kiln-layers"),
    ("tar", "kiln-layers"),
];

/// Rooms that share a package of [`ONE_ROOM_ONLY`] for a stated reason.
const SHARED: &[(&str, &str, &str)] = &[
    (
        "jsonrpsee",
        "kiln-client",
        "the client speaks the protocol that the door serves",
    ),
    (
        "flate2",
        "kiln-kernel",
        "kernels and Debian packages are compressed with gzip too",
    ),
    (
        "tar",
        "kiln-kernel",
        "Debian packages hold tar archives; modules travel as tar",
    ),
    (
        "tar",
        "kiln-registry",
        "oci-archive and docker-archive files are tar archives",
    ),
    (
        "flate2",
        "kiln-registry",
        "archives may be compressed as a whole",
    ),
    (
        "flate2",
        "kiln-bootable",
        "a disk for others lies in a layer, and every runtime takes gzip",
    ),
    (
        "tar",
        "kiln-bootable",
        "an exported image is an archive of blobs, and a disk for others lies in a layer",
    ),
    (
        "tar",
        "kiln-client",
        "a modules directory travels to the daemon as a tar stream; the layer of a layout is one",
    ),
];

fn floor(name: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(room, _)| *room == name)
        .map(|(_, floor)| *floor)
}

fn is_development(name: &str) -> bool {
    DEVELOPMENT.contains(&name)
}

fn illegal_edges(room: &Room) -> Vec<String> {
    let Some(own) = floor(&room.name) else {
        return vec![format!("{} stands on no floor", room.name)];
    };
    let is_ours = |name: &&String| floor(name).is_some() || is_development(name);
    room.dependencies()
        .iter()
        .filter(is_ours)
        .filter(|name| floor(name).is_none_or(|other| other >= own))
        .map(|name| format!("{} (floor {own}) may not use {name}", room.name))
        .collect()
}

#[test]
fn every_room_uses_lower_floors_only() -> Result<()> {
    let rooms = rooms::all()?;

    let illegal: Vec<String> = rooms
        .values()
        .filter(|room| !is_development(&room.name))
        .flat_map(illegal_edges)
        .collect();

    assert!(
        rooms.contains_key("kiln-domain"),
        "the manifests were not found"
    );
    assert_eq!(illegal, Vec::<String>::new());
    Ok(())
}

#[test]
fn development_rooms_are_used_by_tests_only() -> Result<()> {
    for room in rooms::all()?.values() {
        for name in room
            .dependencies()
            .iter()
            .filter(|name| is_development(name))
        {
            assert!(
                is_development(&room.name),
                "{} uses {name} outside its tests",
                room.name
            );
        }
        for name in room.dev_dependencies() {
            let Some(other) = floor(&name) else { continue };
            let own = floor(&room.name).unwrap_or(u8::MAX);
            assert!(
                other <= own,
                "the tests of {} use {name} from a higher floor",
                room.name
            );
        }
    }
    Ok(())
}

#[test]
fn outside_things_have_one_room_each() -> Result<()> {
    for room in rooms::all()?
        .values()
        .filter(|room| !is_development(&room.name))
    {
        for name in room.dependencies() {
            let Some((_, owner)) = ONE_ROOM_ONLY.iter().find(|(package, _)| *package == name)
            else {
                continue;
            };
            let shared = SHARED
                .iter()
                .any(|(package, room_name, _)| *package == name && *room_name == room.name);
            assert!(
                shared || *owner == room.name,
                "{} knows {name}; only {owner} may",
                room.name
            );
        }
    }
    Ok(())
}

#[test]
fn every_room_takes_the_shared_lints() -> Result<()> {
    for room in rooms::all()?.values() {
        let inherits = room
            .manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"));
        assert_eq!(inherits, Some(&toml::Value::Boolean(true)), "{}", room.name);
    }
    Ok(())
}

#[test]
fn the_ground_floor_bans_files_clocks_and_the_environment() -> Result<()> {
    let banned = [
        "std::env::var",
        "std::time::SystemTime::now",
        "std::time::Instant::now",
        "std::fs::File::open",
        "std::fs::read",
        "std::fs::write",
    ];
    for room in rooms::all()?
        .values()
        .filter(|room| floor(&room.name) == Some(0))
    {
        let lints = std::fs::read_to_string(room.folder.join("clippy.toml"))?;
        for method in banned {
            assert!(
                lints.contains(&format!("\"{method}\"")),
                "{} allows {method}",
                room.name
            );
        }
    }
    Ok(())
}

#[test]
fn versions_of_packages_are_stated_once() -> Result<()> {
    for room in rooms::all()?.values() {
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = room.manifest.get(table).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, value) in table {
                assert_eq!(
                    value.get("workspace"),
                    Some(&toml::Value::Boolean(true)),
                    "{} states its own version of {name}",
                    room.name
                );
            }
        }
    }
    Ok(())
}

#[test]
fn unsafe_stands_only_in_listed_modules() -> Result<()> {
    // Assembled so that this file does not find itself.
    let needles = ["{", "fn ", "impl ", "extern "].map(|rest| format!("un{}{rest}", "safe "));
    for room in rooms::all()?.values() {
        for (path, text) in room.sources()? {
            let listed = UNSAFE_MODULES.iter().any(|module| path.ends_with(module));
            let found = needles.iter().any(|needle| text.contains(needle.as_str()));
            assert!(listed || !found, "unsafe in {}", path.display());
        }
    }
    Ok(())
}

#[test]
fn no_file_outgrows_its_room() -> Result<()> {
    for room in rooms::all()?.values() {
        for (path, text) in room.sources()? {
            let lines = text.lines().count();
            assert!(
                lines <= 800,
                "{} has {lines} lines; split it",
                path.display()
            );
        }
    }
    Ok(())
}
