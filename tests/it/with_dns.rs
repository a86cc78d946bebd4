//! The sidecar with real DNS servers and real instances.

use crate::commands::outrigger;
use crate::support::dns::{Nsd, Unbound};
use crate::support::registry::{events, source, states};
use crate::support::{Instance, Load, Sidecar, alone, eventually, free_port};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

/// Instances at one port of 127.0.0.1, 127.0.0.2 and 127.0.0.3: DNS gives all of them the same.
async fn three() -> (u16, [Instance; 3]) {
    let port = free_port();
    let at = |last| async move {
        Instance::at(&format!("web-{last}"), (Ipv4Addr::new(127, 0, 0, last), port).into(), &[]).await
    };
    let (one, two, three) = tokio::join!(at(1), at(2), at(3));
    (port, [one, two, three])
}

/// A zone in which `web` has these addresses.
fn zone(hosts: &[u8]) -> String {
    hosts.iter().map(|host| format!("web A 127.0.0.{host}\n")).collect()
}

/// The service `web`; `rules` are more lines of it.
fn config(server: SocketAddr, from: &str, rules: &str) -> String {
    format!(
        "[dns]\nservers = [\"{server}\"]\ntimeout = \"1s\"\n\
         [service.web]\nfrom = \"{from}\"\nwatch.backoff_cap = \"1s\"\n{rules}\n"
    )
}

async fn has(sidecar: &Sidecar, expected: &[&str]) {
    let what = format!("{expected:?}");
    eventually(&what, SOON, async || (states(sidecar, "web").await == expected).then_some(())).await;
}

async fn is(sidecar: &Sidecar, state: &str) {
    eventually(state, SOON, async || (source(sidecar, "web").await["state"] == *state).then_some(())).await;
}

#[tokio::test]
async fn no_request_fails_while_addresses_change_and_the_server_freezes_dies_and_returns() {
    let (port, instances) = three().await;
    let mut nsd = Nsd::start(&zone(&[1, 2])).await;
    let _turn = alone().await;
    let sidecar = Sidecar::start(&config(nsd.addr(), &format!("dns://web.lab:{port}"), "")).await;
    has(&sidecar, &["usable"; 2]).await;
    let mut load = Load::start(sidecar.service("web"), "/", 16, Duration::from_secs(120));

    nsd.change(&zone(&[1, 2, 3]));
    eventually("calls to the third", SOON, async || (instances[2].count("/").await > 0).then_some(())).await;
    nsd.change(&zone(&[1, 3]));
    let changed = Instant::now();
    has(&sidecar, &["usable"; 2]).await;
    // A second for the TTL, and some for the machine.
    assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
    let seen = instances[1].count("/").await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(instances[1].count("/").await, seen, "calls after it was gone");

    nsd.freeze();
    is(&sidecar, "stale").await;
    let told = source(&sidecar, "web").await["last_error"].to_string();
    assert!(told.contains(&format!("{} did not answer web.lab A within 1s", nsd.addr())), "{told}");
    has(&sidecar, &["usable"; 2]).await;
    nsd.thaw();
    is(&sidecar, "live").await;

    nsd.kill();
    is(&sidecar, "stale").await;
    sleep(Duration::from_secs(3)).await;
    has(&sidecar, &["usable"; 2]).await;
    nsd.restart().await;
    is(&sidecar, "live").await;
    nsd.change(&zone(&[3]));
    has(&sidecar, &["usable"]).await;

    assert!(load.is_running());
    let report = load.stop().await;
    assert_eq!(report.errors(), 0, "{report:?}");
    assert!(report.requests > 1000, "{report:?}");
    assert_eq!(events(&sidecar, "endpoint_suspected").await, 0, "the zone's own server is believed at once");
    assert_eq!(
        (events(&sidecar, "source_failing").await, events(&sidecar, "source_recovered").await),
        (2, 2)
    );
}

#[tokio::test]
async fn a_loss_behind_a_resolver_is_suspected_and_then_believed_and_no_request_fails() {
    let (port, _instances) = three().await;
    let mut nsd = Nsd::start(&zone(&[1, 2, 3])).await;
    let unbound = Unbound::before(&nsd).await;
    let _turn = alone().await;
    let sidecar = Sidecar::start(&config(unbound.addr(), &format!("dns://web.lab:{port}"), "")).await;
    has(&sidecar, &["usable"; 3]).await;
    let load = Load::start(sidecar.service("web"), "/", 16, Duration::from_secs(120));
    nsd.change(&zone(&[1, 2]));
    has(&sidecar, &["usable"; 2]).await;
    assert_eq!(events(&sidecar, "endpoint_suspected").await, 1);
    unbound.freeze();
    is(&sidecar, "stale").await;
    has(&sidecar, &["usable"; 2]).await;
    unbound.thaw();
    is(&sidecar, "live").await;
    let report = load.stop().await;
    assert_eq!(report.errors(), 0, "{report:?}");
    assert!(report.requests > 100, "{report:?}");
}

