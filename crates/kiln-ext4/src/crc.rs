//! The raw crc32c of ext4's metadata checksums: polynomial 0x82F63B78 reflected, without the
//! final inversion that the crate (and every other user of the name) applies.
//!
//! Not here: which bytes a structure's checksum covers; each structure says so itself.

/// A raw crc32c that takes more bytes, as `ext4_chksum` in `fs/ext4/ext4.h` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum(u32);

impl Checksum {
    /// Continues from `value`, for instance the checksum seed of the file system.
    pub(crate) const fn from(value: u32) -> Self {
        Self(value)
    }

    /// The start value of the superblock's own checksum and of the seed.
    pub(crate) const fn start() -> Self {
        Self(!0)
    }

    /// The start value of everything that belongs to one inode: its record, its directory
    /// blocks and its extent blocks.
    pub(crate) fn of_inode(seed: u32, number: u32, generation: u32) -> Self {
        Self(seed)
            .feed(&number.to_le_bytes())
            .feed(&generation.to_le_bytes())
    }

    #[must_use]
    pub(crate) fn feed(self, bytes: &[u8]) -> Self {
        // The crate inverts on the way in and out; undoing both gives the raw form.
        Self(!crc32c::crc32c_append(!self.0, bytes))
    }

    pub(crate) const fn value(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_of_a_uuid_is_what_mke2fs_stores() {
        let uuid = [
            0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x83, 0x33, 0x84, 0x44, 0x55, 0x55, 0x55, 0x55,
            0x55, 0x55,
        ];

        let seed = Checksum::start().feed(&uuid).value();

        assert_eq!(seed, 0xa311_85fc);
    }

    #[test]
    fn feeding_in_parts_changes_nothing() {
        let whole = Checksum::from(7).feed(b"one two");
        let parts = Checksum::from(7).feed(b"one").feed(b" two");

        assert_eq!(whole, parts);
    }

    #[test]
    fn the_raw_form_is_the_common_one_without_the_inversion() {
        let common = crc32c::crc32c(b"123456789");

        assert_eq!(common, 0xe306_9283);
        assert_eq!(Checksum::start().feed(b"123456789").value(), !common);
    }
}
