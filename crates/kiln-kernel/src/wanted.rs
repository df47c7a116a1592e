//! Which drivers a guest needs before its own program runs, and where this kernel has them.
//!
//! ```text
//! wanted ─▶ built in            nothing to do
//!        ─▶ a module            into the initrd, behind what it needs
//!        ─▶ neither             told, with what that costs
//! ```
//!
//! The order of loading is worked out elsewhere, and the initrd is written elsewhere.

use crate::config::{Feature, KernelConfig};
use crate::load_order::{Added, LoadOrder, LoadOrderError, ModuleHost, OrderedModule};
use crate::module_tree::ModuleTree;

/// A driver that is wanted in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedDriver {
    /// Its module, with `_` for `-`.
    pub module: &'static str,
    /// The option of the kernel's configuration that builds it, without `CONFIG_`.
    pub option: &'static str,
    /// How much it is wanted.
    pub need: Need,
    /// What happens without it.
    pub without: &'static str,
}

/// How much a driver is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it the guest does not reach its root file system.
    Required,
    /// One of these must be there: how virtio devices are reached.
    Transport,
    /// The guest runs without it, and lacks something.
    Optional,
}

/// What the guest's init needs, in the order in which it is loaded where nothing else decides.
pub const WANTED_DRIVERS: &[WantedDriver] = &[
    wanted(
        "virtio_pci",
        "VIRTIO_PCI",
        Need::Transport,
        "no devices on PCI: QEMU q35 and Cloud Hypervisor",
    ),
    wanted(
        "virtio_mmio",
        "VIRTIO_MMIO",
        Need::Transport,
        "no memory-mapped devices: QEMU microvm and Firecracker",
    ),
    wanted("virtio_blk", "VIRTIO_BLK", Need::Required, "no root disk"),
    wanted(
        "ext4",
        "EXT4_FS",
        Need::Required,
        "the root file system cannot be mounted",
    ),
    wanted("virtio_net", "VIRTIO_NET", Need::Optional, "no network"),
    wanted(
        "overlay",
        "OVERLAY_FS",
        Need::Optional,
        "changes cannot be kept apart from a read-only root",
    ),
    wanted(
        "vmw_vsock_virtio_transport",
        "VIRTIO_VSOCKETS",
        Need::Optional,
        "the host is told how the program ended on the console only",
    ),
    wanted(
        "virtio_console",
        "VIRTIO_CONSOLE",
        Need::Optional,
        "no console but the serial one",
    ),
    wanted(
        "button",
        "ACPI_BUTTON",
        Need::Optional,
        "the power button is not heard: a guest that is to stop is killed",
    ),
    wanted(
        "evdev",
        "INPUT_EVDEV",
        Need::Optional,
        "the power button is not heard: a guest that is to stop is killed",
    ),
];

/// Where the drivers of a guest are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverPlan {
    /// Modules to load, in this order.
    pub load: Vec<OrderedModule>,
    /// Wanted drivers among them; the others are what these need.
    pub as_modules: Vec<WantedDriver>,
    /// Wanted drivers that the kernel has inside.
    pub built_in: Vec<WantedDriver>,
    /// Wanted drivers that are not to be had.
    pub missing: Vec<MissingDriver>,
}

/// A driver that is wanted and not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingDriver {
    /// The driver.
    pub driver: WantedDriver,
    /// Why not.
    pub why: Lack,
}

/// Why a driver is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It is neither built in nor among the modules.
    Absent,
    /// It is there, and needs this module, which is not.
    Needs {
        /// The module that is not there.
        module: String,
    },
    /// There are neither modules nor a configuration to tell: the kernel may have it inside.
    Unknown,
}

impl DriverPlan {
    /// Says whether a guest reaches its root file system, as far as drivers go: nothing required
    /// is known to be missing, and not every transport is.
    pub fn reaches_root(&self) -> bool {
        self.in_the_way().next().is_none()
    }

    /// Returns the missing drivers that keep a guest from its root file system.
    pub fn in_the_way(&self) -> impl Iterator<Item = &MissingDriver> {
        let is_transport = |driver: &WantedDriver| driver.need == Need::Transport;
        let has_transport =
            self.built_in.iter().any(is_transport) || self.as_modules.iter().any(is_transport);
        self.missing.iter().filter(move |missing| {
            missing.why != Lack::Unknown
                && match missing.driver.need {
                    Need::Required => true,
                    Need::Transport => !has_transport,
                    Need::Optional => false,
                }
        })
    }
}

/// Finds the drivers that are wanted: in the modules, where there are some, and otherwise by the
/// configuration, where there is one.
pub fn plan_drivers(
    wanted: &[WantedDriver],
    modules: Option<&mut ModuleTree>,
    config: Option<&KernelConfig>,
    host: ModuleHost<'_>,
) -> Result<DriverPlan, LoadOrderError> {
    let mut plan = DriverPlan::default();
    let mut order = modules.map(|tree| LoadOrder::new(tree, host));
    for driver in wanted {
        let added = match &mut order {
            Some(order) => Some(order.add(driver.module)?),
            None => None,
        };
        let configured = config.map(|config| config.feature(driver.option));
        match find(driver, added, configured) {
            Ok(Found::BuiltIn) => plan.built_in.push(*driver),
            Ok(Found::Ordered) => plan.as_modules.push(*driver),
            Err(why) => plan.missing.push(MissingDriver {
                driver: *driver,
                why,
            }),
        }
    }
    plan.load = order.map(LoadOrder::finish).unwrap_or_default();
    Ok(plan)
}

