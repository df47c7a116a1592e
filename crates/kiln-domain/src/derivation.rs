//! The derivation: one digest over everything a built root filesystem's bytes are a function of.
//!
//! Two builds with the same derivation give the same bytes, so the second one is a copy.

use crate::Digest;

/// What the bytes of a root filesystem follow from, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation<'a> {
    /// Digests of the uncompressed layers, bottom first (OCI image spec, `rootfs.diff_ids`).
    pub diff_ids: &'a [Digest],
    /// The writer's profile, such as `rw-v1`.
    pub profile: &'a str,
    /// The writer's version: it changes whenever a rule of the layout does.
    pub writer_version: u32,
    /// The size asked for; `None` is the default rule, itself a function of the layers.
    pub size_bytes: Option<u64>,
    /// Seconds since 1970 that the filesystem says it was made at.
    pub epoch: i64,
}

impl Derivation<'_> {
    /// Returns SHA-256 over canonical JSON: keys in the order of their names, no spaces.
    pub fn digest(&self) -> Digest {
        let diff_ids: Vec<String> = self
            .diff_ids
            .iter()
            .map(|digest| format!("\"{digest}\""))
            .collect();
        let size = self
            .size_bytes
            .map_or_else(|| "null".to_owned(), |size| size.to_string());
        let profile = serde_json::Value::from(self.profile);
        let text = format!(
            "{{\"diff_ids\":[{}],\"epoch\":{},\"profile\":{profile},\"size_bytes\":{size},\"writer_version\":{}}}",
            diff_ids.join(","),
            self.epoch,
            self.writer_version,
        );
        Digest::of(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_that_is_hashed_is_canonical_json() {
        let layer = Digest::of(b"layer");
        let derivation = Derivation {
            diff_ids: &[layer],
            profile: "rw-v1",
            writer_version: 1,
            size_bytes: None,
            epoch: -5,
        };

        let text = format!(
            r#"{{"diff_ids":["{layer}"],"epoch":-5,"profile":"rw-v1","size_bytes":null,"writer_version":1}}"#
        );
        assert_eq!(derivation.digest(), Digest::of(text.as_bytes()));
    }

    #[test]
    fn every_input_changes_the_digest() {
        let layers = [Digest::of(b"a"), Digest::of(b"b")];
        let base = Derivation {
            diff_ids: &layers,
            profile: "rw-v1",
            writer_version: 1,
            size_bytes: None,
            epoch: 0,
        };
        let others = [
            Derivation {
                diff_ids: &layers[..1],
                ..base.clone()
            },
            Derivation {
                profile: "ro-v1",
                ..base.clone()
            },
            Derivation {
                writer_version: 2,
                ..base.clone()
            },
            Derivation {
                size_bytes: Some(0),
                ..base.clone()
            },
            Derivation {
                epoch: 1,
                ..base.clone()
            },
        ];

        for other in others {
            assert_ne!(other.digest(), base.digest(), "{other:?}");
        }
    }
}
