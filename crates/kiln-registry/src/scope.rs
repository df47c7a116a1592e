//! What a request is about, and so which rights its token needs.
//!
//! The scopes are ours: what a challenge asks for is not looked at, so a registry cannot make us
//! fetch a token for more (distribution's token specification, "Token Scope Documentation").

/// What is asked for where nothing but who asks matters.
pub(crate) const ANYTHING: &str = "anything at all";

/// The part of a registry that a request concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// The registry itself; needs no right but to be known.
    Root,
    /// The list of repositories.
    Catalog,
    /// Reading a repository.
    Pull(&'a str),
    /// Writing to a repository, which needs reading too.
    Push(&'a str),
    /// Deleting from a repository, which needs reading too.
    Delete(&'a str),
    /// Writing to a repository what another of the same registry has.
    Mount {
        /// Where it is.
        from: &'a str,
        /// Where it is to be.
        into: &'a str,
    },
}

impl Scope<'_> {
    /// Lists the scopes a token needs.
    pub(crate) fn of_token(self) -> Vec<String> {
        match self {
            Self::Root => Vec::new(),
            Self::Catalog => vec!["registry:catalog:*".to_owned()],
            Self::Pull(name) => vec![format!("repository:{name}:pull")],
            Self::Push(name) => vec![format!("repository:{name}:pull,push")],
            Self::Delete(name) => vec![format!("repository:{name}:pull,delete")],
            Self::Mount { from, into } => vec![
                format!("repository:{into}:pull,push"),
                format!("repository:{from}:pull"),
            ],
        }
    }

    /// Names what is asked for, in messages.
    pub(crate) fn subject(self) -> String {
        match self {
            Self::Root => ANYTHING.to_owned(),
            Self::Catalog => "its catalogue".to_owned(),
            Self::Pull(name) | Self::Delete(name) => name.to_owned(),
            Self::Push(name) | Self::Mount { into: name, .. } => format!("pushing to {name}"),
        }
    }
}
