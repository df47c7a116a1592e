//! The names used inside an artifact directory, and the rule for version ids.

/// The root file system: a file.
pub const ROOTFS: &str = "rootfs.ext4";
/// crc32c per 4 KiB of the root file system's allocated data: a file.
pub const ROOTFS_SUMS: &str = "rootfs.sums";
/// The kernel: a file.
pub const KERNEL: &str = "kernel";
/// The initial RAM disk, when there is one: a file.
pub const INITRD: &str = "initrd.img";
/// The kernel's modules, when there are some: a directory.
pub const MODULES: &str = "modules";
/// Source, derivation, sizes and checksums: a file, never rewritten.
pub const IMAGE_JSON: &str = "image.json";

/// What a directory in the making is called behind its id.
pub(crate) const STAGING_SUFFIX: &str = ".staging";
/// What a directory on its way out is called behind its id.
pub(crate) const REMOVING_SUFFIX: &str = ".removing";
/// What the file beside a published directory is called, behind its id, as long as nobody was
/// told of the directory.
pub(crate) const UNANSWERED_SUFFIX: &str = ".unanswered";

/// Longest name of a file in an artifact directory, in bytes. Ours are shorter by far; the limit
/// keeps a mistake from reaching the file system.
const MAX_FILE_NAME_BYTES: usize = 64;

/// Says whether `id` is a UUID in its lower-case text form, which every version id is.
///
/// It therefore needs no escaping in a path, and cannot be mistaken for a staging name.
pub(crate) fn is_version_id(id: &str) -> bool {
    id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Says whether `name` may name a file of an artifact directory.
pub(crate) fn is_file_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty()
        && name.len() <= MAX_FILE_NAME_BYTES
        && !name.starts_with('.')
        && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_uuids_are_version_ids() {
        let cases: &[(&str, bool)] = &[
            ("0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1", true),
            ("0B8F2C34-5f2e-4d0a-9a44-3a1c55d2a7e1", false),
            ("0b8f2c345f2e4d0a9a443a1c55d2a7e1", false),
            ("0b8f2c34-5f2e-4d0a-9a44-3a1c55d2a7e1.staging", false),
            ("../../../../../../../../../../../etc", false),
            ("", false),
        ];
        for (id, want) in cases {
            assert_eq!(is_version_id(id), *want, "{id:?}");
        }
    }

    #[test]
    fn file_names_are_plain() {
        let cases: &[(&str, bool)] = &[
            (ROOTFS, true),
            (ROOTFS_SUMS, true),
            (INITRD, true),
            (IMAGE_JSON, true),
            (".hidden", false),
            ("..", false),
            ("modules/a", false),
            ("a\0b", false),
            ("", false),
        ];
        for (name, want) in cases {
            assert_eq!(is_file_name(name), *want, "{name:?}");
        }
    }
}
