//! What is known about booting a kernel of the catalogue, in the words of the wire.
//!
//! The verdicts are those of `kiln-kernel`; nothing is started.

use std::sync::atomic::AtomicBool;

use kiln_api::kernel::{Checked, Driver, Kernel, Reason, Verdict};
use kiln_api::{Failure, codes};
use kiln_domain::KernelName;
use kiln_kernel::{
    Boots, Catalogue, DriverPlan, KnownError, KnownKernel, Lack, LoadOrderError, Monitor,
    WANTED_DRIVERS, WantedDriver, Weight, plan_drivers,
};

use crate::failures::catalogue_failure;

/// Where the options of a kernel were read.
#[derive(Clone, Copy, Debug)]
enum Configuration {
    File,
    Embedded,
    None,
}

/// What a kernel told.
#[derive(Debug)]
pub(super) struct Known {
    configuration: Configuration,
    verdicts: Vec<kiln_kernel::Verdict>,
    drivers: DriverPlan,
}

/// Reads what a kernel tells. It blocks.
pub(super) fn look(catalogue: &Catalogue, name: &KernelName) -> Result<Known, Failure> {
    let kernel = catalogue
        .get(name.as_str())
        .map_err(|error| catalogue_failure(&error))?
        .ok_or_else(|| {
            let message = format!("the catalogue has no kernel named {name}");
            Failure::new(codes::kernel::NOT_FOUND, message)
        })?;
    let (folder, go_on) = (kernel.folder(), AtomicBool::new(false));
    let config = folder.read_config(&go_on).map_err(|error| known(&error))?;
    let configuration = match (&config, kernel.config) {
        (None, _) => Configuration::None,
        (Some(_), Some(_)) => Configuration::File,
        (Some(_), None) => Configuration::Embedded,
    };
    let modules = folder.open_modules(&go_on);
    let mut modules = modules.map_err(|error| known(&error))?;
    // An image gets it in this form.
    let facts = kernel.facts.as_started();
    let verdicts = Monitor::ALL.iter().map(|monitor| {
        let known = KnownKernel {
            facts: &facts,
            config: config.as_ref(),
            modules: modules.as_ref().map(kiln_kernel::ModuleTree::names),
        };
        kiln_kernel::check(known, *monitor)
    });
    let verdicts = verdicts.collect();
    let drivers = plan_drivers(
        WANTED_DRIVERS,
        modules.as_mut(),
        config.as_ref(),
        folder.module_host(),
    )
    .map_err(|error| order(&error))?;
    Ok(Known {
        configuration,
        verdicts,
        drivers,
    })
}

impl Known {
    /// Shows it, with the kernel it is about.
    pub(super) fn checked(self, kernel: Kernel) -> Checked {
        let configuration = match self.configuration {
            Configuration::File => "file",
            Configuration::Embedded => "embedded",
            Configuration::None => "none",
        };
        let drivers = WANTED_DRIVERS.iter();
        Checked {
            kernel,
            configuration: configuration.to_owned(),
            drivers: drivers
                .map(|driver| Driver {
                    module: driver.module.to_owned(),
                    option: driver.option.to_owned(),
                    place: place(&self.drivers, driver).to_owned(),
                    without: driver.without.to_owned(),
                })
                .collect(),
            verdicts: self.verdicts.into_iter().map(verdict).collect(),
        }
    }
}

fn place(plan: &DriverPlan, driver: &WantedDriver) -> &'static str {
    let missing = plan.missing.iter();
    if plan.built_in.contains(driver) {
        "built_in"
    } else if plan.as_modules.contains(driver) {
        "module"
    } else if missing
        .filter(|missing| missing.driver == *driver)
        .any(|missing| missing.why == Lack::Unknown)
    {
        "unknown"
    } else {
        "missing"
    }
}

fn verdict(verdict: kiln_kernel::Verdict) -> Verdict {
    let boots = match verdict.boots {
        Boots::Yes => "yes",
        Boots::WithInitrd => "with_initrd",
        Boots::No => "no",
        Boots::Unknown => "unknown",
    };
    Verdict {
        monitor: verdict.monitor.as_str().to_owned(),
        boots: boots.to_owned(),
        reasons: verdict.reasons.into_iter().map(reason).collect(),
        modules: verdict.modules.into_iter().map(str::to_owned).collect(),
    }
}

fn reason(reason: kiln_kernel::Reason) -> Reason {
    let weight = match reason.weight {
        Weight::Blocks => "blocks",
        Weight::Unknown => "unknown",
        Weight::NeedsModule => "needs_module",
        Weight::Note => "note",
    };
    Reason {
        weight: weight.to_owned(),
        text: reason.text,
    }
}

fn known(error: &KnownError) -> Failure {
    let code = match error {
        KnownError::Config { .. } => codes::kernel::UNRECOGNISED,
        KnownError::Modules(_) => codes::kernel::BROKEN_MODULES,
        KnownError::File(_) => codes::storage::FAILED,
    };
    Failure::from_error(code, error)
}

fn order(error: &LoadOrderError) -> Failure {
    Failure::from_error(codes::kernel::BROKEN_MODULES, error)
}
