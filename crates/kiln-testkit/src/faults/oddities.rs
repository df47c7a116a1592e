//! Images that should not be: what a fault makes of a whole one.

use serde_json::{Value, json};

use super::image::{INDEX, MANIFEST, OddImage, digest_of};

/// A config longer than any.
pub(super) fn huge_config(image: &mut OddImage) {
    image.set_config(vec![b' '; 5 << 20]);
}

pub(super) fn garbage_config(image: &mut OddImage) {
    image.set_config(b"it is not".to_vec());
}

/// A document of nothing but brackets.
pub(super) fn deep_json(image: &mut OddImage) {
    image.set_root(MANIFEST, "[".repeat(100_000));
}

/// A manifest as docker wrote it until 2016.
pub(super) fn schema_1(image: &mut OddImage) {
    let old = json!({
        "schemaVersion": 1, "name": "some/app", "tag": "1", "fsLayers": [], "history": [],
    });
    let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    image.set_root(media_type, old.to_string());
}

/// Indexes in indexes, two more than are walked.
pub(super) fn nested_indexes(image: &mut OddImage) {
    for _ in 0..6 {
        image.set_root_index(&[image.root_descriptor()]);
    }
}

/// An index of more than four mebibytes.
pub(super) fn index_of_100000(image: &mut OddImage) {
    index_of_many(image, 100_000);
}

/// An index that just fits, and has nothing for anybody.
pub(super) fn index_of_strangers(image: &mut OddImage) {
    index_of_many(image, 10_000);
}

/// Puts an index under the tag that lists images for a machine that nobody has.
fn index_of_many(image: &mut OddImage, count: usize) {
    let platform = json!({"os": "plan9", "architecture": "vax"});
    let entry = format!("{},", descriptor(b"{}", &platform));
    let entries = entry.repeat(count);
    let entries = entries.trim_end_matches(',');
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entries}]}}"#);
    image.set_root(INDEX, index);
}

fn descriptor(bytes: &[u8], platform: &Value) -> Value {
    json!({
        "mediaType": MANIFEST, "size": 2, "digest": digest_of(bytes), "platform": platform,
    })
}

/// An index of a hundred empty ones.
pub(super) fn index_of_indexes(image: &mut OddImage) {
    let manifests: Vec<Value> = (0..100)
        .map(|number| {
            let inner = json!({
                "schemaVersion": 2, "mediaType": INDEX, "manifests": [],
                "annotations": {"number": number.to_string()},
            });
            image.add_document(INDEX, inner.to_string().into_bytes())
        })
        .collect();
    image.set_root_index(&manifests);
}

/// An index whose image the registry does not have.
pub(super) fn index_of_nothing(image: &mut OddImage) {
    let platform = json!({"os": "linux", "architecture": "amd64"});
    image.set_root_index(&[descriptor(b"nothing", &platform)]);
}

/// A manifest that says twice what its layers are.
pub(super) fn duplicate_keys(image: &mut OddImage) {
    let text = String::from_utf8_lossy(&image.root_bytes()).into_owned();
    image.set_root(MANIFEST, text.replacen('{', "{\"layers\":[],", 1));
}

pub(super) fn two_in_one(image: &mut OddImage) {
    image.edit(|manifest| manifest["manifests"] = json!([]));
}

/// A layer that lies elsewhere.
pub(super) fn foreign_layer(image: &mut OddImage) {
    image.edit(|manifest| {
        let layer = &mut manifest["layers"][0];
        layer["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        layer["urls"] = json!(["http://127.0.0.2/elsewhere"]);
    });
}

/// More layers than the config knows of.
pub(super) fn layer_too_many(image: &mut OddImage) {
    image.edit(|manifest| {
        let again = manifest["layers"][0].clone();
        if let Some(layers) = manifest["layers"].as_array_mut() {
            layers.push(again);
        }
    });
}
