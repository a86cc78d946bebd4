//! The admin address, asked over real sockets.

mod ask;
mod exposition;

use ask::{Asked, ask, ask_with, connect, get, read_until};
use exposition::{Sample, parse, parse_open};
use outrigger::admin::{Window, serve};
use outrigger::balance::{Algorithm, PickCtx, Tried};
use outrigger::cluster::{Booth, Cluster, ClusterSettings, Graces, Keeper, Memory, Upkeep};
use outrigger::discovery::fixed::Fixed;
use outrigger::discovery::{Answer, Discover, DiscoverError, WatchSettings, watch};
use outrigger::model::{
    Endpoint, EndpointSet, Flag, InstanceId, Outcome, ServiceName, Standing, Weight, Zone,
};
use outrigger::policy::RetryReason;
use outrigger::rt::{Stop, Tasks};
use outrigger::telemetry::{Events, Kind};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use crate::support::eventually;

const LONG: Duration = Duration::from_secs(20);

/// A process with an admin address, as far as that address can tell.
struct Process {
    admin: SocketAddr,
    tasks: Tasks,
    events: Events,
    stopping: Stop,
    clusters: Vec<Arc<Cluster>>,
    upkeeps: Vec<Upkeep>,
}

/// A source that fails whenever it is asked.
struct Broken;

impl Discover for Broken {
    async fn next(&mut self) -> Result<Answer, DiscoverError> {
        Err(DiscoverError::Refused("403 ACL not found".into()))
    }
}

impl Process {
    fn new() -> Self {
        let events = Events::default();
        Self {
            admin: ([127, 0, 0, 1], 0).into(),
            tasks: Tasks::new(events.clone()),
            events,
            stopping: Stop::new(),
            clusters: Vec::new(),
            upkeeps: Vec::new(),
        }
    }

    fn with(mut self, name: &str, url: &str, source: impl Discover) -> Self {
        let settings = ClusterSettings {
            algorithm: Algorithm::LeastRequest,
            ..ClusterSettings::new(ServiceName::new(name).unwrap())
        };
        let service = settings.name.clone();
        let rng = SmallRng::seed_from_u64(1);
        let feed = watch(&self.tasks, service, url.to_owned(), source, WatchSettings::default(), rng);
        let cluster = Cluster::new(settings, vec![Arc::clone(&feed.status)], 2, Instant::now());
        let (keeper, upkeep) = Keeper::new(
            Arc::clone(&cluster),
            vec![feed],
            Graces::default(),
            Memory::none(),
            self.events.clone(),
            1,
        );
        keeper.spawn(&self.tasks);
        self.clusters.push(cluster);
        self.upkeeps.push(upkeep);
        self
    }

    fn with_fixed(self, name: &str, endpoints: Vec<Endpoint>) -> Self {
        self.with(name, "static://list", Fixed::new(EndpointSet::new(endpoints)))
    }

    fn serve(mut self) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        self.admin = listener.local_addr().unwrap();
        let window = Window {
            registrations: Vec::new(),
            clusters: self.clusters.clone(),
            entrances: Vec::new(),
            ports: Vec::new(),
            events: self.events.clone(),
            started: Instant::now(),
            stopping: self.stopping.clone(),
            connections: Arc::new(|| 42),
        };
        serve(&self.tasks, listener, Arc::new(window)).unwrap();
        self
    }

    async fn ready(self) -> Self {
        for cluster in &self.clusters {
            assert!(cluster.wait_discovered(LONG).await);
        }
        self
    }

    fn change(&self, cluster: usize, change: impl FnOnce(&outrigger::model::Target)) {
        let snapshot = self.clusters[cluster].snapshot();
        change(&snapshot.members[0].target);
        self.upkeeps[cluster].health_changed.notify_one();
    }
}

fn at(port: u16) -> Endpoint {
    Endpoint::at(([127, 0, 0, 1], port).into())
}

fn json(asked: &Asked) -> Value {
    assert_eq!(asked.header("content-type"), Some("application/json"));
    serde_json::from_str(&asked.body).unwrap()
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    samples.iter().find(|s| s.name == name && s.labels == wanted).map(|s| s.value)
}

