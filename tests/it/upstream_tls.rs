//! TLS to instances: who is trusted, under which name, what the client and the log are told when nobody is.

use crate::health_tls::authority::{Authority, Signed};
use crate::health_tls::server::{Manners, Then, TlsServer};
use crate::support::client::{Connection, Response};
use crate::support::{Instance, Sidecar, eventually, pattern};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const LIMIT: Duration = Duration::from_secs(20);
const HERE: &str = "IP:127.0.0.1";

fn config(addrs: &[SocketAddr], rules: &str) -> String {
    let list: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    format!("workers = 1\n[service.web]\nfrom = \"static://{}\"\nretry.attempts = 1\n{rules}", list.join(","))
}

fn trusting(authority: &Authority) -> String {
    format!("tls.ca_cert = \"{}\"\n", authority.cert().display())
}

fn identified(signed: &Signed) -> String {
    format!(
        "tls.client_cert = \"{}\"\ntls.client_key = \"{}\"\n",
        signed.cert.display(),
        signed.key.display()
    )
}

/// The detail of an answer that says there was no connection.
fn detail(answer: &Response) -> String {
    let body: serde_json::Value = answer.json();
    assert_eq!((answer.status, &body["error"]), (502, &"connect_failed".into()), "{body}");
    body["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn requests_go_over_kept_tls_connections() {
    let ours = Authority::new("ours");
    for old in [false, true] {
        let server = TlsServer::with(&ours.sign("web", HERE), Manners { old, ..Manners::default() }).await;
        let sidecar = Sidecar::start(&config(&[server.addr], &trusting(&ours))).await;
        let mut client = sidecar.client("web");
        for _ in 0..20 {
            assert_eq!(client.get("/x").await.unwrap().text(), "fine");
        }
        assert_eq!((server.accepted(), server.requests().len()), (1, 20), "old: {old}");
        let request = &server.requests()[0];
        assert!(request.starts_with("GET /x HTTP/1.1\r\n"), "{request}");
    }
}

#[tokio::test]
async fn who_is_not_trusted_gets_no_request_and_client_and_log_learn_why() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let not_yet = ours.sign_later("later", HERE);
    let cases = [
        (theirs.sign("web", HERE), "TLS: certificate not trusted (unknown issuer), asked for as 127.0.0.1"),
        (ours.sign("name", "DNS:other.internal"), "TLS: certificate is for other names than 127.0.0.1"),
        (ours.sign_expired("expired", HERE), "TLS: certificate expired, asked for as 127.0.0.1"),
        (not_yet, "TLS: certificate not valid yet, asked for as 127.0.0.1"),
    ];
    for (signed, why) in cases {
        let server = TlsServer::start(&signed).await;
        let sidecar = Sidecar::start(&config(&[server.addr], &trusting(&ours))).await;
        for _ in 0..3 {
            let told = detail(&sidecar.get("web", "/").await);
            assert_eq!(told, format!("{}: connecting: {why}", server.addr));
        }
        assert_eq!(server.requests().len(), 0);
        let line = "an instance cannot be used over TLS";
        let log = sidecar.log();
        assert_eq!(log.matches(line).count(), 1, "{log}");
        let line = log.lines().find(|text| text.contains(line)).unwrap();
        assert!(line.contains("WARN") && line.contains(&server.addr.to_string()), "{line}");
        // It is mended, and that is told once, too.
        server.show(&ours.sign("mended", HERE));
        for _ in 0..2 {
            assert_eq!(sidecar.get("web", "/").await.text(), "fine");
        }
        assert_eq!(sidecar.log().matches("an instance can be used over TLS again").count(), 1);
    }
}

