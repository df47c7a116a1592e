//! From an order and an image to files of the instance and the words of a monitor.
//!
//! ```text
//! disk     QEMU             a clone where the file system can, else the image under `snapshot=on`,
//!                           whose changes QEMU keeps in an unlinked file of the directory
//!          others           a clone, else a copy with its holes
//!          --read-only      the image itself, read-only
//! kernel   a copy; for Firecracker and Cloud Hypervisor the ELF file inside a bzImage
//! initrd   the image's, and an archive with what this run is told
//! ```
//! The image's own files are never open for writing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kiln_boot::Instance;
use kiln_files::{FileError, at};
use kiln_kernel::{compose, extract_elf, instance_archive};
use kiln_vmm::{
    Access, Choice, Console, Disk, DiskSource, KernelWords, Machine, Monitor, Network,
    NetworkChoice, RunOrder, cloud_hypervisor, firecracker, kernel_arguments, qemu,
};

use crate::control::Control;
use crate::error::RunError;
use crate::image::OpenImage;
use crate::place::{INITRD, KERNEL, Place, ROOTFS};

/// Firecracker's description of the machine.
const CONFIGURATION: &str = "firecracker.json";
/// Firecracker's own messages.
const FIRECRACKER_LOG: &str = "firecracker.log";
/// The socket of a monitor with an API.
const API_SOCKET: &str = "api.sock";

/// A monitor that can be started.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The words after its program.
    pub(crate) words: Vec<String>,
    /// How to speak to it once it runs.
    pub(crate) control: Control,
    /// Files that it inherits: open until it has been started.
    pub(crate) inherited: Vec<OwnedFd>,
}

/// Decides on the network: what was asked for, else what the monitor has without rights.
pub(crate) fn network(order: &RunOrder, monitor: Monitor) -> Result<Network, RunError> {
    let choice = order.network.unwrap_or(if monitor.is_qemu() {
        NetworkChoice::User
    } else {
        NetworkChoice::None
    });
    match choice {
        NetworkChoice::User => Ok(Network::User {
            ports: order.ports.clone(),
        }),
        NetworkChoice::None if order.ports.is_empty() => Ok(Network::None),
        NetworkChoice::None => Err(RunError::PortsWithoutNetwork),
    }
}

/// Makes the files of an instance and the words of its monitor. Blocks while it copies.
pub(crate) fn prepare(
    order: &RunOrder,
    image: &OpenImage,
    instance: Option<&Instance>,
    choice: &Choice,
    place: &Place,
    cancelled: &AtomicBool,
) -> Result<Prepared, RunError> {
    let monitor = choice.monitor;
    let mut inherited = Vec::new();
    let mut disks = vec![root_disk(
        order,
        image,
        monitor,
        place,
        &mut inherited,
        cancelled,
    )?];
    for volume in &order.volumes {
        disks.push(volume_disk(volume)?);
    }
    let machine = Machine {
        architecture: image.architecture,
        accelerator: choice.accelerator,
        cpus: image.cpus(order),
        memory_mib: image.memory_mib(order),
        kernel: kernel(image, monitor, place, cancelled)?,
        initrd: initrd(image, instance, place)?,
        kernel_arguments: kernel_arguments(KernelWords {
            monitor,
            accelerator: choice.accelerator,
            architecture: image.architecture,
            root: if order.read_only {
                Access::ReadOnly
            } else {
                Access::ReadWrite
            },
            console: match instance {
                Some(_) => Console::Silent,
                // What the kernel says is all there is to see of a start that is not ours.
                None => Console::Quiet,
            },
        }),
        disks,
        network: network(order, monitor)?,
    };
    let (words, control) = words(&machine, monitor, place, &mut inherited)?;
    Ok(Prepared {
        words,
        control,
        inherited,
    })
}

fn words(
    machine: &Machine,
    monitor: Monitor,
    place: &Place,
    inherited: &mut Vec<OwnedFd>,
) -> Result<(Vec<String>, Control), RunError> {
    let api_socket = place.path(API_SOCKET);
    match monitor {
        Monitor::QemuMicrovm | Monitor::QemuQ35 => {
            let (own, theirs) =
                UnixStream::pair().map_err(|source| RunError::host("make a socket", source))?;
            let control = passed_on(theirs.as_raw_fd(), &theirs)?;
            inherited.push(theirs.into());
            let words = qemu::words(machine, monitor, qemu::Held::ByProgram { control })?;
            let control = Control::of_qemu(own, monitor)
                .map_err(|source| RunError::host("make a socket", source))?;
            Ok((words, control))
        }
        Monitor::Firecracker => {
            // Old versions want the file to be there.
            drop(place.create_file(FIRECRACKER_LOG)?);
            let log = place.path(FIRECRACKER_LOG);
            let described = firecracker::configuration(machine, Some(&log))?;
            let path = place.path(CONFIGURATION);
            let json = described
                .to_json()
                .map_err(std::io::Error::from)
                .map_err(at("write", &path))?;
            write(place, CONFIGURATION, json.as_bytes())?;
            // The monitor works in the directory; a whole path may be too long for a socket.
            let held = firecracker::Held::ByProgram {
                api_socket: Path::new(API_SOCKET),
            };
            let words = firecracker::words(&path, held)?;
            Ok((words, Control::of_firecracker(api_socket)))
        }
        Monitor::CloudHypervisor => {
            let held = cloud_hypervisor::Held::ByProgram {
                api_socket: Path::new(API_SOCKET),
            };
            let words = cloud_hypervisor::words(machine, held)?;
            Ok((words, Control::of_cloud_hypervisor(api_socket)))
        }
    }
}

