//! The initrd of a guest: a base that all images of a kernel share, and what is appended to it.
//!
//! ```text
//! │ base, compressed                        │ 0–3 NUL │ image archive      │ instance archive       │
//!   /init                                               /kiln/boot.json      /kiln/instance.json
//!   /kiln/modules/*.ko   /kiln/modules.order            of the image         of one run of it
//!   /dev/console  /proc  /run  /sys  /sysroot
//! ```
//!
//! `/kiln/modules.order` has one absolute path a line, in the order of loading. The NULs matter:
//! the kernel looks for the next archive at multiples of four bytes only (see [`crate::cpio`]).
//! Not here: which modules are wanted, what the two documents say, and where files are kept.

use std::io::{self, Write as _};

use kiln_domain::Digest;

use crate::config::{Feature, KernelConfig};
use crate::cpio::{CpioError, CpioLimits, CpioNode, CpioWriter, padded};
use crate::load_order::OrderedModule;
use crate::module_tree::{ModuleTree, ModuleTreeError};

/// What every base is told apart by, besides what goes into it. It changes with the layout.
const FORMAT: &str = "kiln-base-initrd 1";
/// Directories of the base; `sysroot` is where init mounts the root file system.
const DIRECTORIES: [&str; 7] = [
    "dev",
    "kiln",
    "kiln/modules",
    "proc",
    "run",
    "sys",
    "sysroot",
];
/// Numbers of `/dev/console`, which the kernel opens before init runs and has mounted `/dev`
/// (`Documentation/admin-guide/devices.txt`).
const CONSOLE: CpioNode<'_> = CpioNode::CharacterDevice { major: 5, minor: 1 };
/// Level of zstd: a base is made once and unpacked at every boot. Its window of 8 MiB is far below
/// what the kernel takes.
const ZSTD_LEVEL: i32 = 19;
/// Level of gzip, the highest.
const GZIP_LEVEL: u32 = 9;

/// How a base is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitrdCompression {
    /// For kernels with `RD_ZSTD`: smaller and faster to unpack.
    Zstd,
    /// For kernels with `RD_GZIP`, and those whose configuration is not known: nearly all have it.
    Gzip,
    /// For kernels that are known to have neither.
    None,
}

/// A module with its content.
#[derive(Clone, Debug)]
struct InitrdModule {
    /// What it is called, with `_` for `-`.
    name: String,
    /// The module, unpacked: kernels that cannot unpack modules load it, too.
    content: Vec<u8>,
}

/// What a base is made of. Equal inputs make one base, which is known by their digest.
#[derive(Clone, Debug)]
pub struct BaseInitrd<'a> {
    init: &'a [u8],
    modules: Vec<InitrdModule>,
    compression: InitrdCompression,
}

/// Most bytes of modules in one base, unpacked. Those of a distribution's kernel have about three
/// million, and a kernel may come from anybody.
const MAX_MODULES_BYTES: usize = 64 << 20;

/// Why an initrd could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The modules that are wanted, and those they need, are larger than any kernel's.
    #[error("the modules for an initrd have more than {MAX_MODULES_BYTES} bytes")]
    TooLarge,
    /// A module cannot be read.
    #[error(transparent)]
    Modules(#[from] ModuleTreeError),
    /// Something cannot be put into an archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The base could not be compressed: there is no memory left.
    #[error("cannot compress the initrd")]
    Compress {
        /// What the compressor says.
        source: io::Error,
    },
}

impl InitrdCompression {
    /// Chooses what a kernel of this configuration can unpack.
    pub fn for_kernel(config: Option<&KernelConfig>) -> Self {
        let has = |option| config.is_some_and(|config| config.feature(option) == Feature::BuiltIn);
        if has("RD_ZSTD") {
            Self::Zstd
        } else if has("RD_GZIP") || config.is_none() {
            Self::Gzip
        } else {
            Self::None
        }
    }

    /// Names it in the address of a base, with the level.
    fn word(self) -> String {
        match self {
            Self::Zstd => format!("zstd-{ZSTD_LEVEL}"),
            Self::Gzip => format!("gzip-{GZIP_LEVEL}"),
            Self::None => "none".to_owned(),
        }
    }

    fn compress(self, archive: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd => zstd::bulk::compress(&archive, ZSTD_LEVEL),
            Self::Gzip => {
                // Its header has no time and no name, so equal archives stay equal.
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(&archive)?;
                encoder.finish()
            }
            Self::None => Ok(archive),
        }
    }
}

impl<'a> BaseInitrd<'a> {
    /// Collects the inputs for a kernel that has everything inside. `init` is a static program.
    pub fn without_modules(init: &'a [u8], compression: InitrdCompression) -> Self {
        Self::new(init, Vec::new(), compression)
    }

