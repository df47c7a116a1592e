//! Where the programs are that come with this one: beside it, where packages put them, on PATH.

use std::io;
use std::path::{Path, PathBuf};

use crate::surroundings::Surroundings;

/// Where they may be, seen from this program's directory.
const PLACES: &[&str] = &["", "../libexec/kiln", "../lib/kiln"];

/// Finds one by its name.
pub(crate) fn find(name: &str, surroundings: &Surroundings) -> io::Result<Option<PathBuf>> {
    Ok(all(name, surroundings)?.into_iter().next())
}

/// Finds all of a name, the nearest first.
pub(crate) fn all(name: &str, surroundings: &Surroundings) -> io::Result<Vec<PathBuf>> {
    let own = std::env::current_exe()?;
    let own = own.parent().unwrap_or(Path::new("/"));
    Ok(look(name, own, surroundings))
}

fn look(name: &str, own: &Path, surroundings: &Surroundings) -> Vec<PathBuf> {
    let packaged = PLACES.iter().map(|place| own.join(place).join(name));
    let path = surroundings.path.as_deref();
    let path = path.into_iter().flat_map(std::env::split_paths);
    packaged
        .chain(path.map(|directory| directory.join(name)))
        .filter(|candidate| candidate.is_file())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_nearest_place_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("bin");
        let surroundings = Surroundings {
            path: Some(root.path().join("path").into_os_string()),
            ..Surroundings::default()
        };
        let found = || look("kiln-runner", &own, &surroundings);

        assert_eq!(found(), Vec::<PathBuf>::new());
        let places = ["path", "bin/../lib/kiln", "bin/../libexec/kiln", "bin"];
        for (before, place) in places.into_iter().enumerate() {
            fs::create_dir_all(&own).unwrap();
            fs::create_dir_all(root.path().join(place)).unwrap();
            let program = root.path().join(place).join("kiln-runner");
            fs::write(&program, "").unwrap();
            let found = found();
            assert_eq!(found.len(), before + 1, "{place}");
            assert_eq!(
                found[0].canonicalize().unwrap(),
                program.canonicalize().unwrap(),
                "{place}"
            );
        }
    }
}
