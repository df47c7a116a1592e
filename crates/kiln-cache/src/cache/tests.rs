//! Claims about blobs and packs, on real directories.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;
use crate::{IngestError, TooLong};

fn in_a_new_directory() -> (TempDir, Cache) {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::open(&root.path().join("cache")).unwrap();
    (root, cache)
}

fn put(cache: &Cache, content: &[u8]) -> Digest {
    let digest = Digest::of(content);
    let mut ingest = cache.ingest(&digest, content.len() as u64).unwrap();
    ingest.write_all(content).unwrap();
    ingest.commit().unwrap();
    digest
}

fn read(mut blob: Blob) -> String {
    let mut text = String::new();
    blob.file.read_to_string(&mut text).unwrap();
    text
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The time of a file's last change: the clock, as far as these tests need one.
fn modified(path: &Path) -> Timestamp {
    let metadata = fs::metadata(path).unwrap();
    let micros = metadata.mtime() * 1_000_000 + metadata.mtime_nsec() / 1_000;
    Timestamp::from_micros(micros).unwrap()
}

fn count_below(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

#[test]
fn what_was_put_is_found() {
    let (_root, cache) = in_a_new_directory();

    let digest = put(&cache, b"layer");

    let blob = cache.blob(&digest).unwrap().unwrap();
    assert_eq!(blob.size_bytes, 5);
    assert_eq!(read(blob), "layer");
    assert_eq!(mode_of(&cache.blob_path(&digest)), 0o400);
    assert_eq!(mode_of(&cache.blobs), 0o700);
    assert_eq!(count_below(&cache.ingest), 0);
    assert!(cache.blob(&Digest::of(b"other")).unwrap().is_none());
}

#[test]
fn an_empty_blob_is_a_blob() {
    let (_root, cache) = in_a_new_directory();

    let digest = put(&cache, b"");

    assert_eq!(cache.blob(&digest).unwrap().unwrap().size_bytes, 0);
}

#[test]
fn wrong_content_never_gets_a_name() {
    let (_root, cache) = in_a_new_directory();
    let digest = Digest::of(b"right");

    let mut ingest = cache.ingest(&digest, 5).unwrap();
    ingest.write_all(b"wrong").unwrap();
    let error = ingest.commit().unwrap_err();

    match error {
        IngestError::DigestMismatch { expected, found } => {
            assert_eq!((expected, found), (digest, Digest::of(b"wrong")));
        }
        other => panic!("{other}"),
    }
    assert!(cache.blob(&digest).unwrap().is_none());
    assert_eq!(count_below(&cache.ingest), 0);
}

#[test]
fn short_content_never_gets_a_name() {
    let (_root, cache) = in_a_new_directory();
    let digest = Digest::of(b"righ");

    // The digest is that of the bytes, only the announced size is not.
    let mut ingest = cache.ingest(&digest, 5).unwrap();
    ingest.write_all(b"righ").unwrap();
    let error = ingest.commit().unwrap_err();

    assert!(
        matches!(
            error,
            IngestError::SizeMismatch {
                expected_bytes: 5,
                found_bytes: 4,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(count_below(&cache.blobs), 0);
}

#[test]
fn more_bytes_than_announced_are_refused_unwritten() {
    let (_root, cache) = in_a_new_directory();
    let digest = Digest::of(b"right");
    let mut ingest = cache.ingest(&digest, 5).unwrap();
    ingest.write_all(b"righ").unwrap();

    let error = ingest.write_all(b"tt").unwrap_err();

    let reason = error.get_ref().unwrap().downcast_ref::<TooLong>();
    let want = TooLong {
        digest,
        expected_bytes: 5,
    };
    assert_eq!(reason, Some(&want));
    assert_eq!(ingest.found_bytes(), 4);
    ingest.write_all(b"t").unwrap();
    assert_eq!(read(ingest.commit().unwrap()), "right");
}

#[test]
fn the_slower_of_two_gets_the_blob_of_the_faster() {
    let (_root, cache) = in_a_new_directory();
    let digest = Digest::of(b"layer");
    let mut slow = cache.ingest(&digest, 5).unwrap();
    slow.write_all(b"lay").unwrap();

    put(&cache, b"layer");
    slow.write_all(b"er").unwrap();
    let blob = slow.commit().unwrap();

    assert_eq!(read(blob), "layer");
    assert_eq!(count_below(&cache.ingest), 0);
    assert_eq!(cache.usage().unwrap().blobs, 1);
}

#[test]
fn a_withheld_blob_is_read_by_its_holder_and_found_by_nobody() {
    let (_directory, cache) = in_a_new_directory();
    let digest = Digest::of(b"content");
    let withhold = |content: &[u8]| {
        let mut ingest = cache.ingest(&digest, 7).unwrap();
        ingest.write_all(content).unwrap();
        ingest.withhold()
    };

    let blob = withhold(b"content").unwrap();
    withhold(b"wrong!!").unwrap_err();
    withhold(b"short").unwrap_err();

    assert!(cache.blob(&digest).unwrap().is_none());
    assert_eq!(count_below(&cache.directory().join("ingest")), 0);
    (&blob.file).write_all(b"x").unwrap_err();
    assert_eq!(read(blob), "content");
}

#[test]
fn an_abandoned_ingest_leaves_nothing() {
    let (_root, cache) = in_a_new_directory();
    let digest = Digest::of(b"layer");

    let mut ingest = cache.ingest(&digest, 5).unwrap();
    ingest.write_all(b"lay").unwrap();
    let pack = cache.new_pack().unwrap();
    let names: Vec<_> = fs::read_dir(&cache.ingest)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    drop((ingest, pack));

    assert_eq!(names.len(), 2);
    assert!(
        names
            .iter()
            .any(|name| name.starts_with(&format!("{}.", digest.to_hex()))),
        "{names:?}"
    );
    assert_eq!(count_below(&cache.ingest), 0);
}

#[test]
fn a_sweep_removes_what_a_crash_left() {
    let (_root, cache) = in_a_new_directory();
    let kept = put(&cache, b"layer");
    fs::write(cache.ingest.join("pack.aaaaaa"), "torn").unwrap();
    fs::write(cache.ingest.join("0000.bbbbbb"), "torn").unwrap();

    let swept = cache.sweep(modified(&cache.directory)).unwrap();

    assert_eq!(swept.files, 2);
    assert_eq!(count_below(&cache.ingest), 0);
    assert!(cache.blob(&kept).unwrap().is_some());
    let again = cache.sweep(modified(&cache.directory)).unwrap();
    assert_eq!(again, Swept::default());
}

#[test]
fn a_pack_is_found_once_it_has_its_name() {
    let (_root, cache) = in_a_new_directory();
    let diff_id = Digest::of(b"tar");

    let pack = cache.new_pack().unwrap();
    pack.file().write_all_at(b"bodies", 0).unwrap();
    assert!(cache.pack(&diff_id).unwrap().is_none());
    pack.keep_as(&diff_id).unwrap();

    let mut text = String::new();
    let mut found = verified(&cache, &diff_id);
    found.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bodies");
    assert_eq!(mode_of(&cache.pack_path(&diff_id)), 0o400);
}

#[test]
fn a_pack_of_an_earlier_boot_has_to_be_trusted_anew() {
    let (root, cache) = in_a_new_directory();
    let diff_id = Digest::of(b"tar");
    cache.new_pack().unwrap().keep_as(&diff_id).unwrap();
    let same_boot = Cache::open(&root.path().join("cache")).unwrap();
    drop(verified(&same_boot, &diff_id));
    std::fs::write(&cache.boot_id, "another boot").unwrap();

    let rebooted = Cache::open(&root.path().join("cache")).unwrap();

    let found = rebooted.pack(&diff_id).unwrap();
    assert!(
        matches!(found, Some(CachedPack::Unverified(_))),
        "{found:?}"
    );
    assert_eq!(rebooted.usage().unwrap().packs, 1);
    rebooted.trust_pack(&diff_id).unwrap();
    drop(verified(&rebooted, &diff_id));
    drop(verified(
        &Cache::open(&root.path().join("cache")).unwrap(),
        &diff_id,
    ));
}

#[test]
fn a_link_is_what_was_linked_and_a_torn_one_is_none() {
    let (_root, cache) = in_a_new_directory();
    let (blob, diff_id) = (Digest::of(b"gzip"), Digest::of(b"tar"));
    assert_eq!(cache.linked(&blob).unwrap(), None);

    cache.link(&blob, &diff_id).unwrap();

    assert_eq!(cache.linked(&blob).unwrap(), Some(diff_id));
    fs::write(cache.links.join(blob.to_hex()), "sha256:12").unwrap();
    assert_eq!(cache.linked(&blob).unwrap(), None);
    cache.link(&blob, &diff_id).unwrap();
    assert_eq!(cache.linked(&blob).unwrap(), Some(diff_id));
}

fn verified(cache: &Cache, diff_id: &Digest) -> File {
    match cache.pack(diff_id).unwrap() {
        Some(CachedPack::Verified(file)) => file,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_pack_replaces_a_torn_one() {
    let (_root, cache) = in_a_new_directory();
    let diff_id = Digest::of(b"tar");
    cache.new_pack().unwrap().keep_as(&diff_id).unwrap();

    let pack = cache.new_pack().unwrap();
    pack.file().write_all_at(b"whole", 0).unwrap();
    let kept = pack.keep_as(&diff_id).unwrap();

    assert_eq!(kept.metadata().unwrap().len(), 5);
    let found = verified(&cache, &diff_id);
    assert_eq!(found.metadata().unwrap().len(), 5);
}

#[test]
fn discarding_says_whether_there_was_something() {
    let (_root, cache) = in_a_new_directory();
    let digest = put(&cache, b"layer");
    cache.new_pack().unwrap().keep_as(&digest).unwrap();
    let open = cache.blob(&digest).unwrap().unwrap();

    let first = (
        cache.discard_blob(&digest).unwrap(),
        cache.discard_pack(&digest).unwrap(),
    );
    let second = (
        cache.discard_blob(&digest).unwrap(),
        cache.discard_pack(&digest).unwrap(),
    );

    assert_eq!(first, (Discarded::Removed, Discarded::Removed));
    assert_eq!(second, (Discarded::Absent, Discarded::Absent));
    assert_eq!(read(open), "layer");
}

#[test]
fn usage_counts_space_not_holes() {
    let (_root, cache) = in_a_new_directory();
    put(&cache, b"layer");
    put(&cache, b"another layer");
    let pack = cache.new_pack().unwrap();
    pack.file().set_len(1 << 30).unwrap();
    pack.file().write_all_at(&[1; 4096], 0).unwrap();
    pack.keep_as(&Digest::of(b"tar")).unwrap();

    let usage = cache.usage().unwrap();

    assert_eq!((usage.blobs, usage.blob_bytes, usage.packs), (2, 18, 1));
    assert!(
        (4096..1 << 20).contains(&usage.pack_bytes),
        "{}",
        usage.pack_bytes
    );
}

#[test]
fn a_planted_link_is_not_read() {
    let (root, cache) = in_a_new_directory();
    let digest = Digest::of(b"layer");
    let secret = root.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, cache.blob_path(&digest)).unwrap();

    let error = cache.blob(&digest).unwrap_err();

    assert!(matches!(error, CacheError::NotRegular { .. }), "{error}");
}

#[test]
fn the_cache_may_be_a_link_and_nothing_below_it() {
    let (root, cache) = in_a_new_directory();
    let digest = put(&cache, b"layer");
    let link = root.path().join("link");
    symlink(root.path().join("cache"), &link).unwrap();

    let through = Cache::open(&link).unwrap();
    assert!(through.blob(&digest).unwrap().is_some());

    fs::rename(&cache.packs, root.path().join("elsewhere")).unwrap();
    symlink(root.path().join("elsewhere"), &cache.packs).unwrap();
    let error = Cache::open(&link).unwrap_err();
    assert!(matches!(error, CacheError::Unsafe { .. }), "{error}");
}

#[test]
fn a_cache_emptied_by_hand_works_again() {
    let (root, cache) = in_a_new_directory();
    let directory = root.path().join("cache");
    let digest = put(&cache, b"layer");

    fs::remove_dir_all(&directory).unwrap();

    assert!(cache.blob(&digest).unwrap().is_none());
    assert_eq!(cache.usage().unwrap(), Usage::default());
    put(&cache, b"layer");
    cache.new_pack().unwrap().keep_as(&digest).unwrap();
    assert!(cache.blob(&digest).unwrap().is_some());
}

#[test]
fn a_cache_that_others_may_write_is_refused() {
    let (root, _) = in_a_new_directory();
    let directory = root.path().join("cache");
    fs::set_permissions(directory.join("packs"), fs::Permissions::from_mode(0o777)).unwrap();

    let error = Cache::open(&directory).unwrap_err();

    assert!(matches!(error, CacheError::Unsafe { .. }), "{error}");
}

#[test]
fn a_full_disk_is_recognised() {
    let cases = [
        (rustix::io::Errno::NOSPC, true),
        (rustix::io::Errno::DQUOT, true),
        (rustix::io::Errno::IO, false),
    ];
    for (errno, want) in cases {
        let error = IngestError::from(crate::error::at("write", "x")(errno));
        assert_eq!(error.is_no_space(), want, "{errno}");
    }
}

/// More than is thrown away because asking for it again costs as little.
const MUCH: usize = 200 << 10;

fn content() -> Vec<u8> {
    (0..=250).cycle().take(2 * MUCH).collect()
}

/// Reads back what was kept.
fn read_back(ingest: &mut Ingest) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 10_000];
    loop {
        match ingest.read_kept(&mut buffer).unwrap() {
            0 => return kept,
            count => kept.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Takes in the first bytes of a blob and breaks off.
fn begin(cache: &Cache, digest: &Digest, size_bytes: usize, bytes: &[u8]) {
    let mut ingest = cache.resume(digest, size_bytes as u64).unwrap();
    ingest.write_all(bytes).unwrap();
}

#[test]
fn a_blob_is_gone_on_with_where_it_broke_off() {
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);

    begin(&cache, &digest, content.len(), &content[..MUCH]);
    assert_eq!(
        cache.partial_bytes(&PartialName::of_blob(&digest)),
        MUCH as u64
    );
    assert!(cache.blob(&digest).unwrap().is_none());
    assert_eq!(cache.usage().unwrap(), Usage::default());
    let mut ingest = cache.resume(&digest, content.len() as u64).unwrap();
    assert_eq!(ingest.kept_bytes(), MUCH as u64);
    let too_early = ingest.write_all(&content[MUCH..]);
    assert_eq!(too_early.unwrap_err().kind(), std::io::ErrorKind::Other);
    assert_eq!(read_back(&mut ingest), content[..MUCH]);
    ingest.write_all(&content[MUCH..]).unwrap();
    let blob = ingest.commit().unwrap();

    assert_eq!(blob.size_bytes, content.len() as u64);
    assert_eq!(fs::read(cache.blob_path(&digest)).unwrap(), content);
    assert_eq!(mode_of(&cache.blob_path(&digest)), 0o400);
    assert_eq!(count_below(&cache.ingest), 0);
}

#[test]
fn a_blob_whose_last_byte_came_only_has_to_be_verified() {
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);
    begin(&cache, &digest, content.len(), &content);

    let mut ingest = cache.resume(&digest, content.len() as u64).unwrap();
    read_back(&mut ingest);
    ingest.commit().unwrap();

    assert!(cache.blob(&digest).unwrap().is_some());
}

/// A partial that is damaged, or was made up, costs what it held and no more.
#[test]
fn kept_bytes_that_are_wrong_are_found_by_the_digest_and_thrown_away() {
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);
    fs::write(
        cache.partial_path(&PartialName::of_blob(&digest)),
        vec![b'x'; MUCH],
    )
    .unwrap();

    let mut ingest = cache.resume(&digest, content.len() as u64).unwrap();
    read_back(&mut ingest);
    ingest.write_all(&content[MUCH..]).unwrap();
    let committed = ingest.commit();

    assert!(
        matches!(committed, Err(IngestError::DigestMismatch { .. })),
        "{committed:?}"
    );
    assert_eq!(count_below(&cache.ingest), 0);
    assert!(cache.blob(&digest).unwrap().is_none());
}

#[test]
fn two_who_take_in_one_blob_do_not_meet() {
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);
    let size_bytes = content.len() as u64;

    let mut first = cache.resume(&digest, size_bytes).unwrap();
    first.write_all(&content[..MUCH]).unwrap();
    let mut second = cache.resume(&digest, size_bytes).unwrap();
    assert_eq!(second.kept_bytes(), 0);
    second.write_all(&content).unwrap();
    second.commit().unwrap();
    first.write_all(&content[MUCH..]).unwrap();
    first.commit().unwrap();

    assert_eq!(fs::read(cache.blob_path(&digest)).unwrap(), content);
    assert_eq!(count_below(&cache.ingest), 0);
}

#[test]
fn what_is_little_too_long_or_abandoned_is_not_kept() {
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);

    begin(&cache, &digest, content.len(), &content[..100]);
    assert_eq!(count_below(&cache.ingest), 0);

    begin(&cache, &digest, content.len(), &content[..MUCH]);
    let other = cache.resume(&digest, MUCH as u64 - 1).unwrap();
    assert_eq!(other.kept_bytes(), 0, "a manifest lies about the size");
    drop(other);
    assert_eq!(
        cache.partial_bytes(&PartialName::of_blob(&digest)),
        MUCH as u64
    );

    let ingest = cache.resume(&digest, content.len() as u64).unwrap();
    ingest.abandon().unwrap();
    assert_eq!(count_below(&cache.ingest), 0);
}

#[test]
fn what_stands_in_a_partials_place_is_not_written_to() {
    let (root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);
    let path = cache.partial_path(&PartialName::of_blob(&digest));
    let elsewhere = root.path().join("elsewhere");
    let plant: [&dyn Fn() -> std::io::Result<()>; 2] = [&|| symlink(&elsewhere, &path), &|| {
        fs::hard_link(&elsewhere, &path)
    }];
    for plant in plant {
        fs::write(&elsewhere, "somebody's").unwrap();
        plant().unwrap();

        let mut ingest = cache.resume(&digest, content.len() as u64).unwrap();
        assert_eq!(ingest.kept_bytes(), 0);
        ingest.write_all(&content[..MUCH]).unwrap();
        ingest.abandon().unwrap();

        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "somebody's");
    }
}

#[test]
fn a_sweep_leaves_a_partial_for_a_day_and_one_in_use_for_ever() {
    const DAY: i64 = 24 * 3600 * 1_000_000;
    let later = |at: Timestamp, micros| Timestamp::from_micros(at.as_micros() + micros).unwrap();
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);
    begin(&cache, &digest, content.len(), &content[..MUCH]);
    let at = modified(&cache.partial_path(&PartialName::of_blob(&digest)));

    for ahead in [0, DAY / 2, -DAY / 2] {
        let now = later(at, ahead);
        assert_eq!(cache.sweep(now).unwrap(), Swept::default());
    }
    let in_use = cache.resume(&digest, content.len() as u64).unwrap();
    assert_eq!(cache.sweep(later(at, 2 * DAY)).unwrap(), Swept::default());
    drop(in_use);
    assert_eq!(cache.sweep(later(at, DAY)).unwrap().files, 1);
    assert_eq!(count_below(&cache.ingest), 0);

    // Hardly begun, when a daemon was killed.
    fs::write(cache.partial_path(&PartialName::of_blob(&digest)), "little").unwrap();
    assert_eq!(cache.sweep_partials(at).unwrap().files, 1);

    // From a clock that was wrong.
    begin(&cache, &digest, content.len(), &content[..MUCH]);
    assert_eq!(cache.sweep_partials(later(at, -2 * DAY)).unwrap().files, 1);

    // The blob came another way.
    begin(&cache, &digest, content.len(), &content[..MUCH]);
    put(&cache, &content);
    assert_eq!(cache.sweep_partials(at).unwrap().files, 1);
    assert_eq!(count_below(&cache.ingest), 0);
}

