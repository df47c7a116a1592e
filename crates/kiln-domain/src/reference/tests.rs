use proptest::prelude::*;

use super::*;

const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn parse(text: &str) -> Reference {
    text.parse()
        .unwrap_or_else(|error| panic!("parsing {text:?}: {error}"))
}

#[test]
fn short_names_are_spelled_out() {
    let cases = [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:bookworm", "docker.io/library/debian:bookworm"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("index.docker.io/debian:12", "docker.io/library/debian:12"),
        ("INDEX.docker.io/debian:12", "docker.io/library/debian:12"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:V2_x.1", "localhost:5000/app:V2_x.1"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[fe80::1]/app:x", "[fe80::1]/app:x"),
        (
            "GHCR.io/some/org/my-image:v2.1",
            "ghcr.io/some/org/my-image:v2.1",
        ),
        ("a__b/c---d_e.f", "docker.io/a__b/c---d_e.f:latest"),
    ];
    for (text, want) in cases {
        assert_eq!(parse(text).to_string(), want, "parsing {text:?}");
    }
}

#[test]
fn a_digest_leaves_the_tag_out_unless_written() {
    let only_digest = parse(&format!("debian@sha256:{HEX}"));
    let both = parse(&format!("debian:12@sha256:{HEX}"));

    assert_eq!(
        only_digest.to_string(),
        format!("docker.io/library/debian@sha256:{HEX}")
    );
    assert_eq!(only_digest.tag(), None);
    assert_eq!(
        both.to_string(),
        format!("docker.io/library/debian:12@sha256:{HEX}")
    );
    assert_eq!(both.tag(), Some("12"));
    assert_eq!(both.digest(), only_digest.digest());
}

#[test]
fn an_implied_latest_equals_a_written_one_but_is_remembered() {
    let implied = parse("debian");
    let written = parse("debian:latest");

    assert_eq!(implied, written);
    assert_eq!(implied.written_tag(), None);
    assert_eq!(written.written_tag(), Some("latest"));
    assert_ne!(implied, parse("debian:12"));
}

#[test]
fn broken_texts_say_what_is_wrong() {
    let long = "a".repeat(256);
    let long_tag = format!("debian:{}", "t".repeat(129));
    let component = |text: &str| ReferenceError::Repository {
        component: text.to_owned(),
    };
    let registry = |text: &str| ReferenceError::Registry {
        registry: text.to_owned(),
    };
    let cases: Vec<(&str, ReferenceError)> = vec![
        ("", ReferenceError::Empty),
        (
            "https://ghcr.io/x",
            ReferenceError::Url {
                text: "https://ghcr.io/x".to_owned(),
            },
        ),
        (
            "Debian",
            ReferenceError::Uppercase {
                component: "Debian".to_owned(),
            },
        ),
        (
            "Foo/bar",
            ReferenceError::Uppercase {
                component: "Foo".to_owned(),
            },
        ),
        ("a//b", component("")),
        ("debian/", component("")),
        ("docker.io/", component("")),
        ("a___b", component("a___b")),
        ("a..b", component("a..b")),
        ("-a", component("-a")),
        (
            "../../etc/passwd",
            ReferenceError::Path {
                text: "../../etc/passwd".to_owned(),
            },
        ),
        ("a/../b", component("..")),
        ("dé", component("dé")),
        ("a b", component("a b")),
        ("a\nb", component("a\nb")),
        ("host:port/a", registry("host:port")),
        ("host:0/a", registry("host:0")),
        ("host:65536/a", registry("host:65536")),
        ("host:+80/a", registry("host:+80")),
        ("host:/a", registry("host:")),
        ("-x.io/a", registry("-x.io")),
        ("[::1/a", registry("[::1")),
        ("[zz]/a", registry("[zz]")),
        (
            "user@evil.io/a",
            DigestError::Algorithm {
                text: "evil.io/a".to_owned(),
            }
            .into(),
        ),
        ("debian:", ReferenceError::Tag { tag: String::new() }),
        (
            "debian:.x",
            ReferenceError::Tag {
                tag: ".x".to_owned(),
            },
        ),
        (
            "debian:a:b",
            ReferenceError::Tag {
                tag: "a:b".to_owned(),
            },
        ),
        (
            HEX,
            ReferenceError::ImageId {
                repository: HEX.to_owned(),
            },
        ),
        (
            &long,
            ReferenceError::TooLong {
                part: "repository",
                len: 256 + "library/".len(),
                max: 255,
            },
        ),
        (
            &long_tag,
            ReferenceError::TooLong {
                part: "tag",
                len: 129,
                max: 128,
            },
        ),
    ];
    for (text, want) in cases {
        assert_eq!(text.parse::<Reference>(), Err(want), "parsing {text:?}");
    }
}

