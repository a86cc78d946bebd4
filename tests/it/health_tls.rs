//! Active checks over TLS against real servers: who is trusted, what is told when nobody is, and what it costs.

pub mod authority;
pub mod server;

use crate::support::raw::{RawServer, Step};
use crate::support::{Instance, Sidecar, eventually};
use authority::{Authority, Signed};
use outrigger::health::{CheckKind, CheckSettings, HttpCheck, Probe};
use outrigger::net::tls::{
    Identity, ServerName, TlsClient, TlsSettings, authorities, certificates, private_key,
};
use serde_json::Value;
use server::{Manners, Then, TlsServer};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(20);
/// What a certificate of a test's server is for.
const HERE: &str = "IP:127.0.0.1";

/// Trusts this authority and nobody else of this test.
fn trusting(authority: &Authority) -> TlsSettings {
    TlsSettings {
        trusted: authorities(&authority.cert()).unwrap(),
        identity: None,
        server_name: None,
        verify: true,
        alpn: Vec::new(),
    }
}

fn named(name: &'static str, settings: TlsSettings) -> TlsSettings {
    TlsSettings { server_name: Some(ServerName::try_from(name).unwrap()), ..settings }
}

fn identified(signed: &Signed, settings: TlsSettings) -> TlsSettings {
    let (chain, key) = (certificates(&signed.cert).unwrap(), private_key(&signed.key).unwrap());
    TlsSettings { identity: Some(Identity::new(chain, key).unwrap()), ..settings }
}

fn http(tls: TlsSettings) -> CheckSettings {
    let tls = TlsSettings { alpn: vec![b"http/1.1".to_vec()], ..tls };
    over(tls, CheckKind::Http(HttpCheck::get("/health")))
}

fn tcp(tls: TlsSettings) -> CheckSettings {
    over(tls, CheckKind::Tcp)
}

fn over(tls: TlsSettings, kind: CheckKind) -> CheckSettings {
    let tls = Some(TlsClient::new(tls).unwrap());
    CheckSettings { tls, timeout: Duration::from_secs(10), ..CheckSettings::new(kind) }
}

/// What one probe says: empty if it passes.
async fn said(settings: &CheckSettings, addr: SocketAddr) -> String {
    Probe::new(settings).ask(addr).await.err().map(|e| e.to_string()).unwrap_or_default()
}

/// What an HTTP check and a TCP check say.
async fn both_say(tls: impl Fn() -> TlsSettings, addr: SocketAddr) -> [String; 2] {
    [said(&http(tls()), addr).await, said(&tcp(tls()), addr).await]
}

#[tokio::test]
async fn a_server_with_a_certificate_of_a_trusted_authority_passes() {
    let ours = Authority::new("ours");
    for old in [false, true] {
        let server = TlsServer::with(&ours.sign("web", HERE), Manners { old, ..Manners::default() }).await;
        assert_eq!(both_say(|| trusting(&ours), server.addr).await, [""; 2], "old: {old}");
        let requests = server.requests();
        assert_eq!(requests.len(), 1, "a TCP check asks nothing: {requests:?}");
        assert!(requests[0].starts_with("GET /health HTTP/1.1\r\n"), "{}", requests[0]);
        assert!(requests[0].contains(&format!("\r\nhost: {}\r\n", server.addr)), "{}", requests[0]);
        assert_eq!(server.names(), [None, None], "an address is no server name (RFC 6066, section 3)");
    }
}

#[tokio::test]
async fn an_unknown_authority_is_not_trusted() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let server = TlsServer::start(&theirs.sign("web", HERE)).await;
    let untrusted = "TLS: certificate not trusted (unknown issuer)";
    assert_eq!(both_say(|| trusting(&ours), server.addr).await, [untrusted; 2]);
    assert_eq!(both_say(|| trusting(&theirs), server.addr).await, [""; 2]);
    let renewed = Authority::new("theirs");
    let unsigned = "TLS: certificate not trusted (not signed by the issuer that it names)";
    assert_eq!(both_say(|| trusting(&renewed), server.addr).await, [unsigned; 2]);
    assert_eq!(server.requests().len(), 1, "a server that is not trusted is told nothing");
}

