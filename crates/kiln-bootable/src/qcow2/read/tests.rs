use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;

use flate2::write::DeflateEncoder;
use proptest::prelude::*;

use super::super::Qcow2;
use super::*;

const CLUSTER: usize = 65_536;

/// Writes a disk of 600 MiB with two L2 tables as this crate writes disks for others.
fn written() -> (Vec<u8>, File) {
    let disk = tempfile::tempfile().unwrap();
    let size = (600 << 20) + 4096;
    disk.set_len(size).unwrap();
    disk.write_all_at(b"first", 0).unwrap();
    disk.write_all_at(&[7; 5000], 70_000).unwrap();
    disk.write_all_at(b"last", size - 4).unwrap();
    let running = AtomicBool::new(false);
    let plan = Qcow2::plan(&disk, &running).unwrap();
    let mut bytes = Vec::new();
    plan.write(&disk, &mut bytes, &|_| {}, &running).unwrap();
    (bytes, disk)
}

fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// Reads all that is data; returns how many bytes that was.
fn walk(file: &File, check: impl Fn(&[u8], u64)) -> Result<u64, Qcow2Error> {
    let mut disk = Qcow2Disk::open(file)?;
    let (mut at, mut data) = (0, 0);
    while at < disk.size_bytes() {
        let extent = disk.extent(at)?;
        assert!(
            extent.end > at && extent.end <= disk.size_bytes(),
            "{extent:?}"
        );
        if extent.holds == Holds::Data {
            let mut bytes = vec![1; usize::try_from(extent.end - at).unwrap()];
            disk.read(&mut bytes, at)?;
            check(&bytes, at);
            data += extent.end - at;
        }
        at = extent.end;
    }
    Ok(data)
}

fn refused(bytes: &[u8]) -> Qcow2Error {
    walk(&file(bytes), |_, _| {}).unwrap_err()
}

/// Puts bytes into a small disk: three clusters of 64 KiB, of which the tables say as `entry`.
fn small(entry: u64, behind: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * CLUSTER];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[7] = 3;
    bytes[23] = 16;
    bytes[24..32].copy_from_slice(&(3 * CLUSTER as u64).to_be_bytes());
    bytes[39] = 1;
    bytes[40..48].copy_from_slice(&(CLUSTER as u64).to_be_bytes());
    bytes[99] = 4;
    bytes[103] = 112;
    bytes[CLUSTER..CLUSTER + 8].copy_from_slice(&((2 * CLUSTER as u64) | COPIED).to_be_bytes());
    bytes[2 * CLUSTER + 8..2 * CLUSTER + 16].copy_from_slice(&entry.to_be_bytes());
    bytes[3 * CLUSTER..3 * CLUSTER + behind.len()].copy_from_slice(behind);
    bytes
}

#[test]
fn what_we_write_is_read_and_holes_stay_holes() {
    let (bytes, disk) = written();

    let data = walk(&file(&bytes), |bytes, at| {
        let mut want = vec![0; bytes.len()];
        disk.read_exact_at(&mut want, at).unwrap();
        assert!(bytes == want, "at {at}");
    });

    assert_eq!(data.unwrap(), 2 * CLUSTER as u64 + 4096);
}

#[test]
fn a_compressed_cluster_is_unpacked_by_either_algorithm() {
    let plain: Vec<u8> = (0..CLUSTER)
        .map(|at| u8::try_from(at / 300).unwrap())
        .collect();
    let mut deflate = DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    deflate.write_all(&plain).unwrap();
    let deflate = deflate.finish().unwrap();
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    for (kind, packed) in [(0, deflate), (1, zstd)] {
        let sectors = packed.len() as u64 / 512;
        let entry = COMPRESSED | (sectors << 54) | (3 * CLUSTER as u64);
        let mut bytes = small(entry, &packed);
        (bytes[79], bytes[104]) = (kind << 3, kind);

        let data = walk(&file(&bytes), |found, at| {
            assert_eq!(at, CLUSTER as u64);
            assert!(found == plain);
        });

        assert_eq!(data.unwrap(), CLUSTER as u64);
        let start = 3 * CLUSTER;
        bytes[start..start + 16].fill(0xff);
        assert!(matches!(
            refused(&bytes),
            Qcow2Error::Cluster { number: 1, .. }
        ));
    }
}

#[test]
fn zeros_are_holes_and_the_end_of_the_file_is_zeros() {
    for entry in [ZERO, ZERO | (3 * CLUSTER as u64)] {
        assert_eq!(walk(&file(&small(entry, b"hidden")), |_, _| {}).unwrap(), 0);
    }
    let mut bytes = small((3 * CLUSTER as u64) | COPIED, b"there");
    bytes.truncate(3 * CLUSTER + 5);
    let data = walk(&file(&bytes), |found, _| {
        assert_eq!(&found[..5], b"there");
        assert!(found[5..].iter().all(|byte| *byte == 0));
    });
    assert_eq!(data.unwrap(), CLUSTER as u64);
}

#[test]
fn subclusters_are_told_apart() {
    let mut bytes = small(0, &vec![7; CLUSTER]);
    bytes[79] = 1 << 4;
    // Entries of 16 bytes: cluster 1 is the second, with subclusters 0 and 2 stored, 3 zeros.
    let at = 2 * CLUSTER + 16;
    bytes[at - 8..at].fill(0);
    bytes[at..at + 8].copy_from_slice(&((3 * CLUSTER as u64) | COPIED).to_be_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&(0b101 | (1_u64 << 35)).to_be_bytes());

    let data = walk(&file(&bytes), |found, at| {
        assert_eq!(at, CLUSTER as u64);
        for (number, subcluster) in found.chunks(2048).enumerate() {
            let want = if matches!(number, 0 | 2) { 7 } else { 0 };
            assert!(subcluster.iter().all(|byte| *byte == want), "{number}");
        }
    });

    assert_eq!(data.unwrap(), CLUSTER as u64);
    bytes[at + 8..at + 16].copy_from_slice(&(1 | (1_u64 << 32)).to_be_bytes());
    assert!(matches!(refused(&bytes), Qcow2Error::Malformed { .. }));
}

