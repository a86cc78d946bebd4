//! The order of a stop, requests before the first list, the app as a child, and waiting for a sidecar.

use crate::support::client::{Client, get, try_get};
use crate::support::registry::three;
use crate::support::{Instance, Load, Process, Registry, Sidecar, eventually, free_port};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const SOON: Duration = Duration::from_secs(20);

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn outrigger() -> Command {
    Command::new(env!("CARGO_BIN_EXE_outrigger"))
}

/// The details of the events of a stop that are still to be had from the log.
fn phases(log: &str) -> Vec<&str> {
    const PHASES: [&str; 5] = [
        "registration_withdrawn",
        "waiting until others have learned",
        "serving on until the app is gone",
        "finishing what runs",
        "stopped",
    ];
    log.lines().filter_map(|line| PHASES.into_iter().find(|phase| line.contains(phase))).collect()
}

#[tokio::test]
async fn a_registered_app_leaves_first_its_calls_are_served_and_the_sidecar_goes_last() {
    let (registry, instances) = (Registry::consul().await, three().await);
    registry.register_all("backend", &instances).await;
    let mut app = Instance::start("app").await;
    let Registry::Consul(agent) = &registry else { unreachable!() };
    let (port, http) = (app.addr().port(), agent.port());
    let mut sidecar = Sidecar::start(&format!(
        "[consul]\naddress = \"http://127.0.0.1:{http}\"\n[shutdown]\ndelay = \"2s\"\n\
         [service.backend]\nfrom = \"consul:backend\"\n\
         [register.web]\nport = {port}\nto = \"consul\"\naddress = \"127.0.0.1\"\nhealth = {{ http = \"/health\" }}\n"
    ))
    .await;
    let listed = async || {
        let entries = agent.get("/v1/health/service/web?passing").await;
        entries.as_array().unwrap().len()
    };
    eventually("the app is registered", SOON, async || (listed().await == 1).then_some(())).await;
    // The app goes on calling others until it ends.
    let load = Load::start(sidecar.service("backend"), "/", 4, Duration::from_secs(60));
    sidecar.signal("TERM");
    eventually("it has left", SOON, async || (listed().await == 0).then_some(())).await;
    let left = Instant::now();
    let ready = get(sidecar.admin(), "/readyz").await;
    assert_eq!((ready.status, ready.text().as_str()), (503, "stopping\n"));
    sleep(Duration::from_secs(4)).await;
    assert!(sidecar.is_running(), "the app still listens: {}", sidecar.log());
    assert_eq!(sidecar.get("backend", "/").await.status, 200);
    let report = load.stop().await;
    assert_eq!(report.errors(), 0, "{report:?}");
    app.kill();
    sidecar.stop_was_asked().await;
    assert!(left.elapsed() >= Duration::from_secs(4));
    let log = sidecar.log();
    let expected = [
        "registration_withdrawn",
        "waiting until others have learned",
        "serving on until the app is gone",
        "finishing what runs",
        "stopped",
    ];
    assert_eq!(phases(&log), expected, "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (registry, app) = (Registry::consul().await, Instance::start("app").await);
    let Registry::Consul(agent) = &registry else { unreachable!() };
    let mut sidecar = Sidecar::launch(&format!(
        "[register.web]\nport = {}\nto = \"consul://127.0.0.1:{}\"\naddress = \"127.0.0.1\"\n",
        app.addr().port(),
        agent.port()
    ))
    .await;
    sidecar.signal("TERM");
    eventually("it serves on", SOON, async || sidecar.log().contains("serving on").then_some(())).await;
    sidecar.signal("TERM");
    let begun = Instant::now();
    eventually("it has ended", SOON, async || (!sidecar.is_running()).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(sidecar.log().contains("stopped at once by a second signal"), "{}", sidecar.log());
}

/// Requests of all kinds, sent before there is any registry, are answered once it is there.
#[tokio::test]
async fn requests_before_the_first_list_are_held() {
    let (mut registry, instances) = (Registry::consul_with_data().await, three().await);
    registry.register_all("web", &instances).await;
    registry.kill();
    let from = registry.source("web");
    let sidecar = Sidecar::launch(&format!(
        "[service.web]\nfrom = \"{from}\"\ntimeouts.first_list = \"25s\"\ntimeouts.request = \"30s\"\n\
         watch.backoff_cap = \"500ms\"\n"
    ))
    .await;
    let addr = sidecar.service("web");
    let mut requests = tokio::task::JoinSet::new();
    requests.spawn(async move { get(addr, "/").await.status });
    requests.spawn(async move {
        let post = http::Request::post("/").body(crate::support::client::full("a body")).unwrap();
        Client::new(addr).send(post).await.unwrap().status
    });
    // One that does not wait for its end.
    let impatient = tokio::time::timeout(Duration::from_millis(300), try_get(addr, "/left")).await;
    assert!(impatient.is_err());
    registry.restart().await;
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    for instance in &instances {
        assert_eq!(instance.count("/left").await, 0, "nobody waited for it any more");
    }
}

#[tokio::test]
async fn a_first_list_that_does_not_come_is_told_after_its_time() {
    let nobody = free_port();
    let sidecar = Sidecar::launch(&format!(
        "[service.web]\nfrom = \"consul://127.0.0.1:{nobody}/web\"\ntimeouts.first_list = \"500ms\"\n"
    ))
    .await;
    let begun = Instant::now();
    let answer = sidecar.get("web", "/").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(answer.header("x-outrigger-error").unwrap().starts_with("no_endpoints;"));
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
}

/// `outrigger exec` in front of a shell script.
struct Wrapped {
    process: Process,
    folder: TempDir,
    admin: SocketAddr,
}

impl Wrapped {
    /// `more` is further configuration, `flags` go before the `--`.
    fn start(from: &str, more: &str, flags: &[&str], script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (service, admin) = (local(free_port()), local(free_port()));
        let config = format!(
            "[admin]\nlisten = \"{admin}\"\n[service.orders-v2]\nlisten = [\"{service}\"]\nfrom = \"{from}\"\n{more}"
        );
        std::fs::write(folder.path().join("outrigger.toml"), config).unwrap();
        let mut command = outrigger();
        command.arg("exec").args(flags).args(["outrigger.toml", "--", "sh", "-c", script]);
        let process = Process::start(command.current_dir(folder.path()), &folder.path().join("log"));
        Self { process, folder, admin }
    }

    fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join(name)).ok().filter(|text| text.ends_with('\n'))
    }

    async fn has(&self, name: &str) -> String {
        let text = eventually(name, SOON, async || self.file(name)).await;
        text.trim_end().to_owned()
    }

    async fn ended(&mut self) -> Option<i32> {
        self.process.ended(Duration::from_secs(40)).await.code()
    }
}

