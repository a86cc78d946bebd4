//! README.md, word by word: what it shows parses, what it names exists.

use super::support::{Instance, Sidecar, client};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const README: &str = include_str!("../../README.md");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut inside: Option<(bool, String)> = None;
    for line in README.lines() {
        match (&mut inside, line.strip_prefix("```")) {
            (None, Some(opened)) => inside = Some((opened == language, String::new())),
            (Some(_), Some(_)) => {
                blocks.extend(inside.take().filter(|(wanted, _)| *wanted).map(|(_, text)| text));
            }
            (Some((_, text)), None) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(inside.is_none(), "a block has no end");
    blocks
}

/// What stands between single backticks outside of the blocks.
fn spans() -> Vec<String> {
    let mut prose = String::new();
    let mut outside = true;
    for line in README.lines() {
        if line.starts_with("```") {
            outside = !outside;
        } else if outside {
            prose += &format!("{line}\n");
        }
    }
    let pieces: Vec<_> = prose.split('`').collect();
    assert_eq!(pieces.len() % 2, 1, "a backtick is alone");
    pieces.into_iter().skip(1).step_by(2).map(str::to_owned).collect()
}

/// Runs of these characters anywhere in the text.
fn words(text: &str, of: impl Fn(char) -> bool) -> BTreeSet<&str> {
    text.split(|c| !of(c)).filter(|word| !word.is_empty()).collect()
}

fn outrigger(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.current_dir(folder).args(arguments).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_toml_block_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks("toml");
    assert!(blocks.len() >= 2, "{blocks:?}");
    for block in blocks {
        let arguments = if block.starts_with("# endpoints.toml\n") {
            std::fs::write(folder.path().join("endpoints.toml"), &block).unwrap();
            ["endpoints", "file:endpoints.toml"]
        } else {
            std::fs::write(folder.path().join("outrigger.toml"), &block).unwrap();
            ["check", "outrigger.toml"]
        };
        let output = outrigger(folder.path(), &arguments);
        assert_eq!((text(&output.stderr), output.status.code()), ("", Some(0)), "{block}");
        assert!(!text(&output.stdout).contains("skipped endpoints["), "{}", text(&output.stdout));
    }
}

/// Every command line that begins with `outrigger`: in shell blocks, in sentences, and in the manifest.
fn command_lines() -> Vec<Vec<String>> {
    let shell = blocks("sh").concat();
    let lines = shell.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned());
    let mut commands: Vec<Vec<String>> = lines
        .chain(spans())
        .filter(|line| line.starts_with("outrigger "))
        .map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect())
        .collect();
    for line in blocks("yaml").concat().lines() {
        if let Some(list) = line.trim().strip_prefix("command: [\"outrigger\", ") {
            let list = list.trim_end_matches(']');
            commands.push(list.split(", ").map(|word| word.trim_matches('"').to_owned()).collect());
        }
    }
    commands
}

/// `--help` at the end, or before the app's own words: those before it are parsed, then nothing is done.
fn is_accepted(words: &[String]) -> Result<(), String> {
    let own = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let words: Vec<_> = words[..own].iter().map(String::as_str).chain(["--help"]).collect();
    let output = outrigger(&root(), &words);
    if output.status.success() { Ok(()) } else { Err(text(&output.stderr).to_owned()) }
}

#[test]
fn every_command_line_is_accepted() {
    let commands = command_lines();
    assert!(commands.len() >= 8, "{commands:?}");
    for words in &commands {
        assert_eq!(is_accepted(words), Ok(()), "outrigger {}", words.join(" "));
    }
    let used: BTreeSet<_> = commands.iter().filter_map(|words| words.first()).map(String::as_str).collect();
    assert_eq!(used, BTreeSet::from(["check", "defaults", "demo", "endpoints", "exec", "run", "wait"]));
    assert!(is_accepted(&["halt".to_owned()]).is_err(), "a command that does not exist is seen");
    assert!(
        is_accepted(&["run".to_owned(), "--fast".to_owned()]).is_err(),
        "a flag that does not exist is seen"
    );
}

/// Flags in sentences, without their command.
#[test]
fn every_flag_exists() {
    let help: String = ["run", "exec", "wait", "demo", "check", "endpoints"]
        .map(|command| text(&outrigger(&root(), &[command, "--help"]).stdout).to_owned())
        .concat();
    let flags: Vec<_> = spans().into_iter().filter(|span| span.starts_with("--")).collect();
    assert!(flags.len() >= 3, "{flags:?}");
    for flag in flags {
        let name = flag.split(' ').next().unwrap();
        assert!(help.split_whitespace().any(|word| word == name), "{flag}");
    }
}

#[test]
fn every_path_exists() {
    const TOP: [&str; 8] =
        ["config/", "tests/", "src/", "examples/", "benches/", "deploy/", "LICENSE", "CHANGELOG"];
    let path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    let named = words(README, path);
    let mut seen = 0;
    for word in named {
        let word = word.trim_end_matches('.');
        if TOP.iter().any(|top| word.starts_with(top)) {
            seen += 1;
            assert!(root().join(word).exists(), "{word}");
        }
    }
    assert!(seen >= 4, "{seen}");
    let links = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for link in links.filter(|link| !link.contains("://")) {
        assert!(root().join(link).exists(), "{link}");
    }
}

