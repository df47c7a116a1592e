//! Says whether a program can be the init of an initrd, in which nothing else is: no loader and
//! no library.
//!
//! Whether it is *our* init is not found out here; whoever names it knows.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::elf::MAGIC;
use crate::facts::Architecture;

/// Largest program, in bytes. The kernel unpacks it into memory before anything else runs.
pub const MAX_INIT_BYTES: u64 = 64 << 20;

/// `ELFCLASS64` and `ELFDATA2LSB`, behind the magic number.
const IDENTITY: [u8; 2] = [2, 1];
/// `EM_X86_64` and `EM_AARCH64`.
const MACHINES: [(u16, Architecture); 2] =
    [(62, Architecture::X86_64), (183, Architecture::Aarch64)];
/// `PT_INTERP`: the program wants a loader.
const SEGMENT_INTERPRETER: u32 = 3;
/// Length of one program header of a 64-bit file.
const PROGRAM_HEADER_BYTES: usize = 56;

/// Why a program cannot be an init.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitProgramError {
    /// It is no ELF program of 64 bits, or a torn one.
    #[error("it is no 64-bit ELF program")]
    NotAProgram,
    /// It runs on something that Kiln does not know.
    #[error("it is for the processor with the ELF number {machine}")]
    UnknownMachine {
        /// The number.
        machine: u16,
    },
    /// It needs a loader, which an initrd does not have.
    #[error("it is linked dynamically; an initrd has no libraries, so it must be static")]
    Dynamic,
}

/// Why a file is not the init of guests of an architecture.
#[derive(Debug, thiserror::Error)]
pub enum InitFileError {
    /// There is no file.
    #[error("there is none")]
    Missing,
    /// It is a directory, a pipe, a device.
    #[error("it is no regular file")]
    NotRegular,
    /// It is longer than [`MAX_INIT_BYTES`].
    #[error("it is larger than any init")]
    TooLarge,
    /// It is an init, of other guests.
    #[error("it is for {found}")]
    Architecture {
        /// Of which.
        found: Architecture,
    },
    /// It is no program that can be one.
    #[error(transparent)]
    Program(#[from] InitProgramError),
    /// It cannot be read.
    #[error(transparent)]
    Io(io::Error),
}

/// Reads a file that is to be the init of guests of an architecture. It blocks.
pub fn read_init(path: &Path, architecture: Architecture) -> Result<Vec<u8>, InitFileError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => InitFileError::Missing,
        _ => InitFileError::Io(error),
    })?;
    if !file.metadata().map_err(InitFileError::Io)?.is_file() {
        return Err(InitFileError::NotRegular);
    }
    let mut program = Vec::new();
    let mut file = file.take(MAX_INIT_BYTES + 1);
    file.read_to_end(&mut program).map_err(InitFileError::Io)?;
    if program.len() as u64 > MAX_INIT_BYTES {
        return Err(InitFileError::TooLarge);
    }
    match init_architecture(&program)? {
        found if found == architecture => Ok(program),
        found => Err(InitFileError::Architecture { found }),
    }
}

/// Returns what a static program runs on. Source: the System V ABI, chapters 4 and 5.
pub fn init_architecture(program: &[u8]) -> Result<Architecture, InitProgramError> {
    if !program.starts_with(MAGIC) || program.get(4..6) != Some(&IDENTITY) {
        return Err(InitProgramError::NotAProgram);
    }
    let machine = short(program, 18).ok_or(InitProgramError::NotAProgram)?;
    let known = MACHINES.iter().find(|(number, _)| *number == machine);
    let (_, architecture) = known.ok_or(InitProgramError::UnknownMachine { machine })?;
    for kind in segment_kinds(program).ok_or(InitProgramError::NotAProgram)? {
        if kind == SEGMENT_INTERPRETER {
            return Err(InitProgramError::Dynamic);
        }
    }
    Ok(*architecture)
}

/// Returns the kinds of all segments; nothing where the headers lead out of the file.
fn segment_kinds(program: &[u8]) -> Option<Vec<u32>> {
    let offset = program.get(32..40)?.try_into().map(u64::from_le_bytes);
    let offset = usize::try_from(offset.ok()?).ok()?;
    let (length, count) = (short(program, 54)?, short(program, 56)?);
    if usize::from(length) != PROGRAM_HEADER_BYTES || count == 0 {
        return None;
    }
    let end = offset.checked_add(usize::from(count) * PROGRAM_HEADER_BYTES)?;
    let headers = program.get(offset..end)?.chunks_exact(PROGRAM_HEADER_BYTES);
    headers
        .map(|header| Some(u32::from_le_bytes(header.get(..4)?.try_into().ok()?)))
        .collect()
}

fn short(program: &[u8], at: usize) -> Option<u16> {
    let bytes = program.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file header and one program header of a kind.
    fn program(machine: u16, kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + PROGRAM_HEADER_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..6].copy_from_slice(&IDENTITY);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn only_static_programs_of_known_machines_can_be_an_init() {
        let cases = [
            (program(62, 1), Ok(Architecture::X86_64)),
            (program(183, 1), Ok(Architecture::Aarch64)),
            (program(62, 3), Err(InitProgramError::Dynamic)),
            (
                program(40, 1),
                Err(InitProgramError::UnknownMachine { machine: 40 }),
            ),
            (b"#!/bin/sh\n".to_vec(), Err(InitProgramError::NotAProgram)),
            (Vec::new(), Err(InitProgramError::NotAProgram)),
        ];
        for (bytes, want) in cases {
            assert_eq!(init_architecture(&bytes), want);
        }
    }

    #[test]
    fn a_torn_program_is_none_wherever_it_ends() {
        let whole = program(62, 1);
        for end in 0..whole.len() {
            assert!(init_architecture(&whole[..end]).is_err(), "{end} bytes");
        }
        let mut far = whole;
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(init_architecture(&far), Err(InitProgramError::NotAProgram));
    }

    #[test]
    fn this_test_is_no_init() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(init_architecture(&own), Err(InitProgramError::Dynamic));
    }
}
