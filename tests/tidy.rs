//! Reads the source tree and holds what the compiler cannot: the floors, who may know what, the shape of files.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, lowest first: a module imports only from lower ones; siblings do not know each other.
const FLOORS: [&[&str]; 8] = [
    &["telemetry"],
    &["model", "rt", "net"],
    &["balance", "policy", "upstream", "registry"],
    &["discovery", "health"],
    &["cluster", "registration"],
    &["proxy", "admin"],
    &["config"],
    TOP,
];
/// The composition root: its parts know everyone, each other included.
const TOP: &[&str] = &["app", "cli", "main"];

/// The pure rooms of floor 2 see even less than their floor allows.
const ONLY_SEE_MODEL: [&str; 2] = ["balance", "policy"];

/// Words in code that only some places may say: what, where, and why.
const KNOWLEDGE: [(&str, &[&str], &str); 6] = [
    (
        "toml::",
        &["config/", "discovery/file.rs", "discovery/file/"],
        "only config knows TOML (file sources read theirs)",
    ),
    ("tonic::", &["registry/"], "only registry knows the registries' wire"),
    ("tonic_prost::", &["registry/"], "only registry knows the registries' wire"),
    ("reqwest::", &["registry/"], "only registry knows the registries' wire"),
    ("hickory_resolver::", &["registry/"], "only registry knows the registries' wire"),
    ("x-consul", &["registry/"], "only registry knows the registries' wire"),
];

/// Statuses of the proxy's own answers.
const OWN_STATUSES: [&str; 7] = [
    "StatusCode::BAD_GATEWAY",
    "StatusCode::BAD_REQUEST",
    "StatusCode::GATEWAY_TIMEOUT",
    "StatusCode::INTERNAL_SERVER_ERROR",
    "StatusCode::LOOP_DETECTED",
    "StatusCode::NOT_FOUND",
    "StatusCode::SERVICE_UNAVAILABLE",
];

/// What pure code does not do (invariant 7).
const IMPURE: [&str; 7] =
    [".await", "async fn", "Instant::now(", "SystemTime::now(", "rand::rng(", "spawn(", "from_os_rng("];

const LONGEST: usize = 600;
const EMPTY_NAMES: [&str; 8] = ["Manager", "Helper", "Util", "Wrapper", "Impl", "Data", "Info", "Base"];

