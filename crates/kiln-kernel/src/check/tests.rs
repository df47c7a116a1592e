//! Claims about what boots where.

use std::path::Path;

use kiln_domain::Digest;

use super::*;
use crate::facts::{Compression, KernelFormat};

const ALL_BUILT_IN: &str = "CONFIG_VIRTIO_MMIO=y CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y \
    CONFIG_VIRTIO_PCI=y CONFIG_VIRTIO_BLK=y CONFIG_EXT4_FS=y CONFIG_ACPI=y \
    CONFIG_SERIAL_8250_CONSOLE=y CONFIG_SERIAL_AMBA_PL011_CONSOLE=y";
/// As Debian has its cloud kernel.
const DEBIAN: &str = "CONFIG_VIRTIO_MMIO=m CONFIG_VIRTIO_PCI=m CONFIG_VIRTIO_BLK=m \
    CONFIG_EXT4_FS=y CONFIG_ACPI=y CONFIG_SERIAL_8250_CONSOLE=y CONFIG_BLK_DEV_INITRD=y";

fn config(words: &str) -> KernelConfig {
    KernelConfig::parse(words.replace(' ', "\n").as_bytes()).unwrap()
}

fn names(files: &[&str]) -> ModuleNames {
    ModuleNames::new(files.iter().map(Path::new), [])
}

fn facts(format: KernelFormat) -> KernelFacts {
    KernelFacts {
        format,
        architecture: match format {
            KernelFormat::Arm64Image => Architecture::Aarch64,
            KernelFormat::Elf | KernelFormat::BzImage => Architecture::X86_64,
        },
        compression: None,
        release: None,
        has_pvh_note: true,
        sha256: Digest::of(b""),
        size_bytes: 0,
    }
}

/// Whether each monitor boots it, in the order of [`Monitor::ALL`].
fn all(kernel: KnownKernel<'_>) -> [Boots; 4] {
    Monitor::ALL.map(|monitor| check(kernel, monitor).boots)
}

fn with_config<'a>(facts: &'a KernelFacts, config: &'a KernelConfig) -> KnownKernel<'a> {
    KnownKernel {
        facts,
        config: Some(config),
        modules: None,
    }
}

fn texts(verdict: &Verdict, weight: Weight) -> Vec<&str> {
    let reasons = verdict.reasons.iter();
    let reasons = reasons.filter(|reason| reason.weight == weight);
    reasons.map(|reason| reason.text.as_str()).collect()
}

#[test]
fn formats_decide_first() {
    use Boots::{No, Yes};
    let (elf, bz_image, image) = (
        facts(KernelFormat::Elf),
        facts(KernelFormat::BzImage),
        facts(KernelFormat::Arm64Image),
    );
    let without_note = |facts: &KernelFacts| KernelFacts {
        has_pvh_note: false,
        ..facts.clone()
    };
    let packed_image = KernelFacts {
        compression: Some(Compression::Gzip),
        ..image.clone()
    };
    let arm64_elf = KernelFacts {
        architecture: Architecture::Aarch64,
        ..elf.clone()
    };
    let cases = [
        ("ELF", elf.clone(), [Yes, Yes, Yes, Yes]),
        (
            "ELF without the note",
            without_note(&elf),
            [No, No, Yes, No],
        ),
        ("bzImage", bz_image.clone(), [Yes, Yes, Yes, Yes]),
        (
            "bzImage without the note",
            without_note(&bz_image),
            [Yes, Yes, Yes, No],
        ),
        ("arm64 Image", image, [No, No, Yes, Yes]),
        ("packed arm64 Image", packed_image, [No, No, No, No]),
        ("arm64 ELF", arm64_elf, [No, No, No, No]),
    ];
    let config = config(ALL_BUILT_IN);
    for (what, facts, want) in cases {
        assert_eq!(all(with_config(&facts, &config)), want, "{what}");
    }
}

#[test]
fn options_decide_next() {
    use Boots::{No, Unknown, WithInitrd, Yes};
    let without = |option: &str| ALL_BUILT_IN.replace(&format!("CONFIG_{option}=y"), "");
    let cases = [
        (ALL_BUILT_IN.to_owned(), [Yes, Yes, Yes, Yes]),
        (DEBIAN.to_owned(), [WithInitrd; 4]),
        (DEBIAN.replace("CONFIG_BLK_DEV_INITRD=y", ""), [No; 4]),
        (without("VIRTIO_MMIO"), [No, Yes, No, Yes]),
        (without("VIRTIO_PCI"), [Yes, No, Yes, No]),
        (without("VIRTIO_BLK"), [No; 4]),
        (without("EXT4_FS"), [No; 4]),
        (without("ACPI"), [Yes, Yes, Yes, Yes]),
        (without("VIRTIO_MMIO_CMDLINE_DEVICES"), [Yes, Yes, Yes, Yes]),
        (
            without("VIRTIO_MMIO_CMDLINE_DEVICES").replace("CONFIG_ACPI=y", ""),
            [No, Yes, No, Yes],
        ),
        (without("SERIAL_8250_CONSOLE"), [Yes, Yes, Yes, Yes]),
        (
            // Whether a module is told of the command line is up to who loads it.
            format!("{DEBIAN} CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y").replace("CONFIG_ACPI=y", ""),
            [Unknown, WithInitrd, Unknown, WithInitrd],
        ),
    ];
    let facts = facts(KernelFormat::Elf);
    for (words, want) in cases {
        assert_eq!(all(with_config(&facts, &config(&words))), want, "{words}");
    }
}

