//! What the tests of the queries share: a real database in a temporary folder, without a runtime,
//! and rows to fill it with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kiln_domain::{
    Digest, ImageId, ImageName, InstanceId, OperationId, OperationKind, OrgId, ProcessStart,
    Timestamp, VersionId, VersionKind, VersionNumber, Visibility,
};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::health::Health;
use crate::images::{self, Custody, NewImage};
use crate::instances::{NewInstance, ProcessRow};
use crate::open::open_writer;
use crate::operations::NewOperation;
use crate::versions::NewVersion;
use crate::{ReadTransaction, StoreError, StoreOptions, WriteTransaction, names, writer};

/// The owner of whatever [`image`] makes.
pub(crate) const OWNER: u32 = 1000;

/// A migrated database and its one connection.
pub(crate) struct Database {
    pub(crate) connection: Connection,
    health: Health,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl Database {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.db");
        let (connection, _) = open_writer(&path, &StoreOptions::default()).unwrap();
        Self {
            connection,
            health: Health::of(&path).unwrap(),
            path,
            _folder: folder,
        }
    }

    pub(crate) fn read<T>(
        &mut self,
        work: impl FnOnce(&ReadTransaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.read_or(work)
    }

    pub(crate) fn read_or<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&ReadTransaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        work(&ReadTransaction::over(&self.connection))
    }

    pub(crate) fn write<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&WriteTransaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        writer::in_transaction(&mut self.connection, &self.health, work)
    }

    /// Runs SQL the store itself never would, to damage rows.
    pub(crate) fn damage(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }

    /// Inserts image `n` with its name.
    pub(crate) fn add_image(&mut self, n: u128, name: &str) {
        let image = image(n, name);
        self.write(|tx| {
            images::insert(tx, &image)?;
            names::give_to_image(tx, &image.name, image.id, image.created_at)
        })
        .unwrap();
    }

    /// Runs `work` and returns SQLite's plans of the queries it made, a text of lines each.
    pub(crate) fn plans<T, E: std::fmt::Debug + From<StoreError>>(
        &mut self,
        work: impl FnOnce(&WriteTransaction<'_>) -> Result<T, E>,
    ) -> Vec<String> {
        QUERIES.set(Vec::new());
        self.write(work).unwrap();
        let queries = QUERIES.take();
        queries.iter().map(|sql| self.plan(sql)).collect()
    }

    fn plan(&self, sql: &str) -> String {
        let mut explain = self
            .connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        // Nothing is bound: the plan does not depend on it.
        let mut rows = explain.raw_query();
        let mut lines = vec![sql.to_owned()];
        while let Some(row) = rows.next().unwrap() {
            lines.push(row.get("detail").unwrap());
        }
        lines.join("\n")
    }
}

thread_local! {
    /// The queries this test's thread has made since it last asked.
    static QUERIES: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Remembers a query, for [`Database::plans`].
pub(crate) fn note_query(sql: &str) {
    QUERIES.with_borrow_mut(|queries| queries.push(sql.to_owned()));
}

pub(crate) fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

pub(crate) fn image_id(n: u128) -> ImageId {
    ImageId::new(Uuid::from_u128(n))
}

/// Ids of versions lie apart from those of images, as random ones do.
pub(crate) fn version_id(n: u128) -> VersionId {
    VersionId::new(Uuid::from_u128((1 << 64) + n))
}

pub(crate) fn operation_id(n: u128) -> OperationId {
    OperationId::new(Uuid::from_u128((2 << 64) + n))
}

pub(crate) fn instance_id(n: u128) -> InstanceId {
    InstanceId::new(Uuid::from_u128((3 << 64) + n))
}

pub(crate) fn org_id(n: u128) -> OrgId {
    OrgId::new(Uuid::from_u128((4 << 64) + n))
}

pub(crate) fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

pub(crate) fn image(n: u128, name: &str) -> NewImage {
    NewImage {
        id: image_id(n),
        name: name.parse().unwrap(),
        owner_id: OWNER,
        org_id: None,
        visibility: Visibility::Private,
        kind: VersionKind::Rootfs,
        custody: Custody::Managed,
        labels: BTreeMap::new(),
        keywords: BTreeSet::new(),
        limits: None,
        created_at: time(100),
    }
}

/// Makes version `n` of image `image`, numbered v1.`n`.0.
pub(crate) fn version(image: u128, n: u128, architecture: &str) -> NewVersion {
    NewVersion {
        id: version_id(n),
        image_id: image_id(image),
        number: VersionNumber {
            major: 1,
            minor: u32::try_from(n).unwrap(),
            patch: 0,
        },
        architecture: architecture.to_owned(),
        kind: VersionKind::Rootfs,
        source_kind: "registry".to_owned(),
        source_reference: None,
        manifest_digest: Some(Digest::of(b"manifest")),
        config_digest: None,
        derivation: None,
        rootfs_size_bytes: 1 << 30,
        rootfs_sha256: None,
        kernel_sha256: Some(Digest::of(b"kernel")),
        initrd_sha256: None,
        has_modules: false,
        kernel_name: None,
        image_config: Some(json!({"Entrypoint": ["/bin/sh"]})),
        boot: Some(json!({"mode": "entrypoint"})),
        original: Some(json!({"reference": "docker.io/library/debian:12"})),
        created_at: time(200),
        created_by: OWNER,
    }
}

pub(crate) fn operation(n: u128) -> NewOperation {
    NewOperation {
        id: operation_id(n),
        kind: OperationKind::ImagePull,
        owner_uid: OWNER,
        object: None,
        subject: "docker.io/library/debian:bookworm".to_owned(),
        params: json!({"ref": "debian:bookworm"}),
        created_at: time(i64::try_from(n).unwrap()),
    }
}

/// Makes machine `n`, of image and version 1.
pub(crate) fn instance(n: u128, name: &str) -> NewInstance {
    NewInstance {
        id: instance_id(n),
        name: name.parse().unwrap(),
        owner_uid: OWNER,
        image_id: image_id(1),
        image_name: "team/web".parse().unwrap(),
        version_id: version_id(1),
        process: ProcessRow {
            pid: 4_000_000,
            started: ProcessStart::new(77_123),
            boot_id: "boot".to_owned(),
        },
        directory: format!("/run/user/1000/kiln/{n}"),
        console_path: format!("/run/user/1000/kiln/{n}/console.log"),
        cpus: 2,
        memory_bytes: 256 << 20,
        ports: json!([{"host_port": 8080}]),
        created_at: time(1),
    }
}
