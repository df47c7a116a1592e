//! Rows of the kernel catalogue.
//!
//! The files are not here; each kernel has a directory of its name.

use kiln_domain::{Digest, KernelName, Timestamp};
use rusqlite::{Row, named_params};

use crate::columns::{Columns, Micros, Text, Unsigned};
use crate::error::is_unique_violation;
use crate::{ReadTransaction, StoreError, WriteTransaction, users};

/// A kernel of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRow {
    /// Its name, and that of its directory.
    pub name: KernelName,
    /// What it runs on, such as `amd64`.
    pub architecture: String,
    /// The format of its file, such as `bzimage`.
    pub format: String,
    /// The release it says it is, where it says so.
    pub version: Option<String>,
    /// Checksum of its file.
    pub sha256: Digest,
    /// Length of its file.
    pub size_bytes: u64,
    /// Checksum of the initial ramdisk beside it, if there is one.
    pub initrd_sha256: Option<Digest>,
    /// Whether modules lie beside it.
    pub has_modules: bool,
    /// Whether an uncompressed ELF form lies beside it.
    pub has_elf: bool,
    /// Where it came from, for people.
    pub source: String,
    /// Whether calls that name no kernel mean this one. A kernel is entered as one that is not.
    pub is_default: bool,
    /// The user it belongs to.
    pub owner_id: u32,
    /// When it was imported.
    pub created_at: Timestamp,
}

