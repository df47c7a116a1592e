//! Images to pull, small and made on the spot.

use std::path::Path;

use anyhow::Result;
use kiln_testkit::images::entry::Entry;
use kiln_testkit::images::layout::{Compression, Descriptor, Layer, Layout, Platform};

/// Returns how a local layout's image is named in a pull.
pub(crate) fn oci(layout: &Layout, tag: &str) -> String {
    format!("oci:{}:{tag}", layout.folder().display())
}

/// Makes a layout with one image, `small:1`, of two layers.
pub(crate) fn small(folder: &Path) -> Result<Layout> {
    let mut layout = Layout::create(folder)?;
    let image = small_image(&layout, "small")?;
    layout.tag("1", &image)?;
    Ok(layout)
}

/// Adds an image of two layers whose content depends on `word`.
pub(crate) fn small_image(layout: &Layout, word: &str) -> Result<Descriptor> {
    let layers = [
        layout.add_layer(
            &[
                Entry::directory("etc"),
                Entry::file("etc/hello", format!("{word}\n")),
                Entry::file("etc/removed", "lower"),
            ],
            Compression::Gzip,
        )?,
        layout.add_layer(
            &[
                Entry::whiteout("etc/removed"),
                Entry::file("marker", format!("{word} ok\n")),
            ],
            Compression::Zstd,
        )?,
    ];
    layout.add_image(&layers, &Platform::linux("amd64"))
}

/// Makes a layout with one image, tagged `1`, of these layers.
pub(crate) fn of_layers(
    folder: &Path,
    layers: impl FnOnce(&Layout) -> Result<Vec<Layer>>,
) -> Result<Layout> {
    let mut layout = Layout::create(folder)?;
    let layers = layers(&layout)?;
    let image = layout.add_image(&layers, &Platform::linux("amd64"))?;
    layout.tag("1", &image)?;
    Ok(layout)
}

/// Returns bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}
