//! Other spellings of parameters: what other image services call the same thing.
//!
//! One table, from which the door rewrites calls and the documents are printed. A method that takes
//! an image by any name calls it `image`; the rest is taken too, so that programs written for other
//! services need no change. A method that takes an id alone has a parameter of its own for it.

/// A parameter of a method with what else it may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelling {
    /// The method.
    pub method: &'static str,
    /// What the parameter is called.
    pub parameter: &'static str,
    /// What it may be called instead.
    pub others: &'static [&'static str],
}

/// Among other words, the one for an image's id: what it says must be one.
pub const ID: &str = "image_id";

/// What an image that is named in any way may be called.
const ANY_IMAGE: &[&str] = &["reference", "image_name", "image_canonical", "target", ID];

/// What an alias's target may be called.
const ANY_TARGET: &[&str] = &["image_canonical", "image_name", "image", "reference", ID];

const fn image(method: &'static str) -> Spelling {
    Spelling {
        method,
        parameter: "image",
        others: ANY_IMAGE,
    }
}

const fn agent(method: &'static str) -> Spelling {
    Spelling {
        method,
        parameter: "agent",
        others: &["agent_id"],
    }
}

/// Every method with a parameter that may be called otherwise.
pub const TABLE: &[Spelling] = &[
    image("image.get"),
    image("image.open"),
    image("image.push"),
    image("image.forget"),
    image("image.restore"),
    image("image.lease"),
    image("image.modify"),
    image("image.limits"),
    image("image.clear_limits"),
    image("image.history"),
    image("image.scan"),
    image("image.untag"),
    image("alias.list"),
    image("instance.register"),
    agent("agent.get"),
    agent("agent.remove"),
    agent("agent.ping"),
    Spelling {
        method: "image.alias",
        parameter: "target",
        others: ANY_TARGET,
    },
];

/// Returns what a method's parameter may be called otherwise, if one may.
pub fn of(method: &str) -> Option<Spelling> {
    TABLE.iter().copied().find(|one| one.method == method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_method_is_there_twice_and_no_word_means_itself() {
        for (n, one) in TABLE.iter().enumerate() {
            assert!(!one.others.contains(&one.parameter), "{one:?}");
            assert!(TABLE[..n].iter().all(|other| other.method != one.method));
        }
    }
}
