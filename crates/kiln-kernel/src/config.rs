//! How a kernel was configured: from the file beside it, or from what is embedded in it.
//!
//! ```text
//! … │ "IKCFG_ST" │ gzip of the configuration │ "IKCFG_ED" │ …      with CONFIG_IKCONFIG only
//! ```
//!
//! Source: `kernel/configs.c` and `scripts/extract-ikconfig` of the kernel. What a configuration
//! means for booting is not here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;

use memchr::memmem;

use crate::compression::Streams;
use crate::error::KernelError;
use crate::facts::Compression;
use crate::inspect::pass_through;
use crate::pump::Sink;

/// Longest configuration, in bytes. Those of distributions have about 300 KiB.
const MAX_TEXT_BYTES: u64 = 4 << 20;
/// Longest embedded configuration as it lies in the kernel, in bytes.
const MAX_PACKED_BYTES: usize = 1 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// What comes before an embedded configuration, and the beginning of every gzip file, which tells
/// it from the same letters in a program's text.
const START: &[u8] = b"IKCFG_ST\x1f\x8b\x08";
/// Bytes of [`START`] that are not part of the configuration.
const START_MARK_BYTES: usize = 8;
/// What comes behind it.
const END: &[u8] = b"IKCFG_ED";

/// The options a kernel was built with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// By name, without `CONFIG_`. What is not set is not here.
    options: BTreeMap<String, String>,
}

/// The value of an option that is a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `y`: the kernel has it.
    BuiltIn,
    /// `m`: a module has it.
    Module,
    /// It is not set, or the kernel does not know it.
    Off,
}

/// Why a configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is something else.
    #[error("this is no kernel configuration: no line of it sets an option")]
    NotAConfig,
    /// It is longer than any configuration.
    #[error("a kernel configuration is longer than {MAX_TEXT_BYTES} bytes")]
    TooLarge,
    /// The file could not be read or unpacked.
    #[error("cannot read the kernel configuration")]
    Read {
        /// Why not.
        source: io::Error,
    },
    /// The kernel it is to be found in was not understood.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl KernelConfig {
    /// Reads the text of a `.config` or `/boot/config-…` file. Lines that set nothing are passed
    /// over; when no line sets anything, the text is none.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        if text.len() as u64 > MAX_TEXT_BYTES {
            return Err(ConfigError::TooLarge);
        }
        let text = String::from_utf8_lossy(text);
        let options: BTreeMap<String, String> = text.lines().filter_map(option).collect();
        if options.is_empty() {
            return Err(ConfigError::NotAConfig);
        }
        Ok(Self { options })
    }

    /// Reads a configuration that lies beside its kernel, also one that is compressed as
    /// `/proc/config.gz` is.
    pub fn read(file: &File) -> Result<Self, ConfigError> {
        Self::parse(&read_text(file)?)
    }

    /// Returns the text of what [`read`](Self::read) accepts.
    pub(crate) fn text(file: &File) -> Result<Vec<u8>, ConfigError> {
        let text = read_text(file)?;
        Self::parse(&text)?;
        Ok(text)
    }

    /// Looks for the configuration inside a kernel, unpacked if it must be; `None` when it was
    /// built without `CONFIG_IKCONFIG`.
    pub fn embedded(kernel: &File, cancelled: &AtomicBool) -> Result<Option<Self>, ConfigError> {
        let mut scan = ConfigScan::default();
        pass_through(kernel, &mut scan, cancelled)?;
        let Some(packed) = scan.finish() else {
            return Ok(None);
        };
        let text = unpack(&packed).map_err(|source| ConfigError::Read { source })?;
        Self::parse(&text).map(Some)
    }

    /// Returns the value of an option, named without `CONFIG_`.
    pub fn feature(&self, name: &str) -> Feature {
        match self.options.get(name).map(String::as_str) {
            Some("y") => Feature::BuiltIn,
            Some("m") => Feature::Module,
            _ => Feature::Off,
        }
    }
}

/// Reads a file from its beginning, whatever its position: whoever passed it shares that.
fn read_text(file: &File) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::Read { source };
    let mut bytes = Vec::new();
    let mut piece = vec![0; READ_BYTES];
    while bytes.len() as u64 <= MAX_TEXT_BYTES {
        // Made-up files of the kernel say nothing true about their length.
        match file.read_at(&mut piece, bytes.len() as u64) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if Compression::of(&bytes)? == Some(Compression::Gzip) {
        bytes = unpack(&bytes).map_err(unreadable)?;
    }
    Ok(bytes)
}

