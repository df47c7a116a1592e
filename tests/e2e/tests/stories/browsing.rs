//! Looking around in registries, as a person does with `kiln registry` and a program by calls.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use kiln_testkit::daemon::built;
use kiln_testkit::faults::{self, FaultRegistry, find};
use kiln_testkit::images::layout::Layout;
use kiln_testkit::oci_registry::{OciRegistry, Offers};
use kiln_testkit::registry::{Access, Asked, PASSWORD, Registry, Transport, USER};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::{process, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::source::{self, oci};
use crate::stage::{LIMIT, Stage, code};

const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO, tools::HTPASSWD];

/// Media types of the OCI image specification 1.1.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Runs `kiln` with `words` against the stage's daemon.
pub(crate) fn kiln(stage: &Stage, words: &[&str]) -> Result<Output> {
    let host = format!("unix://{}", stage.daemon.socket().display());
    let mut command = Command::new(built("kiln")?);
    command
        .env("KILN_HOST", host)
        .env("HOME", stage.path("home"));
    command.args(words).current_dir(stage.path("."));
    command.output().context("cannot run kiln")
}

/// Runs `kiln` with `words`, which must go well, and returns what it printed.
pub(crate) fn printed(stage: &Stage, words: &[&str]) -> Result<String> {
    let output = kiln(stage, words)?;
    anyhow::ensure!(output.status.success(), "kiln {words:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn repositories_and_tags_are_listed_in_the_order_people_count() -> Result<()> {
    if tools::must_skip("repositories_and_tags_are_listed", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    for name in ["test/alpine:1.9", "test/alpine:1.10", "test/alpine:latest"] {
        registry.push(&oci(&layout, "1"), name)?;
    }
    registry.push(&oci(&layout, "1"), "test/ubuntu:2")?;
    let host = registry.host();
    let alpine = format!("{host}/test/alpine");

    let catalog = printed(&stage, &["registry", "catalog", &host, "-q"])?;
    let tags = printed(&stage, &["tags", &alpine])?;
    let same = printed(&stage, &["registry", "tags", &alpine, "--json"])?;
    let cut = kiln(&stage, &["tags", &alpine, "--limit", "2", "-q"])?;

    assert_eq!(catalog, "test/alpine\ntest/ubuntu\n");
    assert_eq!(tags, "TAG\n1.9\n1.10\nlatest\n");
    let same: Value = serde_json::from_str(&same)?;
    assert_eq!(same, json!(["1.9", "1.10", "latest"]));
    assert_eq!(String::from_utf8(cut.stdout)?.lines().count(), 2);
    let note = String::from_utf8(cut.stderr)?;
    assert!(note.contains("--all"), "{note}");

    // Page by page; this registry knows no pages of tags, so they are cut from the whole list.
    let mut after = Value::Null;
    let mut pages = Vec::new();
    loop {
        let mut params = json!({"ref": alpine, "limit": 2});
        if !after.is_null() {
            params["after"] = after;
        }
        let page = stage.call("registry.tags", &params)?;
        pages.push(page["items"].clone());
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(pages, [json!(["1.10", "1.9"]), json!(["latest"])]);
    let first = stage.call("registry.catalog", &json!({"registry": host, "limit": 1}))?;
    let rest = json!({"registry": host, "limit": 1, "after": first["next"]});
    let rest = stage.call("registry.catalog", &rest)?;
    assert_eq!(first["items"], json!(["test/alpine"]));
    assert_eq!(rest, json!({"items": ["test/ubuntu"]}));
    let asked = registry.asked()?;
    let is_linked = |asked: &&Asked| asked.target.contains("_catalog?last=test%2Falpine");
    assert_eq!(asked.iter().filter(is_linked).count(), 1, "{asked:?}");
    Ok(())
}

#[test]
fn what_is_not_there_is_told_from_what_is_not_offered() -> Result<()> {
    let stage = Stage::new()?;
    let bare = OciRegistry::start(Offers {
        catalog: false,
        ..Offers::default()
    })?;
    let host = bare.host();
    let catalog = json!({"registry": host});
    let tags = json!({"ref": format!("{host}/none")});

    let no_catalog = stage.refused("registry.catalog", &catalog)?;
    let no_repository = stage.refused("registry.tags", &tags)?;
    let for_people = kiln(&stage, &["registry", "catalog", &host])?;

    assert_eq!(code(&no_catalog), "registry.unsupported");
    assert_eq!(code(&no_repository), "source.not_found");
    assert_eq!(for_people.status.code(), Some(2));
    let said = String::from_utf8(for_people.stderr)?;
    assert!(said.contains("does not offer a catalogue"), "{said}");
    let wrong = json!({"ref": format!("{host}/none"), "after": "x"});
    let wrong = stage.refused("registry.tags", &wrong)?;
    assert_eq!(code(&wrong), "request.invalid_params");
    Ok(())
}

#[test]
fn a_password_is_needed_where_it_is_and_the_catalogue_says_why_it_may_be_shut() -> Result<()> {
    if tools::must_skip("a_password_is_needed_where_it_is", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = source::small(&stage.path("layout"))?;
    let registry = Registry::start(Access::Basic, Transport::Http)?;
    registry.push(&oci(&layout, "1"), "private/small:1")?;
    let host = registry.host();
    let creds = format!("{USER}:{PASSWORD}");

    let shut = kiln(&stage, &["registry", "catalog", &host])?;
    let open = printed(
        &stage,
        &["registry", "catalog", &host, "-q", "--creds", &creds],
    )?;

    assert_eq!(shut.status.code(), Some(4), "{shut:?}");
    let said = String::from_utf8(shut.stderr)?;
    assert!(said.contains("show their catalogue to nobody"), "{said}");
    assert_eq!(open, "private/small\n");
    Ok(())
}

/// Makes a layout with an index for two platforms, tagged `many`.
fn with_index(stage: &Stage) -> Result<Layout> {
    use kiln_testkit::images::entry::Entry;
    use kiln_testkit::images::layout::{Compression, Platform};

    let mut layout = Layout::create(stage.path("layout"))?;
    let amd64 = source::small_image(&layout, "for-amd64")?;
    let arm = layout.add_layer(&[Entry::file("marker", "arm")], Compression::Gzip)?;
    let arm = layout.add_image(&[arm], &Platform::linux("arm64"))?;
    let index = layout.add_index(&[amd64, arm])?;
    layout.tag("many", &index)?;
    Ok(layout)
}

#[test]
fn a_document_is_had_to_the_byte_and_a_blob_only_whole() -> Result<()> {
    if tools::must_skip("a_document_is_had_to_the_byte", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let layout = with_index(&stage)?;
    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = registry.push(&oci(&layout, "many"), "some/many:1")?;
    let repository = format!("{}/some/many", registry.host());

    let view = stage.call("registry.manifest", &json!({"ref": reference}))?;
    let raw = printed(&stage, &["registry", "manifest", &reference, "--raw"])?;
    let words = ["registry", "manifest", &reference, "-o", "manifest.json"];
    printed(&stage, &words)?;
    let again = kiln(&stage, &words)?;
    let for_people = printed(&stage, &["registry", "manifest", &reference])?;
    let words = [
        "registry",
        "manifest",
        &reference,
        "--platform",
        "linux/arm64",
    ];
    let arm = printed(&stage, &[&words[..], &["--json"]].concat())?;
    let arm: Value = serde_json::from_str(&arm)?;

    let digest = view["digest"].as_str().context("no digest")?;
    let (_, hex) = digest.split_once(':').context("no hex")?;
    let original = fs::read(layout.folder().join("blobs/sha256").join(hex))?;
    assert_eq!(raw.as_bytes(), original);
    assert_eq!(fs::read(stage.path("manifest.json"))?, original);
    assert_eq!(again.status.code(), Some(5), "{again:?}");
    assert_eq!(view["kind"], "index");
    assert_eq!(view["media_type"], INDEX);
    assert!(for_people.contains("linux/arm64"), "{for_people}");
    assert_eq!(arm["kind"], "image");
    assert_eq!(arm["image"]["platform"], "linux/arm64");

    // A blob of it: into a file, to a program, and not under a digest that nothing has.
    let config = arm["config"]["digest"].as_str().context("no config")?;
    let blob = format!("{repository}@{config}");
    let (_, hex) = config.split_once(':').context("no hex")?;
    let original = fs::read(layout.folder().join("blobs/sha256").join(hex))?;
    let piped = kiln(&stage, &["registry", "blob", &blob])?;
    printed(&stage, &["registry", "blob", &blob, "-o", "config.json"])?;
    assert_eq!(piped.stdout, original);
    assert_eq!(fs::read(stage.path("config.json"))?, original);
    let nothing = format!("{repository}@sha256:{}", "0".repeat(64));
    let words = ["registry", "blob", &nothing, "-o", "nothing"];
    let missing = kiln(&stage, &words)?;
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    let tagged = stage.refused("registry.blob", &json!({"ref": reference}))?;
    assert_eq!(code(&tagged), "source.invalid_reference");

    // Damaged where it lies: it gets no name.
    let path = registry
        .storage()
        .join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]));
    let mut damaged = original;
    damaged[0] ^= 1;
    fs::write(path, damaged)?;
    let broken = kiln(&stage, &["registry", "blob", &blob, "-o", "broken"])?;
    assert_eq!(broken.status.code(), Some(8), "{broken:?}");
    for name in ["nothing", "broken"] {
        assert!(!stage.path(name).exists(), "{name} was made");
    }
    let left = fs::read_dir(stage.path("."))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".partial"));
    assert_eq!(left.count(), 0);
    stage.assert_nothing_left()
}

