use super::*;

fn containers(text: &str) -> Result<Rules, RulesError> {
    let mut rules = Rules::default();
    rules.add_containers_conf(text, Path::new("/etc/r.conf"))?;
    Ok(rules)
}

fn own(text: &str) -> Result<Rules, RulesError> {
    let mut rules = Rules::default();
    rules.add_own(text, Path::new("/etc/kiln/config.toml"))?;
    Ok(rules)
}

/// The problem of a text that is refused, with its causes.
fn problem(refused: Result<Rules, RulesError>) -> String {
    let error = refused.map(drop).unwrap_err();
    let source = std::error::Error::source(&error);
    match source {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The example of containers-registries.conf(5).
const MANUAL: &str = r#"
unqualified-search-registries = ["example.com"]

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
"#;

#[test]
fn the_longest_prefix_wins_and_knows_its_line() {
    let rules = containers(MANUAL).unwrap();

    let (rule, matched) = rules.of_name("example.com/foo/image:latest").unwrap();
    assert_eq!((matched, rule.origin.as_str()), (15, "/etc/r.conf:4"));
    let places: Vec<String> = rule
        .mirrors
        .iter()
        .map(|mirror| format!("{} {}", mirror.location, mirror.insecure))
        .collect();
    assert_eq!(
        places,
        [
            "example-mirror-0.local/mirror-for-foo false",
            "example-mirror-1.local/mirrors/foo true"
        ]
    );
    let (rule, _) = rules.of_name("registry.com/image:latest").unwrap();
    assert_eq!(rule.origin, "/etc/r.conf:17");
    assert_eq!(rule.prefix.to_string(), "registry.com");
    assert!(rules.of_name("example.com/bar:1").is_none());
    let nested = "[[registry]]\nlocation='a.io'\n[[registry]]\nprefix='a.io/b/c'\n\
                  [[registry]]\nprefix='a.io/b'\n[[registry]]\nprefix='*.io'\nblocked=true\n";
    let nested = containers(nested).unwrap();
    let of = |name| nested.of_name(name).unwrap().0.prefix.to_string();
    assert_eq!(of("a.io/b/c/d:1"), "a.io/b/c");
    assert_eq!(of("a.io/b/x:1"), "a.io/b");
    assert_eq!(of("a.io/x:1"), "a.io");
    assert_eq!(of("x.a.io/x:1"), "*.io");
}

#[test]
fn later_texts_win_prefix_by_prefix_and_alias_by_alias() {
    let mut rules = Rules::default();
    let mut add = |text, file| rules.add_containers_conf(text, Path::new(file)).unwrap();
    add(
        "[[registry]]\nlocation='a.io'\nblocked=true\n[aliases]\nx='a.io/x'\ny='a.io/y'\n",
        "/1",
    );
    add(
        "[[registry]]\nlocation='b.io'\n[aliases]\nx='b.io/x'\ny=''\n",
        "/2",
    );
    let own = "[daemon]\nsocket = '/s'\n[[registry]]\nprefix='a.io'\ninsecure=true\n";
    rules.add_own(own, Path::new("/3")).unwrap();

    let a = rules.of_name("a.io/x:1").unwrap().0;
    assert_eq!(
        (a.blocked, a.insecure, a.origin.as_str()),
        (false, true, "/3:3")
    );
    assert_eq!(rules.len(), 2);
    let x = rules.alias("x").unwrap();
    assert_eq!((x.target.as_str(), x.origin.as_str()), ("b.io/x", "/2"));
    assert!(rules.alias("y").is_none());
}

#[test]
fn what_a_mirror_is_for_is_said_in_one_way() {
    let cases = [
        ("", "", Ok(UseFor::Unsaid)),
        ("", "pull-from-mirror='all'", Ok(UseFor::Everything)),
        ("", "pull-from-mirror=''", Ok(UseFor::Unsaid)),
        ("", "pull-from-mirror='tag-only'", Ok(UseFor::Tags)),
        ("", "pull-from-mirror='digest-only'", Ok(UseFor::Digests)),
        ("mirror-by-digest-only=true", "", Ok(UseFor::Digests)),
        ("", "resolve=true", Ok(UseFor::Everything)),
        ("", "resolve=false", Ok(UseFor::Digests)),
        ("mirror-by-digest-only=true", "resolve=true", Err(())),
        (
            "mirror-by-digest-only=true",
            "pull-from-mirror='all'",
            Err(()),
        ),
        ("", "pull-from-mirror='some'", Err(())),
        ("", "pull-from-mirror='all'\nresolve=false", Err(())),
    ];
    for (rule, mirror, want) in cases {
        let text = format!(
            "[[registry]]\nprefix='a.io'\n{rule}\n[[registry.mirror]]\nlocation='m.io'\n{mirror}\n"
        );
        let got = own(&text).map(|rules| rules.of_name("a.io/x").unwrap().0.mirrors[0].use_for);
        assert_eq!(got.map_err(drop), want, "{rule} {mirror}");
    }
}

#[test]
fn their_files_may_hold_more_than_we_know_and_ours_may_not() {
    let text = "credential-helpers = ['containers-auth.json']\nnew-key = 1\n[[registry]]\n\
                location='a.io'\nsomething = 'else'\n";
    assert_eq!(containers(text).unwrap().len(), 1);

    let refused = problem(own("[[registry]]\nprefix='a.io'\nblockd=true\n"));
    assert!(refused.contains("blockd"), "{refused}");
    // What only we know is nothing in their files: podman would go on without it.
    let theirs = containers("[[registry]]\nlocation='a.io'\nproxy='http://p:1'\n").unwrap();
    assert!(theirs.of_name("a.io/x").unwrap().0.ways.proxy.is_none());
}

#[test]
fn broken_rules_are_refused_with_their_place() {
    let cases = [
        (
            "[registries.search]\nregistries=['a.io']\n",
            "/etc/r.conf has the table [registries.…] of version 1",
        ),
        ("not toml", "/etc/r.conf is wrong: line 1, column "),
        (
            "[[registry]]\nlocation='a.io'\n[[registry.mirror]]\ninsecure=true\n",
            "/etc/r.conf is wrong",
        ),
        (
            "[aliases]\n'a.io/x'='b.io/x'\n",
            "the alias \"a.io/x\" in /etc/r.conf is not a short",
        ),
        (
            "[aliases]\nx='y'\n",
            "the alias \"x\" in /etc/r.conf does not stand for",
        ),
        (
            "[aliases]\nx='b.io/y:1'\n",
            "the alias \"x\" in /etc/r.conf does not stand for",
        ),
        (
            "short-name-mode='often'\n",
            "the registry in /etc/r.conf has a short-name-mode",
        ),
    ];
    for (text, want) in cases {
        let got = problem(containers(text));
        assert!(got.starts_with(want), "{text} gave {got}");
    }
}

#[test]
fn a_rule_of_theirs_that_cannot_be_used_is_one_under_which_nobody_is_asked() {
    let cases = [
        (
            "\n[[registry]]\nblocked=true\n",
            "the registry in /etc/r.conf:2 has neither prefix nor location",
        ),
        (
            "[[registry]]\nprefix='*.a.io/b'\n",
            "the registry in /etc/r.conf:1 cannot be used: \"*.a.io/b\" is not a wildcard",
        ),
        (
            "[[registry]]\nlocation='a.io'\n[[registry.mirror]]\nlocation='m.io/x:1'\n",
            "the registry in /etc/r.conf:1 cannot be used: \"m.io/x:1\" is not a place",
        ),
        (
            "[[registry]]\nprefix='docker.io'\nlocation='nexus'\n",
            "the registry in /etc/r.conf:1 cannot be used: \"nexus\" is not a place",
        ),
        (
            "unqualified-search-registries=['nexus','docker.io']\n",
            "unqualified-search-registries in /etc/r.conf: \"nexus\" is not a place",
        ),
    ];
    for (text, want) in cases {
        let rules = containers(&format!("{text}\n[[registry]]\nlocation='b.io'\n")).unwrap();
        let [problem] = rules.problems() else {
            panic!("{text}: {:?}", rules.problems());
        };
        assert!(problem.contains(want), "{text} gave {problem}");
        assert!(rules.of_name("b.io/x").unwrap().0.problem.is_none());
        // The same in our own file is an error.
        if !text.starts_with("unq") {
            own(text).unwrap_err();
        }
    }

    let rules = containers("[[registry]]\nprefix='docker.io'\nlocation='nexus'\n").unwrap();
    let (rule, _) = rules.of_name("docker.io/library/debian").unwrap();
    assert!(rule.problem.is_some());
    assert!(rules.of_name("ghcr.io/x").is_none());
    let text = "[[registry]]\nlocation='a.io'\n[[registry.mirror]]\nlocation='nexus'\n\
                [[registry.mirror]]\nlocation='m.io'\n";
    let rules = containers(text).unwrap();
    let (rule, _) = rules.of_name("a.io/x").unwrap();
    assert_eq!((rule.mirrors.len(), rule.unusable_mirrors.len()), (1, 1));
    assert_eq!(rule.unusable_mirrors[0].0, "nexus");
    assert!(rule.problem.is_none());
}

#[test]
fn what_is_wrong_with_a_text_is_told_in_one_line_without_its_passwords() {
    for text in [
        "a = 1\n[[registry]]\nlocation = \"u:s3cr3t@h/x\nb=2\n",
        "a = 1\n[[registry]]\ninsecure = \"u:s3cr3t@h/x\"\n",
        "a = 1\n[[registry]]\nlocation = \"u:s3cr3t@h/x\" trailing\n",
    ] {
        let told = problem(containers(text));
        assert!(
            told.contains("line 3, column ") && !told.contains('\n'),
            "{told}"
        );
        assert!(!told.contains("s3cr3t"), "{told}");
    }
    let told = containers("[[registry]]\nlocation = \"u:s3cr3t@h/x\"\n").unwrap();
    assert!(!told.problems()[0].contains("s3cr3t"));
}

#[test]
fn our_own_keys_are_checked() {
    let rule = |keys: &str| own(&format!("[[registry]]\nprefix='a.io'\n{keys}\n"));
    let cases = [
        ("client_cert='/c'", "needs both"),
        ("ca='c.pem'", "not absolute"),
        (
            "headers={Authorization='Basic x'}",
            "the header \"Authorization\", which may not be set",
        ),
        ("headers={'a b'='c'}", "a header that is none"),
        ("concurrency=0", "outside of 1 to 1024"),
        ("timeout=0", "outside of 1 to 3600"),
        ("proxy='socks5://p'", "not in socks5"),
        ("resolve=true", "for its mirrors"),
    ];
    for (keys, want) in cases {
        let got = problem(rule(keys));
        assert!(got.contains(want), "{keys} gave {got}");
    }
    let good = "ca='/ca.pem'\nclient_cert='/c'\nclient_key='/k'\nproxy='none'\nconcurrency=2\n\
                timeout=5\nheaders={X-Team='kiln'}\n[[registry.mirror]]\nlocation='m.io'\nca='/m'";
    let rules = rule(good).unwrap();
    assert_eq!(rules.files(), ["/c", "/ca.pem", "/k", "/m"].map(Path::new));
}
