//! Reads the workspace's manifests and source files; judges nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One package of the workspace, as its manifest tells it.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) manifest: toml::Table,
}

impl Room {
    /// Names the packages this one depends on, outside its own tests and benchmarks.
    pub(crate) fn dependencies(&self) -> Vec<String> {
        self.table_keys("dependencies")
    }

    /// Names the packages only this one's tests, examples and benchmarks depend on.
    pub(crate) fn dev_dependencies(&self) -> Vec<String> {
        self.table_keys("dev-dependencies")
    }

    /// Reads every `.rs` file below the package's folder, its path relative to the workspace.
    pub(crate) fn sources(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut found = Vec::new();
        collect_sources(&self.folder, &mut found)?;
        Ok(found)
    }

    fn table_keys(&self, table: &str) -> Vec<String> {
        let Some(table) = self.manifest.get(table).and_then(toml::Value::as_table) else {
            return Vec::new();
        };
        table.keys().cloned().collect()
    }
}

/// Returns the workspace's top folder.
pub(crate) fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Reads every package below `crates/`, `cmd/` and `tests/`, by name.
pub(crate) fn all() -> Result<BTreeMap<String, Room>> {
    let mut rooms = BTreeMap::new();
    for group in ["crates", "cmd", "tests"] {
        let Ok(entries) = fs::read_dir(workspace_root().join(group)) else {
            continue;
        };
        for entry in entries {
            let folder = entry?.path();
            let path = folder.join("Cargo.toml");
            if !path.exists() {
                continue;
            }
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let manifest: toml::Table =
                toml::from_str(&text).with_context(|| path.display().to_string())?;
            let name = manifest["package"]["name"]
                .as_str()
                .context("package.name")?
                .to_owned();
            rooms.insert(
                name.clone(),
                Room {
                    name,
                    folder,
                    manifest,
                },
            );
        }
    }
    Ok(rooms)
}

fn collect_sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            found.push((path, text));
        }
    }
    Ok(())
}
