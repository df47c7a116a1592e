//! Real Debian images: the demo's, which boots, and the benchmark's, which is large.
//!
//! Both are made once by `mmdebstrap` and kept as fixtures. They are not the same bytes on every
//! machine, since Debian's packages move on; figures taken of them say which image they are of.

use std::collections::HashSet;
use std::env;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

use super::entry::{self, Entry};
use super::layout::{Compression, Layer, Layout, Platform};
use super::torture;
use crate::fixtures::Fixtures;
use crate::process;
use crate::tools;

/// Debian release the trees are made of.
const SUITE: &str = "bookworm";

/// Where an image's programs are.
const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest time making a tree may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Packages that make the benchmark's second layer large: compilers, an interpreter and its
/// libraries, a version control system; about 1.2 GB in 38,000 entries with the base.
const BENCHMARK_PACKAGES: &[&str] = &[
    "build-essential",
    "clang",
    "git",
    "python3",
    "python3-dev",
    "python3-scipy",
];

/// Line the demo's guest prints when it has started.
pub const DEMO_MARKER: &str = "kiln-demo: hello from the guest";

/// The program of the demo's image.
const DEMO_PROGRAM: &str = r#"#!/bin/sh
. /etc/os-release
echo "kiln-demo: hello from the guest"
echo "kiln-demo: $PRETTY_NAME"
echo "kiln-demo: Linux $(uname -r) on $(uname -m)"
echo "kiln-demo: $(id -un) in $(pwd), told: $*"
df -h / | sed 's/^/kiln-demo: /'
echo "kiln-demo: $(cat /etc/kiln-demo)"
[ -e /usr/share/doc ] || echo "kiln-demo: what a layer removed is gone"
"#;

/// Line the demo's guest prints of its user, its directory and its words: all are the image's.
pub const DEMO_CONFIG: &str = "kiln-demo: www-data in /srv, told: the image's own words";

/// Line the demo's guest prints out of a file that its third layer replaced.
pub const DEMO_REPLACED: &str = "three layers, one filesystem";

/// A real image in a layout.
#[derive(Clone, Debug)]
pub struct DebianImage {
    /// The layout's folder.
    pub layout: PathBuf,
    /// The image's name in it.
    pub tag: &'static str,
}

impl DebianImage {
    /// Returns the image as skopeo and Kiln name it: `oci:FOLDER:TAG`.
    pub fn source(&self) -> String {
        format!("oci:{}:{}", self.layout.display(), self.tag)
    }

    /// Returns the paths of its layers, lowest first.
    pub fn layers(&self) -> Result<Vec<PathBuf>> {
        let blobs = self.layout.join("blobs/sha256");
        let path_of = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            blobs.join(digest.trim_start_matches("sha256:"))
        };
        let index = read_json(&self.layout.join("index.json"))?;
        let manifest = read_json(&path_of(&index["manifests"][0]))?;
        let layers = manifest["layers"]
            .as_array()
            .context("a manifest without layers")?;
        Ok(layers.iter().map(path_of).collect())
    }
}

/// Makes (once) the image that says hello: a minimal Debian, a layer with a program, and a layer
/// that removes and replaces.
pub fn demo(fixtures: &Fixtures) -> Result<DebianImage> {
    let base = base_tar(fixtures, &[])?;
    let upper = [
        vec![
            Entry::file("etc/hostname", "kiln-demo\n"),
            Entry::file("etc/kiln-demo", "one layer\n"),
            Entry::file("etc/motd", "replaced below\n"),
            Entry::file("usr/bin/kiln-demo", DEMO_PROGRAM).mode(0o755),
        ],
        vec![
            Entry::whiteout("etc/motd"),
            Entry::whiteout("usr/share/doc"),
            Entry::opaque("usr/share/man"),
            Entry::file("etc/kiln-demo", format!("{DEMO_REPLACED}\n")),
        ],
    ];
    let config = json!({
        "User": "www-data",
        "WorkingDir": "/srv",
        "Env": [PATH],
        "Entrypoint": ["kiln-demo"],
        "Cmd": ["the", "image's", "own", "words"],
    });
    let recipe = format!("demo 2 {} {upper:?} {config}", key(&base));
    image(fixtures, "demo", &recipe, config, |layout| {
        let mut layers = vec![layout.add_archive(open(&base)?, Compression::Gzip)?];
        for entries in &upper {
            layers.push(layout.add_layer(entries, Compression::Gzip)?);
        }
        Ok(layers)
    })
}

