//! Looks at a sidecar from outside, again and again, and notes what must never be.

use super::asked::{Asked, Servers};
use crate::support::client::Client;
use crate::support::sockets::connections;
use crate::support::{Sidecar, metrics};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Between two looks.
const TICK: Duration = Duration::from_millis(150);
/// The metrics are read at each so-manieth look.
const METRICS: u32 = 6;
/// A failing source is asked at most this often within any such time.
const FAILING: Duration = Duration::from_secs(30);
const ASKED_WHILE_FAILING: u64 = 30;
/// CPU of everything that is not a request, in shares of one core: in all, and for each of very many watches (this is a
/// debug build beside other tests on few cores: one for users stays below 0.05); and the least time over which
/// it is judged.
const CPU_SHARE: f64 = 0.12;
const CPU_SHARE_EACH: f64 = 0.0015;
const CPU_TIME: Duration = Duration::from_secs(5);
/// So many breaches are told in words.
const TOLD: usize = 10;
/// Ticks of `/proc/PID/stat` a second (Linux: USER_HZ, the same on all common architectures).
const HERTZ: f64 = 100.0;

/// What a scenario's sidecar must keep within.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub service: String,
    /// Watches of that service: one for each source.
    pub watches: u64,
    /// Where the registry's servers listen.
    ports: Vec<u16>,
    limit: Limit,
    cpu_share: f64,
    /// CPU while the source lives: off where the story itself makes work.
    idle_cpu: bool,
    /// Of the first registration of [`Self::service`]: it is what is observed, instead of the sources.
    registry: Option<Servers>,
}

/// Connections to a registry.
#[derive(Clone, Copy, Debug)]
enum Limit {
    InAll(usize),
    Each(usize),
}

impl Bounds {
    /// `web`, from Consul agents on these ports, by so many watches in the whole sidecar.
    pub fn consul(ports: impl IntoIterator<Item = u16>, watches: usize) -> Self {
        let cpu_share = CPU_SHARE.max(CPU_SHARE_EACH * watches as f64);
        Self { cpu_share, ..Self::new(ports, Limit::InAll(watches + 2)) }
    }

    /// `web`, from etcd members on these ports.
    pub fn etcd(ports: impl IntoIterator<Item = u16>) -> Self {
        Self::new(ports, Limit::Each(2))
    }

    /// Changes make work for their own time: only a failing source is held to its share of CPU.
    pub fn busy(mut self) -> Self {
        self.idle_cpu = false;
        self
    }

    /// The app is registered there; the service's own source asks nobody.
    pub fn registering(mut self, registry: Servers) -> Self {
        self.registry = Some(registry);
        self
    }

    fn new(ports: impl IntoIterator<Item = u16>, limit: Limit) -> Self {
        let ports = ports.into_iter().collect();
        let service = "web".to_owned();
        Self { service, watches: 1, ports, limit, cpu_share: CPU_SHARE, idle_cpu: true, registry: None }
    }
}

/// The looks so far.
#[derive(Debug)]
pub(super) struct Observer {
    bounds: Bounds,
    admin: SocketAddr,
    process: u32,
    began: Instant,
    /// Fewer usable endpoints than this are a breach.
    held: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    looks: Vec<Look>,
    breaches: usize,
    told: Vec<String>,
    most_connections: usize,
}

/// One look.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Before and after the API was asked: the counts are of some moment in between.
    from: Instant,
    to: Instant,
    questions: u64,
    failing: bool,
    /// CPU seconds of all threads but the workers.
    cpu: f64,
}

impl Observer {
    pub(super) fn new(sidecar: &Sidecar, bounds: Bounds) -> Self {
        Self {
            bounds,
            admin: sidecar.admin(),
            process: sidecar.id(),
            began: Instant::now(),
            held: AtomicUsize::new(0),
            seen: Mutex::default(),
        }
    }