/// Somebody empties the cache by hand, and somebody else begins the same blob: what was verified
/// is gone, and what lies under its name is not it.
#[test]
fn another_partial_under_the_same_name_is_not_taken_for_the_one_that_was_checked() {
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);
    let mut ingest = cache.resume(&digest, content.len() as u64).unwrap();
    ingest.write_all(&content).unwrap();

    fs::remove_file(cache.partial_path(&PartialName::of_blob(&digest))).unwrap();
    begin(&cache, &digest, content.len(), &content[..MUCH]);
    let committed = ingest.commit();

    assert!(
        matches!(committed, Err(IngestError::Cache(_))),
        "{committed:?}"
    );
    assert!(cache.blob(&digest).unwrap().is_none());
    assert_eq!(
        cache.partial_bytes(&PartialName::of_blob(&digest)),
        MUCH as u64
    );
}

/// Leaves a partial of `length` bytes whose last one came at `second`, and returns its name.
fn leave(cache: &Cache, word: &str, length: usize, second: u64) -> PartialName {
    let digest = Digest::of(word.as_bytes());
    begin(cache, &digest, 2 * length, &vec![7; length]);
    let name = PartialName::of_blob(&digest);
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
    let file = File::options()
        .write(true)
        .open(cache.partial_path(&name))
        .unwrap();
    file.set_modified(at).unwrap();
    name
}

