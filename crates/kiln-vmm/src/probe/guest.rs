//! The smallest guest that proves a virtual machine runs: it prints a word on the serial port
//! and ends.
//!
//! ```text
//! offset 0    ELF header, 32 bit, x86
//!        52   program header: load 1 KiB at 1 MiB
//!        84   program header: note
//!        116  note "Xen", type 18: the entry point for a PVH boot (Xen, "x86/HVM direct boot ABI")
//!        144  code, 32-bit protected mode, no stack
//! ```

/// What the guest prints.
pub(super) const WORD: &str = "KILN";

/// The I/O port that ends QEMU when the guest writes to it.
pub(super) const EXIT_PORT: u8 = 0xf4;

/// Where the guest is loaded, in bytes; the first megabyte belongs to the firmware.
const LOAD_ADDRESS: u32 = 1 << 20;

const NOTE_OFFSET: u32 = 116;
const CODE_OFFSET: u32 = 144;
const LENGTH: u32 = 1024;

/// The type of the note that holds the entry point, `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;

/// Assembles the guest.
pub(super) fn kernel() -> Vec<u8> {
    let mut file = elf_header();
    file.extend(program_header(1, 0, LENGTH, 4096));
    file.extend(program_header(4, NOTE_OFFSET, 20, 4));
    file.extend(words(&[4, 4, PHYS32_ENTRY]));
    file.extend(b"Xen\0");
    file.extend(words(&[LOAD_ADDRESS + CODE_OFFSET]));
    pad(&mut file, CODE_OFFSET);
    file.extend(code());
    pad(&mut file, LENGTH);
    file
}

fn elf_header() -> Vec<u8> {
    let mut header = b"\x7fELF\x01\x01\x01".to_vec();
    header.resize(16, 0);
    // An executable for the 386; its entry; where the program headers are.
    header.extend(halves(&[2, 3]));
    header.extend(words(&[1, LOAD_ADDRESS + CODE_OFFSET, 52, 0, 0]));
    header.extend(halves(&[52, 32, 2, 40, 0, 0]));
    header
}

fn program_header(kind: u32, offset: u32, length: u32, alignment: u32) -> Vec<u8> {
    const READ_AND_EXECUTE: u32 = 5;
    let address = LOAD_ADDRESS + offset;
    words(&[
        kind,
        offset,
        address,
        address,
        length,
        length,
        READ_AND_EXECUTE,
        alignment,
    ])
}

fn code() -> Vec<u8> {
    // mov dx, 0x3f8: the first serial port
    let mut code = vec![0x66, 0xba, 0xf8, 0x03];
    for byte in WORD.bytes().chain([b'\n']) {
        // mov al, byte; out dx, al
        code.extend([0xb0, byte, 0xee]);
    }
    // mov al, 0x10; out EXIT_PORT, al: QEMU ends with exit code 0x10 * 2 + 1
    code.extend([0xb0, 0x10, 0xe6, EXIT_PORT]);
    // hlt; jmp back to it
    code.extend([0xf4, 0xeb, 0xfd]);
    code
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn halves(values: &[u16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn pad(file: &mut Vec<u8>, length: u32) {
    file.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_stand_where_the_headers_say() {
        let file = kernel();

        assert_eq!(file.len(), 1024);
        assert_eq!(&file[..5], b"\x7fELF\x01");
        assert_eq!(&file[24..28], &[0x90, 0, 0x10, 0], "the entry point");
        assert_eq!(
            &file[116..136],
            b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\x90\0\x10\0"
        );
        assert_eq!(&file[144..151], &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'K', 0xee]);
    }
}
