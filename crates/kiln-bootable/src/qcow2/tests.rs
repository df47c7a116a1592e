use super::*;

const MIB: u64 = 1 << 20;

fn written(disk: &File) -> (Qcow2, Vec<u8>) {
    let running = AtomicBool::new(false);
    let plan = Qcow2::plan(disk, &running).unwrap();
    let mut bytes = Vec::new();
    plan.write(disk, &mut bytes, &|_| {}, &running).unwrap();
    (plan, bytes)
}

fn long(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Reads a disk back as the specification says, by the tables in the file alone.
fn read_back(bytes: &[u8]) -> Vec<u8> {
    assert_eq!(&bytes[..8], b"QFI\xfb\0\0\0\x03");
    let size = long(bytes, 24);
    let l1 = long(bytes, 40);
    let mut disk = vec![0; usize::try_from(size).unwrap()];
    for cluster in 0..size.div_ceil(CLUSTER_BYTES) {
        let l2 = long(bytes, l1 + cluster / L2_ENTRIES * 8) & !COPIED;
        if l2 == 0 {
            continue;
        }
        let data = long(bytes, l2 + cluster % L2_ENTRIES * 8) & !COPIED;
        if data == 0 {
            continue;
        }
        let from = usize::try_from(data).unwrap();
        let to = usize::try_from(cluster * CLUSTER_BYTES).unwrap();
        let count = (disk.len() - to).min(usize::try_from(CLUSTER_BYTES).unwrap());
        disk[to..to + count].copy_from_slice(&bytes[from..from + count]);
    }
    disk
}

#[test]
fn a_disk_comes_back_by_the_tables_and_holes_are_not_stored() {
    let disk = tempfile::tempfile().unwrap();
    // Two L2 tables, data at both ends of a cluster, a cluster of written zeros, a short last one.
    let size = 600 * MIB + 4096;
    disk.set_len(size).unwrap();
    disk.write_all_at(b"first", 0).unwrap();
    disk.write_all_at(&[7; 5000], 70_000).unwrap();
    disk.write_all_at(&vec![0; 1 << 20], 10 * MIB).unwrap();
    disk.write_all_at(b"last", size - 4).unwrap();

    let (plan, bytes) = written(&disk);

    assert_eq!(bytes.len() as u64, plan.length());
    assert_eq!(plan.data, [0, 1, size / CLUSTER_BYTES]);
    assert_eq!(plan.tables, [0, 1]);
    assert!(plan.length() < MIB, "{}", plan.length());
    let mut want = vec![0; usize::try_from(size).unwrap()];
    disk.read_exact_at(&mut want, 0).unwrap();
    assert!(read_back(&bytes) == want);
}

#[test]
fn refcounts_count_every_cluster_of_the_file_and_no_other() {
    let many: Vec<u64> = (0..70_000).collect();
    for data in [Vec::new(), vec![5], many] {
        let plan = Qcow2::lay_out(10 << 30, data);
        let mut tables = Vec::new();
        plan.write_tables(&mut tables).unwrap();

        assert_eq!(tables.len() as u64, plan.first_data() * CLUSTER_BYTES);
        let counts = usize::try_from((1 + plan.refcount_table) * CLUSTER_BYTES).unwrap();
        let length = usize::try_from(plan.refcount_blocks * CLUSTER_BYTES).unwrap();
        let used = tables[counts..counts + length]
            .chunks(2)
            .filter(|count| **count == [0, 1])
            .count();
        assert_eq!(used as u64, plan.clusters());
        assert!(plan.refcount_blocks * REFCOUNTS >= plan.clusters());
    }
}
