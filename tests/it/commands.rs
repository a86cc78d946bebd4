//! `run`, `endpoints`, `demo` and their kin as real processes: arguments, answers, exit codes, signals.

use crate::support::registry::write;
use crate::support::{Instance, Process, Registry, Sidecar, client, eventually, free_port};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(15);
const BINARY: &str = env!("CARGO_BIN_EXE_outrigger");

/// Runs it to its end in an empty folder.
pub async fn outrigger(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    outrigger_in(folder.path(), arguments).await
}

/// Runs it to its end, which must come by itself.
async fn outrigger_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(BINARY);
    command.args(arguments).current_dir(folder).env_clear().kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(30), command.output()).await;
    ended.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Exit code and standard error of a command that prints nothing else.
async fn refused(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = outrigger_in(folder, arguments).await;
    assert_eq!(stdout(&output), "", "{arguments:?}");
    (output.status.code(), stderr(&output))
}

fn start(folder: &TempDir, arguments: &[&str]) -> Process {
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(folder.path()).env("TMPDIR", folder.path().join("tmp"));
    std::fs::create_dir_all(folder.path().join("tmp")).unwrap();
    Process::start(&mut command, &folder.path().join("log"))
}

async fn says(process: &mut Process, what: &str) {
    eventually(what, SOON, async || {
        let output = process.output();
        assert!(process.is_running() || output.contains(what), "it ended: {output}");
        output.contains(what).then_some(())
    })
    .await;
}

/// An address in use until the guard is dropped.
fn in_use() -> (TcpListener, u16) {
    let port = free_port();
    (TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap(), port)
}

const A: &str = "127.0.0.1:81";
const B: &str = "127.0.0.1:82";

/// A source with two endpoints, `A` and `B` of weight 3, whatever its kind.
async fn endpoints_show_both(url: &str, instances: [&str; 2]) {
    let table = outrigger(&["endpoints", url]).await;
    assert_eq!((stderr(&table).as_str(), table.status.code()), ("", Some(0)), "{url}");
    let text = stdout(&table);
    let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ADDRESS", "WEIGHT", "STATE", "ZONE", "INSTANCE"], "{text}");
    assert_eq!(rows[1], [A, "1", "passing", "-", instances[0]], "{text}");
    assert_eq!(rows[2], [B, "3", "passing", "-", instances[1]], "{text}");
    assert!(rows.len() == 4 && text.lines().nth(3).unwrap().starts_with("2 listed, 0 skipped"), "{text}");

    let json = outrigger(&["endpoints", url, "--json"]).await;
    assert_eq!((stderr(&json).as_str(), json.status.code()), ("", Some(0)), "{url}");
    assert_eq!(stdout(&json).lines().count(), 1);
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    for (endpoint, (addr, weight, instance)) in
        value["endpoints"].as_array().unwrap().iter().zip([(A, 1, instances[0]), (B, 3, instances[1])])
    {
        let seen = (&endpoint["addr"], &endpoint["weight"], &endpoint["instance"], &endpoint["state"]);
        assert_eq!(seen, (&addr.into(), &weight.into(), &instance.into(), &"passing".into()), "{url}");
    }
    assert_eq!((&value["skipped"], &value["doubt"]), (&Value::Array(Vec::new()), &Value::Null));
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn endpoints_of_every_kind_of_source_look_the_same() {
    endpoints_show_both(&format!("static://{A},{B}?weights=1,3"), [A, B]).await;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "e.toml", &format!("endpoints = [\"{A}\", {{ addr = \"{B}\", weight = 3 }}]\n"));
    endpoints_show_both(&format!("file://{}/e.toml", folder.path().display()), [A, B]).await;
    let (consul, etcd) = tokio::join!(Registry::consul(), Registry::etcd("etcd35"));
    for registry in [consul, etcd] {
        registry.register("web", "a", addr(A), 1).await;
        registry.register("web", "b", addr(B), 3).await;
        let (a, b) = (registry.instance("web", "a"), registry.instance("web", "b"));
        endpoints_show_both(&registry.source("web"), [&a, &b]).await;
    }
}

