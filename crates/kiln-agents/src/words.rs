//! The words of an `ssh` command, and what its complaints mean: pure.

use kiln_domain::{PlainPath, SshPlace};
use kiln_service::AgentError;

/// Options that hold whatever the user's SSH configuration says, which is read behind them
/// (`ssh_config(5)`: the first value counts).
const FIXED: &[&str] = &[
    // Nobody is there to be asked.
    "BatchMode=yes",
    // A host key that is not known, or another one, ends it; nothing makes one known by the way.
    "StrictHostKeyChecking=yes",
    "NoHostAuthenticationForLocalhost=no",
    "VerifyHostKeyDNS=no",
    "UpdateHostKeys=no",
    // One process for one connection, which ends with it.
    "ControlMaster=no",
    "ControlPath=none",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    // Nothing but the one socket is forwarded.
    "ExitOnForwardFailure=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "StreamLocalBindMask=0177",
    // What it says is read: see `complaint`.
    "LogLevel=INFO",
];

/// Longest time that `ssh` may be told for connecting, in seconds.
const CONNECT_MAX_SECONDS: u64 = 3_600;

/// What `ssh` is to do.
#[derive(Debug)]
pub(crate) struct Forwarding<'a> {
    pub(crate) place: &'a SshPlace,
    pub(crate) identity: Option<&'a PlainPath>,
    pub(crate) known_hosts: Option<&'a PlainPath>,
    pub(crate) timeout_seconds: u64,
    /// Where it is to listen on this host.
    pub(crate) local: &'a PlainPath,
}

/// Returns the arguments that forward a socket of this host to the daemon's over there. None of
/// them is a secret, and none is read by a shell.
pub(crate) fn arguments(forwarding: &Forwarding<'_>) -> Vec<String> {
    let place = forwarding.place;
    let mut words: Vec<String> = vec!["-N".into(), "-T".into()];
    let mut option = |text: String| words.extend(["-o".to_owned(), text]);
    for text in FIXED {
        option((*text).to_owned());
    }
    let seconds = forwarding.timeout_seconds.clamp(1, CONNECT_MAX_SECONDS);
    option(format!("ConnectTimeout={seconds}"));
    if let Some(path) = forwarding.known_hosts {
        option(format!("UserKnownHostsFile={path}"));
        option("GlobalKnownHostsFile=/dev/null".to_owned());
    }
    if let Some(path) = forwarding.identity {
        option("IdentitiesOnly=yes".to_owned());
        words.extend(["-i".to_owned(), path.to_string()]);
    }
    words.extend([
        "-L".to_owned(),
        format!("{}:{}", forwarding.local, place.socket()),
    ]);
    if let Some(user) = place.user() {
        words.extend(["-l".to_owned(), user.to_owned()]);
    }
    if let Some(port) = place.port() {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    words.extend(["--".to_owned(), place.host().to_owned()]);
    words
}

/// Says what went wrong, from what `ssh` said of it.
pub(crate) fn complaint(said: &str) -> AgentError {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('@'))
        .collect();
    let with = |words: &[&str]| {
        let has = |line: &&&str| words.iter().any(|word| line.contains(word));
        lines.iter().find(has).map(|line| (*line).to_owned())
    };
    let last = || {
        let line = lines.last().copied();
        line.unwrap_or("ssh ended and said nothing").to_owned()
    };
    // The words of OpenSSH's sshconnect.c and sshconnect2.c, which are not translated.
    if said.contains("REMOTE HOST IDENTIFICATION HAS CHANGED")
        || said.contains("has changed and you")
    {
        let why = with(&["SHA256:"]).unwrap_or_else(last);
        return AgentError::ChangedHost { why };
    }
    if said.contains("Host key verification failed") {
        let why = with(&["host key is known for"]).unwrap_or_else(last);
        return AgentError::UnknownHost { why };
    }
    if said.contains("Permission denied (") || said.contains("Too many authentication failures") {
        let key = with(&[
            "not accessible",
            "bad permissions",
            "Load key",
            "UNPROTECTED",
        ]);
        return match key {
            Some(key) => AgentError::KeyUnusable {
                why: format!("{key} {}", last()),
            },
            None => AgentError::AuthFailed { why: last() },
        };
    }
    let why = with(&["open failed", "forwarding failed", "ssh: "]).unwrap_or_else(last);
    AgentError::Unreachable { why }
}

