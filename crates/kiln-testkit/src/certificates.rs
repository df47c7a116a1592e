//! Keys and certificates for tests, made by `openssl` in a folder of the caller's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::process;
use crate::tools;

/// Longest time openssl may take; a 2048-bit key needs well below a second.
const LIMIT: Duration = Duration::from_secs(60);

/// A private key and its certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The key, PEM.
    pub key: PathBuf,
    /// The certificate, PEM.
    pub certificate: PathBuf,
}

/// Makes a certificate authority nobody but the test knows.
pub fn authority(folder: &Path) -> Result<Identity> {
    let extensions = [
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,keyCertSign",
    ];
    make(folder, "authority", Key::Elliptic, None, &extensions)
}

/// Makes a certificate for servers on the loopback address, signed by `authority`.
pub fn loopback_server(folder: &Path, authority: &Identity) -> Result<Identity> {
    let extensions = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth",
        "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:secure.test",
    ];
    make(
        folder,
        "server",
        Key::Elliptic,
        Some(authority),
        &extensions,
    )
}

/// Makes a certificate for somebody who asks servers, signed by `authority`.
pub fn client(folder: &Path, authority: &Identity) -> Result<Identity> {
    let extensions = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=clientAuth",
    ];
    make(
        folder,
        "client",
        Key::Elliptic,
        Some(authority),
        &extensions,
    )
}

/// Makes an RSA key with a certificate of its own, to sign tokens with.
pub fn token_signer(folder: &Path) -> Result<Identity> {
    make(folder, "tokens", Key::Rsa, None, &[])
}

#[derive(Clone, Copy, Debug)]
enum Key {
    Elliptic,
    Rsa,
}

fn make(
    folder: &Path,
    name: &str,
    key: Key,
    signer: Option<&Identity>,
    extensions: &[&str],
) -> Result<Identity> {
    let identity = Identity {
        key: folder.join(format!("{name}.key")),
        certificate: folder.join(format!("{name}.crt")),
    };
    let mut command = process::command(tools::require(tools::OPENSSL)?);
    // Nothing from the host's openssl.cnf: its defaults would add extensions of their own.
    command.args([
        "req",
        "-config",
        "/dev/null",
        "-x509",
        "-nodes",
        "-days",
        "30",
    ]);
    command.args(["-subj", &format!("/CN=Kiln tests {name}")]);
    match key {
        Key::Elliptic => command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        Key::Rsa => command.args(["-newkey", "rsa:2048"]),
    };
    if let Some(signer) = signer {
        command.arg("-CA").arg(&signer.certificate);
        command.arg("-CAkey").arg(&signer.key);
    }
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    command.arg("-keyout").arg(&identity.key);
    command.arg("-out").arg(&identity.certificate);
    process::run(command, LIMIT)?;
    Ok(identity)
}
