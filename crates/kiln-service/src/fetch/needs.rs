//! What fetching an image will write at least.
//!
//! Whether there is room for it is not here.

use std::collections::HashSet;

use kiln_cache::Cache;
use kiln_domain::oci::LayerCompression;
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
    let top = layers.last().map(|layer| layer.diff_id);
    for layer in layers {
        if !seen.insert(layer.diff_id) {
            continue;
        }
        let descriptor = &layer.descriptor;
        if is_linked(cache, layer)? && cache.pack(&layer.diff_id)?.is_some() {
            continue;
        }
        if cache.blob(&descriptor.digest)?.is_none() {
            add(&mut needs.blob_bytes, descriptor.size_bytes);
        }
        if layer.compression != LayerCompression::None {
            add(&mut needs.pack_bytes, descriptor.size_bytes);
            if Some(layer.diff_id) == top {
                needs.image_bytes = descriptor.size_bytes;
            }
        }
    }
    Ok(needs)
}

/// Sizes are what a manifest claims: they may add up to anything.
fn add(sum: &mut u64, bytes: u64) {
    *sum = sum.saturating_add(bytes);
}
