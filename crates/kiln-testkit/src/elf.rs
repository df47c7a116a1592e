//! The smallest file that is a kernel by its format. It boots nothing.

/// Numbers of processors in ELF files (System V ABI, chapter 4).
pub const X86_64: u16 = 62;
/// See [`X86_64`].
pub const AARCH64: u16 = 183;

/// Builds a kernel for the processor of this number: a header and one loaded segment that is the file itself.
pub fn smallest(machine: u16) -> Vec<u8> {
    const LENGTH: u64 = 64 + 56;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, machine].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0_u64, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1_u32, 0].map(u32::to_le_bytes).concat());
    file.extend(
        [0_u64, 0, 0, LENGTH, LENGTH, 4]
            .map(u64::to_le_bytes)
            .concat(),
    );
    file
}