#[tokio::test]
async fn endpoints_watch_shows_each_change_and_what_stands_against_the_source() {
    let (consul, etcd) = tokio::join!(Registry::consul(), Registry::etcd("etcd"));
    for mut registry in [consul, etcd] {
        registry.register("web", "a", addr(A), 1).await;
        let folder = tempfile::tempdir().unwrap();
        let mut watch = start(&folder, &["endpoints", &registry.source("web"), "--watch", "--json"]);
        says(&mut watch, A).await;
        registry.register("web", "b", addr(B), 3).await;
        says(&mut watch, B).await;
        let last = watch.output();
        let value: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
        assert_eq!(value["endpoints"].as_array().unwrap().len(), 2, "{last}");
        registry.kill();
        let url = registry.source("web");
        says(&mut watch, "; asked again until it answers").await;
        registry.restart().await;
        says(&mut watch, &format!("{url}: answers again")).await;
        let told = watch.output();
        assert_eq!(told.lines().filter(|line| line.starts_with(&url)).count(), 2, "{told}");
        drop(watch);
    }
}

#[tokio::test]
async fn endpoints_refuses_a_bad_url_and_tells_why_a_registry_cannot_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    for (url, told) in [
        ("conusl:web", "did you mean \"consul\"?"),
        ("http://127.0.0.1:80", "write static://HOST:PORT"),
        ("consul://127.0.0.1:8500", "the service's name is missing"),
        ("etcd://127.0.0.1:2379/", "the prefix is missing"),
        ("static://127.0.0.1", "has no port"),
        ("file:/nowhere/at/all/e.toml", "the folder /nowhere/at/all"),
    ] {
        let (code, error) = refused(folder.path(), &["endpoints", url]).await;
        assert_eq!((code, error.lines().count()), (Some(2), 1), "{error}");
        assert!(error.starts_with("URL: ") && error.contains(told), "{error}");
    }
    let port = free_port();
    let missing = format!("file:{}/e.toml", folder.path().display());
    for (url, told) in [
        (format!("consul://127.0.0.1:{port}/web"), "Connection refused"),
        (format!("etcd://127.0.0.1:{port}/services/web/"), "Connection refused"),
        (missing, "No such file"),
    ] {
        let (code, error) = refused(folder.path(), &["endpoints", &url]).await;
        assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
        assert!(error.starts_with(&url) && error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn run_names_every_port_in_use_at_once() {
    let ((_web, web), (_api, api), (_admin, admin)) = (in_use(), in_use(), in_use());
    let folder = tempfile::tempdir().unwrap();
    let service = |name, port| format!("[service.{name}]\nport = {port}\nfrom = \"static://127.0.0.1:1\"\n");
    let config =
        format!("[admin]\nlisten = \"127.0.0.1:{admin}\"\n{}{}", service("web", web), service("api", api));
    write(folder.path(), "outrigger.toml", &config);
    // What a start meets is no fault of the file: check finds none.
    assert_eq!(outrigger_in(folder.path(), &["check"]).await.status.code(), Some(0));
    let (code, error) = refused(folder.path(), &["run"]).await;
    assert_eq!(code, Some(1), "{error}");
    let lines: Vec<_> = error.lines().collect();
    for (owner, port) in [("service.web", web), ("service.api", api), ("admin.listen", admin)] {
        let start = format!("{owner}: cannot listen on 127.0.0.1:{port}: the port is in use");
        assert!(lines.iter().any(|line| line.starts_with(&start)), "{start}: {error}");
    }
    let causes = lines.iter().filter(|line| line.contains("cannot listen on"));
    assert_eq!(causes.count(), 3, "{error}");
}

#[tokio::test]
async fn invariant_12_a_rejected_configuration_starts_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let [service, admin] = [free_port(), free_port()];
    let config = format!(
        "[admin]\nlisten = \"127.0.0.1:{admin}\"\n[service.web]\nport = {service}\nfrom = \"static://127.0.0.1:1\"\n\
         [service.odd]\nport = {}\nfrom = \"nowhere\"\n",
        free_port()
    );
    write(folder.path(), "odd.toml", &config);
    let mut process = start(&folder, &["run", "odd.toml"]);
    let status = process.ended(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(2));
    assert!(process.output().contains("service.odd.from"), "{}", process.output());
    for port in [service, admin] {
        TcpListener::bind(("127.0.0.1", port)).expect("nobody listens there");
    }
}

#[tokio::test]
async fn run_refuses_what_it_cannot_understand() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "odd.toml", "[service.web]\nport = 9001\nform = \"consul:web\"\n[serivce]\n");
    let two: &[&str] = &["run", "--listen", "9001", "--listen", "9002", "--to", "consul:web"];
    for (arguments, told) in [
        (&["run", "gone.toml"][..], "gone.toml: cannot be read: No such file"),
        (&["run"], "no configuration file: "),
        (&["run", "odd.toml"], "did you mean \"from\"?"),
        (&["run", "odd.toml"], "did you mean \"service\"?"),
        (two, "--listen and --to go in pairs: 2 and 1 were given"),
        (&["run", "--listen", "9001"], "--to"),
        (&["run", "--to", "consul:web"], "--listen"),
        (&["run", "--listen", "9001", "--to", "orders"], "--to: \"orders\" is no source URL"),
        (&["run", "--listen", "0", "--to", "consul:web"], "--listen: port 0 is out of range"),
        (&["run", "--listen", "9001", "--to", "consul:web", "--admin", "x"], "--admin: \"x\" is no address"),
        (&["run", "odd.toml", "--listen", "9001", "--to", "consul:web"], "cannot be used with"),
        (&["demo", "--for", "soon"], "--for"),
    ] {
        let (code, error) = refused(folder.path(), arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn run_needs_no_file_and_ends_well_when_it_is_told_to() {
    let (one, two) = tokio::join!(Instance::start("one"), Instance::start("two"));
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let [web, api, admin] = &ports;
    let folder = tempfile::tempdir().unwrap();
    let (to_one, to_two) = (format!("static://{}", one.addr()), format!("static://{}", two.addr()));
    let admin_addr = format!("127.0.0.1:{admin}");
    let pairs =
        ["run", "--listen", web, "--to", &to_one, "--listen", &format!("127.0.0.1:{api}"), "--to", &to_two];
    for signal in ["TERM", "INT"] {
        let mut sidecar = start(&folder, &[&pairs[..], &["--admin", &admin_addr]].concat());
        for (addr, name) in [
            (format!("127.0.0.1:{web}"), "one"),
            (format!("[::1]:{web}"), "one"),
            (format!("127.0.0.1:{api}"), "two"),
        ] {
            let answer = eventually("an answer", SOON, async || {
                assert!(sidecar.is_running(), "{}", sidecar.output());
                client::try_get(addr.parse().unwrap(), "/").await.ok()
            })
            .await;
            assert_eq!((answer.status, answer.instance()), (200, name));
        }
        assert_eq!(client::get(admin_addr.parse().unwrap(), "/readyz").await.status, 200);
        // A connection that idles does not hold it up.
        let mut idle = client::Client::new(format!("127.0.0.1:{web}").parse().unwrap());
        idle.get("/").await.unwrap();
        sidecar.signal(signal);
        let status = sidecar.ended(Duration::from_secs(4)).await;
        assert_eq!(status.code(), Some(0), "{signal}: {}", sidecar.output());
    }
}

#[tokio::test]
async fn a_request_that_runs_is_finished_before_the_end() {
    let instance = Instance::with_flags("slow", &["--delay", "1500"]).await;
    let config = format!("[service.web]\nfrom = \"static://{}\"\n", instance.addr());
    let mut sidecar = Sidecar::start(&config).await;
    let addr = sidecar.service("web");
    let (answer, ()) = tokio::join!(client::try_get(addr, "/"), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sidecar.stop().await;
    });
    assert_eq!(answer.expect("an answer").status, 200);
    assert!(client::try_get(addr, "/").await.is_err(), "nobody listens");
}

#[tokio::test]
async fn check_is_content_with_every_example_and_with_the_defaults() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 5, "only {} examples", files.len());
    for file in files {
        // The files that an example names need not be there.
        let output = outrigger_in(&folder, &["check", file.to_str().unwrap()]).await;
        assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)), "{}", file.display());
    }
    let folder = tempfile::tempdir().unwrap();
    let defaults = outrigger(&["defaults"]).await;
    std::fs::write(folder.path().join("outrigger.toml"), defaults.stdout).unwrap();
    let output = outrigger_in(folder.path(), &["check"]).await;
    assert_eq!(stdout(&output), "outrigger.toml: fine, 1 service: orders\n", "{}", stderr(&output));
}

