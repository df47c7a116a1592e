//! Who the guest's program is: the image's User, resolved with the image's own accounts.

use std::collections::BTreeSet;

/// Largest user or group number; the kernel keeps the last one, and other runtimes stop at half.
const MAX_ID: u32 = 0x7fff_ffff;

/// The account files of an image, as bytes.
///
/// A line that cannot be read is no account, and does not spoil the others: images are made by
/// many tools.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounts<'a> {
    /// `/etc/passwd`: `name:password:uid:gid:comment:home:shell`. Empty where there is none.
    pub passwd: &'a [u8],
    /// `/etc/group`: `name:password:gid:member,member`. Empty where there is none.
    pub group: &'a [u8],
}

/// Numbers to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups, ascending, each once.
    pub groups: Vec<u32>,
    /// The user's home; `/` where no account says.
    pub home: String,
}

/// Why a User cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A name that no account has.
    #[error("/etc/passwd in the image has no user {name:?}")]
    NoSuchUser {
        /// The name.
        name: String,
    },
    /// A name that no group has.
    #[error("/etc/group in the image has no group {name:?}")]
    NoSuchGroup {
        /// The name.
        name: String,
    },
    /// A number beyond what an id can be.
    #[error("{text} is too large for a user or group number")]
    TooLarge {
        /// The number.
        text: String,
    },
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

enum Word {
    Number(u32),
    Name,
}

impl Accounts<'_> {
    /// Resolves `user`, of the form `name|uid[:group|gid]`; empty means root.
    ///
    /// Digits are a number, also where a name of digits exists. A number without an account is
    /// taken as it is, with group 0; a name without one is an error. The groups whose member the
    /// user is come along only when no group is given. Source: what containerd and Docker do.
    pub fn resolve(&self, user: &str) -> Result<Identity, UserError> {
        let (user, group) = user.split_once(':').unwrap_or((user, ""));
        let user = if user.is_empty() { "0" } else { user };
        let found = match word(user)? {
            Word::Number(uid) => self.users().find(|known| known.uid == uid).unwrap_or(User {
                name: b"",
                uid,
                gid: 0,
                home: b"",
            }),
            Word::Name => self
                .users()
                .find(|known| known.name == user.as_bytes())
                .ok_or_else(|| UserError::NoSuchUser {
                    name: user.to_owned(),
                })?,
        };
        let (gid, groups) = match group {
            "" => (found.gid, self.groups_of(found.name)),
            group => (self.gid_of(group)?, Vec::new()),
        };
        Ok(Identity {
            uid: found.uid,
            gid,
            groups,
            home: home(found.home),
        })
    }

    fn gid_of(&self, group: &str) -> Result<u32, UserError> {
        match word(group)? {
            Word::Number(gid) => Ok(gid),
            Word::Name => self
                .groups()
                .find(|known| known.name == group.as_bytes())
                .map(|known| known.gid)
                .ok_or_else(|| UserError::NoSuchGroup {
                    name: group.to_owned(),
                }),
        }
    }

    fn groups_of(&self, user: &[u8]) -> Vec<u32> {
        if user.is_empty() {
            return Vec::new();
        }
        let lists_user = |group: &Group<'_>| {
            group
                .members
                .split(|&byte| byte == b',')
                .any(|name| name == user)
        };
        let found: BTreeSet<u32> = self
            .groups()
            .filter(lists_user)
            .map(|group| group.gid)
            .collect();
        found.into_iter().collect()
    }

    fn users(&self) -> impl Iterator<Item = User<'_>> {
        lines(self.passwd).filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let uid = number(fields.nth(1)?)?;
            let gid = number(fields.next()?)?;
            let home = fields.nth(1).unwrap_or_default();
            Some(User {
                name,
                uid,
                gid,
                home,
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        lines(self.group).filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let gid = number(fields.nth(1)?)?;
            let members = fields.next().unwrap_or_default();
            Some(Group { name, gid, members })
        })
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii)
}

/// Home directories go into the environment, which is text.
fn home(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(home) if home.starts_with('/') && !home.contains('\0') => home.to_owned(),
        _ => "/".to_owned(),
    }
}

fn word(text: &str) -> Result<Word, UserError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Word::Name);
    }
    let too_large = || UserError::TooLarge {
        text: text.to_owned(),
    };
    number(text.as_bytes())
        .map(Word::Number)
        .ok_or_else(too_large)
}

