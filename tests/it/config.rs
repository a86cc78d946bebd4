//! `outrigger check` and `outrigger defaults`, as their users run them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary in a folder, with nothing but these variables in its environment.
fn outrigger(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.current_dir(folder).args(arguments).env_clear().envs(variables.iter().copied());
    command.output().unwrap()
}

fn check(folder: &Path, arguments: &[&str]) -> Output {
    outrigger(folder, &[&["check"], arguments].concat(), &[])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config").join(name)
}

/// The files of a folder: name and text.
fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|e| e == "toml"));
    files
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn remarks<'t>(text: &'t str, kind: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines().filter_map(move |line| line.strip_prefix("# ")?.strip_prefix(kind)?.strip_prefix(": "))
}

#[test]
fn each_wrong_file_is_refused_with_all_its_problems_and_nothing_else() {
    let folder = folder("invalid");
    let files = files(&folder);
    assert!(files.len() >= 40, "only {} files in {}", files.len(), folder.display());
    for (name, text) in files {
        let output = check(&folder, &[&name]);
        let expected: Vec<_> = remarks(&text, "expect").map(|line| format!("{name}{line}")).collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        let stderr = stderr(&output);
        assert_eq!(stderr.lines().collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert_eq!(stdout(&output), "", "{name}");
        assert!(!stderr.contains("hunter2"), "{name}: {stderr}");
    }
}

#[test]
fn each_right_file_is_fine_and_shows_what_it_comes_to() {
    let folder = folder("valid");
    let files = files(&folder);
    assert!(files.len() >= 5, "only {} files in {}", files.len(), folder.display());
    for (name, text) in files {
        let output = check(&folder, &[&name]);
        assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)), "{name}");
        assert!(stdout(&output).starts_with(&format!("{name}: fine, ")), "{}", stdout(&output));
        let resolved = stdout(&check(&folder, &[&name, "--resolve"]));
        let lines: Vec<_> =
            resolved.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for shown in remarks(&text, "shows") {
            assert!(lines.iter().any(|line| line == shown), "{name} lacks {shown}:\n{resolved}");
        }
        for hidden in remarks(&text, "hides") {
            assert!(!resolved.contains(hidden), "{name} shows {hidden}:\n{resolved}");
        }
    }
}

#[test]
fn what_resolve_prints_is_toml() {
    let folder = folder("valid");
    for (name, _) in files(&folder) {
        let resolved = stdout(&check(&folder, &[&name, "--resolve"]));
        assert!(resolved.lines().count() > 40, "{resolved}");
        resolved.parse::<toml::Table>().unwrap_or_else(|error| panic!("{name}: {error}\n{resolved}"));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("latin.toml"), b"[service]\n# \xe4\n").unwrap();
    for (name, expected) in [
        ("missing.toml", "missing.toml: cannot be read: No such file or directory"),
        (".", ".: cannot be read: Is a directory"),
        ("latin.toml", "latin.toml: is no text in UTF-8, from line 2 on"),
    ] {
        let output = check(folder.path(), &[name]);
        assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
        assert_eq!((stderr(&output).lines().count(), output.status.code()), (1, Some(2)));
    }
}

#[test]
fn the_file_is_found_where_it_usually_is() {
    const GOOD: &str = "[service.orders]\nport = 9001\nfrom = \"consul:orders\"\n";
    let folder = tempfile::tempdir().unwrap();
    let output = check(folder.path(), &[]);
    assert!(stderr(&output).starts_with("no configuration file: "), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(2));

    std::fs::write(folder.path().join("outrigger.toml"), GOOD).unwrap();
    assert_eq!(stdout(&check(folder.path(), &[])), "outrigger.toml: fine, 1 service: orders\n");

    std::fs::write(folder.path().join("other.toml"), GOOD.replace("orders", "billing")).unwrap();
    let named = outrigger(folder.path(), &["check"], &[("OUTRIGGER_CONFIG", "other.toml")]);
    assert_eq!(stdout(&named), "other.toml: fine, 1 service: billing\n");

    let missing = outrigger(folder.path(), &["check"], &[("OUTRIGGER_CONFIG", "gone.toml")]);
    assert!(stderr(&missing).starts_with("gone.toml: cannot be read"), "{}", stderr(&missing));
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn what_defaults_prints_is_a_good_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let output = outrigger(folder.path(), &["defaults"], &[]);
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
    std::fs::write(folder.path().join("outrigger.toml"), &output.stdout).unwrap();
    let output = check(folder.path(), &[]);
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.arg("defaults").stdout(writer).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // The command holds the pipe's writing end, not its reading end.
    let output = child.wait_with_output().unwrap();
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
}

#[test]
fn bad_usage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["chek"][..], &["check", "--resolf"], &[], &["check", "a", "b"]] {
        let output = outrigger(folder.path(), arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_ne!(stderr(&output), "", "{arguments:?}");
    }
    let output = outrigger(folder.path(), &["--version"], &[]);
    assert_eq!(stdout(&output), format!("outrigger {}\n", env!("CARGO_PKG_VERSION")));
}