/// Reads a line `CONFIG_<name>=<value>`.
fn option(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim_end().strip_prefix("CONFIG_")?.split_once('=')?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = !name.is_empty() && name.bytes().all(is_name);
    good.then(|| (name.to_owned(), value.to_owned()))
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    Compression::Gzip
        .decoder(packed, Streams::One)?
        .take(MAX_TEXT_BYTES + 1)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// Looks for an embedded configuration in bytes that come in pieces.
#[derive(Debug, Default)]
struct ConfigScan {
    /// Before the start: the end of what came. Behind it: the configuration.
    kept: Vec<u8>,
    state: ScanState,
}

#[derive(Debug, Default, PartialEq)]
enum ScanState {
    #[default]
    Searching,
    Collecting,
    Found,
}

impl ConfigScan {
    fn finish(self) -> Option<Vec<u8>> {
        (self.state == ScanState::Found).then_some(self.kept)
    }

    fn search(&mut self) {
        if let Some(at) = memmem::find(&self.kept, START) {
            self.kept.drain(..at + START_MARK_BYTES);
            self.state = ScanState::Collecting;
        } else {
            let surplus = self.kept.len().saturating_sub(START.len() - 1);
            self.kept.drain(..surplus);
        }
    }

    /// Looks for the end in what is kept, of which the first `known` bytes were looked at before.
    fn collect(&mut self, known: usize) {
        let from = known.saturating_sub(END.len() - 1);
        if let Some(at) = memmem::find(&self.kept[from..], END) {
            self.kept.truncate(from + at);
            self.state = ScanState::Found;
        } else if self.kept.len() > MAX_PACKED_BYTES {
            // It only looked like one. What was kept is not searched again, which would let a
            // hostile kernel cost its length squared.
            self.state = ScanState::Searching;
            self.kept.clear();
        }
    }
}

impl Sink for ConfigScan {
    fn take(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        if self.state == ScanState::Found {
            return Ok(());
        }
        let mut known = self.kept.len();
        self.kept.extend_from_slice(bytes);
        if self.state == ScanState::Searching {
            self.search();
            known = 0;
        }
        if self.state == ScanState::Collecting {
            self.collect(known);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Elf};

    static GO_ON: AtomicBool = AtomicBool::new(false);
    const TEXT: &[u8] = b"#\n# Linux/x86 6.1.0 Kernel Configuration\n#\n\
        CONFIG_EXT4_FS=y\nCONFIG_VIRTIO_BLK=m\n# CONFIG_IP_PNP is not set\n\
        CONFIG_LOCALVERSION=\"-kiln\"\nCONFIG_A-B=y\nEXT2_FS=y\n";

    fn embedded_in(kernel: &[u8]) -> Option<KernelConfig> {
        KernelConfig::embedded(&testing::file(kernel), &GO_ON).unwrap()
    }

    #[test]
    fn options_are_built_in_modules_or_off() {
        let config = KernelConfig::parse(TEXT).unwrap();
        let cases = [
            ("EXT4_FS", Feature::BuiltIn),
            ("VIRTIO_BLK", Feature::Module),
            ("IP_PNP", Feature::Off),
            ("LOCALVERSION", Feature::Off),
            ("A-B", Feature::Off),
            ("EXT2_FS", Feature::Off),
            ("UNHEARD_OF", Feature::Off),
        ];
        for (name, want) in cases {
            assert_eq!(config.feature(name), want, "{name}");
        }
    }

    #[test]
    fn other_texts_are_not_configurations() {
        for text in [
            &b""[..],
            b"hello",
            b"\0\xff\xfe",
            b"# CONFIG_A is not set\n",
        ] {
            let error = KernelConfig::parse(text).unwrap_err();
            assert!(matches!(error, ConfigError::NotAConfig), "{error}");
        }
        let long = vec![b'\n'; 5 << 20];
        let error = KernelConfig::parse(&long).unwrap_err();
        assert!(matches!(error, ConfigError::TooLarge), "{error}");
    }

    #[test]
    fn a_file_may_be_compressed() {
        let want = KernelConfig::parse(TEXT).unwrap();
        for bytes in [TEXT.to_vec(), testing::pack(Compression::Gzip, TEXT)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("config");
            std::fs::write(&path, bytes).unwrap();

            let read = KernelConfig::read(&File::open(path).unwrap()).unwrap();

            assert_eq!(read, want);
        }
    }

    #[test]
    fn an_embedded_configuration_is_found_in_every_format() {
        let mut elf = testing::elf(&Elf::default());
        // A program that looks for configurations names the marks, too.
        elf.extend(b"IKCFG_ST IKCFG_ED");
        let mut arm64 = testing::arm64_image();
        for kernel in [&mut elf, &mut arm64] {
            kernel.extend(b"IKCFG_ST");
            kernel.extend(testing::pack(Compression::Gzip, TEXT));
            kernel.extend(b"IKCFG_ED");
        }
        let packed = testing::bz_image(&testing::packed_payload(Compression::Zstd, &elf));
        let gzipped = testing::pack(Compression::Gzip, &arm64);
        let want = KernelConfig::parse(TEXT).unwrap();

        for kernel in [elf, arm64, packed, gzipped] {
            assert_eq!(embedded_in(&kernel).as_ref(), Some(&want));
        }
    }

    #[test]
    fn a_kernel_without_one_has_none() {
        let elf = testing::elf(&Elf::default());
        let mut endless = elf.clone();
        endless.extend(START);
        endless.extend(vec![b'x'; 2 * MAX_PACKED_BYTES]);

        for kernel in [elf, endless] {
            assert_eq!(embedded_in(&kernel), None);
        }
    }

    #[test]
    fn it_is_found_however_the_bytes_come() {
        let bytes = b"....IKCFG_ST\x1f\x8b\x08packedIKCFG_ED....";
        for size in 1..bytes.len() {
            let mut scan = ConfigScan::default();
            for piece in bytes.chunks(size) {
                scan.take(piece).unwrap();
            }
            assert_eq!(scan.finish().as_deref(), Some(&b"\x1f\x8b\x08packed"[..]));
        }
    }
}
