//! `kiln run`: an image's own program runs in a virtual machine, is heard, stopped and judged.
//!
//! Guests boot Debian's kernel under QEMU, which costs some seconds each; so each looks at as much
//! as goes together.

pub(crate) mod machine_room;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_testkit::{tools, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::descriptors::NEEDS;
use crate::space::Disk;
use crate::stage::LIMIT;
use machine_room::{IMAGE, MachineRoom, is_alive};

/// Every byte there is, with line ends of all kinds: what a console could spoil.
fn every_byte() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend(b"\r\n\r\r\n\n\nkiln-init:\n\rend");
    bytes
}

#[test]
fn programs_run_as_the_image_and_the_caller_say() -> Result<()> {
    let Some(room) = MachineRoom::for_test("programs_run_as_the_image_and_the_caller_say")? else {
        return Ok(());
    };
    let before = room.rootfs_digest()?;

    let own = room.run(&[IMAGE])?;
    assert_eq!(own.stdout(), "hello from the image\n", "{own:?}");
    assert_eq!((own.code(), own.stderr()), (Some(0), ""));

    fs::write(room.path("env"), "# comment\nFROM_FILE=1\nCALLER\n")?;
    let env_file = room.path("env").display().to_string();
    let words = [
        IMAGE,
        "--name",
        "story",
        "--user",
        "app",
        "--workdir",
        "/made/here",
        "--env-file",
        &env_file,
        "-e",
        "OWN=caller's",
        "--",
        "sh",
        "-c",
        "id -u; id -G; pwd; hostname; echo $IMAGES $OWN $FROM_FILE $CALLER; \
         echo to stderr >&2; exit 42",
    ];
    let told = room.run(&words)?;
    assert_eq!(
        told.stdout(),
        "1000\n1000 44\n/made/here\nstory\nimage caller's 1 inherited\nto stderr\n",
        "{told:?}"
    );
    assert_eq!((told.code(), told.stderr()), (Some(42), ""));

    let bytes = room.run(&[IMAGE, "--rm", "--net", "none", "--", "cat", "/data/bytes"])?;
    assert!(bytes.output.stdout == every_byte(), "{bytes:?}");
    assert_eq!((bytes.code(), bytes.stderr()), (Some(0), ""));

    let script = "touch /data/new || echo cannot; touch /run/new && cat /proc/cmdline; \
                  kill -SEGV $$";
    let read_only = room.run(&[
        IMAGE,
        "--read-only",
        "--monitor",
        "qemu-q35",
        "--entrypoint",
        "/bin/sh",
        "--",
        "-c",
        script,
    ])?;
    assert_eq!(read_only.code(), Some(139), "{read_only:?}");
    let lines: Vec<&str> = read_only.output_lines();
    assert_eq!(
        lines.first().copied(),
        Some("touch: /data/new: Read-only file system")
    );
    assert_eq!(lines.get(1).copied(), Some("cannot"));
    let words: Vec<&str> = lines.get(2).context("no line")?.split(' ').collect();
    assert!(words.contains(&"ro"), "{words:?}");

    let init = room.run(&[IMAGE, "--rm", "--name", "whole", "--", "/sbin/init"])?;
    assert_eq!(init.stdout(), "process 1 of whole\n", "{init:?}");
    assert_eq!((init.code(), init.stderr()), (Some(0), ""));

    assert_eq!(room.rootfs_digest()?, before, "the image changed");
    let listed = room.instances()?;
    let seen: Vec<_> = listed
        .iter()
        .map(|one| (one["state"].as_str(), one["exit_code"].as_u64()))
        .collect();
    let ended = Some("ended");
    assert_eq!(
        seen,
        [(ended, Some(0)), (ended, Some(42)), (ended, Some(139))]
    );
    assert_eq!(listed[2]["monitor"], "qemu-q35");
    assert_eq!(listed[2]["reason"], "SIGSEGV ended the program");
    for one in &listed {
        let directory = one["directory"].as_str().context("no directory")?;
        let names = crate::stage::entries(directory.as_ref())?;
        assert_eq!(names, ["console.log"]);
    }
    assert_eq!(room.instance_folders()?.len(), 3, "--rm left something");
    Ok(())
}

