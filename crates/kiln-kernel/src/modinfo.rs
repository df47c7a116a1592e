//! What a kernel module says about itself: the section `.modinfo` of its ELF file.
//!
//! ```text
//! 0         16     18        40        58          60      62         64
//! │ ident … │ type │ machine │ … shoff │ shentsize │ shnum │ shstrndx │ … │ section headers │
//!
//! .modinfo: "depends=virtio,virtio_ring" NUL "softdep=pre: crc32c" NUL "vermagic=…" NUL …
//! ```
//!
//! Module names have `-` and `_` for the same letter; here all are `_`. Sources: the System V ABI,
//! chapter 4; `include/linux/module.h` of the kernel. Finding modules is not here.

use crate::elf::MAGIC;
use crate::facts::Architecture;

const SECTION: &[u8] = b".modinfo";
/// Length of a section header of a 64-bit file.
const SECTION_HEADER_BYTES: usize = 64;
/// `ET_REL`: modules are not linked.
const TYPE_RELOCATABLE: u16 = 1;
const MACHINE_X86_64: u16 = 62;
const MACHINE_AARCH64: u16 = 183;
/// Longest section that is read, in bytes. Drivers for many devices have 100 KiB of aliases.
const MAX_SECTION_BYTES: usize = 4 << 20;
/// Longest name, in bytes: `MODULE_NAME_LEN` of 64-bit kernels, less the NUL.
const MAX_NAME_BYTES: usize = 55;

/// What a module says about itself, as far as loading it is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFacts {
    /// What it calls itself; `None` for modules of kernels before 4.13.
    pub name: Option<String>,
    /// What it runs on.
    pub architecture: Architecture,
    /// Modules that must be there first: without them the kernel answers that a symbol is unknown.
    pub depends: Vec<String>,
    /// Modules or aliases that should be there first (`softdep=pre:`).
    pub soft_before: Vec<String>,
    /// Modules or aliases that should come later (`softdep=post:`).
    pub soft_after: Vec<String>,
    /// Other names it answers to, with `_` for `-`. Those of devices have wildcards.
    pub aliases: Vec<String>,
    /// The kernel it was built for: release, then flags.
    pub vermagic: Option<String>,
}

/// Why a file is no module that Kiln understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no kernel module: {what}")]
pub struct ModinfoError {
    /// The rule of the format that is broken.
    pub what: &'static str,
}

impl ModuleFacts {
    /// Reads an uncompressed module.
    pub fn parse(module: &[u8]) -> Result<Self, ModinfoError> {
        if !module.starts_with(MAGIC) || module.get(4..6) != Some(&[2, 1]) {
            return Err(fault("it is not a 64-bit little-endian ELF file"));
        }
        if u16_at(module, 16)? != TYPE_RELOCATABLE {
            return Err(fault("it is linked"));
        }
        let architecture = match u16_at(module, 18)? {
            MACHINE_X86_64 => Architecture::X86_64,
            MACHINE_AARCH64 => Architecture::Aarch64,
            _ => return Err(fault("it is for no machine that Kiln knows")),
        };
        let mut facts = Self {
            name: None,
            architecture,
            depends: Vec::new(),
            soft_before: Vec::new(),
            soft_after: Vec::new(),
            aliases: Vec::new(),
            vermagic: None,
        };
        for entry in section(module)?.split(|byte| *byte == 0) {
            facts.add(&String::from_utf8_lossy(entry));
        }
        Ok(facts)
    }

    /// Says whether the module may be loaded into the kernel of this release.
    ///
    /// The kernel compares the release only where symbols have no versions of their own
    /// (`same_magic` in `kernel/module/version.c`).
    pub fn fits_release(&self, release: &str) -> bool {
        let Some(vermagic) = &self.vermagic else {
            return true;
        };
        let mut words = vermagic.split_ascii_whitespace();
        words.next() == Some(release) || words.any(|word| word == "modversions")
    }

    fn add(&mut self, entry: &str) {
        let Some((key, value)) = entry.split_once('=') else {
            return;
        };
        match key {
            "name" => self.name = module_name(value),
            "depends" => self
                .depends
                .extend(value.split(',').filter_map(module_name)),
            "alias" => self.aliases.push(value.replace('-', "_")),
            "vermagic" => self.vermagic = Some(value.trim_end().to_owned()),
            "softdep" => self.add_soft(value),
            _ => {}
        }
    }

    /// Reads `pre: a b post: c`, as `modprobe.d` has it behind the name of the module.
    fn add_soft(&mut self, value: &str) {
        let mut into = None;
        for word in value.split_ascii_whitespace() {
            match (word, &mut into) {
                ("pre:", _) => into = Some(&mut self.soft_before),
                ("post:", _) => into = Some(&mut self.soft_after),
                (name, Some(list)) => list.extend(module_name(name)),
                (_, None) => {}
            }
        }
    }
}

/// Returns a module's name with `_` for `-`; `None` when it cannot be one.
pub(crate) fn module_name(text: &str) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b',' | b'*' | b'?');
    let is_name = !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && !text.starts_with('.')
        && text.bytes().all(good);
    is_name.then(|| text.replace('-', "_"))
}

