//! Services of TCP: a pick for each connection, bytes both ways.

use crate::health_tls::authority::{Authority, Signed};
use crate::support::client::Connection;
use crate::support::raw::FullQueue;
use crate::support::{ByHand, Instance, Sidecar, eventually, facing, free_port, pattern};
use outrigger::net::tls::{authorities, certificates, private_key};
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(5);
const TCP: &str = "protocol = \"tcp\"\n";

async fn open(sidecar: &Sidecar) -> Connection {
    Connection::open(sidecar.service("web")).await.unwrap()
}

/// A sidecar with the service `web` of TCP at these addresses.
async fn at(addrs: &[SocketAddr], more: &str) -> Sidecar {
    let addrs: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    let from = addrs.join(",");
    Sidecar::start(&format!("workers = 1\n[service.web]\n{TCP}from = \"static://{from}\"\n{more}")).await
}

/// Both ends of a new connection.
async fn through(sidecar: &Sidecar, server: &ByHand) -> (Connection, Connection) {
    let client = open(sidecar).await;
    (client, server.accept().await)
}

async fn read(connection: &mut Connection, count: usize) -> Vec<u8> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let some = connection.some().await.unwrap();
        assert!(!some.is_empty(), "the end after {} bytes", seen.len());
        seen.extend(some);
    }
    seen
}

/// Whether it ends with a reset.
async fn is_reset(connection: &mut Connection) -> bool {
    let end = timeout(SOON, connection.some()).await.expect("an end in time");
    end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Whether a new connection is refused with a reset; that may come before the client knows that it is connected.
async fn is_refused(sidecar: &Sidecar) -> bool {
    match Connection::open(sidecar.service("web")).await {
        Ok(mut connection) => is_reset(&mut connection).await,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn in_flight(sidecar: &Sidecar) -> u64 {
    let service = sidecar.api("/api/services/web").await;
    service["endpoints"].as_array().unwrap().iter().map(|one| one["in_flight"].as_u64().unwrap()).sum()
}

async fn all_is_over(sidecar: &Sidecar) {
    eventually("nothing is in flight", SOON, async || (in_flight(sidecar).await == 0).then_some(())).await;
}

#[tokio::test]
async fn the_server_may_speak_first_and_bytes_pass_raw() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), TCP).await;
    let mut client = open(&sidecar).await;
    let mut instance = server.accept().await;
    instance.send("220 ready\r\n").await.unwrap();
    assert_eq!(read(&mut client, 11).await, b"220 ready\r\n");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\0\xff", b"\n"] {
        client.send(bytes).await.unwrap();
        assert_eq!(read(&mut instance, bytes.len()).await, bytes);
    }
    let large = pattern::bytes(0..8 << 20);
    let (mut client, mut instance) = through(&sidecar, &server).await;
    let up = async {
        let (sent, seen) = tokio::join!(client.send(&large), read(&mut instance, large.len()));
        sent.unwrap();
        assert!(seen == large);
    };
    up.await;
    let (sent, seen) = tokio::join!(instance.send(&large), read(&mut client, large.len()));
    sent.unwrap();
    assert!(seen == large);
    assert_eq!(in_flight(&sidecar).await, 2);
    assert_eq!(sidecar.metric("outrigger_requests_total{service=\"web\",code=\"tcp\"}").await, 2.0);
}

