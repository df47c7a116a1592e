//! The users of the daemon: `user.*`.

use kiln_domain::access::{Role, Standing};
use kiln_domain::{OrgId, OrgName, UserName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::method::method;
use crate::page::Page;

method! {
    /// See [`Whoami`].
    GetWhoami = "user.whoami",
    "Tells who the caller is to the daemon.",
    (WhoamiParams) -> Whoami, Read, []
}

method! {
    /// See [`User`].
    List = "user.list",
    "Lists the users the daemon knows, by uid.",
    (ListParams) -> Page<User>, Oversee, [codes::request::DENIED]
}

method! {
    /// See [`User`].
    Get = "user.get",
    "Tells about one user: the caller, or for a superadmin anybody.",
    (UserParams) -> User, Read, [codes::user::NOT_FOUND, codes::request::DENIED]
}

method! {
    /// See [`AddParams`].
    Add = "user.add",
    "Enters a user whom the daemon has not seen yet; one it knows stays as it is.",
    (AddParams) -> Added, Administer, [codes::user::NAME_TAKEN, codes::request::DENIED]
}

method! {
    /// See [`SetRoleParams`].
    SetRole = "user.set_role",
    "Makes a user a superadmin, an agent, or a user like everybody.",
    (SetRoleParams) -> User, Administer,
    [codes::user::NOT_FOUND, codes::user::ROLE_FIXED, codes::request::DENIED]
}

method! {
    /// See [`RenameParams`].
    Rename = "user.rename",
    "Says what to call a user, or takes the name away.",
    (RenameParams) -> User, Administer,
    [codes::user::NOT_FOUND, codes::user::NAME_TAKEN, codes::request::DENIED]
}

method! {
    /// See [`User`].
    Remove = "user.remove",
    "Removes a user of whom nothing is on record; audit lines stay.",
    (UserParams) -> User, Administer,
    [codes::user::NOT_FOUND, codes::user::IN_USE, codes::request::DENIED]
}

/// Takes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhoamiParams {}

/// Which users to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserParams {
    /// The uid, or what the daemon calls the user.
    pub user: String,
}

/// Which user to enter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddParams {
    /// The user id on the daemon's host.
    pub uid: u32,
    /// What to call the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub name: Option<UserName>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Added {
    /// The user.
    pub user: User,
    /// The daemon knew the user; nothing was changed.
    pub already_known: bool,
}

/// Which user to give which role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRoleParams {
    /// The uid, or what the daemon calls the user.
    pub user: String,
    /// `superadmin`, `user` or `agent`. Nobody is made `admin` here: that is who administers an
    /// organisation, see `org.add_member`.
    #[schemars(with = "String")]
    pub role: Role,
}

/// Which user to call what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameParams {
    /// The uid, or what the daemon calls the user.
    pub user: String,
    /// What to call the user from now on; nothing takes the name away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub name: Option<UserName>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// The user id on the daemon's host.
    pub uid: u32,
    /// What the daemon calls the user, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub name: Option<UserName>,
    /// What the user is to the daemon: `superadmin`, `admin` (of an organisation), `user`, `agent`.
    #[schemars(with = "String")]
    pub role: Role,
    /// The organisations the user is in.
    pub organizations: Vec<Membership>,
    /// When the user first called, or was entered.
    pub first_seen_at: String,
}

/// An organisation a user is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Membership {
    /// Its id.
    #[schemars(with = "String")]
    pub id: OrgId,
    /// Its name.
    #[schemars(with = "String")]
    pub name: OrgName,
    /// How the user stands there: `member` or `admin`.
    #[schemars(with = "String")]
    pub standing: Standing,
}

/// Who the caller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Whoami {
    /// As events and audit lines name the caller: `unix:<uid>`.
    pub actor: String,
    /// The user id, as the kernel tells it.
    pub uid: u32,
    /// The group id, as the kernel tells it.
    pub gid: u32,
    /// What the daemon calls the user, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub name: Option<UserName>,
    /// What the user is to the daemon: `superadmin`, `admin` (of an organisation), `user`, `agent`.
    #[schemars(with = "String")]
    pub role: Role,
    /// The organisations the user is in.
    pub organizations: Vec<Membership>,
    /// The caller is root or the daemon's own user: it may name files of the host by path.
    pub may_name_host_paths: bool,
}
