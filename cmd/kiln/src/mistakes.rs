//! What to say to somebody who typed a command Kiln does not have.
//!
//! The nearest real word comes from clap; the words other tools use come from here.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use kiln_api::failure::{is_hostile, printable};
use kiln_api::{Failure, codes};
use kiln_domain::without_user_info;

use crate::colour::Colour;
use crate::failure::{self, Detail};
use crate::output;
use crate::surroundings::Surroundings;

/// Words of other tools, and what serves here.
const FOREIGN: &[(&[&str], &str, &str)] = &[
    (
        &["rm", "rmi", "delete", "remove", "del"],
        "to hide an image and free its name:",
        "kiln forget IMAGE",
    ),
    (&["list", "image-list"], "to list images:", "kiln images"),
    (
        &["load"],
        "to take an image from a file:",
        "kiln pull oci-archive:FILE",
    ),
    (
        &["add", "build"],
        "images are made from OCI images:",
        "kiln pull REFERENCE --kernel NAME",
    ),
    (
        &["get", "show", "describe"],
        "to look at an image:",
        "kiln image show IMAGE",
    ),
    (
        &["save"],
        "to write an image into a file:",
        "kiln copy REFERENCE docker-archive:FILE",
    ),
    (
        &["cp", "clone"],
        "to copy an image's root filesystem to a file:",
        "kiln checkout IMAGE FILE",
    ),
    (
        &["start", "boot", "create"],
        "to run an image in a virtual machine:",
        "kiln run IMAGE",
    ),
    (
        &["exec", "shell", "ssh"],
        "to run a command in a virtual machine of its own:",
        "kiln run IMAGE -- COMMAND",
    ),
    (
        &["hello", "try", "example", "quickstart"],
        "to see an image run:",
        "kiln demo",
    ),
    (
        &["top", "stats", "container", "containers", "machines", "vms"],
        "machines are listed by:",
        "kiln ps",
    ),
    (
        &["signin", "auth"],
        "to see who you are at registries:",
        "kiln registry whoami",
    ),
    (
        &["log", "console", "attach"],
        "to see what a machine wrote:",
        "kiln logs NAME",
    ),
    (&["history"], "to see what happened:", "kiln events"),
    (
        &["kill", "down", "shutdown"],
        "to stop a machine:",
        "kiln stop NAME",
    ),
    (
        &["wait", "cancel", "watch"],
        "long work is listed by:",
        "kiln op ls",
    ),
    (
        &["status", "system", "config"],
        "to see the daemon and its configuration:",
        "kiln info --config",
    ),
    (
        &["call", "query", "api"],
        "to call any method:",
        "kiln rpc METHOD",
    ),
    (&["check", "diagnose"], "to check this host:", "kiln doctor"),
];

