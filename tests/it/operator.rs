//! What an operator does to a running sidecar, and what it says: signals, lost logs, addresses that are taken.

use super::support::{Instance, Process, Sidecar, client, eventually, free_port};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.arg("run").args(arguments);
    command
}

fn ended(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// The first line of the log with this message, without its time.
fn logged(log: &str, message: &str) -> Option<String> {
    let lines = log.lines().filter_map(|line| line.split_once(' ').map(|(_, rest)| rest.trim_start()));
    lines.filter(|line| line.split(' ').nth(1) == Some(message)).map(str::to_owned).next()
}

#[tokio::test]
async fn the_log_says_who_listens_where_and_each_change_once() {
    let instance = Instance::start("one").await;
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| {
        let (next, file) = (folder.path().join("next"), folder.path().join("endpoints.toml"));
        std::fs::write(&next, text).and_then(|()| std::fs::rename(next, file)).unwrap();
    };
    let good = format!("endpoints = [\"{}\"]\n", instance.addr());
    write(&good);
    let (port, admin) = (free_port().to_string(), format!("127.0.0.1:{}", free_port()));
    let mut command = run(&["--listen", &port, "--to", "file:endpoints.toml", "--admin", &admin]);
    let mut sidecar = Process::start(command.current_dir(folder.path()), &folder.path().join("log"));
    let seen =
        async |message: &str| eventually(message, LIMIT, async || logged(&sidecar.output(), message)).await;
    assert_eq!(
        seen("listening").await,
        format!(
            "INFO listening service=\"endpoints\" listen=\"127.0.0.1:{port}, [::1]:{port}\" source=\"file:endpoints.toml\""
        )
    );
    let started = seen("started").await;
    assert!(started.contains("1 service, ") && started.contains(&admin), "{started}");
    assert!(seen("endpoint_added").await.contains(&format!("addr={}", instance.addr())));
    write("endpoints = [");
    let failing = seen("source_failing").await;
    assert!(failing.starts_with("WARN source_failing service=\"endpoints\" "), "{failing}");
    assert!(failing.contains("line 1"), "{failing}");
    // Asked again several times meanwhile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    write(&good);
    seen("source_recovered").await;
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended(LIMIT).await.code(), Some(0));
    let log = sidecar.output();
    for message in ["source_failing", "source_recovered", "endpoint_added", "stopping", "stopped"] {
        let count = log.lines().filter(|line| line.split_whitespace().nth(2) == Some(message)).count();
        assert_eq!(count, 1, "{message}:\n{log}");
    }
}

#[tokio::test]
async fn a_hangup_changes_nothing_and_is_answered() {
    let instance = Instance::start("one").await;
    let config = format!("[service.web]\nfrom = \"static://{}\"\n", instance.addr());
    let mut sidecar = Sidecar::start(&config).await;
    sidecar.signal("HUP");
    eventually("the hangup is answered", LIMIT, async || {
        sidecar.log().contains("SIGHUP: reload is not available in this version").then_some(())
    })
    .await;
    assert!(sidecar.is_running());
    assert_eq!(sidecar.get("web", "/").await.status, 200);
    sidecar.stop().await;
}

/// Regression: what could not be logged was complained about at the same broken place, which panicked.
#[tokio::test]
async fn it_goes_on_when_nobody_reads_its_log_any_more() {
    let instance = Instance::start("one").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.toml");
    let write = |list: &str| std::fs::write(&file, format!("endpoints = [{list}]\n")).unwrap();
    write("");
    let port = free_port();
    let mut command = run(&["--listen", &port.to_string(), "--to", "file:endpoints.toml", "--admin", "off"]);
    let mut child = command.current_dir(folder.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stderr.take().unwrap();
    let mut first = [0; 16];
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    write(&format!("\"{}\"", instance.addr()));
    let addr = (Ipv4Addr::LOCALHOST, port).into();
    let answered = eventually("the new instance answers", LIMIT, async || {
        client::try_get(addr, "/").await.ok().filter(|answer| answer.status == 200)
    });
    answered.await;
    let kill = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn every_address_that_cannot_be_had_is_named_with_what_to_do() {
    let (port, admin) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let [listen, window] = [&port, &admin].map(|listener| listener.local_addr().unwrap().to_string());
    let output = ended(run(&["--listen", &listen, "--to", "static://127.0.0.1:1", "--admin", &window]));
    let lines: Vec<_> = stderr(&output).lines().collect();
    assert_eq!((lines.len(), output.status.code()), (2, Some(1)), "{lines:?}");
    let expected = [
        format!("cannot listen on {listen}: the port is in use; "),
        format!("admin.listen: cannot listen on {window}: the port is in use; "),
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(&expected), "{line}");
    }
    assert!(lines[1].ends_with("\"off\" ([admin] listen = ..., or --admin)"), "{}", lines[1]);
}

#[test]
fn a_misspelt_level_in_the_environment_is_refused() {
    let mut command = run(&["--listen", "127.0.0.1:1", "--to", "static://127.0.0.1:1"]);
    command.env("OUTRIGGER_LOG", "verbose");
    let output = ended(command);
    let line = stderr(&output);
    assert!(
        line.starts_with("environment variable OUTRIGGER_LOG: \"verbose\" is no level; accepted: off, "),
        "{line}"
    );
    assert_eq!((line.lines().count(), output.status.code()), (1, Some(2)));
}

#[test]
fn what_is_no_configuration_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("empty.toml", b"");
    write("utf16.toml", b"\xff\xfe[\0");
    for (name, expected) in [
        ("empty.toml", "there is no service: give at least one table [service.NAME]"),
        ("utf16.toml", "is no text in UTF-8"),
        ("gone.toml", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
    ] {
        let mut command = run(&[name]);
        command.current_dir(folder.path());
        let output = ended(command);
        let line = stderr(&output);
        assert!(line.starts_with(&format!("{name}: {expected}")), "{line}");
        assert_eq!((line.lines().count(), output.status.code()), (1, Some(2)), "{line}");
    }
}

#[test]
fn line_endings_and_a_byte_order_mark_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let text = "\u{feff}[service.orders]\r\nport = 9001\r\nfrom = \"consul:orders\"\r\n";
    std::fs::write(folder.path().join("a.toml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    let output = command.args(["check", "a.toml"]).current_dir(Path::new(folder.path())).output().unwrap();
    assert_eq!((stderr(&output), output.status.code()), ("", Some(0)));
}