#[test]
fn what_keeps_a_program_from_running_is_told_and_is_125() -> Result<()> {
    let Some(room) = MachineRoom::for_test("what_keeps_a_program_from_running_is_told_and_is_125")?
    else {
        return Ok(());
    };
    let cases: &[(&[&str], u8, &str)] = &[
        (&["nosuch"], 125, "error: no image answers to \"nosuch\"\n"),
        (
            &[IMAGE, "--monitor", "firecracker"],
            125,
            "error: firecracker is not on PATH\n",
        ),
        (
            &[IMAGE, "--memory", "1M"],
            125,
            "error: 1 MiB of memory cannot be; a machine has 64 to 1048576 MiB\n",
        ),
        (
            &[IMAGE, "--net", "none", "-p", "8080:80"],
            125,
            "error: ports can be published with --net user only\n",
        ),
        (
            &[IMAGE, "-v", "/nonexistent/disk"],
            125,
            "error: cannot use the volume /nonexistent/disk\n",
        ),
        (
            &[IMAGE, "--env-file", "/nonexistent/env"],
            125,
            "error: cannot read /nonexistent/env",
        ),
        (
            &[IMAGE, "--user", "nosuch"],
            125,
            "kiln-init: /etc/passwd in the image has no user \"nosuch\"\n",
        ),
        (&[IMAGE, "--", "/no/such/program"], 127, "kiln-init: "),
    ];
    for (words, code, message) in cases {
        let run = room.run(words)?;
        assert_eq!(run.code(), Some(i32::from(*code)), "{words:?}: {run:?}");
        assert!(run.stderr().starts_with(message), "{words:?}: {run:?}");
        assert_eq!(run.stdout(), "", "{words:?}");
    }
    let background = room.run(&["nosuch", "--detach"])?;
    assert_eq!(background.code(), Some(125), "{background:?}");
    assert!(
        background.stderr().starts_with("error: no image answers"),
        "{background:?}"
    );
    Ok(())
}

#[test]
fn a_machine_that_ends_before_its_program_is_no_success() -> Result<()> {
    let test = "a_machine_that_ends_before_its_program_is_no_success";
    let Some(room) = MachineRoom::for_test(test)? else {
        return Ok(());
    };
    let reset = "error: the machine was reset: its kernel panicked or it rebooted itself; \
                 kiln run does not start it again\n";
    let script = "echo c > /proc/sysrq-trigger; exit 3";

    let panicked = room.run(&[IMAGE, "--rm", "--", "sh", "-c", script])?;

    assert_eq!(
        (panicked.code(), panicked.stderr()),
        (Some(125), reset),
        "{panicked:?}"
    );
    assert!(
        panicked.stdout().ends_with("sysrq: Trigger a crash\n"),
        "{panicked:?}"
    );

    let off = room.run(&[IMAGE, "--rm", "--", "sh", "-c", "poweroff -f; sleep 60"])?;
    assert_eq!(
        (off.code(), off.stderr()),
        (
            Some(125),
            "error: the machine was switched off before its program's end was told\n"
        ),
        "{off:?}"
    );

    let script = "echo ready; exec sleep 1000";
    let mut run = room.start(&[IMAGE, "--rm", "--", "sh", "-c", script])?;
    run.wait_for("ready\n")?;
    let monitor = i32::try_from(run.child("qemu-system")?)?;
    let monitor = Pid::from_raw(monitor).context("no monitor")?;
    kill_process(monitor, Signal::KILL)?;
    let killed = run.finish()?;
    assert_eq!(
        (killed.code(), killed.stderr()),
        (Some(137), "error: the machine was killed (signal 9)\n"),
        "{killed:?}"
    );

    let source = room.source();
    let words = [
        "pull", &source, "--name", "bare", "--kernel", "debian", "--boot", "none", "--size", "64M",
    ];
    let pulled = room.kiln(&words)?;
    assert_eq!(pulled.code(), Some(0), "{pulled:?}");
    // The kernel of a distribution finds no disk without an initrd.
    let lost = room.run(&["bare", "--rm"])?;
    assert_eq!(lost.code(), Some(125), "{lost:?}");
    assert!(lost.stdout().contains("Kernel panic"), "{lost:?}");
    assert_eq!(lost.stderr(), reset);
    Ok(())
}