#[tokio::test]
async fn a_certificate_must_be_for_the_address_or_the_name_that_is_given() {
    let ours = Authority::new("ours");
    let server = TlsServer::start(&ours.sign("web", "DNS:orders.internal")).await;
    let by_address = both_say(|| trusting(&ours), server.addr).await;
    assert_eq!(by_address, ["TLS: certificate is for other names than 127.0.0.1"; 2]);
    let by_name = both_say(|| named("orders.internal", trusting(&ours)), server.addr).await;
    assert_eq!(by_name, [""; 2]);
    let wrong = both_say(|| named("billing.internal", trusting(&ours)), server.addr).await;
    assert_eq!(wrong, ["TLS: certificate is for other names than billing.internal"; 2]);
    let [orders, billing] = ["orders.internal", "billing.internal"].map(|name| Some(name.to_owned()));
    let expected = [None, None, orders.clone(), orders, billing.clone(), billing];
    assert_eq!(server.names(), expected, "the server is told the name that is wanted");
}

#[tokio::test]
async fn an_expired_certificate_fails() {
    let ours = Authority::new("ours");
    let server = TlsServer::start(&ours.sign_expired("web", HERE)).await;
    assert_eq!(both_say(|| trusting(&ours), server.addr).await, ["TLS: certificate expired"; 2]);
}

#[tokio::test]
async fn an_authority_is_no_server() {
    let ours = Authority::new("ours");
    let server = TlsServer::start(&ours.itself()).await;
    let told = "TLS: certificate not accepted (it is made for an authority, not for a server: CA:TRUE)";
    assert_eq!(both_say(|| trusting(&ours), server.addr).await, [told; 2]);
}

#[tokio::test]
async fn without_verification_every_certificate_passes_and_no_tls_still_fails() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let careless = || TlsSettings { verify: false, ..trusting(&ours) };
    for old in [false, true] {
        let expired = theirs.sign_expired("web", "DNS:elsewhere");
        let server = TlsServer::with(&expired, Manners { old, ..Manners::default() }).await;
        assert_eq!(both_say(careless, server.addr).await, [""; 2], "old: {old}");
    }
    let plain = Instance::start("plain").await;
    assert_eq!(both_say(careless, plain.addr()).await, ["no TLS there"; 2]);
}

#[tokio::test]
async fn a_server_may_want_a_certificate_of_ours() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let (web, mine, strange) =
        (ours.sign("web", HERE), ours.sign("client", "DNS:client"), theirs.sign("client", "DNS:client"));
    for old in [false, true] {
        let manners = Manners { clients: Some(&ours.cert()), old, ..Manners::default() };
        let server = TlsServer::with(&web, manners).await;
        let known = both_say(|| identified(&mine, trusting(&ours)), server.addr).await;
        assert_eq!(known, [""; 2], "old: {old}");

        let anonymous = both_say(|| trusting(&ours), server.addr).await;
        assert_eq!(anonymous, ["TLS: the server wants a client certificate"; 2], "old: {old}");

        let stranger = both_say(|| identified(&strange, trusting(&ours)), server.addr).await;
        let refused = stranger.iter().all(|said| said.starts_with("TLS: refused by the server ("));
        assert!(refused, "old: {old}: {stranger:?}");
    }
    // One that does not say so: what is missing is named, for what it is worth.
    let rude = TlsServer::with(&web, Manners { then: Then::End, ..Manners::default() }).await;
    let [asked, knocked] = both_say(|| trusting(&ours), rude.addr).await;
    let cut = "connection closed before the answer was complete";
    assert_eq!(asked, format!("{cut} (no client certificate is configured)"));
    assert_eq!(knocked, "", "the handshake succeeded");
    assert_eq!(said(&http(identified(&mine, trusting(&ours))), rude.addr).await, cut);
}