#[tokio::test]
async fn the_app_starts_when_its_services_are_ready_and_its_exit_code_is_kept() {
    let (registry, instances) = (Registry::etcd("etcd35").await, three().await);
    let script = "curl -s -o /dev/null -w '%{http_code}\\n' $OUTRIGGER_ORDERS_V2_URL/ > status; \
                  echo $OUTRIGGER_ADMIN_URL > admin; exit 7";
    let mut app = Wrapped::start(&registry.source("web"), "", &[], script);
    eventually("it says what it waits for", SOON, async || {
        let log = app.process.output();
        (log.contains("waiting for usable instances") && log.contains("orders-v2")).then_some(())
    })
    .await;
    assert_eq!(app.file("status"), None, "not before there is an instance");
    registry.register_all("web", &instances).await;
    assert_eq!(app.ended().await, Some(7), "{}", app.process.output());
    assert_eq!(app.has("status").await, "200");
    assert_eq!(app.has("admin").await, format!("http://{}", app.admin));
}

#[tokio::test]
async fn without_its_services_the_app_is_not_started_unless_somebody_insists() {
    let nowhere = format!("consul://127.0.0.1:{}/web", free_port());
    let mut app = Wrapped::start(&nowhere, "", &["--ready-timeout", "300ms"], "echo started > started");
    assert_eq!(app.ended().await, Some(1));
    let log = app.process.output();
    assert!(log.contains("no usable instance after 300ms: orders-v2. The app was not started"), "{log}");
    assert_eq!(app.file("started"), None);
    let flags = ["--ready-timeout", "300ms", "--start-anyway"];
    let mut app = Wrapped::start(&nowhere, "", &flags, "echo started > started");
    assert_eq!(app.ended().await, Some(0));
    app.has("started").await;
}