#[test]
fn what_is_piped_in_does_not_reach_the_guest_and_holds_up_nobody() -> Result<()> {
    let test = "what_is_piped_in_does_not_reach_the_guest_and_holds_up_nobody";
    let Some(room) = MachineRoom::for_test(test)? else {
        return Ok(());
    };
    // The console is the program's terminal all the same.
    let script = "cat && echo on the terminal > /dev/tty";

    let ran = room.run_fed(&[IMAGE, "--rm", "--", "sh", "-c", script], b"hi")?;

    let heard = (ran.code(), ran.stdout(), ran.stderr());
    assert_eq!(heard, (Some(0), "on the terminal\n", ""), "{ran:?}");
    Ok(())
}

#[test]
fn a_machine_in_the_background_serves_a_port_and_is_stopped() -> Result<()> {
    let test = "a_machine_in_the_background_serves_a_port_and_is_stopped";
    let Some(room) = MachineRoom::for_test(test)? else {
        return Ok(());
    };
    let disk = room.path("disk");
    fs::write(&disk, [b"from the host\n".as_slice(), &[0; 4082]].concat())?;
    let port = free_port()?;
    let publish = format!("{port}:80");
    let volume = disk.display().to_string();
    // What the program writes to the disk is there once it serves.
    let script = "head -n 1 /dev/vdb > /www/index.html; echo from the guest > /dev/vdb; \
                  sync; echo serving; exec httpd -f -h /www";
    let words = [
        IMAGE, "--detach", "--name", "web", "-p", &publish, "-v", &volume, "--", "sh", "-c", script,
    ];

    let started = room.run(&words)?;

    assert_eq!(
        (started.code(), started.stderr()),
        (Some(0), ""),
        "{started:?}"
    );
    let line: Vec<&str> = started.stdout().split_whitespace().collect();
    let [id, "web"] = line[..] else {
        anyhow::bail!("{started:?}");
    };
    let page = wait::until("page of the guest", LIMIT, || Ok(get(port).ok()))?;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(page.ends_with("\r\n\r\nfrom the host\n"), "{page}");
    let listed = room.instances()?;
    let one = listed.first().context("no instance")?;
    assert_eq!(one["id"], id);
    assert_eq!(one["state"], "running");
    assert_eq!(one["monitor"], "qemu-microvm");
    let forwarded = json!([{"host_address": "127.0.0.1", "host_port": port, "guest_port": 80}]);
    assert_eq!(one["ports"], forwarded);
    let in_use = room.kiln(&["forget", IMAGE])?;
    assert_eq!(in_use.code(), Some(5), "{in_use:?}");
    assert_eq!(room.kiln(&["logs", "web"])?.stdout(), "serving\r\n");

    let stubborn = "trap '' TERM; echo deaf; while true; do sleep 1; done";
    let started = room.run(&[
        IMAGE, "-d", "--name", "stubborn", "--", "sh", "-c", stubborn,
    ])?;
    assert_eq!(started.code(), Some(0), "{started:?}");
    // The machine runs before its program does, which is not deaf from the start.
    wait::until("the stubborn program", LIMIT, || {
        let logs = room.kiln(&["logs", "stubborn"])?;
        Ok(logs.stdout().contains("deaf").then_some(()))
    })?;

    let stopped = room.kiln(&["stop", "web"])?;

    assert_eq!(stopped.code(), Some(0), "{stopped:?}");
    let impatient = room.kiln(&["stop", "stubborn", "--time", "1s"])?;
    assert_eq!(
        (impatient.code(), impatient.stderr()),
        (Some(0), ""),
        "{impatient:?}"
    );
    let listed = room.instances()?;
    assert_eq!(listed[0]["state"], "ended");
    assert_eq!(listed[0]["exit_code"], 143);
    assert_eq!(listed[1]["state"], "ended");
    assert_eq!(listed[1]["reason"], "the machine was killed");
    assert!(get(port).is_err(), "somebody still serves");
    let written = fs::read(&disk)?;
    assert!(written.starts_with(b"from the guest\n"), "{written:?}");
    let directory = listed[0]["directory"].as_str().context("no directory")?;
    let removed = room.kiln(&["instance", "rm", "web"])?;
    assert_eq!(removed.code(), Some(0), "{removed:?}");
    assert!(!fs::exists(directory)?, "{directory} is left");
    Ok(())
}

