//! QEMU's command line: `qemu-microvm` and `qemu-q35`.
//!
//! ```text
//! amd64   microvm: devices on virtio-mmio      q35: devices on PCI
//! arm64   both are `-M virt`, with devices on PCI: it has no microvm
//! ```
//! Options are those of QEMU 7.2's manual (`qemu-system-x86_64(1)`).

use crate::machine::{self, Access, Disk, DiskSource, Machine, MachineError, Network};
use crate::monitor::{Accelerator, Architecture, Monitor};

/// Who holds the other end of QEMU's standard input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A person: QEMU's own monitor is behind Ctrl-A.
    ByPerson,
    /// A program, which speaks QMP through the socket that is inherited under this number.
    ByProgram {
        /// The number of the connected socket.
        control: i32,
    },
}

/// Returns the words after the name of the program. `monitor` is one of QEMU's two.
pub fn words(machine: &Machine, monitor: Monitor, held: Held) -> Result<Vec<String>, MachineError> {
    if !monitor.is_qemu() {
        let what = "command line of QEMU";
        return Err(MachineError::Lacks { monitor, what });
    }
    machine.check(monitor)?;
    let bus = Bus::of(monitor, machine.architecture);
    let mut words = Words::default();
    words.add(&["-M", bus.machine]);
    words.add(match machine.accelerator {
        Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
        Accelerator::Tcg => &["-accel", "tcg", "-cpu", "max"],
    });
    words.pair("-smp", machine.cpus.to_string());
    words.pair("-m", format!("{}M", machine.memory_mib));
    words.add(&["-nodefaults", "-no-user-config", "-no-reboot"]);
    words.add(&["-display", "none"]);
    match held {
        Held::ByPerson => words.add(&["-serial", "mon:stdio"]),
        Held::ByProgram { control } => {
            // Keys that mean a signal to a terminal are the guest's.
            words.pair("-chardev", "stdio,id=console,signal=off".to_owned());
            words.pair("-serial", "chardev:console".to_owned());
            words.pair("-chardev", format!("socket,id=control,fd={control}"));
            words.pair("-mon", "chardev=control,mode=control".to_owned());
        }
    }
    words.pair("-kernel", machine::text(&machine.kernel, monitor, &[])?);
    if let Some(initrd) = &machine.initrd {
        words.pair("-initrd", machine::text(initrd, monitor, &[])?);
    }
    words.pair("-append", machine.kernel_arguments.clone());
    for (number, disk) in machine.disks.iter().enumerate() {
        words.disk(number, disk, monitor, &bus)?;
    }
    words.network(&machine.network, monitor, &bus)?;
    Ok(words.0)
}

/// How a kind of machine has its devices.
struct Bus {
    machine: &'static str,
    suffix: &'static str,
    /// What a network device needs so that no file with a boot program is looked for.
    no_boot_program: &'static str,
}

impl Bus {
    fn of(monitor: Monitor, architecture: Architecture) -> Self {
        let pci = |machine| Self {
            machine,
            suffix: "pci",
            no_boot_program: ",romfile=",
        };
        match (monitor, architecture) {
            (_, Architecture::Arm64) => pci("virt"),
            (Monitor::QemuMicrovm, Architecture::Amd64) => Self {
                machine: "microvm",
                suffix: "device",
                no_boot_program: "",
            },
            _ => pci("q35"),
        }
    }
}

#[derive(Debug, Default)]
struct Words(Vec<String>);

