//! `instance.json`: what one instance of an image wants otherwise. Every member is optional.

use serde::{Deserialize, Serialize};

use crate::boot::{Boot, End, Mode, RootMount, Stdin};
use crate::names::{Host, Resolv};
use crate::network::Network;
use crate::read::{self, ReadError};
use crate::signal::StopSignal;

/// The format that is written, and the newest that is read.
pub const INSTANCE_FORMAT: u32 = 1;

/// One instance's own words. A member that is missing leaves the image's word as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Number of the format: [`INSTANCE_FORMAT`].
    pub format: u32,
    /// Replaces the mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Replaces the whole command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// Comes after the image's environment, so that it wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Replaces the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Replaces the working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Replaces the stop signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<StopSignal>,
    /// Replaces the time after which the program is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_seconds: Option<u32>,
    /// Replaces how the root filesystem is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_mount: Option<RootMount>,
    /// Further directories that must be writable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Replaces the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Further lines of `/etc/hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Host>,
    /// Replaces `/etc/resolv.conf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv: Option<Resolv>,
    /// Replaces the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Replaces the port that is told how the program ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_port: Option<u32>,
    /// Replaces how the machine ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// Replaces the standard input of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Stdin>,
}

impl Default for Instance {
    /// Wants nothing otherwise.
    fn default() -> Self {
        Self {
            format: INSTANCE_FORMAT,
            mode: None,
            argv: None,
            env: Vec::new(),
            user: None,
            workdir: None,
            stop_signal: None,
            stop_grace_seconds: None,
            root_mount: None,
            volumes: Vec::new(),
            hostname: None,
            hosts: Vec::new(),
            resolv: None,
            network: None,
            report_port: None,
            end: None,
            stdin: None,
        }
    }
}

impl Instance {
    /// Reads `instance.json`. Strict: members that are not known are errors.
    ///
    /// Whether values can be is checked when they are laid over an image's.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        read::document(bytes, INSTANCE_FORMAT)
    }

    /// Returns the bytes of `instance.json`; equal values give equal bytes.
    ///
    /// Refuses what [`Instance::lay_over`] would refuse whatever the image.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReadError> {
        self.lay_over(Boot::new(Mode::Entrypoint))?;
        read::to_bytes(self)
    }

    /// Returns `boot` with this instance's words in place of the image's.
    ///
    /// Environment entries, volumes and hosts are added; everything else replaces. The result
    /// keeps the invariant of [`Boot`].
    pub fn lay_over(&self, mut boot: Boot) -> Result<Boot, ReadError> {
        replace(&mut boot.mode, self.mode.as_ref());
        replace(&mut boot.argv, self.argv.as_ref());
        replace(&mut boot.user, self.user.as_ref());
        replace(&mut boot.workdir, self.workdir.as_ref());
        replace(&mut boot.stop_signal, self.stop_signal.as_ref());
        replace(
            &mut boot.stop_grace_seconds,
            self.stop_grace_seconds.as_ref(),
        );
        replace(&mut boot.root.mount, self.root_mount.as_ref());
        replace(&mut boot.resolv, self.resolv.as_ref());
        replace(&mut boot.network, self.network.as_ref());
        replace(&mut boot.end, self.end.as_ref());
        replace(&mut boot.stdin, self.stdin.as_ref());
        boot.env.extend_from_slice(&self.env);
        boot.volumes.extend_from_slice(&self.volumes);
        boot.hosts.extend_from_slice(&self.hosts);
        boot.hostname = self.hostname.clone().or(boot.hostname);
        boot.report_port = self.report_port.or(boot.report_port);
        boot.validate()?;
        Ok(boot)
    }
}

fn replace<T: Clone>(old: &mut T, new: Option<&T>) {
    if let Some(new) = new {
        old.clone_from(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_changes_nothing() {
        let boot = Boot::new(Mode::Entrypoint);
        let instance = Instance::parse(br#"{"format":1}"#).unwrap();
        assert_eq!(instance, Instance::default());
        assert_eq!(instance.lay_over(boot.clone()).unwrap(), boot);
    }

    #[test]
    fn words_replace_and_lists_grow() {
        let mut boot = Boot::new(Mode::Entrypoint);
        boot.argv = vec!["nginx".to_owned()];
        boot.env = vec!["A=1".to_owned()];
        boot.volumes = vec!["/data".to_owned()];
        boot.hostname = Some("image".to_owned());
        let text = br#"{
            "format": 1, "mode": {"init": {"path": "/sbin/init"}}, "argv": ["sh", "-l"],
            "env": ["A=2"], "user": "app", "workdir": "/srv", "stop_signal": "SIGINT",
            "stop_grace_seconds": 3, "root_mount": {"overlay": {"upper": "/dev/vdb"}},
            "volumes": ["/more"], "hostname": "one",
            "hosts": [{"address": "10.0.0.1", "names": ["db"]}],
            "resolv": {"nameservers": ["10.0.0.2"]}, "network": "dhcp", "report_port": 7,
            "end": "reboot", "stdin": "none"
        }"#;

        let laid = Instance::parse(text).unwrap().lay_over(boot).unwrap();

        let got = serde_json::to_value(&laid).unwrap();
        let want: serde_json::Value = serde_json::from_str(
            r#"{
            "format": 1, "mode": {"init": {"path": "/sbin/init"}}, "argv": ["sh", "-l"],
            "env": ["A=1", "A=2"], "user": "app", "workdir": "/srv", "stop_signal": "SIGINT",
            "stop_grace_seconds": 3,
            "root": {"device": "/dev/vda", "filesystem": "ext4",
                     "mount": {"overlay": {"upper": "/dev/vdb"}}, "wait_seconds": 30},
            "volumes": ["/data", "/more"], "hostname": "one",
            "hosts": [{"address": "10.0.0.1", "names": ["db"]}],
            "resolv": {"nameservers": ["10.0.0.2"]}, "network": "dhcp", "report_port": 7,
            "end": "reboot", "stdin": "none", "modules": []
        }"#,
        )
        .unwrap();
        assert_eq!(got, want);
    }

    #[test]
    fn an_instance_may_not_say_what_an_image_may_not() {
        let bad = Instance {
            hostname: Some("a\nb".to_owned()),
            ..Instance::default()
        };
        let message = bad.to_bytes().err().map(|error| error.to_string());
        assert_eq!(message.as_deref(), Some("hostname is no host name"));
        let unknown = Instance::parse(br#"{"format":1,"hostnam":"x"}"#);
        assert!(
            matches!(unknown, Err(ReadError::Malformed(_))),
            "{unknown:?}"
        );
    }
}
