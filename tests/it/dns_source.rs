//! DNS as a source, against a real nsd and a real unbound: records, lifetimes, and all the ways to say nothing.

use crate::support::consul::{ConsulAgent, service};
use crate::support::dns::{Nsd, Unbound, asking};
use crate::support::{eventually, follow, free_port};
use outrigger::discovery::dns::Dns;
use outrigger::discovery::{Answer, DnsQuery, Records, Trust};
use outrigger::registry::dns::{DnsName, DnsSettings, Family};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(15);

fn name(text: &str) -> DnsName {
    DnsName::new(text).unwrap()
}

/// The addresses of a name, at port 80.
fn addresses(servers: &[SocketAddr], of: &str) -> Dns {
    Dns::new(asking(servers), DnsQuery::new(name(of), Records::Addresses { port: 80 }))
}

/// The service records `_http._tcp.web.lab.`
fn services(servers: &[SocketAddr]) -> Dns {
    Dns::new(asking(servers), DnsQuery::new(name("_http._tcp.web.lab."), Records::Services))
}

/// `ADDRESS INSTANCE WEIGHT` of each endpoint.
fn listed(answer: &Answer) -> Vec<String> {
    let line = |e: &outrigger::model::Endpoint| format!("{} {} {}", e.addr, e.instance, e.weight.get());
    answer.set.iter().map(line).collect()
}

fn is(addrs: &[&str]) -> impl Fn(&Answer) -> bool {
    move |answer| answer.set.iter().map(|e| e.addr.to_string()).eq(addrs.iter().copied())
}

#[tokio::test]
async fn both_families_are_found_and_followed() {
    let mut nsd = Nsd::start("web A 127.0.0.2\nweb A 127.0.0.1\nweb AAAA ::1").await;
    let web = follow(addresses(&[nsd.addr()], "web.lab."));
    let all = ["127.0.0.1:80", "127.0.0.2:80", "[::1]:80"];
    let first = web.answers_with("the list", SOON, is(&all)).await;
    assert_eq!(first.trust, Trust::Trusted);
    assert_eq!(listed(&first)[0], "127.0.0.1:80 127.0.0.1:80 1");
    nsd.change("web A 127.0.0.2\nweb A 127.0.0.3");
    web.answers_with("the change", SOON, is(&["127.0.0.2:80", "127.0.0.3:80"])).await;
    nsd.change("web AAAA ::1");
    web.answers_with("one family only", SOON, is(&["[::1]:80"])).await;
    web.trusted_all_along();
    assert_eq!(web.errors(), [] as [&str; 0]);

    let query =
        DnsQuery { family: Family::V4, ..DnsQuery::new(name("web.lab."), Records::Addresses { port: 80 }) };
    let v4 = follow(Dns::new(asking(&[nsd.addr()]), query));
    let none = v4.answers_with("no record of that family", SOON, is(&[])).await;
    assert_eq!(none.trust, Trust::Doubtful("the name has no such records"));
}