/// Answers a command line that could not be read, and one that asked for help.
pub(crate) fn report(
    error: &clap::Error,
    words: &[OsString],
    surroundings: &Surroundings,
) -> ExitCode {
    let paint = Colour::Auto.paint(surroundings);
    if error.use_stderr() && wants_json(words) {
        output::note(&failure::document(&as_failure(error, words)));
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    match unknown_word(error).and_then(answer) {
        Some(failure) => output::note(&failure::describe(&failure, paint, Detail::Usual)),
        None if is_doubtful(words) && error.use_stderr() => output::note(&harmless(error, words)),
        // The error knows its stream; when that is gone, nobody is left to tell.
        None => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Says whether a command line has words that may not be said again as they are: with a password in
/// front of a host, or with characters that command a terminal.
pub(crate) fn is_doubtful(words: &[OsString]) -> bool {
    words.iter().any(|word| {
        let word = word.to_string_lossy();
        word.contains(is_hostile) || shown(&word) != word
    })
}

/// Writes an error without the passwords and the commands in the words it is about, wherever it quotes
/// them: values, what a value's own grammar says of it, and advice.
fn harmless(error: &clap::Error, words: &[OsString]) -> String {
    // Its own plain form drops escape sequences with all that stands in them, and not all commands.
    let mut text = error.render().ansi().to_string();
    for word in words {
        let word = word.to_string_lossy();
        // Of `--option=value` the value may stand alone.
        let value = word.split_once('=').map_or("", |(_, value)| value);
        for secret in [&*word, value] {
            let shown = shown(secret);
            if shown != secret {
                text = text.replace(secret, &shown);
                // Messages of values quote them so.
                text = text.replace(&format!("{secret:?}"), &format!("{shown:?}"));
            }
        }
    }
    printable(&text)
}

/// Returns a word without a password; an option's name in front of its value stays.
fn shown(word: &str) -> String {
    match word.split_once('=') {
        Some((option, value)) if option.starts_with('-') => {
            format!("{option}={}", without_user_info(value))
        }
        _ => without_user_info(word),
    }
}

fn unknown_word(error: &clap::Error) -> Option<&str> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => Some(word),
        _ => None,
    }
}

/// Says whether a command line that could not be read asks for JSON: then a program reads what is said.
fn wants_json(words: &[OsString]) -> bool {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let ours = words.iter().position(|word| word == "--");
    let ours = words.get(..ours.unwrap_or(words.len())).unwrap_or_default();
    let is_json = |format: &str| matches!(format, "json" | "ndjson");
    let apart = ours.windows(2);
    ours.iter().any(|word| word == "--json")
        || ours
            .iter()
            .any(|word| word.strip_prefix("--format=").is_some_and(is_json))
        || apart
            .into_iter()
            .any(|pair| pair[0] == "--format" && is_json(&pair[1]))
}

/// Puts an error of the command line into the form of all others: its first line is what happened, the
/// rest is advice.
fn as_failure(error: &clap::Error, words: &[OsString]) -> Failure {
    if let Some(failure) = unknown_word(error).and_then(answer) {
        return failure;
    }
    let text = if is_doubtful(words) {
        harmless(error, words)
    } else {
        error.render().to_string()
    };
    let text = text.trim();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let (message, advice) = text.split_once("\n\n").unwrap_or((text, ""));
    let failure = Failure::new(codes::request::INVALID_PARAMS, message);
    match advice {
        "" => failure,
        advice => failure.with_hint(advice, None),
    }
}

fn answer(word: &str) -> Option<Failure> {
    let lower = word.to_lowercase();
    let (_, text, command) = FOREIGN
        .iter()
        .find(|(words, ..)| words.contains(&lower.as_str()))?;
    let message = format!("there is no command {word:?} here");
    let failure = Failure::new(codes::request::INVALID_PARAMS, message);
    Some(failure.with_hint(*text, Some((*command).to_owned())))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::arguments::Cli;
    use crate::colour::Paint;

    fn said(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = Cli::read(&words, &Surroundings::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        let own = unknown_word(&error).and_then(answer);
        let own = own.map(|failure| failure::describe(&failure, Paint::Plain, Detail::Usual));
        own.unwrap_or_else(|| {
            if is_doubtful(&words) {
                harmless(&error, &words)
            } else {
                error.to_string()
            }
        })
    }

    #[test]
    fn words_of_other_tools_lead_to_ours() {
        assert_eq!(
            said("kiln rmi web"),
            "error: there is no command \"rmi\" here\n  \
             hint: to hide an image and free its name:  kiln forget IMAGE\n"
        );
        assert!(said("kiln save web").contains("kiln copy REFERENCE docker-archive:FILE"));
        assert!(said("kiln exec web").contains("kiln run IMAGE -- COMMAND"));
        assert!(said("kiln hello").contains("kiln demo"));
        assert!(said("kiln image rm web").contains("kiln forget IMAGE"));
    }

    #[test]
    fn a_password_in_a_name_is_not_said_again() {
        for line in ["login", "registry ping", "registry catalog", "logout"] {
            for name in [
                "ada:s3cr3t@host",
                "ada:s3cr3t@localhost:5613",
                "https://ada:s3cr3t@host:5000/v2/",
            ] {
                let said = said(&format!("kiln {line} {name}"));
                assert!(!said.contains("s3cr3t"), "{said}");
                assert!(
                    said.contains("***@") && said.contains("kiln login"),
                    "{said}"
                );
            }
        }
    }

    #[test]
    fn no_error_says_a_password_again_or_commands_a_terminal() {
        for line in [
            "kiln agent add x http://ada:s3cr3t@h",
            "kiln agent add x ssh://ada:s3cr3t@h",
            "kiln images https://ada:s3cr3t@h:5/x extra",
            "kiln https://ada:s3cr3t@h:5",
            "kiln --format=https://ada:s3cr3t@h:5 images",
            "kiln pull debian --platfrom=ada:s3cr3t@h:5",
            "kiln lease take ada:s3cr3t@h:5/x more and more",
        ] {
            let said = said(line);
            assert!(!said.contains("s3cr3t"), "{said}");
        }
        for line in [
            "kiln \u{1b}[2Jx",
            "kiln --format \u{1b}]0;x\u{7} images",
            "kiln registry ping \u{1b}[31m",
            "kiln images --\u{202e}x",
        ] {
            let said = said(line);
            assert!(!said.contains(is_hostile), "{said:?}");
            assert!(
                said.contains("\\u{1b}") || said.contains("\\u{202e}"),
                "{said}"
            );
        }
    }

    #[test]
    fn who_asks_for_json_gets_errors_in_it() {
        let words = |line: &str| -> Vec<OsString> { line.split(' ').map(Into::into).collect() };
        for (line, want) in [
            ("kiln images --json --bogus", true),
            ("kiln --format json imags", true),
            ("kiln images --format=ndjson x y", true),
            ("kiln images --format yaml --bogus", false),
            ("kiln images --bogus", false),
            ("kiln run x -- --json", false),
        ] {
            assert_eq!(wants_json(&words(line)), want, "{line}");
        }
        let line = words("kiln images --json --bogus");
        let error = Cli::read(&line, &Surroundings::default()).unwrap_err();
        let failure = as_failure(&error, &line);
        assert_eq!(
            (failure.exit_code, failure.code.as_str()),
            (2, "request.invalid_params")
        );
        assert!(
            failure.message.starts_with("unexpected argument '--bogus'"),
            "{failure:?}"
        );
        assert!(failure.hint.unwrap().text.contains("Usage:"));
    }

    #[test]
    fn misspelt_words_lead_to_the_nearest() {
        assert!(
            said("kiln pul debian").contains("'pull'"),
            "{}",
            said("kiln pul debian")
        );
        assert!(said("kiln kernel improt x").contains("'import'"));
    }

    #[test]
    fn advice_names_real_commands_only() {
        for (_, _, command) in FOREIGN {
            let mut words = command
                .split(' ')
                .skip(1)
                .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()));
            let first = words.next().unwrap();
            let root = Cli::command();
            let found = root
                .find_subcommand(first)
                .unwrap_or_else(|| panic!("{command}"));
            if let Some(second) = words.next() {
                assert!(found.find_subcommand(second).is_some(), "{command}");
            }
        }
    }

    #[test]
    fn no_word_of_other_tools_hides_one_of_ours() {
        for word in FOREIGN.iter().flat_map(|(words, ..)| *words) {
            assert!(Cli::command().find_subcommand(word).is_none(), "{word}");
        }
    }
}