impl Words {
    fn add(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn pair(&mut self, option: &str, value: String) {
        self.0.extend([option.to_owned(), value]);
    }

    fn disk(
        &mut self,
        number: usize,
        disk: &Disk,
        monitor: Monitor,
        bus: &Bus,
    ) -> Result<(), MachineError> {
        let file = match &disk.source {
            DiskSource::Path(path) => machine::text(path, monitor, &[])?,
            DiskSource::Descriptor(descriptor) => {
                self.pair("-add-fd", format!("fd={descriptor},set={number}"));
                format!("/dev/fdset/{number}")
            }
        };
        let access = match disk.access {
            Access::ReadOnly => ",readonly=on",
            Access::ReadWrite => "",
            Access::Discarded => ",snapshot=on",
        };
        // A comma in a value is written twice.
        let file = file.replace(',', ",,");
        self.pair(
            "-drive",
            format!("if=none,id=disk{number},format=raw,file={file}{access}"),
        );
        let suffix = bus.suffix;
        self.pair("-device", format!("virtio-blk-{suffix},drive=disk{number}"));
        Ok(())
    }

    fn network(
        &mut self,
        network: &Network,
        monitor: Monitor,
        bus: &Bus,
    ) -> Result<(), MachineError> {
        let backend = match network {
            Network::None => return Ok(()),
            Network::User { ports } => ports.iter().fold("user,id=net0".to_owned(), |all, port| {
                format!(
                    "{all},hostfwd=tcp:{}:{}-:{}",
                    port.host_address, port.host_port, port.guest_port
                )
            }),
            Network::Tap { device } => {
                let device = machine::text(device.as_ref(), monitor, &[','])?;
                format!("tap,id=net0,ifname={device},script=no,downscript=no")
            }
        };
        self.pair("-netdev", backend);
        let (suffix, no_boot_program) = (bus.suffix, bus.no_boot_program);
        let mac = machine::MAC;
        self.pair(
            "-device",
            format!("virtio-net-{suffix},netdev=net0,mac={mac}{no_boot_program}"),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::testing::{disk, machine};
    use crate::order::Forward;

    const BY_PROGRAM: Held = Held::ByProgram { control: 9 };

    fn line(machine: &Machine, monitor: Monitor, held: Held) -> String {
        words(machine, monitor, held).unwrap().join(" ")
    }

    #[test]
    fn a_microvm_is_told_in_these_words() {
        let mut machine = machine();
        machine.accelerator = Accelerator::Tcg;
        machine.disks = vec![
            Disk {
                source: DiskSource::Descriptor(7),
                access: Access::Discarded,
            },
            disk("/v/data", Access::ReadWrite),
            disk("/v/a,b", Access::ReadOnly),
        ];
        let port = Forward {
            host_address: "127.0.0.1".parse().unwrap(),
            host_port: 8080,
            guest_port: 80,
        };
        machine.network = Network::User { ports: vec![port] };

        assert_eq!(
            line(&machine, Monitor::QemuMicrovm, BY_PROGRAM),
            "-M microvm -accel tcg -cpu max -smp 2 -m 512M -nodefaults -no-user-config -no-reboot \
             -display none -chardev stdio,id=console,signal=off -serial chardev:console \
             -chardev socket,id=control,fd=9 -mon chardev=control,mode=control \
             -kernel /i/kernel -initrd /i/initrd.img -append console=ttyS0 quiet \
             -add-fd fd=7,set=0 \
             -drive if=none,id=disk0,format=raw,file=/dev/fdset/0,snapshot=on \
             -device virtio-blk-device,drive=disk0 \
             -drive if=none,id=disk1,format=raw,file=/v/data -device virtio-blk-device,drive=disk1 \
             -drive if=none,id=disk2,format=raw,file=/v/a,,b,readonly=on \
             -device virtio-blk-device,drive=disk2 \
             -netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80 \
             -device virtio-net-device,netdev=net0,mac=52:54:00:12:34:56"
        );
    }

    #[test]
    fn a_q35_has_its_devices_on_pci() {
        let mut machine = machine();
        machine.initrd = None;
        machine.network = Network::Tap {
            device: "tap0".to_owned(),
        };

        assert_eq!(
            line(&machine, Monitor::QemuQ35, Held::ByPerson),
            "-M q35 -accel kvm -cpu host -smp 2 -m 512M -nodefaults -no-user-config -no-reboot \
             -display none -serial mon:stdio -kernel /i/kernel -append console=ttyS0 quiet \
             -drive if=none,id=disk0,format=raw,file=/i/rootfs.ext4 \
             -device virtio-blk-pci,drive=disk0 \
             -netdev tap,id=net0,ifname=tap0,script=no,downscript=no \
             -device virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile="
        );
    }

    #[test]
    fn on_arm64_both_are_the_virt_machine() {
        let mut machine = machine();
        machine.architecture = Architecture::Arm64;
        for monitor in [Monitor::QemuMicrovm, Monitor::QemuQ35] {
            let line = line(&machine, monitor, Held::ByPerson);
            assert!(line.starts_with("-M virt -accel kvm"), "{line}");
            assert!(line.contains("virtio-blk-pci"), "{line}");
        }
    }

    #[test]
    fn what_is_no_qemu_has_no_words_of_it() {
        let refused = words(&machine(), Monitor::Firecracker, Held::ByPerson);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "firecracker has no command line of QEMU"
        );
    }

    #[test]
    fn a_tap_device_cannot_bring_options_of_its_own() {
        let mut machine = machine();
        machine.network = Network::Tap {
            device: "tap0,script=/bin/evil".to_owned(),
        };
        let refused = words(&machine, Monitor::QemuQ35, Held::ByPerson);
        assert!(
            matches!(refused, Err(MachineError::Path { .. })),
            "{refused:?}"
        );
    }
}
