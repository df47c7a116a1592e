//! Names of users as this host knows them: `/etc/passwd`.
//!
//! Users of a directory service that has no lines there are named by their uids, or by what the
//! daemon calls them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use kiln_api::{Failure, codes};

use crate::failure::CommandError;

/// Where hosts keep their users (passwd(5)).
const PASSWD: &str = "/etc/passwd";

/// Most bytes of it that are read: a million users have lines in less.
const PASSWD_MAX: u64 = 64 << 20;

/// Returns the uid of a user of this host, by name or in digits.
pub(crate) fn uid_of(user: &str) -> Option<u32> {
    if let Ok(uid) = user.parse() {
        return Some(uid);
    }
    let mut text = String::new();
    let read = File::open(Path::new(PASSWD))
        .and_then(|file| file.take(PASSWD_MAX).read_to_string(&mut text));
    read.ok().and_then(|_| find(&text, user))
}

/// Makes a call about a user whom the daemon may not know by that name, but this host does: then
/// it is made once more, with the uid.
pub(crate) async fn by_name_or_uid<T>(
    user: &str,
    call: impl AsyncFn(String) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let answer = call(user.to_owned()).await;
    let is_unknown = matches!(
        &answer,
        Err(CommandError::Failed(failure)) if is_unknown_name(failure)
    );
    match uid_of(user) {
        Some(uid) if is_unknown && user != uid.to_string() => call(uid.to_string()).await,
        _ => answer,
    }
}

fn is_unknown_name(failure: &Failure) -> bool {
    failure.is(codes::user::NOT_FOUND)
}

fn find(passwd: &str, user: &str) -> Option<u32> {
    let mut lines = passwd.lines();
    lines.find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?;
        (name == user).then(|| uid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\n# alice:x:1:1::\n\
                      alice:x:1000:1000:Alice:/home/alice:/bin/sh\nodd:x:many:1::\n";
        for (name, want) in [
            ("root", Some(0)),
            ("alice", Some(1000)),
            ("ali", None),
            ("odd", None),
            ("broken", None),
        ] {
            assert_eq!(find(passwd, name), want, "{name}");
        }
        assert_eq!(uid_of("77"), Some(77));
    }
}