#[tokio::test]
async fn both_directions_carry_at_the_same_time() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), TCP).await;
    let echo = async {
        let mut instance = server.accept().await;
        loop {
            let some = instance.some().await.unwrap();
            if some.is_empty() {
                return instance.finish().await.unwrap();
            }
            instance.send(some).await.unwrap();
        }
    };
    let large = pattern::bytes(0..8 << 20);
    let client = async {
        let stream = TcpStream::connect(sidecar.service("web")).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let send = async {
            tokio::io::AsyncWriteExt::write_all(&mut to, &large).await.unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut to).await.unwrap();
        };
        let mut seen = Vec::new();
        let (_, read) = tokio::join!(send, from.read_to_end(&mut seen));
        read.unwrap();
        assert!(seen == large);
    };
    tokio::join!(echo, client);
    all_is_over(&sidecar).await;
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), TCP).await;
    let (mut client, mut instance) = through(&sidecar, &server).await;
    client.send("last words").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(read(&mut instance, 10).await, b"last words");
    assert!(instance.is_closed(SOON).await);
    instance.send("an answer").await.unwrap();
    assert_eq!(read(&mut client, 9).await, b"an answer");
    assert_eq!(in_flight(&sidecar).await, 1, "one direction is open");
    instance.finish().await.unwrap();
    assert!(client.is_closed(SOON).await);
    all_is_over(&sidecar).await;
    // The instance ends first, the client goes on.
    let (mut client, mut instance) = through(&sidecar, &server).await;
    instance.send("that is all").await.unwrap();
    instance.finish().await.unwrap();
    assert_eq!(read(&mut client, 11).await, b"that is all");
    assert!(client.is_closed(SOON).await);
    client.send("still here").await.unwrap();
    assert_eq!(read(&mut instance, 10).await, b"still here");
    client.finish().await.unwrap();
    assert!(instance.is_closed(SOON).await);
    all_is_over(&sidecar).await;
    let attempts = "outrigger_upstream_attempts_total{service=\"web\",outcome=\"success\"}";
    assert_eq!(sidecar.metric(attempts).await, 2.0);
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), TCP).await;
    let (client, mut instance) = through(&sidecar, &server).await;
    client.reset();
    assert!(is_reset(&mut instance).await);
    let (mut client, mut instance) = through(&sidecar, &server).await;
    instance.send("x").await.unwrap();
    read(&mut client, 1).await;
    instance.reset();
    assert!(is_reset(&mut client).await);
    let (mut client, instance) = through(&sidecar, &server).await;
    // A reset before we know of the connection is a failed one.
    let carried = "outrigger_requests_total{service=\"web\",code=\"tcp\"}";
    let known = async || (sidecar.metric(carried).await == 3.0).then_some(());
    eventually("the connection has come about", SOON, known).await;
    instance.reset();
    assert!(is_reset(&mut client).await);
    all_is_over(&sidecar).await;
    let count = async |outcome: &str| {
        let series = format!("outrigger_upstream_attempts_total{{service=\"web\",outcome=\"{outcome}\"}}");
        sidecar.metric(&series).await
    };
    // Only who resets before the first byte has failed.
    assert_eq!([count("abandoned").await, count("success").await, count("reset").await], [1.0, 1.0, 1.0]);
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_tried_elsewhere() {
    let (refusing, full) = (SocketAddr::from(([127, 0, 0, 1], free_port())), FullQueue::new());
    let server = Instance::start("a").await;
    let more = "timeouts.connect = \"200ms\"\n";
    let sidecar = at(&[refusing, server.addr(), full.addr()], more).await;
    for _ in 0..9 {
        assert_eq!(sidecar.get("web", "/").await.instance(), "a");
    }
    let count = async |series: &str| sidecar.metric(series).await;
    assert_eq!(count("outrigger_requests_total{service=\"web\",code=\"tcp\"}").await, 9.0);
    let failed = count("outrigger_upstream_attempts_total{service=\"web\",outcome=\"connect_failed\"}").await;
    assert_eq!(count("outrigger_retries_total{service=\"web\",reason=\"connect_failed\"}").await, failed);
    assert!(failed >= 6.0, "{failed}");
}

