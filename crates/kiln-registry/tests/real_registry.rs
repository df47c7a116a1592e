//! The transport and the local sources against what other people's tools write and serve:
//! `docker-registry`, `skopeo`, `htpasswd` and `openssl`.
//!
//! Where a tool is not installed the test says so and ends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_domain::oci::Descriptor;
use kiln_domain::{Credentials, Digest, Platform, Reference, Secret};
use kiln_registry::{
    BlobBody, Config, DockerArchive, Download, FetchError, ImageSource, Layout, Registry, Resolved,
    resolve,
};

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Says whether all tools are there, and which is not.
fn has_tools(tools: &[&str]) -> bool {
    for tool in tools {
        let found = Command::new("sh")
            .args(["-c", "command -v \"$0\" > /dev/null", tool])
            .status();
        if !found.unwrap().success() {
            // Not eprintln, whose output a passing test does not show.
            let notice = format!("SKIPPED: {tool} is not installed\n");
            io::stderr().write_all(notice.as_bytes()).unwrap();
            return false;
        }
    }
    true
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A directory with an OCI layout `image` in it, tag `1`, of one real layer.
struct Workshop {
    directory: tempfile::TempDir,
}

impl Workshop {
    fn new() -> Self {
        let workshop = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let layer = layer();
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(&layer)
        );
        let layer = workshop.add("application/vnd.oci.image.layer.v1.tar", &layer);
        let config = workshop.add(
            "application/vnd.oci.image.config.v1+json",
            config.as_bytes(),
        );
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
        });
        let mut manifest = workshop.add(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        );
        let name = "org.opencontainers.image.ref.name".to_owned();
        manifest.annotations.insert(name, "1".to_owned());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
        workshop.write("image/index.json", index.to_string().as_bytes());
        workshop.write("image/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text_path(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn add(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        self.write(&format!("image/blobs/sha256/{}", digest.to_hex()), bytes);
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }

    /// Copies the image of the layout with skopeo.
    fn copy_to(&self, target: &str, options: &[&str]) {
        let source = format!("oci:{}:1", self.text_path("image"));
        let mut arguments = vec!["copy", "--insecure-policy", "--quiet"];
        arguments.extend(options);
        arguments.extend([source.as_str(), target]);
        run("skopeo", &arguments);
    }

    /// Starts a registry. The last section of its configuration is `http`, where `more` goes.
    fn serve(&self, auth: &str, more: &str) -> Served {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = free.local_addr().unwrap().to_string();
        drop(free);
        let storage = self.text_path("storage");
        let configuration = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    \
             rootdirectory: {storage}\n{auth}http:\n  addr: {authority}\n{more}"
        );
        self.write("registry.yml", configuration.as_bytes());
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(self.path("registry.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let served = Served { child, authority };
        served.wait_until_listening();
        served
    }
}

