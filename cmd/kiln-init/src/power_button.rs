//! The machine's power button, by which Cloud Hypervisor and QEMU ask a guest to stop.
//!
//! It is an input device like a keyboard, where the kernel has the drivers (`button`, `evdev`).

use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

/// Length of an input event on 64-bit Linux: two words of time, type, code, value.
const EVENT_BYTES: usize = 24;
/// Most devices that are listened to.
const MAX_DEVICES: usize = 32;

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: i32 = 1;

/// Every input device there is: one of them may have the button.
#[derive(Debug, Default)]
pub(crate) struct PowerButtons {
    devices: Vec<OwnedFd>,
}

impl PowerButtons {
    /// Opens the input devices; without any there is no button.
    pub(crate) fn open() -> Self {
        let entries = fs::read_dir("/dev/input").into_iter().flatten().flatten();
        let events = entries
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().starts_with("/dev/input/event"));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = events.filter_map(|path| rustix::fs::open(path, flags, Mode::empty()).ok());
        Self {
            devices: opened.take(MAX_DEVICES).collect(),
        }
    }

    /// Returns the devices, to wait on.
    pub(crate) fn devices(&self) -> &[OwnedFd] {
        &self.devices
    }

    /// Takes all events that have come and returns whether the button was pressed.
    ///
    /// A device that has gone is dropped.
    pub(crate) fn were_pressed(&mut self) -> bool {
        let mut pressed = false;
        self.devices.retain(|device| {
            let mut buffer = [0; EVENT_BYTES * 64];
            loop {
                match rustix::io::read(device, &mut buffer) {
                    Ok(length @ 1..) => {
                        pressed |= has_press(buffer.get(..length).unwrap_or_default());
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => return true,
                    Ok(0) | Err(_) => return false,
                }
            }
        });
        pressed
    }
}

fn has_press(events: &[u8]) -> bool {
    events.chunks_exact(EVENT_BYTES).any(|event| match event {
        [.., k1, k2, c1, c2, v1, v2, v3, v4] => {
            u16::from_ne_bytes([*k1, *k2]) == EV_KEY
                && u16::from_ne_bytes([*c1, *c2]) == KEY_POWER
                && i32::from_ne_bytes([*v1, *v2, *v3, *v4]) == PRESSED
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0xff; 16];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&value.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_power_key_going_down_is_a_press() {
        let cases = [
            (event(EV_KEY, KEY_POWER, 1), true),
            ([event(0, 0, 0), event(EV_KEY, KEY_POWER, 1)].concat(), true),
            (event(EV_KEY, KEY_POWER, 0), false),
            (event(EV_KEY, 30, 1), false),
            (event(0, KEY_POWER, 1), false),
            (event(EV_KEY, KEY_POWER, 1)[..20].to_vec(), false),
            (Vec::new(), false),
        ];
        for (events, want) in cases {
            assert_eq!(has_press(&events), want, "{events:?}");
        }
    }
}