#[cfg(test)]
mod tests {
    use kiln_domain::AgentAddress;

    use super::*;

    fn shown(address: &str, identity: Option<&str>, known_hosts: Option<&str>) -> Vec<String> {
        let Ok(AgentAddress::Ssh(place)) = address.parse() else {
            panic!("{address} is no place behind SSH");
        };
        let path = |text: &str| text.parse::<PlainPath>().unwrap();
        arguments(&Forwarding {
            place: &place,
            identity: identity.map(path).as_ref(),
            known_hosts: known_hosts.map(path).as_ref(),
            timeout_seconds: 7,
            local: &path("/run/kiln/agents/x/s"),
        })
    }

    #[test]
    fn host_keys_are_always_checked_and_the_host_comes_last() {
        let words = shown("ssh://ann@[::1]:2222/k.sock", Some("/id"), Some("/known"));

        let text = words.join(" ");
        assert!(text.starts_with("-N -T -o BatchMode=yes -o StrictHostKeyChecking=yes "));
        assert!(
            text.ends_with(
                "-o ConnectTimeout=7 -o UserKnownHostsFile=/known \
                 -o GlobalKnownHostsFile=/dev/null -o IdentitiesOnly=yes -i /id \
                 -L /run/kiln/agents/x/s:/k.sock -l ann -p 2222 -- ::1"
            ),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_said_is_left_to_the_users_configuration() {
        let words = shown("ssh://node", None, None);

        let text = words.join(" ");
        assert!(
            text.ends_with(
                "-o ConnectTimeout=7 -L /run/kiln/agents/x/s:/run/kiln/kiln.sock -- node"
            ),
            "{text}"
        );
        for word in ["-l", "-p", "-i"] {
            assert!(!words.iter().any(|one| one == word), "{text}");
        }
    }

    #[test]
    fn complaints_are_told_apart() {
        let changed = "@@@@@@\r\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\n@@@@@@\r\n\
             IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r\n\
             The fingerprint for the ED25519 key sent by the remote host is\nSHA256:abc.\r\n\
             Host key verification failed.\r\n";
        let unknown = "No ED25519 host key is known for [127.0.0.1]:1 and you have requested strict \
             checking.\r\nHost key verification failed.\r\n";
        let denied = "ann@node: Permission denied (publickey).\r\n";
        let unreadable = "Warning: Identity file /id not accessible: No such file or directory.\n\
             ann@node: Permission denied (publickey).\r\n";
        let refused = "ssh: connect to host node port 22: Connection refused\r\n";
        let closed = "channel 2: open failed: connect failed: open failed\r\n";
        let cases = [
            (
                changed,
                AgentError::ChangedHost {
                    why: "SHA256:abc.".into(),
                },
            ),
            (
                unknown,
                AgentError::UnknownHost {
                    why: "No ED25519 host key is known for [127.0.0.1]:1 and you have requested \
                          strict checking."
                        .into(),
                },
            ),
            (
                denied,
                AgentError::AuthFailed {
                    why: "ann@node: Permission denied (publickey).".into(),
                },
            ),
            (
                unreadable,
                AgentError::KeyUnusable {
                    why: "Warning: Identity file /id not accessible: No such file or directory. \
                          ann@node: Permission denied (publickey)."
                        .into(),
                },
            ),
            (
                refused,
                AgentError::Unreachable {
                    why: "ssh: connect to host node port 22: Connection refused".into(),
                },
            ),
            (
                closed,
                AgentError::Unreachable {
                    why: "channel 2: open failed: connect failed: open failed".into(),
                },
            ),
            (
                "",
                AgentError::Unreachable {
                    why: "ssh ended and said nothing".into(),
                },
            ),
        ];
        for (said, want) in cases {
            assert_eq!(complaint(said), want, "{said:?}");
        }
    }
}