/// Makes (once) an image like the one that Debian publishes: a minimal tree in one layer, and a
/// shell.
pub fn official(fixtures: &Fixtures) -> Result<DebianImage> {
    let base = base_tar(fixtures, &[])?;
    let config = json!({"Cmd": ["bash"], "Env": [PATH]});
    let recipe = format!("official 1 {} {config}", key(&base));
    image(fixtures, "official", &recipe, config, |layout| {
        Ok(vec![layout.add_archive(open(&base)?, Compression::Gzip)?])
    })
}

/// Makes (once) the image that benchmarks pull: about 400 MB of gzip, 1.2 GB of tar and 38,000
/// entries in a minimal Debian, a large second layer and a small one of oddities.
pub fn benchmark(fixtures: &Fixtures) -> Result<DebianImage> {
    let base = base_tar(fixtures, &[])?;
    let large = base_tar(fixtures, BENCHMARK_PACKAGES)?;
    let recipe = format!("benchmark 1 {} {}", key(&base), key(&large));
    let config = json!({"Cmd": ["/bin/sh"], "Env": [PATH]});
    image(fixtures, "benchmark", &recipe, config, |layout| {
        let added = layout.folder().join("added.tar");
        write_added(&base, &large, &added)?;
        let layers = vec![
            layout.add_archive(open(&base)?, Compression::Gzip)?,
            layout.add_archive(open(&added)?, Compression::Gzip)?,
            layout.add_layer(&torture::small_layer(), Compression::Gzip)?,
        ];
        fs::remove_file(&added).with_context(|| added.display().to_string())?;
        Ok(layers)
    })
}

/// Makes (once) a Debian tree as a tar file, with `packages` beyond the minimum.
pub fn base_tar(fixtures: &Fixtures, packages: &[&str]) -> Result<PathBuf> {
    let packages = packages.join(",");
    let recipe = format!("mmdebstrap 1 {SUITE} minbase {packages}");
    let folder = fixtures.obtain(&format!("debian-{SUITE}"), &recipe, |folder| {
        let mut command = process::command(tools::require(tools::MMDEBSTRAP)?);
        command.args(["--variant=minbase", "--format=tar"]);
        if !packages.is_empty() {
            command.arg(format!("--include={packages}"));
        }
        command.arg(SUITE).arg(folder.join("base.tar"));
        process::run(command, LIMIT)?;
        Ok(())
    })?;
    Ok(folder.join("base.tar"))
}

fn image(
    fixtures: &Fixtures,
    tag: &'static str,
    recipe: &str,
    config: Value,
    layers: impl FnOnce(&Layout) -> Result<Vec<Layer>>,
) -> Result<DebianImage> {
    let layout = fixtures.obtain(&format!("image-{tag}"), recipe, |folder| {
        let mut layout = Layout::create(folder)?;
        let layers = layers(&layout)?;
        let image = layout.add_image_with(&layers, &Platform::linux(architecture()), config)?;
        layout.tag(tag, &image)
    })?;
    Ok(DebianImage { layout, tag })
}

/// The name of the fixture that holds `path`, which names its recipe.
fn key(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    folder.to_string_lossy().into_owned()
}

fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("no JSON in {}", path.display()))
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

/// Writes what `large` has beyond `base` as an archive of its own: every entry that `base` does
/// not have with the same headers.
fn write_added(base: &Path, large: &Path, added: &Path) -> Result<()> {
    let mut known = HashSet::new();
    each_entry(base, |heads, _| {
        known.insert(Sha256::digest(heads));
        Ok(())
    })?;
    let file = File::create(added).with_context(|| added.display().to_string())?;
    let mut output = BufWriter::with_capacity(1 << 20, file);
    each_entry(large, |heads, body| {
        if known.contains(&Sha256::digest(heads)) {
            return Ok(());
        }
        output.write_all(heads)?;
        let length = std::io::copy(body, &mut output)?;
        let padding = length.next_multiple_of(512) - length;
        output.write_all(&vec![0; usize::try_from(padding)?])?;
        Ok(())
    })?;
    entry::write_end(&mut output)?;
    output.flush().context("cannot write a layer")
}

/// Calls `visit` with each entry's headers, extensions included, and its body.
fn each_entry(
    path: &Path,
    mut visit: impl FnMut(&[u8], &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut archive = Archive::new(open(path)?);
    let mut heads = Vec::new();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        heads.extend_from_slice(entry.header().as_bytes());
        let is_extension = matches!(
            entry.header().entry_type(),
            EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink
        );
        if is_extension {
            entry.read_to_end(&mut heads)?;
            heads.resize(heads.len().next_multiple_of(512), 0);
        } else {
            visit(&heads, &mut entry)?;
            heads.clear();
        }
    }
    Ok(())
}