#[tokio::test]
async fn what_cannot_be_started_is_told_with_the_exit_code_of_a_shell() {
    let one = Instance::start("one").await;
    let listen = free_port().to_string();
    let to = format!("static://{}", one.addr());
    for (program, code, words) in [
        ("./nowhere", 127, "the app cannot be started: ./nowhere: No such file or directory"),
        ("/etc/passwd", 126, "the app cannot be started: /etc/passwd: Permission denied"),
    ] {
        let mut command = outrigger();
        let output = command
            .args(["exec", "--listen", &listen, "--to", &to, "--admin", "off", "--", program])
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{log}");
        assert!(log.contains(words), "{log}");
    }
    let output = outrigger().args(["exec", "--listen", &listen, "--to", &to]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "no app at all");
}

#[tokio::test]
async fn two_services_that_want_one_variable_are_refused() {
    let (one, two) = (free_port().to_string(), free_port().to_string());
    let output = outrigger()
        .args([
            "exec",
            "--listen",
            &one,
            "--to",
            "consul:a-b",
            "--listen",
            &two,
            "--to",
            "consul:a.b",
            "--",
            "true",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("would both give the app OUTRIGGER_A_B_URL: rename one of them"), "{said}");
}

#[tokio::test]
async fn signals_reach_the_app() {
    let one = Instance::start("one").await;
    let script = "for s in HUP USR1 USR2 QUIT WINCH; do trap \"echo $s > $s\" $s; done; echo up > up; \
                  while true; do sleep 0.05; done";
    let mut app = Wrapped::start(&format!("static://{}", one.addr()), "", &[], script);
    app.has("up").await;
    for name in ["HUP", "USR1", "USR2", "QUIT", "WINCH"] {
        app.process.signal(name);
        assert_eq!(app.has(name).await, name);
    }
    let id = app.process.id().to_string();
    let children = Command::new("pgrep").args(["-P", &id]).output().unwrap();
    let child = String::from_utf8(children.stdout).unwrap();
    assert!(Command::new("kill").args(["-KILL", child.trim()]).status().unwrap().success());
    assert_eq!(app.ended().await, Some(137), "128 and the signal's number");
}

/// The order: out of the registry, others learn, the app is told, its calls go on, it ends, the sidecar ends.
#[tokio::test]
async fn the_app_is_told_to_end_after_others_have_learned_and_calls_until_it_has() {
    let (registry, instances) = (Registry::consul().await, three().await);
    registry.register_all("web", &instances).await;
    let Registry::Consul(agent) = &registry else { unreachable!() };
    let port = free_port();
    let more = format!(
        "[shutdown]\ndelay = \"1500ms\"\n[register.mine]\nport = {port}\nto = \"consul://127.0.0.1:{}\"\n\
         address = \"127.0.0.1\"\nhealth = {{ http = \"/health\" }}\n",
        agent.port()
    );
    // The app proper is a server; the script is told to end, and calls another service once more before it does.
    let server = instance_binary();
    let script = format!(
        "{} --port {port} --name mine & server=$!; \
         trap 'date +%s%N > told; sleep 1; curl -s -o /dev/null -w \"%{{http_code}}\\n\" $OUTRIGGER_ORDERS_V2_URL/ > last; \
         kill $server; exit 3' TERM; while true; do sleep 0.05; done",
        server.display()
    );
    let mut app = Wrapped::start(&registry.source("web"), &more, &[], &script);
    let listed = async || agent.get("/v1/health/service/mine?passing").await.as_array().unwrap().len();
    eventually("the app is registered", SOON, async || (listed().await == 1).then_some(())).await;
    app.process.signal("TERM");
    eventually("it has left", SOON, async || (listed().await == 0).then_some(())).await;
    let left = std::time::SystemTime::now();
    assert_eq!(app.file("told"), None, "not before others have learned");
    assert_eq!(app.ended().await, Some(3), "{}", app.process.output());
    let told: u64 = app.has("told").await.parse().unwrap();
    let left = left.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(told > left + 500_000_000, "told {} ms after it left", (told.saturating_sub(left)) / 1_000_000);
    assert_eq!(app.has("last").await, "200", "its calls went on");
}

#[tokio::test]
async fn an_app_that_does_not_end_is_killed_after_its_grace() {
    let one = Instance::start("one").await;
    let script = "trap '' TERM; echo up > up; while true; do sleep 0.05; done";
    let mut app =
        Wrapped::start(&format!("static://{}", one.addr()), "[shutdown]\ngrace = \"1s\"\n", &[], script);
    app.has("up").await;
    app.process.signal("TERM");
    assert_eq!(app.ended().await, Some(137));
    assert!(
        app.process.output().contains("the app is still there after its grace"),
        "{}",
        app.process.output()
    );
}

/// While the app has its grace it is still told of other signals, and nothing waits longer than it does.
#[tokio::test]
async fn signals_reach_an_app_that_is_about_to_end_and_its_end_is_not_waited_out() {
    let (registry, one) = (Registry::consul().await, Instance::start("one").await);
    let Registry::Consul(agent) = &registry else { unreachable!() };
    let more = format!(
        "[shutdown]\ndelay = \"20s\"\n[register.mine]\nport = {}\nto = \"consul://127.0.0.1:{}\"\n\
         address = \"127.0.0.1\"\n",
        one.addr().port(),
        agent.port()
    );
    let script = "trap 'echo HUP > hup; exit 6' HUP; trap 'echo TERM > term' TERM; echo up > up; \
                  while true; do sleep 0.05; done";
    let mut app = Wrapped::start(&format!("static://{}", one.addr()), &more, &[], script);
    app.has("up").await;
    let listed = async || agent.get("/v1/catalog/service/mine").await.as_array().unwrap().len();
    eventually("it is registered", SOON, async || (listed().await == 1).then_some(())).await;
    app.process.signal("TERM");
    eventually("it has left", SOON, async || (listed().await == 0).then_some(())).await;
    let left = Instant::now();
    app.process.signal("HUP");
    app.has("hup").await;
    assert_eq!(app.ended().await, Some(6));
    assert!(
        left.elapsed() < Duration::from_secs(10),
        "the app went within the delay of 20 s: {:?}",
        left.elapsed()
    );
    assert_eq!(app.file("term"), None, "it was not asked any more");
}

/// `run` beside an app that somebody else stops: other sidecars that call it notice nothing.
#[tokio::test]
async fn an_app_and_its_sidecar_that_are_stopped_together_cost_others_no_request() {
    let registry = Registry::consul().await;
    let Registry::Consul(agent) = &registry else { unreachable!() };
    let (other, mut app) = (Instance::start("other").await, Instance::start("app").await);
    registry.register("web", "other", other.addr(), 1).await;
    let mut own = Sidecar::launch(&format!(
        "[shutdown]\ndelay = \"1s\"\n[register.web]\nport = {}\nto = \"consul://127.0.0.1:{}\"\nid = \"app\"\n\
         address = \"127.0.0.1\"\n",
        app.addr().port(),
        agent.port()
    ))
    .await;
    let caller = Sidecar::start(&format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"))).await;
    let load = Load::start(caller.service("web"), "/", 16, Duration::from_secs(60));
    eventually("the app is called", SOON, async || (app.count("/").await > 100).then_some(())).await;
    own.signal("TERM");
    eventually("nobody calls it any more", SOON, async || {
        own.log().contains("serving on until the app is gone").then_some(())
    })
    .await;
    let calls = app.count("/").await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(app.count("/").await, calls, "others have learned of it");
    app.kill();
    own.stop_was_asked().await;
    let report = load.stop().await;
    assert_eq!(report.errors(), 0, "{report:?}");
}

#[tokio::test]
async fn an_app_that_ends_by_itself_is_taken_out_of_the_registry() {
    let (registry, one) = (Registry::consul().await, Instance::start("one").await);
    let Registry::Consul(agent) = &registry else { unreachable!() };
    let more = format!(
        "[register.mine]\nport = {}\nto = \"consul://127.0.0.1:{}\"\naddress = \"127.0.0.1\"\n",
        one.addr().port(),
        agent.port()
    );
    let script = "while [ ! -e go ]; do sleep 0.05; done; exit 5";
    let mut app = Wrapped::start(&format!("static://{}", one.addr()), &more, &[], script);
    let listed = async || agent.get("/v1/catalog/service/mine").await.as_array().unwrap().len();
    eventually("it is registered", SOON, async || (listed().await == 1).then_some(())).await;
    std::fs::write(app.folder.path().join("go"), "").unwrap();
    let begun = Instant::now();
    assert_eq!(app.ended().await, Some(5));
    assert!(begun.elapsed() < Duration::from_secs(4), "nobody waits for who has gone: {:?}", begun.elapsed());
    assert_eq!(listed().await, 0);
}

/// As the first process of a container: orphans that ended are buried.
#[tokio::test]
async fn as_the_first_process_it_leaves_no_zombies() {
    let one = Instance::start("one").await;
    let folder = tempfile::tempdir().unwrap();
    let script = "(sh -c 'sleep 0.2 & exit 0'); sleep 1; \
                  grep -l '^State:.Z' /proc/[0-9]*/status > zombies; echo done > done; exit 4";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--"]);
    command.arg(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["exec", "--listen", &free_port().to_string(), "--to", &format!("static://{}", one.addr())]);
    command.args(["--admin", "off", "--", "sh", "-c", script]).current_dir(folder.path());
    let mut process = Process::start(&mut command, &folder.path().join("log"));
    let code = process.ended(SOON).await.code();
    if code == Some(1) && !folder.path().join("done").exists() {
        // A system that grants nobody a namespace of processes.
        assert!(process.output().contains("unshare"), "{}", process.output());
        eprintln!("skipped: {}", process.output());
        return;
    }
    assert_eq!(code, Some(4), "{}", process.output());
    assert_eq!(std::fs::read_to_string(folder.path().join("zombies")).unwrap(), "");
}

fn instance_binary() -> std::path::PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_outrigger"));
    binary.with_file_name("examples").join("instance")
}

#[tokio::test]
async fn wait_ends_when_the_sidecar_is_ready() {
    let (registry, instances) = (Registry::etcd("etcd").await, three().await);
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::launch(&format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"))).await;
    let mut command = outrigger();
    command.args(["wait", "--timeout", "30s", "--admin", &format!("http://{}", sidecar.admin())]);
    let mut waiting = Process::start(&mut command, &folder.path().join("log"));
    eventually("it says what it waits for", SOON, async || {
        waiting.output().contains("waiting: web: 0 known, 0 usable").then_some(())
    })
    .await;
    assert!(waiting.is_running());
    registry.register_all("web", &instances).await;
    assert_eq!(waiting.ended(SOON).await.code(), Some(0), "{}", waiting.output());
    // By the configuration, and by the environment.
    let by_file = outrigger().arg("wait").arg(sidecar.config_file()).output().unwrap();
    assert_eq!(by_file.status.code(), Some(0), "{by_file:?}");
    let url = format!("http://{}", sidecar.admin());
    let by_variable = outrigger().arg("wait").env("OUTRIGGER_ADMIN_URL", url).output().unwrap();
    assert_eq!((by_variable.status.code(), by_variable.stderr.len()), (Some(0), 0), "{by_variable:?}");
}

#[tokio::test]
async fn wait_gives_up_and_says_why() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let output = outrigger().args(["wait", "--timeout", "300ms", "--admin", &nobody]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("not ready after 300ms: no sidecar answers at {nobody}")), "{said}");
    for (args, words) in [
        (vec!["wait", "--admin", "nowhere"], "--admin: \"nowhere\" is no admin address"),
        (vec!["wait", "/nonexistent.toml"], "/nonexistent.toml: cannot be read"),
        (vec!["wait", "--timeout", "soon"], "invalid value 'soon' for '--timeout <TIME>'"),
    ] {
        let output = outrigger().args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}
