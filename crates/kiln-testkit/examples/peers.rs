//! Prints what the programs Kiln is compared with cost on the benchmark's image, as Markdown:
//! `cargo run --release -p kiln-testkit --example peers`.

use std::io::{self, Write};

use anyhow::Result;
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::debian;
use kiln_testkit::measure::{self, Row};
use kiln_testkit::peers;
use kiln_testkit::registry::{Access, Registry, Transport};

fn main() -> Result<()> {
    let fixtures = Fixtures::shared()?;
    let image = debian::benchmark(&fixtures)?;
    let folder = tempfile::tempdir_in(fixtures.root())?;
    let bundle = folder.path().join("bundle");
    let rootfs = folder.path().join("rootfs.ext4");

    let registry = Registry::start(Access::Anonymous, Transport::Http)?;
    let reference = registry.push(&image.source(), "benchmark:1")?;

    let mut rows = Vec::new();
    let mut add = |name: &str, cost| {
        let name = name.to_owned();
        rows.push(Row { name, cost });
    };
    add("gzip -dc of the layers", peers::decompress(&image)?);
    add(
        "skopeo copy",
        peers::fetch(&reference, &folder.path().join("fetched"))?,
    );
    add("umoci unpack", peers::unpack(&image, &bundle)?);
    add(
        "mkfs.ext4 -d",
        peers::make_filesystem(&bundle.join("rootfs"), &rootfs, 2 << 30)?,
    );
    add(
        "cp of the image",
        peers::copy(&rootfs, &folder.path().join("copy"))?,
    );
    write!(io::stdout(), "{}", measure::table(&rows))?;
    Ok(())
}