#[test]
fn a_blob_that_was_interrupted_leaves_nothing_and_is_had_whole_the_next_time() -> Result<()> {
    let stage = Stage::new()?;
    let fault = find("layer_stall_in_body").context("no such fault")?;
    let registry = FaultRegistry::start_with(fault, "interrupted")?;
    let digest = registry.image().first_layer();
    let reference = registry.reference();
    let (repository, _) = reference.rsplit_once(':').context("no tag")?;
    let blob = format!("{repository}@{digest}");
    let creds = format!("{}:{}", faults::USER, faults::PASSWORD);
    let words = [
        "registry", "blob", &blob, "-o", "out/blob", "--creds", &creds,
    ];
    let folder = stage.path("out");
    fs::create_dir(&folder)?;
    let names = || -> Result<Vec<String>> { crate::stage::entries(&folder) };

    for (number, signal) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
        let mut command = process::command(built("kiln")?);
        let host = format!("unix://{}", stage.daemon.socket().display());
        command
            .env("KILN_HOST", host)
            .env("HOME", stage.path("home"))
            .args(words)
            .current_dir(stage.path("."));
        let mut fetching = process::start(command, "kiln registry blob")?;
        wait::until("a blob on its way", LIMIT, || {
            let is_begun = registry.first_layer_asked().len() > number && names()?.len() == 1;
            Ok(is_begun.then_some(()))
        })?;
        let pid = i32::try_from(fetching.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, signal)?;

        assert!(!fetching.wait(LIMIT)?.success());
        assert_eq!(names()?, Vec::<String>::new(), "{signal:?}");
    }
    registry.mend();
    printed(&stage, &words)?;

    assert_eq!(names()?, ["blob"]);
    let bytes = fs::read(stage.path("out/blob"))?;
    assert_eq!(bytes.len() as u64, registry.image().first_layer_bytes());
    let again = kiln(&stage, &["registry", "blob", &blob, "--creds", &creds])?;
    assert!(
        again.stdout == bytes,
        "it is another one than the checked one"
    );
    wait::until("what the daemon had of it to go", LIMIT, || {
        Ok(stage.unfinished()?.is_empty().then_some(()))
    })
}

