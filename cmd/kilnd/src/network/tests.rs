use super::*;
use crate::config::Given;
use crate::places::Places;

/// An authority that has signed nothing.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIUL5WrWZM1lFXdCHl19EcZoU2rn1swCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBdDAgFw0yNjEyMDEwMTAwMjJaGA8yMTI2MTEwNzAxMDAyMlow
DDEKMAgGA1UEAwwBdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDllT5Kaj1iB
kOIti92IkhjXCPWsEWO2VHfuoHAXvImXGjaxJfVK1lTz+ikphwygK3GWtmLVB8Q5
txHO8rD85hKjUzBRMB0GA1UdDgQWBBSZcPKx6uxQpBsc2cgr9hWsa9J3GjAfBgNV
HSMEGDAWgBSZcPKx6uxQpBsc2cgr9hWsa9J3GjAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0gAMEUCICjz7DIS0T/DbsrholbaAp6zGt5HXyXwV3oahwqg5jCs
AiEAo5I0UsAVq/QAIE/bVOJlyCn59wJ2JWoBEXf4M7NoiYM=
-----END CERTIFICATE-----
";

/// A folder with a configuration, and what is read under it.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn read(&self, config: &str) -> Result<Surroundings, NetworkError> {
        let file = self.write("config.toml", config);
        let given = Given {
            file: Some(file),
            ..Given::default()
        };
        let mut places = Places::below(self.folder.path());
        places.registries_conf = vec![
            self.folder.path().join("conf"),
            self.folder.path().join("d"),
        ];
        places.certs_dirs = vec![self.folder.path().join("certs")];
        let config = Config::load(&given, places, 1).unwrap();
        read(&config, &ProxyWords::default())
    }
}

#[test]
fn a_host_without_any_of_it_is_fine() {
    let read = Host::new().read("").unwrap();

    assert!(read.network.rules.is_empty());
    assert_eq!(read.problems, Vec::<String>::new());
    assert_eq!(read.settings[0].value, "[]");
}

#[test]
fn drop_ins_are_read_in_order_and_our_own_rules_last() {
    let host = Host::new();
    host.write("conf", "[[registry]]\nlocation='a.io'\nblocked=true\n");
    host.write("d/020.conf", "[[registry]]\nlocation='a.io'\n");
    host.write(
        "d/010.conf",
        "[[registry]]\nlocation='b.io'\nblocked=true\n",
    );
    host.write("d/README", "no rules");

    let authority = host.write("ca.pem", AUTHORITY);
    let read = host
        .read(&format!("[[registry]]\nprefix='b.io'\nca={authority:?}\n"))
        .unwrap();

    let blocked = |name: &str| {
        let name = format!("{name}/x").parse().unwrap();
        read.network
            .route(&name, kiln_registry::routes::TlsVerify::AsConfigured)
            .is_blocked
    };
    assert!(!blocked("a.io") && !blocked("b.io"));
    assert!(read.network.files.contains_key(&authority));
    let listed = &read.settings[0].value;
    let order: Vec<_> = ["/conf", "/d/010.conf", "/d/020.conf", "/config.toml"]
        .iter()
        .map(|name| listed.find(name).unwrap())
        .collect();
    assert!(order.is_sorted(), "{listed}");
}

#[test]
fn certificates_are_found_by_host_and_what_lacks_is_told() {
    let host = Host::new();
    host.write("certs/a.io:5000/ca.crt", "CA");
    host.write("certs/a.io:5000/me.cert", "CERT");
    host.write("certs/a.io:5000/me.key", "KEY");
    host.write("certs/b.io/me.cert", "CERT");
    host.write("certs/not a host/ca.crt", "CA");

    let read = host.read("").unwrap();

    let [a, b] = read.network.certificates.as_slice() else {
        panic!("{read:?}");
    };
    assert_eq!(
        (a.registry.as_str(), a.authorities[0].pem.as_slice()),
        ("a.io:5000", &b"CA"[..])
    );
    assert_eq!(a.clients[0].pem, b"CERT\nKEY");
    assert_eq!(b.clients.len(), 0);
    let problems = read.problems.join("\n");
    assert!(problems.contains("b.io/me.key: No such file"), "{problems}");
    assert!(
        problems.contains("not a host is not named like a registry"),
        "{problems}"
    );
    assert!(!format!("{:?}", read.network).contains("KEY"));
}

#[test]
fn what_was_named_must_be_there() {
    let host = Host::new();
    let refused = host.read("[registries]\nconf_files=['/nonexistent/r.conf']\n");
    assert!(matches!(refused, Err(NetworkError::Unreadable { .. })));
    let refused = host.read("[[registry]]\nprefix='a.io'\nca='/nonexistent/ca.pem'\n");
    assert!(matches!(refused, Err(NetworkError::Unreadable { .. })));
    let text = host.write("ca.pem", "no certificate\n");
    let refused = host.read(&format!("[[registry]]\nprefix='a.io'\nca={text:?}\n"));
    let Err(NetworkError::Authority { path, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(path, text);
    host.write("conf", "[registries.search]\nregistries=[]\n");
    let refused = host.read("");
    assert!(matches!(
        refused,
        Err(NetworkError::Rules(RulesError::VersionOne { .. }))
    ));
}

#[test]
fn a_pipe_among_the_files_is_refused_and_waited_for_by_nobody() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    for (name, config) in [
        ("d/ff.conf", ""),
        ("conf", ""),
        ("ca.pem", "[[registry]]\nprefix='a.io'\nca='{}'\n"),
    ] {
        let host = Host::new();
        let path = host.write(name, "");
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();

        let refused = host.read(&config.replace("{}", &path.display().to_string()));

        let Err(error) = refused else {
            panic!("{name} was read");
        };
        assert!(told(&error).contains("not a regular file"), "{error}");
    }
}
