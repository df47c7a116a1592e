//! How an image boots: from what a caller asks and what the image's config says to what the
//! guest's init is told.
//!
//! ```text
//! caller's choice, kernel's own initrd? ─▶ mode and reason ─▶ kept with the version
//! image config ────────────────────────▶ boot.json ───────▶ the image's archive of the initrd
//! ```
//! The rules themselves are those of `kiln-boot`; composing an initrd is not here.

use kiln_api::image::{Boot as BootView, BootChoice};
use kiln_api::{Failure, codes};
use kiln_boot::{
    Boot, ChooseError, CommandWords, Container, EnvError, Environment, Mode, ParseSignalError,
    ReadError, choose_mode, compose_argv,
};
use kiln_domain::oci::ContainerConfig;

/// The init of an image about which nothing but its root filesystem is known.
const USUAL_INIT: &str = "/sbin/init";

/// How one version boots.
#[derive(Clone, Debug)]
pub(crate) struct BootPlan {
    /// What our init is told; nothing where it is not used.
    pub(crate) document: Option<Boot>,
    /// What is kept and shown.
    pub(crate) view: BootView,
}

/// Whether the kernel comes with an initrd of the caller's, which is used untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnInitrd {
    Given,
    None,
}

/// Why an image cannot boot as it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("the kernel comes with an initial ramdisk of its own, which Kiln does not change")]
    OwnInitrd,
    #[error(transparent)]
    Choose(#[from] ChooseError),
    #[error("the image's environment cannot be used")]
    Environment(#[from] EnvError),
    #[error("the image's stop signal cannot be used")]
    StopSignal(#[from] ParseSignalError),
    #[error("the image's config cannot be used")]
    Document(#[from] ReadError),
}

/// Refuses what can be refused before the image is known.
pub(crate) fn check_choice(choice: BootChoice, own: OwnInitrd) -> Result<(), BootError> {
    match (choice, own) {
        (BootChoice::Entrypoint | BootChoice::Init, OwnInitrd::Given) => Err(BootError::OwnInitrd),
        _ => Ok(()),
    }
}

/// Decides how an image boots. `config` is nothing for a registered root filesystem.
pub(crate) fn plan(
    choice: BootChoice,
    own: OwnInitrd,
    config: Option<&ContainerConfig>,
) -> Result<BootPlan, BootError> {
    check_choice(choice, own)?;
    if own == OwnInitrd::Given {
        let reason = "the kernel comes with an initial ramdisk of its own";
        return Ok(without_init(choice, reason.to_owned()));
    }
    let nothing_known = ContainerConfig::default();
    let image = config.unwrap_or(&nothing_known);
    let argv = compose_argv(&image.entrypoint, &image.cmd, CommandWords::default());
    if config.is_none() && choice == BootChoice::Auto {
        let mode = Mode::Init {
            path: USUAL_INIT.to_owned(),
        };
        let reason = "a registered root filesystem names no program".to_owned();
        return with_init(choice, mode, reason, Boot::new);
    }
    let container = Container {
        argv: &argv,
        labels: &image.labels,
    };
    let chosen = choose_mode(rule(choice), container)?;
    let Some(mode) = chosen.mode else {
        return Ok(without_init(choice, chosen.reason));
    };
    let document = document(image, told_to(&mode, argv))?;
    with_init(choice, mode, chosen.reason, |mode| Boot {
        mode,
        ..document
    })
}

/// Returns the command that process 1 gets. An image's command is its init's only where it names
/// that init: an init that is told to be a shell is one.
fn told_to(mode: &Mode, argv: Vec<String>) -> Vec<String> {
    match mode {
        Mode::Init { path } if argv.first() != Some(path) => vec![path.clone()],
        Mode::Init { .. } | Mode::Entrypoint => argv,
    }
}

/// Describes the program of an image; the mode is put in later.
fn document(image: &ContainerConfig, argv: Vec<String>) -> Result<Boot, BootError> {
    // What init would refuse is refused now, while somebody is there to hear it.
    Environment::from_entries(&image.env)?;
    let mut boot = Boot::new(Mode::Entrypoint);
    boot.argv = argv;
    boot.env.clone_from(&image.env);
    boot.user.clone_from(&image.user);
    boot.workdir = straight(&image.working_dir);
    if !image.stop_signal.is_empty() {
        boot.stop_signal = image.stop_signal.parse()?;
    }
    boot.volumes = image.volumes.0.iter().map(|path| straight(path)).collect();
    Ok(boot)
}

/// Makes a path absolute and straight, as container runtimes do: from the top of the image, with
/// `.` and `..` taken out.
fn straight(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn with_init(
    choice: BootChoice,
    mode: Mode,
    reason: String,
    document: impl FnOnce(Mode) -> Boot,
) -> Result<BootPlan, BootError> {
    let (shown, init_path) = match &mode {
        Mode::Entrypoint => (BootChoice::Entrypoint, None),
        Mode::Init { path } => (BootChoice::Init, Some(path.clone())),
    };
    let document = document(mode);
    // Whatever cannot be written cannot be booted either.
    document.to_bytes()?;
    Ok(BootPlan {
        document: Some(document),
        view: BootView {
            choice,
            mode: shown,
            init_path,
            reason,
            monitors: Vec::new(),
            disk: None,
        },
    })
}

fn without_init(choice: BootChoice, reason: String) -> BootPlan {
    BootPlan {
        document: None,
        view: BootView {
            choice,
            mode: BootChoice::None,
            init_path: None,
            reason,
            monitors: Vec::new(),
            disk: None,
        },
    }
}

fn rule(choice: BootChoice) -> kiln_boot::BootChoice {
    match choice {
        BootChoice::Auto => kiln_boot::BootChoice::Auto,
        BootChoice::Entrypoint => kiln_boot::BootChoice::Entrypoint,
        BootChoice::Init => kiln_boot::BootChoice::Init,
        BootChoice::None => kiln_boot::BootChoice::None,
    }
}

/// Gives an error its code.
pub(crate) fn boot_failure(error: &BootError) -> Failure {
    match error {
        BootError::OwnInitrd => Failure::from_error(codes::kernel::CHOICE_CONFLICT, error)
            .with_hint(
                "leave --boot out, or name a kernel without an initial ramdisk",
                None,
            ),
        BootError::Choose(ChooseError::NothingToRun) => {
            Failure::from_error(codes::boot::NOTHING_TO_RUN, error).with_hint(
                "boot the image's own init with --boot init, or make it without Kiln's with --boot none",
                None,
            )
        }
        BootError::Choose(ChooseError::UnknownLabel { .. })
        | BootError::Environment(_)
        | BootError::StopSignal(_)
        | BootError::Document(_) => Failure::from_error(codes::boot::INVALID_CONFIG, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> ContainerConfig {
        serde_json::from_value(json).unwrap()
    }

    fn plan_of(json: serde_json::Value) -> Result<BootPlan, BootError> {
        plan(BootChoice::Auto, OwnInitrd::None, Some(&config(json)))
    }

    #[test]
    fn what_a_config_says_is_what_init_is_told() {
        let plan = plan_of(serde_json::json!({
            "Entrypoint": ["/bin/serve"], "Cmd": ["--port", "80"], "Env": ["A=1", "B"],
            "User": "app:web", "WorkingDir": "srv/./app/../data/", "StopSignal": "SIGQUIT",
            "Volumes": {"/var/lib/data": {}, "cache": {}},
        }))
        .unwrap();

        let boot = plan.document.unwrap();
        assert_eq!(boot.mode, Mode::Entrypoint);
        assert_eq!(boot.argv, ["/bin/serve", "--port", "80"]);
        assert_eq!(boot.env, ["A=1", "B"]);
        assert_eq!(boot.user, "app:web");
        assert_eq!(boot.workdir, "/srv/data");
        assert_eq!(boot.stop_signal, "SIGQUIT".parse().unwrap());
        assert_eq!(boot.volumes, ["/var/lib/data", "/cache"]);
        let want = BootView {
            choice: BootChoice::Auto,
            mode: BootChoice::Entrypoint,
            init_path: None,
            reason: "the image's command is no init".to_owned(),
            monitors: Vec::new(),
            disk: None,
        };
        assert_eq!(plan.view, want);
    }

    #[test]
    fn an_image_without_a_program_is_refused_unless_nobody_wants_one() {
        let empty = ContainerConfig::default();
        let cases = [
            (BootChoice::Auto, OwnInitrd::None, None),
            (BootChoice::Entrypoint, OwnInitrd::None, None),
            (BootChoice::Init, OwnInitrd::None, Some(BootChoice::Init)),
            (BootChoice::None, OwnInitrd::None, Some(BootChoice::None)),
            (BootChoice::Auto, OwnInitrd::Given, Some(BootChoice::None)),
            (BootChoice::None, OwnInitrd::Given, Some(BootChoice::None)),
        ];
        for (choice, own, want) in cases {
            let planned = plan(choice, own, Some(&empty));
            match (planned, want) {
                (Ok(plan), want) => assert_eq!(Some(plan.view.mode), want, "{choice:?} {own:?}"),
                (Err(error), None) => {
                    assert!(
                        boot_failure(&error).is(codes::boot::NOTHING_TO_RUN),
                        "{error}"
                    );
                }
                (Err(error), Some(_)) => panic!("{choice:?} {own:?}: {error}"),
            }
        }
    }

    #[test]
    fn an_init_is_not_told_the_command_of_another_program() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["/bin/sh", "-l"], &["/sbin/init"]),
            (&[], &["/sbin/init"]),
            (&["/sbin/init", "3"], &["/sbin/init", "3"]),
            (&["/lib/systemd/systemd"], &["/lib/systemd/systemd"]),
        ];
        for (cmd, want) in cases {
            let image = config(serde_json::json!({ "Cmd": cmd }));

            let planned = plan(BootChoice::Init, OwnInitrd::None, Some(&image)).unwrap();

            assert_eq!(planned.document.unwrap().argv, *want, "{cmd:?}");
        }
    }

    #[test]
    fn an_initrd_of_the_callers_goes_with_no_init_of_ours() {
        for choice in [BootChoice::Entrypoint, BootChoice::Init] {
            let error = plan(choice, OwnInitrd::Given, None).unwrap_err();
            assert!(
                boot_failure(&error).is(codes::kernel::CHOICE_CONFLICT),
                "{error}"
            );
        }
    }

    #[test]
    fn a_registered_root_filesystem_boots_its_init() {
        let planned = plan(BootChoice::Auto, OwnInitrd::None, None).unwrap();

        assert_eq!(planned.view.init_path.as_deref(), Some("/sbin/init"));
        let mode = planned.document.unwrap().mode;
        let path = "/sbin/init".to_owned();
        assert_eq!(mode, Mode::Init { path });
    }

    #[test]
    fn a_config_that_cannot_be_is_refused_with_its_part() {
        let cases = [
            (
                serde_json::json!({"Cmd": ["a"], "Env": ["=x"]}),
                "the image's environment cannot be used",
            ),
            (
                serde_json::json!({"Cmd": ["a"], "StopSignal": "SIGNOPE"}),
                "the image's stop signal cannot be used",
            ),
            (
                serde_json::json!({"Cmd": ["a\0b"]}),
                "the image's config cannot be used",
            ),
            (
                serde_json::json!({"Cmd": ["a"], "Labels": {"kiln.boot": "x"}}),
                "the image's label kiln.boot is \"x\"; known are init and entrypoint",
            ),
        ];
        for (json, want) in cases {
            let error = plan_of(json).unwrap_err();
            assert_eq!(error.to_string(), want);
            assert!(
                boot_failure(&error).is(codes::boot::INVALID_CONFIG),
                "{want}"
            );
        }
    }
}