    fn new(init: &'a [u8], modules: Vec<InitrdModule>, compression: InitrdCompression) -> Self {
        Self {
            init,
            modules,
            compression,
        }
    }

    /// Collects the inputs, and reads the modules in their order. `init` is a static program.
    pub fn read(
        init: &'a [u8],
        tree: &ModuleTree,
        order: &[OrderedModule],
        compression: InitrdCompression,
    ) -> Result<Self, InitrdError> {
        let mut modules = Vec::new();
        let mut left = MAX_MODULES_BYTES;
        for module in order {
            let content = tree.content(&module.path)?;
            left = left
                .checked_sub(content.len())
                .ok_or(InitrdError::TooLarge)?;
            modules.push(InitrdModule {
                name: module.name.clone(),
                content,
            });
        }
        Ok(Self::new(init, modules, compression))
    }

    /// Returns the name of the base: SHA-256 of a text that names every input.
    ///
    /// It is known without compressing anything. Another release of a compressor may pack the same
    /// base into other bytes; what a guest unpacks is the same.
    pub fn address(&self) -> Digest {
        let init = Digest::of(self.init);
        let compression = self.compression.word();
        let mut text = format!("{FORMAT}\ncompression {compression}\ninit {init}\n");
        for module in &self.modules {
            let content = Digest::of(&module.content);
            // Names have neither spaces nor line ends in them.
            text.push_str(&["module ", &module.name, " ", &content.to_string(), "\n"].concat());
        }
        Digest::of(text.as_bytes())
    }

    /// Makes the base. Its length is a multiple of four bytes, so archives may be appended.
    pub fn build(&self) -> Result<Vec<u8>, InitrdError> {
        let mut archive = CpioWriter::new(CpioLimits::default());
        for directory in DIRECTORIES {
            archive.directory(directory)?;
        }
        archive.add("dev/console", 0o600, CONSOLE)?;
        archive.file("init", 0o755, self.init)?;
        let mut order = String::new();
        for module in &self.modules {
            let path = format!("kiln/modules/{}.ko", module.name);
            archive.file(&path, 0o644, &module.content[..])?;
            order.push('/');
            order.push_str(&path);
            order.push('\n');
        }
        archive.file("kiln/modules.order", 0o644, order.into_bytes())?;
        let packed = self.compression.compress(archive.to_bytes());
        Ok(padded(
            packed.map_err(|source| InitrdError::Compress { source })?,
        ))
    }
}

/// Makes the archive that tells init about an image, to be appended to a base.
pub fn image_archive(boot_json: &[u8]) -> Result<Vec<u8>, CpioError> {
    document("kiln/boot.json", boot_json)
}

/// Makes the archive that tells init about one run of an image, to be appended behind the image's.
pub fn instance_archive(instance_json: &[u8]) -> Result<Vec<u8>, CpioError> {
    document("kiln/instance.json", instance_json)
}

/// Joins a base and archives in this order, each where the kernel looks for it. Files of a later
/// one replace those of an earlier one.
pub fn compose(base: &[u8], archives: &[&[u8]]) -> Vec<u8> {
    archives
        .iter()
        .fold(padded(base.to_vec()), |mut initrd, archive| {
            initrd.extend_from_slice(archive);
            padded(initrd)
        })
}

