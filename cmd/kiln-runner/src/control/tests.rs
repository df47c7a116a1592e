use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

/// Answers one request with a status line and returns what was asked.
fn serve(socket: &std::path::Path, status: &'static str) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        use std::io::{Read as _, Write as _};

        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        let mut buffer = [0; 1024];
        while !asked.contains("\r\n\r\n") {
            let length = stream.read(&mut buffer).unwrap();
            asked.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        stream.write_all(status.as_bytes()).unwrap();
        asked
    })
}

#[tokio::test]
async fn monitors_with_an_api_are_asked_by_their_documented_call() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("firecracker.sock");
    let served = serve(&socket, "HTTP/1.1 204 \r\n\r\n");
    let mut control = Control::of_firecracker(socket);
    control.ask_to_stop(Keyboard::Stops).await.unwrap();
    assert_eq!(
        served.join().unwrap(),
        "PUT /actions HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: 32\r\n\r\n\
         {\"action_type\":\"SendCtrlAltDel\"}"
    );

    let socket = folder.path().join("cloud-hypervisor.sock");
    let served = serve(&socket, "HTTP/1.1 500 Internal Server Error\r\n\r\n");
    let mut control = Control::of_cloud_hypervisor(socket);
    let refused = control.ask_to_stop(Keyboard::Stops).await.unwrap_err();
    assert!(
        served
            .join()
            .unwrap()
            .starts_with("PUT /api/v1/vm.power-button HTTP/1.1\r\n")
    );
    assert_eq!(refused.to_string(), "HTTP/1.1 500 Internal Server Error");
}

#[tokio::test]
async fn a_socket_may_lie_deeper_than_an_address_is_long() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(150));
    std::fs::create_dir(&deep).unwrap();
    // Bound by a short way to the same place.
    let link = folder.path().join("l");
    std::os::unix::fs::symlink(&deep, &link).unwrap();
    let _listener = UnixListener::bind(link.join("api.sock")).unwrap();

    let mut control = Control::of_firecracker(deep.join("api.sock"));

    control.until_ready().await.unwrap();
}

