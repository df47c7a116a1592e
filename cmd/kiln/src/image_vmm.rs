//! `kiln image show --vmm`: what to tell a monitor of one's own to boot an image.
//!
//! What is printed can be used as it is; what has to be known or done first goes to stderr.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kiln_api::codes;
use kiln_api::image::Image;
use kiln_vmm::{
    Accelerator, Access, Architecture, Console, Disk, DiskSource, KernelWords, Machine,
    MachineError, Monitor, Network, cloud_hypervisor, firecracker, kernel_arguments, qemu,
    shell_line,
};

use crate::failure::CommandError;
use crate::output;
use crate::text::cell;

/// Memory of the machine that is described, in MiB.
const MEMORY_MIB: u64 = 512;

/// For which monitor.
#[derive(Debug, Args)]
pub(crate) struct VmmArguments {
    /// Print what boots the image under this monitor: a configuration or a command line
    #[arg(long, value_enum, value_name = "MONITOR")]
    vmm: Option<Vmm>,
    /// Disk for --vmm: a private copy of the root filesystem, as `kiln checkout` makes one
    #[arg(long, value_name = "FILE", requires = "vmm")]
    disk: Option<PathBuf>,
}

/// A monitor of one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Vmm {
    /// A configuration file for `firecracker --config-file`
    Firecracker,
    /// A command line of Cloud Hypervisor 51 or later
    CloudHypervisor,
    /// A command line of QEMU: microvm, and virt on arm64
    Qemu,
    /// A command line of QEMU with -M q35
    QemuQ35,
}

/// What is printed where.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    text: String,
    notes: Vec<String>,
}

impl VmmArguments {
    /// Tells whether anything is asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.vmm.is_some()
    }

    /// Prints it.
    pub(crate) fn show(&self, image: &Image) -> Result<(), CommandError> {
        let Some(vmm) = self.vmm else {
            return Ok(());
        };
        let shown = shown(vmm, image, self.disk.as_deref())?;
        for note in &shown.notes {
            output::note(&format!("note: {note}\n"));
        }
        output::write(&shown.text)
    }
}

fn shown(vmm: Vmm, image: &Image, disk: Option<&Path>) -> Result<Shown, CommandError> {
    let architecture: Architecture = image.architecture.parse().map_err(|_| {
        let name = cell(&image.architecture);
        CommandError::new(
            codes::instance::NO_MONITOR,
            format!("the image is for {name}, which no monitor here runs"),
        )
    })?;
    let monitor = vmm.monitor();
    let (disk, mut notes) = disk_of(monitor, image, disk);
    if image.kernel.initrd_path.is_none() {
        notes.push(
            "the image has no initrd: its kernel must have virtio-blk and ext4 inside".to_owned(),
        );
    }
    let machine = Machine {
        architecture,
        accelerator: Accelerator::Kvm,
        cpus: 1,
        memory_mib: MEMORY_MIB,
        kernel: PathBuf::from(&image.kernel.path),
        initrd: image.kernel.initrd_path.as_deref().map(PathBuf::from),
        kernel_arguments: kernel_arguments(KernelWords {
            monitor,
            accelerator: Accelerator::Kvm,
            architecture,
            root: disk.access,
            console: Console::Quiet,
        }),
        disks: vec![disk],
        network: Network::None,
    };
    let text = match monitor {
        Monitor::Firecracker => {
            notes.push(
                "save it as vm.json and run: firecracker --no-api --config-file vm.json".to_owned(),
            );
            let described =
                firecracker::configuration(&machine, None).map_err(|error| refused(&error))?;
            described.to_json()?
        }
        Monitor::CloudHypervisor => {
            let words = cloud_hypervisor::words(&machine, cloud_hypervisor::Held::ByPerson);
            line(monitor, architecture, words)?
        }
        Monitor::QemuMicrovm | Monitor::QemuQ35 => {
            notes.push(
                "without KVM put -accel tcg -cpu max in the place of -accel kvm -cpu host"
                    .to_owned(),
            );
            let words = qemu::words(&machine, monitor, qemu::Held::ByPerson);
            line(monitor, architecture, words)?
        }
    };
    Ok(Shown { text, notes })
}

/// Chooses the disk: the caller's copy; else the image itself, where the monitor drops what is
/// written; else a copy that has yet to be made.
fn disk_of(monitor: Monitor, image: &Image, named: Option<&Path>) -> (Disk, Vec<String>) {
    let disk = |path: &Path, access| Disk {
        source: DiskSource::Path(path.to_owned()),
        access,
    };
    if let Some(path) = named {
        return (disk(path, Access::ReadWrite), Vec::new());
    }
    if monitor.is_qemu() {
        let note = "what the guest writes is dropped; name a copy of your own by --disk to keep it";
        let disk = disk(Path::new(&image.rootfs.path), Access::Discarded);
        return (disk, vec![note.to_owned()]);
    }
    let name = cell(image.name.as_str());
    let path = PathBuf::from(format!("{}.ext4", name.replace('/', "-")));
    let file = path.display();
    let note =
        format!("the image itself never changes; make a copy first: kiln checkout {name} {file}");
    (disk(&path, Access::ReadWrite), vec![note])
}