/// What a demo leaves in the place for temporary files.
fn left_behind(folder: &TempDir) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder.path().join("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn the_demo_finds_free_ports_ends_in_time_and_leaves_nothing() {
    // Whoever has them, they are in use.
    let _taken = [8080, 9901].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let folder = tempfile::tempdir().unwrap();
    let mut demo = start(&folder, &["demo", "--for", "6s"]);
    says(&mut demo, "Ctrl-C ends it").await;
    let told = demo.output();
    let port = |whose: &str| -> u16 {
        let after = told.split_once(whose).unwrap_or_else(|| panic!("{whose:?} is missing: {told}")).1;
        after.split_once('.').unwrap().0.parse().unwrap()
    };
    let sidecar = port("Port 8080 is in use: the sidecar takes ");
    let admin = port("Port 9901 is in use: the admin address takes ");
    assert!(told.contains(&format!("curl -i http://localhost:{sidecar}/")), "{told}");
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(client::get(at(sidecar), "/").await.status, 200);
    let services: Value = client::get(at(admin), "/api/services/hello").await.json();
    assert_eq!(services["endpoints"].as_array().unwrap().len(), 5);
    assert_eq!(left_behind(&folder).len(), 1, "its registry");

    let status = demo.ended(Duration::from_secs(20)).await;
    let told = demo.output();
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(told.contains(" is killed without a word") && told.contains(" calls, 0 failed. "), "{told}");
    assert_eq!(left_behind(&folder), Vec::<std::path::PathBuf>::new());
    for port in [sidecar, admin] {
        assert!(client::try_get(at(port), "/").await.is_err(), "somebody still listens on {port}");
    }
}

