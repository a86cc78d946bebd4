//! Active checks against real servers: what passes, what fails and why, and what follows from it.

use crate::support::{eventually, free_port};
use http::{HeaderName, HeaderValue, Method};
use outrigger::health::{CheckKind, CheckSettings, HttpCheck, Pace, Probe, check};
use outrigger::model::{Endpoint, Flag, InstanceId, Outcome, ServiceName, Target};
use outrigger::rt::Tasks;
use outrigger::telemetry::{Events, Kind};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(10);

/// How an instance answers.
#[derive(Clone, Debug, Default)]
struct Manners {
    /// The whole answer, head and body.
    answer: String,
    /// Takes the request and says nothing.
    hangs: bool,
    /// One byte at a time, with this between two.
    drips: Option<Duration>,
    /// Closes after each answer, without a word about it beforehand.
    closes: bool,
    /// Closes instead of answering.
    breaks: bool,
}

fn answers(status: u16, body: &str) -> Manners {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: {length}\r\n\r\n{body}");
    Manners { answer, ..Manners::default() }
}

/// A small HTTP/1.1 server on a real socket whose manners can change; it ends, connections included, when dropped.
struct Instance {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    manners: Mutex<Manners>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Instance {
    async fn start(manners: Manners) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), manners).await
    }

    #[expect(clippy::disallowed_methods, reason = "a server of a test, ended by its handle")]
    async fn start_at(addr: SocketAddr, manners: Manners) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let state = Arc::new(State { manners: Mutex::new(manners), ..State::default() });
        let addr = listener.local_addr().unwrap();
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    // How a connection ends is the client's business.
                    let _ = serve(stream, &state).await;
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, state, accepting }
    }

    fn behave(&self, manners: Manners) {
        *self.state.manners.lock().unwrap() = manners;
    }

    fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            let byte = stream.read_u8().await?;
            read.push(byte);
        }
        let manners = state.manners.lock().unwrap().clone();
        state.requests.lock().unwrap().push(String::from_utf8(std::mem::take(&mut read)).unwrap());
        if manners.breaks {
            return Ok(());
        }
        if manners.hangs {
            std::future::pending::<()>().await;
        }
        if let Some(gap) = manners.drips {
            for byte in manners.answer.bytes() {
                stream.write_u8(byte).await?;
                tokio::time::sleep(gap).await;
            }
        } else {
            stream.write_all(manners.answer.as_bytes()).await?;
        }
        if manners.closes {
            return Ok(());
        }
    }
}

/// An address that stays free, or ours, while nobody listens: out of the range of outgoing connections.
fn own_addr() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

fn http(check: HttpCheck) -> CheckSettings {
    CheckSettings { timeout: Duration::from_secs(5), ..CheckSettings::new(CheckKind::Http(check)) }
}

/// What one probe says: empty if it passes.
async fn said(settings: &CheckSettings, addr: SocketAddr) -> String {
    Probe::new(settings).ask(addr).await.err().map(|e| e.to_string()).unwrap_or_default()
}

/// The same, with little patience, for what never comes.
async fn said_soon(settings: CheckSettings, addr: SocketAddr) -> String {
    said(&CheckSettings { timeout: Duration::from_millis(300), ..settings }, addr).await
}

#[tokio::test]
async fn an_answer_within_the_statuses_passes_and_the_request_is_as_configured() {
    let instance = Instance::start(answers(204, "")).await;
    assert_eq!(said(&http(HttpCheck::get("/health?deep=1")), instance.addr).await, "");
    let check = HttpCheck {
        method: Method::OPTIONS,
        headers: vec![(HeaderName::from_static("x-probe"), HeaderValue::from_static("yes"))],
        host: Some("orders.internal".to_owned()),
        expect: vec![200..=200, 204..=204],
        ..HttpCheck::get("/health")
    };
    assert_eq!(said(&http(check), instance.addr).await, "");
    let requests = instance.requests();
    assert!(requests[0].starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains(&format!("\r\nhost: {}\r\n", instance.addr)), "{}", requests[0]);
    let agent = format!("\r\nuser-agent: outrigger/{}", env!("CARGO_PKG_VERSION"));
    assert!(requests[0].contains(&agent), "{}", requests[0]);
    assert!(requests[1].starts_with("OPTIONS /health HTTP/1.1\r\n"), "{}", requests[1]);
    assert!(requests[1].contains("\r\nhost: orders.internal\r\n"), "{}", requests[1]);
    assert!(requests[1].contains("\r\nx-probe: yes\r\n"), "{}", requests[1]);
}

