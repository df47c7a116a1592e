//! A folder of things that are slow to make: each is made once, and found by its recipe after.
//!
//! ```text
//! <root>/<name>-<first 16 hex of sha256(recipe)>/   complete, never changed
//! <root>/<name>-<…>.making/                         in the making; swept by the next maker
//! <root>/<name>-<…>.lock                            held by who makes
//! ```
//! Several processes may ask for one fixture at once: one makes it, the others wait.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Environment variable that names another folder than the one below cargo's target.
pub const FOLDER: &str = "KILN_FIXTURES";

/// A folder of fixtures.
#[derive(Clone, Debug)]
pub struct Fixtures {
    root: PathBuf,
}

impl Fixtures {
    /// Uses (and makes) the folder `root`.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root })
    }

    /// Uses the folder that all tests share: `kiln-fixtures` in cargo's target folder, unless
    /// [`FOLDER`] names another.
    pub fn shared() -> Result<Self> {
        if let Some(root) = env::var_os(FOLDER) {
            return Self::at(root);
        }
        let target = profile_folder()?
            .parent()
            .context("the program is in no target folder")?
            .join("kiln-fixtures");
        Self::at(target)
    }

    /// Returns the folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of the fixture `name` made by `recipe`, making it first if need be.
    ///
    /// `recipe` is text that names everything the fixture depends on: another text is another
    /// fixture. `make` fills the empty folder it is given; when it fails, nothing remains.
    pub fn obtain(
        &self,
        name: &str,
        recipe: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let key = format!("{name}-{}", short_hash(recipe));
        let finished = self.root.join(&key);
        let path = self.root.join(format!("{key}.lock"));
        let lock =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        if finished.exists() {
            return Ok(finished);
        }

        let making = self.root.join(format!("{key}.making"));
        remove(&making)?;
        fs::create_dir(&making).with_context(|| format!("cannot make {}", making.display()))?;
        let outcome = make(&making).with_context(|| format!("cannot make the fixture {name}"));
        if let Err(error) = outcome {
            remove(&making)?;
            return Err(error);
        }
        fs::rename(&making, &finished)
            .with_context(|| format!("cannot finish {}", finished.display()))?;
        Ok(finished)
    }
}

/// Returns cargo's folder of the profile this program was built with, such as `target/debug`.
pub(crate) fn profile_folder() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find the running program")?;
    let folder = program.parent().context("the program is in no folder")?;
    // Tests and examples are one level below the programs.
    let nested = ["deps", "examples"]
        .iter()
        .any(|name| folder.ends_with(name));
    let profile = if nested {
        folder.parent()
    } else {
        Some(folder)
    };
    let profile = profile.context("the program is in no target folder")?;
    Ok(profile.to_owned())
}

/// Returns the SHA-256 of `bytes` as 64 hexadecimal digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns `bytes` as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn short_hash(recipe: &str) -> String {
    let mut text = sha256_hex(recipe.as_bytes());
    text.truncate(16);
    text
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_fixture_is_made_once_per_recipe() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let fixtures = Fixtures::at(folder.path())?;
        let mut made = Vec::new();

        for recipe in ["one", "one", "two"] {
            let found = fixtures.obtain("thing", recipe, |folder| {
                made.push(recipe);
                fs::write(folder.join("content"), recipe)?;
                Ok(())
            })?;
            assert_eq!(fs::read_to_string(found.join("content"))?, recipe);
        }

        assert_eq!(made, ["one", "two"]);
        Ok(())
    }

    #[test]
    fn a_failed_fixture_leaves_nothing_and_is_tried_again() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let fixtures = Fixtures::at(folder.path())?;

        let failed = fixtures.obtain("thing", "recipe", |folder| {
            fs::write(folder.join("half"), "")?;
            bail!("no more")
        });
        let found = fixtures.obtain("thing", "recipe", |_| Ok(()))?;

        let error = failed.err().map(|error| format!("{error:#}"));
        assert_eq!(
            error.as_deref(),
            Some("cannot make the fixture thing: no more")
        );
        assert_eq!(fs::read_dir(found)?.count(), 0);
        Ok(())
    }
}