#[tokio::test]
async fn every_path_answers_get_and_head_alike() {
    let process = Process::new().with_fixed("web", vec![at(1)]).serve().ready().await;
    for (path, kind, begins) in [
        ("/", "text/plain; charset=utf-8", "Outrigger "),
        ("/livez", "text/plain; charset=utf-8", "ok\n"),
        ("/readyz", "text/plain; charset=utf-8", "ready\n"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "# HELP outrigger_"),
        ("/api/services", "application/json", "[{"),
        ("/api/services/web", "application/json", "{\"name\":\"web\""),
        ("/api/events", "application/json", "[{"),
    ] {
        let got = get(process.admin, path).await;
        assert_eq!((got.status, got.header("content-type")), (200, Some(kind)), "{path}");
        assert!(got.body.starts_with(begins), "{path}: {}", got.body);
        let head = ask(process.admin, "HEAD", path).await;
        assert_eq!((head.status, head.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(head.body, "");
        // Numbers such as an age may grow by a digit between two scrapes.
        if !matches!(path, "/metrics" | "/api/services" | "/api/services/web") {
            assert_eq!(head.header("content-length"), got.header("content-length"), "{path}");
        }
    }
    let list = get(process.admin, "/").await.body;
    for path in ["/livez", "/readyz", "/metrics", "/api/services", "/api/services/NAME", "/api/events"] {
        assert!(list.contains(path), "{list}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_what_is() {
    let process =
        Process::new().with_fixed("orders", vec![at(1)]).with_fixed("web", vec![at(2)]).serve().ready().await;
    for path in ["/healthz", "/api", "/api/services/", "/metrics/"] {
        let got = get(process.admin, path).await;
        assert_eq!(got.status, 404, "{path}");
        assert!(json(&got)["error"].is_string());
    }
    let unknown = json(&get(process.admin, "/nope").await);
    assert_eq!(unknown["error"], "not_found");
    assert!(unknown["detail"].as_str().unwrap().contains("/api/services/NAME"));
    let got = get(process.admin, "/api/services/order").await;
    assert_eq!(got.status, 404);
    assert_eq!(json(&got)["error"], "unknown_service");
    assert!(json(&got)["detail"].as_str().unwrap().ends_with("orders, web"));
    for method in ["POST", "DELETE", "OPTIONS"] {
        let got = ask(process.admin, method, "/api/services/web").await;
        assert_eq!((got.status, got.header("allow")), (405, Some("GET, HEAD")), "{method}");
        assert_eq!(json(&got)["error"], "method_not_allowed");
    }
    assert_eq!(ask(process.admin, "POST", "/nope").await.status, 404);
}

#[tokio::test]
async fn a_service_shows_its_endpoints_by_address_with_what_is_held_against_them() {
    let described = Endpoint {
        instance: InstanceId::new("web-7"),
        weight: Weight::new(3),
        zone: Zone::new("eu-1"),
        meta: BTreeMap::from([("version".to_owned(), "2".to_owned())]).into(),
        ..at(7)
    };
    let critical = Endpoint { standing: Standing::Critical("maintenance: disk swap".into()), ..at(9) };
    let process = Process::new()
        .with_fixed("orders", vec![at(1)])
        .with_fixed("web", vec![critical, at(8), described])
        .serve()
        .ready()
        .await;
    let mut rng = SmallRng::seed_from_u64(1);
    let tried = Tried::default();
    let mut ctx = PickCtx { hash: None, tried: &tried, rng: &mut rng, now: Instant::now() };
    let mut ticket = Booth::new(Arc::clone(&process.clusters[0]), 0).pick(&mut ctx).unwrap();
    ticket.saw_head(Instant::now() + Duration::from_micros(2_500));
    let second = Booth::new(Arc::clone(&process.clusters[0]), 1).pick(&mut ctx).unwrap();
    second.finish(Outcome::Reset);

    let all = json(&get(process.admin, "/api/services").await);
    let names: Vec<_> = all.as_array().unwrap().iter().map(|service| &service["name"]).collect();
    assert_eq!(names, ["orders", "web"], "in the order of the configuration");
    let orders = &all[0]["endpoints"][0];
    assert_eq!(
        (&orders["in_flight"], &orders["requests"], &orders["failures"]),
        (&1.into(), &1.into(), &1.into())
    );
    let latency = orders["latency_ms"].as_f64().unwrap();
    assert!(latency >= 2.5, "{latency}");
    drop(ticket);

    let web = json(&get(process.admin, "/api/services/web").await);
    assert_eq!(web["balance"], "least_request");
    assert_eq!((&web["generation"], &web["usable"], &web["waiting"]), (&1.into(), &2.into(), &0.into()));
    let source = &web["sources"][0];
    assert_eq!((&source["url"], &source["state"]), (&"static://list".into(), &"live".into()));
    assert_eq!(
        (&source["updates"], &source["errors"], &source["skipped"]),
        (&1.into(), &0.into(), &0.into())
    );
    assert!(
        source["age_seconds"].is_number() && source["last_error"].is_null() && source["position"].is_null()
    );
    assert!(source["questions"].as_u64().unwrap() >= 1);
    let endpoints = web["endpoints"].as_array().unwrap();
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint["addr"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"]);
    let first = &endpoints[0];
    assert_eq!(
        (&first["instance"], &first["weight"], &first["zone"]),
        (&"web-7".into(), &3.into(), &"eu-1".into())
    );
    assert_eq!((&first["meta"]["version"], &first["state"]), (&"2".into(), &"usable".into()));
    assert_eq!((&first["latency_ms"], &first["source"]), (&Value::Null, &"static://list".into()));
    assert_eq!(first["reasons"], Value::Array(Vec::new()));
    let since = humantime::parse_rfc3339(first["since"].as_str().unwrap()).unwrap();
    assert!(since.elapsed().unwrap() < Duration::from_secs(60));
    assert_eq!(endpoints[1]["zone"], Value::Null);
    assert_eq!(endpoints[2]["state"], "critical");
    assert_eq!(endpoints[2]["reasons"][0], "registry: maintenance: disk swap");

    process.change(1, |target| {
        target.history.health.raise(Flag::Check);
        target.history.health.set_note(Flag::Check, Some("connection refused".into()));
    });
    let web = eventually("a smaller usable", LONG, || async {
        let web = json(&get(process.admin, "/api/services/web").await);
        (web["usable"] == 1).then_some(web)
    })
    .await;
    assert_eq!(web["endpoints"][0]["state"], "unhealthy");
    assert_eq!(web["endpoints"][0]["reasons"][0], "check: connection refused");
}

#[tokio::test]
async fn ready_means_that_every_service_has_a_usable_instance() {
    let process = Process::new()
        .with_fixed("orders", vec![at(1), at(2)])
        .with("web", "consul://127.0.0.1:8500/web", Broken)
        .serve();
    eventually("the first service", LONG, || async {
        process.clusters[0].snapshot().discovered.then_some(())
    })
    .await;
    let got = eventually("the source's error", LONG, || async {
        Some(get(process.admin, "/readyz").await).filter(|got| got.body.contains("ACL"))
    })
    .await;
    assert_eq!(got.status, 503);
    let expected =
        "web: no list of instances yet (source consul://127.0.0.1:8500/web: 403 ACL not found, failing for ";
    assert!(got.body.starts_with(expected), "{}", got.body);
    assert_eq!(got.body.lines().count(), 1);
    assert_eq!(get(process.admin, "/livez").await.status, 200);

    let process = Process::new().with_fixed("orders", vec![at(1)]).serve().ready().await;
    assert_eq!(get(process.admin, "/readyz").await.status, 200);
    process.change(0, |target| {
        target.history.health.raise(Flag::Check);
        target.history.health.set_note(Flag::Check, Some("connection refused".into()));
    });
    let got = eventually("not ready", LONG, || async {
        Some(get(process.admin, "/readyz").await).filter(|got| got.status == 503)
    })
    .await;
    assert_eq!(got.body, "orders: 1 known, 0 usable (127.0.0.1:1 check: connection refused)\n");
    process.change(0, |target| {
        target.history.health.clear(Flag::Check);
    });
    eventually("ready again", LONG, || async { Some(()).filter(|()| process.clusters[0].usable() == 1) })
        .await;
    assert_eq!(get(process.admin, "/readyz").await.status, 200);
    process.stopping.cancel();
    let got = get(process.admin, "/readyz").await;
    assert_eq!((got.status, got.body.as_str()), (503, "stopping\n"));
    assert_eq!(get(process.admin, "/livez").await.status, 200);
}

#[tokio::test]
async fn ten_thousand_fixed_instances_make_no_answer_of_gigabytes() {
    let list: Vec<_> = (1..=10_000_u16).map(|port| format!("127.0.0.1:{port}")).collect();
    let url = format!("static://{}", list.join(","));
    let mut sidecar = crate::support::Sidecar::start(&format!("[service.web]\nfrom = \"{url}\"\n")).await;
    let got = get(sidecar.admin(), "/api/services").await;
    assert!(got.body.len() < 10_000_000, "{} bytes", got.body.len());
    let endpoints = &json(&got)[0]["endpoints"];
    assert_eq!(endpoints.as_array().unwrap().len(), 10_000);
    let shown = "static://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3,… (10000)";
    assert_eq!(endpoints[9_999]["source"], shown);
    assert!(sidecar.is_running());
}

#[tokio::test]
async fn an_instance_that_refuses_five_connections_makes_the_source_be_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let port = crate::support::free_port();
    std::fs::write(folder.path().join("web.toml"), format!("endpoints = [\"127.0.0.1:{port}\"]\n")).unwrap();
    let config = "[service.web]\nfrom = \"file:web.toml\"\n";
    let mut sidecar = crate::support::Sidecar::launch_in(folder, config, |_| {}).await;
    sidecar.ready(LONG).await;
    let questions =
        async || sidecar.api("/api/services/web").await["sources"][0]["questions"].as_u64().unwrap();
    let before = questions().await;
    eventually("another question", LONG, async || {
        let refused = sidecar.get("web", "/").await;
        assert!(refused.status >= 500, "{}", refused.status);
        (questions().await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn not_ready_names_a_few_instances_and_what_stands_against_them() {
    let critical =
        |port, why: &str| Endpoint { standing: Standing::Critical(why.to_owned().into()), ..at(port) };
    let list = vec![
        critical(1, "disk\nfull"),
        Endpoint { weight: Weight::ZERO, ..at(2) },
        critical(3, "no memory"),
        critical(4, "maintenance"),
    ];
    let process =
        Process::new().with_fixed("orders", list).with_fixed("web", Vec::new()).serve().ready().await;
    let got = get(process.admin, "/readyz").await;
    let lines: Vec<_> = got.body.lines().collect();
    assert_eq!(
        lines,
        [
            "orders: 4 known, 0 usable (127.0.0.1:1 registry: disk full; 127.0.0.1:2 weight 0; \
             127.0.0.1:3 registry: no memory; …)",
            "web: 0 known, 0 usable",
        ]
    );
}

#[tokio::test]
async fn metrics_are_well_formed_in_both_formats_and_say_the_same() {
    let process = Process::new()
        .with_fixed("orders", vec![at(1), at(2)])
        .with("web", "consul://h/\"web\"\\x?tag=a", Broken)
        .serve();
    eventually("the source's error", LONG, || async {
        (process.clusters[1].sources[0].view(Instant::now()).errors > 0).then_some(())
    })
    .await;
    assert!(process.clusters[0].wait_discovered(LONG).await);
    let tally = process.clusters[0].tally(1);
    tally.request(200, Duration::from_millis(3));
    tally.request(503, Duration::from_secs(30));
    tally.retry(RetryReason::Reset);
    let mut rng = SmallRng::seed_from_u64(1);
    let tried = Tried::default();
    let mut ctx = PickCtx { hash: None, tried: &tried, rng: &mut rng, now: Instant::now() };
    let ticket = Booth::new(Arc::clone(&process.clusters[0]), 0).pick(&mut ctx).unwrap();
    let chosen = ticket.target().endpoint.addr.to_string();
    ticket.finish(Outcome::Timeout);

    let plain = get(process.admin, "/metrics").await;
    let accept =
        "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
    let open = ask_with(process.admin, "GET", "/metrics", accept).await;
    assert_eq!(
        open.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    for samples in [parse(&plain.body), parse_open(&open.body)] {
        let value = |name: &str, labels: &[(&str, &str)]| {
            value(&samples, name, labels).unwrap_or_else(|| panic!("{name} {labels:?} is missing"))
        };
        let orders = ("service", "orders");
        assert_eq!(value("outrigger_requests_total", &[orders, ("code", "503")]), 1.0);
        assert_eq!(value("outrigger_request_duration_seconds_count", &[orders]), 2.0);
        assert_eq!(value("outrigger_request_duration_seconds_sum", &[orders]), 30.003);
        assert_eq!(value("outrigger_request_duration_seconds_bucket", &[orders, ("le", "0.005")]), 1.0);
        assert_eq!(value("outrigger_request_duration_seconds_bucket", &[orders, ("le", "+Inf")]), 2.0);
        assert_eq!(value("outrigger_upstream_attempts_total", &[orders, ("outcome", "timeout")]), 1.0);
        assert_eq!(value("outrigger_retries_total", &[orders, ("reason", "reset")]), 1.0);
        assert_eq!(value("outrigger_retries_total", &[orders, ("reason", "timeout")]), 0.0);
        for reason in ["unsafe_method", "body_too_large", "budget", "deadline", "no_other_target"] {
            assert_eq!(value("outrigger_retries_denied_total", &[orders, ("reason", reason)]), 0.0);
        }
        assert_eq!(value("outrigger_endpoints", &[orders, ("state", "usable")]), 2.0);
        for state in ["unproven", "unhealthy", "ejected", "draining", "suspect", "critical"] {
            assert_eq!(value("outrigger_endpoints", &[orders, ("state", state)]), 0.0);
        }
        assert_eq!(value("outrigger_suspect_endpoints", &[orders]), 0.0);
        assert_eq!(value("outrigger_waiting_requests", &[orders]), 0.0);
        let endpoint = ("endpoint", &*chosen);
        assert_eq!(value("outrigger_endpoint_in_flight", &[orders, endpoint]), 0.0);
        let outcome = |outcome| [orders, endpoint, ("outcome", outcome)];
        assert_eq!(value("outrigger_endpoint_requests_total", &outcome("timeout")), 1.0);
        assert_eq!(value("outrigger_endpoint_requests_total", &outcome("success")), 0.0);
        let fixed = ("source", "static://list");
        assert_eq!(value("outrigger_source_up", &[orders, fixed]), 1.0);
        assert!(value("outrigger_source_age_seconds", &[orders, fixed]) < 60.0);
        assert_eq!(value("outrigger_source_updates_total", &[orders, fixed]), 1.0);
        assert_eq!(value("outrigger_source_entries_skipped", &[orders, fixed]), 0.0);
        let broken = [("service", "web"), ("source", "consul://h/\"web\"\\x?tag=a")];
        assert_eq!(value("outrigger_source_up", &broken), 0.0);
        assert_eq!(value("outrigger_source_errors_total", &broken), 1.0);
        assert_eq!(value("outrigger_connections", &[("side", "client")]), 42.0);
        assert_eq!(value("outrigger_events_total", &[("kind", "source_failing")]), 1.0);
        assert_eq!(value("outrigger_events_total", &[("kind", "task_panicked")]), 0.0);
        assert_eq!(value("outrigger_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
        let started = value("process_start_time_seconds", &[]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.0..60.0).contains(&(now - started)), "{started} is not shortly before {now}");
    }
}

#[tokio::test]
async fn events_are_listed_newest_last() {
    let process = Process::new().serve();
    for n in 0..1_100 {
        process.events.emit(Kind::EntrySkipped, "web", Some(([10, 0, 0, 1], 80).into()), n.to_string());
    }
    let events = json(&get(process.admin, "/api/events").await);
    let events = events.as_array().unwrap();
    assert_eq!(events.len(), 1_000);
    let newest = &events[999];
    assert_eq!((&newest["seq"], &newest["detail"]), (&1_100.into(), &"1099".into()));
    assert_eq!((&newest["kind"], &newest["service"]), (&"entry_skipped".into(), &"web".into()));
    assert_eq!(newest["endpoint"], "10.0.0.1:80");
    humantime::parse_rfc3339(newest["at"].as_str().unwrap()).unwrap();
}

#[tokio::test]
async fn events_are_followed_live_and_from_where_a_client_was() {
    let process = Process::new().serve();
    for detail in ["one", "two"] {
        process.events.emit(Kind::Started, "", None, detail);
    }
    let follow = |more: &str| format!("GET /api/events HTTP/1.1\r\nAccept: text/event-stream\r\n{more}\r\n");
    let mut all = connect(process.admin, &follow("")).await;
    let text = read_until(&mut all, "\"two\"").await;
    assert!(text.contains("content-type: text/event-stream\r\n"), "{text}");
    assert!(text.contains("id: 1\ndata: {\"seq\":1,") && text.contains("id: 2\ndata: {\"seq\":2,"), "{text}");
    let mut late = connect(process.admin, &follow("Last-Event-ID: 1\r\n")).await;
    let text = read_until(&mut late, "\"two\"").await;
    assert!(!text.contains("id: 1\n") && text.contains("id: 2\n"), "{text}");
    process.events.emit(Kind::Stopping, "", None, "three");
    for follower in [&mut all, &mut late] {
        let text = read_until(follower, "\"three\"").await;
        assert!(text.contains("id: 3\ndata: {") && !text.contains("id: 2\n"), "{text}");
    }
    assert_eq!(
        ask_with(process.admin, "HEAD", "/api/events", "Accept: text/event-stream\r\n").await.status,
        200
    );
}

#[tokio::test]
async fn ten_thousand_endpoints_are_shown_and_folded() {
    let endpoints = (0..10_000_u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        Endpoint::at(([10, 0, high, low], 80).into())
    });
    let process = Process::new().with_fixed("many", endpoints.collect()).serve().ready().await;
    let begun = Instant::now();
    let service = json(&get(process.admin, "/api/services/many").await);
    assert_eq!(service["endpoints"].as_array().unwrap().len(), 10_000);
    let samples = parse(&get(process.admin, "/metrics").await.body);
    // Unoptimized, on a busy machine.
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    let in_flight: Vec<_> = samples.iter().filter(|s| s.name == "outrigger_endpoint_in_flight").collect();
    assert_eq!(in_flight.len(), 201);
    assert_eq!(in_flight.iter().filter(|s| s.labels["endpoint"] == "other").count(), 1);
    assert_eq!(
        value(&samples, "outrigger_endpoints", &[("service", "many"), ("state", "usable")]),
        Some(10_000.0)
    );
}

#[tokio::test]
async fn neither_the_silent_nor_the_patient_keep_others_out() {
    let process = Process::new().serve();
    let mut held = Vec::new();
    // As many followers as are let in, and one more.
    for n in 0..=32 {
        let mut stream =
            connect(process.admin, "GET /api/events HTTP/1.1\r\nAccept: text/event-stream\r\n\r\n").await;
        let text = read_until(&mut stream, "\r\n\r\n").await;
        assert!(text.starts_with(if n < 32 { "HTTP/1.1 200 " } else { "HTTP/1.1 503 " }), "{n}: {text}");
        held.push(stream);
    }
    // Many that say nothing, or half of something.
    for n in 0..200 {
        held.push(connect(process.admin, ["", "GET /live"][n % 2]).await);
    }
    for _ in 0..20 {
        assert_eq!(get(process.admin, "/livez").await.body, "ok\n");
    }
    // The silent had to make room; each of them sees it.
    let mut left = 0;
    for silent in &mut held[33..] {
        let closed = tokio::time::timeout(Duration::from_millis(5), ask::read_to_end(silent)).await;
        left += usize::from(closed.is_err());
    }
    assert!(left <= 64 - 32, "{left} silent connections are still open");
    process.events.emit(Kind::Started, "", None, "still followed");
    for follower in &mut held[..32] {
        read_until(follower, "still followed").await;
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests_and_too_big_a_head_none() {
    let process = Process::new().serve();
    let mut stream = connect(process.admin, "GET /livez HTTP/1.1\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n").await;
    let text = read_until(&mut stream, "ready\n").await;
    assert!(text.contains("\r\n\r\nok\n"), "{text}");
    let big = format!("X-Big: {}\r\n", "x".repeat(64 * 1024));
    assert_eq!(ask_with(process.admin, "GET", "/livez", &big).await.status, 431);
}

#[tokio::test]
async fn stopping_ends_the_idle_the_followers_and_the_listener() {
    let process = Process::new().serve();
    let mut idle = connect(process.admin, "GET /livez HTTP/1.1\r\n\r\n").await;
    read_until(&mut idle, "ok\n").await;
    let mut half = connect(process.admin, "GET /live").await;
    process.events.emit(Kind::Started, "", None, "first");
    let mut follower =
        connect(process.admin, "GET /api/events HTTP/1.1\r\nAccept: text/event-stream\r\n\r\n").await;
    read_until(&mut follower, "first").await;
    // Sooner than a request head may take.
    assert!(process.tasks.stop(Duration::from_secs(6)).await, "all tasks end");
    for stream in [&mut idle, &mut half, &mut follower] {
        ask::read_to_end(stream).await;
    }
    assert!(tokio::net::TcpStream::connect(process.admin).await.is_err(), "nobody listens any more");
}
