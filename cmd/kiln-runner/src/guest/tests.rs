use kiln_kernel::{compose, image_archive};
use serde_json::json;

use super::*;

fn order() -> RunOrder {
    RunOrder {
        host: "unix:///s".to_owned(),
        image: "web".to_owned(),
        name: None,
        cpus: Some(1),
        memory_mib: Some(512),
        command: Vec::new(),
        entrypoint: None,
        env: Vec::new(),
        user: None,
        workdir: None,
        read_only: false,
        volumes: Vec::new(),
        ports: Vec::new(),
        network: None,
        monitor: None,
        accelerator: None,
        remove: false,
        detach: false,
    }
}

fn boot() -> Boot {
    let mut boot = Boot::new(Mode::Entrypoint);
    boot.argv = vec!["nginx".to_owned(), "-g".to_owned()];
    boot
}

const TOLD: Told<'_> = Told {
    name: "web-1",
    has_network: true,
    end: End::Poweroff,
    is_typed: true,
};

fn told(order: &RunOrder, boot: Boot) -> Instance {
    let guest = Guest::Ours(Box::new(boot));
    let config = json!({"Entrypoint": ["nginx"], "Cmd": ["-g"]});
    let instance = guest.instance(order, Some(&config), TOLD).unwrap();
    instance.unwrap()
}

#[test]
fn a_run_without_words_says_name_network_and_end() {
    let want = Instance {
        hostname: Some("web-1".to_owned()),
        network: Some(Network::Dhcp),
        end: Some(End::Poweroff),
        ..Instance::default()
    };
    assert_eq!(told(&order(), boot()), want);
}

#[test]
fn where_nobody_types_the_program_reads_nothing() {
    let guest = Guest::Ours(Box::new(boot()));
    let unattended = Told {
        is_typed: false,
        ..TOLD
    };
    let instance = guest.instance(&order(), None, unattended).unwrap();
    assert_eq!(instance.unwrap().stdin, Some(Stdin::None));
}

#[test]
fn words_of_the_caller_come_over_the_images() {
    let order = RunOrder {
        name: Some("one".to_owned()),
        env: vec!["A=1".to_owned()],
        user: Some("app".to_owned()),
        workdir: Some("/srv".to_owned()),
        read_only: true,
        ..order()
    };
    let instance = told(&order, boot());
    assert_eq!(instance.env, ["A=1"]);
    assert_eq!(instance.user.as_deref(), Some("app"));
    assert_eq!(instance.workdir.as_deref(), Some("/srv"));
    assert_eq!(instance.root_mount, Some(RootMount::Ro));
    assert_eq!((instance.argv, instance.mode), (None, None));
}

#[test]
fn a_command_comes_behind_the_entrypoint_and_decides_what_boots() {
    let init = Some(Mode::Init {
        path: "/sbin/init".to_owned(),
    });
    let entrypoint = Some(Mode::Entrypoint);
    let cases = [
        (None, "-v", "nginx -v", &entrypoint),
        (Some("sh"), "", "sh", &entrypoint),
        (Some("sh"), "-c true", "sh -c true", &entrypoint),
        (Some(""), "ls /", "ls /", &entrypoint),
        (Some(""), "/sbin/init", "/sbin/init", &init),
    ];
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(Into::into).collect() };
    for (entrypoint, command, argv, mode) in cases {
        let order = RunOrder {
            entrypoint: entrypoint.map(words),
            command: words(command),
            ..order()
        };
        let instance = told(&order, boot());
        assert_eq!(instance.argv, Some(words(argv)), "{entrypoint:?} {command}");
        assert_eq!(instance.mode, *mode, "{entrypoint:?} {command}");
    }
}

#[test]
fn no_command_at_all_is_refused() {
    let guest = Guest::Ours(Box::new(boot()));
    let order = RunOrder {
        entrypoint: Some(Vec::new()),
        ..order()
    };
    let refused = guest.instance(&order, Some(&json!({})), TOLD);
    assert!(matches!(refused, Err(RunError::Command(_))), "{refused:?}");
}

#[test]
fn a_foreign_start_takes_no_words() {
    let quiet = Guest::Foreign.instance(&order(), None, TOLD).unwrap();
    assert_eq!(quiet, None);
    let order = RunOrder {
        env: vec!["A=1".to_owned()],
        ..order()
    };
    let refused = Guest::Foreign.instance(&order, None, TOLD).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the image boots without Kiln's init, which --env is for"
    );
}

#[test]
fn an_initrd_is_ours_when_it_holds_our_document() {
    let document = boot().to_bytes().unwrap();
    let base = image_archive(b"{}").unwrap();
    let ours = compose(&base, &[&image_archive(&document).unwrap()]);

    assert_eq!(
        Guest::of(Some(&ours)).unwrap(),
        Guest::Ours(Box::new(boot()))
    );
    assert_eq!(
        Guest::of(Some(b"a foreign initrd")).unwrap(),
        Guest::Foreign
    );
    assert_eq!(Guest::of(None).unwrap(), Guest::Foreign);
    let newer = image_archive(br#"{"format":999}"#).unwrap();
    let refused = Guest::of(Some(&newer));
    assert!(matches!(refused, Err(RunError::Words(_))), "{refused:?}");
}

#[test]
fn only_our_init_as_process_1_reports() {
    let ours = Guest::Ours(Box::new(boot()));
    let with = |mode| Instance {
        mode,
        ..Instance::default()
    };
    let init = Mode::Init {
        path: "/sbin/init".to_owned(),
    };
    let images_init = Guest::Ours(Box::new(Boot::new(init.clone())));
    assert!(ours.reports(Some(&with(None))));
    assert!(!ours.reports(Some(&with(Some(init)))));
    assert!(!images_init.reports(Some(&with(None))));
    assert!(images_init.reports(Some(&with(Some(Mode::Entrypoint)))));
    assert!(!Guest::Foreign.reports(None));
}

#[test]
fn any_name_becomes_a_host_name() {
    let long = "a".repeat(80);
    let cases = [
        ("web-1", "web-1"),
        ("team/web.1_x", "team-web-1-x"),
        ("-a-", "a"),
        ("___", "kiln"),
        (&long, &long[..63]),
    ];
    for (name, want) in cases {
        assert_eq!(hostname(name), want);
    }
}