/// A tar with one file of a megabyte that does not compress away.
fn layer() -> Vec<u8> {
    let mut body = Vec::new();
    for block in 0..32_768_u32 {
        body.extend_from_slice(Digest::of(&block.to_le_bytes()).as_bytes());
    }
    let mut header = tar::Header::new_ustar();
    header.set_size(body.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_data(&mut header, "data", body.as_slice())
        .unwrap();
    builder.into_inner().unwrap()
}

/// A running registry; it ends when this is dropped.
struct Served {
    child: Child,
    authority: String,
}

impl Served {
    fn wait_until_listening(&self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(&self.authority).is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.authority).parse().unwrap()
    }

    fn source(&self, name: &str, credentials: Option<Credentials>, config: Config) -> ImageSource {
        let reference = self.reference(name);
        let registry = Registry::new(&reference, credentials, Arc::new(config)).unwrap();
        ImageSource::Registry {
            registry: registry.into(),
            reference,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn resolve_amd64(source: &ImageSource) -> Result<Resolved, FetchError> {
    let amd64: Platform = "amd64".parse().unwrap();
    resolve(source, amd64).await
}

async fn read(source: &ImageSource, blob: &Descriptor, start: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match source.blob(blob, start).await.unwrap() {
        BlobBody::File(mut range) => {
            range.read_to_end(&mut bytes).unwrap();
        }
        BlobBody::Stream(mut stream) => {
            while let Some(chunk) = stream.next().await.unwrap() {
                bytes.extend_from_slice(&chunk);
            }
        }
    }
    bytes
}

/// Resolves the image and reads its layer: whole and from the middle.
async fn check_image(source: &ImageSource) -> Resolved {
    let resolved = resolve_amd64(source).await.unwrap();
    assert_eq!(resolved.config.config.cmd, ["sh"]);
    assert_eq!(resolved.layers.len(), 1);
    assert_eq!(resolved.layers[0].diff_id, Digest::of(&layer()));
    let blob = &resolved.layers[0].descriptor;
    let whole = read(source, blob, 0).await;
    assert_eq!(Digest::of(&whole), blob.digest);
    let middle = blob.size_bytes / 3;
    let rest = read(source, blob, middle).await;
    assert_eq!(rest, whole[usize::try_from(middle).unwrap()..]);
    resolved
}

fn ada(password: &str) -> Credentials {
    Credentials::Password {
        username: "ada".to_owned(),
        secret: Secret::new(password.to_owned()),
    }
}

#[tokio::test]
async fn images_of_both_kinds_come_out_of_a_plain_registry() {
    if !has_tools(&["docker-registry", "skopeo"]) {
        return;
    }
    let workshop = Workshop::new();
    let served = workshop.serve("", "");
    for (name, format) in [("oci:1", "oci"), ("docker/image:1", "v2s2")] {
        let target = format!("docker://{}/{name}", served.authority);
        workshop.copy_to(&target, &["--dest-tls-verify=false", "--format", format]);

        let resolved = check_image(&served.source(name, None, Config::default())).await;

        let is_docker = resolved.manifest.document_type.as_str().contains("docker");
        assert_eq!(is_docker, format == "v2s2");
    }

    let missing = served.source("oci:2", None, Config::default());
    let error = resolve_amd64(&missing).await.unwrap_err();
    assert!(
        matches!(error, FetchError::ReferenceNotFound { .. }),
        "{error:?}"
    );
    let source = served.source("oci:1", None, Config::default());
    let absent = Descriptor::new("x", Digest::of(b"absent"), 6);
    let error = source.blob(&absent, 0).await.unwrap_err();
    assert!(
        matches!(error, FetchError::BlobNotFound { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_registry_with_passwords_wants_the_right_one() {
    if !has_tools(&["docker-registry", "skopeo", "htpasswd"]) {
        return;
    }
    let workshop = Workshop::new();
    let file = workshop.text_path("htpasswd");
    run("htpasswd", &["-Bbc", &file, "ada", "hunter2"]);
    let auth = format!("auth:\n  htpasswd:\n    realm: kiln\n    path: {file}\n");
    let served = workshop.serve(&auth, "");
    let target = format!("docker://{}/app:1", served.authority);
    let options = ["--dest-tls-verify=false", "--dest-creds", "ada:hunter2"];
    workshop.copy_to(&target, &options);

    let good = served.source("app:1", Some(ada("hunter2")), Config::default());
    check_image(&good).await;

    let wrong = served.source("app:1", Some(ada("wrong")), Config::default());
    let error = resolve_amd64(&wrong).await.unwrap_err();
    assert!(matches!(error, FetchError::AuthFailed { .. }), "{error:?}");
    let nobody = served.source("app:1", None, Config::default());
    let error = resolve_amd64(&nobody).await.unwrap_err();
    assert!(
        matches!(error, FetchError::AuthRequired { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_registry_with_tls_is_found_and_its_certificate_checked() {
    if !has_tools(&["docker-registry", "skopeo", "openssl"]) {
        return;
    }
    let workshop = Workshop::new();
    make_certificate(&workshop);
    let (certificate, key) = (
        workshop.text_path("cert.pem"),
        workshop.text_path("key.pem"),
    );
    let tls = format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
    let served = workshop.serve("", &tls);
    let target = format!("docker://{}/app:1", served.authority);
    workshop.copy_to(&target, &["--dest-tls-verify=false"]);

    let trusting = Config {
        extra_ca_pem: vec![fs::read(workshop.path("ca.pem")).unwrap()],
        ..Config::default()
    };
    check_image(&served.source("app:1", None, trusting)).await;

    let strict = Config {
        attempts: 1,
        ..Config::default()
    };
    let stranger = served.source("app:1", None, strict);
    let error = resolve_amd64(&stranger).await.unwrap_err();
    assert!(matches!(error, FetchError::Tls { .. }), "{error:?}");
}

/// `openssl s_server`, which answers a path with the file of that name as it is.
struct Files {
    process: Child,
    authority: String,
}

impl Drop for Files {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Files {
    fn serve(workshop: &Workshop, answers: &[(&str, &str)]) -> Self {
        make_certificate(workshop);
        for (name, answer) in answers {
            workshop.write(&format!("served/{name}"), answer.as_bytes());
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = free.local_addr().unwrap().to_string();
        drop(free);
        let (certificate, key) = (
            workshop.text_path("cert.pem"),
            workshop.text_path("key.pem"),
        );
        let process = Command::new("openssl")
            .args(["s_server", "-quiet", "-HTTP", "-accept", &authority])
            .args(["-cert", &certificate, "-key", &key])
            .current_dir(workshop.path("served"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while TcpStream::connect(&authority).is_err() {
            assert!(start.elapsed() < START_TIMEOUT, "nobody listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, authority }
    }

    async fn get(
        &self,
        workshop: &Workshop,
        name: &str,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, FetchError> {
        let config = Config {
            extra_ca_pem: vec![fs::read(workshop.path("ca.pem")).unwrap()],
            ..Config::default()
        };
        let url = format!("https://{}/{name}", self.authority);
        let mut download = Download::open(&url, limit_bytes, Arc::new(config)).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = download.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

#[tokio::test]
async fn a_file_by_its_url_is_bounded_and_never_leaves_https() {
    if !has_tools(&["openssl"]) {
        return;
    }
    let workshop = Workshop::new();
    let served = Files::serve(
        &workshop,
        &[
            ("good", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            ("unsized", "HTTP/1.0 200 OK\r\n\r\nhello world"),
            (
                "moved",
                "HTTP/1.1 302 Found\r\nLocation: /good\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "away",
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/x?signature=s\r\n\
                 Content-Length: 0\r\n\r\n",
            ),
            (
                "missing",
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "short",
                "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
            ),
        ],
    );
    let get = async |name: &str, limit| served.get(&workshop, name, limit).await;

    assert_eq!(get("good", 5).await.unwrap(), b"hello");
    assert_eq!(get("unsized", 11).await.unwrap(), b"hello world");
    assert_eq!(get("moved", 5).await.unwrap(), b"hello");
    for name in ["good", "unsized"] {
        let error = get(name, 4).await.unwrap_err();
        assert!(
            matches!(error, FetchError::TooLarge { limit_bytes: 4, .. }),
            "{name}: {error:?}"
        );
    }
    let away = get("away", 5).await.unwrap_err();
    assert!(
        matches!(away, FetchError::RedirectRefused { .. }),
        "{away:?}"
    );
    assert!(!away.to_string().contains("signature"), "{away}");
    let missing = get("missing", 5).await.unwrap_err();
    assert!(
        matches!(missing, FetchError::ReferenceNotFound { .. }),
        "{missing:?}"
    );
    let short = get("short", 50).await.unwrap_err();
    assert!(matches!(short, FetchError::Unreachable { .. }), "{short:?}");
}

#[tokio::test]
async fn only_plain_https_urls_are_fetched() {
    for url in [
        "http://127.0.0.1:9/vmlinux",
        "ftp://127.0.0.1/vmlinux",
        "https://ann:secret@127.0.0.1:9/vmlinux",
        "/boot/vmlinux",
        "https://",
    ] {
        let opened = Download::open(url, 1, Arc::new(Config::default())).await;

        let error = opened.unwrap_err();
        assert!(matches!(error, FetchError::UrlRefused { .. }), "{error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

/// Makes an authority and a certificate for 127.0.0.1 that it signed.
fn make_certificate(workshop: &Workshop) {
    let path = |name: &str| workshop.text_path(name);
    let (ca, ca_key) = (path("ca.pem"), path("ca-key.pem"));
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let request = path("request.pem");
    workshop.write("names", b"subjectAltName=IP:127.0.0.1\n");
    let new_key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let mut authority = vec!["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
    authority.extend(new_key);
    authority.extend(["-keyout", &ca_key, "-out", &ca]);
    run("openssl", &authority);
    let mut server = vec!["req", "-subj", "/CN=127.0.0.1"];
    server.extend(new_key);
    server.extend(["-keyout", &key, "-out", &request]);
    run("openssl", &server);
    let names = path("names");
    let sign = [
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-extfile",
        &names,
        "-out",
        &cert,
    ];
    run("openssl", &sign);
}

#[tokio::test]
async fn layouts_and_archives_of_other_tools_are_read() {
    if !has_tools(&["skopeo"]) {
        return;
    }
    let workshop = Workshop::new();
    let path = |name: &str| workshop.text_path(name);
    workshop.copy_to(&format!("oci:{}:copy", path("copy")), &[]);
    workshop.copy_to(&format!("oci-archive:{}:copy", path("oci.tar")), &[]);
    workshop.copy_to(
        &format!("docker-archive:{}:debian:12", path("docker.tar")),
        &[],
    );
    let open = |name: &str| {
        (
            File::open(workshop.path(name)).unwrap(),
            workshop.path(name),
        )
    };

    let layout = Layout::open_directory(&workshop.path("copy"), Some("copy")).unwrap();
    check_image(&ImageSource::Layout(layout)).await;
    let (file, place) = open("oci.tar");
    let layout = Layout::open_archive(file, &place, Some("copy")).unwrap();
    check_image(&ImageSource::Layout(layout)).await;
    let (file, place) = open("docker.tar");
    let reference = "debian:12".parse().unwrap();
    let archive = DockerArchive::open(file, &place, Some(&reference)).unwrap();
    check_image(&ImageSource::DockerArchive(archive)).await;

    let own = Layout::open_directory(Path::new(&path("image")), None).unwrap();
    check_image(&ImageSource::Layout(own)).await;
}
