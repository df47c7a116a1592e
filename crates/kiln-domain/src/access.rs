//! Who may do what: a pure decision over an actor and an object's owner.
//!
//! A function that changes an image demands a [`Grant`], and only this module makes one.

use std::marker::PhantomData;

/// Who is calling, as the kernel told us (`SO_PEERCRED`, unix(7)).
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
}

/// What a user id means to this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Root, or the daemon's own user: everything.
    Superadmin,
    /// Anybody else who may open the socket.
    User,
}

impl Actor {
    /// Decides a peer's role: root and the daemon's own user are superadmins.
    pub fn from_peer(uid: u32, gid: u32, pid: Option<i32>, daemon_uid: u32) -> Self {
        let role = if uid == 0 || uid == daemon_uid {
            Role::Superadmin
        } else {
            Role::User
        };
        Self {
            uid,
            gid,
            pid,
            role,
        }
    }

    /// Tells whether the actor may name files of the host by path: only those whose rights the
    /// daemon shares. Others open the file themselves and pass the descriptor.
    pub fn may_name_host_paths(&self) -> bool {
        self.role == Role::Superadmin
    }
}

/// Permission to read one object.
#[derive(Clone, Copy, Debug)]
pub enum Read {}

/// Permission to change one object.
#[derive(Clone, Copy, Debug)]
pub enum Write {}

/// The proof that an actor may do `Act` to the object the decision was about.
///
/// It cannot be made outside this module.
#[derive(Clone, Copy, Debug)]
pub struct Grant<Act> {
    act: PhantomData<Act>,
}

/// The actor may not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user {uid} may not {verb} what belongs to user {owner}")]
pub struct Denied {
    /// Who asked.
    pub uid: u32,
    /// Whose object it is.
    pub owner: u32,
    /// What was asked for.
    pub verb: &'static str,
}

/// Lets the owner and superadmins change an object.
pub fn may_change(actor: &Actor, owner: u32) -> Result<Grant<Write>, Denied> {
    if actor.role == Role::Superadmin || actor.uid == owner {
        return Ok(Grant { act: PhantomData });
    }
    Err(Denied {
        uid: actor.uid,
        owner,
        verb: "change",
    })
}

/// Lets the owner and superadmins see an object that belongs to somebody.
pub fn may_see(actor: &Actor, owner: u32) -> Result<Grant<Read>, Denied> {
    if actor.role == Role::Superadmin || actor.uid == owner {
        return Ok(Grant { act: PhantomData });
    }
    Err(Denied {
        uid: actor.uid,
        owner,
        verb: "see",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_superadmin_change_strangers_do_not() {
        let cases = [(0, true), (1000, true), (1001, false), (500, true)];
        for (uid, good) in cases {
            let actor = Actor::from_peer(uid, uid, None, 500);

            assert_eq!(may_change(&actor, 1000).is_ok(), good, "uid {uid}");
        }
    }

    #[test]
    fn only_root_and_the_daemon_itself_name_host_paths() {
        assert!(Actor::from_peer(0, 0, None, 500).may_name_host_paths());
        assert!(Actor::from_peer(500, 500, None, 500).may_name_host_paths());
        assert!(!Actor::from_peer(1000, 1000, None, 500).may_name_host_paths());
    }
}