/// A source file: where it is under `src/`, and its text in three degrees of bareness.
struct Source {
    path: String,
    text: String,
    /// Without comments and tests.
    code: String,
    /// Without the contents of strings, too.
    bare: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let (code, bare) = strip(text);
        let (code, bare) = without_tests(&code, &bare);
        Self { path: path.to_owned(), text: text.to_owned(), code, bare }
    }

    /// `["health", "probe"]` of `health/probe.rs`; empty for `lib.rs`.
    fn module(&self) -> Vec<&str> {
        let path = self.path.trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if path == "lib" { Vec::new() } else { path.split('/').collect() }
    }

    /// A file that is a test module as a whole.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources: Vec<_> = rust_files(&src)
        .into_iter()
        .map(|file| {
            let path = file.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
            Source::new(&path, &fs::read_to_string(&file).unwrap())
        })
        .collect();
    assert!(sources.len() >= 30, "only {} files found under {}", sources.len(), src.display());
    sources
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Fails with all complaints of a rule over the tree at once.
fn hold(rule: impl Fn(&Source) -> Vec<String>) {
    let complaints: Vec<_> = sources().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Two copies of a Rust text: without comments; and with the contents of strings and characters gone as well. Removed
/// bytes become spaces, so both keep their positions.
fn strip(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let (mut code, mut bare) = (bytes.to_vec(), bytes.to_vec());
    let blank = |copy: &mut [u8], from: usize, to: usize| {
        for byte in &mut copy[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let find = |needle: &str, from: usize| {
        text.as_bytes()[from..].windows(needle.len()).position(|w| w == needle.as_bytes()).map(|at| from + at)
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        if rest.starts_with(b"//") {
            let end = find("\n", at).unwrap_or(bytes.len());
            blank(&mut code, at, end);
            blank(&mut bare, at, end);
            at = end;
        } else if rest.starts_with(b"/*") {
            let end = end_of_block_comment(bytes, at);
            blank(&mut code, at, end);
            blank(&mut bare, at, end);
            at = end;
        } else if let Some(hashes) = raw_string(rest).filter(|_| !in_word) {
            let open = find("\"", at).unwrap() + 1;
            let close = find(&format!("\"{}", "#".repeat(hashes)), open).unwrap_or(bytes.len());
            blank(&mut bare, open, close);
            at = (close + 1 + hashes).min(bytes.len());
        } else if rest[0] == b'"' {
            let close = end_of_quote(bytes, at + 1, b'"');
            blank(&mut bare, at + 1, close);
            at = (close + 1).min(bytes.len());
        } else if rest[0] == b'\'' && is_character(text, at) {
            let close = end_of_quote(bytes, at + 1, b'\'');
            blank(&mut bare, at + 1, close);
            at = (close + 1).min(bytes.len());
        } else {
            at += 1;
        }
    }
    (String::from_utf8(code).unwrap(), String::from_utf8(bare).unwrap())
}

fn end_of_block_comment(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The number of hashes if a raw string begins here: `r"`, `r#"`, `br##"`.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let rest = rest.strip_prefix(b"b").or(rest.strip_prefix(b"c")).unwrap_or(rest);
    let rest = rest.strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|b| **b == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

fn end_of_quote(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

/// `'x'` or `'\n'`, not the lifetime `'x`.
fn is_character(text: &str, at: usize) -> bool {
    let mut after = text[at + 1..].chars();
    match after.next() {
        Some('\\') => true,
        Some(_) => after.next() == Some('\''),
        None => false,
    }
}

/// Cuts every item under `#[cfg(test)]` out of both copies.
fn without_tests(code: &str, bare: &str) -> (String, String) {
    let (mut code, mut bare) = (code.to_owned(), bare.to_owned());
    while let Some(start) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|m| bare.find(m)).min() {
        let end = end_of_item(bare.as_bytes(), start);
        code.replace_range(start..end, "");
        bare.replace_range(start..end, "");
    }
    (code, bare)
}

/// Where an item ends that begins with an attribute: after its block, or its semicolon.
fn end_of_item(bytes: &[u8], start: usize) -> usize {
    let (mut round, mut curly) = (0_i32, 0_i32);
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b'{' => curly += 1,
            b'}' => {
                curly -= 1;
                if curly <= 0 && round == 0 {
                    return at + 1;
                }
            }
            b';' if round == 0 && curly == 0 => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The top-level modules that a file's code names: by `crate::x`, `crate::{x, y}`, `outrigger::x`, or `super::x` out
/// of its own.
fn imports(source: &Source) -> Vec<String> {
    let mut names = Vec::new();
    for root in ["crate::", "outrigger::"] {
        for (at, _) in source.bare.match_indices(root) {
            if !continues_a_word(&source.bare, at) {
                names.extend(heads(&source.bare[at + root.len()..]));
            }
        }
    }
    let depth = source.module().len();
    for (at, _) in source.bare.match_indices("super::") {
        let chained = source.bare[..at].ends_with("super::");
        if chained || continues_a_word(&source.bare, at) {
            continue;
        }
        let mut rest = &source.bare[at..];
        let mut steps = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            (rest, steps) = (next, steps + 1);
        }
        if steps >= depth {
            names.extend(heads(rest));
        }
    }
    names.retain(|name| !matches!(name.as_str(), "self" | "*" | ""));
    names
}

fn continues_a_word(text: &str, at: usize) -> bool {
    text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
}

/// `a` of `a::b`; `a` and `c` of `{a::b, c}`.
fn heads(path: &str) -> Vec<String> {
    let word = |text: &str| {
        let text = text.trim_start();
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let Some(group) = path.trim_start().strip_prefix('{') else { return vec![word(path)] };
    let (mut depth, mut heads, mut begin) = (0_i32, Vec::new(), 0);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(word(&group[begin..at]));
                return heads;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(word(&group[begin..at]));
                begin = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn floors(source: &Source) -> Vec<String> {
    let module = source.module();
    let Some(own) = module.first().copied() else { return Vec::new() };
    let path = &source.path;
    let Some(own_floor) = floor(own) else {
        return vec![format!("src/{path}: `{own}` stands on no floor: add it to the table in tests/tidy.rs")];
    };
    if source.is_test() || TOP.contains(&own) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for other in imports(source).into_iter().filter(|other| other != own) {
        match floor(&other) {
            None => complaints.push(format!("src/{path}: imports `{other}`, which stands on no floor")),
            Some(floor) if floor > own_floor => {
                complaints.push(format!("src/{path}: `{own}` imports `{other}` from above"));
            }
            Some(floor) if floor == own_floor => {
                complaints.push(format!("src/{path}: `{own}` imports its sibling `{other}`"));
            }
            Some(_) if ONLY_SEE_MODEL.contains(&own) && other != "model" => {
                complaints.push(format!("src/{path}: `{own}` sees only `model`, not `{other}`"));
            }
            Some(_) => {}
        }
    }
    complaints
}

fn knowledge(source: &Source) -> Vec<String> {
    if source.is_test() {
        return Vec::new();
    }
    let code = source.code.to_lowercase();
    let knows = |word: &str| code.match_indices(word).any(|(at, _)| !continues_a_word(&code, at));
    let mut complaints = Vec::new();
    for (word, places, why) in KNOWLEDGE {
        if knows(word) && !places.iter().any(|place| source.path.starts_with(place)) {
            complaints.push(format!("src/{}: says `{word}`: {why}", source.path));
        }
    }
    if source.path.starts_with("proxy/") && source.path != "proxy/error.rs" {
        for status in OWN_STATUSES.iter().filter(|status| source.bare.contains(**status)) {
            complaints.push(format!(
                "src/{}: says `{status}`: only proxy/error.rs turns errors into responses",
                source.path
            ));
        }
    }
    complaints
}

fn purity(source: &Source) -> Vec<String> {
    let pure = source.module().first().is_some_and(|module| ONLY_SEE_MODEL.contains(module));
    if !pure || source.is_test() {
        return Vec::new();
    }
    let said = IMPURE.iter().filter(|word| source.bare.contains(**word));
    said.map(|word| format!("src/{}: `{word}` in pure code: now and rng are arguments", source.path))
        .collect()
}

fn shape(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    if !source.text.starts_with("//! ") {
        complaints.push(format!("src/{}: its first line does not say (`//! …`) what it is for", source.path));
    }
    let lines = source.text.lines().count();
    if lines > LONGEST {
        complaints.push(format!("src/{}: {lines} lines are two files", source.path));
    }
    complaints
}

fn names(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let words: Vec<_> = source.bare.split_whitespace().collect();
    for pair in words.windows(2) {
        if !matches!(pair[0], "struct" | "enum" | "trait" | "type" | "union") {
            continue;
        }
        let name: String = pair[1].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // The associated type of somebody else's trait, such as a body's `Data`, has the name it has.
        if pair[0] == "type" && EMPTY_NAMES.contains(&name.as_str()) {
            continue;
        }
        let singular = name.strip_suffix('s').unwrap_or(&name);
        if EMPTY_NAMES.iter().any(|word| name.ends_with(word) || singular.ends_with(word)) {
            complaints
                .push(format!("src/{}: `{name}` says nothing: use the field's word for it", source.path));
        }
    }
    complaints
}

#[test]
fn imports_only_go_down() {
    hold(floors);
}

#[test]
fn invariant_7_balance_and_policy_are_pure() {
    hold(purity);
}

#[test]
fn invariant_10_only_config_knows_toml_only_registry_the_wire_only_one_file_the_errors() {
    hold(knowledge);
}

#[test]
fn every_file_says_what_it_is_for_and_is_short() {
    hold(shape);
}

#[test]
fn types_have_names_of_their_own() {
    hold(names);
}

/// A rule that cannot fail holds nothing: each is shown a wrong file, and a right one that looks alike.
#[test]
fn the_rules_catch_what_is_wrong_and_only_that() {
    type Rule = fn(&Source) -> Vec<String>;
    let long = "//! Long.\n".to_owned() + &"// x\n".repeat(LONGEST);
    let cases: &[(Rule, &str, &str, usize)] = &[
        (floors, "model/x.rs", "use crate::policy::decide;", 1),
        (floors, "model/x.rs", "use crate::rt::Tasks;", 1),
        (floors, "model/x.rs", "use super::Endpoint; use crate::model::Flag; use crate::telemetry::Kind;", 0),
        (floors, "model/mod.rs", "use super::discovery::watch;", 1),
        (floors, "registry/consul/x.rs", "use super::super::super::health;", 1),
        (floors, "registry/consul/x.rs", "use super::super::{TlsFiles, health};", 0),
        (floors, "health/x.rs", "use crate::{discovery, model::Flag, config::{a, b}};", 2),
        (floors, "health/x.rs", "fn f() { let a = crate::discovery::watch(); }", 1),
        (floors, "health/x.rs", "// use crate::discovery;\n/* crate::proxy /* */ crate::proxy */", 0),
        (
            floors,
            "health/x.rs",
            "const A: &str = \"crate::proxy\"; const B: &str = r#\"\" crate::proxy\"#;",
            0,
        ),
        (floors, "health/x.rs", "const A: char = '\"'; use crate::proxy; const B: char = '\"';", 1),
        (floors, "health/x.rs", "fn f<'a>(a: &'a str) {} use crate::proxy; fn g<'a>(a: &'a str) {}", 1),
        (floors, "health/x.rs", "#[cfg(test)]\nmod tests { use crate::proxy; fn f(_: [u8; 2]) { {} } }", 0),
        (floors, "health/x.rs", "#[cfg(test)]\nmod tests { const A: &str = \"}\"; use crate::proxy; }", 0),
        (floors, "health/x.rs", "#[cfg(test)] mod tests;\nuse crate::proxy;", 1),
        (floors, "health/x.rs", "#[cfg(test)] fn f(_: [u8; 2]) { {} }\nuse crate::proxy;", 1),
        (floors, "health/tests.rs", "use crate::proxy;", 0),
        (floors, "policy/x.rs", "use crate::telemetry::Counter;", 1),
        (floors, "policy/x.rs", "use crate::model::Flag;", 0),
        (floors, "cellar/x.rs", "", 1),
        (floors, "health/x.rs", "use crate::cellar::x;", 1),
        (floors, "cellar.rs", "", 1),
        (floors, "main.rs", "use outrigger::cli;", 0),
        (floors, "proxy/x.rs", "use outrigger::cli; use crate::admin;", 2),
        (floors, "lib.rs", "pub mod cli;", 0),
        (knowledge, "cluster/x.rs", "let a = toml::from_str(text);", 1),
        (knowledge, "config/x.rs", "let a = toml::from_str(text);", 0),
        (knowledge, "discovery/file.rs", "let a = toml::from_str(text);", 0),
        (knowledge, "discovery/file/x.rs", "let a = toml::from_str(text);", 0),
        (knowledge, "discovery/consul.rs", "let a = \"X-Consul-Index\";", 1),
        (knowledge, "discovery/consul.rs", "// X-Consul-Index\nlet a = my_toml::x();", 0),
        (knowledge, "registry/consul/x.rs", "let a = \"X-Consul-Index\"; use reqwest::Client;", 0),
        (knowledge, "discovery/etcd.rs", "use tonic::Status;", 1),
        (knowledge, "discovery/dns/mod.rs", "use hickory_resolver::lookup::Lookup;", 1),
        (knowledge, "admin/x.rs", "use reqwest::Client;", 1),
        (knowledge, "proxy/forward.rs", "return StatusCode::BAD_GATEWAY;", 1),
        (knowledge, "proxy/error.rs", "return StatusCode::BAD_GATEWAY;", 0),
        (purity, "balance/x.rs", "fn f() { let now = Instant::now(); }", 1),
        (purity, "policy/x.rs", "async fn f() { g().await }", 2),
        (purity, "policy/x.rs", "fn f() {}\n#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }", 0),
        (purity, "health/x.rs", "async fn f() {}", 0),
        (shape, "model/x.rs", "use std::fmt;", 1),
        (shape, "model/x.rs", "//! Says it.\nuse std::fmt;", 0),
        (shape, "model/x.rs", &long, 1),
        (names, "model/x.rs", "pub struct ClusterManager;", 1),
        (names, "model/x.rs", "enum BodyUtils<T> { A(T) }\ntype ConnInfo = u8;", 2),
        (names, "model/x.rs", "impl Body for Tape { type Data = Bytes; }", 0),
        (names, "model/x.rs", "struct Simple; // struct PoolWrapper\nimpl Database for Simple {}", 0),
    ];
    for (rule, path, text, expected) in cases {
        let complaints = rule(&Source::new(path, text));
        assert_eq!(complaints.len(), *expected, "src/{path}: {text}\n{}", complaints.join("\n"));
    }
}