    pub(super) async fn run(&self, over: &AtomicBool) {
        // One connection, so that looking costs the sidecar little.
        let mut admin = Client::new(self.admin);
        let mut asked = self.bounds.registry.clone().map(Asked::new);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for turn in 0_u32.. {
            ticks.tick().await;
            if over.load(Ordering::Relaxed) {
                if let Some(asked) = &mut asked {
                    let questions = asked.count().await;
                    self.seen().looks.last_mut().into_iter().for_each(|look| look.questions = questions);
                }
                return;
            }
            // Seldom, since it costs the servers something.
            let asked = asked.as_mut().filter(|_| turn % METRICS == 0);
            self.look(&mut admin, asked).await;
            if turn % METRICS == 0 {
                self.read_metrics(&mut admin).await;
            }
        }
    }

    pub(super) fn hold(&self, endpoints: usize) {
        self.held.store(endpoints, Ordering::SeqCst);
    }

    /// Questions to the registry that the sidecar has counted.
    pub(super) fn questions(&self) -> u64 {
        self.seen().looks.last().map_or(0, |look| look.questions)
    }

    pub(super) fn broken(&self) -> Vec<String> {
        let seen = self.seen();
        let more = seen.breaches.saturating_sub(TOLD);
        let more = (more > 0).then(|| format!("and {more} more"));
        let rates = self.too_often(&seen.looks).into_iter().chain(self.too_much_cpu(&seen.looks));
        seen.told.iter().cloned().chain(more).chain(rates).collect()
    }

    /// The most connections to the registry, and the share of one core that the control plane took.
    pub(super) fn notes(&self) -> String {
        let seen = self.seen();
        let cpu = match seen.looks.as_slice() {
            [first, .., last] => 100.0 * (last.cpu - first.cpu) / (last.to - first.from).as_secs_f64(),
            _ => 0.0,
        };
        let plural = if seen.most_connections == 1 { "" } else { "s" };
        format!("{} connection{plural}, {cpu:.1} % CPU", seen.most_connections)
    }

    async fn look(&self, admin: &mut Client, asked: Option<&mut Asked>) {
        // Read before the question: a test raises it only after it has seen so many.
        let held = self.held.load(Ordering::SeqCst);
        let from = Instant::now();
        let path = format!("/api/services/{}", self.bounds.service);
        let service: Value = match admin.get(&path).await {
            Ok(answer) if answer.status == 200 => answer.json(),
            other => return self.breach(format!("G4: no state: {other:?}")),
        };
        let to = Instant::now();
        let usable = service["usable"].as_u64().unwrap_or_default() as usize;
        // A test that lowers it while we ask means this look already.
        let held = held.min(self.held.load(Ordering::SeqCst));
        if usable < held {
            self.breach(format!("G1: {usable} endpoints are usable instead of {held}"));
        }
        let (questions, failing) = if self.bounds.registry.is_some() {
            let Some(failing) = self.registration_fails(admin).await else { return };
            let before = self.questions();
            (if let Some(asked) = asked { asked.count().await } else { before }, failing)
        } else {
            let sources = service["sources"].as_array().cloned().unwrap_or_default();
            if sources.is_empty() {
                self.breach("G4: no source".to_owned());
            }
            for source in &sources {
                if let Some(missing) = invisible(source) {
                    self.breach(format!("G4: {missing}: {source}"));
                }
            }
            let questions = sources.iter().filter_map(|source| self.questions_of(source)).sum();
            (questions, sources.iter().any(|source| source["state"] != "live"))
        };
        let look = Look { from, to, questions, failing, cpu: control_cpu(self.process) };
        let connections = connections(self.process, &self.bounds.ports);
        let (count, limit) = match self.bounds.limit {
            Limit::InAll(limit) => (connections.len(), limit),
            Limit::Each(limit) => {
                let to = |port| connections.values().filter(|other| **other == port).count();
                (self.bounds.ports.iter().map(|port| to(*port)).max().unwrap_or_default(), limit)
            }
        };
        if count > limit {
            self.breach(format!("G3: {count} connections to the registry, {limit} are allowed"));
        }
        let mut seen = self.seen();
        seen.looks.push(look);
        seen.most_connections = seen.most_connections.max(connections.len());
    }