#[tokio::test]
async fn without_an_instance_the_client_is_reset_and_counted() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let sidecar = facing(nobody, TCP).await;
    assert!(is_refused(&sidecar).await);
    let refused = async |code: u16| {
        let series = format!("outrigger_requests_total{{service=\"web\",code=\"{code}\"}}");
        sidecar.metric(&series).await
    };
    assert_eq!(refused(502).await, 1.0);
    let none = "workers = 1\n[service.web]\nfrom = \"file:none.toml\"\nprotocol = \"tcp\"\n\
                timeouts.first_list = \"100ms\"\n";
    let sidecar = Sidecar::launch(none).await;
    assert!(is_refused(&sidecar).await);
    assert_eq!(sidecar.metric("outrigger_requests_total{service=\"web\",code=\"503\"}").await, 1.0);
}

#[tokio::test]
async fn a_connection_without_a_byte_ends_and_one_direction_keeps_both() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), &format!("{TCP}timeouts.upgraded_idle = \"1500ms\"\n")).await;
    let (mut client, mut instance) = through(&sidecar, &server).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        instance.send("x").await.unwrap();
        read(&mut client, 1).await;
        tokio::time::sleep(SHORT).await;
    }
    let silent = Instant::now();
    assert!(client.is_closed(SOON).await);
    assert!(instance.is_closed(SOON).await);
    assert!(silent.elapsed() > Duration::from_millis(900), "{:?}", silent.elapsed());
    all_is_over(&sidecar).await;
}

#[tokio::test]
async fn connections_at_a_removed_instance_end_when_their_time_is_over() {
    let (old, new) = (ByHand::start().await, ByHand::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.toml");
    let list = |addr: SocketAddr| std::fs::write(&file, format!("endpoints = [\"{addr}\"]")).unwrap();
    list(old.addr());
    let config = "workers = 1\n[service.web]\nfrom = \"file:web.toml\"\nprotocol = \"tcp\"\n\
                  timeouts.drain = \"2s\"\n";
    let mut sidecar = Sidecar::launch_in(folder, config, |_| {}).await;
    sidecar.ready(SOON).await;
    let (mut client, mut instance) = through(&sidecar, &old).await;
    list(new.addr());
    let removed = Instant::now();
    // New connections go to the new one, the old one goes on for a while.
    let mut other = eventually("the new instance is used", SOON, async || {
        let client = open(&sidecar).await;
        let accepted = timeout(SHORT, new.accept()).await.ok()?;
        Some((client, accepted))
    })
    .await;
    client.send("x").await.unwrap();
    read(&mut instance, 1).await;
    assert!(client.is_closed(SOON).await);
    assert!(instance.is_closed(SOON).await);
    assert!(removed.elapsed() > Duration::from_millis(1500), "{:?}", removed.elapsed());
    other.0.send("y").await.unwrap();
    assert_eq!(read(&mut other.1, 1).await, b"y");
}

#[tokio::test]
async fn a_stop_lets_connections_end_within_the_drain() {
    let server = ByHand::start().await;
    let mut sidecar = facing(server.addr(), &format!("{TCP}[shutdown]\ndrain = \"4s\"\n")).await;
    let (mut client, mut instance) = through(&sidecar, &server).await;
    let (mut hanging, _) = through(&sidecar, &server).await;
    sidecar.signal("TERM");
    let addr = sidecar.service("web");
    eventually("nobody listens", SOON, async || TcpStream::connect(addr).await.err()).await;
    client.send("bye").await.unwrap();
    assert_eq!(read(&mut instance, 3).await, b"bye");
    client.finish().await.unwrap();
    assert!(instance.is_closed(SOON).await);
    instance.finish().await.unwrap();
    assert!(client.is_closed(SOON).await);
    assert!(sidecar.is_running(), "one is left");
    sidecar.stop_was_asked().await;
    assert!(hanging.is_closed(SOON).await);
}

#[tokio::test]
async fn who_does_not_read_holds_the_other_back() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), TCP).await;
    let before = sidecar.rss_kib();
    let (mut client, mut instance) = through(&sidecar, &server).await;
    let whole = pattern::bytes(0..64 << 20);
    let mut sent = 0;
    for part in whole.chunks(1 << 16) {
        if timeout(Duration::from_millis(500), instance.send(part)).await.is_err() {
            break;
        }
        sent += part.len();
    }
    // What the kernels buffer, and a little of our own.
    assert!(sent < whole.len(), "nobody was held back");
    let grown = sidecar.rss_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    let seen = read(&mut client, sent).await;
    assert!(seen == whole[..seen.len()]);
}

