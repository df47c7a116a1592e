//! What a machine of an image may use: slots, quantities, and which of several sayings wins.
//!
//! ```text
//! built-in ◀─ daemon's configuration ◀─ labels of the image ◀─ custom limits
//! ```
//! For each slot the one furthest to the right decides. Holding a machine to them is not here.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::size::UNITS;
use crate::states::{WordError, words};
use crate::text::serde_through_text;

/// Labels that begin so set a limit: `dev.kiln.limits.memory=2G`.
pub const LABEL_PREFIX: &str = "dev.kiln.limits.";

/// Processors of a machine whose image says nothing.
pub const DEFAULT_CPUS: u32 = 1;

/// Memory of a machine whose image says nothing, in bytes.
pub const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

/// Most slots that one image may limit; hosts have a handful of kinds of things to hand out.
pub const SLOTS_MAX: usize = 32;

/// Longest name of a slot, in bytes.
const SLOT_NAME_MAX: usize = 64;

/// The slot of processors.
const CPU: &str = "cpu";

/// The slot of memory.
const MEMORY: &str = "memory";

/// Most processors of any machine, as monitors have it.
const CPUS_MAX: u64 = 255;

/// Least memory of a machine, in bytes: a kernel boots in no less.
const MEMORY_MIN: u64 = 64 << 20;

/// Most memory of a machine, in bytes.
const MEMORY_MAX: u64 = 1 << 40;

/// Parts that a quantity counts of one whole.
const SCALE: u64 = 1_000;

/// Why a text is no slot, no quantity, or not a quantity of that slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// It does not follow the grammar of slots.
    #[error(
        "{text:?} is not the name of a slot: 1 to {SLOT_NAME_MAX} lower-case letters, digits and \
         single . _ - between them, a letter first"
    )]
    Slot {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// It is not a number with a unit.
    #[error("{text:?} is not a quantity such as 4, 1.5, 8G or 512Mi")]
    Quantity {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// It is beyond what 64 bits of thousandths hold, or finer than a thousandth.
    #[error("{text:?} is too large a quantity, or not a whole number of thousandths")]
    Range {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// No machine could have so much, or so little.
    #[error("{slot} cannot be {value}: it is {allowed}")]
    Impossible {
        /// The slot.
        slot: SlotName,
        /// What was asked for.
        value: Quantity,
        /// What can be.
        allowed: &'static str,
    },
}

/// The name of something that is handed out to machines, such as `cpu`, `memory` or `gpu`.
///
/// Invariant: 1 to 64 lower-case ASCII letters and digits with single `.`, `_` or `-` between
/// them, a letter first. It needs no escaping as the end of a label's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

impl SlotName {
    /// Borrows the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Processors.
    pub fn cpu() -> Self {
        Self(CPU.to_owned())
    }

    /// Memory, in bytes.
    pub fn memory() -> Self {
        Self(MEMORY.to_owned())
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for SlotName {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_word = |part: &str| !part.is_empty() && part.chars().all(plain);
        let is_name = text.len() <= SLOT_NAME_MAX
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.split(['.', '_', '-']).all(is_word);
        if is_name {
            return Ok(Self(text.to_owned()));
        }
        Err(LimitError::Slot { text: shown(text) })
    }
}

serde_through_text!(SlotName);

/// How much of a slot: a count, or a number of bytes.
///
/// Text form: a decimal number, then a unit or none. `kB`, `MB`, `GB`, `TB` are decimal; `KiB`,
/// `Ki` and a bare `K`, and so with `M`, `G`, `T`, binary. Case does not matter. `4` is four,
/// `8G` is 8 × 2³⁰, `1.5` is one and a half; nothing is finer than a thousandth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(u64);

impl Quantity {
    /// Takes a whole number; `None` where it is beyond what a quantity holds.
    pub fn whole(count: u64) -> Option<Self> {
        count.checked_mul(SCALE).map(Self)
    }

    /// Returns the smallest whole number that is not below it.
    pub fn rounded_up(self) -> u64 {
        self.0.div_ceil(SCALE)
    }

    fn is_whole(self) -> bool {
        self.0.is_multiple_of(SCALE)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            return f.pad(&(self.0 / SCALE).to_string());
        }
        let text = format!("{}.{:03}", self.0 / SCALE, self.0 % SCALE);
        f.pad(text.trim_end_matches('0'))
    }
}

impl FromStr for Quantity {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || LimitError::Quantity { text: shown(text) };
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| c != '.' && !c.is_ascii_digit());
        let (number, unit) = trimmed.split_at(end.unwrap_or(trimmed.len()));
        let unit = unit.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, factor) = unit.ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_broken = whole.is_empty() || number.ends_with('.') || fraction.len() > 9;
        if is_broken || fraction.contains('.') {
            return Err(wrong());
        }
        thousandths(whole, fraction, *factor)
            .map(Self)
            .ok_or_else(|| LimitError::Range { text: shown(text) })
    }
}

