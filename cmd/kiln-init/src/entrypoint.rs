//! Turns the image's words into a program that can be started: who, where, with what, which file.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kiln_boot::{Accounts, Boot, Environment, Identity};
use rustix::process::{Gid, Uid};

use crate::error::{Failure, at};
use crate::kernel_calls::{Credentials, Program};
use crate::places::Made;

/// Longest account file that is read, in bytes.
const MAX_ACCOUNTS_BYTES: u64 = 16 << 20;

/// What is started, and as whom.
#[derive(Debug)]
pub(crate) struct Entrypoint {
    /// What the image calls it.
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) credentials: Credentials,
}

/// Resolves what `boot` says in the running root.
pub(crate) fn resolve(boot: &Boot, made: &mut Made) -> Result<Entrypoint, Failure> {
    let name = boot.argv.first().ok_or(Failure::NothingToRun)?;
    let identity = identity(&boot.user)?;
    let mut environment = Environment::from_entries(&boot.env)?;
    environment.set_defaults(&identity.home);
    let workdir = Path::new(&boot.workdir);
    enter_workdir(workdir, made)?;
    let path = find(name, environment.get("PATH").unwrap_or_default(), workdir)?;
    Ok(Entrypoint {
        name: name.clone(),
        program: program(&path, &boot.argv, &environment, workdir)?,
        credentials: credentials(&identity),
    })
}

/// Resolves what the image's own init is given: the environment of the image, and root.
pub(crate) fn resolve_init(boot: &Boot, path: &str) -> Result<Entrypoint, Failure> {
    let mut environment = Environment::from_entries(&boot.env)?;
    let identity = identity("")?;
    environment.set_defaults(&identity.home);
    // It would make systemd take the machine for a container.
    environment.remove("container");
    let top = Path::new("/");
    let file = find(path, "", top)?;
    let argv = match boot.argv.as_slice() {
        [] => vec![path.to_owned()],
        argv => argv.to_vec(),
    };
    Ok(Entrypoint {
        name: path.to_owned(),
        program: program(&file, &argv, &environment, top)?,
        credentials: credentials(&identity),
    })
}

/// Returns what is reported when the kernel refuses to execute a program that is there.
pub(crate) fn refusal(entrypoint: &Entrypoint, source: io::Error) -> Failure {
    let program = entrypoint.name.clone();
    match source.kind() {
        // The file itself was found: what is missing is named in it.
        io::ErrorKind::NotFound => Failure::NoInterpreter { program },
        _ => Failure::NotExecutable { program, source },
    }
}

fn identity(user: &str) -> Result<Identity, Failure> {
    let passwd = accounts_file("/etc/passwd")?;
    let group = accounts_file("/etc/group")?;
    let accounts = Accounts {
        passwd: &passwd,
        group: &group,
    };
    Ok(accounts.resolve(user)?)
}

/// Reads an account file; one that is missing has no accounts.
fn accounts_file(path: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("read", path)(error)),
        _ => Ok(bytes),
    }
}

fn enter_workdir(path: &Path, made: &mut Made) -> Result<(), Failure> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::WorkingDirectory {
            path: path.display().to_string(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => made
            .directory(path)
            .map_err(at("make the working directory", path)),
        Err(error) => Err(at("enter the working directory", path)(error)),
    }
}

/// Finds the file of a program as `execvp` does, but takes no file that is none.
///
/// A name with a slash is a path from `workdir`; any other is looked for in the directories of
/// `search`, of which those that are not absolute start at `workdir`.
fn find(name: &str, search: &str, workdir: &Path) -> Result<PathBuf, Failure> {
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![workdir.join(name)]
    } else {
        let folders = search.split(':').filter(|folder| !folder.is_empty());
        folders
            .map(|folder| workdir.join(folder).join(name))
            .collect()
    };
    let mut refused = None;
    for candidate in candidates {
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if is_missing(&error) => {}
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let program = name.to_owned();
    match refused {
        Some(source) => Err(Failure::NotExecutable { program, source }),
        None if name.contains('/') => Err(Failure::NotFound {
            program,
            searched: "no such file".to_owned(),
        }),
        None => Err(Failure::NotFound {
            program,
            searched: format!("PATH is {search}"),
        }),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn program(
    path: &Path,
    argv: &[String],
    environment: &Environment,
    workdir: &Path,
) -> Result<Program, Failure> {
    Ok(Program {
        path: string(path.as_os_str().as_bytes())?,
        argv: strings(argv)?,
        envp: strings(&environment.to_entries())?,
        workdir: string(workdir.as_os_str().as_bytes())?,
    })
}

fn strings(texts: &[String]) -> Result<Vec<CString>, Failure> {
    texts.iter().map(|text| string(text.as_bytes())).collect()
}

fn string(bytes: &[u8]) -> Result<CString, Failure> {
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    CString::new(bytes).map_err(|error| at("use", shown())(io::Error::from(error)))
}

fn credentials(identity: &Identity) -> Credentials {
    Credentials {
        uid: Uid::from_raw(identity.uid),
        gid: Gid::from_raw(identity.gid),
        groups: identity.groups.iter().copied().map(Gid::from_raw).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program_file(path: &Path, mode: u32) -> io::Result<()> {
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(path, "")?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    #[test]
    fn programs_are_found_as_shells_find_them() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        program_file(&root.join("bin/tool"), 0o755)?;
        program_file(&root.join("bin/data"), 0o644)?;
        program_file(&root.join("late/data"), 0o755)?;
        program_file(&root.join("work/own"), 0o700)?;
        fs::create_dir(root.join("bin/folder"))?;
        let at = |path: &str| root.join(path).display().to_string();
        let search = format!("{}:{}::.", at("bin"), at("late"));
        let cases: Vec<(String, Result<String, u8>)> = vec![
            ("tool".to_owned(), Ok(at("bin/tool"))),
            ("data".to_owned(), Ok(at("late/data"))),
            ("own".to_owned(), Ok(at("work/./own"))),
            ("./own".to_owned(), Ok(at("work/./own"))),
            (at("bin/tool"), Ok(at("bin/tool"))),
            (at("bin/data"), Err(126)),
            (at("bin/folder"), Err(126)),
            ("folder".to_owned(), Err(126)),
            ("nothing".to_owned(), Err(127)),
            (at("bin/nothing"), Err(127)),
            (at("bin/tool/below"), Err(127)),
        ];
        for (name, want) in cases {
            let got = find(&name, &search, &root.join("work"))
                .map(|path| path.display().to_string())
                .map_err(|failure| failure.to_outcome().exit_code());
            assert_eq!(got, want, "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_missing_interpreter_is_told_from_a_missing_program() {
        let entrypoint = Entrypoint {
            name: "run.sh".to_owned(),
            program: Program {
                path: c"/run.sh".to_owned(),
                argv: Vec::new(),
                envp: Vec::new(),
                workdir: c"/".to_owned(),
            },
            credentials: credentials(&Accounts::default().resolve("").unwrap()),
        };
        let refused = |code| refusal(&entrypoint, io::Error::from_raw_os_error(code)).to_outcome();
        assert_eq!(refused(2).exit_code(), 127);
        assert_eq!(refused(8).exit_code(), 126);
        assert_eq!(refused(13).exit_code(), 126);
    }
}
