//! Tells what a guest's program writes from what our init says on the same console.
//!
//! ```text
//! hello\r\n                              the program's
//! kiln-init: cannot …\r\n                init's: for stderr
//! \r\r\nkiln-init: exit {"exit":0}\r\n   the report, with the line end before it: for nobody
//! ```
//! A terminal turns each `\n` into `\r\n`; taken back, a program's bytes are what it wrote. Init
//! begins its report with `\r\n`, which arrives as `\r\r\n`: so the line end that it puts before
//! the report can be told from the program's, and is taken away again.
//!
//! A program can write such lines too. The last report counts, and init's is the last: by then
//! everything else in the guest has ended.

use kiln_boot::Outcome;

/// What a line of init's starts with.
const PREFIX: &[u8] = b"kiln-init: ";

/// Longest line of init's that is waited for, in bytes; what is longer is the program's.
const LINE_BYTES: usize = 64 << 10;

/// How a program's line ends are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineEnds {
    /// As they come, for a terminal.
    AsTheyCome,
    /// As the program wrote them.
    AsWritten,
}

/// A console that is read.
#[derive(Debug)]
pub(crate) struct Console {
    line_ends: LineEnds,
    /// How many `\r` have come last, two at most: they may begin a line end.
    returns: usize,
    line: Line,
    report: Option<Outcome>,
}

/// Whose line it is that is being read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// The program's.
    Program,
    /// Not known yet: so far it is how a line of init's starts.
    Open {
        /// The line end before it, where that may be init's.
        lead: Option<LineEnd>,
        /// What has come of it.
        start: Vec<u8>,
    },
}

/// A line end, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    /// `\n`: the program has told its terminal not to add anything.
    Bare,
    /// `\r\n`: a `\n` of the program's.
    Usual,
    /// `\r\r\n`: a `\r\n` of the program's, or of init's before its report.
    Double,
}

/// What a piece of a console says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// By the program.
    pub(crate) program: Vec<u8>,
    /// By init: whole lines.
    pub(crate) init: Vec<u8>,
}

impl Console {
    /// Starts to read a console.
    pub(crate) fn new(line_ends: LineEnds) -> Self {
        Self {
            line_ends,
            returns: 0,
            line: open(None),
            report: None,
        }
    }

    /// Takes a piece, cut anywhere.
    pub(crate) fn hear(&mut self, piece: &[u8]) -> Said {
        let mut said = Said::default();
        for &byte in piece {
            match (byte, self.returns) {
                (b'\r', 2) => self.take(b'\r', &mut said),
                (b'\r', _) => self.returns += 1,
                (b'\n', returns) => {
                    self.returns = 0;
                    self.end_line(LineEnd::after(returns), &mut said);
                }
                _ => {
                    self.release_returns(&mut said);
                    self.take(byte, &mut said);
                }
            }
        }
        said
    }

    /// Tells whether bytes are held back that [`Console::let_go`] would give away.
    pub(crate) fn holds_back(&self) -> bool {
        let holds_returns = self.returns > 0 && self.line_ends == LineEnds::AsTheyCome;
        holds_returns
            || matches!(&self.line, Line::Open { lead, start } if lead.is_some() || !start.is_empty())
    }

    /// Gives away what is held back, since nothing has come for a while.
    pub(crate) fn let_go(&mut self) -> Said {
        let mut said = Said::default();
        self.release_line(&mut said);
        if self.line_ends == LineEnds::AsTheyCome {
            self.release_returns(&mut said);
        }
        said
    }

    /// Gives away all that is held back, since nothing will come any more.
    pub(crate) fn finish(&mut self) -> Said {
        let mut said = Said::default();
        self.release_line(&mut said);
        self.release_returns(&mut said);
        said
    }

    /// Returns how the program ended, as far as was said.
    pub(crate) fn report(&self) -> Option<&Outcome> {
        self.report.as_ref()
    }

    /// Takes a byte that is no part of a line end.
    fn take(&mut self, byte: u8, said: &mut Said) {
        if let Line::Open { start, .. } = &mut self.line {
            let fits = PREFIX.get(start.len()).is_none_or(|next| *next == byte);
            if fits && start.len() < LINE_BYTES {
                start.push(byte);
                return;
            }
        }
        self.release_line(said);
        self.line = Line::Program;
        said.program.push(byte);
    }

    fn end_line(&mut self, end: LineEnd, said: &mut Said) {
        let line = std::mem::replace(&mut self.line, Line::Program);
        if let Line::Open { lead, start } = line {
            if start.starts_with(PREFIX) {
                self.hear_init(lead, &start, said);
                self.line = open(None);
                return;
            }
            self.write_line(lead, &start, said);
        }
        if end == LineEnd::Double {
            self.line = open(Some(end));
            return;
        }
        said.program.extend_from_slice(end.shown(self.line_ends));
        self.line = open(None);
    }

    /// Takes a whole line of init's.
    fn hear_init(&mut self, lead: Option<LineEnd>, line: &[u8], said: &mut Said) {
        let text = String::from_utf8_lossy(line);
        if let Some(outcome) = Outcome::from_console_line(&text) {
            self.report = Some(outcome);
            return;
        }
        self.write_line(lead, &[], said);
        said.init.extend_from_slice(text.trim_end().as_bytes());
        said.init.push(b'\n');
    }

    /// Gives the line away that has begun like init's: it is the program's.
    fn release_line(&mut self, said: &mut Said) {
        let is_held =
            matches!(&self.line, Line::Open { lead, start } if lead.is_some() || !start.is_empty());
        if !is_held {
            return;
        }
        let is_at_start = matches!(&self.line, Line::Open { start, .. } if start.is_empty());
        let next = if is_at_start {
            open(None)
        } else {
            Line::Program
        };
        if let Line::Open { lead, start } = std::mem::replace(&mut self.line, next) {
            self.write_line(lead, &start, said);
        }
    }

    fn release_returns(&mut self, said: &mut Said) {
        for _ in 0..std::mem::take(&mut self.returns) {
            self.take(b'\r', said);
        }
    }

    /// Writes the beginning of a line that turned out to be the program's.
    fn write_line(&self, lead: Option<LineEnd>, start: &[u8], said: &mut Said) {
        if let Some(lead) = lead {
            said.program.extend_from_slice(lead.shown(self.line_ends));
        }
        said.program.extend_from_slice(start);
    }
}

impl LineEnd {
    fn after(returns: usize) -> Self {
        match returns {
            0 => Self::Bare,
            1 => Self::Usual,
            _ => Self::Double,
        }
    }

    fn shown(self, line_ends: LineEnds) -> &'static [u8] {
        match (self, line_ends) {
            (Self::Bare, _) | (Self::Usual, LineEnds::AsWritten) => b"\n",
            (Self::Usual, LineEnds::AsTheyCome) | (Self::Double, LineEnds::AsWritten) => b"\r\n",
            (Self::Double, LineEnds::AsTheyCome) => b"\r\r\n",
        }
    }
}

fn open(lead: Option<LineEnd>) -> Line {
    Line::Open {
        lead,
        start: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
