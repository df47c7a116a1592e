//! What fetching an image will write at least: its missing blobs.
//!
//! Whether there is room for it is not here.

use std::collections::HashSet;

use kiln_cache::{Cache, PartialName};
use kiln_domain::oci::bootable::Chunk;
use kiln_registry::Layer;

use super::error::FetchError;
use super::layer::is_linked;
use crate::space::{FetchNeeds, InFlight, Space};
use crate::spare::Spare;

/// How many times the blobs' own length a pull probably writes: them, and twice what they unpack to.
/// Partial downloads make way for so much; a pull is refused for want of the blobs' length alone.
const COMFORT: u64 = 5;

/// What makes way, and what others are fetching.
pub(super) struct Surroundings<'a> {
    pub(super) spare: &'a Spare,
    pub(super) in_flight: &'a InFlight,
}

/// Looks what of the layers the cache lacks. Where there is too little room for it, partial downloads
/// that nobody wants make way. It blocks.
pub(super) fn of_layers(
    cache: &Cache,
    around: &Surroundings<'_>,
    layers: &[Layer],
) -> Result<FetchNeeds, FetchError> {
    with_way_made(around.spare, || lacking(cache, around.in_flight, layers))
}

/// Looks which chunks the cache lacks of what `place` has, as [`of_layers`] does of layers. It blocks.
pub(super) fn of_chunks(
    cache: &Cache,
    spare: &Spare,
    place: &str,
    chunks: &[Chunk],
) -> Result<FetchNeeds, FetchError> {
    with_way_made(spare, || {
        let mut needs = FetchNeeds {
            cache: Space::of_directory(cache.directory()),
            ..FetchNeeds::default()
        };
        let mut seen = HashSet::new();
        for chunk in chunks {
            let descriptor = &chunk.descriptor;
            if seen.insert(descriptor.digest) {
                let name = PartialName::of_blob_from(place, &descriptor.digest);
                needs.add(cache, name, descriptor.size_bytes);
            }
        }
        Ok(needs)
    })
}

fn with_way_made(
    spare: &Spare,
    look: impl Fn() -> Result<FetchNeeds, FetchError>,
) -> Result<FetchNeeds, FetchError> {
    spare.trim();
    let needs = look()?;
    let has_made_way = match needs.check() {
        Err(lacking) => spare.make_way(&lacking, &needs.partials),
        Ok(()) => match needs.check_times(COMFORT) {
            Err(lacking) => spare.make_some_way(&lacking, &needs.partials),
            Ok(()) => false,
        },
    };
    if has_made_way { look() } else { Ok(needs) }
}

/// What others are fetching counts as there: it is on the disk in part, and who waits for it
/// writes nothing. The order keeps that true: the free space first, then what is in flight, then
/// what has arrived.
fn lacking(
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
            let name = PartialName::of_blob(&descriptor.digest);
            needs.add(cache, name, descriptor.size_bytes);
        }
    }
    Ok(needs)
}

impl FetchNeeds {
    /// Counts a blob that is not there, but for what an earlier download left of it.
    fn add(&mut self, cache: &Cache, name: PartialName, size_bytes: u64) {
        let lacking = size_bytes.saturating_sub(cache.partial_bytes(&name));
        // Sizes are what a manifest claims: they may add up to anything.
        self.blob_bytes = self.blob_bytes.saturating_add(lacking);
        self.partials.push(name);
    }
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

    fn needs_of(cache: &Cache, in_flight: &InFlight, layers: &[Layer]) -> FetchNeeds {
        let around = Surroundings {
            spare: &Spare::new(cache.clone()),
            in_flight,
        };
        of_layers(cache, &around, layers).unwrap()
    }

    /// A compressed layer may unpack to next to nothing, so its own bytes are all that counts.
    #[test]
    fn a_pull_whose_missing_blobs_just_fit_is_not_refused() {
        let (_folder, cache) = cache();
        let layers = [
            layer(b"one", BLOB_BYTES, b"1"),
            layer(b"two", BLOB_BYTES, b"2"),
        ];
        let needs = needs_of(&cache, &InFlight::default(), &layers);
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

        let needs = needs_of(&cache, &InFlight::default(), &[layer]);

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

        let needs = needs_of(&cache, &in_flight, &layers);

        assert_eq!(needs.blob_bytes, BLOB_BYTES);
        let boundless = [layer(b"a", u64::MAX, b"4"), layer(b"b", u64::MAX, b"5")];
        let needs = needs_of(&cache, &in_flight, &boundless);
        assert_eq!(needs.blob_bytes, u64::MAX);
    }
}
