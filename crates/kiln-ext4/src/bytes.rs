//! Fixed-width fields in byte slices, and the halves ext4 stores numbers in.
//!
//! Not here: any knowledge of a structure. Offsets are constants of the callers, always inside
//! arrays whose length is a constant too.

/// Bytes of one block, as an array length.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// One file system block.
pub(crate) type Block = [u8; BLOCK_BYTES];

/// Stores `value` in little-endian order at `offset`.
pub(crate) fn put_u16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

/// Stores `value` in little-endian order at `offset`.
pub(crate) fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// Stores `value` in big-endian order at `offset`, as the journal wants it.
pub(crate) fn put_u32_big_endian(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}

/// Reads the little-endian number at `offset`.
pub(crate) fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    let mut field = [0; 2];
    field.copy_from_slice(&bytes[offset..offset + 2]);
    u16::from_le_bytes(field)
}

/// Reads the little-endian number at `offset`.
pub(crate) fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

/// Bits 0 to 15.
#[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
pub(crate) const fn low16(value: u32) -> u16 {
    value as u16
}

/// Bits 16 to 31.
pub(crate) const fn high16(value: u32) -> u16 {
    low16(value >> 16)
}

/// Bits 0 to 31.
#[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
pub(crate) const fn low32(value: u64) -> u32 {
    value as u32
}

/// Bits 32 to 63.
pub(crate) const fn high32(value: u64) -> u32 {
    low32(value >> 32)
}

/// `length` rounded up to a multiple of four, the unit of directory entries and attributes.
pub(crate) const fn round4(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Whether every byte is zero, in which case the block is left a hole.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(16)
        .all(|chunk| chunk.iter().all(|byte| *byte == 0))
}
