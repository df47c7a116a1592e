//! Notifications as products send them, to the letter and with their headers, become images.

use anyhow::{Context as _, Result};
use kiln_testkit::registry::Access;
use kiln_testkit::tools;
use serde_json::{Value, json};

use super::{NEEDS, Pipeline, SECRET, short};

/// What Harbor tells of an artifact, in both of its formats. A push by digest has it for a tag.
fn harbor_data(registry: &str, repository: &str, digest: &str) -> Value {
    let (namespace, name) = repository.split_once('/').unwrap_or(("", repository));
    let resource = |tag: &str| {
        json!({
            "digest": digest, "tag": tag,
            "resource_url": format!("{registry}/{repository}:{tag}"),
        })
    };
    json!({
        "resources": [resource(digest), resource("v1")],
        "repository": {
            "date_created": 1_586_922_308, "name": name, "namespace": namespace,
            "repo_full_name": repository, "repo_type": "private",
        },
    })
}

/// A repository, the fields that are sent, and the body for a repository and a digest.
type Case<'a> = (
    &'a str,
    Vec<(&'a str, &'a str)>,
    Box<dyn Fn(&str, &str) -> Value + 'a>,
);

fn harbor(registry: &str, repository: &str, digest: &str) -> Value {
    json!({
        "type": "PUSH_ARTIFACT", "occur_at": 1_586_922_308, "operator": "admin",
        "event_data": harbor_data(registry, repository, digest),
    })
}

fn harbor_cloud_event(registry: &str, repository: &str, digest: &str) -> Value {
    json!({
        "specversion": "1.0", "requestid": "2eedfab8-61d3-4f3c-8ec3-8f82d1ec4c84",
        "id": "4b2f89a6-548d-4c12-9993-a1f5790b97d2",
        "source": "/projects/1/webhook/policies/15", "type": "harbor.artifact.pushed",
        "datacontenttype": "application/json", "time": "2023-04-03T06:48:21Z",
        "data": harbor_data(registry, repository, digest), "operator": "harbor-jobservice",
    })
}

#[test]
fn every_product_that_is_named_is_understood() -> Result<()> {
    if tools::must_skip("every_product_that_is_named_is_understood", NEEDS)? {
        return Ok(());
    }
    let mut pipeline = Pipeline::with(Access::Anonymous, "pull", false, "")?;
    let host = pipeline.registry.host();
    let bearer = format!("Bearer {SECRET}");
    let plain = |repository: &str, digest: &str| json!({"repository": repository, "tag": "v1", "digest": digest});
    let event = |data: Value| {
        json!({"specversion": "1.0", "id": "1", "source": "/registry", "type": "org.example.image.pushed",
               "data": data})
    };
    let json_type = ("content-type", "application/json");
    let cases: Vec<Case<'_>> = vec![
        (
            "apps/harbor",
            vec![("authorization", SECRET), json_type],
            Box::new(|repository, digest| harbor(&host, repository, digest)),
        ),
        (
            "apps/harbor-events",
            vec![
                ("authorization", SECRET),
                ("content-type", "application/cloudevents+json"),
            ],
            Box::new(|repository, digest| harbor_cloud_event(&host, repository, digest)),
        ),
        (
            "apps/structured",
            vec![
                ("authorization", &bearer),
                (
                    "content-type",
                    "application/cloudevents+json; charset=utf-8",
                ),
            ],
            Box::new(|repository, digest| event(plain(repository, digest))),
        ),
        (
            "apps/batched",
            vec![
                ("authorization", &bearer),
                ("content-type", "application/cloudevents-batch+json"),
            ],
            Box::new(|repository, digest| json!([event(plain(repository, digest))])),
        ),
        (
            "apps/binary",
            vec![
                ("authorization", &bearer),
                json_type,
                ("ce-specversion", "1.0"),
                ("ce-id", "1"),
                ("ce-source", "/registry"),
                ("ce-type", "org.example.image.push"),
            ],
            Box::new(plain),
        ),
    ];
    let mut wanted = Vec::new();
    for (repository, fields, body) in &cases {
        let word = repository.replace('/', "-");
        let digest = pipeline.push(&word, &format!("{repository}:v1"))?;

        let told = pipeline.post(fields, &body(repository, &digest))?;

        let said: Value = serde_json::from_slice(&told.body).context("no JSON")?;
        assert_eq!(told.status()?, 202, "{repository}: {said}");
        assert_eq!(said["accepted"], 1, "{repository}: {said}");
        wanted.push(format!("{word}-v1-{}", short(&digest)));
    }
    kiln_testkit::wait::until("every image", crate::stage::LIMIT, || {
        Ok((pipeline.images()?.len() == wanted.len()).then_some(()))
    })
    .with_context(|| format!("{:?}", pipeline.events("webhook.")))?;

    let mut found: Vec<String> = pipeline
        .images()?
        .iter()
        .filter_map(|image| image["name"].as_str().map(str::to_owned))
        .collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    // What is no push of an image is passed over, and not refused: it would be sent again.
    let mut other = harbor(&host, "apps/harbor", "sha256:0");
    for kind in [
        "PULL_ARTIFACT",
        "DELETE_ARTIFACT",
        "SCANNING_COMPLETED",
        "REPLICATION",
    ] {
        other["type"] = json!(kind);
        let told = pipeline.post(&[("authorization", SECRET)], &other)?;
        assert_eq!(told.status()?, 202, "{kind}");
    }
    assert_eq!(pipeline.events("webhook.failed")?, Vec::<Value>::new());
    Ok(())
}
