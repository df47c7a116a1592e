//! Waits for block devices, and tells how large they are.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Failure;

/// Pause between two looks: devices appear within milliseconds of their driver.
const PAUSE: Duration = Duration::from_millis(5);

/// The unit of `/sys/class/block/*/size`, whatever the device's own sectors are.
const SECTOR_BYTES: u64 = 512;

/// Waits until `device` is a block device, for `seconds` at most.
pub(crate) fn wait(device: &str, seconds: u32) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(u64::from(seconds));
    while !is_block_device(device) {
        if Instant::now() >= deadline {
            let device = device.to_owned();
            return Err(Failure::NoRootDevice { device, seconds });
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Returns the size of `device` in bytes, where the kernel tells it.
pub(crate) fn size_bytes(device: &str) -> Option<u64> {
    let name = Path::new(device).file_name()?;
    let path = Path::new("/sys/class/block").join(name).join("size");
    let sectors: u64 = fs::read_to_string(path).ok()?.trim_end().parse().ok()?;
    sectors.checked_mul(SECTOR_BYTES)
}

fn is_block_device(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_waited_for_until_the_limit() {
        let failure = wait("/dev/null", 0)
            .err()
            .map(|failure| failure.to_string());
        assert_eq!(
            failure.as_deref(),
            Some("no root device /dev/null after 0 s")
        );
    }
}
