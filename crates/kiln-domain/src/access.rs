//! Who may do what: a pure decision over an actor, an act, and what an object belongs to.
//!
//! ```text
//! call ──▶ may_call(role, right)        the door, before a parameter is read
//!      ──▶ permit::<Act>(actor, object) the desk, over rows of the same transaction ──▶ Grant<Act>
//! ```
//! A function that changes something demands a [`Grant`], and only this module makes one. Where
//! roles and memberships are kept is not here.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use crate::Visibility;
use crate::states::{WordError, words};

words! {
    /// What a user is to this daemon.
    Role, "a role" {
        /// Everything: root, the daemon's own user, and whom one of them made so.
        Superadmin = "superadmin",
        /// An administrator of at least one organisation.
        OrgAdmin = "admin",
        /// Anybody else who may open the socket.
        User = "user",
        /// A machine, such as another daemon: it reads, and changes nothing of people's.
        Agent = "agent",
    }
}

words! {
    /// How a user stands in an organisation.
    Standing, "a standing" {
        /// Sees what the organisation's images show, and makes images for it.
        Member = "member",
        /// Looks after the organisation's images and members too.
        Admin = "admin",
    }
}

/// Who is calling, as the kernel told us (`SO_PEERCRED`, unix(7)), and what the store says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Actor {
    /// The peer's user id.
    pub uid: u32,
    /// The peer's group id.
    pub gid: u32,
    /// The peer's process id when it connected, where the kernel knows it.
    pub pid: Option<i32>,
    /// What the user id means to this daemon.
    pub role: Role,
    /// Whether the peer is root or the daemon's own user: no role of the store gives that.
    has_daemon_rights: bool,
}

impl Actor {
    /// Takes a peer as the kernel names it: root and the daemon's own user are superadmins,
    /// everybody else a user until [`Actor::in_role`] says more.
    pub fn from_peer(uid: u32, gid: u32, pid: Option<i32>, daemon_uid: u32) -> Self {
        let has_daemon_rights = uid == 0 || uid == daemon_uid;
        let role = if has_daemon_rights {
            Role::Superadmin
        } else {
            Role::User
        };
        Self {
            uid,
            gid,
            pid,
            role,
            has_daemon_rights,
        }
    }

    /// Gives the actor the role that the store has for it; root and the daemon's own user keep
    /// theirs whatever it says.
    #[must_use]
    pub fn in_role(self, role: Role) -> Self {
        if self.has_daemon_rights {
            return self;
        }
        Self { role, ..self }
    }

    /// Tells whether the actor's role is the kernel's word and not the store's.
    pub fn has_daemon_rights(&self) -> bool {
        self.has_daemon_rights
    }

    /// Tells whether the actor may name files of the host by path: only those whose rights the
    /// daemon shares, whatever role the store gives others. They open the file themselves and pass
    /// the descriptor.
    pub fn may_name_host_paths(&self) -> bool {
        self.has_daemon_rights
    }
}

/// What a method needs. Every method says which one; a table test holds each to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Looks at what is everybody's, at the caller's own, or at one object that is shown to it.
    Read,
    /// Makes something that will be the caller's, or an organisation's it is in.
    Make,
    /// Changes or removes an object of the caller's, or of an organisation it administers.
    Change,
    /// Changes who is in an organisation.
    Lead,
    /// Looks at what superadmins alone see.
    Oversee,
    /// Changes what superadmins alone change.
    Administer,
}

impl Right {
    /// Every right.
    pub const ALL: &'static [Self] = &[
        Self::Read,
        Self::Make,
        Self::Change,
        Self::Lead,
        Self::Oversee,
        Self::Administer,
    ];

    /// Tells whether what is done with it changes something.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Oversee)
    }

    /// Returns its name: what documents of the methods call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Make => "make",
            Self::Change => "change",
            Self::Lead => "lead",
            Self::Oversee => "oversee",
            Self::Administer => "administer",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Read | Self::Oversee => "see",
            Self::Make => "add to",
            Self::Change | Self::Lead | Self::Administer => "change",
        }
    }
}

/// Tells whether a role may call methods that need a right, as far as that can be told before an
/// object is known.
pub fn may_call(role: Role, right: Right) -> bool {
    match right {
        Right::Read => true,
        Right::Make | Right::Change => role != Role::Agent,
        Right::Lead => matches!(role, Role::Superadmin | Role::OrgAdmin),
        Right::Oversee | Right::Administer => role == Role::Superadmin,
    }
}