/// Keys in sentences, such as `timeouts.drain`; `[admin] listen` is one too.
#[test]
fn every_key_exists() {
    let defaults = outrigger(&root(), &["defaults"]);
    let known = text(&defaults.stdout);
    let is_key = |span: &str| {
        let key = span.split(" = ").next().unwrap_or_default();
        key.starts_with("timeouts.")
            || key.starts_with("shutdown.")
            || span.contains(" = ")
            || key == "empty_grace"
    };
    let keys: Vec<_> = spans().into_iter().filter(|span| is_key(span)).collect();
    assert!(keys.len() >= 4, "{keys:?}");
    for span in keys {
        let path = span.split(" = ").next().unwrap();
        let key = path.rsplit([' ', '.']).next().unwrap();
        let is_there =
            known.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = ")));
        assert!(is_there, "{span}");
        if let Some(table) = path.strip_suffix(key).map(|table| table.trim_matches(['[', ']', ' ', '.']))
            && !table.is_empty()
        {
            assert!(known.contains(&format!("{table}]")), "{span}");
        }
    }
}

/// A number in a sentence, and the default it speaks of, as `check --resolve` prints it.
const NUMBERS: [(&str, &str); 28] = [
    ("every 10 s;", "service.orders.health.interval = \"10s\""),
    ("out after 3 failures,", "service.orders.health.fall = 3"),
    ("back after 2 successes", "service.orders.health.rise = 2"),
    ("`empty_grace` (30 s,", "service.orders.empty_grace = \"30s\""),
    ("30 s more (`timeouts.drain`)", "service.orders.timeouts.drain = \"30s\""),
    ("up to 3 times in all", "service.orders.retry.attempts = 3"),
    ("an answer 502, 503 or 504", "service.orders.retry.statuses = [502, 503, 504]"),
    ("random, up to 25 ms,", "service.orders.retry.backoff_base = \"25ms\""),
    ("at most 250 ms.", "service.orders.retry.backoff_cap = \"250ms\""),
    ("A `Retry-After` of up to 1 s", "service.orders.retry.retry_after_max = \"1s\""),
    ("more than 64 KiB of the request's body", "service.orders.retry.body_limit = \"64KiB\""),
    ("16 MiB for all requests", "limits.replay_bytes = \"16MiB\""),
    ("20 % of the requests", "service.orders.retry.budget_ratio = \"20%\""),
    ("plus 10 per second", "service.orders.retry.budget_floor = 10"),
    ("share the 15 s (`timeouts.request`)", "service.orders.timeouts.request = \"15s\""),
    ("have 1024 requests in flight", "service.orders.limits.in_flight_per_target = 1024"),
    ("and 256 more wait", "service.orders.limits.waiting = 256"),
    ("waited for 1 s |", "service.orders.limits.wait = \"1s\""),
    ("head is larger than 64 KiB", "limits.head_bytes = \"64KiB\""),
    ("On `127.0.0.1:9901`", "admin.listen = \"127.0.0.1:9901\""),
    ("at the earliest after 1 s", "dns.min_ttl = \"1s\""),
    ("at the latest after 30 s", "dns.max_ttl = \"30s\""),
    ("take the local app out (`withdraw`, 3 s)", "shutdown.withdraw = \"3s\""),
    ("(`delay`, 5 s;", "shutdown.delay = \"5s\""),
    ("(`grace`, 25 s)", "shutdown.grace = \"25s\""),
    ("(`drain`, 5 s)", "shutdown.drain = \"5s\""),
    ("within 5 s of the request (`timeouts.first_list`)", "service.orders.timeouts.first_list = \"5s\""),
    ("`round_robin` (the default)", "service.orders.balance = \"round_robin\""),
];

#[test]
fn every_number_is_the_default() {
    const CONFIG: &str =
        "[service.orders]\nport = 9001\nfrom = \"consul:orders\"\nhealth = { http = \"/\" }\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outrigger.toml"), CONFIG).unwrap();
    let output = outrigger(folder.path(), &["check", "outrigger.toml", "--resolve"]);
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let readme = plain(README);
    for (sentence, value) in NUMBERS {
        assert!(readme.contains(sentence), "README.md no longer says {sentence:?}");
        let line = format!("{value} # default");
        assert!(text(&output.stdout).lines().any(|resolved| plain(resolved) == line), "{sentence:?}: {line}");
    }
}

#[tokio::test]
async fn every_metric_and_every_admin_path_exists_and_none_is_left_out() {
    let instance = Instance::start("one").await;
    let config = format!("[service.orders]\nfrom = \"static://{}\"\n", instance.addr());
    let sidecar = Sidecar::start(&config).await;
    assert_eq!(sidecar.get("orders", "/").await.status, 200);

    let metrics = sidecar.metrics().await;
    let families: BTreeSet<_> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| name.starts_with("outrigger_"))
        .collect();
    let snake = |c: char| c.is_ascii_lowercase() || c == '_';
    let named: BTreeSet<_> =
        words(README, snake).into_iter().filter(|word| word.starts_with("outrigger_")).collect();
    assert_eq!(named, families);

    let list = client::get(sidecar.admin(), "/").await.text();
    let offered: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|path| path.starts_with('/') && path.len() > 1)
        .collect();
    let spans = spans();
    let named: BTreeSet<_> = spans
        .iter()
        .map(String::as_str)
        .filter(|span| {
            span.starts_with("/livez")
                || span.starts_with("/readyz")
                || span.starts_with("/metrics")
                || span.starts_with("/api/")
        })
        .collect();
    assert_eq!(named, offered);
    for path in named {
        let endpoint = endpoint_of(&sidecar, "orders").await;
        let asked = path.replace("NAME", "orders").replace("ADDR", &endpoint);
        let answer = if path.contains("ADDR") {
            let request = http::Request::post(&asked).body(client::empty()).unwrap();
            client::request(sidecar.admin(), request).await.unwrap()
        } else {
            client::get(sidecar.admin(), &asked).await
        };
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
}

async fn endpoint_of(sidecar: &Sidecar, service: &str) -> String {
    let service = sidecar.api(&format!("/api/services/{service}")).await;
    service["endpoints"][0]["addr"].as_str().expect("an endpoint").to_owned()
}
