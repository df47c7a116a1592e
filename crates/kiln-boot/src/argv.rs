//! Which command an image runs: its Entrypoint and Cmd, and what replaces them.

/// What a caller says about the command, where it says anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandWords<'a> {
    /// Replaces the image's Entrypoint; its Cmd goes with it. Empty: no Entrypoint at all.
    pub entrypoint: Option<&'a [String]>,
    /// Replaces the image's Cmd.
    pub cmd: Option<&'a [String]>,
}

/// Returns the command of an image: Entrypoint, then Cmd, each replaced where the caller says so.
///
/// As with other runtimes, another Entrypoint drops the image's Cmd, which was written for the
/// old one. No shell is added. The result may be empty: then there is nothing to run, and it is
/// for the caller to say so.
pub fn compose_argv(entrypoint: &[String], cmd: &[String], words: CommandWords<'_>) -> Vec<String> {
    let cmd = match (words.cmd, words.entrypoint) {
        (Some(cmd), _) => cmd,
        (None, Some(_)) => &[],
        (None, None) => cmd,
    };
    let mut argv = words.entrypoint.unwrap_or(entrypoint).to_vec();
    argv.extend_from_slice(cmd);
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_comes_before_cmd_and_a_new_entrypoint_drops_cmd() {
        type Case<'a> = (
            (&'a str, &'a str),
            (Option<&'a str>, Option<&'a str>),
            &'a str,
        );
        let cases: &[Case<'_>] = &[
            (
                ("nginx -g", "start now"),
                (None, None),
                "nginx -g start now",
            ),
            (("", "bash"), (None, None), "bash"),
            (("/init", ""), (None, None), "/init"),
            (("", ""), (None, None), ""),
            (("nginx", "start"), (None, Some("stop")), "nginx stop"),
            (("nginx", "start"), (None, Some("")), "nginx"),
            (("nginx", "start"), (Some("sh -c"), None), "sh -c"),
            (("nginx", "start"), (Some("sh"), Some("-l")), "sh -l"),
            (("nginx", "start"), (Some(""), Some("ls /")), "ls /"),
            (("nginx", "start"), (Some(""), None), ""),
        ];
        for ((entrypoint, cmd), (new_entrypoint, new_cmd), want) in cases {
            let new_entrypoint = new_entrypoint.map(words);
            let new_cmd = new_cmd.map(words);
            let said = CommandWords {
                entrypoint: new_entrypoint.as_deref(),
                cmd: new_cmd.as_deref(),
            };

            let argv = compose_argv(&words(entrypoint), &words(cmd), said);

            assert_eq!(argv, words(want), "{entrypoint:?} {cmd:?} with {said:?}");
        }
    }
}
