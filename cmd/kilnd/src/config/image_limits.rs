//! `[images.limits]`: what machines of images get that say nothing themselves.

use kiln_domain::limits::{self, Limits};

use super::{ConfigError, Valued};

/// Refuses what no machine could have.
pub(super) fn check(limits: &Valued<Limits>) -> Result<(), ConfigError> {
    for (slot, value) in &limits.value {
        limits::check(slot, *value).map_err(|source| ConfigError::Limit {
            origin: limits.origin.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Shows them as `kiln info --config` does.
pub(super) fn shown(limits: &Limits) -> String {
    let pairs = limits.iter().map(|(slot, value)| format!("{slot}={value}"));
    format!("{:?}", pairs.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::*;

    fn read(text: &str) -> Option<Valued<Limits>> {
        let file: File = toml::from_str(&format!("[images.limits]\n{text}\n")).ok()?;
        let limits = Valued::default(file.images.limits?);
        check(&limits).ok()?;
        Some(limits)
    }

    #[test]
    fn they_are_read_by_the_rule_of_limits() {
        let limits = read("cpu = 1.5\nmemory = \"1G\"\ngpu = 0").unwrap();
        let want = r#"["cpu=1.5", "gpu=0", "memory=1073741824"]"#;
        assert_eq!(shown(&limits.value), want);

        for wrong in [
            "memory = 4",
            "memory = \"lots\"",
            "CPU = 1",
            "cpu = -1",
            "cpu = true",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
