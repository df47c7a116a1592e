//! An image as KubeVirt's containerDisk: an ordinary OCI image of one layer with the disk in it.
//!
//! ```text
//! disk/<name>.qcow2   boot/vmlinuz   [boot/initrd.img]        all of it owned by 107:107
//! ```
//! 107 is the user that KubeVirt's QEMU runs as. The disk is a root filesystem without a boot
//! loader, so kernel and initrd lie beside it, where KubeVirt's `kernelBoot` takes them from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::AtomicBool;

use flate2::Compression;
use flate2::write::GzEncoder;
use kiln_domain::Digest;
use kiln_domain::oci::Descriptor;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::hashing::Hashing;
use crate::pack::{ImageFiles, PackError};
use crate::qcow2::Qcow2;

/// The user that KubeVirt's QEMU runs as, and its group.
const OWNER: u64 = 107;

/// Longest name of the disk in the layer, in bytes.
const MAX_NAME_BYTES: usize = 64;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A layer, and what its tar hashes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskLayer {
    /// The layer as it is stored.
    pub descriptor: Descriptor,
    /// Digest of the plain tar.
    pub diff_id: Digest,
}

/// The documents of a containerDisk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskDocuments {
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The config.
    pub config_descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
}

/// Writes the layer of a containerDisk into `output`. The same image and name give the same bytes.
///
/// `progress` is told how many more bytes of the disk were read.
pub fn pack_container_disk(
    files: &ImageFiles,
    name: &str,
    output: &mut dyn Write,
    progress: &dyn Fn(u64),
    cancelled: &AtomicBool,
) -> Result<DiskLayer, PackError> {
    let what = "disk";
    let writing = |source| PackError::Write { what, source };
    let disk = Qcow2::plan(&files.rootfs, cancelled)?;
    let mut stored = Hashing::new(output);
    let mut packed = GzEncoder::new(&mut stored, Compression::default());
    let mut plain = Hashing::new(&mut packed);
    plain
        .write_all(
            header("disk/", EntryType::Directory, 0)
                .map_err(writing)?
                .as_bytes(),
        )
        .map_err(writing)?;
    let path = format!("disk/{}.qcow2", file_name(name));
    let length = disk.length();
    plain
        .write_all(
            header(&path, EntryType::Regular, length)
                .map_err(writing)?
                .as_bytes(),
        )
        .map_err(writing)?;
    // Clusters are of whole tar blocks.
    disk.write(&files.rootfs, &mut plain, progress, cancelled)?;
    let mut archive = Builder::new(&mut plain);
    let beside = [
        ("boot/", None),
        ("boot/vmlinuz", Some(&files.kernel)),
        ("boot/initrd.img", files.initrd.as_ref()),
    ];
    for (path, file) in beside {
        match file {
            Some(file) => append(&mut archive, path, file)?,
            None if path.ends_with('/') => {
                let header = header(path, EntryType::Directory, 0).map_err(writing)?;
                archive.append(&header, io::empty()).map_err(writing)?;
            }
            None => {}
        }
    }
    archive.finish().map_err(writing)?;
    drop(archive);
    let (diff_id, _) = plain.finish();
    packed.finish().map_err(writing)?;
    let (digest, size_bytes) = stored.finish();
    Ok(DiskLayer {
        descriptor: Descriptor::new(LAYER, digest, size_bytes),
        diff_id,
    })
}

/// Tells how many bytes of the disk [`pack_container_disk`] will read at most.
pub fn container_disk_bytes(files: &ImageFiles, cancelled: &AtomicBool) -> Result<u64, PackError> {
    Ok(Qcow2::plan(&files.rootfs, cancelled)?.data_bytes())
}

/// Writes the documents of a containerDisk. Its labels say how it boots, to people and to Kiln:
/// KubeVirt reads none.
pub fn container_disk_documents(
    architecture: &str,
    labels: &BTreeMap<String, String>,
    layer: &DiskLayer,
) -> DiskDocuments {
    let container = if labels.is_empty() {
        json!({})
    } else {
        json!({ "Labels": labels })
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    });
    let config = config.to_string().into_bytes();
    let described = Descriptor::new(CONFIG, Digest::of(&config), config.len() as u64);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described,
        "layers": [layer.descriptor],
    });
    DiskDocuments {
        config,
        config_descriptor: described,
        manifest: manifest.to_string().into_bytes(),
    }
}

/// Makes a name for the disk that is one in any file system.
fn file_name(name: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let name: String = name
        .chars()
        .map(|letter| if plain(letter) { letter } else { '-' })
        .take(MAX_NAME_BYTES)
        .collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() {
        return "disk".to_owned();
    }
    name.to_owned()
}

fn append(archive: &mut Builder<impl Write>, path: &str, file: &File) -> Result<(), PackError> {
    let what = "kernel";
    let reading = |source| PackError::Read { what, source };
    let size = file.metadata().map_err(reading)?.len();
    let header = header(path, EntryType::Regular, size).map_err(reading)?;
    let body = Section {
        file,
        at: 0,
        end: size,
    };
    archive
        .append(&header, body)
        .map_err(|source| PackError::Write { what, source })
}

fn header(path: &str, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(match kind {
        EntryType::Directory => 0o555,
        _ => 0o444,
    });
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(OWNER);
    header.set_gid(OWNER);
    header.set_cksum();
    Ok(header)
}

/// A file from its beginning, whatever its position is.
struct Section<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl io::Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let room = left.min(buffer.len());
        let count = self
            .file
            .read_at(buffer.get_mut(..room).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::FileExt as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn the_disk_lies_where_it_is_looked_for_and_is_its_users() {
        let rootfs = tempfile::tempfile().unwrap();
        rootfs.set_len(1 << 20).unwrap();
        rootfs.write_all_at(b"data", 4096).unwrap();
        let kernel = tempfile::tempfile().unwrap();
        kernel.write_all_at(b"kernel", 0).unwrap();
        let files = ImageFiles {
            rootfs,
            kernel,
            initrd: None,
            modules: None,
            sums: None,
        };
        let pack = || {
            let mut bytes = Vec::new();
            let running = AtomicBool::new(false);
            let layer =
                pack_container_disk(&files, "team/web", &mut bytes, &|_| {}, &running).unwrap();
            (layer, bytes)
        };

        let (layer, bytes) = pack();

        assert_eq!(pack(), (layer.clone(), bytes.clone()));
        assert_eq!(layer.descriptor.digest, Digest::of(&bytes));
        let mut plain = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(layer.diff_id, Digest::of(&plain));
        let mut found = Vec::new();
        for entry in tar::Archive::new(&plain[..]).entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.header().uid().unwrap(), 107);
            assert_eq!(entry.header().gid().unwrap(), 107);
            found.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(
            found,
            ["disk/", "disk/team-web.qcow2", "boot/", "boot/vmlinuz"]
        );
    }

    #[test]
    fn every_name_is_a_file_name() {
        let cases = [("web", "web"), ("a/b", "a-b"), ("..", "disk"), ("", "disk")];
        for (name, want) in cases {
            assert_eq!(file_name(name), want, "{name:?}");
        }
    }
}