#[tokio::test]
async fn a_wrong_status_is_named_together_with_the_right_ones() {
    let instance = Instance::start(answers(503, "no database")).await;
    let said_of_503 = said(&http(HttpCheck::get("/")), instance.addr).await;
    assert_eq!(said_of_503, "status 503, expected 200-299");
    instance.behave(answers(302, ""));
    let check = HttpCheck { expect: vec![200..=204, 401..=401], ..HttpCheck::get("/") };
    assert_eq!(said(&http(check), instance.addr).await, "status 302, expected 200-204, 401");
}

#[tokio::test]
async fn a_closed_port_a_silent_server_and_a_broken_answer_are_told_apart() {
    let closed = own_addr();
    for settings in [http(HttpCheck::get("/")), CheckSettings::new(CheckKind::Tcp)] {
        assert_eq!(said(&settings, closed).await, "connection refused");
    }
    let instance = Instance::start(Manners { hangs: true, ..Manners::default() }).await;
    let begin = Instant::now();
    assert_eq!(said_soon(http(HttpCheck::get("/")), instance.addr).await, "timed out after 300ms");
    assert!(begin.elapsed() < Duration::from_secs(3), "the limit holds: {:?}", begin.elapsed());

    instance.behave(Manners { breaks: true, ..Manners::default() });
    let broken = said(&http(HttpCheck::get("/")), instance.addr).await;
    assert_eq!(broken, "connection closed before the answer was complete");

    instance.behave(Manners { answer: "SSH-2.0-OpenSSH_9.6\r\n\r\n".to_owned(), ..Manners::default() });
    let other = said(&http(HttpCheck::get("/")), instance.addr).await;
    assert!(other.starts_with("the answer is no HTTP/1.1"), "{other}");

    let check = HttpCheck { body: Some("ready".to_owned()), ..HttpCheck::get("/") };
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_owned();
    instance.behave(Manners { answer, closes: true, ..Manners::default() });
    let half = said(&http(check), instance.addr).await;
    assert_eq!(half, "connection closed before the answer was complete");
}

#[tokio::test]
async fn the_body_must_contain_the_text_within_its_first_64_kib() {
    let instance = Instance::start(answers(200, "status: ready")).await;
    let settings = http(HttpCheck { body: Some("ready".to_owned()), ..HttpCheck::get("/") });
    assert_eq!(said(&settings, instance.addr).await, "");
    instance.behave(answers(200, "status: starting"));
    assert_eq!(said(&settings, instance.addr).await, "body does not contain \"ready\"");

    const KIB_64: usize = 64 * 1024;
    for (before, passes) in [(KIB_64 - 5, true), (KIB_64 - 4, false), (3 * KIB_64, false)] {
        instance.behave(answers(200, &("x".repeat(before) + "ready" + &"y".repeat(1_000_000))));
        let said = said(&settings, instance.addr).await;
        assert_eq!(said.is_empty(), passes, "{before} bytes before the text: {said}");
    }
    // Byte by byte in chunks: the text is found across the pieces.
    let chunks: String = "is ready.".chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    instance.behave(Manners { answer, drips: Some(Duration::from_millis(1)), ..Manners::default() });
    assert_eq!(said(&settings, instance.addr).await, "");
}

