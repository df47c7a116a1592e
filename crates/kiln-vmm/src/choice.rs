//! Which monitor runs a machine: what the caller wishes, what is installed, what really works.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::monitor::{Accelerator, Architecture, Monitor};
use crate::probe;

/// The monitors that are installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    found: Vec<(Monitor, PathBuf)>,
}

/// What a caller wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// A certain monitor.
    pub monitor: Option<Monitor>,
    /// A certain accelerator; it is believed to work.
    pub accelerator: Option<Accelerator>,
    /// The guest's processor.
    pub architecture: Architecture,
    /// Monitors that nothing is known to keep from booting the image; none where nothing is known.
    /// A certain monitor need not be among them.
    pub bootable: Vec<Monitor>,
}

/// What runs a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The monitor.
    pub monitor: Monitor,
    /// What executes the machine.
    pub accelerator: Accelerator,
    /// The monitor's program.
    pub program: PathBuf,
}

/// Why nothing runs a machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// The monitor that was wished for is not there.
    #[error("{program} is not on PATH")]
    NotInstalled {
        /// Its program.
        program: &'static str,
    },
    /// No monitor is there.
    #[error("none of {programs} is on PATH")]
    NoneInstalled {
        /// Their programs.
        programs: String,
    },
    /// Some monitor is there, but none that boots the image.
    #[error("the image's kernel boots under {bootable} only, and that is not installed")]
    NoneBootable {
        /// What does.
        bootable: String,
    },
    /// What is there needs KVM, which does not work.
    #[error("{monitor} needs KVM, which does not work here: {why}")]
    NoKvm {
        /// The monitor.
        monitor: Monitor,
        /// Why KVM does not work.
        why: String,
    },
    /// The monitor that was wished for has no emulation.
    #[error("{monitor} cannot emulate; it needs KVM")]
    NoEmulation {
        /// The monitor.
        monitor: Monitor,
    },
}

impl Installed {
    /// Looks for the programs that run guests of an architecture in the directories of `path`.
    pub fn look(path: Option<&OsStr>, architecture: Architecture) -> Self {
        let found = Monitor::ALL.into_iter().filter_map(|monitor| {
            let program = probe::on_path(path, monitor.program(architecture))?;
            Some((monitor, program))
        });
        Self {
            found: found.collect(),
        }
    }

    /// Returns what was found, in the order in which it is tried.
    pub fn found(&self) -> &[(Monitor, PathBuf)] {
        &self.found
    }

    /// Returns QEMU's program.
    pub fn qemu(&self) -> Option<&Path> {
        let qemu = self.found.iter().find(|(monitor, _)| monitor.is_qemu());
        qemu.map(|(_, program)| program.as_path())
    }
}

/// Chooses: the first of the installed monitors that really works. `kvm` tells whether KVM does,
/// and is asked only where the answer decides.
pub fn choose(
    installed: &Installed,
    wish: &Wish,
    kvm: impl FnOnce() -> Result<(), String>,
) -> Result<Choice, ChoiceError> {
    let candidates = candidates(installed, wish)?;
    let first_on = |accelerator| {
        let emulates = |monitor: Monitor| accelerator == Accelerator::Kvm || monitor.is_qemu();
        let found = candidates.iter().find(|(monitor, _)| emulates(*monitor));
        found.map(|(monitor, program)| Choice {
            monitor: *monitor,
            accelerator,
            program: program.clone(),
        })
    };
    let first = candidates.first().map(|(monitor, _)| *monitor);
    let no_emulation = || ChoiceError::NoEmulation {
        // The candidates are never none.
        monitor: first.unwrap_or(Monitor::Firecracker),
    };
    match wish.accelerator {
        Some(Accelerator::Tcg) => first_on(Accelerator::Tcg).ok_or_else(no_emulation),
        Some(Accelerator::Kvm) => first_on(Accelerator::Kvm).ok_or_else(no_emulation),
        None => {
            let works = if Some(wish.architecture) == Architecture::HOST {
                kvm()
            } else {
                Err(format!("the host does not execute {}", wish.architecture))
            };
            match works {
                Ok(()) => first_on(Accelerator::Kvm).ok_or_else(no_emulation),
                Err(why) => first_on(Accelerator::Tcg).ok_or_else(|| ChoiceError::NoKvm {
                    monitor: first.unwrap_or(Monitor::Firecracker),
                    why,
                }),
            }
        }
    }
}

