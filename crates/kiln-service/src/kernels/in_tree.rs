//! The kernel inside an image: where it lies in the merged tree, and its bytes from the packs.
//!
//! ```text
//! /boot/vmlinux | /boot/vmlinuz | /boot/vmlinuz-… ─▶ kernel ─▶ release
//! /boot/config-<release>                          ─▶ configuration
//! /lib/modules/<release>/                         ─▶ modules
//! ```
//! Links are followed inside the root only, and no path of it is ever a path of the host: bodies
//! are read from packs, into files without names or by whoever stages the modules.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_kernel::{
    Catalogue, CatalogueError, Import, KernelError, KernelFiles, ModulesEntry, ModulesEntryKind,
    ModulesSource,
};
use kiln_layers::Pack;
use kiln_tree::{InodeKind, Limits, MergeError, NodeId, Tree};

use crate::fetch::MAX_FILE_BYTES;
use crate::tree_file::TreeFile;

/// Where kernels lie under a name that tells no release, the first that is there counts.
const PLAIN_PLACES: &[&str] = &[
    "boot/vmlinux",
    "boot/vmlinuz",
    "boot/bzImage",
    "boot/Image",
    "vmlinuz",
    "vmlinux",
];

/// How the files of kernels begin in `/boot`, with their release behind it.
const RELEASED: &[&str] = &["vmlinuz-", "vmlinux-"];

/// Links in a row that are followed, as Linux does it (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Deepest directory of modules that is listed: what the catalogue takes.
const MAX_DEPTH: usize = 32;

/// Bytes copied at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Why an image gives no kernel.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeKernelError {
    #[error("the layers cannot be merged")]
    Merge(#[from] MergeError),
    #[error("the image has no kernel at /boot/vmlinux or /boot/vmlinuz")]
    NoKernel,
    #[error("the image has several kernels and no link that chooses one: {}", names.join(", "))]
    Several { names: Vec<String> },
    #[error("the kernel in the image has more than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    #[error("the kernel in the image cannot be used")]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("cannot {step} a file of the image")]
    Io {
        step: &'static str,
        source: io::Error,
    },
    #[error("the operation was cancelled")]
    Cancelled,
}

/// A merged tree with its packs, open.
struct Image {
    tree: Tree,
    packs: Vec<Arc<File>>,
}

/// Takes the kernel, and what belongs to it, out of an image's layers. It blocks.
pub(super) fn take(
    packs: &[Pack],
    catalogue: &Catalogue,
    cancelled: &AtomicBool,
) -> Result<Import, TreeKernelError> {
    let indexes = packs.iter().map(|pack| pack.index().clone()).collect();
    let image = Image {
        tree: Tree::merge(indexes, &Limits::default(), cancelled)?,
        packs: packs
            .iter()
            .map(|pack| pack.file().try_clone().map(Arc::new))
            .collect::<io::Result<_>>()
            .map_err(failed("open"))?,
    };
    let found = image.find_kernel()?;
    let kernel = image.copy(found, catalogue, cancelled)?;
    let facts = kiln_kernel::inspect(&kernel, cancelled)?;
    let release = facts.release.or_else(|| image.release_in_name(found));
    let of_release = |below: &str| {
        let path = format!("{below}{}", release.as_deref()?);
        image.follow(path.as_bytes())
    };
    let config = match of_release("boot/config-").filter(|node| image.is_regular(*node)) {
        Some(node) => Some(image.copy(node, catalogue, cancelled)?),
        None => None,
    };
    let modules = of_release("lib/modules/").filter(|node| image.is_directory(*node));
    Ok(Import::Files {
        files: KernelFiles {
            kernel,
            initrd: None,
            modules: modules.map(|top| image.modules(top)),
        },
        config,
    })
}

impl Image {
    fn find_kernel(&self) -> Result<NodeId, TreeKernelError> {
        let plain = PLAIN_PLACES
            .iter()
            .filter_map(|place| self.follow(place.as_bytes()))
            .find(|node| self.is_regular(*node));
        if let Some(node) = plain {
            return Ok(node);
        }
        let boot = self.follow(b"boot").filter(|node| self.is_directory(*node));
        let in_boot = boot.into_iter().flat_map(|boot| self.tree.children(boot));
        let released: Vec<NodeId> = in_boot
            .filter(|node| {
                let name = self.tree.name(*node);
                RELEASED
                    .iter()
                    .any(|start| name.starts_with(start.as_bytes()))
            })
            .filter_map(|node| self.follow(&self.tree.path(node)))
            .filter(|node| self.is_regular(*node))
            .collect();
        match released[..] {
            [] => Err(TreeKernelError::NoKernel),
            [only] => Ok(only),
            _ => Err(TreeKernelError::Several {
                names: released.iter().map(|node| self.shown(*node)).collect(),
            }),
        }
    }