enum Found {
    BuiltIn,
    Ordered,
}

fn find(
    driver: &WantedDriver,
    added: Option<Added>,
    configured: Option<Feature>,
) -> Result<Found, Lack> {
    match (added, configured) {
        (Some(Added::Ordered), _) => Ok(Found::Ordered),
        (Some(Added::BuiltIn), _) | (_, Some(Feature::BuiltIn)) => Ok(Found::BuiltIn),
        (Some(Added::Lacks(module)), _) if module != driver.module => Err(Lack::Needs { module }),
        (None, None) => Err(Lack::Unknown),
        _ => Err(Lack::Absent),
    }
}

const fn wanted(
    module: &'static str,
    option: &'static str,
    need: Need,
    without: &'static str,
) -> WantedDriver {
    WantedDriver {
        module,
        option,
        need,
        without,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::facts::Architecture;
    use crate::testing;

    const HOST: ModuleHost<'_> = ModuleHost {
        architecture: Architecture::X86_64,
        release: None,
    };

    fn plan(modules: Option<&[(&str, &str)]>, config: Option<&str>) -> DriverPlan {
        let top = tempfile::tempdir().unwrap();
        for (name, depends) in modules.unwrap_or_default() {
            let module = testing::module(&[&format!("depends={depends}")]);
            fs::write(top.path().join(format!("{name}.ko")), module).unwrap();
        }
        fs::write(top.path().join("modules.builtin"), "kernel/fs/ext4.ko\n").unwrap();
        let mut tree = ModuleTree::open(top.path(), &AtomicBool::new(false)).unwrap();
        let tree = modules.map(|_| &mut tree);
        let config = config.map(|text| KernelConfig::parse(text.as_bytes()).unwrap());
        plan_drivers(WANTED_DRIVERS, tree, config.as_ref(), HOST).unwrap()
    }

    fn missing(plan: &DriverPlan) -> Vec<(&str, &Lack)> {
        let missing = plan.missing.iter();
        missing
            .map(|missing| (missing.driver.module, &missing.why))
            .collect()
    }

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let modules: &[(&str, &str)] = &[
            ("virtio_pci", "virtio"),
            ("virtio", ""),
            ("virtio_blk", "virtio"),
            ("virtio_net", "virtio,net_failover"),
        ];
        let config = "CONFIG_OVERLAY_FS=y\nCONFIG_VIRTIO_CONSOLE=m\n";

        let plan = plan(Some(modules), Some(config));

        let load: Vec<&str> = plan
            .load
            .iter()
            .map(|module| module.name.as_str())
            .collect();
        assert_eq!(load, ["virtio", "virtio_pci", "virtio_blk"]);
        let built_in: Vec<&str> = plan.built_in.iter().map(|driver| driver.module).collect();
        assert_eq!(built_in, ["ext4", "overlay"]);
        let needs = Lack::Needs {
            module: "net_failover".to_owned(),
        };
        assert_eq!(
            missing(&plan),
            [
                ("virtio_mmio", &Lack::Absent),
                ("virtio_net", &needs),
                ("vmw_vsock_virtio_transport", &Lack::Absent),
                ("virtio_console", &Lack::Absent),
                ("button", &Lack::Absent),
                ("evdev", &Lack::Absent),
            ]
        );
        assert!(plan.reaches_root());
    }

    #[test]
    fn a_configuration_alone_tells_what_is_built_in() {
        let options = WANTED_DRIVERS.iter().map(|driver| driver.option);
        let lines: Vec<String> = options.map(|option| format!("CONFIG_{option}=y")).collect();

        let plan = plan(None, Some(&lines.join("\n")));

        assert_eq!(plan.built_in, WANTED_DRIVERS);
        assert!(plan.reaches_root());
    }

    #[test]
    fn without_modules_and_configuration_nothing_is_known() {
        let plan = plan(None, None);

        assert_eq!(plan.missing.len(), WANTED_DRIVERS.len());
        assert!(
            plan.missing
                .iter()
                .all(|missing| missing.why == Lack::Unknown)
        );
        assert!(plan.reaches_root());
    }

    #[test]
    fn root_is_out_of_reach_without_a_disk_or_without_any_transport() {
        let cases: [(&[(&str, &str)], bool); 4] = [
            (&[("virtio_mmio", ""), ("virtio_blk", "")], true),
            (&[("virtio_pci", ""), ("virtio_blk", "")], true),
            (&[("virtio_blk", "")], false),
            (&[("virtio_pci", ""), ("virtio_mmio", "")], false),
        ];
        for (modules, want) in cases {
            assert_eq!(
                plan(Some(modules), None).reaches_root(),
                want,
                "{modules:?}"
            );
        }
    }
}