#[tokio::test]
async fn the_demo_ends_at_a_signal_and_leaves_nothing() {
    for signal in ["INT", "TERM", "HUP"] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = start(&folder, &["demo", "--rate", "20"]);
        says(&mut demo, "calls, ").await;
        demo.signal(signal);
        let status = demo.ended(SOON).await;
        assert_eq!(status.code(), Some(0), "{signal}: {}", demo.output());
        assert!(demo.output().contains("nothing is left behind"), "{signal}: {}", demo.output());
        assert_eq!(left_behind(&folder), Vec::<std::path::PathBuf>::new(), "{signal}");
    }
}

/// The whole life of instances on a real registry: they announce themselves, one is killed, all leave.
async fn the_demo_plays_on(registry: &Registry, url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = start(&folder, &["demo", "--to", url, "--for", "11s"]);
    says(&mut demo, "announce themselves in").await;
    let status = demo.ended(Duration::from_secs(60)).await;
    let told = demo.output();
    assert_eq!(status.code(), Some(0), "{told}");
    for part in
        ["registration_made hello-1", "is killed without a word", "endpoint_unhealthy hello-2", ", 0 failed."]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let output = outrigger_in(folder.path(), &["endpoints", &registry.source("hello")]).await;
    let left = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!left.contains("hello-"), "nothing is left in the registry: {left}");
}

#[tokio::test]
async fn the_demo_plays_on_consul() {
    let registry = Registry::consul().await;
    let Registry::Consul(agent) = &registry else { unreachable!() };
    the_demo_plays_on(&registry, &format!("consul://127.0.0.1:{}", agent.port())).await;
}

#[tokio::test]
async fn the_demo_plays_on_etcd() {
    let registry = Registry::etcd("etcd35").await;
    let Registry::Etcd(cluster) = &registry else { unreachable!() };
    the_demo_plays_on(&registry, &format!("etcd://{}", cluster.addr(0))).await;
}

#[tokio::test]
async fn the_demo_says_why_it_cannot_play() {
    let folder = tempfile::tempdir().unwrap();
    let output = outrigger_in(folder.path(), &["demo", "--to", "static://127.0.0.1:1"]).await;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("--to: \"static://127.0.0.1:1\" is no registry in which instances announce"),
        "{said}"
    );
    let nobody = format!("consul://127.0.0.1:{}", crate::support::free_port());
    let output = outrigger_in(folder.path(), &["demo", "--to", &nobody, "--for", "60s"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/hello: only 0 of 5 instances appeared within 15 s"), "{said}");
}

#[tokio::test]
async fn the_demo_ends_when_nobody_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = tokio::process::Command::new(BINARY);
    command.arg("demo").env("TMPDIR", folder.path()).stdout(writer).kill_on_drop(true);
    let mut demo = command.spawn().unwrap();
    // It keeps a copy of the writing end.
    drop(command);
    let read = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        line
    });
    assert_ne!(read.await.unwrap(), "");
    let status = tokio::time::timeout(SOON, demo.wait()).await.expect("an end").unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its folder is gone");
}