#[test]
fn signals_stop_a_machine_and_it_never_outlives_its_runner() -> Result<()> {
    let test = "signals_stop_a_machine_and_it_never_outlives_its_runner";
    let Some(room) = MachineRoom::for_test(test)? else {
        return Ok(());
    };
    let script = "trap 'echo asked; exit 9' TERM; echo ready; while true; do sleep 0.1; done";
    for monitor in ["qemu-microvm", "qemu-q35"] {
        let mut run = room.start(&[
            IMAGE,
            "--rm",
            "--monitor",
            monitor,
            "--",
            "sh",
            "-c",
            script,
        ])?;
        run.wait_for("ready\n")?;
        run.signal(Signal::INT)?;
        let ended = run.finish()?;
        assert_eq!(ended.code(), Some(9), "{monitor}: {ended:?}");
        assert_eq!(ended.stdout(), "ready\nasked\n");
    }

    let stubborn = "trap '' TERM; echo ready; while true; do sleep 0.1; done";
    let mut run = room.start(&[IMAGE, "--rm", "--", "sh", "-c", stubborn])?;
    run.wait_for("ready\n")?;
    run.signal(Signal::TERM)?;
    run.signal(Signal::TERM)?;
    let ended = run.finish()?;
    assert_eq!(ended.code(), Some(137), "{ended:?}");
    assert_eq!(room.instance_folders()?, Vec::<String>::new());

    // The guest has to ignore the first signal, or it may well be gone before the second.
    let flood = "trap '' TERM; exec yes";
    let (run, unread) = room.start_unread(&[IMAGE, "--rm", "--", "sh", "-c", flood])?;
    wait::until("more output than fits into a pipe", LIMIT, || {
        let folders = room.instance_folders()?;
        let log = folders
            .first()
            .map(|folder| room.path("instances").join(folder).join("console.log"));
        let length = log.and_then(|log| Some(fs::metadata(log).ok()?.len()));
        // Three bytes of the console are two of the output, and the pipe holds 4 KiB.
        Ok(length.filter(|length| *length > 6 << 10))
    })?;
    run.signal(Signal::TERM)?;
    run.signal(Signal::TERM)?;
    assert_eq!(
        run.finish()?.code(),
        Some(137),
        "whoever does not read held it up"
    );
    drop(unread);

    let mut run = room.start(&[IMAGE, "--", "sh", "-c", stubborn])?;
    run.wait_for("ready\n")?;
    let monitor = run.child("qemu-system")?;
    run.signal(Signal::KILL)?;
    run.finish()?;
    wait::until("end of the monitor", Duration::from_secs(10), || {
        Ok((!is_alive(monitor)).then_some(()))
    })?;
    let ended = wait::until("end of the instance", LIMIT, || {
        let listed = room.instances()?;
        Ok(listed.into_iter().find(|one| one["state"] == "ended"))
    })?;
    assert_eq!(ended["exit_code"], Value::Null);
    let left = room.instance_folders()?;
    assert_eq!(left.len(), 1);
    let folder = room.path("instances").join(&left[0]);
    assert!(crate::stage::entries(&folder)?.len() > 1);

    let mut run = room.start(&[IMAGE, "--rm", "--", "yes"])?;
    run.wait_for("y\n")?;
    run.stop_reading();
    assert_eq!(run.finish()?.code(), Some(141));
    // The next run has put away what the killed one left.
    assert_eq!(crate::stage::entries(&folder)?, ["console.log"]);
    Ok(())
}