#[tokio::test]
async fn a_body_that_drips_is_bounded_by_the_timeout_and_does_not_matter_if_nobody_asked_for_it() {
    let body = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_owned() + &"x".repeat(1_000_000);
    let drips = Some(Duration::from_millis(5));
    let instance = Instance::start(Manners { answer: body, drips, ..Manners::default() }).await;
    let plain = http(HttpCheck::get("/"));
    assert_eq!(said(&plain, instance.addr).await, "", "the status decides, the body may take its time");
    let settings = http(HttpCheck { body: Some("ready".to_owned()), ..HttpCheck::get("/") });
    let patient = CheckSettings { timeout: Duration::from_secs(1), ..settings };
    let begin = Instant::now();
    assert_eq!(said(&patient, instance.addr).await, "timed out after 1s");
    assert!(begin.elapsed() < Duration::from_secs(5));
    // Such a connection is not used again, and costs the next probe little.
    let mut probe = Probe::new(&plain);
    let before = instance.accepted();
    for _ in 0..2 {
        probe.ask(instance.addr).await.unwrap();
    }
    assert_eq!(instance.accepted() - before, 2);
}

#[tokio::test]
async fn a_kept_connection_is_used_again() {
    let instance = Instance::start(answers(200, "fine")).await;
    let mut probe = Probe::new(&http(HttpCheck::get("/")));
    for _ in 0..5 {
        probe.ask(instance.addr).await.unwrap();
    }
    instance.behave(answers(503, "a failing instance keeps its connection, too"));
    for _ in 0..5 {
        probe.ask(instance.addr).await.unwrap_err();
    }
    assert_eq!((instance.accepted(), instance.requests().len()), (1, 10));
    drop(probe);
    let closed = || async { (instance.open() == 0).then_some(()) };
    eventually("the end of the dropped probe's connection", LIMIT, closed).await;
}

#[tokio::test]
async fn a_server_that_closes_between_probes_does_not_fail_them() {
    let instance = Instance::start(Manners { closes: true, ..answers(200, "fine") }).await;
    let mut probe = Probe::new(&http(HttpCheck::get("/")));
    for round in 0..20 {
        probe.ask(instance.addr).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        if round % 2 == 0 {
            // Half of them hear of the close while idle, half while asking.
            let _ = tokio::time::timeout(Duration::from_millis(20), probe.idle()).await;
        }
    }
    assert_eq!(instance.requests().len(), 20, "nothing is asked twice that was answered");
}

#[tokio::test]
async fn a_restarted_server_passes_at_once() {
    let addr = own_addr();
    let instance = Instance::start_at(addr, answers(200, "old")).await;
    let mut probe = Probe::new(&http(HttpCheck::get("/")));
    probe.ask(addr).await.unwrap();
    drop(instance);
    let rebound = || async { TcpListener::bind(addr).await.is_ok().then_some(()) };
    eventually("the port to be free again", LIMIT, rebound).await;
    let instance = Instance::start_at(addr, answers(200, "new")).await;
    probe.ask(addr).await.unwrap();
    assert_eq!(instance.requests().len(), 1);
}

#[tokio::test]
async fn head_has_no_body_to_wait_for() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_owned();
    let instance = Instance::start(Manners { answer, ..Manners::default() }).await;
    let mut probe = Probe::new(&http(HttpCheck { method: Method::HEAD, ..HttpCheck::get("/health") }));
    for _ in 0..3 {
        probe.ask(instance.addr).await.unwrap();
    }
    assert!(instance.requests()[0].starts_with("HEAD /health HTTP/1.1\r\n"));
    assert_eq!(instance.accepted(), 1);
}

#[tokio::test]
async fn a_tcp_check_needs_a_connection_only() {
    let instance = Instance::start(Manners { hangs: true, ..Manners::default() }).await;
    let mut probe = Probe::new(&CheckSettings::new(CheckKind::Tcp));
    for _ in 0..3 {
        probe.ask(instance.addr).await.unwrap();
    }
    let gone = || async { (instance.accepted() == 3 && instance.open() == 0).then_some(()) };
    eventually("three connections that came and went", LIMIT, gone).await;
    assert!(instance.requests().is_empty());
}

#[tokio::test]
async fn another_port_may_be_the_one_to_ask() {
    let management = Instance::start(answers(200, "fine")).await;
    for kind in [CheckKind::Http(HttpCheck::get("/")), CheckKind::Tcp] {
        let settings = CheckSettings { port: Some(management.addr.port()), ..CheckSettings::new(kind) };
        assert_eq!(said(&settings, own_addr()).await, "");
    }
    let host = format!("\r\nhost: {}\r\n", management.addr);
    assert!(management.requests()[0].contains(&host), "the address that is asked is the one that is named");
}

