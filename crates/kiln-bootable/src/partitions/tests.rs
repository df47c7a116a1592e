use proptest::prelude::*;

use super::*;

const SECTORS: u64 = 4096;

fn mbr_with(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut head = vec![0; 128 << 10];
    head[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (number, (kind, first, count)) in entries.iter().enumerate() {
        let entry = &mut head[446 + 16 * number..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&count.to_le_bytes());
    }
    head
}

/// Puts the checksums of a GPT right.
fn seal(head: &mut [u8]) {
    let sum = u32::try_from(checksum(&head[1024..1024 + 128 * 128])).unwrap();
    head[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
    head[512 + 16..512 + 20].fill(0);
    let sum = u32::try_from(checksum(&head[512..512 + 92])).unwrap();
    head[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
}

fn gpt_with(entries: &[(u64, u64)]) -> Vec<u8> {
    let mut head = mbr_with(&[(PROTECTIVE, 1, u32::MAX)]);
    let header = &mut head[512..1024];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[24..32].copy_from_slice(&1_u64.to_le_bytes());
    header[40..48].copy_from_slice(&34_u64.to_le_bytes());
    header[48..56].copy_from_slice(&(SECTORS - 34).to_le_bytes());
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&128_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    for (number, (first, last)) in entries.iter().enumerate() {
        let entry = &mut head[1024 + 128 * number..][..128];
        entry[..16].fill(0x11);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
    }
    seal(&mut head);
    head
}

fn read(head: &[u8]) -> Result<Vec<(u32, u64, u64)>, PartitionError> {
    let found = partitions(head, SECTORS * SECTOR_BYTES)?;
    let place = |one: &Partition| (one.number, one.start / 512, one.end / 512);
    Ok(found.iter().map(place).collect())
}

#[test]
fn both_tables_tell_where_partitions_lie() {
    let mbr = mbr_with(&[(0x83, 2048, 100), (0, 9, 9), (0x82, 100, 1948)]);
    assert_eq!(read(&mbr), Ok(vec![(3, 100, 2048), (1, 2048, 2148)]));
    let gpt = gpt_with(&[(2048, 3000), (34, 99)]);
    assert_eq!(read(&gpt), Ok(vec![(2, 34, 100), (1, 2048, 3001)]));
    assert_eq!(read(&gpt_with(&[])), Ok(Vec::new()));
}

#[test]
fn a_table_is_taken_as_it_is_or_refused() {
    let logical = mbr_with(&[(0x83, 1, 9), (0x05, 20, 9)]);
    assert_eq!(read(&logical), Err(PartitionError::Logical));
    let mut odd_status = mbr_with(&[(0x83, 1, 9)]);
    odd_status[446] = 0x33;
    let mut of_header = gpt_with(&[(34, 99)]);
    of_header[512 + 40] ^= 1;
    let mut of_entries = gpt_with(&[(34, 99)]);
    of_entries[1024 + 56] ^= 1;
    let sealed = |at: usize, bytes: &[u8]| {
        let mut head = gpt_with(&[(34, 99)]);
        head[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut head);
        head
    };
    let cases = [
        ("nothing in it", mbr_with(&[])),
        ("status", odd_status),
        ("at sector 0", mbr_with(&[(0x83, 0, 9)])),
        ("empty", mbr_with(&[(0x83, 9, 0)])),
        ("behind the end", mbr_with(&[(0x83, 4000, 97)])),
        ("overlapping", mbr_with(&[(0x83, 1, 10), (0x83, 10, 5)])),
        ("no GPT", mbr_with(&[(PROTECTIVE, 1, 9)])),
        ("a header's checksum", of_header),
        ("the entries' checksum", of_entries),
        ("in front of the usable", gpt_with(&[(33, 99)])),
        ("behind the usable", gpt_with(&[(34, SECTORS - 33)])),
        ("backwards", gpt_with(&[(99, 34)])),
        ("overlapping in GPT", gpt_with(&[(34, 99), (99, 120)])),
        ("a header elsewhere", sealed(512 + 24, &[2])),
        ("entries far away", sealed(512 + 72, &[0xff; 8])),
        ("entries at the MBR", sealed(512 + 72, &[0])),
        ("many entries", sealed(512 + 80, &[0xff; 4])),
        ("short entries", sealed(512 + 84, &[64])),
        ("a usable end behind the disk", sealed(512 + 48, &[0xff; 8])),
    ];
    for (what, head) in cases {
        let found = read(&head);
        assert!(
            matches!(found, Err(PartitionError::Damaged { .. })),
            "{what}: {found:?}"
        );
    }
    let mut long_header = gpt_with(&[]);
    long_header[512 + 12..512 + 16].fill(0xff);
    read(&long_header).unwrap_err();
    read(&gpt_with(&[])[..600]).unwrap_err();
}

proptest! {
    /// Whatever a table says, it is refused or its partitions lie on the disk, one behind the other.
    #[test]
    fn damage_is_refused_or_harmless(
        damage in prop::collection::vec((440_usize..1300, any::<u8>()), 1..6),
        is_sealed in any::<bool>(),
        is_gpt in any::<bool>(),
    ) {
        let mut head = if is_gpt {
            gpt_with(&[(34, 99), (100, 3000)])
        } else {
            mbr_with(&[(0x83, 34, 66), (0x83, 100, 2900)])
        };
        for (at, byte) in damage {
            head[at] = byte;
        }
        if is_sealed {
            seal(&mut head);
        }
        if let Ok(found) = read(&head) {
            let mut at = 1;
            for (_, start, end) in found {
                prop_assert!(at <= start && start < end && end <= SECTORS);
                at = end;
            }
        }
    }
}
