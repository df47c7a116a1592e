//! How a guest's program ends other than by itself, and how a guest is stopped from outside.

use anyhow::Result;
use kiln_boot::{Boot, Mode, Outcome, StopSignal};

use crate::entrypoint::words;
use crate::guest::{BUTTON_MODULES, Guest, Machine, Parts, Writes, assert_lines, outcome};
use crate::image;

/// Answers the stop signal of the image, and tells what else it hears.
const OBEY: &str = r#"
trap 'echo "heard: USR1"; exit 7' USR1
trap 'echo "heard: HUP"' HUP
kill -HUP 1
echo "ready: $$"
while true; do sleep 0.1; done
"#;

/// Does not answer any.
const IGNORE: &str = r#"
trap '' TERM
echo "ready: $$"
while true; do sleep 0.1; done
"#;

fn boot(argv: &str) -> Boot {
    let mut boot = Boot::new(Mode::Entrypoint);
    boot.argv = words(argv);
    boot
}

#[test]
fn keys_and_button_stop_the_program() -> Result<()> {
    let Some(parts) = Parts::for_test("keys_and_button_stop_the_program")? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let extra = [
        image::script("bin/obey", OBEY),
        image::script("bin/ignore", IGNORE),
    ];
    image::build(&parts.fixtures, &extra, &rootfs)?;
    let mut obeying = boot("obey");
    obeying.stop_signal = "SIGUSR1".parse()?;
    let mut ignoring = boot("ignore");
    ignoring.stop_grace_seconds = 1;

    let mut keys = Guest::new(&parts, obeying)
        .machine(Machine::Q35)
        .disk(&rootfs, Writes::Dropped)
        .start()?;
    keys.wait_for("heard: HUP")?;
    keys.monitor("sendkey ctrl-alt-delete")?;
    let keys = keys.finish()?;
    // Of a microvm: it has no keyboard, so the button is all there is.
    let mut button = Guest::new(&parts, ignoring)
        .modules(BUTTON_MODULES)
        .disk(&rootfs, Writes::Dropped)
        .start()?;
    button.wait_for("ready: ")?;
    button.monitor("system_powerdown")?;
    let button = button.finish()?;

    assert_lines(&keys, &["heard: USR1"]);
    assert_eq!(outcome(&keys)?, Outcome::Exited { exit: 7 });
    let killed = Outcome::Signalled {
        signal: StopSignal::KILL,
        oom: false,
    };
    let told = "kiln-init: the program did not stop within 1 s and is killed";
    assert_lines(&button, &[told]);
    assert_eq!(outcome(&button)?, killed);
    Ok(())
}

#[test]
fn a_signal_that_ends_the_program_is_named() -> Result<()> {
    let Some(parts) = Parts::for_test("a_signal_that_ends_the_program_is_named")? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let hungry = "x=xxxxxxxxxxxxxxxx\nwhile true; do x=$x$x; done";
    let extra = [image::script("bin/hungry", hungry)];
    image::build(&parts.fixtures, &extra, &rootfs)?;
    let mut dying = boot("");
    dying.argv = ["sh", "-c", "kill -SEGV $$"].map(str::to_owned).to_vec();
    let restart = "reboot: Restarting system";
    let cases = [
        (dying, "kiln.end=reboot", "SIGSEGV", false, restart),
        (boot("hungry"), "", "SIGKILL", true, "reboot: Power down"),
    ];

    for (boot, argument, signal, oom, end) in cases {
        let console = Guest::new(&parts, boot)
            .argument(argument)
            .disk(&rootfs, Writes::Dropped)
            .run()?;

        let signal = signal.parse()?;
        assert_eq!(outcome(&console)?, Outcome::Signalled { signal, oom });
        assert!(console.contains(end), "{console}");
    }
    Ok(())
}
