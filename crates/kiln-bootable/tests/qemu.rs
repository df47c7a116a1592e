//! Disks that the real qemu-img made: what it stores is what comes back.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_bootable::{Format, take_root};
use kiln_testkit::{process, tools};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

const LIMIT: Duration = Duration::from_secs(120);

/// What qemu-img is told of the disk it makes.
const FORMS: &[&[&str]] = &[
    &["-o", "compat=0.10"],
    &["-o", "compat=1.1"],
    &["-o", "cluster_size=512"],
    &["-o", "cluster_size=2M"],
    &["-o", "extended_l2=on,cluster_size=16k"],
    &[
        "-o",
        "extended_l2=on,cluster_size=128k,compression_type=zstd",
        "-c",
    ],
    &["-o", "preallocation=metadata"],
    &["-o", "preallocation=falloc,lazy_refcounts=on"],
    &["-o", "compat=0.10,cluster_size=4k", "-c"],
    &["-o", "compression_type=zlib", "-c"],
    &["-o", "compression_type=zstd", "-c"],
    &["-o", "compression_type=zstd,cluster_size=2M", "-c"],
];

fn qemu_img(words: &[&str], files: &[&Path]) -> Result<()> {
    let mut command = process::command(tools::require(tools::QEMU_IMG)?);
    command.args(words).args(files);
    process::run(command, LIMIT).with_context(|| words.join(" "))?;
    Ok(())
}

/// Data at a place of a disk: of noise, or of one byte.
#[derive(Clone, Debug)]
struct Piece {
    at: u64,
    length: usize,
    seed: u8,
    is_noise: bool,
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let places = prop_oneof![0_u64..(1 << 20), 0_u64..(96 << 20)];
    let piece = (places, 1_usize..300_000, any::<u8>(), any::<bool>());
    let piece = piece.prop_map(|(at, length, seed, is_noise)| Piece {
        at,
        length,
        seed,
        is_noise,
    });
    prop::collection::vec(piece, 0..10)
}

fn raw_disk(path: &Path, pieces: &[Piece], sectors: u64) -> Result<()> {
    let disk = File::create(path)?;
    for piece in pieces {
        let mut state = u64::from(piece.seed) | 1;
        let noise = (0..piece.length).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        });
        let bytes: Vec<u8> = if piece.is_noise {
            noise.collect()
        } else {
            vec![piece.seed; piece.length]
        };
        disk.write_all_at(&bytes, piece.at)?;
    }
    disk.set_len(sectors * 512)?;
    Ok(())
}

/// Reads a disk back and compares it with what it was made from.
fn check(raw: &Path, qcow2: &Path) -> Result<()> {
    let output = qcow2.with_extension("out");
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&output)?;
    let judge = |_: &[u8]| Ok::<_, ()>(());
    let taken = take_root(&File::open(qcow2)?, &file, judge, &AtomicBool::new(false))?;
    let taken = taken.ok().context("refused")?;
    anyhow::ensure!(taken.format == Format::Qcow2, "{taken:?}");
    let want = fs::read(raw)?;
    let mut found = fs::read(&output)?;
    anyhow::ensure!(found.len() == want.len().next_multiple_of(4096), "length");
    anyhow::ensure!(
        found.split_off(want.len()).iter().all(|byte| *byte == 0),
        "end"
    );
    anyhow::ensure!(found == want, "other bytes");
    Ok(())
}

#[test]
fn whatever_qemu_img_converts_comes_back() -> Result<()> {
    if tools::must_skip("whatever_qemu_img_converts_comes_back", &[tools::QEMU_IMG])? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (raw, qcow2) = (folder.path().join("raw"), folder.path().join("disk.qcow2"));
    let config = Config {
        cases: 36,
        failure_persistence: None,
        ..Config::default()
    };
    let shapes = (pieces(), 1_u64..200_000, prop::sample::select(FORMS));
    let run = TestRunner::new(config).run(&shapes, |(pieces, sectors, form)| {
        let checked = raw_disk(&raw, &pieces, sectors).and_then(|()| {
            let words = [&["convert", "-f", "raw", "-O", "qcow2"][..], form].concat();
            qemu_img(&words, &[&raw, &qcow2])?;
            check(&raw, &qcow2)
        });
        checked.map_err(|error| TestCaseError::fail(format!("{form:?}: {error:#}")))
    });
    run?;
    Ok(())
}

#[test]
fn what_a_guest_would_write_and_discard_comes_back_and_chains_are_refused() -> Result<()> {
    let test = "what_a_guest_would_write_and_discard_comes_back_and_chains_are_refused";
    if tools::must_skip(test, &[tools::QEMU_IMG])? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let (raw, qcow2) = (path("raw"), path("disk.qcow2"));
    let piece = Piece {
        at: 0,
        length: 5 << 20,
        seed: 9,
        is_noise: true,
    };
    raw_disk(&raw, &[piece], 32 << 10)?;
    qemu_img(
        &["convert", "-f", "raw", "-O", "qcow2", "-c"],
        &[&raw, &qcow2],
    )?;
    // Some clusters are written anew, some become zeros; a snapshot shares the others.
    qemu_img(&["snapshot", "-c", "before"], &[&qcow2])?;
    let mut io = process::command("qemu-io");
    io.args([
        "-f",
        "qcow2",
        "-c",
        "write -P 7 100k 700k",
        "-c",
        "write -z 2M 1M",
    ]);
    io.args(["-c", "discard 4M 512k"]).arg(&qcow2);
    process::run(io, LIMIT)?;
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw"], &[&qcow2, &raw])?;

    check(&raw, &qcow2)?;

    let chained = path("chained.qcow2");
    let backing = qcow2.display().to_string();
    qemu_img(
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &backing],
        &[&chained],
    )?;
    let output = File::create(path("out"))?;
    let judge = |_: &[u8]| Ok::<_, ()>(());
    let refused = take_root(
        &File::open(chained)?,
        &output,
        judge,
        &AtomicBool::new(false),
    );
    let told = refused.err().context("taken")?.to_string();
    assert!(told.contains("a backing file"), "{told}");
    Ok(())
}