/// Returns the content of `.modinfo`.
fn section(module: &[u8]) -> Result<&[u8], ModinfoError> {
    if usize::from(u16_at(module, 58)?) != SECTION_HEADER_BYTES {
        return Err(fault("its section headers are of another length"));
    }
    let count = u16_at(module, 60)?;
    let table = index(u64_at(module, 40)?)?;
    let header = |number: u16| -> Result<&[u8], ModinfoError> {
        let at = usize::from(number) * SECTION_HEADER_BYTES;
        range(module, table.checked_add(at), SECTION_HEADER_BYTES)
    };
    let names = content(module, header(u16_at(module, 62)?)?)?;
    for number in 0..count {
        let header = header(number)?;
        let name_at = usize::try_from(u32_at(header, 0)?).unwrap_or(usize::MAX);
        let name = names.get(name_at..).unwrap_or_default();
        if name.split(|byte| *byte == 0).next() == Some(SECTION) {
            let content = content(module, header)?;
            if content.len() > MAX_SECTION_BYTES {
                return Err(fault("its section .modinfo is longer than any"));
            }
            return Ok(content);
        }
    }
    Err(fault("it has no section .modinfo"))
}

fn content<'a>(module: &'a [u8], header: &[u8]) -> Result<&'a [u8], ModinfoError> {
    let (at, length) = (u64_at(header, 24)?, u64_at(header, 32)?);
    range(module, Some(index(at)?), index(length)?)
}

fn range(bytes: &[u8], at: Option<usize>, length: usize) -> Result<&[u8], ModinfoError> {
    at.and_then(|at| bytes.get(at..at.checked_add(length)?))
        .ok_or(fault("a part of it lies behind its end"))
}

fn index(value: u64) -> Result<usize, ModinfoError> {
    usize::try_from(value).map_err(|_| fault("a part of it lies behind its end"))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ModinfoError> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ModinfoError> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ModinfoError> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ModinfoError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(fault("its headers are cut short"))
}

fn fault(what: &'static str) -> ModinfoError {
    ModinfoError { what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn a_module_says_what_it_needs() {
        let module = testing::module(&[
            "version=1",
            "name=virtio-net",
            "depends=virtio_ring,virtio,net-failover",
            "softdep=pre: crc32c other-one post: later",
            "alias=virtio:d00000001v*",
            "alias=crypto-crc32c",
            "vermagic=6.1.0 SMP mod_unload ",
            "no value",
        ]);

        let facts = ModuleFacts::parse(&module).unwrap();

        assert_eq!(
            facts,
            ModuleFacts {
                name: Some("virtio_net".to_owned()),
                architecture: Architecture::X86_64,
                depends: ["virtio_ring", "virtio", "net_failover"]
                    .map(str::to_owned)
                    .to_vec(),
                soft_before: ["crc32c", "other_one"].map(str::to_owned).to_vec(),
                soft_after: vec!["later".to_owned()],
                aliases: ["virtio:d00000001v*", "crypto_crc32c"]
                    .map(str::to_owned)
                    .to_vec(),
                vermagic: Some("6.1.0 SMP mod_unload".to_owned()),
            }
        );
    }

    #[test]
    fn a_module_of_another_release_fits_only_with_versions_of_symbols() {
        let cases = [
            ("6.1.0 SMP mod_unload", true),
            ("6.1.0", true),
            ("6.1.1 SMP mod_unload", false),
            ("6.1.1 SMP mod_unload modversions", true),
            ("", false),
        ];
        for (vermagic, want) in cases {
            let module = testing::module(&[&format!("vermagic={vermagic}")]);
            let facts = ModuleFacts::parse(&module).unwrap();
            assert_eq!(facts.fits_release("6.1.0"), want, "{vermagic:?}");
        }
    }

    #[test]
    fn names_that_are_paths_or_patterns_are_none() {
        let long = "n".repeat(56);
        for text in ["", "..", "a/b", "a b", "virtio:d*", "ä", &long] {
            assert_eq!(module_name(text), None, "{text:?}");
        }
        assert_eq!(module_name("virtio-rng").as_deref(), Some("virtio_rng"));
    }

    #[test]
    fn other_files_are_not_modules() {
        let good = testing::module(&["name=a"]);
        let with = |at: usize, value: u8| {
            let mut module = good.clone();
            module[at] = value;
            module
        };
        let cases = [
            (
                b"hello".to_vec(),
                "it is not a 64-bit little-endian ELF file",
            ),
            (with(4, 1), "it is not a 64-bit little-endian ELF file"),
            (with(16, 2), "it is linked"),
            (with(18, 3), "it is for no machine that Kiln knows"),
            (with(58, 40), "its section headers are of another length"),
            (with(60, 1), "it has no section .modinfo"),
            (with(62, 99), "a part of it lies behind its end"),
            (good[..50].to_vec(), "its headers are cut short"),
        ];
        for (module, want) in cases {
            assert_eq!(ModuleFacts::parse(&module).unwrap_err().what, want);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn no_damage_makes_it_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut module = testing::module(&["name=a", "depends=b,c", "softdep=pre: d"]);
            for (at, value) in changes {
                let at = at.index(module.len());
                module[at] = value;
            }
            module.truncate(cut.index(module.len()) + 1);

            if let Ok(facts) = ModuleFacts::parse(&module) {
                for name in facts.depends.iter().chain(&facts.soft_before).chain(&facts.name) {
                    prop_assert!(!name.contains(['/', '-']) && !name.is_empty());
                }
            }
        }
    }
}
