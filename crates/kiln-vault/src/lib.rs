//! Secrets at rest: sealed with a key that is kept apart from them, and opened again.
//!
//! ```text
//! sealed:  1 │ nonce (12 bytes) │ ciphertext and tag      AES-256-GCM
//! ```
//! Each secret is bound to a context, such as the name it is kept under: put under another name,
//! it does not open. A copy of where sealed secrets lie tells nothing without the key.
//!
//! Not here: where sealed secrets are kept, and who may ask for them.

mod key;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::constant_time;

use key::Key;
pub use key::KeyError;
pub use key::KeySource;

/// The first byte of what this version seals.
const FORMAT: u8 = 1;

/// Why a secret could not be sealed or opened. No variant holds one.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The key cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is not the one it was sealed with, or the bytes are damaged or belong elsewhere.
    #[error("the secret of {context} was sealed with another key, or is damaged")]
    NotOurs {
        /// What it was kept under.
        context: String,
    },
    /// The library refused to seal.
    #[error("the secret of {context} cannot be sealed")]
    Sealing {
        /// What it is to be kept under.
        context: String,
    },
}

/// Seals and opens with one key, which is fetched when it is needed.
#[derive(Clone, Debug)]
pub struct Vault {
    source: KeySource,
}

impl Vault {
    /// Makes a vault whose key comes from `source`. Nothing is read yet.
    pub fn new(source: KeySource) -> Self {
        Self { source }
    }

    /// Seals a secret to be kept under `context`. A key whose file is not there is made. What was
    /// sealed with one that is lost opens with no other, and so is not worse off than before.
    pub fn seal(&self, secret: &[u8], context: &str) -> Result<Vec<u8>, VaultError> {
        let failed = |_| VaultError::Sealing {
            context: context.to_owned(),
        };
        let key = cipher(&self.source.key_or_new()?).map_err(failed)?;
        let mut bytes = secret.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(context), &mut bytes);
        let nonce = nonce.map_err(failed)?;
        Ok([&[FORMAT], nonce.as_ref().as_slice(), &bytes].concat())
    }

    /// Opens what was sealed to be kept under `context`.
    pub fn open(&self, sealed: &[u8], context: &str) -> Result<Vec<u8>, VaultError> {
        let not_ours = || VaultError::NotOurs {
            context: context.to_owned(),
        };
        let key = cipher(&self.source.key()?).map_err(|_| not_ours())?;
        let Some((&FORMAT, rest)) = sealed.split_first() else {
            return Err(not_ours());
        };
        let Some((nonce, bytes)) = rest.split_at_checked(NONCE_LEN) else {
            return Err(not_ours());
        };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| not_ours())?;
        let mut bytes = bytes.to_vec();
        let opened = key.open_in_place(nonce, Aad::from(context), &mut bytes);
        opened.map(|plain| plain.to_vec()).map_err(|_| not_ours())
    }
}

/// Compares two secrets in a time that tells nothing about where they differ.
pub fn are_equal(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

fn cipher(key: &Key) -> Result<RandomizedNonceKey, aws_lc_rs::error::Unspecified> {
    RandomizedNonceKey::new(&AES_256_GCM, key.bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_sealed_opens_under_its_own_name_and_key_only() {
        let vault = Vault::new(KeySource::given(&[7; 32]).unwrap());
        let other = Vault::new(KeySource::given(&[8; 32]).unwrap());

        let sealed = vault.seal(b"hunter2", "reg.io").unwrap();

        assert_eq!(vault.open(&sealed, "reg.io").unwrap(), b"hunter2");
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_ne!(vault.seal(b"hunter2", "reg.io").unwrap(), sealed);
        for (vault, sealed, context) in [
            (&vault, sealed.as_slice(), "evil.io"),
            (&other, sealed.as_slice(), "reg.io"),
            (&vault, &sealed[..sealed.len() - 1], "reg.io"),
            (&vault, &sealed[..5], "reg.io"),
            (&vault, &[], "reg.io"),
        ] {
            let error = vault.open(sealed, context).unwrap_err();
            assert!(matches!(error, VaultError::NotOurs { .. }), "{error}");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(vault.open(&damaged, "reg.io").is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_by_sealing_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logins.key");
        let vault = Vault::new(KeySource::file(path.clone()));

        let early = vault.open(&[1; 40], "reg.io").unwrap_err();
        assert!(
            matches!(early, VaultError::Key(KeyError::Missing { .. })),
            "{early}"
        );
        assert!(!path.exists());

        let sealed = vault.seal(b"s", "reg.io").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Vault::new(KeySource::file(path.clone()));
        again.seal(b"t", "reg.io").unwrap();
        assert_eq!(again.open(&sealed, "reg.io").unwrap(), b"s");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        fs::remove_file(&path).unwrap();
        let gone = again.open(&sealed, "reg.io").unwrap_err();
        assert!(
            matches!(gone, VaultError::Key(KeyError::Missing { .. })),
            "{gone}"
        );
        // Who lost it logs in again, and what it sealed stays closed.
        let anew = again.seal(b"u", "reg.io").unwrap();
        assert_eq!(again.open(&anew, "reg.io").unwrap(), b"u");
        let lost = again.open(&sealed, "reg.io").unwrap_err();
        assert!(matches!(lost, VaultError::NotOurs { .. }), "{lost}");
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logins.key");
        let vault = Vault::new(KeySource::file(path.clone()));
        vault.seal(b"s", "reg.io").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        let open = vault.seal(b"s", "reg.io").unwrap_err();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        let short = vault.seal(b"s", "reg.io").unwrap_err();

        assert!(
            matches!(open, VaultError::Key(KeyError::Exposed { .. })),
            "{open}"
        );
        assert!(
            matches!(short, VaultError::Key(KeyError::Short { .. })),
            "{short}"
        );
        KeySource::given(b"short").unwrap_err();
    }

    #[test]
    fn secrets_are_equal_when_they_are() {
        assert!(are_equal(b"hunter2", b"hunter2"));
        assert!(!are_equal(b"hunter2", b"hunter3"));
        assert!(!are_equal(b"hunter2", b"hunter"));
    }
}
