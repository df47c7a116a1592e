//! In which order modules are loaded, so that each finds the symbols of those it needs.
//!
//! ```text
//! virtio_net ─ depends ─▶ virtio ─ depends ─▶ virtio_ring        order: virtio_ring, virtio,
//!      └────── depends ─▶ net_failover ─ depends ─▶ failover            failover, net_failover,
//!                                                                       virtio_net
//! ```
//!
//! `depends=` must hold: with a module missing, `finit_module` answers ENOENT. `softdep=` holds
//! where it can: what cannot be loaded, or would close a circle, is left out, as modprobe does.
//! What is wanted in an initrd is not here.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::facts::Architecture;
use crate::modinfo::ModuleFacts;
use crate::module_tree::{ModuleTree, ModuleTreeError, Presence};

/// Most modules in one order, and deepest chain of dependencies. An initrd has about fifteen.
const MAX_MODULES: usize = 256;
/// Most looks at modules. It bounds the work where dependencies that cannot be met are met with
/// again and again.
const MAX_LOOKS: usize = 10_000;

/// The kernel that modules are to be loaded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleHost<'a> {
    /// What it runs on.
    pub architecture: Architecture,
    /// What `uname -r` prints; `None` when that is not known, and then not compared.
    pub release: Option<&'a str>,
}

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedModule {
    /// What it is called, with `_` for `-`.
    pub name: String,
    /// Its file, from the top of the modules.
    pub path: PathBuf,
}

/// Why there is no order.
#[derive(Debug, thiserror::Error)]
pub enum LoadOrderError {
    /// Modules need each other: none can be the first.
    #[error("kernel modules depend on each other in a circle: {}", modules.join(", "))]
    Circle {
        /// The modules of the circle, each needing the next.
        modules: Vec<String>,
    },
    /// A module is of another kernel, which this one would refuse.
    #[error("the module {module} is for the kernel {built_for:?}, and this kernel is {release}")]
    OtherKernel {
        /// The module.
        module: String,
        /// What it was built for.
        built_for: String,
        /// What this kernel is.
        release: String,
    },
    /// A module is for another machine.
    #[error("the module {module} is for {built_for}, and this kernel for {architecture}")]
    OtherArchitecture {
        /// The module.
        module: String,
        /// What it was built for.
        built_for: Architecture,
        /// What this kernel is for.
        architecture: Architecture,
    },
    /// Dependencies lead further than those of any kernel.
    #[error("the dependencies of the module {module} have no end")]
    TooMany {
        /// Where the search was given up.
        module: String,
    },
    /// A module cannot be read.
    #[error(transparent)]
    Tree(#[from] ModuleTreeError),
}

/// What became of a module that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// The kernel has it inside.
    BuiltIn,
    /// It is in the order, behind everything it needs.
    Ordered,
    /// It, or something that it needs, is nowhere. The order is as it was.
    Lacks(String),
}

/// An order in the making.
#[derive(Debug)]
pub(crate) struct LoadOrder<'a> {
    tree: &'a mut ModuleTree,
    host: ModuleHost<'a>,
    order: Vec<OrderedModule>,
    done: HashSet<String>,
    /// The modules whose dependencies are being looked at, each needing the next.
    chain: Vec<String>,
    looks: usize,
}

/// Why a module could not be put into the order.
enum Failure {
    /// It is needed by itself: the circle begins at this place of the chain.
    Circle { start: usize, modules: Vec<String> },
    /// Nothing helps.
    Fatal(LoadOrderError),
}

impl<'a> LoadOrder<'a> {
    pub(crate) fn new(tree: &'a mut ModuleTree, host: ModuleHost<'a>) -> Self {
        Self {
            tree,
            host,
            order: Vec::new(),
            done: HashSet::new(),
            chain: Vec::new(),
            looks: 0,
        }
    }

    /// Adds a module and everything it needs that is not in the order yet.
    pub(crate) fn add(&mut self, name: &str) -> Result<Added, LoadOrderError> {
        let before = self.order.len();
        let added = self.visit(name).map_err(|failure| match failure {
            Failure::Circle { modules, .. } => LoadOrderError::Circle { modules },
            Failure::Fatal(error) => error,
        })?;
        if let Added::Lacks(_) = added {
            self.undo(before, 0);
        }
        Ok(added)
    }

    pub(crate) fn finish(self) -> Vec<OrderedModule> {
        self.order
    }

    fn visit(&mut self, name: &str) -> Result<Added, Failure> {
        if self.done.contains(name) {
            return Ok(Added::Ordered);
        }
        if let Some(start) = self.chain.iter().position(|above| above == name) {
            let modules = self.chain[start..].to_vec();
            return Err(Failure::Circle { start, modules });
        }
        let path = match self.tree.names().presence(name) {
            Presence::BuiltIn => return Ok(Added::BuiltIn),
            Presence::Absent => return Ok(Added::Lacks(name.to_owned())),
            Presence::File(path) => path.to_owned(),
        };
        let facts = self.look(name, &path)?;
        self.chain.push(name.to_owned());
        for needed in &facts.depends {
            if let Added::Lacks(missing) = self.visit(needed)? {
                return Ok(Added::Lacks(missing));
            }
        }
        for alias in &facts.soft_before {
            self.attempt(alias)?;
        }
        self.chain.pop();
        self.done.insert(name.to_owned());
        let name = name.to_owned();
        self.order.push(OrderedModule { name, path });
        for alias in &facts.soft_after {
            self.attempt(alias)?;
        }
        Ok(Added::Ordered)
    }

    /// Adds all modules of a name or an alias that can be added.
    fn attempt(&mut self, alias: &str) -> Result<(), Failure> {
        let names = match self.tree.names().presence(alias) {
            Presence::Absent => self.tree.providers(alias).map_err(fatal)?,
            _ => vec![alias.to_owned()],
        };
        for name in names {
            let (order, chain) = (self.order.len(), self.chain.len());
            match self.visit(&name) {
                Ok(Added::BuiltIn | Added::Ordered) => {}
                Ok(Added::Lacks(_)) => self.undo(order, chain),
                // The circle goes through this wish, which may be dropped.
                Err(Failure::Circle { start, .. }) if start < chain => self.undo(order, chain),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn undo(&mut self, order: usize, chain: usize) {
        for module in self.order.drain(order..) {
            self.done.remove(&module.name);
        }
        self.chain.truncate(chain);
    }

    fn look(&mut self, name: &str, path: &Path) -> Result<ModuleFacts, Failure> {
        self.looks += 1;
        let module = name.to_owned();
        if self.looks > MAX_LOOKS || self.order.len() + self.chain.len() >= MAX_MODULES {
            return Err(Failure::Fatal(LoadOrderError::TooMany { module }));
        }
        let facts = self.tree.facts(path).map_err(fatal)?;
        if facts.architecture != self.host.architecture {
            return Err(Failure::Fatal(LoadOrderError::OtherArchitecture {
                module,
                built_for: facts.architecture,
                architecture: self.host.architecture,
            }));
        }
        match self.host.release {
            Some(release) if !facts.fits_release(release) => {
                Err(Failure::Fatal(LoadOrderError::OtherKernel {
                    module,
                    built_for: facts.vermagic.unwrap_or_default(),
                    release: release.to_owned(),
                }))
            }
            _ => Ok(facts),
        }
    }
}

fn fatal(error: ModuleTreeError) -> Failure {
    Failure::Fatal(error.into())
}

#[cfg(test)]
mod tests;