fn left(cache: &Cache, names: &[&PartialName]) -> Vec<bool> {
    let bytes = names.iter().map(|name| cache.partial_bytes(name));
    bytes.map(|bytes| bytes > 0).collect()
}

#[test]
fn the_oldest_partials_that_nobody_wants_make_way() {
    let (_root, cache) = in_a_new_directory();
    let newest = leave(&cache, "newest", MUCH, 40);
    let wanted = leave(&cache, "wanted", MUCH, 10);
    let second = leave(&cache, "second", MUCH, 30);
    let oldest = leave(&cache, "oldest", MUCH, 20);
    let all = [&oldest, &second, &newest, &wanted];
    let wanted = std::slice::from_ref(&wanted);

    let most = cache.evictable_bytes(wanted).unwrap();
    assert!((3 * MUCH as u64..4 * MUCH as u64).contains(&most), "{most}");
    let one = cache.evict_partials(1, wanted).unwrap();
    assert_eq!(one.files, 1);
    assert_eq!(left(&cache, &all), [false, true, true, true]);
    let two = cache.evict_partials(MUCH as u64 + 1, wanted).unwrap();

    assert_eq!(two.files, 2);
    assert_eq!(left(&cache, &all), [false, false, false, true]);
}

#[test]
fn partials_take_no_more_than_their_share_and_those_in_use_stay() {
    let (_root, cache) = in_a_new_directory();
    let oldest = leave(&cache, "oldest", MUCH, 10);
    let second = leave(&cache, "second", MUCH, 20);
    let newest = leave(&cache, "newest", MUCH, 30);
    let digest = Digest::of(b"oldest");
    let in_use = cache.resume(&digest, 2 * MUCH as u64).unwrap();
    let share = 2 * MUCH as u64 + 8192;

    assert_eq!(cache.trim_partials(u64::MAX).unwrap(), Swept::default());
    let swept = cache.trim_partials(share).unwrap();
    drop(in_use);

    assert_eq!(swept.files, 1);
    let all = [&oldest, &second, &newest];
    assert_eq!(left(&cache, &all), [true, false, true]);
    assert_eq!(cache.trim_partials(0).unwrap().files, 2);
}

