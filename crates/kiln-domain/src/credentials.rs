//! What proves to a registry who is asking.
//!
//! Not here: finding credentials on a host, and sending them.

use std::fmt;

/// A text that must not be seen: `Debug` prints `***`, and there is no `Display` and no serde.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Proof of identity for one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A user name with a password or an access token.
    Password {
        /// The user's name.
        username: String,
        /// The password.
        secret: Secret,
    },
    /// A token that is exchanged for access tokens (OAuth 2 refresh token), which some
    /// credential helpers hand out under the user name `<token>`.
    IdentityToken(Secret),
}

impl Secret {
    /// Takes the text into custody.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let secret = || Secret::new("hunter2".to_owned());
        let password = Credentials::Password {
            username: "ada".to_owned(),
            secret: secret(),
        };

        assert_eq!(
            format!("{password:?}"),
            r#"Password { username: "ada", secret: *** }"#
        );
        assert_eq!(
            format!("{:?}", Credentials::IdentityToken(secret())),
            "IdentityToken(***)"
        );
        assert_eq!(secret().expose(), "hunter2");
    }
}