fn root_disk(
    order: &RunOrder,
    image: &OpenImage,
    monitor: Monitor,
    place: &Place,
    inherited: &mut Vec<OwnedFd>,
    cancelled: &AtomicBool,
) -> Result<Disk, RunError> {
    if !monitor.is_qemu() {
        return copied_disk(order, image, place, cancelled);
    }
    if !order.read_only && clone(&image.rootfs, place)? {
        return Ok(Disk {
            source: DiskSource::Path(place.path(ROOTFS)),
            access: Access::ReadWrite,
        });
    }
    let file = image
        .rootfs
        .try_clone()
        .map_err(|source| RunError::host("copy a descriptor", source))?;
    let descriptor = passed_on(file.as_raw_fd(), &file)?;
    inherited.push(file.into());
    Ok(Disk {
        source: DiskSource::Descriptor(descriptor),
        access: if order.read_only {
            Access::ReadOnly
        } else {
            Access::Discarded
        },
    })
}

/// Makes a disk for a monitor that opens its files itself and writes where it is told to.
fn copied_disk(
    order: &RunOrder,
    image: &OpenImage,
    place: &Place,
    cancelled: &AtomicBool,
) -> Result<Disk, RunError> {
    let own = image.rootfs_path();
    if order.read_only && File::open(&own).is_ok() {
        return Ok(Disk {
            source: DiskSource::Path(own),
            access: Access::ReadOnly,
        });
    }
    let name = OsStr::new(ROOTFS);
    place.directory().copy_in(&image.rootfs, name, cancelled)?;
    Ok(Disk {
        source: DiskSource::Path(place.path(ROOTFS)),
        access: if order.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        },
    })
}

fn volume_disk(volume: &kiln_vmm::Volume) -> Result<Disk, RunError> {
    let refused = |source| RunError::Volume {
        path: volume.path.clone(),
        source,
    };
    // The monitor works elsewhere, and would say less clearly what is wrong.
    let path = std::path::absolute(&volume.path).map_err(refused)?;
    let mut options = File::options();
    options.read(true).write(!volume.read_only);
    options.open(&path).map_err(refused)?;
    Ok(Disk {
        source: DiskSource::Path(path),
        access: volume.access(),
    })
}

/// Shares the blocks of the image with a new file, where the file system can.
fn clone(rootfs: &File, place: &Place) -> Result<bool, FileError> {
    let target = place.create_file(ROOTFS)?;
    if rustix::fs::ioctl_ficlone(&target, rootfs).is_ok() {
        return Ok(true);
    }
    place.directory().remove(OsStr::new(ROOTFS))?;
    Ok(false)
}

fn kernel(
    image: &OpenImage,
    monitor: Monitor,
    place: &Place,
    cancelled: &AtomicBool,
) -> Result<PathBuf, RunError> {
    let path = place.path(KERNEL);
    if !monitor.is_qemu() {
        let out = place.create_file(KERNEL)?;
        match extract_elf(&image.kernel, &out, cancelled) {
            Ok(_) => return Ok(path),
            // It is what these monitors take as it is.
            Err(kiln_kernel::KernelError::NothingInside) => {
                place.directory().remove(OsStr::new(KERNEL))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let name = OsStr::new(KERNEL);
    place.directory().copy_in(&image.kernel, name, cancelled)?;
    Ok(path)
}

fn initrd(
    image: &OpenImage,
    instance: Option<&Instance>,
    place: &Place,
) -> Result<Option<PathBuf>, RunError> {
    let Some(initrd) = &image.initrd else {
        return Ok(None);
    };
    match instance {
        Some(instance) => {
            let archive = instance_archive(&instance.to_bytes()?)?;
            write(place, INITRD, &compose(initrd, &[&archive]))?;
        }
        None => write(place, INITRD, initrd)?,
    }
    Ok(Some(place.path(INITRD)))
}

fn write(place: &Place, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = place.create_file(name)?;
    let written = file.write_all(bytes);
    written.map_err(at("write", place.path(name)))
}

/// Lets a descriptor live on in the programs that this one starts, and returns its number.
fn passed_on(number: i32, file: &impl std::os::fd::AsFd) -> Result<i32, RunError> {
    rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())
        .map_err(|errno| RunError::host("pass a descriptor on", errno.into()))?;
    Ok(number)
}
