//! The image config: platform, diff ids, and how the container is meant to run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::document::{DocumentError, check_size, null_as_default, shown};
use super::{MAX_LAYERS, PlatformWords, json};
use crate::digest::Digest;
use crate::platform::{Platform, PlatformError};

/// An image's config (OCI image spec, "Image Configuration"); members Kiln does not use are
/// left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The platform the image is for, in its own words.
    #[serde(flatten)]
    pub platform: PlatformWords,
    /// How the container runs.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: ContainerConfig,
    /// What the layers are when decompressed.
    pub rootfs: Rootfs,
    /// When the image was made, as it was written; see [`ImageConfig::created_seconds`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How the layers came about; for people, never interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<serde_json::Value>,
}

/// The content of the layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digest of each layer's plain tar, bottom first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<Digest>,
}

/// How the container is meant to run: what the guest's init needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// The program and its first arguments.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the whole command when there is no entrypoint.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// Environment, each `NAME=value`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty means root.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Where the program starts; empty means `/`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// The signal that asks it to stop, such as `SIGTERM`; empty means that.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    /// Ports it listens on, such as `80/tcp`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Names::is_empty"
    )]
    pub exposed_ports: Names,
    /// Directories meant to be volumes.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Names::is_empty"
    )]
    pub volumes: Names,
    /// Notes.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
}

/// A set as OCI writes one: a map with `{}` behind every member.
///
/// Whatever a config has in that place is passed over, so that what is kept of a config is never
/// much longer than the config, however deep somebody nested what means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub BTreeSet<String>);

impl Names {
    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Empty {}
        serializer.collect_map(self.0.iter().map(|name| (name, Empty {})))
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                    names.insert(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl ImageConfig {
    /// Reads a config of at most `limit_bytes` that belongs to a manifest of `layer_count`
    /// layers; the config must have as many diff ids.
    pub fn parse(
        bytes: &[u8],
        layer_count: usize,
        limit_bytes: u64,
    ) -> Result<Self, DocumentError> {
        check_size(bytes, limit_bytes)?;
        let config: Self = json::parse(bytes)?;
        if config.rootfs.kind != "layers" {
            return Err(DocumentError::RootfsType {
                found: shown(&config.rootfs.kind),
            });
        }
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids > MAX_LAYERS {
            return Err(DocumentError::TooManyLayers { count: diff_ids });
        }
        if diff_ids != layer_count {
            return Err(DocumentError::LayerCount {
                layers: layer_count,
                diff_ids,
            });
        }
        Ok(config)
    }

    /// Returns the platform the image is for.
    pub fn platform(&self) -> Result<Platform, PlatformError> {
        let words = &self.platform;
        Platform::from_words(&words.os, &words.architecture, words.variant.as_deref())
    }

    /// Returns the digest of each layer's plain tar, bottom first.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.rootfs.diff_ids
    }

    /// Returns when the image was made, in whole seconds since 1970, or nothing when the config
    /// does not say or does not write RFC 3339.
    pub fn created_seconds(&self) -> Option<i64> {
        let text = self.created.as_deref()?;
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(text, format)
            .ok()
            .map(time::OffsetDateTime::unix_timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 4 << 20;

    fn config(members: &str) -> Vec<u8> {
        let digest = Digest::of(b"layer");
        format!(
            r#"{{"architecture":"arm64","os":"linux","variant":"v8",
                "rootfs":{{"type":"layers","diff_ids":["{digest}"]}}{members}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn what_docker_writes_is_read_with_its_nulls() {
        let bytes = config(
            r#","created":"2024-05-14T01:28:46.5Z","config":{"Entrypoint":null,"Cmd":["bash"],
               "Env":["PATH=/bin"],"Labels":null,"WorkingDir":"/srv","User":"app:app",
               "StopSignal":"SIGINT","ExposedPorts":{"80/tcp":{}},"Volumes":null,"OnBuild":null},
               "history":[{"created_by":"x"}],"container_config":{"Hostname":""}"#,
        );

        let config = ImageConfig::parse(&bytes, 1, LIMIT).unwrap();

        assert_eq!(config.platform().unwrap().to_string(), "linux/arm64");
        assert_eq!(config.diff_ids(), [Digest::of(b"layer")]);
        assert_eq!(config.created_seconds(), Some(1_715_650_126));
        assert_eq!(config.config.cmd, ["bash"]);
        assert_eq!(config.config.entrypoint, Vec::<String>::new());
        assert_eq!(config.config.user, "app:app");
        assert_eq!(config.config.stop_signal, "SIGINT");
        assert!(config.config.exposed_ports.0.contains("80/tcp"));
        assert!(config.history.is_some());
    }

    #[test]
    fn sets_keep_their_keys_alone() {
        let nested = format!("{}{}", "[".repeat(40), "]".repeat(40));
        let bytes = config(&format!(
            r#","config":{{"ExposedPorts":{{"80/tcp":{nested},"81/udp":null}},"Volumes":{{"/v":{{"a":1}}}}}}"#
        ));

        let config = ImageConfig::parse(&bytes, 1, LIMIT).unwrap();

        let written = serde_json::to_string(&config.config).unwrap();
        let want = r#"{"ExposedPorts":{"80/tcp":{},"81/udp":{}},"Volumes":{"/v":{}}}"#;
        assert_eq!(written, want);
    }

    #[test]
    fn an_absent_container_config_is_empty() {
        for members in ["", r#","config":null"#, r#","config":{}"#] {
            let config = ImageConfig::parse(&config(members), 1, LIMIT).unwrap();
            assert_eq!(
                config.config,
                ContainerConfig::default(),
                "with {members:?}"
            );
            assert_eq!(config.created_seconds(), None);
        }
    }

    #[test]
    fn what_is_read_survives_being_written() {
        let read = ImageConfig::parse(
            &config(r#","created":"2024-05-14T01:28:46Z","config":{"Cmd":["a","b"]}"#),
            1,
            LIMIT,
        )
        .unwrap();

        let written = serde_json::to_vec(&read).unwrap();

        assert_eq!(ImageConfig::parse(&written, 1, LIMIT).unwrap(), read);
    }

    #[test]
    fn unfit_configs_are_refused() {
        let other_type = String::from_utf8(config(""))
            .unwrap()
            .replace(r#""type":"layers""#, r#""type":"base""#);
        let cases: Vec<(Vec<u8>, usize, u64, &str)> = vec![
            (
                config(""),
                2,
                LIMIT,
                "the manifest has 2 layers, the config has 1 diff ids",
            ),
            (
                other_type.into_bytes(),
                1,
                LIMIT,
                "the config's rootfs has the type \"base\", only \"layers\" is read",
            ),
            (
                vec![b' '; 11],
                0,
                10,
                "the document has 11 bytes, 10 are allowed",
            ),
            (b"{}".to_vec(), 0, LIMIT, "the document is malformed"),
            (
                config(r#","created":"a","created":"b""#),
                1,
                LIMIT,
                "the document is malformed",
            ),
            (
                config(r#","config":{"Labels":{"a":"1","a":"2"}}"#),
                1,
                LIMIT,
                "the document is malformed",
            ),
        ];
        for (bytes, layers, limit, want) in cases {
            let got = ImageConfig::parse(&bytes, layers, limit).map(drop);
            assert_eq!(
                got.map_err(|error| error.to_string()),
                Err(want.to_owned()),
                "reading {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
}
