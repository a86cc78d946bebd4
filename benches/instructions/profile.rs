//! What callgrind counted: the total, and where it was spent.

use crate::Outcome;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

const ROWS: usize = 40;

/// The instructions of a dump.
pub fn total(dump: &Path) -> Outcome<u64> {
    let text = fs::read_to_string(dump)?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    Ok(total.ok_or("a dump without a total")?.trim().parse()?)
}

/// Prints where a request's instructions are spent: by function, by file, and by crate.
pub fn print(dump: &Path, requests: u64) -> Outcome<()> {
    let spent = Spent::read(&fs::read_to_string(dump)?);
    let mut crates = HashMap::new();
    for (file, cost) in &spent.files {
        let name = file.split_once("/src/").map_or(file.as_str(), |(name, _)| name);
        *crates.entry(name.to_owned()).or_default() += cost;
    }
    table("by function, without what it calls", &spent.functions, requests);
    table("by file, what is inlined from it elsewhere included", &spent.files, requests);
    table("by crate, likewise", &crates, requests);
    Ok(())
}

fn table(title: &str, costs: &HashMap<String, u64>, requests: u64) {
    let mut rows: Vec<_> = costs.iter().collect();
    rows.sort_by_key(|(name, cost)| (std::cmp::Reverse(**cost), *name));
    println!("\n   instr./req. {title}");
    for (name, cost) in rows.iter().take(ROWS).filter(|(_, cost)| **cost >= requests) {
        println!("   {:>11.0} {name}", **cost as f64 / requests as f64);
    }
}

/// Instructions by where they stand in the source.
#[derive(Default)]
struct Spent {
    functions: HashMap<String, u64>,
    files: HashMap<String, u64>,
}

impl Spent {
    /// Reads callgrind's format, version 1, as far as callgrind makes use of it.
    fn read(text: &str) -> Self {
        let (mut spent, mut names) = (Self::default(), Names::default());
        let (mut function, mut file) = (String::new(), String::new());
        let mut calls = false;
        for line in text.lines() {
            if let Some((key, value)) = line.split_once('=').filter(|(key, _)| is_key(key)) {
                match key {
                    "fn" => function = names.whole("fn", value),
                    "cfn" => drop(names.whole("fn", value)),
                    "fl" | "fi" | "fe" => file = names.whole("fl", value),
                    "cfi" | "cfl" => drop(names.whole("fl", value)),
                    "calls" => calls = true,
                    _ => {}
                }
                continue;
            }
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            // The line after a call is what the callee cost: it is counted where it stands itself.
            let Some(cost) =
                cost.filter(|_| line.starts_with(|c: char| "+-*".contains(c) || c.is_ascii_digit()))
            else {
                continue;
            };
            if !std::mem::take(&mut calls) {
                *spent.functions.entry(function.clone()).or_default() += cost;
                *spent.files.entry(short(&file)).or_default() += cost;
            }
        }
        spent
    }
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase())
}

/// A name is written once, as `(7) name`; later only `(7)`.
#[derive(Default)]
struct Names(HashMap<(&'static str, String), String>);

impl Names {
    fn whole(&mut self, kind: &'static str, text: &str) -> String {
        let (number, name) = text.split_once(' ').unwrap_or((text, ""));
        let known = self.0.entry((kind, number.to_owned())).or_default();
        if !name.is_empty() {
            *known = name.to_owned();
        }
        known.clone()
    }
}

/// `hyper-1.12.0/src/client.rs` of a path into a folder of sources.
fn short(path: &str) -> String {
    let cut = |mark| path.split_once(mark).map(|(_, rest): (_, &str)| rest);
    if let Some(rest) = cut("/registry/src/").and_then(|rest| rest.split_once('/')) {
        return rest.1.to_owned();
    }
    if let Some(rest) = cut("/library/").filter(|_| path.starts_with("/rustc/")) {
        return rest.to_owned();
    }
    cut("/benches/../").unwrap_or(path).to_owned()
}