/// Plays QEMU: greets, then says what it is told, one line each.
async fn play(monitor: Monitor, keys: Keyboard) -> Vec<Value> {
    let (own, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let qemu = thread::spawn(move || {
        use std::io::{BufRead as _, Write as _};

        let mut out = theirs.try_clone().unwrap();
        let mut lines = std::io::BufReader::new(theirs).lines();
        out.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n")
            .unwrap();
        let mut told = vec![lines.next().unwrap().unwrap()];
        out.write_all(b"{\"event\": \"RESUME\"}\r\n{\"return\": {}}\r\n")
            .unwrap();
        told.extend(lines.map(Result::unwrap));
        told.iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    });
    let mut control = Control::of_qemu(own, monitor).unwrap();
    control.until_ready().await.unwrap();
    control.ask_to_stop(keys).await.unwrap();
    drop(control);
    qemu.join().unwrap()
}

#[tokio::test]
async fn qemu_presses_the_button_and_the_keys_where_there_are_some() {
    let capabilities = json!({"execute": "qmp_capabilities"});
    let button = json!({"execute": "system_powerdown"});
    let keys = json!({"execute": "send-key", "arguments": {"keys": [
        {"type": "qcode", "data": "ctrl"},
        {"type": "qcode", "data": "alt"},
        {"type": "qcode", "data": "delete"},
    ]}});
    let cases = [
        (Monitor::QemuMicrovm, Keyboard::Stops, false),
        (Monitor::QemuQ35, Keyboard::Stops, true),
        (Monitor::QemuQ35, Keyboard::IsNotOurs, false),
    ];
    for (monitor, keyboard, has_keys) in cases {
        let mut want = vec![capabilities.clone(), button.clone()];
        want.extend(has_keys.then(|| keys.clone()));
        assert_eq!(play(monitor, keyboard).await, want, "{monitor}");
    }
}

#[tokio::test]
async fn qemu_says_why_its_machine_ended() {
    use std::io::Write as _;

    let event = |reason: &str| {
        format!(
            "{{\"event\": \"SHUTDOWN\", \"data\": {{\"guest\": true, \"reason\": \"{reason}\"}}}}\r\n"
        )
    };
    let long = format!("{{\"event\": \"{}\"}}\r\n", "x".repeat(2 * LINE_BYTES));
    let cases = [
        (event("guest-shutdown"), Some(Shutdown::SwitchedOff)),
        (event("guest-reset"), Some(Shutdown::Reset)),
        (event("guest-panic"), Some(Shutdown::Reset)),
        (event("host-signal"), Some(Shutdown::FromOutside)),
        ("{\"event\": \"STOP\"}\r\nno JSON\r\n".to_owned(), None),
        (
            format!("{long}{}", event("guest-reset")),
            Some(Shutdown::Reset),
        ),
        (event("guest-reset").trim_end().to_owned(), None),
    ];
    for (said, want) in cases {
        let (own, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut control = Control::of_qemu(own, Monitor::QemuMicrovm).unwrap();
        let (start, rest) = said.split_at(said.len() / 2);
        theirs.write_all(start.as_bytes()).unwrap();
        // Whoever stops listening in the middle of a line loses nothing.
        let cut = tokio::time::timeout(Duration::from_millis(20), control.listen()).await;
        cut.unwrap_err();
        theirs.write_all(rest.as_bytes()).unwrap();
        drop(theirs);
        assert_eq!(control.shutdown().await, want, "{said}");
    }
}

#[tokio::test]
async fn a_qemu_that_ends_does_not_become_ready() {
    let (own, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(theirs);
    let mut control = Control::of_qemu(own, Monitor::QemuMicrovm).unwrap();
    let error = control.until_ready().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_monitor_that_hangs_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    // It takes the connection, and never reads.
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut control = Control::of_firecracker(socket);

    let asked = tokio::time::timeout(START_LIMIT, control.ask_to_stop(Keyboard::Stops)).await;

    assert_eq!(asked.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn listening_ends_with_the_way_and_not_within_a_line() {
    use std::io::Write as _;

    let (own, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut control = Control::of_qemu(own, Monitor::QemuMicrovm).unwrap();
    let a_moment = Duration::from_millis(50);
    for piece in ["{\"event\": ", "\"RESUME\"}\r\n"] {
        theirs.write_all(piece.as_bytes()).unwrap();
        let listened = tokio::time::timeout(a_moment, control.listen()).await;
        assert!(listened.is_err(), "{piece}");
    }
    drop(theirs);
    let listened = tokio::time::timeout(START_LIMIT, control.listen()).await;
    assert_eq!(listened.unwrap(), None);
}

#[tokio::test]
async fn a_machine_that_qemu_halts_is_told_of_with_what_went_before() {
    use std::io::Write as _;

    let failed = |action: &str, full: bool| {
        format!(
            "{{\"event\": \"BLOCK_IO_ERROR\", \"data\": {{\"action\": \"{action}\", \"nospace\": {full}}}}}\r\n"
        )
    };
    let stop = "{\"event\": \"STOP\"}\r\n";
    let cases = [
        (stop.to_owned(), Some(Halt::Processor)),
        (failed("stop", true) + stop, Some(Halt::NoSpace)),
        (failed("stop", false) + stop, Some(Halt::Disk)),
        // The guest was told of it, and went on.
        (failed("report", false) + stop, Some(Halt::Processor)),
        (failed("stop", true), None),
    ];
    for (said, want) in cases {
        let (own, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut control = Control::of_qemu(own, Monitor::QemuMicrovm).unwrap();
        theirs.write_all(said.as_bytes()).unwrap();
        drop(theirs);
        assert_eq!(control.listen().await, want, "{said}");
    }
}