fn number(digits: &[u8]) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    text.parse().ok().filter(|number| *number <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        broken\n\
        big:x:99999999999:0::/:\n\
        app:x:1000:1000:App:/srv/app:/bin/sh\n\
        app:x:7:7::/second:\n\
        homeless:x:1001:1001\n\
        relative:x:1002:1002::srv:\n\
        1003:x:5:5::/five:\n\
        \xff\xfe:x:6:6::\xff:\n\
        last:x:1004:1004::/last";
    const GROUP: &[u8] = b"root:x:0:\n\
        video:x:44:other,app\n\
        audio:x:29:app\n\
        again:x:29:app\n\
        almost:x:30:apple\n\
        broken:x:\n\
        app:x:1000:\n\
        disk:x:6:homeless";

    const ACCOUNTS: Accounts<'_> = Accounts {
        passwd: PASSWD,
        group: GROUP,
    };

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn users_are_resolved_as_other_runtimes_do() {
        let cases = [
            ("", identity(0, 0, &[], "/root")),
            ("root", identity(0, 0, &[], "/root")),
            ("app", identity(1000, 1000, &[29, 44], "/srv/app")),
            ("1000", identity(1000, 1000, &[29, 44], "/srv/app")),
            ("01000", identity(1000, 1000, &[29, 44], "/srv/app")),
            ("app:", identity(1000, 1000, &[29, 44], "/srv/app")),
            ("app:disk", identity(1000, 6, &[], "/srv/app")),
            ("app:44", identity(1000, 44, &[], "/srv/app")),
            ("1000:4242", identity(1000, 4242, &[], "/srv/app")),
            (":video", identity(0, 44, &[], "/root")),
            ("4242", identity(4242, 0, &[], "/")),
            ("4242:video", identity(4242, 44, &[], "/")),
            ("1003", identity(1003, 0, &[], "/")),
            ("homeless", identity(1001, 1001, &[6], "/")),
            ("relative", identity(1002, 1002, &[], "/")),
            ("6", identity(6, 6, &[], "/")),
            ("last", identity(1004, 1004, &[], "/last")),
            ("2147483647", identity(2_147_483_647, 0, &[], "/")),
        ];
        for (user, want) in cases {
            assert_eq!(ACCOUNTS.resolve(user), Ok(want), "{user:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_named_with_its_file() {
        let cases = [
            ("nosuch", "/etc/passwd in the image has no user \"nosuch\""),
            (
                "nosuch:video",
                "/etc/passwd in the image has no user \"nosuch\"",
            ),
            (
                "app:nosuch",
                "/etc/group in the image has no group \"nosuch\"",
            ),
            ("app:a:b", "/etc/group in the image has no group \"a:b\""),
            ("big", "/etc/passwd in the image has no user \"big\""),
            (
                "app:broken",
                "/etc/group in the image has no group \"broken\"",
            ),
            (
                "2147483648",
                "2147483648 is too large for a user or group number",
            ),
            (
                "0:99999999999",
                "99999999999 is too large for a user or group number",
            ),
            ("-1", "/etc/passwd in the image has no user \"-1\""),
        ];
        for (user, want) in cases {
            let error = ACCOUNTS.resolve(user).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(want), "{user:?}");
        }
    }

    #[test]
    fn an_image_without_accounts_has_numbers_only() {
        let none = Accounts::default();
        assert_eq!(none.resolve(""), Ok(identity(0, 0, &[], "/")));
        assert_eq!(none.resolve("5:6"), Ok(identity(5, 6, &[], "/")));
        let name = "root".to_owned();
        assert_eq!(none.resolve("root"), Err(UserError::NoSuchUser { name }));
    }

    proptest::proptest! {
        #[test]
        fn no_file_and_no_user_is_too_strange(
            passwd: Vec<u8>, group: Vec<u8>, user in "[a-z0-9:]{0,12}"
        ) {
            let accounts = Accounts { passwd: &passwd, group: &group };
            if let Ok(identity) = accounts.resolve(&user) {
                proptest::prop_assert!(identity.uid <= MAX_ID && identity.gid <= MAX_ID);
                proptest::prop_assert!(identity.home.starts_with('/'));
            }
        }
    }
}