#[tokio::test]
async fn what_speaks_no_tls_is_told_from_what_breaks_off_and_from_what_is_silent() {
    let ours = Authority::new("ours");
    let plain = Instance::start("plain").await;
    assert_eq!(both_say(|| trusting(&ours), plain.addr()).await, ["no TLS there"; 2]);
    let ssh = RawServer::deaf(vec![Step::send("SSH-2.0-OpenSSH_9.6\r\n")]).await;
    assert_eq!(both_say(|| trusting(&ours), ssh.addr()).await, ["no TLS there"; 2]);
    for step in [Step::Close, Step::Reset] {
        let ends = RawServer::deaf(vec![step]).await;
        let closed = "TLS: connection closed during the handshake";
        assert_eq!(both_say(|| trusting(&ours), ends.addr()).await, [closed; 2]);
    }
    let silent = RawServer::deaf(Vec::new()).await;
    for settings in [http(trusting(&ours)), tcp(trusting(&ours))] {
        let hasty = CheckSettings { timeout: Duration::from_millis(300), ..settings };
        assert_eq!(said(&hasty, silent.addr()).await, "timed out after 300ms in the TLS handshake");
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_http_1_says_so() {
    let ours = Authority::new("ours");
    let manners = Manners { alpn: Some("h2"), ..Manners::default() };
    let server = TlsServer::with(&ours.sign("web", HERE), manners).await;
    let [asked, knocked] = both_say(|| trusting(&ours), server.addr).await;
    assert_eq!(asked, "TLS: refused by the server (NoApplicationProtocol)");
    assert_eq!(knocked, "", "a TCP check does not mind what is spoken");
}

#[tokio::test]
async fn a_tcp_check_does_not_wait_for_a_server_that_has_nothing_to_say() {
    let ours = Authority::new("ours");
    let manners = Manners { then: Then::Hang, ..Manners::default() };
    let server = TlsServer::with(&ours.sign("web", HERE), manners).await;
    let begin = Instant::now();
    assert_eq!(said(&tcp(trusting(&ours)), server.addr).await, "");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    // The wait for its last word leaves the verdict in time.
    let hasty = CheckSettings { timeout: Duration::from_millis(900), ..tcp(trusting(&ours)) };
    assert_eq!(said(&hasty, server.addr).await, "");
}

#[tokio::test]
async fn a_kept_tls_connection_is_used_again() {
    let ours = Authority::new("ours");
    let server = TlsServer::start(&ours.sign("web", HERE)).await;
    let mut probe = Probe::new(&http(trusting(&ours)));
    for _ in 0..5 {
        probe.ask(server.addr).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(5), probe.idle()).await;
    }
    assert_eq!((server.accepted(), server.requests().len()), (1, 5));
    drop(probe);
    let closed = || async { (server.open() == 0).then_some(()) };
    eventually("the end of the dropped probe's connection", LIMIT, closed).await;
}

#[tokio::test]
async fn every_connection_is_judged_by_its_own_certificate() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let manners = Manners { then: Then::AnswerOnce, ..Manners::default() };
    for old in [false, true] {
        let server = TlsServer::with(&ours.sign("web", HERE), Manners { old, ..manners }).await;
        let settings = http(trusting(&ours));
        let mut probe = Probe::new(&settings);
        for _ in 0..3 {
            probe.ask(server.addr).await.unwrap();
        }
        // A resumed session would still pass: the server would show no certificate at all.
        server.show(&theirs.sign("web", HERE));
        let error = probe.ask(server.addr).await.unwrap_err().to_string();
        assert_eq!(error, "TLS: certificate not trusted (unknown issuer)", "old: {old}");
    }
}

