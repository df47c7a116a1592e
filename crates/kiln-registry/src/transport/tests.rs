use super::*;
use crate::routes::PemFile;
use crate::testing::{Asked, Reply, Server, impatient};

const ASK: Ask<'static> = Ask {
    method: &Method::GET,
    accept: None,
    start: 0,
    caches: Caches::Welcome,
    body: None,
    piece: None,
    extra_time: Duration::ZERO,
    patience_left: Duration::MAX,
    what: "a test",
};

/// A transport for a registry of this address, which is never asked anything.
fn transport_of(address: &str) -> Transport {
    Transport::new(address, Host::parse(address).unwrap(), impatient()).unwrap()
}

#[tokio::test]
async fn a_public_registry_cannot_send_us_to_this_host() {
    let server = Server::start(|_, _| Reply::ok("secret of this host")).await;
    let port = server.authority().rsplit(':').next().unwrap();
    let transport = transport_of("8.8.8.8");

    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f000001"] {
        let url = Url::parse(&format!("http://{host}:{port}/latest")).unwrap();
        let error = transport.ask(&url, ASK, None).await.unwrap_err();
        assert!(
            matches!(error, FetchError::AddressRefused { .. }),
            "{host} gave {error:?}"
        );
    }
    assert_eq!(server.targets(), Vec::<String>::new());
}

#[tokio::test]
async fn a_loopback_registry_may_send_us_to_another_port() {
    let server = Server::start(|_, _| Reply::ok("blob")).await;
    let transport = transport_of("127.0.0.1");

    let url = Url::parse(&format!("http://{}/x", server.authority())).unwrap();
    let answer = transport.ask(&url, ASK, None).await.unwrap();

    assert_eq!(answer.response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_loopback_registry_sends_us_nowhere_else_that_is_not_public() {
    for address in ["127.0.0.1", "localhost", "[::1]"] {
        let transport = transport_of(address);

        for (url, want) in [
            ("http://127.0.0.2/", true),
            ("http://8.8.8.8/", true),
            ("http://169.254.169.254/latest/meta-data", false),
            ("http://[::ffff:169.254.169.254]/", false),
            ("http://[fe80::1]/", false),
            ("http://[fd00:ec2::254]/", false),
            ("http://10.0.0.1/", false),
            ("http://100.64.0.1/", false),
            ("http://0.0.0.0/", false),
        ] {
            let client = transport.client_for(&Url::parse(url).unwrap()).await;
            assert_eq!(client.is_ok(), want, "{address} reaching {url}");
        }
    }
}

#[tokio::test]
async fn a_private_registry_reaches_its_network_but_not_this_host() {
    let transport = transport_of("10.0.0.1");

    for (url, want) in [
        ("http://10.0.0.2/", true),
        ("https://192.168.0.1/", true),
        ("http://127.0.0.1/", false),
        ("http://169.254.169.254/", false),
    ] {
        let client = transport.client_for(&Url::parse(url).unwrap()).await;
        assert_eq!(client.is_ok(), want, "reaching {url}");
    }
}

#[tokio::test]
async fn configured_headers_reach_the_registry_and_no_other_port_of_its_host() {
    let registry = Server::start(|_, _| Reply::ok("x")).await;
    let other = Server::start(|_, _| Reply::ok("x")).await;
    let config = Config {
        headers: [("x-key".to_owned(), "secret".to_owned())]
            .into_iter()
            .collect(),
        ..Config::default()
    };
    let host = Host::parse("127.0.0.1").unwrap();
    let transport = Transport::new(registry.authority(), host, Arc::new(config)).unwrap();

    for server in [&registry, &other] {
        let url = Url::parse(&format!("http://{}/x", server.authority())).unwrap();
        transport.ask(&url, ASK, None).await.unwrap();
    }

    assert_eq!(registry.asked()[0].header("x-key"), Some("secret"));
    assert_eq!(other.asked()[0].header("x-key"), None);
}

#[tokio::test]
async fn a_proxy_is_not_asked_for_addresses_out_of_reach() {
    let proxy = Server::start(|_, _| Reply::ok("x")).await;
    let words = crate::routes::ProxyWords {
        http: Some(format!("http://{}", proxy.authority())),
        ..Default::default()
    };
    let config = Config {
        proxies: crate::routes::Proxies::of_environment(&words).unwrap(),
        ..Config::default()
    };
    let host = Host::parse("8.8.8.8").unwrap();
    let transport = Transport::new("8.8.8.8", host, Arc::new(config)).unwrap();

    let url = Url::parse("http://169.254.169.254/latest").unwrap();
    let error = transport.ask(&url, ASK, None).await.unwrap_err();

    assert!(
        matches!(error, FetchError::AddressRefused { .. }),
        "{error:?}"
    );
    assert_eq!(proxy.targets(), Vec::<String>::new());
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_not_a_host_that_cannot_be_reached() {
    let long = "x".repeat(1 << 20);
    let many = |_: &Asked, _: usize| {
        let reply = Reply::ok("x");
        (0..200).fold(reply, |reply, n| reply.with(&format!("x-{n}"), "y"))
    };
    let servers = [
        (
            Server::start(move |_, _| Reply::ok("x").with("x-long", &long)).await,
            "HeadersTooLarge",
        ),
        (Server::start(many).await, "HeadersTooLarge"),
        (
            Server::start(|_, _| Reply::ok("x").with("no header\x01", "y")).await,
            "NotHttp",
        ),
    ];
    let transport = transport_of("127.0.0.1");
    for (server, want) in servers {
        let url = Url::parse(&format!("http://{}/x", server.authority())).unwrap();

        let error = transport.ask(&url, ASK, None).await.unwrap_err();

        assert!(format!("{error:?}").starts_with(want), "{error:?}");
    }
}

#[test]
fn unusable_settings_are_refused_by_name() {
    let name_of = |config: Config| {
        let host = Host::parse("registry.test").unwrap();
        let error = Transport::new("registry.test", host, Arc::new(config)).unwrap_err();
        let text = format!("{error:?}");
        text.split(['(', ' ']).next().unwrap().to_owned()
    };
    let no_pem = Config {
        extra_ca_pem: vec![b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_vec()],
        ..Config::default()
    };
    let no_identity = Config {
        client_pem: Some(PemFile {
            path: "/c".to_owned(),
            pem: b"no PEM".to_vec(),
        }),
        ..Config::default()
    };
    let no_header = Config {
        headers: [("a b".to_owned(), "c".to_owned())].into_iter().collect(),
        ..Config::default()
    };

    assert_eq!(name_of(no_pem), "ExtraCertificate");
    assert_eq!(name_of(no_identity), "ClientCertificate");
    assert_eq!(name_of(no_header), "Header");
}
