//! Digests of whole images: whatever changes a byte shows up here, and must raise the writer
//! version.

use std::fmt::Write as _;

use kiln_ext4::{Profile, Size, WRITER_VERSION};
use sha2::{Digest, Sha256};

use crate::kinds::sample;
use crate::tools::e2fsck;

#[test]
fn the_bytes_of_this_writer_version_are_these() {
    // When this fails on purpose: raise WRITER_VERSION, then take the new digests.
    assert_eq!(WRITER_VERSION, 1);
    let cases = [
        (
            Profile::RwV1,
            "68ee9328b8536869a19e5841e9bd248af02bc270afe06e5a53cc3c9f4e0dacef",
        ),
        (
            Profile::RoV1,
            "b70084b6efa9502a8b3cd6514ec209869db94480a4abc70a96223dd724e946e9",
        ),
    ];
    let stack = sample();
    for (profile, want) in cases {
        let image = stack.build(profile, Size::Bytes(16 << 20));

        e2fsck(&image.path);
        let bytes = std::fs::read(&image.path).expect("the image can be read");
        let mut digest = String::new();
        for byte in Sha256::digest(&bytes) {
            write!(digest, "{byte:02x}").expect("a string takes everything");
        }
        assert_eq!(digest, want, "{}", profile.as_str());
    }
}
