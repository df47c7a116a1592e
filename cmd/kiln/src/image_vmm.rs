//! `kiln image show --vmm`: what to tell a monitor of one's own to boot an image.
//!
//! What is printed can be used as it is; what has to be known or done first goes to stderr.

use std::fs::File;
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
    /// What executes the machine of --vmm qemu: kvm or tcg
    #[arg(long, value_name = "KIND", requires = "vmm", default_value_t = Accelerator::Kvm)]
    accel: Accelerator,
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

/// An image's files, as whoever runs the monitor can name them.
#[derive(Debug)]
struct Files {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    /// Nothing where it is the daemon's alone.
    rootfs: Option<PathBuf>,
    /// How to get copies, where they are needed.
    notes: Vec<String>,
}

impl Files {
    /// Names the image's own files where `can_open` says that they can be opened: behind a socket
    /// for a group they are the daemon's alone.
    fn of(image: &Image, can_open: impl Fn(&Path) -> bool) -> Self {
        let name = cell(image.name.as_str());
        let mut notes = Vec::new();
        let mut own = |path: &str, copy: &str, word: &str| {
            let path = PathBuf::from(path);
            if can_open(&path) {
                return path;
            }
            notes.push(format!(
                "the daemon alone may open the {word}; make a copy first: \
                 kiln image open {name} {word} > {copy}"
            ));
            PathBuf::from(copy)
        };
        let kernel = own(&image.kernel.path, "vmlinux", "kernel");
        let initrd = image.kernel.initrd_path.as_deref();
        let initrd = initrd.map(|path| own(path, "initrd.img", "initrd"));
        let rootfs = PathBuf::from(&image.rootfs.path);
        Self {
            kernel,
            initrd,
            rootfs: Some(rootfs).filter(|path| can_open(path)),
            notes,
        }
    }
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
        let files = Files::of(image, |path| File::open(path).is_ok());
        let shown = shown(vmm, image, &files, self.disk.as_deref(), self.accel)?;
        for note in &shown.notes {
            output::note(&format!("note: {note}\n"));
        }
        output::write(&shown.text)
    }
}

fn shown(
    vmm: Vmm,
    image: &Image,
    files: &Files,
    disk: Option<&Path>,
    accelerator: Accelerator,
) -> Result<Shown, CommandError> {
    let architecture: Architecture = image.architecture.parse().map_err(|_| {
        let name = cell(&image.architecture);
        CommandError::new(
            codes::instance::NO_MONITOR,
            format!("the image is for {name}, which no monitor here runs"),
        )
    })?;
    let monitor = vmm.monitor();
    let (disk, more) = disk_of(monitor, image, files, disk);
    let mut notes = files.notes.clone();
    notes.extend(more);
    if image.kernel.initrd_path.is_none() {
        notes.push(
            "the image has no initrd: its kernel must have virtio-blk and ext4 inside".to_owned(),
        );
    }
    let machine = Machine {
        architecture,
        accelerator,
        cpus: 1,
        memory_mib: MEMORY_MIB,
        kernel: files.kernel.clone(),
        initrd: files.initrd.clone(),
        kernel_arguments: kernel_arguments(KernelWords {
            monitor,
            accelerator,
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
            if accelerator == Accelerator::Kvm {
                notes.push("where KVM does not work, ask again with --accel tcg".to_owned());
            }
            let words = qemu::words(&machine, monitor, qemu::Held::ByPerson);
            line(monitor, architecture, words)?
        }
    };
    Ok(Shown { text, notes })
}

/// Chooses the disk: the caller's copy; else the image itself, where the monitor drops what is
/// written; else a copy that has yet to be made.
fn disk_of(
    monitor: Monitor,
    image: &Image,
    files: &Files,
    named: Option<&Path>,
) -> (Disk, Vec<String>) {
    let disk = |path: &Path, access| Disk {
        source: DiskSource::Path(path.to_owned()),
        access,
    };
    if let Some(path) = named {
        return (disk(path, Access::ReadWrite), Vec::new());
    }
    if let Some(rootfs) = files.rootfs.as_deref().filter(|_| monitor.is_qemu()) {
        let note = "what the guest writes is dropped; name a copy of your own by --disk to keep it";
        let disk = disk(rootfs, Access::Discarded);
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

    /// Shows it to somebody who may open the image's files.
    fn show_with(
        vmm: Vmm,
        image: &Image,
        disk: Option<&Path>,
        accelerator: Accelerator,
    ) -> Result<Shown, CommandError> {
        let files = Files::of(image, |_| true);
        shown(vmm, image, &files, disk, accelerator)
    }

    #[test]
    fn files_of_the_daemon_alone_are_copied_first() {
        let image = image();
        let files = Files::of(&image, |_| false);

        let shown = shown(Vmm::Qemu, &image, &files, None, Accelerator::Tcg).unwrap();

        let named = " -kernel vmlinux -initrd initrd.img ";
        assert!(shown.text.contains(named), "{}", shown.text);
        let disk = "file=team-web.ext4 ";
        assert!(shown.text.contains(disk), "{}", shown.text);
        assert_eq!(
            shown.notes,
            [
                "the daemon alone may open the kernel; make a copy first: kiln image open \
                 team/web kernel > vmlinux",
                "the daemon alone may open the initrd; make a copy first: kiln image open \
                 team/web initrd > initrd.img",
                "the image itself never changes; make a copy first: kiln checkout team/web \
                 team-web.ext4",
            ]
        );
    }

    #[test]
    fn a_command_line_can_be_pasted() {
        let show = |vmm, disk| show_with(vmm, &image(), disk, Accelerator::Kvm).unwrap();

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
                "where KVM does not work, ask again with --accel tcg",
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
    fn emulation_is_qemus_alone() {
        let emulated = show_with(Vmm::Qemu, &image(), None, Accelerator::Tcg).unwrap();
        assert!(
            emulated.text.contains(" -accel tcg -cpu max ")
                && emulated.text.contains(" tsc_early_khz=2000000'"),
            "{}",
            emulated.text
        );
        let refused = show_with(Vmm::Firecracker, &image(), None, Accelerator::Tcg).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
    }

    #[test]
    fn a_configuration_names_a_copy_and_how_to_make_it() {
        let mut image = image();
        image.kernel.initrd_path = None;

        let shown = show_with(Vmm::Firecracker, &image, None, Accelerator::Kvm).unwrap();

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
        let refused = show_with(Vmm::Qemu, &image, None, Accelerator::Kvm).unwrap_err();
        let CommandError::Failed(failure) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(
            failure.message,
            "the image is for riscv64, which no monitor here runs"
        );
    }
}