    /// Whether the registration fails now, as it shows itself.
    async fn registration_fails(&self, admin: &mut Client) -> Option<bool> {
        let registrations: Value = match admin.get("/api/registrations").await {
            Ok(answer) if answer.status == 200 => answer.json(),
            other => {
                self.breach(format!("G4: no registrations: {other:?}"));
                return None;
            }
        };
        let told = &registrations[0];
        let state = told["state"].as_str().unwrap_or_default();
        let states = ["pending", "announcing", "announced", "failing", "withdrawn"];
        if !states.contains(&state) || told["since"].is_null() || told["losses"].is_null() {
            self.breach(format!("G4: a registration without its state: {registrations}"));
        }
        Some(!told["last_error"].is_null())
    }

    /// Questions that a registry was asked. An etcd watch is told changes without asking.
    fn questions_of(&self, source: &Value) -> Option<u64> {
        let asked = source["questions"].as_u64()?;
        match self.bounds.limit {
            Limit::InAll(_) => Some(asked),
            Limit::Each(_) => Some(asked.saturating_sub(source["updates"].as_u64()?)),
        }
    }

    async fn read_metrics(&self, admin: &mut Client) {
        let text = match admin.get("/metrics").await {
            Ok(answer) if answer.status == 200 => answer.text(),
            other => return self.breach(format!("G4: no metrics: {other:?}")),
        };
        if self.bounds.registry.is_some() {
            let registered = format!("outrigger_registered{{service=\"{}\"", self.bounds.service);
            if !text.contains(&registered) {
                self.breach(format!("G4: no {registered} in the metrics"));
            }
            return;
        }
        let series = format!("outrigger_source_up{{service=\"{}\"", self.bounds.service);
        if !text.contains(&series) {
            self.breach(format!("G4: no {series} in the metrics"));
        }
        let up = metrics::sum(&text, &format!("{series}}}"));
        let age =
            text.contains(&format!("outrigger_source_age_seconds{{service=\"{}\"", self.bounds.service));
        if up > 0.0 && !age {
            self.breach("G4: a source that is up has no age in the metrics".to_owned());
        }
    }

    /// G2: bursts, and what a failing source costs the registry.
    fn too_often(&self, looks: &[Look]) -> Option<String> {
        let watches = self.bounds.watches.max(1);
        for (turn, first) in looks.iter().enumerate() {
            let mut failing = first.failing;
            for last in &looks[turn + 1..] {
                failing &= last.failing;
                let asked = last.questions.saturating_sub(first.questions);
                let time = last.to - first.from;
                let at = first.from - self.began;
                // The fence has one post more than it has gaps.
                let most = (10.0 * time.as_secs_f64()) as u64 + 1;
                if time >= Duration::from_secs(1) && asked > most * watches {
                    return Some(format!("G2: {asked} questions in {time:.1?} at {at:.1?}"));
                }
                if failing && time <= FAILING && asked > ASKED_WHILE_FAILING * watches {
                    return Some(format!("G2: {asked} questions in {time:.1?} of failure at {at:.1?}"));
                }
                if time > FAILING {
                    break;
                }
            }
        }
        None
    }

    /// G2: CPU while nothing happens, or nothing but failures.
    fn too_much_cpu(&self, looks: &[Look]) -> Option<String> {
        for stretch in looks.chunk_by(|a, b| a.failing == b.failing) {
            let [first, .., last] = stretch else { continue };
            let (time, cpu) = (last.to - first.from, last.cpu - first.cpu);
            let judged = first.failing || self.bounds.idle_cpu;
            if judged && time >= CPU_TIME && cpu > self.bounds.cpu_share * time.as_secs_f64() {
                let (state, at) = (if first.failing { "failing" } else { "live" }, first.from - self.began);
                return Some(format!("G2: {cpu:.2} s of CPU in {time:.1?} of a {state} source at {at:.1?}"));
            }
        }
        None
    }

