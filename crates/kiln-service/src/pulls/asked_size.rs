//! Whether an image can have the size that is asked for, whatever is in it: told before anything is
//! fetched. What its content needs is known when it has been merged.

use kiln_api::{Failure, codes};
use kiln_artifacts::Artifacts;
use kiln_domain::ByteSize;
use kiln_ext4::{Profile, size_limits};

use super::bootable::{LengthError, length_failure};
use crate::failures::artifact_failure;

/// Why no image has the size that is asked for.
#[derive(Debug, thiserror::Error)]
enum AskedSizeError {
    #[error(
        "an image has at least {least_bytes} bytes ({}), and {asked_bytes} were asked for",
        ByteSize(*least_bytes)
    )]
    TooSmall { asked_bytes: u64, least_bytes: u64 },
    #[error(
        "an image has at most {most_bytes} bytes ({}), and {asked_bytes} were asked for",
        ByteSize(*most_bytes)
    )]
    TooLarge { asked_bytes: u64, most_bytes: u64 },
}

/// Refuses a size that no image has.
pub(super) fn check(asked_bytes: u64) -> Result<(), Failure> {
    let limits = size_limits(Profile::RwV1);
    let (least_bytes, most_bytes) = (*limits.start(), *limits.end());
    let hint = |failure: Failure| {
        let text = "leave --size out: then it fits what is in the image, with room to spare";
        failure.with_hint(text, None)
    };
    if asked_bytes < least_bytes {
        let error = AskedSizeError::TooSmall {
            asked_bytes,
            least_bytes,
        };
        return Err(hint(Failure::from_error(codes::rootfs::TOO_SMALL, &error)));
    }
    if asked_bytes > most_bytes {
        let error = AskedSizeError::TooLarge {
            asked_bytes,
            most_bytes,
        };
        let failure = Failure::from_error(codes::rootfs::CANNOT_HOLD, &error);
        return Err(hint(failure));
    }
    Ok(())
}

/// Refuses a size that no file among the images can have. It blocks, for a moment.
pub(super) fn check_host(artifacts: &Artifacts, size_bytes: u64) -> Result<(), Failure> {
    let scratch = artifacts.scratch();
    let scratch = scratch.map_err(|error| artifact_failure(&error))?;
    // The file is one hole, and goes at once.
    let made = scratch.set_len(size_bytes);
    made.map_err(|source| length_failure(&LengthError { size_bytes, source }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_named_and_belong_to_what_may_be() {
        let limits = size_limits(Profile::RwV1);
        let (least, most) = (*limits.start(), *limits.end());
        assert_eq!(most, 16 << 40);
        let cases = [
            (0, Some(codes::rootfs::TOO_SMALL)),
            (1, Some(codes::rootfs::TOO_SMALL)),
            (least - 1, Some(codes::rootfs::TOO_SMALL)),
            (least, None),
            (most - 4096, None),
            (most, None),
            (most + 1, Some(codes::rootfs::CANNOT_HOLD)),
            (u64::MAX, Some(codes::rootfs::CANNOT_HOLD)),
        ];
        for (asked, want) in cases {
            let refused = check(asked).err();

            let is_it = match (&refused, want) {
                (Some(failure), Some(code)) => failure.is(code),
                (None, None) => true,
                _ => false,
            };
            assert!(is_it, "{asked}: {refused:?}");
            if let Some(failure) = refused {
                let limit = if asked < least { least } else { most };
                let message = &failure.message;
                assert!(message.contains(&asked.to_string()), "{message}");
                assert!(message.contains(&limit.to_string()), "{message}");
                assert!(failure.hint.is_some(), "{failure:?}");
            }
        }
    }
}
