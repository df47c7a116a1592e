use kiln_boot::StopSignal;

use super::*;

fn judge(end: &End, reports: bool, is_clean: bool) -> (u8, bool, Option<String>) {
    let ended = judged(end, reports, is_clean, "no such cpu");
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
            assert_eq!(judge(&end, true, !was_killed), want);
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
    let cases = [
        (&quiet, false, true, (0, true, None)),
        (
            &asked,
            false,
            true,
            (143, false, Some("the machine was stopped")),
        ),
        (&quiet, true, true, (125, false, Some(silent))),
        (
            &killed,
            true,
            false,
            (137, false, Some("the machine was killed")),
        ),
        (
            &unread,
            true,
            false,
            (141, false, Some("nobody read the output any more")),
        ),
        (
            &quiet,
            true,
            false,
            (125, false, Some("the monitor failed: no such cpu")),
        ),
    ];
    for (end, reports, is_clean, (code, is_heard, reason)) in cases {
        let want = (code, is_heard, reason.map(str::to_owned));
        assert_eq!(judge(end, reports, is_clean), want, "{end:?}");
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
