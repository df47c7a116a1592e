use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// A root filesystem, to these tests, is what begins with `ROOT`.
fn taken(disk: &File) -> Result<Result<(Taken, File), &'static str>, RootError> {
    let output = tempfile::tempfile().unwrap();
    let judge = |head: &[u8]| {
        if head.starts_with(b"ROOT") {
            return Ok(());
        }
        Err("no root")
    };
    let found = take_root(disk, &output, judge, &AtomicBool::new(false))?;
    Ok(found.map(|taken| (taken, output)))
}

/// A disk of 8 MiB with partitions; each is a first sector, a number of sectors and first bytes.
fn partitioned(all: &[(u32, u32, &[u8])]) -> File {
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(8 * MIB).unwrap();
    disk.write_all_at(&[0x55, 0xaa], 510).unwrap();
    for ((first, count, content), at) in all.iter().zip((446..).step_by(16)) {
        disk.write_all_at(&[0x83], at + 4).unwrap();
        disk.write_all_at(&first.to_le_bytes(), at + 8).unwrap();
        disk.write_all_at(&count.to_le_bytes(), at + 12).unwrap();
        disk.write_all_at(content, u64::from(*first) * 512).unwrap();
    }
    disk
}

#[test]
fn the_one_partition_with_a_root_is_taken_from_wherever_it_begins() {
    let mut content = vec![3; 9000];
    content[..4].copy_from_slice(b"ROOT");
    // 63 is where partitions began once: no multiple of a block.
    let disk = partitioned(&[(4096, 64, b"BOOT"), (63, 2049, &content)]);

    let (taken, output) = taken(&disk).unwrap().unwrap();

    assert_eq!(taken.partition, Some(2));
    assert_eq!(taken.format, Format::Raw);
    assert_eq!(taken.size_bytes, MIB + 4096);
    let mut found = vec![1; usize::try_from(taken.size_bytes).unwrap()];
    output.read_exact_at(&mut found, 0).unwrap();
    assert!(found[..9000] == content);
    assert!(found[9000..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_stored_of_a_root_is_told_before_it_is_taken() {
    let mut content = vec![3; 9000];
    content[..4].copy_from_slice(b"ROOT");
    let disk = partitioned(&[(2048, 4096, &content), (8192, 64, &[5; 8192])]);
    let calm = AtomicBool::new(false);

    let judge = |head: &[u8]| head.starts_with(b"ROOT").then_some(()).ok_or(());
    let mut found = find_root(&disk, judge).unwrap().unwrap();
    let stored = found.data_bytes(&calm).unwrap();
    let output = tempfile::tempfile().unwrap();
    let taken = found.take(&output, &calm).unwrap();

    // Three blocks of two mebibytes, and nothing of the other partition.
    assert_eq!((stored, taken.size_bytes), (3 * 4096, 2 * MIB));
    let allocated = output.metadata().unwrap().blocks() * 512;
    assert!(allocated <= stored, "{allocated} {stored}");
    let stopped = AtomicBool::new(true);
    let mut found = find_root(&disk, judge).unwrap().unwrap();
    assert!(matches!(
        found.data_bytes(&stopped),
        Err(RootError::Cancelled)
    ));
}

#[test]
fn no_partition_and_several_with_a_root_are_told_apart() {
    let none = taken(&partitioned(&[(63, 9, b"BOOT")])).unwrap_err();
    let count = 1;
    let want = PartitionError::NoRoot { count };
    assert!(matches!(none, RootError::Partitions(found) if found == want));
    let several = partitioned(&[(63, 9, b"ROOT"), (99, 9, b"ROOT")]);
    let several = taken(&several).unwrap_err();
    let want = PartitionError::Several { count: 2 };
    assert!(matches!(several, RootError::Partitions(found) if found == want));
    let other = tempfile::tempfile().unwrap();
    other.write_all_at(b"other", 0).unwrap();
    assert_eq!(taken(&other).unwrap().unwrap_err(), "no root");
    let empty = tempfile::tempfile().unwrap();
    assert_eq!(taken(&empty).unwrap().unwrap_err(), "no root");
}

#[test]
fn a_long_disk_with_little_in_it_is_quick_and_small() {
    let raw = tempfile::tempfile().unwrap();
    raw.set_len(16 << 30).unwrap();
    raw.write_all_at(b"ROOT", 0).unwrap();
    raw.write_all_at(b"end", (16 << 30) - 3).unwrap();
    let running = AtomicBool::new(false);
    let mut qcow2 = tempfile::tempfile().unwrap();
    let plan = crate::qcow2::Qcow2::plan(&raw, &running).unwrap();
    plan.write(&raw, &mut qcow2, &|_| {}, &running).unwrap();

    let (taken, output) = taken(&qcow2).unwrap().unwrap();

    assert_eq!(taken.format, Format::Qcow2);
    assert_eq!(taken.size_bytes, 16 << 30);
    let mut end = [0; 3];
    output.read_exact_at(&mut end, (16 << 30) - 3).unwrap();
    assert_eq!(&end, b"end");
    let disk_bytes = output.metadata().unwrap().blocks() * 512;
    assert!(disk_bytes < MIB, "{disk_bytes}");
    let stopped = AtomicBool::new(true);
    let stopped = take_root(&qcow2, &output, |_| Ok::<_, ()>(()), &stopped);
    assert!(matches!(stopped, Err(RootError::Cancelled)), "{stopped:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Data anywhere in a disk comes back, plain and through qcow2.
    #[test]
    fn data_stays_where_it_is(
        pieces in prop::collection::vec((0_u64..3 * MIB, 1_usize..70_000, 1_u8..), 0..12),
        length in 4_u64..3 * MIB,
    ) {
        let raw = tempfile::tempfile().unwrap();
        for (at, count, byte) in pieces {
            raw.write_all_at(&vec![byte; count], at).unwrap();
        }
        raw.write_all_at(b"ROOT", 0).unwrap();
        raw.set_len(length).unwrap();
        let mut want = vec![0; usize::try_from(length).unwrap()];
        raw.read_exact_at(&mut want, 0).unwrap();
        let running = AtomicBool::new(false);
        let mut qcow2 = tempfile::tempfile().unwrap();
        let plan = crate::qcow2::Qcow2::plan(&raw, &running).unwrap();
        plan.write(&raw, &mut qcow2, &|_| {}, &running).unwrap();
        for disk in [&raw, &qcow2] {
            let (taken, output) = taken(disk).unwrap().unwrap();
            prop_assert_eq!(taken.size_bytes, length.next_multiple_of(4096));
            let mut found = vec![1; want.len()];
            output.read_exact_at(&mut found, 0).unwrap();
            prop_assert!(found == want);
        }
    }
}
