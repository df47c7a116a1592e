//! Follows a path to a directory inside the tree, through symbolic links that never leave it.
//!
//! Links are looked up in the tree, as a process with that root would see them; no path of the
//! host is ever involved. The last component of an entry's own path is not followed here: callers
//! cut it off first.

/// A text and where it lies: names of directories that a path implies are kept as places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) layer: u16,
    pub(crate) at: u32,
}

/// What a name stands for, as far as a walk cares.
pub(crate) enum Step<'a> {
    Directory,
    Symlink(Located<'a>),
    Other,
}

/// A tree that can be walked.
pub(crate) trait Walk<'a> {
    /// The root is its own parent.
    fn parent(&self, node: u32) -> u32;
    fn child(&self, directory: u32, name: &[u8]) -> Option<u32>;
    fn step(&self, node: u32) -> Step<'a>;
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The deepest directory that exists.
    pub(crate) directory: u32,
    /// What would have to be made below it.
    pub(crate) missing: Vec<Located<'a>>,
}

/// Why a path leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    TooManyHops,
    NotADirectory,
    TooManySteps,
}

/// How far a walk may go; `steps` is shared by all walks of a merge.
pub(crate) struct Budget<'b> {
    pub(crate) hops: u32,
    pub(crate) steps: &'b mut u64,
}

/// Walks every component of `path` from `root` and ends in a directory.
///
/// A component that is missing is remembered, and a later `..` takes it back, so that a link
/// through a missing directory makes nothing.
pub(crate) fn directory<'a>(
    tree: &impl Walk<'a>,
    root: u32,
    path: Located<'a>,
    mut budget: Budget<'_>,
) -> Result<Place<'a>, Lost> {
    let mut place = Place {
        directory: root,
        missing: Vec::new(),
    };
    let mut pending = vec![path];
    while let Some(rest) = pending.pop() {
        let Some((component, behind)) = first_component(rest) else {
            continue;
        };
        pending.push(behind);
        if pending.len() > 1 {
            *budget.steps = budget.steps.checked_sub(1).ok_or(Lost::TooManySteps)?;
        }
        match component.bytes {
            b"." => {}
            b".." if place.missing.pop().is_some() => {}
            b".." => place.directory = tree.parent(place.directory),
            _ if !place.missing.is_empty() => place.missing.push(component),
            name => match tree.child(place.directory, name) {
                None => place.missing.push(component),
                Some(child) => match tree.step(child) {
                    Step::Directory => place.directory = child,
                    Step::Other => return Err(Lost::NotADirectory),
                    Step::Symlink(target) => {
                        budget.hops = budget.hops.checked_sub(1).ok_or(Lost::TooManyHops)?;
                        if target.bytes.first() == Some(&b'/') {
                            place.directory = root;
                        }
                        pending.push(target);
                    }
                },
            },
        }
    }
    Ok(place)
}

/// Cuts the first component off a path, with the slashes around it.
fn first_component(path: Located<'_>) -> Option<(Located<'_>, Located<'_>)> {
    let start = path.bytes.iter().position(|byte| *byte != b'/')?;
    let text = &path.bytes[start..];
    let end = text.iter().position(|byte| *byte == b'/');
    let end = start + end.unwrap_or(text.len());
    Some((part(path, start, end), part(path, end, path.bytes.len())))
}

/// Narrows a text to `start..end`.
pub(crate) fn part(text: Located<'_>, start: usize, end: usize) -> Located<'_> {
    Located {
        bytes: &text.bytes[start..end],
        at: text.at.wrapping_add(narrow(start)),
        ..text
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "texts of an index are at most 65,535 bytes long, and no place is kept of others"
)]
fn narrow(at: usize) -> u32 {
    at as u32
}