#[tokio::test]
async fn one_more_than_an_instance_may_have_waits_its_turn() {
    let server = ByHand::start().await;
    let more = format!("{TCP}limits = {{ in_flight_per_target = 1, wait = \"3s\" }}\n");
    let sidecar = facing(server.addr(), &more).await;
    let (client, _) = through(&sidecar, &server).await;
    let mut second = open(&sidecar).await;
    second.send("early").await.unwrap();
    assert!(server.is_left_alone(SHORT).await);
    client.reset();
    let mut instance = server.accept().await;
    assert_eq!(read(&mut instance, 5).await, b"early");
    // And who waits in vain is reset.
    assert!(is_refused(&sidecar).await);
    assert_eq!(sidecar.metric("outrigger_requests_total{service=\"web\",code=\"503\"}").await, 1.0);
}

#[tokio::test]
async fn connections_are_balanced_checked_and_taken_away_from_the_sick() {
    let mut instances = [Instance::start("a").await, Instance::start("b").await];
    let addrs = [instances[0].addr(), instances[1].addr()];
    let more = "health = { tcp = true, interval = \"500ms\", timeout = \"500ms\", fall = 2 }\n";
    let sidecar = at(&addrs, more).await;
    eventually("both have passed their check", SOON, async || {
        // Whoever passes first serves alone until requests are told of the other.
        let proven = sidecar.states("web").await.iter().all(|(_, state)| state == "usable");
        (proven && sidecar.api("/api/services/web").await["usable"] == 2).then_some(())
    })
    .await;
    let mut seen = String::new();
    for _ in 0..8 {
        write!(seen, "{}", sidecar.get("web", "/").await.instance()).unwrap();
    }
    // Each in its turn, but for a new beginning when the last verdict comes in.
    assert!(["a", "b"].iter().all(|name| seen.matches(name).count() >= 3), "{seen}");
    instances[0].kill();
    eventually("the dead one is out", SOON, async || {
        let states = sidecar.states("web").await;
        states.iter().any(|(_, state)| state == "unhealthy").then_some(())
    })
    .await;
    for _ in 0..6 {
        assert_eq!(sidecar.get("web", "/").await.instance(), "b");
    }
}

#[tokio::test]
async fn curl_and_openssl_talk_through_it() {
    let instance = Instance::start("a").await;
    let sidecar = facing(instance.addr(), TCP).await;
    let url = format!("http://{}/echo", sidecar.service("web"));
    let curl = tokio::task::spawn_blocking(move || {
        Command::new("curl")
            .args(["-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", &url])
            .output()
    });
    assert_eq!(String::from_utf8_lossy(&curl.await.unwrap().unwrap().stdout), "200");
    // TLS passes as it is: the client sees the instance's certificate.
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=the-instance", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success());
    let port = free_port();
    let mut server = Command::new("openssl")
        .args(["s_server", "-quiet", "-www", "-cert", "cert.pem", "-key", "key.pem", "-accept"])
        .arg(format!("127.0.0.1:{port}"))
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("openssl listens", SOON, async || TcpStream::connect(addr).await.ok()).await;
    let sidecar = facing(addr, TCP).await;
    let to = sidecar.service("web").to_string();
    let client = tokio::task::spawn_blocking(move || {
        let script = format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 10 openssl s_client -ign_eof -connect {to}"
        );
        Command::new("bash").args(["-c", &script]).output()
    });
    let said = client.await.unwrap().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("CN = the-instance") && said.contains("HTTP/1.0 200"), "{said}");
}