#[test]
fn a_daemon_that_hangs_or_is_away_costs_neither_ctrl_c_nor_an_exit_code() -> Result<()> {
    let test = "a_daemon_that_hangs_or_is_away_costs_neither_ctrl_c_nor_an_exit_code";
    let Some(mut room) = MachineRoom::with_own_daemon(test)? else {
        return Ok(());
    };
    let daemon = i32::try_from(room.daemon()?.id())?;
    let daemon = Pid::from_raw(daemon).context("no daemon")?;
    kill_process(daemon, Signal::STOP)?;
    for flags in [&[IMAGE, "--rm"][..], &[IMAGE, "--rm", "--detach"]] {
        let run = room.start(flags)?;
        run.wait_until_it_listens()?;
        run.signal(Signal::INT)?;
        let ended = run.finish()?;
        assert_eq!(ended.code(), Some(125), "{flags:?}: {ended:?}");
        assert_eq!(
            ended.stderr().lines().next(),
            Some("error: stopped before the machine ran")
        );
    }
    kill_process(daemon, Signal::CONT)?;

    let script = "trap 'exit 9' TERM; echo ready; while true; do sleep 0.1; done";
    let mut run = room.start(&[IMAGE, "--", "sh", "-c", script])?;
    run.wait_for("ready\n")?;
    let monitor = run.child("qemu-system")?;
    room.daemon()?.kill()?;
    run.signal(Signal::INT)?;
    wait::until("end of the monitor", LIMIT, || {
        Ok((!is_alive(monitor)).then_some(()))
    })?;
    room.daemon()?.start_again()?;
    let ended = run.finish()?;
    assert_eq!(ended.code(), Some(9));
    let known = room.instances()?;
    assert_eq!(known.len(), 1, "{known:?}");
    assert_eq!(
        (&known[0]["state"], &known[0]["exit_code"]),
        (&json!("ended"), &json!(9)),
        "{known:?}"
    );
    Ok(())
}

#[test]
fn a_probe_does_not_outlive_its_runner() -> Result<()> {
    let test = "a_probe_does_not_outlive_its_runner";
    let Some(mut room) = MachineRoom::for_test(test)? else {
        return Ok(());
    };
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    if kvm.is_err() {
        // Nothing is probed where there is nothing to find out.
        return Ok(());
    }
    room.install("qemu-system-x86_64", "#!/bin/sh\nexec sleep 60\n")?;
    let run = room.start(&[IMAGE, "--rm"])?;
    let probe = wait::until("the probe", LIMIT, || Ok(run.child("sleep").ok()))?;
    run.signal(Signal::KILL)?;
    run.finish()?;
    wait::until("end of the probe", Duration::from_secs(5), || {
        Ok((!is_alive(probe)).then_some(()))
    })
}

#[test]
fn a_machine_whose_writes_find_no_room_is_ended_and_says_why() -> Result<()> {
    let test = "a_machine_whose_writes_find_no_room_is_ended_and_says_why";
    if tools::must_skip(test, &[tools::Need::Root, tools::MOUNT])? {
        return Ok(());
    }
    let Some(room) = MachineRoom::for_test(test)? else {
        return Ok(());
    };
    // Enough for the kernel and the initrd, and not for what the guest writes.
    let disk = Disk::new(96)?;
    let script = "dd if=/dev/urandom of=/data/big bs=1M count=256; sync; echo written";
    let instances = disk.path().join("instances");
    let ended = room.run_in(&instances, &[IMAGE, "--rm", "--", "sh", "-c", script])?;

    assert_eq!(ended.code(), Some(137), "{ended:?}");
    assert_eq!(
        ended.stderr(),
        "error: the machine was ended: the disk that takes its writes is full\n",
        "{ended:?}"
    );
    assert!(!ended.stdout().contains("written"), "{ended:?}");
    assert_eq!(crate::stage::entries(&instances)?, Vec::<String>::new());
    Ok(())
}