fn line(
    monitor: Monitor,
    architecture: Architecture,
    words: Result<Vec<String>, MachineError>,
) -> Result<String, CommandError> {
    let mut all = vec![monitor.program(architecture).to_owned()];
    all.extend(words.map_err(|error| refused(&error))?);
    Ok(shell_line(&all) + "\n")
}

fn refused(error: &MachineError) -> CommandError {
    CommandError::new(codes::request::INVALID_PARAMS, error.to_string())
}

impl Vmm {
    fn monitor(self) -> Monitor {
        match self {
            Self::Firecracker => Monitor::Firecracker,
            Self::CloudHypervisor => Monitor::CloudHypervisor,
            Self::Qemu => Monitor::QemuMicrovm,
            Self::QemuQ35 => Monitor::QemuQ35,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn image() -> Image {
        let id = "3f2b8c1e-5d0a-4c1f-9c57-0d3f0a6f2b11";
        let image = json!({
            "id": id, "name": "team/web", "state": "available", "is_active": true, "managed": true,
            "owner_uid": 0, "visibility": "private", "revision": 1, "kind": "rootfs",
            "architecture": "amd64", "artifact_dir": "/i",
            "rootfs": {"path": "/i/rootfs.ext4", "size_bytes": 1},
            "kernel": {"path": "/i/kernel", "sha256": "x", "initrd_path": "/i/initrd.img"},
            "kernel_arguments": "quiet",
            "source": {"kind": "file", "reference": "/x"},
            "version": {"id": id, "number": "v1.0.0"}, "tags": [],
            "created_at": "", "updated_at": ""
        });
        serde_json::from_value(image).unwrap()
    }

    #[test]
    fn a_command_line_can_be_pasted() {
        let show = |vmm, disk| shown(vmm, &image(), disk).unwrap();

        let qemu = show(Vmm::Qemu, None);
        assert_eq!(
            qemu.text,
            "qemu-system-x86_64 -M microvm -accel kvm -cpu host -smp 1 -m 512M -nodefaults \
             -no-user-config -no-reboot -display none -serial mon:stdio -kernel /i/kernel \
             -initrd /i/initrd.img \
             -append 'console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw' \
             -drive if=none,id=disk0,format=raw,file=/i/rootfs.ext4,snapshot=on \
             -device virtio-blk-device,drive=disk0\n"
        );
        assert_eq!(
            qemu.notes,
            [
                "what the guest writes is dropped; name a copy of your own by --disk to keep it",
                "without KVM put -accel tcg -cpu max in the place of -accel kvm -cpu host",
            ]
        );
        let cloud = show(Vmm::CloudHypervisor, Some(Path::new("/my disk")));
        assert_eq!(
            cloud.text,
            "cloud-hypervisor --kernel /i/kernel --initramfs /i/initrd.img \
             --cmdline 'console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw' \
             --cpus boot=1 --memory size=512M \
             --disk 'path=/my disk,image_type=raw,readonly=off' --serial tty --console off\n"
        );
        assert_eq!(cloud.notes, Vec::<String>::new());
    }

    #[test]
    fn a_configuration_names_a_copy_and_how_to_make_it() {
        let mut image = image();
        image.kernel.initrd_path = None;

        let shown = shown(Vmm::Firecracker, &image, None).unwrap();

        let read: Value = serde_json::from_str(&shown.text).unwrap();
        assert_eq!(read["drives"][0]["path_on_host"], "team-web.ext4");
        assert_eq!(read["boot-source"].get("initrd_path"), None);
        assert_eq!(
            shown.notes,
            [
                "the image itself never changes; make a copy first: kiln checkout team/web \
                 team-web.ext4",
                "the image has no initrd: its kernel must have virtio-blk and ext4 inside",
                "save it as vm.json and run: firecracker --no-api --config-file vm.json",
            ]
        );
    }

    #[test]
    fn an_unknown_processor_is_named() {
        let mut image = image();
        image.architecture = "riscv64".to_owned();
        let refused = shown(Vmm::Qemu, &image, None).unwrap_err();
        let CommandError::Failed(failure) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(
            failure.message,
            "the image is for riscv64, which no monitor here runs"
        );
    }
}
