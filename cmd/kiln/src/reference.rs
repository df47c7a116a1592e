//! The client about itself: completion scripts, manual pages, help.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use kiln_api::{Class, Failure, codes};

use crate::arguments::Cli;
use crate::failure::CommandError;
use crate::output;
use crate::session::Session;

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// Shell to complete in
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// About what.
#[derive(Debug, Args)]
pub(crate) struct HelpArguments {
    /// Command, or exit-codes
    #[arg(value_name = "COMMAND")]
    topic: Vec<String>,
}

/// Prints a completion script.
pub(crate) fn completion(arguments: &CompletionArguments, _: &Session) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "kiln", &mut script);
    output::write(&String::from_utf8_lossy(&script))
}

/// Prints the manual page, or writes all of them.
pub(crate) fn man(arguments: &ManArguments, _: &Session) -> Result<(), CommandError> {
    if let Some(directory) = &arguments.output_dir {
        return Ok(clap_mangen::generate_to(Cli::command(), directory)?);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    output::write(&String::from_utf8_lossy(&page))
}

/// Explains.
pub(crate) fn help(arguments: &HelpArguments, _: &Session) -> Result<(), CommandError> {
    if arguments.topic == ["exit-codes"] {
        return output::write(&exit_codes());
    }
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for word in &arguments.topic {
        command = command.find_subcommand_mut(word).ok_or_else(|| {
            Failure::new(
                codes::request::INVALID_PARAMS,
                format!("there is no help on {:?}", arguments.topic.join(" ")),
            )
            .with_hint("the commands are listed by:", Some("kiln help".to_owned()))
        })?;
    }
    output::write(&command.render_long_help().to_string())
}

/// The exit codes: those of the classes of errors, and the client's own.
fn exit_codes() -> String {
    let mut rows = vec![
        (0, "done; also an empty list"),
        (7, "the daemon cannot be reached"),
        (10, "kiln outdated: something newer is available"),
        (
            125,
            "kiln run: the program never ran, or nobody heard how it ended; other codes of kiln run are \
             the program's, but for wrong words on its command line, which are 2 as everywhere",
        ),
    ];
    rows.extend(
        Class::ALL
            .iter()
            .map(|class| (class.exit_code(), meaning(*class))),
    );
    rows.sort_by_key(|(code, _)| *code);
    let rows = rows
        .into_iter()
        .map(|(code, meaning)| vec![code.to_string(), meaning.to_owned()])
        .collect();
    output::table(&["CODE", "MEANING"], rows)
}

fn meaning(class: Class) -> &'static str {
    match class {
        Class::Internal => "Kiln or the machine failed",
        Class::Invalid => "the command or its input is wrong",
        Class::NotFound => "something named does not exist",
        Class::Auth => "who is calling is not known, here or at a registry",
        Class::Denied => "who is calling may not do this",
        Class::Conflict => "the state of things forbids it: taken, in use, ambiguous",
        Class::Policy => "a policy refuses it",
        Class::Network => "network or registry trouble; try again",
        Class::Unavailable => "the daemon cannot do it now; try again",
        Class::Partial => "part of a batch failed",
        Class::Timeout => "the time given was too short; the work goes on",
        Class::Cancelled => "interrupted, or cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_explained_in_order() {
        let text = exit_codes();

        let codes: Vec<u8> = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(
            codes,
            [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 124, 125, 130]
        );
    }

    #[test]
    fn completions_and_manual_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kiln", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(
                script.contains("kernel") && script.contains("import"),
                "{shell}"
            );
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .unwrap();
        assert!(String::from_utf8(page).unwrap().contains("kiln\\-pull"));
    }
}