#[tokio::test]
async fn the_name_is_the_services_or_the_endpoints_or_the_address() {
    let ours = Authority::new("ours");
    let names = "DNS:orders.internal,DNS:a.internal,IP:127.0.0.1";
    let server = TlsServer::start(&ours.sign("web", names)).await;
    let folder = tempfile::tempdir().unwrap();
    let list = |name: &str, meta: &str| {
        let text = format!("[[endpoints]]\naddr = \"{}\"\n{meta}", server.addr);
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    list("named.toml", "meta = { tls_server_name = \"a.internal\" }\n");
    list("plain.toml", "");
    list("wrong.toml", "meta = { tls_server_name = \"b.internal\" }\n");
    list("odd.toml", "meta = { tls_server_name = \"a b\" }\n");
    let tls = format!("{{ ca_cert = \"{}\" }}", ours.cert().display());
    let config = format!(
        "[defaults]\ntls = {tls}\nretry.attempts = 1\n\
         [service.endpoint]\nfrom = \"file:named.toml\"\n\
         [service.address]\nfrom = \"file:plain.toml\"\n\
         [service.service]\nfrom = \"file:named.toml\"\ntls.server_name = \"orders.internal\"\n\
         [service.wrong]\nfrom = \"file:wrong.toml\"\n[service.odd]\nfrom = \"file:odd.toml\"\n"
    );
    let mut sidecar = Sidecar::launch_in(folder, &config, |_| {}).await;
    sidecar.ready(LIMIT).await;
    for service in ["endpoint", "address", "service"] {
        assert_eq!(sidecar.get(service, "/").await.text(), "fine", "{service}");
    }
    let told = detail(&sidecar.get("wrong", "/").await);
    assert!(told.ends_with("TLS: certificate is for other names than b.internal"), "{told}");
    let told = detail(&sidecar.get("odd", "/").await);
    assert!(told.ends_with("TLS: \"a b\" (tls_server_name) is no host's name or IP address"), "{told}");
    let asked: Vec<_> = server.names().into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(asked, ["a.internal", "", "orders.internal", "b.internal"]);
}

#[tokio::test]
async fn an_instance_that_wants_a_client_certificate_gets_ours_or_says_so() {
    let [ours, clients] = ["ours", "clients"].map(Authority::new);
    let mine = clients.sign("me", "DNS:me");
    let stranger = ours.sign("stranger", "DNS:me");
    for old in [false, true] {
        for http in ["1", "auto"] {
            let manners = Manners { clients: Some(&clients.cert()), old, ..Manners::default() };
            let server = TlsServer::with(&ours.sign("web", HERE), manners).await;
            let rules = |more: &str| format!("http = \"{http}\"\n{}{more}", trusting(&ours));
            let sidecar = Sidecar::start(&config(&[server.addr], &rules(&identified(&mine)))).await;
            assert_eq!(sidecar.get("web", "/").await.text(), "fine");
            let nameless = Sidecar::start(&config(&[server.addr], &rules(""))).await;
            let told = detail(&nameless.get("web", "/").await);
            assert!(told.contains("client certificate"), "old: {old}, http: {http}: {told}");
            let strange = Sidecar::start(&config(&[server.addr], &rules(&identified(&stranger)))).await;
            let told = detail(&strange.get("web", "/").await);
            assert!(told.contains("TLS: refused by the server ("), "old: {old}: {told}");
            assert_eq!(server.requests().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_a_failed_connection() {
    let ours = Authority::new("ours");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rules = format!("{}timeouts.connect = \"300ms\"\n", trusting(&ours));
    let sidecar = Sidecar::start(&config(&[silent.local_addr().unwrap()], &rules)).await;
    let told = detail(&sidecar.get("web", "/").await);
    assert!(told.ends_with("connecting: no connection in time"), "{told}");
    let plain = Instance::start("plain").await;
    let sidecar = Sidecar::start(&config(&[plain.addr()], &trusting(&ours))).await;
    let told = detail(&sidecar.get("web", "/").await);
    assert!(told.ends_with("the instance speaks no TLS, and the service is set to tls"), "{told}");
}

#[tokio::test]
async fn a_failed_handshake_is_tried_elsewhere() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let good = TlsServer::start(&ours.sign("good", HERE)).await;
    let bad = TlsServer::start(&theirs.sign("bad", HERE)).await;
    let rules = trusting(&ours);
    let text = config(&[good.addr, bad.addr], &rules).replace("retry.attempts = 1\n", "");
    let sidecar = Sidecar::start(&text).await;
    for _ in 0..6 {
        assert_eq!(sidecar.get("web", "/").await.text(), "fine");
    }
    assert!(sidecar.retried("connect_failed").await >= 2);
    assert_eq!((good.requests().len(), bad.requests().len()), (6, 0));
}

#[tokio::test]
async fn a_connection_that_the_instance_closed_is_not_used_again() {
    let ours = Authority::new("ours");
    for old in [false, true] {
        let manners = Manners { then: Then::AnswerOnce, old, ..Manners::default() };
        let server = TlsServer::with(&ours.sign("web", HERE), manners).await;
        let sidecar = Sidecar::start(&config(&[server.addr], &trusting(&ours))).await;
        let mut client = sidecar.client("web");
        for _ in 0..5 {
            assert_eq!(client.get("/").await.unwrap().text(), "fine");
            let open = || async { (server.open() == 0).then_some(()) };
            eventually("the instance has closed", LIMIT, open).await;
        }
        assert_eq!(sidecar.retried("stale_connection").await, 0, "old: {old}");
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a server of a test, which ends with it")]
async fn large_bodies_and_tunnels_pass_over_tls() {
    let ours = Authority::new("ours");
    let signed = ours.sign("web", HERE);
    let (chain, key) = (
        outrigger::net::tls::certificates(&signed.cert).unwrap(),
        outrigger::net::tls::private_key(&signed.key).unwrap(),
    );
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(server));
    // Switches, then sends back what comes.
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                read.push(stream.read_u8().await.unwrap());
            }
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let (mut from, mut to) = tokio::io::split(stream);
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    let sidecar = Sidecar::start(&config(&[addr], &trusting(&ours))).await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    let ask = "GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.send(ask).await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), Some(101));
    for round in 0..16u64 {
        let bytes = pattern::bytes(round << 18..(round + 1) << 18);
        client.send(&bytes).await.unwrap();
        let mut back = Vec::new();
        while back.len() < bytes.len() {
            back.extend(client.some().await.unwrap());
        }
        assert!(back == bytes, "round {round}");
    }
    client.finish().await.unwrap();
    assert!(client.is_closed(LIMIT).await);
}

#[tokio::test]
async fn http_checks_that_say_nothing_of_tls_speak_the_services() {
    let ours = Authority::new("ours");
    let server = TlsServer::start(&ours.sign("web", "DNS:orders.internal")).await;
    let rules = format!(
        "{}tls.server_name = \"orders.internal\"\nhealth = {{ http = \"/up\", interval = \"200ms\", timeout = \"200ms\" }}\n",
        trusting(&ours)
    );
    let sidecar = Sidecar::start(&config(&[server.addr], &rules)).await;
    eventually("the instance passes its check", LIMIT, async || {
        (sidecar.states("web").await[0].1 == "usable").then_some(())
    })
    .await;
    assert!(server.requests()[0].starts_with("GET /up "));
    // Unless they say that they do not.
    let rules = rules.replace("timeout =", "tls = false, timeout =");
    let sidecar = Sidecar::launch(&config(&[server.addr], &rules)).await;
    eventually("the instance fails its check", LIMIT, async || {
        (sidecar.states("web").await[0].1 == "unhealthy").then_some(())
    })
    .await;
}

#[tokio::test]
async fn renewed_authorities_are_in_use_without_a_restart() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let server = TlsServer::start(&ours.sign("web", HERE)).await;
    let sidecar = Sidecar::start(&config(&[server.addr], &trusting(&theirs))).await;
    assert!(detail(&sidecar.get("web", "/").await).contains("unknown issuer"));
    std::fs::copy(ours.cert(), theirs.cert()).unwrap();
    let served = async || (sidecar.get("web", "/").await.status == 200).then_some(());
    eventually("the new authority", LIMIT, served).await;
}