#[tokio::test]
async fn a_name_that_is_gone_is_believed_when_its_grace_is_over() {
    let (port, _instances) = three().await;
    let mut nsd = Nsd::start(&zone(&[1, 2, 3])).await;
    let from = format!("dns://web.lab:{port}");
    let sidecar = Sidecar::start(&config(nsd.addr(), &from, "empty_grace = \"3s\"")).await;
    has(&sidecar, &["usable"; 3]).await;
    nsd.change("");
    has(&sidecar, &["suspect"; 3]).await;
    let suspected = Instant::now();
    let gone = loop {
        let answer = sidecar.get("web", "/").await;
        if answer.status != 200 {
            break answer;
        }
        assert!(suspected.elapsed() < SOON, "still served");
        sleep(Duration::from_millis(20)).await;
    };
    let kept = suspected.elapsed().as_secs_f64();
    assert!((2.5..8.0).contains(&kept), "kept for {kept:.1} s");
    assert_eq!(gone.status, 503);
    assert_eq!(source(&sidecar, "web").await["state"], "live", "an answer is no failure");
    assert_eq!(events(&sidecar, "source_failing").await, 0);
    assert!(sidecar.log().contains("web.lab: there is no such name (NXDOMAIN)"), "{}", sidecar.log());
    nsd.change(&zone(&[2]));
    has(&sidecar, &["usable"]).await;
}

#[tokio::test]
async fn requests_spread_as_service_records_say() {
    let (one, two) = tokio::join!(Instance::start("one"), Instance::start("two"));
    let records = |one: u16, two: u16, weight: u16| {
        format!(
            "_http._tcp.web SRV 1 3 {one} host\n_http._tcp.web SRV 1 {weight} {two} host\nhost A 127.0.0.1\n\
             _http._tcp.web SRV 2 1 1 host"
        )
    };
    let mut nsd = Nsd::start(&records(one.addr().port(), two.addr().port(), 1)).await;
    let sidecar = Sidecar::start(&config(nsd.addr(), "srv://_http._tcp.web.lab", "")).await;
    has(&sidecar, &["usable"; 2]).await;
    for _ in 0..40 {
        assert_eq!(sidecar.get("web", "/").await.status, 200);
    }
    assert_eq!((one.count("/").await, two.count("/").await), (30, 10));

    // Another instance at another port in the place of the second, which is told to have no more weight.
    let three = Instance::start("three").await;
    nsd.change(&records(three.addr().port(), two.addr().port(), 0));
    eventually("the third", SOON, async || {
        let listed = sidecar.states("web").await;
        listed.iter().any(|(addr, _)| *addr == three.addr().to_string()).then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(sidecar.get("web", "/later").await.status, 200);
    }
    assert_eq!((three.count("/later").await, two.count("/later").await), (20, 0));
    assert_eq!(sidecar.metric("outrigger_source_entries_skipped{service=\"web\"}").await, 1.0);
}

#[tokio::test]
async fn endpoints_shows_what_a_name_answers_and_why_it_does_not() {
    let nsd = Nsd::start("web A 127.0.0.1\nweb AAAA ::1\n_http._tcp.web SRV 1 5 8001 web").await;
    let server = nsd.addr();
    let show = async |url: &str| {
        let output = outrigger(&["endpoints", &format!("{url}?server={server}")]).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for (url, code, parts) in [
        ("dns://web.lab:80", 0, &["127.0.0.1:80", "[::1]:80", "2 listed, 0 skipped\n"][..]),
        ("srv://_http._tcp.web.lab", 0, &["127.0.0.1:8001       5  passing", "web.lab:8001"]),
        ("dns://wbe.lab:80", 0, &["0 listed, 0 skipped, doubtful: there is no such name (NXDOMAIN)"]),
        ("dns://web.other:80", 1, &["dns://web.other:80?server=", "answered REFUSED to web.other A"]),
        ("dns://x.broken:80", 1, &["answered SERVFAIL to x.broken A"]),
    ] {
        let (got, text) = show(url).await;
        assert_eq!(got, Some(code), "{url}: {text}");
        for part in parts {
            assert!(text.contains(part), "{url}: {part:?}: {text}");
        }
    }
}