/// Returns what is installed and wished for; never nothing.
fn candidates(installed: &Installed, wish: &Wish) -> Result<Vec<(Monitor, PathBuf)>, ChoiceError> {
    let boots = |monitor| wish.bootable.is_empty() || wish.bootable.contains(&monitor);
    let is_wished = |monitor| match wish.monitor {
        Some(wished) => wished == monitor,
        None => boots(monitor),
    };
    let found: Vec<_> = installed
        .found
        .iter()
        .filter(|(monitor, _)| is_wished(*monitor))
        .cloned()
        .collect();
    match wish.monitor {
        _ if !found.is_empty() => Ok(found),
        Some(monitor) => Err(ChoiceError::NotInstalled {
            program: monitor.program(wish.architecture),
        }),
        None if !installed.found.is_empty() => {
            let bootable: Vec<&str> = wish.bootable.iter().map(|one| one.as_str()).collect();
            Err(ChoiceError::NoneBootable {
                bootable: bootable.join(" or "),
            })
        }
        None => {
            let mut programs: Vec<&str> = Monitor::ALL
                .iter()
                .map(|monitor| monitor.program(wish.architecture))
                .collect();
            programs.dedup();
            Err(ChoiceError::NoneInstalled {
                programs: programs.join(", "),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Architecture = match Architecture::HOST {
        Some(host) => host,
        None => Architecture::Amd64,
    };

    fn installed(monitors: &[Monitor]) -> Installed {
        let found = monitors
            .iter()
            .map(|monitor| (*monitor, PathBuf::from("/bin").join(monitor.program(HOST))));
        Installed {
            found: found.collect(),
        }
    }

    fn chosen(
        monitors: &[Monitor],
        bootable: &[Monitor],
        wish: (Option<Monitor>, Option<Accelerator>),
        kvm: Option<&str>,
    ) -> Result<(Monitor, Accelerator), String> {
        let wish = Wish {
            monitor: wish.0,
            accelerator: wish.1,
            architecture: HOST,
            bootable: bootable.to_vec(),
        };
        let kvm = || kvm.map_or(Ok(()), |why| Err(why.to_owned()));
        choose(&installed(monitors), &wish, kvm)
            .map(|choice| (choice.monitor, choice.accelerator))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_that_works_is_chosen() {
        type Case<'a> = (
            &'a [Monitor],
            (Option<Monitor>, Option<Accelerator>),
            Option<&'a str>,
            Result<(Monitor, Accelerator), &'a str>,
        );
        use Accelerator::{Kvm, Tcg};
        use Monitor::{CloudHypervisor, Firecracker, QemuMicrovm, QemuQ35};
        let all = Monitor::ALL;
        let hangs = Some("it hangs");
        let works = None;
        let cases: &[Case<'_>] = &[
            (&all, (None, None), works, Ok((QemuMicrovm, Kvm))),
            (&all, (None, None), hangs, Ok((QemuMicrovm, Tcg))),
            (&all, (Some(QemuQ35), None), hangs, Ok((QemuQ35, Tcg))),
            (&all, (None, Some(Kvm)), hangs, Ok((QemuMicrovm, Kvm))),
            (&all, (None, Some(Tcg)), works, Ok((QemuMicrovm, Tcg))),
            (
                &all,
                (Some(Firecracker), None),
                works,
                Ok((Firecracker, Kvm)),
            ),
            (
                &all,
                (Some(Firecracker), None),
                hangs,
                Err("firecracker needs KVM, which does not work here: it hangs"),
            ),
            (
                &all,
                (Some(Firecracker), Some(Tcg)),
                works,
                Err("firecracker cannot emulate; it needs KVM"),
            ),
            (
                &[CloudHypervisor],
                (None, None),
                works,
                Ok((CloudHypervisor, Kvm)),
            ),
            (
                &[CloudHypervisor],
                (None, None),
                hangs,
                Err("cloud-hypervisor needs KVM, which does not work here: it hangs"),
            ),
            (
                &[QemuMicrovm, QemuQ35],
                (Some(Firecracker), None),
                works,
                Err("firecracker is not on PATH"),
            ),
        ];
        for (monitors, wish, kvm, want) in cases {
            let got = chosen(monitors, &[], *wish, *kvm);
            assert_eq!(
                got,
                want.map_err(str::to_owned),
                "{monitors:?} {wish:?} {kvm:?}"
            );
        }
    }

    #[test]
    fn what_does_not_boot_the_image_is_chosen_only_when_it_is_asked_for() {
        type Case<'a> = (
            &'a [Monitor],
            Option<Monitor>,
            Option<&'a str>,
            Result<(Monitor, Accelerator), &'a str>,
        );
        use Accelerator::{Kvm, Tcg};
        use Monitor::{CloudHypervisor, Firecracker, QemuMicrovm, QemuQ35};
        let hangs = Some("it hangs");
        let cases: &[Case<'_>] = &[
            (&[QemuQ35, CloudHypervisor], None, hangs, Ok((QemuQ35, Tcg))),
            (&[CloudHypervisor, QemuQ35], None, None, Ok((QemuQ35, Kvm))),
            (&[Firecracker, QemuQ35], None, hangs, Ok((QemuQ35, Tcg))),
            (&[], None, hangs, Ok((QemuMicrovm, Tcg))),
            (&[QemuQ35], Some(QemuMicrovm), hangs, Ok((QemuMicrovm, Tcg))),
            (
                &[CloudHypervisor],
                None,
                None,
                Err(
                    "the image's kernel boots under cloud-hypervisor only, and that is not installed",
                ),
            ),
        ];
        for (bootable, wished, kvm, want) in cases {
            let installed = [QemuMicrovm, QemuQ35, Firecracker];
            let got = chosen(&installed, bootable, (*wished, None), *kvm);
            assert_eq!(got, want.map_err(str::to_owned), "{bootable:?} {wished:?}");
        }
    }

    #[test]
    fn kvm_is_asked_only_where_it_decides() {
        let asked = |accelerator, architecture| {
            let mut asked = false;
            let wish = Wish {
                monitor: None,
                accelerator,
                architecture,
                bootable: Vec::new(),
            };
            let kvm = || {
                asked = true;
                Ok(())
            };
            choose(&installed(&Monitor::ALL), &wish, kvm).unwrap();
            asked
        };
        let other = match HOST {
            Architecture::Amd64 => Architecture::Arm64,
            Architecture::Arm64 => Architecture::Amd64,
        };

        assert_eq!(asked(None, HOST), Architecture::HOST.is_some());
        assert!(!asked(Some(Accelerator::Tcg), HOST));
        assert!(!asked(Some(Accelerator::Kvm), HOST));
        assert!(!asked(None, other));
    }

    #[test]
    fn nothing_installed_names_what_could_be() {
        let wish = Wish {
            monitor: None,
            accelerator: None,
            architecture: Architecture::Arm64,
            bootable: vec![Monitor::QemuQ35],
        };
        let refused = choose(&Installed::default(), &wish, || Ok(()));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "none of qemu-system-aarch64, firecracker, cloud-hypervisor is on PATH"
        );
    }
}