    fn breach(&self, what: String) {
        let mut seen = self.seen();
        seen.breaches += 1;
        if seen.told.len() < TOLD {
            seen.told.push(format!("at {:.1?}: {what}", self.began.elapsed()));
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic")
    }
}

/// What a source does not show of itself although it should.
fn invisible(source: &Value) -> Option<&'static str> {
    let state = source["state"].as_str()?;
    let told = |key: &str| !source[key].is_null();
    let failed = source["errors"].as_u64() > Some(0);
    match state {
        "live" | "stale" if !told("age_seconds") => Some("no age"),
        "live" | "stale" if !told("position") => Some("no index or revision"),
        "stale" if !told("last_error") => Some("no error"),
        "error" if failed && !told("last_error") => Some("no error"),
        "live" | "stale" | "error" => None,
        _ => Some("an unknown state"),
    }
}

/// CPU seconds of a sidecar's threads that carry no requests.
fn control_cpu(process: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let ticks = tasks.filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        // The name may hold anything; the fields after it do not (proc(5): 14 and 15 are utime and stime).
        let (head, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (!head.contains("(worker-")).then_some(user + system)
    });
    ticks.sum::<u64>() as f64 / HERTZ
}

#[test]
fn what_a_source_hides_is_found() {
    use serde_json::json;
    let live = json!({"state": "live", "age_seconds": 1.0, "position": 7, "last_error": null, "errors": 0});
    assert_eq!(invisible(&live), None);
    let with = |key: &str, value: Value| {
        let mut source = live.clone();
        source[key] = value;
        invisible(&source)
    };
    assert_eq!(with("age_seconds", Value::Null), Some("no age"));
    assert_eq!(with("position", Value::Null), Some("no index or revision"));
    assert_eq!(with("state", json!("stale")), Some("no error"));
    assert_eq!(with("state", json!("well")), Some("an unknown state"));
    assert_eq!(with("state", json!("error")), None, "nothing was asked yet");
}

#[cfg(test)]
fn looks(step: Duration, asked: u64, failing: bool, count: u32) -> Vec<Look> {
    let began = Instant::now();
    (0..count)
        .map(|turn| {
            let at = began + step * turn;
            Look { from: at, to: at, questions: asked * u64::from(turn), failing, cpu: f64::from(turn) }
        })
        .collect()
}

#[test]
fn a_busy_loop_is_found() {
    let observer = |idle_cpu| Observer {
        bounds: Bounds { idle_cpu, ..Bounds::consul([], 1) },
        admin: ([127, 0, 0, 1], 1).into(),
        process: 0,
        began: Instant::now() - Duration::from_secs(60),
        held: AtomicUsize::new(0),
        seen: Mutex::default(),
    };
    let (calm, second) = (observer(true), Duration::from_secs(1));
    assert_eq!(calm.too_often(&looks(second, 10, false, 60)), None);
    assert!(calm.too_often(&looks(second, 12, false, 60)).is_some(), "a burst");
    assert_eq!(calm.too_often(&looks(second, 1, true, 60)), None);
    assert!(calm.too_often(&looks(second, 2, true, 60)).is_some(), "too often while it fails");
    assert_eq!(calm.too_much_cpu(&looks(second * 30, 0, true, 60)), None);
    assert!(calm.too_much_cpu(&looks(second, 0, true, 60)).is_some());
    assert!(calm.too_much_cpu(&looks(second, 0, false, 60)).is_some());
    assert_eq!(observer(false).too_much_cpu(&looks(second, 0, false, 60)), None);
}
