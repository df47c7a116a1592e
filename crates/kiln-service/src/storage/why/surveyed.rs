//! What nothing but a look at the whole disk finds: things by what `storage.usage` calls them, by a
//! path of theirs, and content by the beginning of its digest.

use std::path::{Component, Path, PathBuf};

use kiln_domain::Digest;
use kiln_domain::access::{Actor, Role};
use kiln_domain::storage::PruneScope;
use kiln_store::disk;

use super::{PRUNE, PRUNE_CACHE, Told, Why, WhyError, measure};
use crate::storage::survey::{Thing, What};
use crate::storage::{Storage, StorageError};

/// Fewest digits that count as the beginning of a digest: with fewer, a word is rather a name.
const DIGITS_MIN: usize = 6;

/// Most digests that are told of where the beginning is that of several.
const DIGESTS_MAX: u32 = 5;

/// Writes a path in one way: without `.`, `..` and a slash behind. Nothing is looked up on the host,
/// so links are what they are called.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

impl Storage {
    /// Tells of content by the beginning of its digest, as far as the caller may see.
    pub(super) async fn why_beginning(
        &self,
        actor: &Actor,
        text: &str,
    ) -> Result<Option<Why>, WhyError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() < DIGITS_MIN || digits.len() > 64 || !digits.bytes().all(is_digit) {
            return Ok(None);
        }
        let beginning = format!("sha256:{digits}");
        let searched = beginning.clone();
        let known = self
            .store
            .read(move |tx| disk::digests_beginning(tx, &searched, DIGESTS_MAX));
        let mut digests = known.await?;
        if actor.role == Role::Superadmin {
            let files = self.files.clone();
            let now = self.clock.now();
            let things = self.files.pool.run(move || files.survey(now)).await;
            let things = things.map_err(StorageError::from)?;
            for thing in things.map_err(StorageError::from)? {
                if let What::Entry(file) = &thing.what
                    && let Some(digest) = file.digest()
                    && digest.to_string().starts_with(&beginning)
                    && !digests.contains(&digest)
                {
                    digests.push(digest);
                }
            }
        }
        let mut found: Option<(Digest, Why)> = None;
        for digest in digests {
            let Some(why) = self.why_content(actor, digest).await? else {
                continue;
            };
            if let Some((other, _)) = found {
                return Err(WhyError::Ambiguous {
                    asked: text.to_owned(),
                    digests: vec![other, digest],
                });
            }
            found = Some((digest, why));
        }
        Ok(found.map(|(_, why)| why))
    }

    /// Tells of a thing that the caller names as `storage.usage` does, or by a path of it. Only
    /// superadmins are shown things that are no images.
    pub(super) async fn why_surveyed(
        &self,
        actor: &Actor,
        text: &str,
    ) -> Result<Option<Why>, WhyError> {
        if actor.role != Role::Superadmin {
            return Ok(None);
        }
        let roots = [self.files.state.as_path(), self.files.cache.directory()];
        let asked = plain(Path::new(text));
        // A relative one is below a directory of the daemon's; the client makes others absolute.
        let paths: Vec<PathBuf> = roots.iter().map(|root| root.join(&asked)).collect();
        let (things, known) = self
            .look(PruneScope::default(), self.clock.now())
            .await
            .map_err(WhyError::Storage)?;
        let is_meant = |thing: &&Thing| {
            thing.item == text || paths.iter().any(|path| path.starts_with(&thing.path))
        };
        if let Some(thing) = things.iter().find(is_meant) {
            let (kind, fate) = known.judge(thing, &self.needs);
            let all = PruneScope {
                cache: true,
                ..PruneScope::default()
            };
            let with_cache = self.known(all, self.clock.now(), [thing]).await?;
            let command = match (fate.goes(), with_cache.judge(thing, &self.needs).1.goes()) {
                (true, _) => Some(PRUNE),
                (false, true) => Some(PRUNE_CACHE),
                (false, false) => None,
            };
            let mut why = Told::default().into_why(kind, thing.item.clone());
            measure(&mut why, thing.usage);
            why.path = Some(thing.path.display().to_string());
            why.kept_by = fate.kept_by();
            why.freed_by = command.map(str::to_owned);
            return Ok(Some(why));
        }
        let is_folder = |path: &&PathBuf| {
            roots.contains(&path.as_path())
                || things.iter().any(|thing| thing.path.starts_with(path))
        };
        match paths.iter().find(is_folder) {
            Some(path) => Err(WhyError::Folder { path: path.clone() }),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_however_it_is_written() {
        for (text, want) in [
            ("/a/b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("a/b", "a/b"),
        ] {
            assert_eq!(plain(Path::new(text)), Path::new(want), "{text}");
        }
    }
}
