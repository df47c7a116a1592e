use super::*;

fn slot(text: &str) -> SlotName {
    text.parse().unwrap()
}

fn quantity(text: &str) -> Quantity {
    text.parse().unwrap()
}

#[test]
fn one_rule_reads_counts_and_bytes() {
    let cases: &[(&str, Option<&str>)] = &[
        ("4", Some("4")),
        ("0", Some("0")),
        ("1.5", Some("1.5")),
        ("1.500", Some("1.5")),
        ("0.001", Some("0.001")),
        ("0.0001", None),
        ("8G", Some("8589934592")),
        ("8g", Some("8589934592")),
        ("8GiB", Some("8589934592")),
        ("8Gi", Some("8589934592")),
        ("8 GB", Some("8000000000")),
        ("512Mi", Some("536870912")),
        ("1.5G", Some("1610612736")),
        ("1T", Some("1099511627776")),
        ("18446744073709551", Some("18446744073709551")),
        ("18446744073709552", None),
        ("99999999T", None),
        ("-1", None),
        ("1e9", None),
        ("G", None),
        ("1.", None),
        (".5", None),
        ("1.2.3", None),
        ("4 x", None),
        ("٤", None),
        ("", None),
    ];
    for (text, want) in cases {
        let read = text.parse::<Quantity>().ok().map(|read| read.to_string());
        assert_eq!(read.as_deref(), *want, "{text:?}");
    }
}

#[test]
fn json_takes_numbers_and_texts_and_writes_numbers() {
    let cases = [
        ("4", Some("4")),
        ("1.5", Some("1.5")),
        ("\"8G\"", Some("8589934592")),
        ("-4", None),
        ("1e300", None),
        ("\"lots\"", None),
        ("null", None),
        ("[4]", None),
        ("18446744073709551615", None),
    ];
    for (text, want) in cases {
        let read = serde_json::from_str::<Quantity>(text).ok();
        let written = read.map(|read| serde_json::to_string(&read).unwrap());
        assert_eq!(written.as_deref(), want, "{text}");
    }
}

#[test]
fn slots_have_a_grammar() {
    for text in ["cpu", "memory", "gpu", "cuda.shares", "x-1_2.y", "a"] {
        assert_eq!(slot(text).as_str(), text);
    }
    let long = "a".repeat(65);
    for text in [
        "", "CPU", "1gpu", "a..b", "a.", "-a", "a b", "a=b", "ü", &long,
    ] {
        text.parse::<SlotName>().unwrap_err();
    }
}

#[test]
fn what_no_machine_could_have_is_refused() {
    let cases = [
        ("cpu", "4", true),
        ("cpu", "0.5", true),
        ("cpu", "0", false),
        ("cpu", "255", true),
        ("cpu", "255.1", false),
        ("cpu", "1G", false),
        ("memory", "8G", true),
        ("memory", "4", false),
        ("memory", "64M", true),
        ("memory", "67108863", false),
        ("memory", "67108864.5", false),
        ("memory", "1T", true),
        ("memory", "1.001T", false),
        ("gpu", "0", true),
        ("gpu", "2", true),
    ];
    for (name, value, can_be) in cases {
        let checked = check(&slot(name), quantity(value));
        assert_eq!(checked.is_ok(), can_be, "{name} {value}");
    }
}

#[test]
fn custom_wins_over_labels_over_the_daemon_over_what_is_built_in() {
    let limits = |list: &[(&str, &str)]| -> Limits {
        let pairs = list
            .iter()
            .map(|(name, value)| (slot(name), quantity(value)));
        pairs.collect()
    };
    let show = |effective: &Effective| -> Vec<String> {
        let limits = effective.limits.iter();
        limits
            .map(|(slot, limit)| format!("{slot}={} {}", limit.value, limit.origin))
            .collect()
    };

    let nothing = effective(&Limits::new(), [], &Limits::new());
    assert_eq!(
        show(&nothing),
        ["cpu=1 built-in", "memory=536870912 built-in"]
    );

    let daemon = limits(&[("cpu", "2"), ("memory", "1G"), ("gpu", "0"), ("tpu", "1")]);
    let labels = [
        ("dev.kiln.limits.memory", "2G"),
        ("dev.kiln.limits.gpu", "1"),
        ("dev.kiln.limits.cpu", "many"),
        ("dev.kiln.limits.", "1"),
        ("org.opencontainers.image.title", "4"),
    ];
    let all = effective(&daemon, labels, &limits(&[("gpu", "2")]));
    assert_eq!(
        show(&all),
        [
            "cpu=2 daemon",
            "gpu=2 custom",
            "memory=2147483648 label",
            "tpu=1 daemon"
        ]
    );
    assert_eq!(all.ignored, ["dev.kiln.limits.cpu", "dev.kiln.limits."]);
}

#[test]
fn parts_of_a_processor_take_a_whole_one() {
    for (text, want) in [("1", 1), ("1.5", 2), ("0.001", 1), ("0", 0)] {
        assert_eq!(quantity(text).rounded_up(), want, "{text}");
    }
}