/// Why a kernel could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum InsertKernelError {
    /// There is a kernel of that name.
    #[error("a kernel named \"{name}\" already exists")]
    Taken {
        /// The name.
        name: KernelName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

macro_rules! columns {
    () => {
        "name, architecture, format, version, sha256, size_bytes, initrd_sha256, has_modules, \
         has_elf, source, is_default, owner_id, created_at"
    };
}

/// Enters a kernel, and its owner.
pub fn insert(tx: &WriteTransaction<'_>, kernel: &KernelRow) -> Result<(), InsertKernelError> {
    users::see(tx, kernel.owner_id, kernel.created_at)?;
    let sql = concat!(
        "INSERT INTO kernels (",
        columns!(),
        ") VALUES (:name, :architecture, :format, :version, :sha256, :size_bytes, \
         :initrd_sha256, :has_modules, :has_elf, :source, FALSE, :owner_id, :created_at)"
    );
    let params = named_params! {
        ":name": kernel.name.as_str(),
        ":architecture": kernel.architecture,
        ":format": kernel.format,
        ":version": kernel.version,
        ":sha256": Text(kernel.sha256),
        ":size_bytes": Unsigned(kernel.size_bytes),
        ":initrd_sha256": kernel.initrd_sha256.map(Text),
        ":has_modules": kernel.has_modules,
        ":has_elf": kernel.has_elf,
        ":source": kernel.source,
        ":owner_id": kernel.owner_id,
        ":created_at": Micros(kernel.created_at),
    };
    match tx.execute("enter a kernel", sql, params) {
        Ok(_) => Ok(()),
        Err(error) if is_unique_violation(&error) => Err(InsertKernelError::Taken {
            name: kernel.name.clone(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Returns a kernel.
pub fn get(tx: &ReadTransaction<'_>, name: &KernelName) -> Result<Option<KernelRow>, StoreError> {
    let sql = concat!("SELECT ", columns!(), " FROM kernels WHERE name = ?1");
    tx.first("read a kernel", sql, [name.as_str()], read)
}

/// Returns every kernel, by name.
pub fn list(tx: &ReadTransaction<'_>) -> Result<Vec<KernelRow>, StoreError> {
    let sql = concat!("SELECT ", columns!(), " FROM kernels ORDER BY name");
    tx.all("list kernels", sql, [], read)
}

/// Returns the kernel that is the default, if there is one.
pub fn default(tx: &ReadTransaction<'_>) -> Result<Option<KernelRow>, StoreError> {
    let sql = concat!("SELECT ", columns!(), " FROM kernels WHERE is_default = 1");
    tx.first("read the default kernel", sql, [], read)
}

/// Makes a kernel the default, or none, and tells whether there is such a kernel.
pub fn set_default(
    tx: &WriteTransaction<'_>,
    name: Option<&KernelName>,
) -> Result<bool, StoreError> {
    const STEP: &str = "choose the default kernel";
    tx.execute(
        STEP,
        "UPDATE kernels SET is_default = 0 WHERE is_default = 1",
        [],
    )?;
    let Some(name) = name else {
        return Ok(true);
    };
    let sql = "UPDATE kernels SET is_default = 1 WHERE name = ?1";
    Ok(tx.execute(STEP, sql, [name.as_str()])? == 1)
}

/// Removes a kernel and tells whether there was one. Images keep their own copies.
pub fn delete(tx: &WriteTransaction<'_>, name: &KernelName) -> Result<bool, StoreError> {
    let sql = "DELETE FROM kernels WHERE name = ?1";
    Ok(tx.execute("remove a kernel", sql, [name.as_str()])? == 1)
}

fn read(row: &Row<'_>) -> Result<KernelRow, StoreError> {
    let columns = Columns::of("kernels", "name", row);
    Ok(KernelRow {
        name: columns.parsed("name")?,
        architecture: columns.raw("architecture")?,
        format: columns.raw("format")?,
        version: columns.raw("version")?,
        sha256: columns.parsed("sha256")?,
        size_bytes: columns.integer("size_bytes")?,
        initrd_sha256: columns.parsed_option("initrd_sha256")?,
        has_modules: columns.raw("has_modules")?,
        has_elf: columns.raw("has_elf")?,
        source: columns.raw("source")?,
        is_default: columns.raw("is_default")?,
        owner_id: columns.integer("owner_id")?,
        created_at: columns.time("created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Database, time};

    fn kernel(name: &str) -> KernelRow {
        KernelRow {
            name: name.parse().unwrap(),
            architecture: "amd64".to_owned(),
            format: "bzimage".to_owned(),
            version: Some("6.1.0".to_owned()),
            sha256: Digest::of(name.as_bytes()),
            size_bytes: 12_345,
            initrd_sha256: None,
            has_modules: true,
            has_elf: false,
            source: "linux-image-cloud-amd64".to_owned(),
            is_default: false,
            owner_id: 1000,
            created_at: time(3),
        }
    }

    #[test]
    fn kernels_come_back_as_they_went_in_by_name() {
        let mut db = Database::new();
        let kernels = [kernel("debian"), kernel("alpine")];

        for kernel in &kernels {
            db.write(|tx| insert(tx, kernel)).unwrap();
        }

        let [debian, alpine] = kernels;
        assert_eq!(db.read(list).unwrap(), [alpine, debian.clone()]);
        assert_eq!(db.read(|tx| get(tx, &debian.name)).unwrap(), Some(debian));
    }

    #[test]
    fn a_name_is_given_once_until_it_is_removed() {
        let mut db = Database::new();
        let kernel = kernel("debian");
        db.write(|tx| insert(tx, &kernel)).unwrap();

        let error = db.write(|tx| insert(tx, &kernel)).unwrap_err();

        assert!(matches!(&error, InsertKernelError::Taken { name } if *name == kernel.name));
        assert!(db.write(|tx| delete(tx, &kernel.name)).unwrap());
        assert!(!db.write(|tx| delete(tx, &kernel.name)).unwrap());
        db.write(|tx| insert(tx, &kernel)).unwrap();
    }

    #[test]
    fn one_kernel_at_most_is_the_default() {
        let mut db = Database::new();
        let kernels = [kernel("debian"), kernel("alpine")];
        for kernel in &kernels {
            db.write(|tx| insert(tx, kernel)).unwrap();
        }
        let name_of_default = |db: &mut Database| {
            let found = db.read(default).unwrap();
            found.map(|kernel| (kernel.name.to_string(), kernel.is_default))
        };
        assert_eq!(name_of_default(&mut db), None);

        for kernel in &kernels {
            assert!(db.write(|tx| set_default(tx, Some(&kernel.name))).unwrap());
            let want = (kernel.name.to_string(), true);
            assert_eq!(name_of_default(&mut db), Some(want));
        }
        let unknown = "nosuch".parse().unwrap();
        assert!(!db.write(|tx| set_default(tx, Some(&unknown))).unwrap());
        assert_eq!(name_of_default(&mut db), None);
        assert!(
            db.write(|tx| set_default(tx, Some(&kernels[0].name)))
                .unwrap()
        );
        assert!(db.write(|tx| set_default(tx, None)).unwrap());
        assert_eq!(name_of_default(&mut db), None);
    }

    #[test]
    fn a_size_that_sqlite_cannot_hold_is_refused() {
        let mut db = Database::new();
        let huge = KernelRow {
            size_bytes: u64::MAX,
            ..kernel("huge")
        };

        let error = db.write(|tx| insert(tx, &huge)).unwrap_err();

        assert!(
            matches!(error, InsertKernelError::Store(StoreError::Sql { .. })),
            "{error:?}"
        );
    }
}
