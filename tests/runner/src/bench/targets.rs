//! What the figures should be: each promise with its limit, and whether this run kept it.
//!
//! Limits are ratios to other rows of the same run wherever that is possible, since wall times of
//! a shared machine mean little by themselves.

use std::time::Duration;

use super::Figures;
use super::kiln::Pulled;

/// Memory a build may take whatever its size, and for each entry, in bytes.
const MEMORY_BYTES: u64 = 64 << 20;
const MEMORY_BYTES_PER_ENTRY: u64 = 160;

/// One promise and how it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) promise: &'static str,
    /// What was measured, in the unit of the limit.
    pub(super) measured: f64,
    pub(super) limit: f64,
    pub(super) unit: &'static str,
}

impl Target {
    pub(super) fn is_kept(&self) -> bool {
        self.measured <= self.limit
    }
}

/// Returns every promise about these rows.
pub(super) fn all(figures: &Figures) -> Vec<Target> {
    let (kiln, others) = (&figures.kiln, &figures.others);
    let cold = &kiln.cold;
    let decode = others.decode.processor;
    let (_, packed) = cold.stages_cost(&["resolve", "fetch"]);
    let wall = cold.wall_without_syncs();
    let (syncs, _) = cold.stages_cost(&["publish"]);
    let memory = MEMORY_BYTES + MEMORY_BYTES_PER_ENTRY * figures.subject.entries;
    let beyond_blobs = cold
        .cost
        .written_bytes
        .saturating_sub(figures.subject.blob_bytes);
    let mut targets = vec![
        ratio(
            "cold: CPU until the packs are complete, to inflate and SHA-256 alone",
            packed,
            decode,
            1.6,
        ),
        ratio(
            "cold: CPU in all, to inflate and SHA-256 alone",
            cold.cost.processor,
            decode,
            2.0,
        ),
        ratio(
            "cold: wall without the syncs, to skopeo + umoci + mkfs.ext4",
            wall,
            others.three().wall,
            0.30,
        ),
        ratio(
            "cold: wall without the syncs, to gzip -dc",
            wall,
            others.gzip.wall,
            0.85,
        ),
        ratio(
            "cold: the syncs, to dd conv=fsync",
            syncs,
            others.sync.wall,
            1.15,
        ),
        Target {
            promise: "cold: peak memory",
            measured: mib(cold.cost.peak_memory_bytes),
            limit: mib(memory),
            unit: "MiB",
        },
        Target {
            promise: "cold: bytes written beyond the blobs, to the finished image's",
            measured: quotient(mib(beyond_blobs), mib(figures.subject.allocated_bytes)),
            limit: 2.2,
            unit: "×",
        },
    ];
    let mut to_copy = |promise, pulled: &Pulled| {
        targets.push(ratio(
            promise,
            pulled.wall_without_syncs(),
            others.copy.wall,
            1.5,
        ));
    };
    to_copy(
        "layers cached: wall without the syncs, to cp of the image",
        &kiln.cached,
    );
    to_copy(
        "same digest: wall without the syncs, to cp of the image",
        &kiln.same,
    );
    targets.push(Target {
        promise: "layers cached and same digest: blobs fetched again",
        measured: u32::try_from(kiln.fetched_again).map_or(f64::INFINITY, f64::from),
        limit: 0.0,
        unit: "",
    });
    targets
}

fn ratio(promise: &'static str, ours: Duration, theirs: Duration, limit: f64) -> Target {
    Target {
        promise,
        measured: quotient(ours.as_secs_f64(), theirs.as_secs_f64()),
        limit,
        unit: "×",
    }
}

/// Divides; nothing can be promised against a row that took no time at all.
fn quotient(value: f64, base: f64) -> f64 {
    if base > 0.0 {
        value / base
    } else {
        f64::INFINITY
    }
}

fn mib(bytes: u64) -> f64 {
    // Exact for any size that a disk has: below 2^52 KiB.
    u32::try_from(bytes >> 10).map_or(f64::INFINITY, |kib| f64::from(kib) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_up_to_its_limit() {
        let second = Duration::from_secs(1);
        let cases = [(second, 1.0, true), (second * 2, 1.0, false)];
        for (ours, limit, want) in cases {
            assert_eq!(ratio("p", ours, second, limit).is_kept(), want);
        }
        assert!(!ratio("p", second, Duration::ZERO, 5.0).is_kept());
    }

    #[test]
    fn sizes_are_in_mib() {
        assert_eq!(mib(3 << 19).to_string(), "1.5");
    }
}
