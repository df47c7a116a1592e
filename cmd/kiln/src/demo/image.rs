//! The demo's image: one static program, two accounts, and a config that the guest shows.

use std::fs;
use std::path::Path;

use kiln_api::{Failure, codes};
use kiln_client::{NewFile, NewLayout};
use kiln_domain::Architecture;
use serde_json::json;

use crate::failure::CommandError;

/// What the image runs on: what the program beside this one was built for.
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: Architecture = Architecture::Arm64;
#[cfg(not(target_arch = "aarch64"))]
pub(super) const ARCHITECTURE: Architecture = Architecture::Amd64;

const PASSWD: &str = "root:x:0:0:root:/:/hello\nhello:x:1000:1000:Hello:/home/hello:/hello\n";
const GROUP: &str = "root:x:0:\nhello:x:1000:\nguests:x:2000:hello\n";

/// Makes the directory `layout` with the image of this program.
pub(super) fn write(program: Vec<u8>, layout: &Path) -> Result<(), CommandError> {
    fs::create_dir(layout)?;
    of_program(program)
        .write(layout)
        .map_err(|error| CommandError::from(Failure::from_error(codes::storage::FAILED, &error)))
}

fn of_program(program: Vec<u8>) -> NewLayout {
    NewLayout {
        architecture: ARCHITECTURE,
        config: json!({
            "User": "hello",
            "Env": ["GREETING=the environment is the image's"],
            "WorkingDir": "/home/hello",
            "Entrypoint": ["/hello"],
        }),
        files: vec![
            NewFile::directory("etc"),
            NewFile::file("etc/passwd", PASSWD),
            NewFile::file("etc/group", GROUP),
            NewFile::directory("home"),
            NewFile::directory("home/hello").owner(1000, 1000),
            NewFile::file("hello", program).mode(0o755),
        ],
    }
}
