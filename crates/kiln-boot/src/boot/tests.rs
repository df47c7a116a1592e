//! What `boot.json` may say, and what is refused.

use super::*;
use crate::network::StaticAddress;

fn refused(text: &str) -> String {
    match Boot::parse(text.as_bytes()) {
        Ok(boot) => panic!("{text} was read as {boot:?}"),
        Err(error @ ReadError::Malformed(_)) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            source.unwrap_or_default()
        }
        Err(error) => error.to_string(),
    }
}

fn with(member: &str) -> String {
    format!(r#"{{"format":1,"mode":"entrypoint",{member}}}"#)
}

#[test]
fn a_short_document_means_what_an_image_means_that_says_nothing() {
    let boot = Boot::parse(br#"{"format":1,"mode":"entrypoint"}"#).unwrap();

    assert_eq!(boot, Boot::new(Mode::Entrypoint));
    assert_eq!((boot.workdir.as_str(), boot.user.as_str()), ("/", ""));
    assert_eq!(boot.stop_signal, StopSignal::TERM);
    assert_eq!(boot.report_port, Some(1024));
    assert_eq!(boot.root.device, "/dev/vda");
}

#[test]
fn a_full_document_is_read_back_as_it_was_written() {
    let mut boot = Boot::new(Mode::Init {
        path: "/sbin/init".to_owned(),
    });
    boot.argv = vec!["/sbin/init".to_owned(), "3".to_owned()];
    boot.env = vec!["A=1".to_owned()];
    boot.user = "app:44".to_owned();
    boot.workdir = "/srv/app".to_owned();
    boot.stop_signal = "RTMIN+3".parse().unwrap();
    boot.root.mount = RootMount::Overlay { upper: None };
    boot.volumes = vec!["/data".to_owned()];
    boot.hostname = Some("web".to_owned());
    boot.hosts = vec![Host {
        address: "fd00::1".parse().unwrap(),
        names: vec!["db".to_owned()],
    }];
    boot.resolv.search = vec!["example.org".to_owned()];
    boot.network = Network::Static(vec![StaticAddress {
        interface: "eth0".to_owned(),
        address: "10.0.2.15/24".parse().unwrap(),
        gateway: Some("10.0.2.2".parse().unwrap()),
    }]);
    boot.report_port = None;
    boot.end = End::Reboot;
    boot.stdin = Stdin::None;
    boot.modules = vec!["/lib/modules/6/virtio.ko".to_owned()];

    let bytes = boot.to_bytes().unwrap();

    assert_eq!(Boot::parse(&bytes).unwrap(), boot);
    assert_eq!(Boot::parse(&bytes).unwrap().to_bytes().unwrap(), bytes);
}

#[test]
fn a_newer_format_is_refused_with_advice_before_its_members_are_looked_at() {
    let want = "the document has format 2, this init reads up to 1; \
                make the initrd anew with the Kiln that wrote it";
    assert_eq!(refused(r#"{"format":2,"shape":"new"}"#), want);
    assert_eq!(
        refused(r#"{"format":0,"mode":"entrypoint"}"#),
        "format is no format"
    );
}

#[test]
fn unknown_members_are_refused_at_every_level() {
    for member in [
        r#""shell":"sh""#,
        r#""root":{"devise":"/dev/vda"}"#,
        r#""root":{"mount":{"overlay":{"lower":"/dev/vda"}}}"#,
        r#""resolv":{"servers":[]}"#,
        r#""hosts":[{"address":"10.0.0.1","names":["a"],"alias":"b"}]"#,
        r#""network":{"static":[{"interface":"eth0","address":"10.0.0.1/8","mtu":1}]}"#,
    ] {
        let message = refused(&with(member));
        assert!(message.contains("unknown field"), "{member}: {message}");
    }
    assert!(refused(r#"{"mode":"entrypoint"}"#).contains("missing field `format`"));
    assert!(refused(r#"{"format":1}"#).contains("missing field `mode`"));
}

#[test]
fn values_that_cannot_be_are_named() {
    let long_list = format!("[{}\"\"]", "\"\",".repeat(4096));
    let cases = [
        (
            r#""workdir":"srv""#.to_owned(),
            "workdir is no absolute path",
        ),
        (
            r#""workdir":"/a/../b""#.to_owned(),
            "workdir has a part that leads up",
        ),
        (
            r#""workdir":"/a\u0000""#.to_owned(),
            "workdir is no absolute path",
        ),
        (r#""env":["A=\u0000"]"#.to_owned(), "env holds a zero byte"),
        (r#""user":"\u0000""#.to_owned(), "user holds a zero byte"),
        (format!(r#""argv":{long_list}"#), "argv is too long a list"),
        (
            format!(r#""argv":["{}"]"#, "a".repeat(131_072)),
            "argv holds too long a text",
        ),
        (
            r#""volumes":["data"]"#.to_owned(),
            "volumes is no absolute path",
        ),
        (
            r#""modules":["a.ko"]"#.to_owned(),
            "modules is no absolute path",
        ),
        (
            r#""root":{"device":"vda"}"#.to_owned(),
            "root.device is no absolute path",
        ),
        (
            r#""root":{"filesystem":""}"#.to_owned(),
            "root.filesystem is no kind of filesystem",
        ),
        (
            r#""root":{"wait_seconds":86401}"#.to_owned(),
            "root.wait_seconds is more than a day",
        ),
        (
            r#""stop_grace_seconds":86401"#.to_owned(),
            "stop_grace_seconds is more than a day",
        ),
        (r#""hostname":"a b""#.to_owned(), "hostname is no host name"),
        (
            r#""hosts":[{"address":"10.0.0.1","names":["a\nb"]}]"#.to_owned(),
            "hosts holds a name that is none",
        ),
        (
            r#""hosts":[{"address":"10.0.0.1","names":[]}]"#.to_owned(),
            "hosts holds a name that is none",
        ),
        (
            r#""resolv":{"search":["a\nnameserver 6.6.6.6"]}"#.to_owned(),
            "resolv.search holds a domain that is none",
        ),
        (
            r#""network":{"static":[{"interface":"../x","address":"10.0.0.1/8"}]}"#.to_owned(),
            "network.static names an interface that cannot be",
        ),
    ];
    for (member, want) in cases {
        assert_eq!(refused(&with(&member)), want);
    }
}

#[test]
fn a_document_has_a_limit() {
    let text = with(&format!(r#""user":"{}""#, " ".repeat(1 << 20)));
    assert!(
        refused(&text).starts_with("the document has "),
        "too long a document was read"
    );
}
