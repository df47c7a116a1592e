//! `kiln kernel check`: which monitors boot a kernel, and why or why not.

use clap::Args;
use kiln_api::kernel::{Check, Checked, Driver, KernelParams, Verdict};
use kiln_domain::KernelName;

use crate::failure::CommandError;
use crate::session::Session;
use crate::text::{cell, or_dash};

/// Which kernel to check.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is started: the answer comes from the kernel's format, its configuration (the file that
came with it, or what is embedded in it) and its modules. `kiln doctor` boots a guest.")]
pub(crate) struct Arguments {
    /// Name in the catalogue
    name: KernelName,
}

/// Checks.
pub(crate) async fn run(arguments: Arguments, session: &Session) -> Result<(), CommandError> {
    let client = session.connect().await?;
    let params = KernelParams {
        name: arguments.name,
    };
    let checked = session.call::<Check>(&client, &params).await?;
    let name = checked.kernel.name.to_string();
    session.output().one(&checked, &name, lines)
}

fn lines(checked: &Checked) -> String {
    let kernel = &checked.kernel;
    let configuration = match checked.configuration.as_str() {
        "file" => "known from its configuration file",
        "embedded" => "known from the configuration inside it",
        _ => "not known: it came without a configuration",
    };
    let first = format!(
        "{}  {}, {}; its options are {configuration}\n",
        cell(kernel.name.as_str()),
        or_dash(kernel.version.as_deref()),
        cell(&kernel.architecture),
    );
    let missing = checked
        .drivers
        .iter()
        .filter(|driver| driver.place == "missing");
    std::iter::once(first)
        .chain(checked.verdicts.iter().map(verdict_lines))
        .chain(missing.map(missing_line))
        .collect()
}

fn missing_line(driver: &Driver) -> String {
    format!(
        "without {} ({}): {}\n",
        cell(&driver.module),
        cell(&driver.option),
        cell(&driver.without)
    )
}

fn verdict_lines(verdict: &Verdict) -> String {
    let boots = match verdict.boots.as_str() {
        "yes" => "boots",
        "with_initrd" => "boots with the initrd that Kiln makes",
        "no" => "does not boot",
        _ => "may boot",
    };
    let first = format!("{:<17} {boots}\n", cell(&verdict.monitor));
    let reasons = verdict.reasons.iter();
    std::iter::once(first)
        .chain(reasons.map(|reason| format!("  {}\n", cell(&reason.text))))
        .collect()
}
