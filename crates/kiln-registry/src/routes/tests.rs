use std::path::Path;

use super::*;

fn network(conf: &str) -> Network {
    let mut rules = Rules::default();
    rules.add_own(conf, Path::new("/c")).unwrap();
    Network {
        rules,
        ..Network::default()
    }
}

/// The places of a route, one a line: what is asked there, and whether it resolves tags.
fn places(network: &Network, reference: &str) -> Vec<String> {
    let route = network.route(&reference.parse().unwrap(), TlsVerify::AsConfigured);
    let line = |endpoint: &Endpoint| {
        let reference = endpoint.reference.as_ref().unwrap();
        let tags = if endpoint.resolves_tags {
            "tags"
        } else {
            "digests"
        };
        format!("{reference} {tags}")
    };
    route.endpoints().map(line).collect()
}

#[test]
fn mirrors_come_first_in_order_and_the_location_last() {
    let network = network(
        "[[registry]]\nprefix='example.com/foo'\nlocation='inner.example/bar'\n\
         [[registry.mirror]]\nlocation='m0.example/mirror'\n\
         [[registry.mirror]]\nlocation='m1.example'\nresolve=true\n",
    );

    assert_eq!(
        places(&network, "example.com/foo/image:1"),
        [
            "m0.example/mirror/image:1 digests",
            "m1.example/image:1 tags",
            "inner.example/bar/image:1 tags",
        ]
    );
    assert_eq!(places(&network, "other.io/a"), ["other.io/a:latest tags"]);
}

#[test]
fn a_public_mirror_resolves_tags_only_where_that_is_written() {
    let digest = format!("@sha256:{}", "0".repeat(64));
    let cases = [
        ("m.example", "", "", Some(false)),
        ("m.example", "pull-from-mirror='all'", "", Some(true)),
        ("m.example", "pull-from-mirror='tag-only'", "", Some(true)),
        ("m.example", "pull-from-mirror='tag-only'", &digest, None),
        ("m.example", "resolve=true", "", Some(true)),
        ("8.8.8.8:5000", "", "", Some(false)),
        ("127.0.0.1:5000", "", "", Some(true)),
        ("localhost:5000", "", "", Some(true)),
        ("10.0.0.7:5000", "", "", Some(true)),
        ("[fd00::7]:5000", "", "", Some(true)),
        // Whoever answers for a name may change; only what is written counts.
        ("registry.lan:5000", "", "", Some(false)),
        ("127.0.0.1:5000", "resolve=false", "", Some(false)),
    ];
    for (mirror, keys, end, want) in cases {
        let network = network(&format!(
            "[[registry]]\nprefix='a.io'\n[[registry.mirror]]\nlocation='{mirror}'\n{keys}\n"
        ));
        let reference = format!("a.io/x{end}").parse().unwrap();
        let route = network.route(&reference, TlsVerify::AsConfigured);
        let found = route.mirrors.first();
        let got = found.map(|place| place.resolves_tags);
        assert_eq!(got, want, "{mirror} {keys} {end}");
        assert_eq!(route.passed_over.len(), usize::from(want.is_none()));
    }
}

#[test]
fn plain_http_is_for_the_place_that_is_insecure_and_no_other() {
    let conf = "[[registry]]\nprefix='a.io'\n[[registry.mirror]]\nlocation='m.io'\ninsecure=true\n";
    let network = network(conf);
    let of = |tls| {
        let route = network.route(&"a.io/x".parse().unwrap(), tls);
        let securities = route.endpoints().map(|place| place.security);
        securities.collect::<Vec<_>>()
    };

    assert_eq!(
        of(TlsVerify::AsConfigured),
        [Security::Insecure, Security::Https]
    );
    assert_eq!(
        of(TlsVerify::Waived),
        [Security::Insecure, Security::Insecure]
    );
    let strict = "[[registry]]\nprefix='a.io'\n[[registry.mirror]]\nlocation='m.io'\n";
    let waived = self::network(strict).route(&"a.io/x".parse().unwrap(), TlsVerify::Waived);
    assert_eq!(waived.mirrors[0].security, Security::Https);
}