#[test]
fn the_derived_name_is_the_last_part_and_the_suffix() {
    let digest = format!("ghcr.io/a/b@sha256:{HEX}");
    let latest_and_digest = format!("debian:latest@sha256:{HEX}");
    let tag_and_digest = format!("debian:12@sha256:{HEX}");
    let long = format!("debian:a{}.", "x".repeat(126));
    let cases = [
        ("docker.io/library/debian:bookworm", "debian-bookworm"),
        ("alpine:3.20", "alpine-3-20"),
        ("docker.io/library/debian", "debian"),
        ("debian:latest", "debian"),
        ("ghcr.io/some/org/my-image:v2.1", "my-image-v2-1"),
        ("a/my_image.x:V2_Beta", "my_image.x-v2-beta"),
        ("a/b:v1.", "b-v1"),
        (&digest, "b-9f86d081884c"),
        (&latest_and_digest, "debian-9f86d081884c"),
        (&tag_and_digest, "debian-12"),
        (&long, &format!("debian-a{}", "x".repeat(120))),
    ];
    for (text, want) in cases {
        assert_eq!(parse(text).derived_image_name(), want, "naming {text:?}");
    }
}

#[test]
fn json_carries_the_canonical_text() {
    let json = serde_json::to_string(&parse("debian")).unwrap();

    assert_eq!(json, "\"docker.io/library/debian:latest\"");
    assert_eq!(
        serde_json::from_str::<Reference>(&json).unwrap(),
        parse("debian")
    );
    serde_json::from_str::<Reference>("\"UPPER\"").unwrap_err();
}

proptest! {
    #[test]
    fn no_text_panics_and_good_ones_round_trip(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,40}|\\PC{0,40}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
            let name = reference.derived_image_name();
            prop_assert!(is_component(&name), "derived {:?}", name);
        }
    }
}

#[test]
fn a_path_is_told_from_a_reference() {
    for text in ["/tmp/x", "./da1.tar", "../lay:1", ".", "~/x"] {
        let error = text.parse::<Reference>().unwrap_err();
        assert!(matches!(error, ReferenceError::Path { .. }), "{error}");
    }
    "a/./b".parse::<Reference>().unwrap_err();
}

#[test]
fn what_is_shown_of_a_name_has_no_password() {
    let secret = "s3cr3t";
    for text in [
        "http://ada:s3cr3t@127.0.0.1:5001",
        "https://ada:s3cr3t@host/x",
        "ada:s3cr3t@host/x",
        "ada:s3cr3t@host",
        "ada:s3cr3t@localhost:5613",
        "ada:s3cr3t@[::1]:5613",
        "ada:s3cr3t/@host/x:1",
        "ada:p@s3cr3t@host:1",
    ] {
        let error = text.parse::<Reference>().unwrap_err().to_string();
        assert_eq!(error, ReferenceError::UserInfo.to_string(), "{text}");
        for error in [
            text.parse::<crate::RegistryName>().unwrap_err(),
            text.parse::<crate::LoginScope>().unwrap_err(),
        ] {
            assert_eq!(error, ReferenceError::UserInfo);
        }
        let shown = without_user_info(text);
        assert!(!shown.contains(secret) && shown.contains("***@"), "{shown}");
    }
    let digest = format!("host:5000/x:1@sha256:{}", "0".repeat(64));
    for text in ["host:5000/x", digest.as_str(), "x@sha256:00", "a@b"] {
        assert_eq!(without_user_info(text), text);
    }
}
