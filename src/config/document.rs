//! One configuration file while it is read: its text, and what was found out about it so far.

use super::env::{Environment, expand};
use super::problem::{Origin, Problem, Problems, Resolved};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The file, and where the readers of its parts leave problems, effective values and the keys they know.
pub(super) struct Document<'a> {
    file: Arc<str>,
    text: &'a str,
    /// Relative paths in the file start here.
    pub(super) folder: PathBuf,
    pub(super) env: &'a Environment,
    problems: RefCell<Vec<Problem>>,
    values: RefCell<Vec<Resolved>>,
    known: RefCell<BTreeSet<String>>,
}

/// One value of the file that is no table, its variables replaced.
pub(super) enum Scalar<'v> {
    /// Owned if a variable stood in it.
    Text(Cow<'v, str>),
    /// As digits; `None` if it does not fit.
    Integer(&'v str, Option<i64>),
    Flag(bool),
    /// What else it is, with its article.
    Other(&'static str),
}

impl<'a> Document<'a> {
    pub(super) fn new(file: &str, folder: &Path, text: &'a str, env: &'a Environment) -> Self {
        Self {
            file: file.into(),
            text,
            folder: folder.to_owned(),
            env,
            problems: RefCell::default(),
            values: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// The file's tree; what is no TOML is left out of it and noted as problems.
    pub(super) fn parse(&self) -> Spanned<DeTable<'a>> {
        let (tree, errors) = DeTable::parse_recoverable(self.text);
        let mut lines = BTreeSet::new();
        for error in errors {
            let (line, column) = position(self.text, error.span().map_or(0, |span| span.start));
            // The first error of a line is the cause of the others.
            if lines.insert(line) {
                let origin = Origin::Line { file: Arc::clone(&self.file), line, column };
                self.problem(origin, "", format!("no TOML: {}", error.message().trim()));
            }
        }
        tree
    }

    pub(super) fn origin(&self, offset: usize) -> Origin {
        let (line, column) = position(self.text, offset);
        Origin::Line { file: Arc::clone(&self.file), line, column }
    }

    pub(super) fn whole(&self) -> Origin {
        Origin::File(Arc::clone(&self.file))
    }

    pub(super) fn problem(&self, origin: Origin, path: &str, message: impl Into<String>) {
        let problem = Problem { origin, path: path.to_owned(), message: message.into() };
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    /// Remembers an effective value.
    pub(super) fn note(&self, path: String, value: String, origin: Origin) {
        self.values.borrow_mut().push(Resolved { path, value, origin });
    }

    /// Remembers that some reader asks for this key.
    pub(super) fn knows(&self, path: String) {
        self.known.borrow_mut().insert(path);
    }

    /// A value with its variables replaced.
    ///
    /// # Errors
    /// Those that cannot be.
    pub(super) fn scalar<'v>(&self, value: &'v DeValue<'_>) -> Result<Scalar<'v>, Vec<String>> {
        Ok(match value {
            DeValue::String(text) => Scalar::Text(expand(text, self.env)?),
            DeValue::Integer(digits) => {
                Scalar::Integer(digits.as_str(), i64::from_str_radix(digits.as_str(), digits.radix()).ok())
            }
            DeValue::Boolean(flag) => Scalar::Flag(*flag),
            other => Scalar::Other(kind(other)),
        })
    }

    /// `path` as seen from the file's folder.
    pub(super) fn absolute(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// All that was noted: the problems if there are any, else the effective values and the known keys.
    pub(super) fn finish(self) -> Result<(Vec<Resolved>, BTreeSet<String>), Problems> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        if problems.is_empty() {
            Ok((self.values.into_inner(), self.known.into_inner()))
        } else {
            Err(Problems(problems))
        }
    }
}

impl Scalar<'_> {
    /// What it is, for a message that must not show it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(..) => "an integer",
            Self::Flag(_) => "true or false",
            Self::Other(kind) => kind,
        }
    }

    /// A variable stood in it. What it came to may be a secret that nobody meant for this place.
    pub(super) fn is_expanded(&self) -> bool {
        matches!(self, Self::Text(Cow::Owned(_)))
    }

    /// The text, if it is one.
    pub(super) fn text(&self, expected: &str) -> Result<&str, String> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(format!("{expected} is expected here, not {}", other.kind())),
        }
    }
}

/// What a value is, with its article, for a message that must not show it.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Whether a file that is named in the configuration can be read now.
///
/// # Errors
/// Which file, and the system's reason.
pub(super) fn readable(path: &Path) -> Result<(), String> {
    let complain = |why: String| Err(format!("cannot read {}: {why}", path.display()));
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_dir() => complain("it is a folder".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => complain(error.to_string()),
    }
}

/// Line and column of a byte of `text`, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "ä = 1\nüb = 2\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, text.find("b =").unwrap()), (2, 2));
        assert_eq!(position(text, 10_000), (3, 1), "beyond the end is the end");
    }
}
