//! What tells one image from another: profile, writer version, UUID, hash seed and time.
//!
//! Not here: the derivation itself. Whoever builds an image hashes its inputs and hands in the
//! 32 bytes; nothing in this crate reads a clock or draws a random number.

use sha2::{Digest, Sha256};

/// Version of the rules that turn a tree into bytes.
///
/// It belongs in the derivation: any change of a rule (placement, order, fill, a field's value)
/// raises it, so that images written by different rules never share a UUID.
pub const WRITER_VERSION: u32 = 1;

/// Separates the two values made of one derivation.
const UUID_LABEL: &[u8] = b"kiln ext4 uuid\0";
const HASH_SEED_LABEL: &[u8] = b"kiln ext4 hash seed\0";

/// A fixed set of features and choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// A root file system that is written to: with a journal, and with a fifth of every
    /// directory leaf left free.
    RwV1,
    /// One that is only read (golden images, lower layers of an overlay): no journal, directory
    /// leaves full.
    RoV1,
}

impl Profile {
    /// The profile's stable name, as it goes into a derivation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RwV1 => "rw-v1",
            Self::RoV1 => "ro-v1",
        }
    }
}

/// The values of a file system that do not follow from its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `s_uuid`.
    pub uuid: [u8; 16],
    /// `s_hash_seed`; never all zero.
    pub hash_seed: [u8; 16],
    /// Creation time, in seconds since 1970: the superblock's times, and those of what the
    /// image does not bring along (`lost+found`, the journal).
    pub epoch_seconds: i64,
}

impl Identity {
    /// Makes both random-looking values from the derivation: a UUID of version 8 and a hash
    /// seed, each the SHA-256 of its own label and the derivation.
    pub fn derive(derivation: &[u8; 32], epoch_seconds: i64) -> Self {
        let mut uuid = labelled(UUID_LABEL, derivation);
        uuid[6] = (uuid[6] & 0x0f) | 0x80;
        uuid[8] = (uuid[8] & 0x3f) | 0x80;
        Self {
            uuid,
            hash_seed: never_zero(labelled(HASH_SEED_LABEL, derivation)),
            epoch_seconds,
        }
    }
}

fn labelled(label: &[u8], derivation: &[u8; 32]) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(label)
        .chain_update(derivation)
        .finalize()
        .into();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// A zero seed would make every reader use MD4's own constants, so one bit is set instead.
pub(crate) fn never_zero(mut seed: [u8; 16]) -> [u8; 16] {
    if seed == [0; 16] {
        seed[0] = 1;
    }
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_uuid_is_of_version_8() {
        let identity = Identity::derive(&[7; 32], 1);

        assert_eq!(identity.uuid[6] >> 4, 8);
        assert_eq!(identity.uuid[8] >> 6, 0b10);
        assert_ne!(identity.uuid, identity.hash_seed);
        assert_eq!(identity, Identity::derive(&[7; 32], 1));
        assert_ne!(identity.uuid, Identity::derive(&[8; 32], 1).uuid);
    }

    #[test]
    fn a_zero_seed_is_never_used() {
        assert_ne!(never_zero([0; 16]), [0; 16]);
        assert_eq!(never_zero([9; 16]), [9; 16]);
    }
}
