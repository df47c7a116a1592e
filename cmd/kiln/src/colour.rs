//! Whether messages are coloured, and the colours.

use clap::ValueEnum;

use crate::surroundings::Surroundings;

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless the environment says otherwise
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How to mark words on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// With escape sequences of ECMA-48.
    Coloured,
    /// Not at all.
    Plain,
}

impl Colour {
    /// Decides by the flag, then by the environment, then by the terminal.
    pub(crate) fn paint(self, surroundings: &Surroundings) -> Paint {
        self.decide(surroundings, surroundings.stderr_is_terminal)
    }

    /// Decides likewise for stdout.
    pub(crate) fn stdout_paint(self, surroundings: &Surroundings) -> Paint {
        self.decide(surroundings, surroundings.stdout_is_terminal)
    }

    fn decide(self, surroundings: &Surroundings, is_terminal: bool) -> Paint {
        let is_welcome = is_terminal && !surroundings.no_color && !surroundings.is_dumb;
        let automatic = surroundings.force_color || is_welcome;
        match self {
            Self::Always => Paint::Coloured,
            Self::Auto if automatic => Paint::Coloured,
            Self::Auto | Self::Never => Paint::Plain,
        }
    }
}

impl Paint {
    /// Marks something that failed.
    pub(crate) fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// Marks something that needs attention.
    pub(crate) fn doubtful(self, text: &str) -> String {
        self.with("1;33", text)
    }

    /// Marks something that is well.
    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// Marks advice.
    pub(crate) fn advice(self, text: &str) -> String {
        self.with("36", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self {
            Self::Coloured => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_environment_and_that_over_the_terminal() {
        let paint = |colour: Colour, terminal, no_color, force_color| {
            colour.paint(&Surroundings {
                stderr_is_terminal: terminal,
                no_color,
                force_color,
                ..Surroundings::default()
            })
        };

        assert_eq!(paint(Colour::Auto, true, false, false), Paint::Coloured);
        assert_eq!(paint(Colour::Auto, true, true, false), Paint::Plain);
        assert_eq!(paint(Colour::Auto, false, false, false), Paint::Plain);
        assert_eq!(paint(Colour::Auto, false, false, true), Paint::Coloured);
        assert_eq!(paint(Colour::Never, true, false, true), Paint::Plain);
        assert_eq!(paint(Colour::Always, false, true, false), Paint::Coloured);
    }

    #[test]
    fn plain_paint_adds_nothing() {
        assert_eq!(Paint::Plain.bad("error:"), "error:");
        assert_eq!(Paint::Coloured.bad("error:"), "\u{1b}[1;31merror:\u{1b}[0m");
    }
}
