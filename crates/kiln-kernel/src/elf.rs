//! What an ELF kernel tells while its bytes pass by.
//!
//! ```text
//! 0          16    18       32          54         56        64
//! │ ident …  │type │machine │ … phoff … │phentsize │phnum │ … │ program headers … │ segments
//! ```
//!
//! The bytes come once and in order, because a kernel inside a bzImage comes out of a decoder.
//! Running or loading one is not here. Source: the System V ABI, chapters 4 and 5.

use crate::banner::Banner;
use crate::error::KernelError;
use crate::facts::Architecture;
use crate::pump::Sink;

/// The first bytes of every ELF file.
pub(crate) const MAGIC: &[u8] = b"\x7fELF";

/// Bytes kept from the beginning. The program headers of a kernel follow its file header.
const HEAD_BYTES: usize = 64 << 10;
/// Most program headers that are looked at; kernels have about five.
const MAX_PROGRAM_HEADERS: u16 = 256;
/// Length of one program header of a 64-bit file.
const PROGRAM_HEADER_BYTES: u16 = 56;
/// Longest note segment that is kept; a kernel's has a few hundred bytes.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// Most note segments that are kept.
const MAX_NOTE_SEGMENTS: usize = 8;

/// `PT_LOAD`, `PT_INTERP` and `PT_NOTE`.
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` of the kernel's `xen/interface/elfnote.h`.
const NOTE_PHYS32_ENTRY: u32 = 18;

const MACHINE_X86_64: u16 = 62;
const MACHINE_AARCH64: u16 = 183;

/// What an ELF kernel says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ElfFacts {
    pub(crate) architecture: Architecture,
    pub(crate) release: Option<String>,
    pub(crate) has_pvh_note: bool,
}

/// Reads an ELF file that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct ElfScan {
    head: Vec<u8>,
    headers: Option<Headers>,
    position: u64,
    banner: Banner,
}

/// What the headers say, and the note segments as far as they came.
#[derive(Debug)]
struct Headers {
    architecture: Architecture,
    /// Where the last byte that is loaded ends.
    loaded_end: u64,
    notes: Vec<Note>,
}

#[derive(Debug)]
struct Note {
    offset: u64,
    size_bytes: u64,
    content: Vec<u8>,
}

impl ElfScan {
    /// Ends the scan. A file that is shorter than its segments is refused.
    pub(crate) fn finish(mut self) -> Result<ElfFacts, KernelError> {
        self.read_headers()?;
        let Some(headers) = self.headers else {
            return Err(KernelError::NotAKernel);
        };
        if headers.loaded_end > self.position {
            return Err(malformed("the ELF file is shorter than its segments"));
        }
        Ok(ElfFacts {
            architecture: headers.architecture,
            release: self.banner.finish(),
            has_pvh_note: headers.notes.iter().any(|note| has_pvh(&note.content)),
        })
    }

    /// Reads the headers once, and gives the notes what had come before them.
    fn read_headers(&mut self) -> Result<(), KernelError> {
        if self.headers.is_none() {
            let mut headers = Headers::parse(&self.head)?;
            let head = std::mem::take(&mut self.head);
            headers.collect(0, &head);
            self.headers = Some(headers);
        }
        Ok(())
    }
}

impl Sink for ElfScan {
    fn take(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        self.banner.take(bytes);
        let start = self.position;
        self.position += bytes.len() as u64;
        if let Some(headers) = &mut self.headers {
            headers.collect(start, bytes);
        } else {
            self.head.extend_from_slice(bytes);
            if self.head.len() >= HEAD_BYTES {
                self.read_headers()?;
            }
        }
        Ok(())
    }
}

impl Headers {
    fn parse(head: &[u8]) -> Result<Self, KernelError> {
        if !head.starts_with(MAGIC) {
            return Err(malformed("it has no ELF file inside"));
        }
        // Class 2 is 64 bits, data 1 is little endian.
        if head.get(4..6) != Some(&[2, 1]) {
            return Err(KernelError::Unsupported {
                what: "32-bit or big-endian ELF files",
            });
        }
        let architecture = match u16_at(head, 18)? {
            MACHINE_X86_64 => Architecture::X86_64,
            MACHINE_AARCH64 => Architecture::Aarch64,
            machine => return Err(KernelError::UnsupportedArchitecture { machine }),
        };
        let count = u16_at(head, 56)?;
        if u16_at(head, 54)? != PROGRAM_HEADER_BYTES || !(1..=MAX_PROGRAM_HEADERS).contains(&count)
        {
            return Err(malformed("its program headers are not those of a kernel"));
        }
        let mut headers = Self {
            architecture,
            loaded_end: 0,
            notes: Vec::new(),
        };
        let table = u64_at(head, 32)?;
        for index in 0..u64::from(count) {
            let at = table.checked_add(index * u64::from(PROGRAM_HEADER_BYTES));
            headers.add_segment(head, at.and_then(|at| usize::try_from(at).ok()))?;
        }
        if headers.loaded_end == 0 {
            return Err(malformed("its ELF file loads nothing"));
        }
        Ok(headers)
    }

    fn add_segment(&mut self, head: &[u8], at: Option<usize>) -> Result<(), KernelError> {
        let at = at.ok_or(malformed("its program headers lie behind its end"))?;
        let header = head
            .get(at..)
            .ok_or(malformed("its program headers lie behind its end"))?;
        let (kind, offset) = (u32_at(header, 0)?, u64_at(header, 8)?);
        let size_bytes = u64_at(header, 32)?;
        let end = offset
            .checked_add(size_bytes)
            .ok_or(malformed("a segment is longer than any file"))?;
        match kind {
            SEGMENT_LOAD => self.loaded_end = self.loaded_end.max(end),
            SEGMENT_INTERPRETER => {
                return Err(malformed("it is a program for a running system"));
            }
            SEGMENT_NOTE
                if size_bytes <= MAX_NOTE_BYTES && self.notes.len() < MAX_NOTE_SEGMENTS =>
            {
                self.notes.push(Note {
                    offset,
                    size_bytes,
                    content: Vec::new(),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps what of these bytes belongs to a note segment.
    fn collect(&mut self, start: u64, bytes: &[u8]) {
        for note in &mut self.notes {
            let missing_from = note.offset + note.content.len() as u64;
            let missing_to = note.offset + note.size_bytes;
            let Some(skip) = missing_from.checked_sub(start) else {
                continue;
            };
            let from = usize::try_from(skip).unwrap_or(usize::MAX);
            let wanted = usize::try_from(missing_to - missing_from).unwrap_or(usize::MAX);
            if let Some(rest) = bytes.get(from..) {
                note.content
                    .extend_from_slice(&rest[..rest.len().min(wanted)]);
            }
        }
    }
}

/// Says whether a note segment has the note by which a hypervisor finds the PVH entry point.
///
/// A note is: length of name, length of content, kind (32 bits each), name, content; both padded
/// to four bytes.
fn has_pvh(mut notes: &[u8]) -> bool {
    while let (Ok(name), Ok(content), Ok(kind)) =
        (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8))
    {
        if kind == NOTE_PHYS32_ENTRY && name == 4 && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let length = 12 + padded(name) + padded(content);
        match usize::try_from(length).ok().and_then(|at| notes.get(at..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, KernelError> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, KernelError> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, KernelError> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], KernelError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(malformed("its ELF headers are cut short"))
}

fn malformed(what: &'static str) -> KernelError {
    KernelError::Malformed { what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Elf};

    fn scan(bytes: &[u8], piece: usize) -> Result<ElfFacts, KernelError> {
        let mut scan = ElfScan::default();
        for piece in bytes.chunks(piece) {
            scan.take(piece)?;
        }
        scan.finish()
    }

    #[test]
    fn facts_do_not_depend_on_how_the_bytes_come() {
        let elf = testing::elf(&Elf::default());
        for piece in [1, 7, 64, 4096, 1 << 20] {
            let facts = scan(&elf, piece).unwrap();
            let want = ElfFacts {
                architecture: Architecture::X86_64,
                release: Some(testing::RELEASE.to_owned()),
                has_pvh_note: true,
            };
            assert_eq!(facts, want, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_note_behind_the_head_is_found() {
        let elf = testing::elf(&Elf {
            padding_bytes: 3 * HEAD_BYTES,
            ..Elf::default()
        });

        assert!(scan(&elf, 5000).unwrap().has_pvh_note);
    }

    #[test]
    fn a_kernel_without_the_note_says_so() {
        let elf = testing::elf(&Elf {
            note_kind: 17,
            ..Elf::default()
        });

        assert!(!scan(&elf, 4096).unwrap().has_pvh_note);
    }

    #[test]
    fn a_cut_file_is_refused_wherever_it_is_cut() {
        let elf = testing::elf(&Elf::default());
        for length in 0..elf.len() {
            assert!(scan(&elf[..length], 4096).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn an_ordinary_program_is_no_kernel() {
        let mut program = testing::elf(&Elf::default());
        // The kind of the second program header, which is the note's.
        let kind = 64 + usize::from(PROGRAM_HEADER_BYTES);
        program[kind..kind + 4].copy_from_slice(&SEGMENT_INTERPRETER.to_le_bytes());

        let error = scan(&program, 4096).unwrap_err();

        assert!(matches!(error, KernelError::Malformed { .. }), "{error}");
    }

    #[test]
    fn other_machines_are_named() {
        let elf = testing::elf(&Elf {
            machine: 243,
            ..Elf::default()
        });

        let error = scan(&elf, 4096).unwrap_err();

        assert!(
            matches!(error, KernelError::UnsupportedArchitecture { machine: 243 }),
            "{error}"
        );
    }
}
