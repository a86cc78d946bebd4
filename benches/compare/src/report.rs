//! What is printed: tables, and each target with whether it was met.

use crate::statistics::Median;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One promise and what became of it.
pub struct Goal {
    what: String,
    target: String,
    measured: String,
    met: bool,
}

/// Named bars of one picture.
pub type Bars = Vec<(String, f64)>;

#[derive(Default)]
pub struct Report {
    text: String,
    goals: Vec<Goal>,
    /// What the pictures show, by picture.
    pub figures: BTreeMap<&'static str, Bars>,
}

/// The bound of a target: nothing is good enough but at most this.
#[derive(Clone, Copy)]
pub struct AtMost(pub f64);

impl Report {
    pub fn section(&mut self, title: &str) {
        let _ = write!(self.text, "\n## {title}\n\n");
        eprintln!("compare: {title}");
    }

    pub fn say(&mut self, text: &str) {
        let _ = write!(self.text, "{text}\n\n");
    }

    /// A Markdown table; the first column is text, the others are numbers.
    pub fn table(&mut self, head: &[String], rows: &[Vec<String>]) {
        let _ = writeln!(self.text, "| {} |", head.join(" | "));
        let rule: Vec<&str> =
            head.iter().enumerate().map(|(n, _)| if n == 0 { "---" } else { "---:" }).collect();
        let _ = writeln!(self.text, "|{}|", rule.join("|"));
        for row in rows {
            let _ = writeln!(self.text, "| {} |", row.join(" | "));
        }
        self.text.push('\n');
    }

    pub fn goal(&mut self, what: &str, target: AtMost, unit: &str, measured: Median, digits: usize) {
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        self.goals.push(Goal {
            what: what.to_owned(),
            target: format!("≤ {}{unit}", target.0),
            measured: format!("{}{unit}", with_range(measured, digits)),
            // Judged by the figure itself, not by the rounded one that is shown.
            met: measured.value <= target.0,
        });
    }

    /// The whole report, targets first.
    pub fn markdown(&self, preface: &str) -> String {
        let mut whole = format!("# Outrigger beside other proxies\n\n{preface}\n");
        if !self.goals.is_empty() {
            let met = self.goals.iter().filter(|goal| goal.met).count();
            let _ = write!(whole, "\n## Targets: {met} of {} met\n\n", self.goals.len());
            let _ = writeln!(whole, "| | target | measured | met |\n|---|---:|---:|---|");
            for goal in &self.goals {
                let met = if goal.met { "yes" } else { "**no**" };
                let _ = writeln!(whole, "| {} | {} | {} | {met} |", goal.what, goal.target, goal.measured);
            }
        }
        whole + &self.text
    }
}

/// "0.88 (0.86–0.90)".
pub fn with_range(median: Median, digits: usize) -> String {
    let Median { value, low, high } = median;
    if low == high {
        return format!("{value:.digits$}");
    }
    format!("{value:.digits$} ({low:.digits$}–{high:.digits$})")
}

pub fn plain(value: Option<Median>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |median| format!("{:.digits$}", median.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_missed_by_a_hair_is_missed() {
        let mut report = Report::default();
        let exactly = |value| Median { value, low: value, high: value };
        report.goal("a", AtMost(0.95), "", exactly(0.9501), 2);
        report.goal("b", AtMost(0.95), "", exactly(0.95), 2);
        let text = report.markdown("");
        assert!(text.contains("1 of 2 met") && text.contains("| a | ≤ 0.95 | 0.95 | **no** |"), "{text}");
    }
}