#[tokio::test]
async fn a_reloaded_client_reaches_its_clones() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let server = TlsServer::start(&theirs.sign("web", HERE)).await;
    let client = TlsClient::new(trusting(&ours)).unwrap();
    let tls = Some(client.offering(&[b"http/1.1"]));
    let settings = CheckSettings { tls, ..http(trusting(&ours)) };
    assert_eq!(said(&settings, server.addr).await, "TLS: certificate not trusted (unknown issuer)");
    client.reload(trusting(&theirs)).unwrap();
    assert_eq!(said(&settings, server.addr).await, "");
    assert_eq!(client, TlsClient::new(trusting(&theirs)).unwrap());
}

/// Address, state and first reason of every endpoint of a service, once all are judged.
async fn judged(sidecar: &Sidecar, service: &str) -> Vec<[String; 3]> {
    let path = format!("/api/services/{service}");
    eventually("a verdict on every endpoint", LIMIT, async || {
        let service = sidecar.api(&path).await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let endpoints = service["endpoints"].as_array().unwrap().iter();
        let rows: Vec<_> = endpoints.map(|e| [&e["addr"], &e["state"], &e["reasons"][0]].map(text)).collect();
        rows.iter().all(|[_, state, _]| state != "unproven").then_some(rows)
    })
    .await
}

#[tokio::test]
async fn the_sidecar_takes_out_whom_it_does_not_trust_and_says_why() {
    let [ours, systems, strange] = ["ours", "system", "strange"].map(Authority::new);
    let start =
        async |authority: &Authority| TlsServer::start(&authority.sign("web", "DNS:orders.internal")).await;
    let servers = [start(&ours).await, start(&systems).await, start(&strange).await];
    let [a, b, c] = servers.each_ref().map(|server| server.addr.to_string());
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(ours.cert(), folder.path().join("ca.pem")).unwrap();
    let config = format!(
        "[defaults.health]\nhttp = \"/health\"\nhost = \"orders.internal:8443\"\n\
         timeout = \"10s\"\ninterval = \"10s\"\n\
         [service.own]\nfrom = \"static://{a},{b},{c}\"\nhealth.tls = {{ ca_cert = \"ca.pem\" }}\n\
         [service.system]\nfrom = \"static://{a},{b},{c}\"\nhealth.tls = true\n"
    );
    let sidecar = Sidecar::launch_in(folder, &config, |command| {
        command.env("SSL_CERT_FILE", systems.cert()).env_remove("SSL_CERT_DIR");
    })
    .await;
    let row = |addr: &str, trusted: bool| {
        let reason = "check: TLS: certificate not trusted (unknown issuer)";
        let [state, reason] = if trusted { ["usable", ""] } else { ["unhealthy", reason] };
        [addr, state, reason].map(str::to_owned)
    };
    let sorted = |mut rows: Vec<[String; 3]>| {
        rows.sort();
        rows
    };
    let own = sorted(vec![row(&a, true), row(&b, true), row(&c, false)]);
    assert_eq!(sorted(judged(&sidecar, "own").await), own);
    let system = sorted(vec![row(&a, false), row(&b, true), row(&c, false)]);
    assert_eq!(sorted(judged(&sidecar, "system").await), system);
}

#[test]
fn a_system_without_certificates_is_found_before_the_start() {
    let ours = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(ours.cert(), folder.path().join("ca.pem")).unwrap();
    let check = |tls: &str| {
        let config = format!(
            "[service.orders]\nport = 9001\nfrom = \"consul:orders\"\nhealth = {{ tcp = true, tls = {tls} }}\n"
        );
        std::fs::write(folder.path().join("a.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["check", "a.toml"]).current_dir(folder.path());
        command.env("SSL_CERT_FILE", "/nowhere/certs.pem").env_remove("SSL_CERT_DIR");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = check("true");
    let start = "a.toml:4:30: service.orders.health.tls: nothing to trust: this system has no certificates of its own";
    assert!(code == Some(2) && told.starts_with(start) && told.contains("/nowhere/certs.pem"), "{told}");
    for fine in ["{ ca_cert = \"ca.pem\" }", "{ verify = false }", "false"] {
        assert_eq!(check(fine), (Some(0), String::new()), "{fine}");
    }
}
