//! The program that the demo's image consists of: the nearest one that a guest can run.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use kiln_api::{Failure, codes};
use kiln_kernel::{Architecture, InitProgramError, MAX_INIT_BYTES, init_architecture};

use super::missing;
use crate::failure::CommandError;
use crate::programs;
use crate::session::Session;

/// Its name.
const HELLO: &str = "kiln-hello";

/// What it has to run on, as [`super::image::ARCHITECTURE`] is.
#[cfg(target_arch = "aarch64")]
const PROCESSOR: Architecture = Architecture::Aarch64;
#[cfg(not(target_arch = "aarch64"))]
const PROCESSOR: Architecture = Architecture::X86_64;

/// Why a program is not the one.
#[derive(Debug, thiserror::Error)]
enum NoHello {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is larger than any that is shipped.
    #[error("it has more than {MAX_INIT_BYTES} bytes")]
    TooLarge,
    /// It needs files that the image does not have. Cargo's own builds are like that.
    #[error("it is linked dynamically, and the image has no libraries")]
    Dynamic,
    /// It is for other processors than this program.
    #[error("it is not for the processors of this host")]
    OtherProcessor,
    /// It is no program of Linux.
    #[error("it is no 64-bit ELF program")]
    NotAProgram,
}

/// Reads the nearest one that can be the only file of an image.
pub(super) fn find(session: &Session) -> Result<Vec<u8>, CommandError> {
    choose(programs::all(HELLO, session.surroundings())?)
}

fn choose(candidates: Vec<PathBuf>) -> Result<Vec<u8>, CommandError> {
    let mut nearest = None;
    for candidate in candidates {
        match read(&candidate) {
            Ok(program) => return Ok(program),
            Err(why) => {
                nearest.get_or_insert((candidate, why));
            }
        }
    }
    let Some((path, why)) = nearest else {
        return Err(missing(HELLO));
    };
    let message = format!("{} cannot be the program of the image", path.display());
    let mut failure = Failure::new(codes::file::WRONG_KIND, message);
    failure.cause.push(why.to_string());
    let command = Some("make dist && dist/kiln demo".to_owned());
    Err(failure
        .with_hint("build the programs as they are shipped:", command)
        .into())
}

fn read(path: &Path) -> Result<Vec<u8>, NoHello> {
    let mut program = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_INIT_BYTES + 1).read_to_end(&mut program)?;
    if program.len() as u64 > MAX_INIT_BYTES {
        return Err(NoHello::TooLarge);
    }
    match init_architecture(&program) {
        Ok(found) if found == PROCESSOR => Ok(program),
        Ok(_) | Err(InitProgramError::UnknownMachine { .. }) => Err(NoHello::OtherProcessor),
        Err(InitProgramError::Dynamic) => Err(NoHello::Dynamic),
        Err(InitProgramError::NotAProgram) => Err(NoHello::NotAProgram),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file header and one program header, which is of a segment that is loaded.
    fn static_program(machine: u16) -> Vec<u8> {
        let mut program = vec![0; 64 + 56];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[18..20].copy_from_slice(&machine.to_le_bytes());
        program[32..40].copy_from_slice(&64_u64.to_le_bytes());
        program[54..56].copy_from_slice(&56_u16.to_le_bytes());
        program[56..58].copy_from_slice(&1_u16.to_le_bytes());
        program[64..68].copy_from_slice(&1_u32.to_le_bytes());
        program
    }

    #[test]
    fn the_nearest_static_program_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (own, other) = match PROCESSOR {
            Architecture::X86_64 => (62, 183),
            Architecture::Aarch64 => (183, 62),
        };
        fs::write(path("foreign"), static_program(other)).unwrap();
        fs::write(path("static"), static_program(own)).unwrap();
        fs::write(path("text"), "#!/bin/sh\n").unwrap();
        // Tests are linked as cargo links everything.
        let dynamic = std::env::current_exe().unwrap();

        let all = vec![
            dynamic.clone(),
            path("foreign"),
            path("static"),
            path("text"),
        ];
        assert_eq!(choose(all).unwrap(), static_program(own));

        let cases = [
            (
                dynamic,
                "it is linked dynamically, and the image has no libraries",
            ),
            (path("foreign"), "it is not for the processors of this host"),
            (path("text"), "it is no 64-bit ELF program"),
        ];
        for (nearest, why) in cases {
            let refused = choose(vec![nearest.clone(), path("text")]).unwrap_err();
            let CommandError::Failed(failure) = refused else {
                panic!("{refused:?}");
            };
            let want = format!("{} cannot be the program of the image", nearest.display());
            assert_eq!(failure.message, want);
            assert_eq!(failure.cause, [why]);
            let hint = failure.hint.and_then(|hint| hint.command);
            assert_eq!(hint.as_deref(), Some("make dist && dist/kiln demo"));
        }
        let CommandError::Failed(failure) = choose(Vec::new()).unwrap_err() else {
            panic!("nobody has said anything");
        };
        assert_eq!(failure.code, "file.not_found");
    }
}