#[test]
fn a_whole_blob_is_kept_for_the_place_that_gave_it_alone() {
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(&content);
    let size_bytes = content.len() as u64;
    let here = PartialName::of_blob_from("one.example/private", &digest);
    let elsewhere = PartialName::of_blob_from("two.example/mine", &digest);

    let mut ingest = cache.resume_as(&here, &digest, size_bytes).unwrap();
    ingest.write_all(&content).unwrap();
    ingest.keep().unwrap();

    let mut again = cache.resume_as(&here, &digest, size_bytes).unwrap();
    assert_eq!(again.kept_bytes(), size_bytes);
    assert_eq!(read_back(&mut again), content);
    again.keep().unwrap();
    for name in [elsewhere, PartialName::of_blob(&digest)] {
        let other = cache.resume_as(&name, &digest, size_bytes).unwrap();
        assert_eq!(other.kept_bytes(), 0, "{name:?}");
    }
    assert!(cache.blob(&digest).unwrap().is_none());
    assert_eq!(cache.discard_partial(&here).unwrap(), Discarded::Removed);
    assert_eq!(cache.discard_partial(&here).unwrap(), Discarded::Absent);
    assert_eq!(count_below(&cache.ingest), 0);
}

#[test]
fn a_whole_blob_that_is_wrong_is_not_kept() {
    let (_root, cache) = in_a_new_directory();
    let content = content();
    let digest = Digest::of(b"another");
    let mut ingest = cache.resume(&digest, content.len() as u64).unwrap();
    ingest.write_all(&content).unwrap();

    let kept = ingest.keep();

    assert!(matches!(kept, Err(IngestError::DigestMismatch { .. })));
    assert_eq!(count_below(&cache.ingest), 0);
}
