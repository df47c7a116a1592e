//! Builders of kernels, packages and archives for the tests of this crate.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use crate::catalogue::{Catalogue, Import, Kernel};
use crate::facts::Compression;
use crate::lz4;

/// The release that every built kernel names.
pub(crate) const RELEASE: &str = "6.1.0-56-kiln-amd64";

/// What an ELF kernel is to look like.
pub(crate) struct Elf {
    pub(crate) machine: u16,
    pub(crate) note_kind: u32,
    /// Bytes between the headers and the note.
    pub(crate) padding_bytes: usize,
}

impl Default for Elf {
    fn default() -> Self {
        Self {
            machine: 62,
            note_kind: 18,
            padding_bytes: 2000,
        }
    }
}

/// Builds an ELF file with one loaded segment, which reaches to its end, and one note in it.
pub(crate) fn elf(wanted: &Elf) -> Vec<u8> {
    let mut text = vec![0; wanted.padding_bytes];
    let mut note = Vec::new();
    for (name, kind) in [(*b"GNU\0", 3), (*b"Xen\0", wanted.note_kind)] {
        note.extend([4_u32, 3, kind].map(u32::to_le_bytes).concat());
        note.extend(name);
        note.extend([1, 2, 3, 0]);
    }
    let note_at = 64 + 2 * 56 + text.len();
    text.extend(&note);
    text.extend(format!("\0Linux version {RELEASE} (kiln) #1 SMP\n\0").bytes());
    let end = 64 + 2 * 56 + text.len();

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, wanted.machine].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0_u64, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, offset, size) in [(1_u32, 0, end), (4, note_at, note.len())] {
        let (offset, size) = (offset as u64, size as u64);
        file.extend([kind, 0].map(u32::to_le_bytes).concat());
        let rest = [offset, 0, 0, size, size, 4];
        file.extend(rest.map(u64::to_le_bytes).concat());
    }
    file.extend(text);
    file
}

/// Packs bytes as the kernel's build does, with the unpacked length appended where it does so.
pub(crate) fn packed_payload(compression: Compression, content: &[u8]) -> Vec<u8> {
    let mut packed = pack(compression, content);
    if compression != Compression::Gzip {
        packed.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    }
    packed
}

pub(crate) fn pack(compression: Compression, content: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lz4 => lz4_legacy(content),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::stream::encode_all(content, 1).unwrap(),
    }
}

pub(crate) fn lz4_legacy(content: &[u8]) -> Vec<u8> {
    let mut frame = lz4::MAGIC.to_vec();
    for block in content.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        frame.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        frame.extend(packed);
    }
    frame
}

/// Builds a bzImage around a payload that is packed already.
pub(crate) fn bz_image(payload: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: u8 = 3;
    const PAYLOAD_OFFSET: u32 = 100;
    let setup_bytes = (usize::from(SETUP_SECTORS) + 1) * 512;
    let mut file = vec![0; setup_bytes + PAYLOAD_OFFSET as usize];
    file[..2].copy_from_slice(b"MZ");
    file[0x1f1] = SETUP_SECTORS;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
    let version = format!("{RELEASE} (kiln@localhost) #1 SMP\0");
    file[0x500..0x500 + version.len()].copy_from_slice(version.as_bytes());
    file[0x248..0x24c].copy_from_slice(&PAYLOAD_OFFSET.to_le_bytes());
    let length = u32::try_from(payload.len()).unwrap();
    file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    file.extend(payload);
    file.extend([0x90; 700]);
    file
}

/// Builds a bzImage with a good ELF file inside.
pub(crate) fn packed_kernel(compression: Compression) -> Vec<u8> {
    bz_image(&packed_payload(compression, &elf(&Elf::default())))
}

pub(crate) fn arm64_image() -> Vec<u8> {
    let mut file = vec![0; 4096];
    file[56..60].copy_from_slice(b"ARM\x64");
    file.extend(format!("Linux version {RELEASE} (kiln) #1 SMP\n").bytes());
    file
}

/// Takes a kernel into a catalogue of its own, which goes with the folder.
pub(crate) fn import(import: Import) -> (tempfile::TempDir, Kernel) {
    let state = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open(&state.path().join("kernels")).unwrap();
    let go_on = AtomicBool::new(false);
    let kernel = catalogue.import("debian", import, &go_on).unwrap();
    (state, kernel)
}

/// Makes a temporary file with this content.
pub(crate) fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// One entry of an archive to build.
pub(crate) enum Entry<'a> {
    Directory(&'a str),
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
}

/// Builds a GNU tar archive, with its end marker.
pub(crate) fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        match entry {
            Entry::Directory(path) => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, path, &[][..]).unwrap();
            }
            Entry::File(path, content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, *content).unwrap();
            }
            Entry::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// Builds an ar archive of these members.
pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let header = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            0,
            "100644",
            content.len()
        );
        file.extend(header.bytes());
        file.extend(*content);
        if content.len() % 2 == 1 {
            file.push(b'\n');
        }
    }
    file
}

/// Builds a Debian package around a data archive that is packed already.
pub(crate) fn deb(data_name: &str, data: &[u8]) -> Vec<u8> {
    ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"not looked at"),
        (data_name, data),
    ])
}

/// The data archive of a kernel package.
pub(crate) fn kernel_package_tar(kernel: &[u8]) -> Vec<u8> {
    let root = format!("lib/modules/{RELEASE}");
    let vmlinuz = format!("boot/vmlinuz-{RELEASE}");
    let config = format!("boot/config-{RELEASE}");
    let module = format!("{root}/kernel/fs/ext4.ko");
    let built_in = format!("{root}/modules.builtin");
    tar(&[
        Entry::Directory("boot"),
        Entry::File(&config, b"CONFIG_EXT4_FS=y\n"),
        Entry::File(&vmlinuz, kernel),
        Entry::Directory(&root),
        Entry::File(&built_in, b"kernel/lib/crc16.ko\n"),
        Entry::Directory(&format!("{root}/kernel")),
        Entry::Directory(&format!("{root}/kernel/fs")),
        Entry::File(&module, b"module"),
        Entry::Link(&format!("{root}/build"), "/usr/src/linux-headers"),
        Entry::File("usr/share/doc/copyright", b"GPL"),
    ])
}

/// Builds a module with these entries in its section `.modinfo`.
pub(crate) fn module(entries: &[&str]) -> Vec<u8> {
    let names = b"\0.shstrtab\0.modinfo\0";
    let mut modinfo = Vec::new();
    for entry in entries {
        modinfo.extend(entry.bytes());
        modinfo.push(0);
    }
    let names_at = 64;
    let modinfo_at = names_at + names.len();
    let table_at = modinfo_at + modinfo.len();

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([1_u16, 62].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0, 0, table_at as u64].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 0, 0, 64, 3, 1].map(u16::to_le_bytes).concat());
    file.extend(names);
    file.extend(&modinfo);
    let sections = [
        (0_u32, 0, 0),
        (1, names_at, names.len()),
        (11, modinfo_at, modinfo.len()),
    ];
    for (name, at, length) in sections {
        file.extend([name, 1].map(u32::to_le_bytes).concat());
        let rest = [0, 0, at as u64, length as u64, 0, 1, 0];
        file.extend(rest.map(u64::to_le_bytes).concat());
    }
    file
}