#[test]
fn a_demand_for_certificates_outweighs_configuration_and_loopback() {
    use Security::{Https, Insecure, Loopback};
    use TlsVerify::{AsConfigured, Demanded, Waived};
    let insecure = "[[registry]]\nprefix='a.io'\ninsecure=true\n";
    let moved = "[[registry]]\nprefix='a.io'\nlocation='127.0.0.1:5000'\ninsecure=true\n";
    let cases = [
        ("a.io/x", "", [Https, Https, Insecure]),
        ("a.io/x", insecure, [Insecure, Https, Insecure]),
        ("listed.io/x", "", [Insecure, Https, Insecure]),
        ("127.0.0.1:5000/x", "", [Loopback, Https, Insecure]),
        ("localhost:5000/x", "", [Loopback, Https, Insecure]),
        ("[::1]:5000/x", "", [Loopback, Https, Insecure]),
        ("a.io/x", moved, [Insecure, Https, Insecure]),
    ];
    for (name, conf, want) in cases {
        let mut network = network(conf);
        network.config = Arc::new(Config {
            insecure_hosts: vec!["listed.io".to_owned()],
            ..Config::default()
        });
        let reference: Reference = name.parse().unwrap();
        for (tls, want) in [AsConfigured, Demanded, Waived].into_iter().zip(want) {
            let route = network.route(&reference, tls);
            let place = &route.location;
            assert_eq!(place.security, want, "{name} {tls:?} {conf}");
            assert_eq!(place.config.https_only, tls == Demanded);
            let host = place.registry.as_str();
            assert_eq!(place.config.is_insecure(host), want == Insecure);
            if conf != moved {
                let registry = network.registry_of(&reference, tls).unwrap();
                assert_eq!(registry.security, want, "{name} {tls:?} {conf}");
            }
        }
    }
}

#[test]
fn mirrors_that_may_speak_plain_http_are_passed_over_where_certificates_are_demanded() {
    let network = network(
        "[[registry]]\nprefix='a.io'\n\
         [[registry.mirror]]\nlocation='lax.io'\ninsecure=true\n\
         [[registry.mirror]]\nlocation='localhost:5000'\n\
         [[registry.mirror]]\nlocation='strict.io'\n",
    );
    let reference = "a.io/x".parse().unwrap();

    let route = network.route(&reference, TlsVerify::Demanded);

    let asked = route.endpoints().map(|place| place.registry.as_str());
    assert_eq!(asked.collect::<Vec<_>>(), ["strict.io", "a.io"]);
    assert!(route.endpoints().all(|place| place.config.https_only));
    let why = "certificates are insisted on, and it may speak plain HTTP".to_owned();
    let passed = ["lax.io", "localhost:5000"].map(|place| (place.to_owned(), why.clone()));
    assert_eq!(route.passed_over, passed);
}

#[test]
fn what_is_blocked_has_no_route_and_no_registry() {
    let network = network("[[registry]]\nprefix='evil.io'\nblocked=true\n");

    let reference = "evil.io/x".parse().unwrap();
    let route = network.route(&reference, TlsVerify::AsConfigured);
    let error = route.unless_blocked().unwrap_err();

    assert_eq!(error.to_string(), "evil.io/x:latest is blocked by /c:1");
    let name = "evil.io".parse().unwrap();
    network
        .registry(&name, TlsVerify::AsConfigured)
        .unwrap_err();
    let other = "a.io".parse().unwrap();
    network.registry(&other, TlsVerify::AsConfigured).unwrap();
}

#[test]
fn nobody_is_asked_under_a_rule_that_cannot_be_used() {
    let mut rules = Rules::default();
    let conf = "[[registry]]\nprefix='a.io'\nlocation='nexus'\n";
    rules.add_containers_conf(conf, Path::new("/c")).unwrap();
    let network = Network {
        rules,
        ..Network::default()
    };

    let route = network.route(&"a.io/x".parse().unwrap(), TlsVerify::AsConfigured);
    assert!(!route.is_blocked && route.rule_problem.is_some());
    let error = route.unless_blocked().unwrap_err().to_string();

    let want = "a.io/x:latest is blocked by /c:1, whose rule cannot be used: ";
    assert!(
        error.starts_with(want) && error.contains("nexus"),
        "{error}"
    );
    let name = "a.io".parse().unwrap();
    network
        .registry(&name, TlsVerify::AsConfigured)
        .unwrap_err();
    let other = "b.io".parse().unwrap();
    network.registry(&other, TlsVerify::AsConfigured).unwrap();
}

#[test]
fn client_certificates_that_are_not_whole_keep_the_registry_from_being_asked() {
    let mut network =
        network("[[registry]]\nprefix='a.io'\n[[registry.mirror]]\nlocation='m.io'\n");
    let problem = ClientProblem::Lone {
        present: "/certs/m.io/me.cert".into(),
        missing: "/certs/m.io/me.key".into(),
    };
    network.certificates = vec![HostCertificates {
        registry: "m.io".parse().unwrap(),
        authorities: Vec::new(),
        clients: Vec::new(),
        problem: Some(problem),
    }];

    let registry = "m.io".parse().unwrap();
    let endpoint = network
        .registry(&registry, TlsVerify::AsConfigured)
        .unwrap();
    let error = crate::Registry::at(&endpoint, None).unwrap_err();
    let route = network.route(&"a.io/x".parse().unwrap(), TlsVerify::AsConfigured);

    assert_eq!(
        error.to_string(),
        "m.io is not asked: /certs/m.io/me.cert lacks /certs/m.io/me.key, which belongs to it"
    );
    assert!(route.mirrors.is_empty() && route.passed_over[0].1.contains("me.key"));
    // Whoever waives certificates shows none.
    let waived = network.registry(&registry, TlsVerify::Waived).unwrap();
    crate::Registry::at(&waived, None).unwrap();
}

