use kiln_boot::StopSignal;

use super::*;

/// Exit statuses as `wait` has them.
const CLEAN: i32 = 0;
const FAILED: i32 = 1 << 8;
const KILLED: i32 = 9;
const ABORTED: i32 = 6;

fn judge(
    end: &End,
    reports: bool,
    status: i32,
    shutdown: Option<Shutdown>,
) -> (u8, bool, Option<String>) {
    let seen = Seen {
        status: ExitStatus::from_raw(status),
        shutdown,
        words: "no such cpu".to_owned(),
    };
    let ended = judged(end, reports, &seen);
    (ended.exit_code, ended.is_heard, ended.reason)
}

#[test]
fn what_the_guest_says_is_believed() {
    let killed = |oom| Outcome::Signalled {
        signal: StopSignal::KILL,
        oom,
    };
    let failed = Outcome::Failed {
        error: "no user".to_owned(),
        exit: 125,
    };
    let cases = [
        (Outcome::Exited { exit: 0 }, 0, None),
        (Outcome::Exited { exit: 42 }, 42, None),
        (killed(false), 137, Some("SIGKILL ended the program")),
        (
            killed(true),
            137,
            Some("SIGKILL ended the program, out of memory"),
        ),
        (failed, 125, Some("no user")),
    ];
    for (outcome, code, reason) in cases {
        // Also where the machine was killed afterwards.
        for was_killed in [false, true] {
            let end = End {
                report: Some(outcome.clone()),
                was_killed,
                ..End::default()
            };
            let want = (code, true, reason.map(str::to_owned));
            let status = if was_killed { KILLED } else { CLEAN };
            for shutdown in [None, Some(Shutdown::SwitchedOff), Some(Shutdown::Reset)] {
                assert_eq!(judge(&end, true, status, shutdown), want);
            }
        }
    }
}

#[test]
fn without_a_report_the_machine_itself_tells() {
    let quiet = End::default();
    let asked = End {
        was_asked: true,
        ..End::default()
    };
    let killed = End {
        was_killed: true,
        ..asked.clone()
    };
    let unread = End {
        reader_is_gone: true,
        was_killed: true,
        ..End::default()
    };
    let silent = "the machine ended and did not say how its program did";
    let reset = "the machine was reset: its kernel panicked or it rebooted itself; \
                 kiln run does not start it again";
    let off = Some(Shutdown::SwitchedOff);
    let none = (0, true, None);
    let cases = [
        (&quiet, false, CLEAN, None, none),
        (&quiet, false, CLEAN, off, none),
        (
            &asked,
            false,
            CLEAN,
            off,
            (143, false, Some("the machine was stopped")),
        ),
        (&quiet, true, CLEAN, None, (125, false, Some(silent))),
        (
            &quiet,
            true,
            CLEAN,
            off,
            (
                125,
                false,
                Some("the machine was switched off before its program's end was told"),
            ),
        ),
        (
            &quiet,
            true,
            KILLED,
            None,
            (137, false, Some("the machine was killed (signal 9)")),
        ),
        (
            &quiet,
            false,
            KILLED,
            off,
            (137, false, Some("the machine was killed (signal 9)")),
        ),
        (
            &quiet,
            true,
            ABORTED,
            None,
            (125, false, Some("signal 6 ended the monitor: no such cpu")),
        ),
        (
            &killed,
            true,
            KILLED,
            None,
            (137, false, Some("the machine was killed")),
        ),
        (
            &unread,
            true,
            KILLED,
            None,
            (141, false, Some("nobody read the output any more")),
        ),
        (
            &quiet,
            true,
            FAILED,
            None,
            (125, false, Some("the monitor failed: no such cpu")),
        ),
    ];
    for (end, reports, status, shutdown, (code, is_heard, reason)) in cases {
        let want = (code, is_heard, reason.map(str::to_owned));
        assert_eq!(judge(end, reports, status, shutdown), want, "{end:?}");
    }
    for (end, reports) in [(&quiet, false), (&quiet, true), (&asked, false)] {
        let was_reset = judge(end, reports, CLEAN, Some(Shutdown::Reset));
        assert_eq!(was_reset, (125, false, Some(reset.to_owned())), "{end:?}");
        let was_killed = judge(end, reports, CLEAN, Some(Shutdown::FromOutside));
        let want = (137, false, Some("the machine was killed".to_owned()));
        assert_eq!(was_killed, want, "{end:?}");
    }
}

#[test]
fn a_machine_that_its_monitor_halted_was_ended_for_that() {
    let cases = [
        (
            Halt::Processor,
            125,
            "the machine was ended: what executes it gave up (no such cpu); --accel tcg emulates it",
        ),
        (
            Halt::NoSpace,
            137,
            "the machine was ended: the disk that takes its writes is full",
        ),
        (
            Halt::Disk,
            137,
            "the machine was ended: a file that is its disk cannot be read or written",
        ),
    ];
    for (halt, code, reason) in cases {
        let end = End {
            halt: Some(halt),
            was_killed: true,
            ..End::default()
        };
        let want = (code, false, Some(reason.to_owned()));
        assert_eq!(judge(&end, true, KILLED, None), want);
    }
}

#[test]
fn a_failure_is_written_as_the_client_does() {
    let error = RunError::NoInit { flag: "--user" };
    assert_eq!(
        described(&error.to_failure()),
        "error: the image boots without Kiln's init, which --user is for\n  \
         hint: pull the image with --boot entrypoint, or leave the flag out\n"
    );
}