    /// Finds a path, through links, which lead nowhere but inside the root.
    fn follow(&self, path: &[u8]) -> Option<NodeId> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let node = self.tree.lookup(&path)?;
            let InodeKind::Symlink(target) = self.kind(node) else {
                return Some(node);
            };
            path = if target.starts_with(b"/") {
                target.to_vec()
            } else {
                // Beside the link itself, wherever the way to it led.
                let mut beside = self.tree.path(self.tree.parent(node)?);
                beside.push(b'/');
                beside.extend_from_slice(target);
                beside
            };
        }
        None
    }

    fn kind(&self, node: NodeId) -> InodeKind<'_> {
        self.tree.inode(self.tree.inode_of(node)).kind
    }

    fn is_regular(&self, node: NodeId) -> bool {
        matches!(self.kind(node), InodeKind::Regular(_))
    }

    fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.kind(node), InodeKind::Directory { .. })
    }

    /// Reads the release out of a name such as `vmlinuz-6.1.0`.
    fn release_in_name(&self, node: NodeId) -> Option<String> {
        let name = str::from_utf8(self.tree.name(node)).ok()?;
        let release = RELEASED.iter().find_map(|start| name.strip_prefix(start))?;
        (!release.is_empty()).then(|| release.to_owned())
    }

    fn shown(&self, node: NodeId) -> String {
        String::from_utf8_lossy(self.tree.name(node)).into_owned()
    }

    /// Copies a file of the image into one without a name.
    fn copy(
        &self,
        node: NodeId,
        catalogue: &Catalogue,
        cancelled: &AtomicBool,
    ) -> Result<File, TreeKernelError> {
        let mut body = self.body(node).ok_or(TreeKernelError::NoKernel)?;
        if body.length() > MAX_FILE_BYTES {
            return Err(TreeKernelError::TooLarge);
        }
        let mut copy = catalogue.scratch()?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(TreeKernelError::Cancelled);
            }
            match body.read(&mut buffer).map_err(failed("read"))? {
                0 => return Ok(copy),
                count => copy
                    .write_all(&buffer[..count])
                    .map_err(failed("keep a copy of"))?,
            }
        }
    }

    fn body(&self, node: NodeId) -> Option<TreeFile> {
        let inode = self.tree.inode(self.tree.inode_of(node));
        let InodeKind::Regular(body) = inode.kind else {
            return None;
        };
        Some(TreeFile::new(self.packs.get(inode.layer)?.clone(), body))
    }

    /// Lists what lies below the top of the modules, each entry behind its directory.
    fn modules(&self, top: NodeId) -> ModulesSource {
        let mut entries = Vec::new();
        let mut waiting: VecDeque<(NodeId, Vec<OsString>)> = VecDeque::from([(top, Vec::new())]);
        while let Some((directory, path)) = waiting.pop_front() {
            for child in self.tree.children(directory) {
                let mut path = path.clone();
                path.push(OsString::from_vec(self.tree.name(child).to_vec()));
                let kind = match self.kind(child) {
                    InodeKind::Directory { .. } => {
                        // What lies deeper is refused with the directory it lies in.
                        if path.len() <= MAX_DEPTH {
                            waiting.push_back((child, path.clone()));
                        }
                        ModulesEntryKind::Directory
                    }
                    InodeKind::Symlink(target) => {
                        ModulesEntryKind::Link(OsString::from_vec(target.to_vec()))
                    }
                    InodeKind::Regular(_) => match self.body(child) {
                        Some(body) => ModulesEntryKind::File {
                            size_bytes: body.length(),
                            body: Box::new(body),
                        },
                        None => ModulesEntryKind::Other,
                    },
                    _ => ModulesEntryKind::Other,
                };
                entries.push(ModulesEntry { path, kind });
            }
        }
        ModulesSource::Entries(Box::new(entries.into_iter()))
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> TreeKernelError {
    move |source| TreeKernelError::Io { step, source }
}