#[test]
fn the_modules_of_an_initrd_are_those_of_the_monitor() {
    let (facts, config) = (facts(KernelFormat::BzImage), config(DEBIAN));
    let mmio = ["virtio_mmio", "virtio_blk"];
    let pci = ["virtio_pci", "virtio_blk"];

    for (monitor, want) in Monitor::ALL.into_iter().zip([mmio, pci, mmio, pci]) {
        let verdict = check(with_config(&facts, &config), monitor);
        assert_eq!(verdict.modules, want, "{monitor}");
        assert_eq!(texts(&verdict, Weight::NeedsModule).len(), 2, "{monitor}");
    }
}

#[test]
fn a_module_that_did_not_come_along_blocks() {
    let (facts, config) = (facts(KernelFormat::Elf), config(DEBIAN));
    let modules = names(&["kernel/virtio_pci.ko", "kernel/virtio_blk.ko.xz"]);
    let kernel = KnownKernel {
        modules: Some(&modules),
        ..with_config(&facts, &config)
    };

    assert_eq!(
        all(kernel),
        [Boots::No, Boots::WithInitrd, Boots::No, Boots::WithInitrd]
    );
    let verdict = check(kernel, Monitor::QemuMicrovm);
    assert_eq!(
        texts(&verdict, Weight::Blocks),
        [
            "virtio-mmio, by which this monitor has its devices, is the module virtio_mmio, which is \
          not among its modules"
        ]
    );
    assert_eq!(verdict.modules, [""; 0]);
}

#[test]
fn without_a_configuration_it_is_unknown_and_said_so() {
    let facts = facts(KernelFormat::Elf);
    let modules = names(&[
        "virtio_pci.ko",
        "virtio_mmio.ko",
        "virtio_blk.ko",
        "ext4.ko",
    ]);
    for modules in [None, Some(&modules)] {
        let kernel = KnownKernel {
            facts: &facts,
            config: None,
            modules,
        };
        assert_eq!(all(kernel), [Boots::Unknown; 4]);
        for monitor in Monitor::ALL {
            let verdict = check(kernel, monitor);
            let unknown = texts(&verdict, Weight::Unknown);
            assert!(!unknown.is_empty(), "{monitor}");
            for text in unknown {
                assert!(text.starts_with("no configuration tells"), "{text}");
            }
        }
    }
}

#[test]
fn what_is_missing_blocks_without_a_configuration_too() {
    let facts = facts(KernelFormat::Elf);
    let modules = names(&["virtio_pci.ko", "virtio_mmio.ko", "ext4.ko"]);
    let kernel = KnownKernel {
        facts: &facts,
        config: None,
        modules: Some(&modules),
    };

    assert_eq!(all(kernel), [Boots::No; 4]);
}

#[test]
fn what_is_good_to_know_is_said() {
    let (elf, bz_image) = (facts(KernelFormat::Elf), facts(KernelFormat::BzImage));
    let silent = config(&ALL_BUILT_IN.replace("CONFIG_SERIAL_8250_CONSOLE=y", ""));
    let debian = config(DEBIAN);
    let cases: [(KnownKernel<'_>, Monitor, &[&str]); 3] = [
        (
            with_config(&elf, &silent),
            Monitor::QemuQ35,
            &["it prints nothing on the serial console (SERIAL_8250_CONSOLE)"],
        ),
        (
            with_config(&bz_image, &debian),
            Monitor::Firecracker,
            &[
                "every Firecracker takes the ELF file inside; only the newest take a bzImage",
                "it finds its devices by ACPI only, which Firecracker has from 1.8 on",
                "it came without modules: the initrd must be one that has them",
            ],
        ),
        (
            with_config(&bz_image, &debian),
            Monitor::CloudHypervisor,
            &[
                "Cloud Hypervisor is given the ELF file inside, which has the PVH note",
                "it came without modules: the initrd must be one that has them",
            ],
        ),
    ];
    for (kernel, monitor, want) in cases {
        let verdict = check(kernel, monitor);
        assert_eq!(texts(&verdict, Weight::Note), want, "{monitor}");
    }
}