/// A checker over targets, with short intervals.
struct Checked {
    tasks: Tasks,
    publish: watch::Sender<Arc<[Arc<Target>]>>,
    changed: Arc<Notify>,
}

impl Checked {
    fn start(targets: &[Arc<Target>], settings: CheckSettings) -> Self {
        let tasks = Tasks::new(Events::default());
        let (publish, listed) = watch::channel(targets.into());
        let changed = Arc::new(Notify::new());
        let service = ServiceName::new("orders").unwrap();
        let rng = SmallRng::seed_from_u64(1);
        check(&tasks, service, settings, listed, Arc::clone(&changed), Arc::new(Pace::default()), rng);
        Self { tasks, publish, changed }
    }

    /// Waits until the checker wakes the keeper.
    async fn woken(&self) {
        tokio::time::timeout(LIMIT, self.changed.notified()).await.expect("the keeper is woken");
    }

    fn events(&self) -> Vec<(Kind, SocketAddr, String)> {
        let events = self.tasks.events().recent();
        events.iter().map(|e| (e.kind, e.endpoint.unwrap(), e.detail.clone())).collect()
    }
}

fn quick(kind: CheckKind) -> CheckSettings {
    CheckSettings {
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(1),
        unhealthy_interval: Duration::from_millis(50),
        unhealthy_interval_max: Duration::from_millis(200),
        ..CheckSettings::new(kind)
    }
}

fn quick_http() -> CheckSettings {
    quick(CheckKind::Http(HttpCheck::get("/health")))
}

/// As a keeper lists it: unproven.
fn target(addr: SocketAddr) -> Arc<Target> {
    let target = Target::new(Endpoint::at(addr), Instant::now());
    target.history.health.raise(Flag::Unproven);
    Arc::new(target)
}

fn flags(target: &Target) -> Vec<Flag> {
    target.history.health.flags().collect()
}

/// Waits until exactly these bits are up.
async fn flagged(target: &Target, expected: &[Flag]) {
    let what = format!("{expected:?}");
    eventually(&what, LIMIT, || async { (flags(target) == expected).then_some(()) }).await;
}

#[tokio::test]
async fn new_targets_have_their_first_verdict_at_once_good_or_bad() {
    let well = Instance::start(answers(200, "")).await;
    let ill = Instance::start(answers(500, "")).await;
    let targets = [target(well.addr), target(ill.addr)];
    let begin = Instant::now();
    let checked = Checked::start(&targets, quick_http());
    checked.woken().await;
    flagged(&targets[0], &[]).await;
    flagged(&targets[1], &[Flag::Check]).await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    let note = targets[1].history.health.note(Flag::Check).unwrap();
    assert_eq!(&*note, "status 500, expected 200-299");
    let told = || async { (!checked.events().is_empty()).then_some(()) };
    eventually("an event", LIMIT, told).await;
    assert_eq!(checked.events(), [(Kind::EndpointUnhealthy, ill.addr, note.to_string())]);
}

#[tokio::test]
async fn a_failing_instance_goes_after_fall_failures_and_returns_after_rise_passes() {
    let instance = Instance::start(answers(200, "")).await;
    let target = target(instance.addr);
    let checked = Checked::start(&[Arc::clone(&target)], quick_http());
    flagged(&target, &[]).await;
    checked.woken().await;

    let before = instance.requests().len();
    instance.behave(answers(503, ""));
    checked.woken().await;
    assert_eq!(flags(&target), [Flag::Check], "the keeper is woken after the bit is set");
    let failed = instance.requests().len() - before;
    // A probe under way when the manners changed may still have passed.
    assert!((3..=5).contains(&failed), "out after {failed} requests instead of 3");

    let before = instance.requests().len();
    instance.behave(answers(200, ""));
    checked.woken().await;
    assert_eq!(flags(&target), []);
    assert_eq!(target.history.health.note(Flag::Check), None);
    let passed = instance.requests().len() - before;
    assert!((2..=4).contains(&passed), "back after {passed} requests instead of 2");
    let told = || async { (checked.events().len() == 2).then_some(()) };
    eventually("two events", LIMIT, told).await;
    let kinds: Vec<_> = checked.events().into_iter().map(|e| e.0).collect();
    assert_eq!(kinds, [Kind::EndpointUnhealthy, Kind::EndpointHealthy]);
    assert_eq!(instance.accepted(), 1, "one connection for all that");
}