/// Makes an archive of one file, which stands without a base, too.
fn document(path: &str, content: &[u8]) -> Result<Vec<u8>, CpioError> {
    let mut archive = CpioWriter::new(CpioLimits::default());
    archive.directory("kiln")?;
    archive.file(path, 0o644, content)?;
    Ok(archive.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::{CpioEntry, read_initramfs};

    const ALL: [InitrdCompression; 3] = [
        InitrdCompression::Zstd,
        InitrdCompression::Gzip,
        InitrdCompression::None,
    ];

    fn module(name: &str, content: &[u8]) -> InitrdModule {
        InitrdModule {
            name: name.to_owned(),
            content: content.to_vec(),
        }
    }

    fn base(compression: InitrdCompression) -> BaseInitrd<'static> {
        let modules = vec![module("virtio", b"first"), module("ext4", b"second")];
        BaseInitrd::new(b"init", modules, compression)
    }

    fn entries(initrd: &[u8]) -> Vec<CpioEntry<'static>> {
        read_initramfs(initrd, CpioLimits::default()).unwrap()
    }

    fn content<'a>(entries: &'a [CpioEntry<'_>], path: &str) -> &'a [u8] {
        let entry = entries
            .iter()
            .rev()
            .find(|entry| entry.path.as_os_str() == path);
        match &entry.unwrap().node {
            CpioNode::File(content) => content,
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn a_base_has_init_modules_and_their_order() {
        for compression in ALL {
            let entries = entries(&base(compression).build().unwrap());

            let names: Vec<String> = entries
                .iter()
                .map(|entry| format!("{} {:o}", entry.path.display(), entry.permissions))
                .collect();
            assert_eq!(
                names,
                [
                    "dev 755",
                    "dev/console 600",
                    "init 755",
                    "kiln 755",
                    "kiln/modules 755",
                    "kiln/modules.order 644",
                    "kiln/modules/ext4.ko 644",
                    "kiln/modules/virtio.ko 644",
                    "proc 755",
                    "run 755",
                    "sys 755",
                    "sysroot 755",
                ],
                "{compression:?}"
            );
            assert_eq!(content(&entries, "init"), b"init");
            assert_eq!(
                content(&entries, "kiln/modules.order"),
                b"/kiln/modules/virtio.ko\n/kiln/modules/ext4.ko\n"
            );
            assert_eq!(entries[1].node, CONSOLE);
        }
    }

    #[test]
    fn the_same_inputs_make_the_same_bytes() {
        for compression in ALL {
            let (one, other) = (base(compression), base(compression));
            assert_eq!(one.address(), other.address());
            assert_eq!(one.build().unwrap(), other.build().unwrap());
        }
    }

    #[test]
    fn every_input_changes_the_address() {
        let zstd = InitrdCompression::Zstd;
        let (a, b) = (module("a", b"1"), module("b", b"2"));
        let addresses = [
            BaseInitrd::new(b"init", vec![a.clone(), b.clone()], zstd),
            BaseInitrd::new(b"init", vec![b.clone(), a.clone()], zstd),
            BaseInitrd::new(b"init", vec![a.clone()], zstd),
            BaseInitrd::new(b"init", vec![module("a", b"2"), b.clone()], zstd),
            BaseInitrd::new(b"init", vec![module("c", b"1"), b.clone()], zstd),
            BaseInitrd::new(b"other", vec![a.clone(), b.clone()], zstd),
            BaseInitrd::new(b"init", vec![a, b], InitrdCompression::Gzip),
        ]
        .map(|base| base.address().to_string());

        let distinct: std::collections::BTreeSet<&String> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len());
    }

    #[test]
    fn the_address_is_what_it_was() {
        // A change here makes every base anew: raise the number in FORMAT with it.
        assert_eq!(
            base(InitrdCompression::Zstd).address().to_string(),
            "sha256:f048588d2cb490fe2ffafd2bd33247327ba1a696aecb89d54c1e2c80f60ad4ca"
        );
    }

    #[test]
    fn appended_archives_are_seen_whatever_the_length_of_the_base() {
        let image = image_archive(br#"{"image":1}"#).unwrap();
        let instance = instance_archive(br#"{"run":1}"#).unwrap();
        for extra in 0..8 {
            for compression in ALL {
                let init = vec![b'i'; extra];
                let base = BaseInitrd::without_modules(&init, compression);
                let built = base.build().unwrap();
                assert_eq!(built.len() % 4, 0);

                let entries = entries(&compose(&built, &[&image, &instance]));

                assert_eq!(content(&entries, "init"), init);
                assert_eq!(content(&entries, "kiln/boot.json"), br#"{"image":1}"#);
                assert_eq!(content(&entries, "kiln/instance.json"), br#"{"run":1}"#);
            }
        }
    }

    #[test]
    fn an_initrd_of_others_is_padded_when_something_is_appended() {
        let image = image_archive(b"{}").unwrap();
        let mut unpadded = 0;
        for length in 0..8 {
            let mut foreign = CpioWriter::default();
            let body: Vec<u8> = (0..length).collect();
            foreign.file("a", 0o644, body).unwrap();
            let packed = zstd::bulk::compress(&foreign.to_bytes(), 1).unwrap();
            unpadded += packed.len() % 4;

            let entries = entries(&compose(&packed, &[&image]));

            assert_eq!(content(&entries, "kiln/boot.json"), b"{}");
        }
        assert!(unpadded > 0, "every length was a multiple of four");
    }

    #[test]
    fn the_compression_is_what_the_kernel_can_unpack() {
        let cases = [
            (
                Some("CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n"),
                InitrdCompression::Zstd,
            ),
            (Some("CONFIG_RD_GZIP=y\n"), InitrdCompression::Gzip),
            (Some("CONFIG_RD_XZ=y\n"), InitrdCompression::None),
            (None, InitrdCompression::Gzip),
        ];
        for (text, want) in cases {
            let config = text.map(|text| KernelConfig::parse(text.as_bytes()).unwrap());
            let got = InitrdCompression::for_kernel(config.as_ref());
            assert_eq!(got, want, "{text:?}");
        }
    }
}