/// A stand-in for the monitors that this machine cannot have: keeps what it is told, makes its API's
/// socket, says on the console what it is asked, and ends as a guest would.
const STAND_IN: &str = r#"#!/usr/bin/perl
use strict;
use IO::Socket::UNIX;
$| = 1;
my ($socket) = "@ARGV" =~ /--api-sock(?:et)? (?:path=)?(\S+)/;
open(my $words, '>', 'words') or die;
print $words join("\n", @ARGV);
close($words);
my $server = IO::Socket::UNIX->new(Local => $socket, Listen => 5) or die;
print "started\r\n";
while (my $client = $server->accept) {
    my $line = <$client>;
    next unless defined $line;
    print $client "HTTP/1.1 204 \r\n\r\n";
    $line =~ s/\r?\n//;
    print "asked: $line\r\n\r\r\nkiln-init: exit {\"exit\":7}\r\n";
    exit 0;
}
"#;

#[test]
fn monitors_with_an_api_get_files_of_their_own_and_are_asked_by_it() -> Result<()> {
    let test = "monitors_with_an_api_get_files_of_their_own_and_are_asked_by_it";
    let Some(mut room) = MachineRoom::for_test(test)? else {
        return Ok(());
    };
    let before = room.rootfs_digest()?;
    let cases = [
        ("firecracker", "PUT /actions HTTP/1.1", "reboot"),
        (
            "cloud-hypervisor",
            "PUT /api/v1/vm.power-button HTTP/1.1",
            "poweroff",
        ),
    ];
    for (monitor, asked, end) in cases {
        room.install(monitor, STAND_IN)?;
        let mut run = room.start(&[IMAGE, "--rm", "--monitor", monitor, "--accel", "kvm"])?;
        run.wait_for("started\n")?;

        let folders = room.instance_folders()?;
        let folder = room
            .path("instances")
            .join(folders.first().context("no folder")?);
        let rootfs = folder.join("rootfs.ext4");
        assert_eq!(machine_room::digest(&rootfs)?, before, "{monitor}");
        let kernel = fs::read(folder.join("kernel"))?;
        assert!(kernel.starts_with(b"\x7fELF"), "{monitor}");
        let initrd = fs::read(folder.join("initrd.img"))?;
        let told = format!("\"end\": \"{end}\"");
        let is_told = initrd
            .windows(told.len())
            .any(|part| part == told.as_bytes());
        assert!(is_told, "{monitor}");
        let words = fs::read_to_string(folder.join("words"))?;
        let named = rootfs.display().to_string();
        if monitor == "firecracker" {
            let file = folder.join("firecracker.json").display().to_string();
            assert_eq!(
                words,
                format!("--api-sock\napi.sock\n--config-file\n{file}")
            );
            let told: Value = serde_json::from_slice(&fs::read(file)?)?;
            assert_eq!(told["drives"][0]["path_on_host"], named);
            assert_eq!(told["drives"][0]["is_read_only"], false);
        } else {
            let disk = format!("--disk\npath={named},image_type=raw,readonly=off\n");
            assert!(words.contains(&disk), "{words}");
        }
        run.signal(Signal::INT)?;
        let ended = run.finish()?;

        assert_eq!(
            ended.stdout(),
            format!("started\nasked: {asked}\n"),
            "{ended:?}"
        );
        assert_eq!(ended.code(), Some(7), "{ended:?}");
    }
    assert_eq!(room.rootfs_digest()?, before);
    let refused = room.run(&[
        IMAGE,
        "--monitor",
        "firecracker",
        "--accel",
        "kvm",
        "--net",
        "user",
    ])?;
    assert_eq!(refused.code(), Some(125), "{refused:?}");
    assert!(
        refused
            .stderr()
            .starts_with("error: firecracker has no network without a tap device"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn a_user_without_rights_runs_an_image_whose_files_only_the_daemon_may_open() -> Result<()> {
    let test = "a_user_without_rights_runs_an_image_whose_files_only_the_daemon_may_open";
    if tools::must_skip(test, NEEDS)? {
        return Ok(());
    }
    let Some(room) = MachineRoom::for_test(test)? else {
        return Ok(());
    };
    room.install_for_nobody()?;
    let source = room.source();
    let words = [
        "pull", &source, "--name", "theirs", "--kernel", "debian", "--size", "64M",
    ];
    let pulled = room.kiln_as_nobody(&words)?;
    assert_eq!(pulled.code(), Some(0), "{pulled:?}");

    let words = ["run", "theirs", "--rm", "--accel", "tcg", "--", "sh", "-c"];
    let script = "touch /data/new && id -u && ls /data";
    let ran = room.kiln_as_nobody(&[&words[..], &[script]].concat())?;
    let foreign = room.kiln_as_nobody(&["run", IMAGE])?;

    assert_eq!((ran.code(), ran.stderr()), (Some(0), ""), "{ran:?}");
    assert_eq!(ran.stdout(), "0\nbytes  new\n");
    assert_eq!(foreign.code(), Some(125), "{foreign:?}");
    assert_eq!(
        crate::stage::entries(&room.path("theirs/instances"))?,
        Vec::<String>::new()
    );
    Ok(())
}

#[test]
fn what_image_show_prints_boots_the_image() -> Result<()> {
    let Some(room) = MachineRoom::for_test("what_image_show_prints_boots_the_image")? else {
        return Ok(());
    };
    let before = room.rootfs_digest()?;
    for vmm in ["qemu", "qemu-q35"] {
        let shown = room.kiln(&["image", "show", IMAGE, "--vmm", vmm, "--accel", "tcg"])?;
        assert_eq!(shown.code(), Some(0), "{shown:?}");
        assert_eq!(shown.stdout().lines().count(), 1, "{shown:?}");

        let console = machine_room::pasted(shown.stdout())?;

        assert!(
            console.contains("hello from the image\n"),
            "{vmm}: {console}"
        );
        assert!(
            console.contains("kiln-init: exit {\"exit\":0}"),
            "{vmm}: {console}"
        );
    }
    assert_eq!(room.rootfs_digest()?, before);

    let show = ["image", "show", IMAGE, "--vmm", "firecracker"];
    let shown = room.kiln(&show)?;
    let described: Value = serde_json::from_str(shown.stdout())?;
    assert_eq!(described["drives"][0]["path_on_host"], "small.ext4");
    assert!(
        shown.stderr().contains("kiln checkout small small.ext4\n"),
        "{shown:?}"
    );
    let copy = room.path("copy.ext4").display().to_string();
    let made = room.kiln(&["checkout", IMAGE, &copy])?;
    assert_eq!(made.code(), Some(0), "{made:?}");
    let shown = room.kiln(&[&show[..], &["--disk", &copy]].concat())?;
    let described: Value = serde_json::from_str(shown.stdout())?;
    assert_eq!(described["drives"][0]["path_on_host"], copy.as_str());
    let kernel = described["boot-source"]["kernel_image_path"].as_str();
    let kernel = fs::read(kernel.context("no kernel")?)?;
    assert!(kernel.starts_with(b"\x7fELF"));
    Ok(())
}

#[test]
fn a_terminal_is_the_guests_until_the_escape() -> Result<()> {
    let Some(room) = MachineRoom::for_test("a_terminal_is_the_guests_until_the_escape")? else {
        return Ok(());
    };
    let script = "trap 'echo stopped; exit 6' TERM; echo ready; \
                  while true; do read line && echo \"<$line>\"; done";
    let mut run = room.start_in_terminal(&[IMAGE, "--rm", "--", "sh", "-c", script])?;

    run.wait_for("ready\r\n")?;
    run.type_in(b"two words\r")?;
    run.wait_for("<two words>\r\n")?;
    let raw = run.modes()?;
    // The guest's own terminal makes a signal of it, which ends `read` and what waits for it.
    run.type_in(b"\x1dq\r")?;
    run.wait_for("stopped\r\n")?;
    let ended = run.finish()?;

    assert_eq!(ended.code(), Some(6), "{ended:?}");
    assert!(!raw.0, "the terminal echoed while the guest had it");
    assert!(run_modes_are_back(&ended), "{ended:?}");
    Ok(())
}

fn run_modes_are_back(ended: &machine_room::Ended) -> bool {
    ended.modes == Some(machine_room::Modes(true))
}

fn get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    anyhow::ensure!(!page.is_empty(), "nobody is behind the port yet");
    Ok(page)
}

/// A port that nobody listens on, as far as can be known.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}