#[tokio::test]
async fn a_killed_instance_goes_with_its_reason_and_its_successor_returns() {
    for kind in [CheckKind::Http(HttpCheck::get("/")), CheckKind::Tcp] {
        let addr = own_addr();
        let instance = Instance::start_at(addr, answers(200, "")).await;
        let target = target(addr);
        let _checked = Checked::start(&[Arc::clone(&target)], quick(kind));
        flagged(&target, &[]).await;
        drop(instance);
        flagged(&target, &[Flag::Check]).await;
        assert_eq!(target.history.health.note(Flag::Check).as_deref(), Some("connection refused"));
        let _successor = Instance::start_at(addr, answers(200, "")).await;
        flagged(&target, &[]).await;
    }
}

#[tokio::test]
async fn a_hung_instance_goes_and_does_not_hold_up_its_neighbours() {
    let hung = Instance::start(Manners { hangs: true, ..Manners::default() }).await;
    let well = Instance::start(answers(200, "")).await;
    let targets = [target(hung.addr), target(well.addr)];
    let settings = CheckSettings { timeout: Duration::from_secs(2), ..quick_http() };
    let _checked = Checked::start(&targets, settings);
    flagged(&targets[1], &[]).await;
    assert_eq!(flags(&targets[0]), [Flag::Unproven], "its verdict is still out");
    flagged(&targets[0], &[Flag::Check]).await;
    assert_eq!(targets[0].history.health.note(Flag::Check).as_deref(), Some("timed out after 2s"));
    assert!(well.requests().len() >= 5, "{} checks of the neighbour meanwhile", well.requests().len());
}

#[tokio::test]
async fn a_target_that_is_gone_is_asked_no_more_and_a_new_instance_at_its_address_is_asked_afresh() {
    let instance = Instance::start(answers(200, "")).await;
    let first = target(instance.addr);
    let checked = Checked::start(&[Arc::clone(&first)], quick_http());
    flagged(&first, &[]).await;
    checked.publish.send_replace(Arc::from([]));
    let closed = || async { (instance.open() == 0).then_some(()) };
    eventually("the end of the connection", LIMIT, closed).await;
    let before = instance.requests().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(instance.requests().len(), before);

    let endpoint = Endpoint { instance: InstanceId::new("another"), ..first.endpoint.clone() };
    let second = Target::new(endpoint, Instant::now());
    second.history.health.raise(Flag::Unproven);
    let second = Arc::new(second);
    instance.behave(answers(500, ""));
    checked.publish.send_replace(Arc::from([Arc::clone(&second)]));
    flagged(&second, &[Flag::Check]).await;
    assert_eq!(flags(&first), []);
    assert!(checked.tasks.stop(LIMIT).await, "no task is left behind");
}

#[tokio::test]
async fn an_instance_that_traffic_proves_healthy_is_not_asked() {
    let instance = Instance::start(answers(200, "")).await;
    let target = target(instance.addr);
    let settings = CheckSettings { interval: Duration::from_millis(600), ..quick_http() };
    let _checked = Checked::start(&[Arc::clone(&target)], settings);
    flagged(&target, &[]).await;
    // From here on its own check would fail: as long as traffic succeeds, nobody notices.
    instance.behave(answers(503, ""));
    for _ in 0..250 {
        target.history.tally.count(Outcome::Success);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(flags(&target), []);
    let asked = instance.requests().len();
    assert!(asked <= 2, "{asked} checks in 2.5 s of good traffic");
    flagged(&target, &[Flag::Check]).await;
}
