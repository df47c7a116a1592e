//! What to say to somebody who typed a command Kiln does not have.
//!
//! The nearest real word comes from clap; the words other tools use come from here.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use kiln_api::{Failure, codes};
use kiln_domain::without_user_info;

use crate::colour::{Colour, Paint};
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
pub(crate) fn report(mut error: clap::Error, surroundings: &Surroundings) -> ExitCode {
    let paint = Colour::Auto.paint(surroundings);
    mask(&mut error);
    match unknown_word(&error).and_then(|word| answer(word, paint)) {
        Some(text) => output::note(&text),
        // The error knows its stream; when that is gone, nobody is left to tell.
        None => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Takes passwords out of a value that is quoted because it could not be read.
fn mask(error: &mut clap::Error) {
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) {
        let shown = ContextValue::String(without_user_info(value));
        error.insert(ContextKind::InvalidValue, shown);
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

fn answer(word: &str, paint: Paint) -> Option<String> {
    let lower = word.to_lowercase();
    let (_, text, command) = FOREIGN
        .iter()
        .find(|(words, ..)| words.contains(&lower.as_str()))?;
    let message = format!("there is no command {word:?} here");
    let failure = Failure::new(codes::request::INVALID_PARAMS, message)
        .with_hint(*text, Some((*command).to_owned()));
    Some(failure::describe(&failure, paint, Detail::Usual))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::arguments::Cli;

    fn said(line: &str) -> String {
        let mut error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        mask(&mut error);
        assert_eq!(error.exit_code(), 2, "{line}");
        let own = unknown_word(&error).and_then(|word| answer(word, Paint::Plain));
        own.unwrap_or_else(|| error.to_string())
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
            for name in ["ada:s3cr3t@host", "https://ada:s3cr3t@host:5000/v2/"] {
                let said = said(&format!("kiln {line} {name}"));
                assert!(!said.contains("s3cr3t"), "{said}");
                assert!(
                    said.contains("***@host") && said.contains("kiln login"),
                    "{said}"
                );
            }
        }
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
