//! Credential helpers for tests.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a shell script that can be run.
///
/// Another process writes it. A file this process has open for writing may be inherited by a
/// child that a parallel test starts just then, and running the file fails as "text file busy".
pub(crate) fn install(path: &Path, script: &str) {
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = writer.stdin.take().unwrap();
    write!(stdin, "#!/bin/sh\n{script}\n").unwrap();
    drop(stdin);
    assert!(writer.wait().unwrap().success(), "the script is written");
}