#[test]
fn a_rule_for_a_repository_holds_when_it_is_not_pulled_either() {
    let network = network(
        "[[registry]]\nprefix='a.io/evil'\nblocked=true\n\
         [[registry]]\nprefix='a.io/lax'\ninsecure=true\n",
    );
    let of = |text: &str| {
        let reference = text.parse().unwrap();
        network.registry_of(&reference, TlsVerify::AsConfigured)
    };

    assert_eq!(
        of("a.io/evil/x").unwrap_err().to_string(),
        "a.io/evil/x:latest is blocked by /c:1"
    );
    assert_eq!(of("a.io/lax/x").unwrap().security, Security::Insecure);
    assert_eq!(of("a.io/x").unwrap().security, Security::Https);
}

#[test]
fn of_two_wildcards_the_narrower_one_holds() {
    for (narrow, name) in [
        ("*.build.corp.io", "x.build.corp.io/a"),
        ("*.dev.corp.io", "x.dev.corp.io/a"),
    ] {
        let network = network(&format!(
            "[[registry]]\nprefix='*.corp.io'\n[[registry]]\nprefix='{narrow}'\nblocked=true\n"
        ));
        let route = network.route(&name.parse().unwrap(), TlsVerify::AsConfigured);
        assert!(route.is_blocked, "{narrow}");
    }
}

#[test]
fn who_waives_certificates_does_not_get_the_administrators_secrets() {
    let conf =
        "[[registry]]\nprefix='a.io'\nheaders={X-A='1'}\nclient_cert='/c'\nclient_key='/k'\n";
    let secrets = |insecure: &str, tls| {
        let mut network = network(&format!("{conf}{insecure}"));
        network.files = [("/c", "CERT"), ("/k", "KEY")]
            .map(|(path, text)| (path.into(), text.as_bytes().to_vec()))
            .into();
        let route = network.route(&"a.io/x".parse().unwrap(), tls);
        let registry = network.registry(&"a.io".parse().unwrap(), tls).unwrap();
        [route.location, registry].map(|place| {
            let config = &place.config;
            (config.headers.len(), config.client_pem.is_some())
        })
    };

    assert_eq!(secrets("", TlsVerify::AsConfigured), [(1, true); 2]);
    assert_eq!(secrets("", TlsVerify::Waived), [(0, false); 2]);
    assert_eq!(
        secrets("insecure=true\n", TlsVerify::Waived),
        [(1, true); 2]
    );
}

#[test]
fn each_place_has_its_own_certificates_proxy_and_headers() {
    let pem = |path: &str| PemFile {
        path: path.to_owned(),
        pem: path.as_bytes().to_vec(),
    };
    let mut network = network(
        "[[registry]]\nprefix='a.io'\nclient_cert='/c'\nclient_key='/k'\nproxy='http://u:p@p:1'\n\
         headers={X-A='open-sesame'}\ntimeout=7\n[[registry.mirror]]\nlocation='m.io'\n",
    );
    network.files = [("/c", "CERT"), ("/k", "KEY")]
        .map(|(path, text)| (path.into(), text.as_bytes().to_vec()))
        .into();
    network.certificates = vec![HostCertificates {
        registry: "m.io".parse().unwrap(),
        authorities: vec![pem("/certs/m.io/ca.crt")],
        clients: vec![pem("/certs/m.io/me.cert")],
        problem: None,
    }];
    let words = ProxyWords {
        https: Some("http://ann:hunter2@env:2".to_owned()),
        ..ProxyWords::default()
    };
    network.config = Arc::new(Config {
        proxies: Proxies::of_environment(&words).unwrap(),
        ..Config::default()
    });

    let route = network.route(&"a.io/x".parse().unwrap(), TlsVerify::AsConfigured);

    let (mirror, location) = (&route.mirrors[0], &route.location);
    assert_eq!(mirror.authorities, ["/certs/m.io/ca.crt"]);
    assert_eq!(
        mirror.client_certificate.as_deref(),
        Some("/certs/m.io/me.cert")
    );
    assert_eq!(mirror.proxy.as_deref(), Some("http://env:2"));
    assert_eq!(mirror.headers, Vec::<String>::new());
    assert_eq!(mirror.config.attempts, 2);
    assert_eq!(location.authorities, Vec::<String>::new());
    assert_eq!(location.client_certificate.as_deref(), Some("/c"));
    assert_eq!(
        location.config.client_pem.as_ref().unwrap().pem,
        b"CERT\nKEY"
    );
    assert_eq!(location.proxy.as_deref(), Some("http://p:1"));
    assert_eq!(location.headers, ["X-A"]);
    assert_eq!(location.config.stall_timeout.as_secs(), 7);
    let shown = format!("{route:?} {network:?} {words:?} {:?}", location.config);
    for secret in ["u:p", "CERT", "open-sesame", "hunter2"] {
        assert!(!shown.contains(secret), "{secret} is in {shown}");
    }
    assert!(shown.contains("X-A"), "names may be seen: {shown}");
}