/// Puts an image and what refers to it into a registry; returns the image's digest.
fn with_referrers(registry: &OciRegistry) -> Result<String> {
    let empty = registry.add_blob("app", b"{}");
    let config = |media_type: &str| json!({"mediaType": media_type, "digest": empty, "size": 2});
    let image = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": config("application/vnd.oci.image.config.v1+json"),
    });
    let subject = registry.add_manifest("app", Some("1"), MANIFEST, &image)?;
    let size = serde_json::to_vec(&image)?.len();
    for (number, kind) in ["a/sig", "a/sbom", "a/sig", "a/sig", "a/sbom"]
        .iter()
        .enumerate()
    {
        let referrer = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "layers": [],
            "config": config("application/vnd.oci.empty.v1+json"),
            "subject": {"mediaType": MANIFEST, "digest": subject, "size": size},
            "annotations": {"number": number.to_string()},
        });
        registry.add_manifest("app", None, MANIFEST, &referrer)?;
    }
    Ok(subject)
}

#[test]
fn referrers_are_found_whoever_filters_and_wherever_they_are_kept() -> Result<()> {
    let stage = Stage::new()?;
    for filters in [true, false] {
        let registry = OciRegistry::start(Offers {
            filters,
            ..Offers::default()
        })?;
        let subject = with_referrers(&registry)?;
        let image = format!("{}/app:1", registry.host());

        let all = printed(&stage, &["registry", "referrers", &image, "-q"])?;
        let words = [
            "registry",
            "referrers",
            &image,
            "--artifact-type",
            "a/sbom",
            "--json",
        ];
        let sboms: Value = serde_json::from_str(&printed(&stage, &words)?)?;
        let page = stage.call("registry.referrers", &json!({"ref": image}))?;

        assert_eq!(all.lines().count(), 5, "{all}");
        let kinds: Vec<&Value> = sboms.as_array().context("no list")?.iter().collect();
        assert_eq!(kinds.len(), 2, "filtering registry: {filters}: {sboms}");
        assert!(kinds.iter().all(|item| item["artifact_type"] == "a/sbom"));
        assert_eq!(page["subject"], subject);
        assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
        assert!(page["next"].is_string(), "{page}");
    }

    // A registry that knows no referrers: the tag schema.
    let old = OciRegistry::start(Offers {
        referrers: false,
        ..Offers::default()
    })?;
    let subject = with_referrers(&old)?;
    let image = format!("{}/app:1", old.host());
    let nothing = printed(&stage, &["registry", "referrers", &image, "-q"])?;
    let listed = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": subject, "size": 1, "artifactType": "a/sig"},
    ]});
    let tag = subject.replace(':', "-");
    old.add_manifest("app", Some(&tag), INDEX, &listed)?;
    let page = stage.call("registry.referrers", &json!({"ref": image}))?;
    assert_eq!(nothing, "");
    assert_eq!(page["under_tag"], true);
    assert_eq!(page["items"][0]["artifact_type"], "a/sig");
    Ok(())
}

#[test]
fn a_registry_without_limits_says_so() -> Result<()> {
    let stage = Stage::new()?;
    let registry = OciRegistry::start(Offers::default())?;
    let host = registry.host();

    let said = printed(&stage, &["registry", "ratelimit", &host])?;
    let elsewhere = json!({"registry": host, "ref": "debian"});
    let elsewhere = stage.refused("registry.ratelimit", &elsewhere)?;

    assert_eq!(said, format!("{host} says nothing of limits\n"));
    assert_eq!(code(&elsewhere), "request.invalid_params");
    Ok(())
}
