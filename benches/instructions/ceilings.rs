//! The file of ceilings: a line for each mix, with what it may cost and what it cost when that was set.

use crate::Outcome;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const HEAD: &str = "\
# User instructions per request on x86_64: the mix, its ceiling, and what was measured when it was set.
# benches/instructions/run --set writes this file.
";

#[derive(Clone, Copy, Default)]
pub struct Ceiling {
    pub most: u64,
    pub was: u64,
}

/// In the file's order.
pub struct Ceilings(Vec<(String, Ceiling)>);

impl Ceilings {
    pub fn read(file: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let line = |line: &str| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [name, most, was] => Ok(((*name).to_owned(), Ceiling { most: most.parse()?, was: was.parse()? })),
            _ => Err(format!("{}: not a mix and two numbers: {line}", file.display()).into()),
        };
        Ok(Self(lines.map(line).collect::<Outcome<_>>()?))
    }

    pub fn of(&self, name: &str) -> Option<Ceiling> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, ceiling)| *ceiling)
    }

    /// With room of 5 %, up to the next ten: more than one run differs from another.
    pub fn set(&mut self, name: &str, was: u64) {
        let ceiling = Ceiling { most: (was + was / 20).next_multiple_of(10), was };
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = ceiling,
            None => self.0.push((name.to_owned(), ceiling)),
        }
    }

    pub fn write(&self, file: &Path) -> Outcome<()> {
        let mut text = HEAD.to_owned();
        for (name, Ceiling { most, was }) in &self.0 {
            writeln!(text, "{name:<10} {most:>7} {was:>7}")?;
        }
        Ok(fs::write(file, text)?)
    }
}
