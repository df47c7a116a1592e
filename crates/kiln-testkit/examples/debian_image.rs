//! Makes a real Debian image and prints where it is, for skopeo and Kiln to read:
//! `cargo run --release -p kiln-testkit --example debian_image -- demo|benchmark`.

use std::io::{self, Write};
use std::time::Instant;

use anyhow::{Result, bail};
use kiln_testkit::fixtures::Fixtures;
use kiln_testkit::images::debian;

fn main() -> Result<()> {
    let fixtures = Fixtures::shared()?;
    let start = Instant::now();
    let image = match std::env::args().nth(1).as_deref() {
        Some("demo") => debian::demo(&fixtures)?,
        Some("benchmark") => debian::benchmark(&fixtures)?,
        other => bail!("demo or benchmark? got {other:?}"),
    };
    writeln!(io::stderr(), "ready after {:.1?}", start.elapsed())?;
    writeln!(io::stdout(), "{}", image.source())?;
    Ok(())
}