fn thousandths(whole: &str, fraction: &str, factor: u64) -> Option<u64> {
    let unit = u128::from(factor).checked_mul(u128::from(SCALE))?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let number = u128::from(whole.parse::<u64>().ok()?).checked_mul(scale)?;
    let total = number.checked_add(part)?.checked_mul(unit)?;
    if !total.is_multiple_of(scale) {
        return None;
    }
    u64::try_from(total / scale).ok()
}

impl Serialize for Quantity {
    /// Writes a number: whole ones as such, others with their thousandths.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_whole() {
            return serializer.serialize_u64(self.0 / SCALE);
        }
        match self.to_string().parse::<f64>() {
            Ok(number) => serializer.serialize_f64(number),
            Err(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// Reads a number, or a text of the form above.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 4, 1.5, \"8G\" or \"512Mi\"")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Quantity, E> {
                let wrong = || E::invalid_value(Unexpected::Unsigned(value), &self);
                Quantity::whole(value).ok_or_else(wrong)
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Quantity, E> {
                let count = u64::try_from(value).ok().and_then(Quantity::whole);
                count.ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Quantity, E> {
                value.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Quantity, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer
            .deserialize_any(Either)
            .map_err(D::Error::custom)
    }
}

/// Limits by slot.
pub type Limits = BTreeMap<SlotName, Quantity>;

words! {
    /// Who set a limit.
    Origin, "an origin of limits" {
        /// Kiln, for images of which nobody says anything.
        BuiltIn = "built-in",
        /// The configuration of this daemon.
        Daemon = "daemon",
        /// A label of the image.
        Label = "label",
        /// A caller, for this image.
        Custom = "custom",
    }
}

/// A limit that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// How much.
    pub value: Quantity,
    /// Who set it.
    pub origin: Origin,
}

/// What holds for an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// The limits by slot.
    pub limits: BTreeMap<SlotName, InForce>,
    /// Keys of labels that should have set one and say nothing that can be.
    pub ignored: Vec<String>,
}

/// Refuses a quantity that no machine could have of a slot. Of slots that Kiln does not know,
/// anything can be.
pub fn check(slot: &SlotName, value: Quantity) -> Result<(), LimitError> {
    let (can_be, allowed) = match slot.as_str() {
        CPU => {
            let can_be = value.0 > 0 && value.rounded_up() <= CPUS_MAX;
            (can_be, "a number of processors above 0 and up to 255")
        }
        MEMORY => {
            let fits = (MEMORY_MIN..=MEMORY_MAX).contains(&value.rounded_up());
            let allowed = "a whole number of bytes from 64M to 1T; write 8G for 8 GiB";
            (value.is_whole() && fits, allowed)
        }
        _ => return Ok(()),
    };
    if can_be {
        return Ok(());
    }
    Err(LimitError::Impossible {
        slot: slot.clone(),
        value,
        allowed,
    })
}

/// Decides what holds, of the daemon's limits, an image's labels and its custom limits.
pub fn effective<'l>(
    daemon: &Limits,
    labels: impl IntoIterator<Item = (&'l str, &'l str)>,
    custom: &Limits,
) -> Effective {
    let mut found = Effective::default();
    found.set(SlotName::cpu(), built_in(DEFAULT_CPUS.into()));
    found.set(SlotName::memory(), built_in(DEFAULT_MEMORY_BYTES));
    for (slot, value) in daemon {
        found.set(slot.clone(), in_force(*value, Origin::Daemon));
    }
    for (key, text) in labels {
        let Some(slot) = key.strip_prefix(LABEL_PREFIX) else {
            continue;
        };
        match said(slot, text) {
            Ok((slot, value)) => found.set(slot, in_force(value, Origin::Label)),
            Err(_) => found.ignored.push(key.to_owned()),
        }
    }
    for (slot, value) in custom {
        found.set(slot.clone(), in_force(*value, Origin::Custom));
    }
    found
}

impl Effective {
    fn set(&mut self, slot: SlotName, limit: InForce) {
        self.limits.insert(slot, limit);
    }
}

fn built_in(count: u64) -> InForce {
    in_force(Quantity(count.saturating_mul(SCALE)), Origin::BuiltIn)
}

fn in_force(value: Quantity, origin: Origin) -> InForce {
    InForce { value, origin }
}

fn said(slot: &str, text: &str) -> Result<(SlotName, Quantity), LimitError> {
    let (slot, value) = (slot.parse::<SlotName>()?, text.parse::<Quantity>()?);
    check(&slot, value)?;
    Ok((slot, value))
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
