//! One run of the client: which daemon, how to print, how long to wait.

use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kiln_api::Method;
use kiln_client::{Client, ClientError, Exchange, Host, HostOrigin, Tap};

use crate::arguments::Globals;
use crate::colour::Paint;
use crate::failure::{self, CommandError, Detail};
use crate::output::{self, Amount, Format, Output};
use crate::progress::{Renderer, Style};
use crate::surroundings::Surroundings;

/// What all commands share.
#[derive(Debug)]
pub(crate) struct Session {
    globals: Globals,
    surroundings: Surroundings,
}

impl Session {
    /// Takes the flags and the environment.
    pub(crate) fn new(globals: Globals, surroundings: Surroundings) -> Self {
        Self {
            globals,
            surroundings,
        }
    }

    /// Returns the same with another daemon.
    pub(crate) fn with_host(&self, host: &Host) -> Self {
        let host = Some(host.to_string());
        Self {
            globals: Globals {
                host,
                ..self.globals.clone()
            },
            surroundings: self.surroundings.clone(),
        }
    }

    /// Returns how to print data.
    pub(crate) fn output(&self) -> Output {
        Output {
            format: if self.globals.json {
                Format::Json
            } else {
                self.globals.format
            },
            amount: if self.globals.quiet {
                Amount::Names
            } else {
                Amount::Everything
            },
        }
    }

    /// Tells of variables that are passed over, since what they name is no absolute path.
    pub(crate) fn warn_of_relative_paths(&self) {
        for name in &self.surroundings.relative {
            let label = self.paint().doubtful("warning:");
            output::note(&format!(
                "{label} {name} is not an absolute path and is passed over\n"
            ));
        }
    }

    /// Returns how to colour messages.
    pub(crate) fn paint(&self) -> Paint {
        self.globals.color.paint(&self.surroundings)
    }

    /// Returns how to colour data that is meant for people.
    pub(crate) fn stdout_paint(&self) -> Paint {
        self.globals.color.stdout_paint(&self.surroundings)
    }

    /// Returns how to show progress. With `-q` nothing is shown unless a style was asked for.
    pub(crate) fn renderer(&self) -> Renderer {
        let style = match (self.globals.progress, self.globals.quiet) {
            (Style::Auto, true) => Style::None,
            (style, _) => style,
        };
        Renderer::new(style, &self.surroundings)
    }

    /// Says whether somebody who waits at a terminal wants to be told so.
    pub(crate) fn shows_waiting(&self) -> bool {
        self.surroundings.stderr_is_terminal
            && !self.globals.quiet
            && self.globals.progress != Style::None
    }

    /// Returns the environment.
    pub(crate) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Returns how long to wait, when the caller set a limit.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.globals.timeout.map(|span| span.0)
    }

    /// Finds the daemon's address, and what decided for it.
    pub(crate) fn host(&self) -> Result<(Host, HostOrigin), CommandError> {
        let surroundings = kiln_client::Surroundings {
            named: self.globals.host.clone(),
            kiln_host: self.kiln_host()?,
            xdg_runtime_dir: self.surroundings.xdg_runtime_dir.clone(),
        };
        Ok(Host::discover(&surroundings, Path::exists)?)
    }

    /// Returns `KILN_HOST`, unless a flag makes it moot.
    fn kiln_host(&self) -> Result<Option<String>, CommandError> {
        let is_named = self
            .globals
            .host
            .as_ref()
            .is_some_and(|named| !named.is_empty());
        match &self.surroundings.kiln_host {
            Some(value) if !is_named => match value.to_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(failure::not_text("KILN_HOST")),
            },
            _ => Ok(None),
        }
    }

    /// Connects to the daemon.
    pub(crate) async fn connect(&self) -> Result<Client, CommandError> {
        let (host, _) = self.host()?;
        let connecting = Client::connect_with(&host, self.tap());
        self.limited("daemon.info", connecting).await
    }

    /// Calls a method that answers at once.
    pub(crate) async fn call<M: Method>(
        &self,
        client: &Client,
        params: &M::Params,
    ) -> Result<M::Result, CommandError> {
        self.limited(M::NAME, client.call::<M>(params)).await
    }

    /// Waits for an answer for as long as the caller wants.
    pub(crate) async fn limited<T>(
        &self,
        method: &str,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, CommandError> {
        let Some(limit) = self.timeout() else {
            return Ok(answer.await?);
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ClientError::TimedOut {
                method: method.to_owned(),
                seconds: limit.as_secs(),
            }
            .into()),
        }
    }

    /// Says why a command failed, in the form that data was asked for in, and returns the exit code.
    pub(crate) fn report(&self, error: &CommandError) -> ExitCode {
        if let CommandError::Failed(failure) = error {
            output::note(&match self.output().format {
                Format::Json | Format::Ndjson => failure::document(failure),
                Format::Table | Format::Yaml => {
                    failure::describe(failure, self.paint(), self.detail())
                }
            });
        }
        ExitCode::from(error.exit_code())
    }

    /// Returns how much to say about failures.
    pub(crate) fn detail(&self) -> Detail {
        if self.globals.debug {
            Detail::Debug
        } else {
            Detail::Usual
        }
    }

    fn tap(&self) -> Option<Tap> {
        self.globals
            .debug
            .then(|| Tap::new(|exchange| output::note(&written(&exchange))))
    }
}

fn written(exchange: &Exchange<'_>) -> String {
    match exchange {
        Exchange::Request { method, params } => format!("> {method} {params}\n"),
        Exchange::Answer { method, result } => match result {
            Ok(result) => format!("< {method} {result}\n"),
            Err(error) => format!("< {method} failed {error}\n"),
        },
        Exchange::Passed { descriptors } => format!("> {descriptors} descriptors\n"),
        Exchange::Taken { descriptors } => format!("< {descriptors} descriptors\n"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    use clap::Parser as _;

    use super::*;
    use crate::arguments::Cli;

    #[test]
    fn an_address_that_is_no_text_is_refused_unless_a_flag_makes_it_moot() {
        let find = |words: &[&str], kiln_host: &[u8]| {
            let cli = Cli::try_parse_from(words).unwrap();
            let surroundings = Surroundings {
                kiln_host: Some(OsString::from_vec(kiln_host.to_vec())),
                ..Surroundings::default()
            };
            let found = Session::new(cli.globals, surroundings).host();
            found.map(|(host, origin)| (host.to_string(), origin))
        };

        let refused = find(&["kiln", "info"], b"unix:///a\xff").unwrap_err();

        assert_eq!(refused.exit_code(), 2);
        let CommandError::Failed(failure) = refused else {
            panic!("{refused:?}");
        };
        assert!(failure.message.contains("KILN_HOST"), "{failure:?}");
        let named = find(&["kiln", "--host", "unix:///b", "info"], b"\xff").unwrap();
        assert_eq!(named, ("unix:///b".to_owned(), HostOrigin::Named));
        let told = find(&["kiln", "info"], b"unix:///c").unwrap();
        assert_eq!(told, ("unix:///c".to_owned(), HostOrigin::Environment));
    }
}