#[tokio::test]
async fn aliases_are_followed_and_their_lifetimes_count() {
    let nsd = Nsd::start("web 1 CNAME a.b\na.b 30 CNAME real\nreal 30 A 127.0.0.1").await;
    let unbound = Unbound::before(&nsd).await;
    for server in [nsd.addr(), unbound.addr()] {
        let web = follow(addresses(&[server], "web.lab."));
        web.answers_with("the list", SOON, is(&["127.0.0.1:80"])).await;
        web.answers_with("a second answer", SOON, |_| web.answers().len() >= 3).await;
        assert_eq!(web.errors(), [] as [&str; 0]);
    }

    // Its end is in a zone of which this server knows nothing, but the next one does.
    let away = Nsd::start("web CNAME orders.internal.").await;
    let other = Nsd::start_zone("internal.", "orders A 127.0.0.2").await;
    let web = follow(addresses(&[away.addr(), other.addr()], "web.lab."));
    web.answers_with("the list", SOON, is(&["127.0.0.2:80"])).await;
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_one_packet_comes_by_tcp() {
    let mut zone = String::new();
    for host in 0..300 {
        writeln!(zone, "web A 127.0.{}.{}", host / 100, 1 + host % 100).unwrap();
    }
    let nsd = Nsd::start(&zone).await;
    let unbound = Unbound::before(&nsd).await;
    for server in [nsd.addr(), unbound.addr()] {
        let web = follow(addresses(&[server], "web.lab."));
        let first = web.answers_with("an answer", SOON, |_| true).await;
        assert_eq!(first.set.len(), 300, "all, or none");
        web.answers_with("a second answer", SOON, |_| web.answers().len() >= 2).await;
        web.never_said_less_than(300);
    }
}

#[tokio::test]
async fn what_consul_leaves_out_of_a_packet_comes_when_only_tcp_is_used() {
    const INSTANCES: usize = 40;
    let (agent, port) = ConsulAgent::dev_with_dns().await;
    for last in 1..=INSTANCES {
        let mut instance = service("web", &format!("web-{last}"), 80);
        instance["Address"] = format!("127.0.0.{last}").into();
        agent.register(&instance).await;
    }
    let source = |tcp| {
        let settings = DnsSettings { tcp, ..asking(&[([127, 0, 0, 1], port).into()]) };
        follow(Dns::new(settings, DnsQuery::new(name("web.service.consul."), Records::Services)))
    };
    let whole = source(true);
    whole.answers_with("all of them", SOON, |answer| answer.set.len() == INSTANCES).await;
    let told = whole.answers().len();
    whole.answers_with("more answers", SOON, |_| whole.answers().len() > told + 1).await;
    assert!(whole.answers()[told..].iter().all(|answer| answer.set.len() == INSTANCES));
    let part = source(false).answers_with("an answer", SOON, |_| true).await;
    assert!((1..INSTANCES).contains(&part.set.len()), "{} records: what was `tcp` for?", part.set.len());
}

#[tokio::test]
async fn a_lifetime_of_zero_is_no_busy_loop() {
    let nsd = Nsd::start("web 0 A 127.0.0.1\nweb 0 AAAA ::1").await;
    let unbound = Unbound::before(&nsd).await;
    let web = follow(addresses(&[unbound.addr()], "web.lab."));
    web.answers_with("the list", SOON, is(&["127.0.0.1:80", "[::1]:80"])).await;
    let before = unbound.questions("web.lab", "A");
    let began = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (asked, seconds) = (unbound.questions("web.lab", "A") - before, began.elapsed().as_secs());
    assert!((1..=seconds as usize + 1).contains(&asked), "{asked} questions in {seconds} s");
    for _ in 0..20 {
        web.feed.nudge();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = unbound.questions("web.lab", "A") - before;
    let seconds = began.elapsed().as_secs() as usize;
    assert!(asked <= seconds + 1, "{asked} questions in {seconds} s, although it was nudged");
}

#[tokio::test]
async fn what_is_no_answer_changes_nothing_and_is_told_apart() {
    let mut nsd = Nsd::start("web A 127.0.0.1").await;
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    for (of, server, told) in [
        ("x.broken.", nsd.addr(), "answered SERVFAIL to x.broken A"),
        ("orders.internal.", nsd.addr(), "answered REFUSED to orders.internal A"),
        ("web.lab.", dead, "did not answer web.lab A within 2s"),
    ] {
        let source = follow(addresses(&[server], of));
        source.fails(told, SOON).await;
        assert!(
            source.errors().iter().all(|error| error.contains(&server.to_string())),
            "{:?}",
            source.errors()
        );
        assert_eq!(source.answers(), []);
    }

    let web = follow(addresses(&[nsd.addr()], "web.lab."));
    web.answers_with("the list", SOON, is(&["127.0.0.1:80"])).await;
    nsd.freeze();
    web.fails("did not answer web.lab A within 2s", SOON).await;
    nsd.thaw();
    let answers = web.answers().len();
    web.answers_with("an answer again", SOON, |_| web.answers().len() > answers).await;
    nsd.kill();
    let errors = web.errors().len();
    eventually("errors", SOON, async || (web.errors().len() > errors + 2).then_some(())).await;
    // It comes back with less: whoever was gone is not believed at once.
    nsd.change("web A 127.0.0.2");
    nsd.restart().await;
    let back = web.answers_with("what is new", SOON, is(&["127.0.0.2:80"])).await;
    assert_eq!(back.trust, Trust::Doubtful("the first answer after an error"));
    web.never_said_less_than(1);
}

#[tokio::test]
async fn a_failure_behind_a_resolver_is_no_answer_either() {
    let mut nsd = Nsd::start("web A 127.0.0.1").await;
    let unbound = Unbound::before(&nsd).await;
    let broken = follow(addresses(&[unbound.addr()], "x.broken."));
    broken.fails("answered SERVFAIL", SOON).await;
    let web = follow(addresses(&[unbound.addr()], "web.lab."));
    web.answers_with("the list", SOON, is(&["127.0.0.1:80"])).await;
    nsd.kill();
    // Whether unbound says SERVFAIL or nothing, is a matter of its patience.
    web.fails(&unbound.addr().to_string(), Duration::from_secs(30)).await;
    nsd.restart().await;
    let answers = web.answers().len();
    web.answers_with("an answer again", Duration::from_secs(60), |_| web.answers().len() > answers).await;
    web.never_said_less_than(1);
}

#[tokio::test]
async fn a_loss_that_a_resolver_tells_needs_a_second_answer_and_nothing_is_never_sure() {
    let mut nsd = Nsd::start("web A 127.0.0.1\nweb A 127.0.0.2\nweb A 127.0.0.3").await;
    let unbound = Unbound::before(&nsd).await;
    let (sure, unsure) =
        (follow(addresses(&[nsd.addr()], "web.lab.")), follow(addresses(&[unbound.addr()], "web.lab.")));
    for web in [&sure, &unsure] {
        web.answers_with("three", SOON, |answer| answer.set.len() == 3).await;
    }
    nsd.change("web A 127.0.0.1\nweb A 127.0.0.2");
    let two = |answer: &Answer| answer.set.len() == 2;
    assert_eq!(sure.answers_with("two", SOON, two).await.trust, Trust::Trusted);
    let first = unsure.answers_with("two", SOON, two).await;
    assert_eq!(first.trust, Trust::Doubtful("a resolver says so, not the zone's own server"));
    unsure.answers_with("two again", SOON, |answer| two(answer) && answer.trust == Trust::Trusted).await;

    nsd.change("other A 127.0.0.1");
    for web in [&sure, &unsure] {
        let none = web.answers_with("none", SOON, |answer| answer.set.is_empty()).await;
        assert_eq!(none.trust, Trust::Doubtful("there is no such name (NXDOMAIN)"));
        assert_eq!(none.hint.as_deref(), Some("web.lab: there is no such name (NXDOMAIN)"));
    }
    nsd.change("web TXT nothing");
    for web in [&sure, &unsure] {
        web.answers_with("NODATA", SOON, |answer| {
            answer.trust == Trust::Doubtful("the name has no such records") && answer.set.is_empty()
        })
        .await;
        assert_eq!(web.errors(), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn service_records_bring_ports_weights_and_priorities() {
    let records = "_http._tcp.web SRV 10 3 8001 a\n_http._tcp.web SRV 10 1 8002 b\n_http._tcp.web SRV 20 1 8003 spare\n\
                   a A 127.0.0.1\nb A 127.0.0.2\nb AAAA ::1\nspare A 127.0.0.9";
    let mut nsd = Nsd::start(records).await;
    let unbound = Unbound::before(&nsd).await;
    let all = ["127.0.0.1:8001 a.lab:8001 3", "127.0.0.2:8002 b.lab:8002 1", "[::1]:8002 b.lab:8002 1"];
    let through = follow(services(&[unbound.addr()]));
    let web = follow(services(&[nsd.addr()]));
    for web in [&web, &through] {
        let first = web.answers_with("the list", SOON, |answer| answer.set.len() == 3).await;
        assert_eq!(listed(&first), all);
        let skipped: Vec<_> = first.skipped.iter().map(|s| format!("{}: {}", s.entry, s.reason)).collect();
        assert_eq!(
            skipped,
            ["spare.lab:8003: priority 20: it serves only while lower numbers have no address"]
        );
    }
    nsd.change(&records.replace("8001", "9001"));
    web.answers_with("another port", SOON, is(&["127.0.0.1:9001", "127.0.0.2:8002", "[::1]:8002"])).await;
    nsd.change("_http._tcp.web SRV 10 1 8001 gone\n_http._tcp.web SRV 20 1 8003 spare\nspare A 127.0.0.9");
    let spare = web.answers_with("the spare one", SOON, is(&["127.0.0.9:8003"])).await;
    assert_eq!(spare.skipped[0].reason, "its target has no address");
    assert!(matches!(spare.trust, Trust::Doubtful(_)), "whose word that is, nobody says: {spare:?}");
    nsd.change("_http._tcp.web SRV 0 0 0 .");
    let none = web.answers_with("decidedly nothing", SOON, is(&[])).await;
    assert_eq!((none.trust, none.skipped[0].entry.as_str()), (Trust::Trusted, "."));
    for web in [&web, &through] {
        assert_eq!(web.errors(), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn a_short_name_is_looked_for_under_the_search_domains() {
    let mut nsd = Nsd::start("orders.default.svc A 127.0.0.1").await;
    let search = Some(vec![name("default.svc.lab"), name("svc.lab"), name("lab")]);
    let source = |of| {
        let settings = DnsSettings { search: search.clone(), ..asking(&[nsd.addr()]) };
        follow(Dns::new(settings, DnsQuery::new(name(of), Records::Addresses { port: 80 })))
    };
    for of in ["orders.default", "orders.default.svc.lab", "orders.default.svc.lab."] {
        let orders = source(of);
        // As it stands, the first of them is a name that nsd refuses to speak of.
        orders.answers_with(of, SOON, is(&["127.0.0.1:80"])).await;
        orders.trusted_all_along();
    }
    let orders = source("orders.default");
    orders.answers_with("the list", SOON, is(&["127.0.0.1:80"])).await;
    nsd.change("other A 127.0.0.1");
    // It is gone under all of them, but about the name as it stands nobody can tell: an error, not an empty list.
    orders.fails("answered REFUSED to orders.default A", SOON).await;
    orders.never_said_less_than(1);
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails() {
    let (nsd, mut first) = (Nsd::start("web A 127.0.0.1").await, Nsd::start("web A 127.0.0.1").await);
    let web = follow(addresses(&[first.addr(), nsd.addr()], "web.lab."));
    web.answers_with("the list", SOON, is(&["127.0.0.1:80"])).await;
    first.kill();
    let answers = web.answers().len();
    web.answers_with("answers of the other", SOON, |_| web.answers().len() > answers + 1).await;
    assert_eq!(web.errors(), [] as [&str; 0]);
    // One that cannot tell is no better than a dead one: nsd refuses what another one knows.
    let other = Nsd::start_zone("internal.", "orders A 127.0.0.1").await;
    let orders = follow(addresses(&[nsd.addr(), other.addr()], "orders.internal."));
    orders.answers_with("the list", SOON, is(&["127.0.0.1:80"])).await;
    assert_eq!(orders.errors(), [] as [&str; 0]);
}
