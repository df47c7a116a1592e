//! Organisations and who is in them: `org.*`.

use kiln_domain::access::Standing;
use kiln_domain::{OrgId, OrgName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::method::method;
use crate::page::Page;

method! {
    /// See [`Org`].
    List = "org.list",
    "Lists organisations in the order of their making: the caller's own, or all for a superadmin.",
    (ListParams) -> Page<Org>, Read, []
}

method! {
    /// See [`Org`].
    Get = "org.get",
    "Tells about an organisation and who is in it, to those who are and to superadmins.",
    (OrgParams) -> Org, Read, [codes::org::NOT_FOUND, codes::request::DENIED]
}

method! {
    /// See [`AddParams`].
    Add = "org.add",
    "Makes an organisation.",
    (AddParams) -> Org, Administer, [codes::org::ALREADY_EXISTS, codes::request::DENIED]
}

method! {
    /// See [`Org`].
    Remove = "org.remove",
    "Removes an organisation to which no image belongs.",
    (OrgParams) -> Org, Administer,
    [codes::org::NOT_FOUND, codes::org::IN_USE, codes::request::DENIED]
}

method! {
    /// See [`AddMemberParams`].
    AddMember = "org.add_member",
    "Puts a user into an organisation, or changes how one stands there.",
    (AddMemberParams) -> Changed, Lead,
    [
        codes::org::NOT_FOUND, codes::org::TOO_MANY, codes::user::NOT_FOUND,
        codes::request::DENIED,
    ]
}

method! {
    /// See [`MemberParams`].
    RemoveMember = "org.remove_member",
    "Takes a user out of an organisation; the images the user made for it stay its own.",
    (MemberParams) -> Changed, Lead,
    [codes::org::NOT_FOUND, codes::user::NOT_FOUND, codes::request::DENIED]
}

/// Which organisations to list.
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

/// Which organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrgParams {
    /// Its name or id.
    pub org: String,
}

/// Which organisation to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddParams {
    /// Its name.
    #[schemars(with = "String")]
    pub name: OrgName,
}

/// Which user to put into which organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddMemberParams {
    /// The organisation's name or id.
    pub org: String,
    /// The uid, which need not be known yet, or what the daemon calls the user.
    pub user: String,
    /// `member` or `admin`.
    #[schemars(with = "String")]
    pub standing: Standing,
}

/// Which user in which organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberParams {
    /// The organisation's name or id.
    pub org: String,
    /// The uid, or what the daemon calls the user.
    pub user: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// The organisation as it is now.
    pub org: Org,
    /// Something was changed; false when it was so before.
    pub changed: bool,
}

/// An organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Org {
    /// Its id.
    #[schemars(with = "String")]
    pub id: OrgId,
    /// Its name.
    #[schemars(with = "String")]
    pub name: OrgName,
    /// Who is in it, by uid.
    pub members: Vec<Member>,
    /// When it was made.
    pub created_at: String,
    /// The user who made it.
    pub created_by_uid: u32,
}

/// A user in an organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// The user.
    pub uid: u32,
    /// What the daemon calls the user, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `member` or `admin`.
    #[schemars(with = "String")]
    pub standing: Standing,
    /// Since when.
    pub added_at: String,
}