/// Both sides of a service whose app and whose instance speak TLS.
const OVER_TLS: &str = "IP:127.0.0.1,DNS:db.test";

#[tokio::test]
async fn tls_ends_at_the_listener_and_begins_anew_to_the_instance() {
    let authority = Authority::new("ours");
    let signed = authority.sign("db", OVER_TLS);
    let server = ByHand::start().await;
    let tls = format!(
        "tls.ca_cert = \"{}\"\nproxy_protocol.send = \"v1\"\n[service.web.listen_tls]\ncert = \"{}\"\nkey = \"{}\"\n",
        authority.cert().display(),
        signed.cert.display(),
        signed.key.display()
    );
    let sidecar = facing(server.addr(), &format!("{TCP}{tls}")).await;
    let acceptor = acceptor(&signed);
    let to = sidecar.service("web");
    let client = async {
        // What it offers means nothing to bytes.
        let stream = TcpStream::connect(to).await.unwrap();
        connector(&authority).connect("db.test".try_into().unwrap(), stream).await.unwrap()
    };
    let instance = async {
        let mut stream = server.accept().await.into_stream();
        let mut ahead = Vec::new();
        while !ahead.ends_with(b"\r\n") {
            ahead.push(stream.read_u8().await.unwrap());
        }
        assert!(ahead.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "), "{}", String::from_utf8_lossy(&ahead));
        acceptor.accept(stream).await.unwrap()
    };
    let (mut client, mut instance) = timeout(SOON, async { tokio::join!(client, instance) }).await.unwrap();
    assert_eq!(client.get_ref().1.alpn_protocol(), None);
    instance.write_all(b"220 ready\r\n").await.unwrap();
    let mut said = [0; 11];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"220 ready\r\n");
    // Much, which neither side takes at once; then each direction ends by itself.
    let large = pattern::bytes(0..4 << 20);
    let up = async {
        client.write_all(&large).await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        back
    };
    let down = async {
        let mut came = Vec::new();
        instance.read_to_end(&mut came).await.unwrap();
        assert!(came == large);
        instance.write_all(&large).await.unwrap();
        instance.shutdown().await.unwrap();
    };
    let (back, ()) = timeout(2 * SOON, async { tokio::join!(up, down) }).await.unwrap();
    assert!(back == large);
    all_is_over(&sidecar).await;
    // Who speaks no TLS gets nothing, and no instance hears of it.
    let mut plain = open(&sidecar).await;
    plain.send("HELO there\r\n").await.unwrap();
    assert!(plain.is_closed(SOON).await);
    assert!(server.is_left_alone(SHORT).await);
}

#[tokio::test]
async fn an_instance_whose_certificate_is_for_somebody_else_is_no_instance() {
    let authority = Authority::new("ours");
    let server = ByHand::start().await;
    let ca = authority.cert();
    let tls = format!("tls = {{ ca_cert = \"{}\", server_name = \"other.test\" }}\n", ca.display());
    let sidecar = facing(server.addr(), &format!("{TCP}{tls}")).await;
    let acceptor = acceptor(&authority.sign("db", OVER_TLS));
    let refusing = async {
        let stream = server.accept().await.into_stream();
        assert!(acceptor.accept(stream).await.is_err());
    };
    let (refused, ()) = tokio::join!(is_refused(&sidecar), refusing);
    assert!(refused);
    assert_eq!(sidecar.metric("outrigger_requests_total{service=\"web\",code=\"502\"}").await, 1.0);
    assert!(sidecar.log().contains("an instance cannot be used over TLS"));
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn acceptor(signed: &Signed) -> TlsAcceptor {
    let (chain, key) = (certificates(&signed.cert).unwrap(), private_key(&signed.key).unwrap());
    let builder =
        rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = builder.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn connector(authority: &Authority) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(authorities(&authority.cert()).unwrap());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    TlsConnector::from(Arc::new(config))
}
