//! What fetching an image will write at least: its missing blobs.
//!
//! Whether there is room for it is not here.

use std::collections::HashSet;

use kiln_cache::Cache;
use kiln_registry::Layer;

use super::error::FetchError;
use super::layer::is_linked;
use crate::space::{FetchNeeds, InFlight, Space};

/// Looks what of the layers the cache lacks. It blocks.
///
/// What others are fetching counts as there: it is on the disk in part, and who waits for it
/// writes nothing. The order keeps that true: the free space first, then what is in flight, then
/// what has arrived.
pub(super) fn of_layers(
    cache: &Cache,
    in_flight: &InFlight,
    layers: &[Layer],
) -> Result<FetchNeeds, FetchError> {
    let mut needs = FetchNeeds {
        cache: Space::of_directory(cache.directory()),
        ..FetchNeeds::default()
    };
    let mut seen: HashSet<_> = in_flight.layers().into_iter().collect();
    let mut counted = HashSet::new();
    for layer in layers {
        if !seen.insert(layer.diff_id) {
            continue;
        }
        let descriptor = &layer.descriptor;
        if is_linked(cache, layer)? && cache.pack(&layer.diff_id)?.is_some() {
            continue;
        }
        let is_missing = cache.blob(&descriptor.digest)?.is_none();
        // A manifest may name one blob for two layers.
        if is_missing && counted.insert(descriptor.digest) {
            let had_bytes = cache.partial_bytes(&descriptor.digest);
            let lacking = descriptor.size_bytes.saturating_sub(had_bytes);
            // Sizes are what a manifest claims: they may add up to anything.
            needs.blob_bytes = needs.blob_bytes.saturating_add(lacking);
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use kiln_domain::Digest;
    use kiln_domain::oci::Descriptor;
    use kiln_domain::oci::LayerCompression;
    use tempfile::TempDir;

    use super::*;
    use crate::space::{RESERVE_BYTES, Storing};

    const BLOB_BYTES: u64 = 1000;

    fn layer(blob: &[u8], size_bytes: u64, diff_id: &[u8]) -> Layer {
        Layer {
            descriptor: Descriptor::new(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Digest::of(blob),
                size_bytes,
            ),
            compression: LayerCompression::Gzip,
            diff_id: Digest::of(diff_id),
        }
    }

    fn cache() -> (TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        (folder, cache)
    }

    /// A compressed layer may unpack to next to nothing, so its own bytes are all that counts.
    #[test]
    fn a_pull_whose_missing_blobs_just_fit_is_not_refused() {
        let (_folder, cache) = cache();
        let layers = [
            layer(b"one", BLOB_BYTES, b"1"),
            layer(b"two", BLOB_BYTES, b"2"),
        ];
        let needs = of_layers(&cache, &InFlight::default(), &layers).unwrap();
        let edge = 2 * BLOB_BYTES + RESERVE_BYTES;

        for (free_bytes, fits) in [(edge, true), (edge - 1, false)] {
            let space = Space {
                directory: cache.directory().to_owned(),
                free_bytes,
                device: 1,
                storing: Storing::Everything,
            };
            let needs = FetchNeeds {
                cache: Some(space),
                ..needs.clone()
            };
            assert_eq!(needs.check().is_ok(), fits, "{free_bytes} bytes free");
        }
    }

    #[test]
    fn what_an_earlier_download_left_needs_no_room() {
        const LEFT_BYTES: u64 = 100 << 10;
        let (_folder, cache) = cache();
        let layer = layer(b"broken off", 2 * LEFT_BYTES, b"1");
        let digest = layer.descriptor.digest;
        let mut ingest = cache.resume(&digest, 2 * LEFT_BYTES).unwrap();
        for _ in 0..100 {
            ingest.write_all(&[7; 1 << 10]).unwrap();
        }
        drop(ingest);

        let needs = of_layers(&cache, &InFlight::default(), &[layer]).unwrap();

        assert_eq!(needs.blob_bytes, LEFT_BYTES);
    }

    #[test]
    fn what_is_there_or_on_its_way_or_named_twice_counts_once_at_most() {
        let (_folder, cache) = cache();
        let here = b"here";
        let mut ingest = cache.ingest(&Digest::of(here), here.len() as u64).unwrap();
        ingest.write_all(here).unwrap();
        ingest.commit().unwrap();
        let in_flight = InFlight::default();
        let _flight = in_flight.begin(Digest::of(b"flying"));
        let layers = [
            layer(here, here.len() as u64, b"1"),
            layer(b"other", BLOB_BYTES, b"flying"),
            layer(b"twice", BLOB_BYTES, b"2"),
            layer(b"twice", BLOB_BYTES, b"2"),
            layer(b"twice", BLOB_BYTES, b"3"),
        ];

        let needs = of_layers(&cache, &in_flight, &layers).unwrap();

        assert_eq!(needs.blob_bytes, BLOB_BYTES);
        let boundless = [layer(b"a", u64::MAX, b"4"), layer(b"b", u64::MAX, b"5")];
        let needs = of_layers(&cache, &in_flight, &boundless).unwrap();
        assert_eq!(needs.blob_bytes, u64::MAX);
    }
}
