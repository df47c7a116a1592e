//! Logins that the daemon keeps for work without a caller: `registry.login`, `registry.logout`,
//! `registry.logins`. For superadmins only. No secret ever comes back.

use kiln_domain::{LoginScope, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::image::Credentials;
use crate::method::method;

method! {
    /// See [`LoginParams`].
    Login = "registry.login",
    "Keeps a login to a registry, encrypted, for work that has no caller, such as webhooks. The registry is asked first.",
    (LoginParams) -> KeptLogin, Administer,
    [codes::request::DENIED, codes::registry::LOGIN_UNREADABLE] + codes::REACHING_A_REGISTRY
}

method! {
    /// See [`LogoutParams`].
    Logout = "registry.logout",
    "Forgets a login that the daemon keeps.",
    (LogoutParams) -> LoggedOut, Administer,
    [codes::request::DENIED, codes::registry::NOT_LOGGED_IN]
}

method! {
    /// See [`KeptLogins`].
    Logins = "registry.logins",
    "Lists the logins that the daemon keeps, without their secrets.",
    (LoginsParams) -> KeptLogins, Oversee,
    [codes::request::DENIED]
}

/// A login to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginParams {
    /// Where it counts: a registry, or a namespace in one. The longest match wins.
    #[schemars(with = "String")]
    pub registry: LoginScope,
    /// The login. Its secret is kept encrypted and logged nowhere.
    pub credentials: Credentials,
    /// Keep it without asking the registry whether it takes it.
    #[serde(default)]
    pub unchecked: bool,
}

/// A login to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogoutParams {
    /// Where it counts, exactly as it was kept.
    #[schemars(with = "String")]
    pub registry: LoginScope,
}

/// Takes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginsParams {}

/// A login that is kept, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptLogin {
    /// Where it counts.
    #[schemars(with = "String")]
    pub registry: LoginScope,
    /// Who it is of; `<token>` for an identity token.
    pub username: String,
    /// Who made it.
    pub created_by_uid: u32,
    /// When.
    #[schemars(with = "String")]
    pub created_at: Timestamp,
    /// Whether the registry took it when it was made; absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<bool>,
    /// Why the daemon cannot read it: its key is lost, or is another one. To log in again mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The logins there are, by where they count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptLogins {
    /// All of them.
    pub items: Vec<KeptLogin>,
}

/// A login that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoggedOut {
    /// Where it counted.
    #[schemars(with = "String")]
    pub registry: LoginScope,
}
