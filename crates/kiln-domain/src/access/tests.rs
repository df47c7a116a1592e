//! The rule as a table: every role, every right, every way in which an object may belong.

use super::*;

const OWNER: u32 = 1000;

fn actor(uid: u32, role: Role) -> Actor {
    Actor::from_peer(uid, uid, None, 500).in_role(role)
}

#[test]
fn owner_and_superadmin_change_strangers_do_not() {
    let cases = [(0, true), (1000, true), (1001, false), (500, true)];
    for (uid, good) in cases {
        let actor = Actor::from_peer(uid, uid, None, 500);

        assert_eq!(may_change(&actor, OWNER).is_ok(), good, "uid {uid}");
    }
}

#[test]
fn only_root_and_the_daemon_itself_name_host_paths_whatever_the_store_says() {
    for uid in [0, 500] {
        let demoted = actor(uid, Role::User);
        assert!(demoted.may_name_host_paths(), "uid {uid}");
        assert_eq!(demoted.role, Role::Superadmin, "uid {uid}");
    }
    for role in Role::ALL {
        assert!(!actor(1000, *role).may_name_host_paths(), "{role}");
    }
}

#[test]
fn every_role_calls_what_it_may_and_nothing_else() {
    use Right::{Administer, Change, Lead, Make, Oversee, Read};
    let table: [(Role, &[Right]); 4] = [
        (
            Role::Superadmin,
            &[Read, Make, Change, Lead, Oversee, Administer],
        ),
        (Role::OrgAdmin, &[Read, Make, Change, Lead]),
        (Role::User, &[Read, Make, Change]),
        (Role::Agent, &[Read]),
    ];
    assert_eq!(table.len(), Role::ALL.len());
    for (role, rights) in table {
        for right in Right::ALL {
            let want = rights.contains(right);
            assert_eq!(may_call(role, *right), want, "{role} {right:?}");
        }
    }
}

/// Decides all six acts in the order of [`Right::ALL`], a letter for each that is allowed.
fn allowed(actor: &Actor, belongs: &Belongs) -> String {
    let acts = [
        (permit::<Read>(actor, belongs).is_ok(), 'r'),
        (permit::<Make>(actor, belongs).is_ok(), 'm'),
        (permit::<Write>(actor, belongs).is_ok(), 'w'),
        (permit::<Lead>(actor, belongs).is_ok(), 'l'),
        (permit::<Oversee>(actor, belongs).is_ok(), 'o'),
        (permit::<Administer>(actor, belongs).is_ok(), 'a'),
    ];
    let allowed = acts.into_iter().filter(|(is_allowed, _)| *is_allowed);
    allowed.map(|(_, letter)| letter).collect()
}

#[test]
fn an_image_is_for_its_owner_its_organisation_and_whom_it_is_shown_to() {
    use Role::{Agent, OrgAdmin, Superadmin, User};
    use Standing::{Admin, Member};
    use Visibility::{Organization, Private, Public, Shared};
    // Who, in which role, how it stands in the image's organisation; then what it may with an
    // image that is private, the organisation's, for listed users, and public.
    let table: [(u32, Role, Option<Standing>, [&str; 4]); 10] = [
        (7, Superadmin, None, ["rmwloa"; 4]),
        (OWNER, User, None, ["rmw"; 4]),
        (OWNER, User, Some(Member), ["rmw"; 4]),
        (7, User, None, ["", "", "", "r"]),
        (7, User, Some(Member), ["m", "rm", "m", "rm"]),
        (7, OrgAdmin, Some(Admin), ["rmwl"; 4]),
        // An administrator of another organisation is nobody here.
        (7, OrgAdmin, None, ["", "", "", "r"]),
        (7, Agent, None, ["", "", "", "r"]),
        (7, Agent, Some(Admin), ["r", "r", "r", "r"]),
        (OWNER, Agent, None, ["r"; 4]),
    ];
    for (uid, role, standing, wants) in table {
        for (visibility, want) in [Private, Organization, Shared, Public]
            .into_iter()
            .zip(wants)
        {
            let belongs = Belongs {
                owner: Some(OWNER),
                standing,
                visibility,
            };

            let got = allowed(&actor(uid, role), &belongs);
            assert_eq!(got, want, "{uid} {role} {standing:?} {visibility}");
        }
    }
}

#[test]
fn what_is_the_daemons_own_is_for_superadmins() {
    for role in Role::ALL {
        let want = if *role == Role::Superadmin {
            "rmwloa"
        } else {
            ""
        };

        let got = allowed(&actor(7, *role), &Belongs::TO_THE_DAEMON);
        assert_eq!(got, want, "{role}");
    }
}

#[test]
fn a_refusal_says_who_and_whose() {
    let stranger = actor(7, Role::User);

    let change = may_change(&stranger, OWNER).unwrap_err();
    assert_eq!(
        change.to_string(),
        "user 7 may not change what belongs to user 1000"
    );
    let administer = permit::<Administer>(&stranger, &Belongs::TO_THE_DAEMON).unwrap_err();
    assert_eq!(
        administer.to_string(),
        "only a superadmin may do that, and user 7 is user"
    );
}
