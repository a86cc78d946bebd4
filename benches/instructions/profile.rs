//! What callgrind counted: the total, and where it was spent.

use crate::Outcome;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Of a table; and of the dearest functions, the most frequent callers.
const ROWS: usize = 40;
const DEAREST: usize = 8;
const CALLERS: usize = 8;

/// The C library's names for what crosses into the kernel.
const SYSTEM_CALLS: [&str; 12] = [
    "accept4",
    "connect",
    "epoll_ctl",
    "epoll_wait",
    "read",
    "readv",
    "recv",
    "send",
    "shutdown",
    "syscall",
    "write",
    "writev",
];

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
        *crates.entry(home(file).to_owned()).or_default() += cost;
    }
    let each = |count: u64| count as f64 / requests as f64;
    let table = |title: &str, costs: &HashMap<String, u64>| {
        println!("\n   instr./req. {title}");
        for (name, cost) in dearest(costs).take(ROWS).filter(|(_, cost)| *cost >= requests) {
            println!("   {:>11.0} {name}", each(cost));
        }
    };
    table("by function, without what it calls", &spent.functions);
    table("by file, what is inlined from it elsewhere included", &spent.files);
    table("by crate, likewise", &crates);
    println!("\n   calls/req.  instr. (its own callees included) of the dearest functions, by caller");
    for (callee, _) in dearest(&spent.functions).take(DEAREST) {
        println!("                      {callee}");
        let mut callers: Vec<_> = spent.calls.iter().filter(|((_, called), _)| called == callee).collect();
        callers.sort_by_key(|((caller, _), calls)| (Reverse(calls.count), caller));
        for ((caller, _), calls) in
            callers.iter().take(CALLERS).filter(|(_, calls)| calls.count >= requests / 10)
        {
            println!("   {:>10.1} {:>7.0}   {caller}", each(calls.count), each(calls.cost));
        }
    }
    println!("\n   calls/req. system calls");
    for name in SYSTEM_CALLS {
        let called = spent.calls.iter().filter(|((_, callee), _)| callee.split('@').next() == Some(name));
        println!("   {:>10.2} {name}", each(called.map(|(_, calls)| calls.count).sum()));
    }
    Ok(())
}

fn dearest(costs: &HashMap<String, u64>) -> impl Iterator<Item = (&String, u64)> {
    let mut rows: Vec<_> = costs.iter().map(|(name, cost)| (name, *cost)).collect();
    rows.sort_by_key(|(name, cost)| (Reverse(*cost), *name));
    rows.into_iter()
}

/// Instructions by where they stand in the source.
#[derive(Default)]
struct Spent {
    functions: HashMap<String, u64>,
    files: HashMap<String, u64>,
    /// By caller and callee.
    calls: HashMap<(String, String), Calls>,
}

#[derive(Default)]
struct Calls {
    count: u64,
    /// What the callee calls included.
    cost: u64,
}

impl Spent {
    /// Reads callgrind's format, version 1, as far as callgrind makes use of it.
    fn read(text: &str) -> Self {
        let (mut spent, mut names) = (Self::default(), Names::default());
        let [mut function, mut callee, mut file] = [const { String::new() }; 3];
        let mut called = None;
        for line in text.lines() {
            if let Some((key, value)) = line.split_once('=').filter(|(key, _)| is_key(key)) {
                match key {
                    "fn" => function = names.whole("fn", value),
                    "cfn" => callee = names.whole("fn", value),
                    "fl" | "fi" | "fe" => file = short(&names.whole("fl", value)),
                    "cfi" | "cfl" => drop(names.whole("fl", value)),
                    "calls" => {
                        called = value.split_whitespace().next().and_then(|count| count.parse::<u64>().ok())
                    }
                    _ => {}
                }
                continue;
            }
            // Where it stands, and what it costs; where may be relative to the line before.
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            let Some(cost) =
                cost.filter(|_| line.starts_with(|c: char| "+-*".contains(c) || c.is_ascii_digit()))
            else {
                continue;
            };
            if let Some(count) = called.take() {
                let calls = spent.calls.entry((function.clone(), callee.clone())).or_default();
                calls.count += count;
                calls.cost += cost;
            } else {
                *spent.functions.entry(function.clone()).or_default() += cost;
                *spent.files.entry(file.clone()).or_default() += cost;
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

/// `hyper-1.12.0/src/client.rs` of a path into a folder of sources; `src/main.rs` of our own.
fn short(path: &str) -> String {
    let behind = |mark| path.split_once(mark).map(|(_, rest): (_, &str)| rest);
    let own = std::env::current_dir().ok();
    let own = own.and_then(|folder| Path::new(path).strip_prefix(folder).ok()?.to_str().map(str::to_owned));
    let package = || behind("/registry/src/")?.split_once('/').map(|(_, rest)| rest.to_owned());
    let library = || behind("/library/").filter(|_| path.starts_with("/rustc/")).map(str::to_owned);
    own.or_else(package).or_else(library).unwrap_or_else(|| path.to_owned())
}

/// What a file belongs to.
fn home(file: &str) -> &str {
    match file {
        _ if file.starts_with("src/") => "outrigger",
        _ if file.starts_with("./") => "the C library",
        _ => file.split_once("/src/").map_or(file, |(name, _)| name),
    }
}
