//! Whether a guest runs the image's entrypoint or the image's own init, and why.

use std::collections::BTreeMap;

use crate::boot::Mode;

/// The label by which an image says how it wants to boot: `init` or `entrypoint`.
pub const BOOT_LABEL: &str = "kiln.boot";

/// Programs that are an init: they expect to be process 1 and to start everything else.
const INITS: &[&str] = &[
    "/sbin/init",
    "/usr/sbin/init",
    "/bin/init",
    "/usr/bin/init",
    "/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/bin/systemd",
    "/usr/bin/systemd",
];

/// The init that is started where one is asked for and the image's command names none.
const USUAL_INIT: &str = "/sbin/init";

/// How a caller wants a guest to boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootChoice {
    /// As the image's config suggests.
    #[default]
    Auto,
    /// The image's entrypoint, under our init.
    Entrypoint,
    /// The image's own init.
    Init,
    /// Nothing of ours: the kernel starts what the image has.
    None,
}

/// The parts of an image's config that decide; names are those of the OCI image specification.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// The command after everything that replaces it: Entrypoint, then Cmd.
    pub argv: &'a [String],
    /// The image's labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// How to boot; nothing where our init is not wanted at all.
    pub mode: Option<Mode>,
    /// Why, as part of a sentence for people, such as `the image's command is /sbin/init`.
    pub reason: String,
}

/// Why nothing can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// There is nothing to run.
    #[error("the image has neither an entrypoint nor a command; give a command, or boot its init")]
    NothingToRun,
    /// The label has a value that means nothing.
    #[error("the image's label {BOOT_LABEL} is {value:?}; known are init and entrypoint")]
    UnknownLabel {
        /// The value.
        value: String,
    },
}

/// Chooses how a guest boots. A caller's word beats the label, the label beats the command.
pub fn choose_mode(choice: BootChoice, container: Container<'_>) -> Result<Chosen, ChooseError> {
    match choice {
        BootChoice::None => Ok(Chosen {
            mode: None,
            reason: "the caller asked for no init".to_owned(),
        }),
        BootChoice::Init => Ok(init(
            container.argv,
            "the caller asked for the image's init",
        )),
        BootChoice::Entrypoint => entrypoint(container.argv, "the caller asked for the entrypoint"),
        BootChoice::Auto => by_image(container),
    }
}

fn by_image(container: Container<'_>) -> Result<Chosen, ChooseError> {
    let reason = |value: &str| format!("the image's label {BOOT_LABEL} is {value}");
    match container.labels.get(BOOT_LABEL).map(String::as_str) {
        Some("init") => Ok(init(container.argv, &reason("init"))),
        Some("entrypoint") => entrypoint(container.argv, &reason("entrypoint")),
        Some(value) => Err(ChooseError::UnknownLabel {
            value: value.to_owned(),
        }),
        None => match container.argv.first() {
            Some(program) if is_init(program) => Ok(init(
                container.argv,
                &format!("the image's command is {program}"),
            )),
            _ => entrypoint(container.argv, "the image's command is no init"),
        },
    }
}

fn init(argv: &[String], reason: &str) -> Chosen {
    let named = argv.first().filter(|program| is_init(program));
    let path = named.map_or(USUAL_INIT, String::as_str).to_owned();
    Chosen {
        mode: Some(Mode::Init { path }),
        reason: reason.to_owned(),
    }
}

fn entrypoint(argv: &[String], reason: &str) -> Result<Chosen, ChooseError> {
    if argv.is_empty() {
        return Err(ChooseError::NothingToRun);
    }
    Ok(Chosen {
        mode: Some(Mode::Entrypoint),
        reason: reason.to_owned(),
    })
}

fn is_init(program: &str) -> bool {
    INITS.contains(&program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(choice: BootChoice, label: &str, argv: &str, want: Result<(&str, &str), &str>) {
        let argv: Vec<String> = argv.split_whitespace().map(str::to_owned).collect();
        let labels = [(BOOT_LABEL.to_owned(), label.to_owned())];
        let labels = labels
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let container = Container {
            argv: &argv,
            labels: &labels,
        };
        let shown = |mode: Option<Mode>| match mode {
            None => "none".to_owned(),
            Some(Mode::Entrypoint) => "entrypoint".to_owned(),
            Some(Mode::Init { path }) => path,
        };
        let got = choose_mode(choice, container)
            .map(|chosen| (shown(chosen.mode), chosen.reason))
            .map_err(|error| error.to_string());
        let want = want
            .map(|(mode, reason)| (mode.to_owned(), reason.to_owned()))
            .map_err(str::to_owned);
        assert_eq!(got, want, "{choice:?} {label:?} {argv:?}");
    }

    #[test]
    fn the_caller_beats_the_label_and_the_label_beats_the_command() {
        use BootChoice::{Auto, Entrypoint, Init, None};
        let nothing =
            "the image has neither an entrypoint nor a command; give a command, or boot its init";
        let asked = "the caller asked for the entrypoint";
        let asked_init = "the caller asked for the image's init";
        let no_init = "the image's command is no init";
        check(Auto, "", "nginx -g x", Ok(("entrypoint", no_init)));
        check(Auto, "", "init", Ok(("entrypoint", no_init)));
        check(
            Auto,
            "",
            "/sbin/init",
            Ok(("/sbin/init", "the image's command is /sbin/init")),
        );
        check(
            Auto,
            "",
            "/init sh",
            Ok(("/init", "the image's command is /init")),
        );
        let systemd = "/lib/systemd/systemd";
        let reason = "the image's command is /lib/systemd/systemd";
        check(Auto, "", systemd, Ok((systemd, reason)));
        let label = "the image's label kiln.boot is init";
        check(Auto, "init", "bash", Ok(("/sbin/init", label)));
        check(Auto, "init", "/init", Ok(("/init", label)));
        check(Auto, "init", "", Ok(("/sbin/init", label)));
        let label = "the image's label kiln.boot is entrypoint";
        check(Auto, "entrypoint", "/sbin/init", Ok(("entrypoint", label)));
        let unknown = "the image's label kiln.boot is \"x\"; known are init and entrypoint";
        check(Auto, "x", "bash", Err(unknown));
        check(Init, "entrypoint", "bash", Ok(("/sbin/init", asked_init)));
        check(Init, "x", systemd, Ok((systemd, asked_init)));
        check(Entrypoint, "init", "/sbin/init", Ok(("entrypoint", asked)));
        check(None, "x", "", Ok(("none", "the caller asked for no init")));
        for (choice, label) in [(Auto, ""), (Auto, "entrypoint"), (Entrypoint, "")] {
            check(choice, label, "", Err(nothing));
        }
    }
}
