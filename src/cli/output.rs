//! The one place that prints.

use super::Outcome;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Standard output and standard error. A reader that went away (a closed pipe) is no error: the rest is not printed.
pub struct Output {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// Why standard output takes no more.
    broken: Option<io::Error>,
}

impl Output {
    pub(super) fn of_process() -> Self {
        Self { out: Box::new(io::stdout()), err: Box::new(io::stderr()), broken: None }
    }

    /// A line of what was asked for.
    pub fn line(&mut self, text: impl Display) {
        self.text(format_args!("{text}\n"));
    }

    /// As [`Self::line`], ended by whoever calls.
    pub fn text(&mut self, text: impl Display) {
        if self.broken.is_none() {
            self.broken = write!(self.out, "{text}").err();
        }
    }

    /// Shows at once what was printed so far.
    pub fn flush(&mut self) {
        if self.broken.is_none() {
            self.broken = self.out.flush().err();
        }
    }

    /// Nobody reads what is printed any more.
    pub fn is_closed(&self) -> bool {
        self.broken.is_some()
    }

    /// Standard output is a screen that people look at.
    pub fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// How many characters fit on a line of that screen.
    pub fn width(&self) -> Option<usize> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    }

    /// A line about what went wrong.
    pub fn error(&mut self, text: impl Display) {
        // There is nobody else to tell.
        let _ = writeln!(self.err, "{text}");
    }

    /// Flushes; a full disk turns a good outcome into a failure.
    pub(super) fn finish(mut self, outcome: Outcome) -> Outcome {
        let broken = self.broken.take().or_else(|| self.out.flush().err());
        match broken {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.error(format_args!("standard output: {error}"));
                if outcome == Outcome::Fine { Outcome::Failed } else { outcome }
            }
            _ => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every write.
    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn outcome(kind: io::ErrorKind) -> Outcome {
        let mut output = Output { out: Box::new(Broken(kind)), err: Box::new(io::sink()), broken: None };
        output.line("a");
        output.line("b");
        output.finish(Outcome::Fine)
    }

    #[test]
    fn a_closed_pipe_is_fine_and_a_full_disk_is_not() {
        assert_eq!(outcome(io::ErrorKind::BrokenPipe), Outcome::Fine);
        assert_eq!(outcome(io::ErrorKind::StorageFull), Outcome::Failed);
    }
}