#[test]
fn what_is_not_read_and_what_cannot_be_is_refused() {
    let good = small((3 * CLUSTER as u64) | COPIED, b"data");
    let with = |at: usize, new: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        refused(&bytes).to_string()
    };
    let cluster = 2 * CLUSTER + 8;
    let cases: &[(&str, usize, &[u8], &str)] = &[
        ("version", 7, &[4], "another version"),
        ("backing file", 15, &[1], "a backing file"),
        ("encryption", 35, &[2], "encryption"),
        ("small clusters", 23, &[8], "size of clusters"),
        ("large clusters", 23, &[22], "size of clusters"),
        ("no length", 24, &[0; 8], "length of the disk"),
        ("a long disk", 24, &[0xff; 8], "at most"),
        ("few tables", 36, &[0; 4], "number of L2 tables"),
        (
            "L1 behind the end",
            40,
            &[0, 0, 0, 0, 1, 0, 0, 0],
            "place of the L1 table",
        ),
        ("L1 unaligned", 46, &[1], "place of the L1 table"),
        ("L1 at the header", 40, &[0; 8], "place of the L1 table"),
        ("dirty", 79, &[1], "not closed"),
        ("corrupt", 79, &[2], "corrupt"),
        ("external data", 79, &[4], "another file"),
        ("unknown feature", 79, &[32], "not known"),
        ("zstd without saying so", 104, &[1], "compression"),
        ("an unknown compression", 104, &[2], "compression"),
        ("refcounts", 99, &[7], "refcounts"),
        ("header", 103, &[96], "length of the header"),
        (
            "L2 behind the end",
            CLUSTER + 4,
            &[1],
            "entry of the L1 table",
        ),
        ("L2 reserved", CLUSTER + 7, &[1], "entry of the L1 table"),
        (
            "data behind the end",
            cluster + 4,
            &[1],
            "entry of an L2 table",
        ),
        ("data unaligned", cluster + 6, &[2], "entry of an L2 table"),
        ("data reserved", cluster, &[0x81], "entry of an L2 table"),
        (
            "compressed nowhere",
            cluster,
            &[0x40, 0, 0, 0, 0, 0, 0, 0],
            "entry of an L2",
        ),
    ];
    for (what, at, new, want) in cases {
        let told = with(*at, new);
        assert!(told.contains(want), "{what}: {told}");
    }
    walk(&file(&good), |_, _| {}).unwrap();
    for length in [0, 4, 71, 100, CLUSTER, 2 * CLUSTER, 3 * CLUSTER] {
        assert!(walk(&file(&good[..length]), |_, _| {}).is_err(), "{length}");
    }
}

#[test]
fn two_tables_in_one_place_are_refused() {
    let (mut bytes, _) = written();
    let l1 = usize::try_from(long(&bytes, 40).unwrap()).unwrap();
    bytes.copy_within(l1..l1 + 8, l1 + 8);

    let told = refused(&bytes).to_string();

    assert!(told.contains("two L2 tables"), "{told}");
}

#[test]
fn little_that_says_it_is_much_is_given_up() {
    // Every cluster of a disk of 64 GiB in 128 tables, and all of them the same compressed bytes.
    let mut deflate = DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    deflate.write_all(&vec![0; CLUSTER << 5]).unwrap();
    let packed = deflate.finish().unwrap();
    let cluster = 2 << 20;
    let mut bytes = vec![0; 4 * cluster];
    bytes[..small(0, b"").len()].copy_from_slice(&small(0, b""));
    bytes[CLUSTER..].fill(0);
    bytes[23] = 21;
    bytes[24..32].copy_from_slice(&(64_u64 << 30).to_be_bytes());
    bytes[40..48].copy_from_slice(&(cluster as u64).to_be_bytes());
    bytes[cluster..cluster + 8].copy_from_slice(&(2 * cluster as u64).to_be_bytes());
    let entry = COMPRESSED | ((packed.len() as u64 / 512) << 49) | (3 * cluster as u64);
    for place in bytes[2 * cluster..2 * cluster + (8 << 15)].chunks_exact_mut(8) {
        place.copy_from_slice(&entry.to_be_bytes());
    }
    bytes[3 * cluster..3 * cluster + packed.len()].copy_from_slice(&packed);
    bytes.truncate(3 * cluster + packed.len());

    assert!(matches!(refused(&bytes), Qcow2Error::Ratio));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a file says, it is read to its end or refused, and gives no more than it announced:
    /// `walk` asserts the latter.
    #[test]
    fn damage_never_panics(
        damage in prop::collection::vec((0_usize..6, 0_usize..512, any::<u8>()), 1..8),
        is_compressed in any::<bool>(),
    ) {
        let entry = (3 * CLUSTER as u64) | if is_compressed { COMPRESSED } else { COPIED };
        let mut bytes = small(entry, &[0x55; 600]);
        for (place, at, byte) in damage {
            let start = [0, 0, 0, CLUSTER, 2 * CLUSTER, 3 * CLUSTER][place];
            let at = if place < 3 { at % 112 } else { at % 64 };
            bytes[start + at] = byte;
        }
        let file = file(&bytes);
        // Long disks are looked at only as far as their tables.
        match Qcow2Disk::open(&file) {
            Ok(disk) if disk.size_bytes() > 64 << 20 => {}
            _ => drop(walk(&file, |_, _| {})),
        }
    }
}