/// What an object belongs to, as far as a decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belongs {
    /// The user it belongs to; `None` for what is the daemon's own, or an organisation's alone.
    pub owner: Option<u32>,
    /// How the actor stands in the organisation it belongs to; `None` when it belongs to none, or
    /// the actor is not in it.
    pub standing: Option<Standing>,
    /// Who else may see it.
    pub visibility: Visibility,
}

impl Belongs {
    /// What belongs to the daemon as a whole.
    pub const TO_THE_DAEMON: Self = Self {
        owner: None,
        standing: None,
        visibility: Visibility::Private,
    };

    /// What belongs to one user and is shown to nobody else.
    pub fn to_user(uid: u32) -> Self {
        Self {
            owner: Some(uid),
            ..Self::TO_THE_DAEMON
        }
    }

    /// What belongs to an organisation, in which the actor stands so.
    pub fn to_organization(standing: Option<Standing>) -> Self {
        Self {
            owner: None,
            standing,
            visibility: Visibility::Organization,
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What a [`Grant`] permits.
pub trait Act: sealed::Sealed {
    /// The right that it takes.
    const RIGHT: Right;
}

macro_rules! acts {
    ($($(#[$doc:meta])* $name:ident = $right:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl sealed::Sealed for $name {}

        impl Act for $name {
            const RIGHT: Right = Right::$right;
        }
    )*};
}

acts! {
    /// Permission to read one object.
    Read = Read;
    /// Permission to make something in the name of what it will belong to.
    Make = Make;
    /// Permission to change one object.
    Write = Change;
    /// Permission to change who is in one organisation.
    Lead = Lead;
    /// Permission to see everything.
    Oversee = Oversee;
    /// Permission to change what is the daemon's own.
    Administer = Administer;
}

/// The proof that an actor may do `Act` to the object the decision was about.
///
/// It cannot be made outside this module.
#[derive(Clone, Copy, Debug)]
pub struct Grant<Act> {
    act: PhantomData<Act>,
}

/// The actor may not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Who asked.
    pub uid: u32,
    /// In which role.
    pub role: Role,
    /// Whose object it is, where it is a user's.
    pub owner: Option<u32>,
    /// What was asked for.
    pub right: Right,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, role, .. } = self;
        match (self.right, self.owner) {
            (right, Some(owner)) => {
                let verb = right.verb();
                write!(f, "user {uid} may not {verb} what belongs to user {owner}")
            }
            (Right::Read, None) => write!(f, "user {uid} may not see it"),
            (Right::Change, None) => write!(f, "user {uid} may not change it"),
            (Right::Make, None) => write!(f, "user {uid} is not in the organisation"),
            (Right::Lead, None) => write!(f, "user {uid} does not administer the organisation"),
            (Right::Oversee | Right::Administer, None) => {
                write!(f, "only a superadmin may do that, and user {uid} is {role}")
            }
        }
    }
}

impl std::error::Error for Denied {}

/// Decides whether an actor may do something to what belongs so. This is the one rule: superadmins
/// may do everything, owners what concerns their own, administrators of an organisation what
/// concerns its objects and members, and whom an object is shown to may see it.
pub fn permit<A: Act>(actor: &Actor, belongs: &Belongs) -> Result<Grant<A>, Denied> {
    if allows(actor, A::RIGHT, belongs) {
        return Ok(Grant { act: PhantomData });
    }
    Err(Denied {
        uid: actor.uid,
        role: actor.role,
        owner: belongs.owner,
        right: A::RIGHT,
    })
}

fn allows(actor: &Actor, right: Right, belongs: &Belongs) -> bool {
    if actor.role == Role::Superadmin {
        return true;
    }
    if !may_call(actor.role, right) {
        return false;
    }
    let is_owner = belongs.owner == Some(actor.uid);
    let leads = belongs.standing == Some(Standing::Admin);
    match right {
        Right::Read => is_owner || leads || is_shown(belongs),
        Right::Make => is_owner || belongs.standing.is_some(),
        Right::Change => is_owner || leads,
        Right::Lead => leads,
        Right::Oversee | Right::Administer => false,
    }
}

fn is_shown(belongs: &Belongs) -> bool {
    match belongs.visibility {
        Visibility::Public => true,
        Visibility::Organization => belongs.standing.is_some(),
        // Nothing lists users yet.
        Visibility::Private | Visibility::Shared => false,
    }
}

/// Lets the owner and superadmins change what belongs to one user.
pub fn may_change(actor: &Actor, owner: u32) -> Result<Grant<Write>, Denied> {
    permit(actor, &Belongs::to_user(owner))
}

/// Lets the owner and superadmins see what belongs to one user.
pub fn may_see(actor: &Actor, owner: u32) -> Result<Grant<Read>, Denied> {
    permit(actor, &Belongs::to_user(owner))
}

#[cfg(test)]
mod tests;
