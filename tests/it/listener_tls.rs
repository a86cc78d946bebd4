//! TLS between the application and the sidecar: certificates, clients', both versions of HTTP, and those who speak none.

use crate::health_tls::authority::{Authority, Signed};
use crate::http2::peer::{Frames, PREFACE, Peer, frame, get_block};
use crate::support::client::Connection;
use crate::support::raw::{RawServer, Step};
use crate::support::{Instance, Sidecar, eventually};
use outrigger::net::tls::{Identity, ServerName, TlsClient, TlsFailure, TlsSettings, TlsStream};
use outrigger::net::tls::{authorities, certificates, private_key};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(5);
const HERE: &str = "IP:127.0.0.1,DNS:localhost";

/// A sidecar that speaks TLS; `more` is TOML inside `[service.web.listen_tls]`.
async fn secure(own: &Signed, instance: SocketAddr, more: &str) -> Sidecar {
    let (cert, key) = (own.cert.display(), own.key.display());
    Sidecar::start(&format!(
        "workers = 1\n[service.web]\nfrom = \"static://{instance}\"\nretry.attempts = 1\n\
         [service.web.listen_tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n{more}"
    ))
    .await
}

fn client(trusted: &Authority, own: Option<&Signed>, alpn: &[&str]) -> TlsClient {
    let identity = own
        .map(|own| Identity::new(certificates(&own.cert).unwrap(), private_key(&own.key).unwrap()).unwrap());
    let settings = TlsSettings {
        trusted: authorities(&trusted.cert()).unwrap(),
        identity,
        server_name: None,
        verify: true,
        alpn: alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
    };
    TlsClient::new(settings).unwrap()
}

async fn connect(sidecar: &Sidecar, client: &TlsClient) -> Result<TlsStream<TcpStream>, TlsFailure> {
    let stream = TcpStream::connect(sidecar.service("web")).await.unwrap();
    client.connect(ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST)), stream).await
}

/// One request in HTTP/1.1; the head of the answer and what came with it.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"GET /headers HTTP/1.1\r\nHost: t\r\n\r\n").await?;
    let mut read = vec![0; 4096];
    let mut length = 0;
    while !read[..length].ends_with(b"}") {
        match stream.read(&mut read[length..]).await? {
            0 => break,
            more => length += more,
        }
    }
    Ok(String::from_utf8_lossy(&read[..length]).into_owned())
}

#[tokio::test]
async fn curl_speaks_both_versions_over_tls() {
    let ours = Authority::new("ours");
    let instance = Instance::start("one").await;
    let sidecar = secure(&ours.sign("web", HERE), instance.addr(), "").await;
    let url = format!("https://{}/headers", sidecar.service("web"));
    for (flag, version, via) in [("--http2", "2", "2.0 outrigger"), ("--http1.1", "1.1", "1.1 outrigger")] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--write-out", " %{http_version}", flag, &url, "--cacert"]).arg(ours.cert());
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.ends_with(&format!(" {version}")), "{text} {output:?}");
        assert!(text.contains("[\"x-forwarded-proto\",\"https\"]"), "{text}");
        assert!(text.contains(&format!("[\"via\",\"{via}\"]")), "{text}");
    }
}

#[tokio::test]
async fn connections_rest_and_wake_up_and_end_in_order() {
    let ours = Authority::new("ours");
    let instance = Instance::start("one").await;
    let mut sidecar = secure(&ours.sign("web", HERE), instance.addr(), "").await;
    let client = client(&ours, None, &["http/1.1"]);
    let mut stream = connect(&sidecar, &client).await.unwrap();
    for _ in 0..4 {
        assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        // Long enough to be laid to rest.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    sidecar.signal("TERM");
    // Without TLS's own farewell this would be an error.
    assert_eq!(timeout(SOON, stream.read(&mut [0; 64])).await.unwrap().unwrap(), 0);
    sidecar.stop_was_asked().await;
}

#[tokio::test]
async fn without_an_agreement_the_first_bytes_decide() {
    let ours = Authority::new("ours");
    let server = RawServer::always(vec![Step::ok("{}")]).await;
    let sidecar = secure(&ours.sign("web", HERE), server.addr(), "").await;
    let silent = client(&ours, None, &[]);
    let mut old = connect(&sidecar, &silent).await.unwrap();
    assert!(ask(&mut old).await.unwrap().ends_with("{}"));
    let io = connect(&sidecar, &silent).await.unwrap();
    let mut peer = Peer::over(io, &h2::client::Builder::new()).await;
    assert_eq!(peer.get("/").await.unwrap().text(), "{}");
    let io = connect(&sidecar, &client(&ours, None, &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut peer = Peer::over(io, &h2::client::Builder::new()).await;
    assert_eq!(peer.get("/").await.unwrap().text(), "{}");
    // What was agreed on holds.
    let mut strict = connect(&sidecar, &client(&ours, None, &["http/1.1"])).await.unwrap();
    strict.write_all(PREFACE).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(SOON, strict.read_to_end(&mut rest)).await.unwrap();
    assert!(!rest.starts_with(b"\0"), "no settings of HTTP/2: {rest:?}");
}

#[tokio::test]
async fn clients_without_a_certificate_of_a_known_authority_stay_out() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = RawServer::always(vec![Step::ok("{}")]).await;
    let own = ours.sign("web", HERE);
    let (known, unknown) = (ours.sign("app", "DNS:app"), theirs.sign("app", "DNS:app"));
    let expired = ours.sign_expired("old", "DNS:old");
    let ca = format!("client_ca = \"{}\"\n", ours.cert().display());
    for (more, anonymous) in [("", false), ("client_auth = \"optional\"\n", true)] {
        let sidecar = secure(&own, server.addr(), &format!("{ca}{more}")).await;
        for (who, certificate, let_in) in [
            ("known", Some(&known), true),
            ("unknown", Some(&unknown), false),
            ("expired", Some(&expired), false),
            ("anonymous", None, anonymous),
        ] {
            // With TLS 1.3 a client hears of it after its own part of the handshake.
            let answered = async {
                let mut stream = connect(&sidecar, &client(&ours, certificate, &[])).await.ok()?;
                ask(&mut stream).await.ok().filter(|text| text.ends_with("{}"))
            };
            assert_eq!(timeout(SOON, answered).await.unwrap().is_some(), let_in, "{who}, {more:?}");
        }
    }
}

#[tokio::test]
async fn who_speaks_plain_http_is_told_so() {
    let ours = Authority::new("ours");
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let sidecar = secure(&ours.sign("web", HERE), server.addr(), "").await;
    for _ in 0..3 {
        let mut plain = Connection::open(sidecar.service("web")).await.unwrap();
        let answer = plain.get("/").await.unwrap();
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("this port speaks TLS"), "{}", answer.text());
        assert!(plain.is_closed(SOON).await);
    }
    let told = sidecar.log().matches("a client speaks plain HTTP to a port with TLS").count();
    assert_eq!(told, 1, "{}", sidecar.log());
    let mut frames = Frames(TcpStream::connect(sidecar.service("web")).await.unwrap());
    frames.send(&[PREFACE, &frame(1, 5, 1, &get_block("/"))].concat()).await;
    assert_eq!(server.connections(), 0);
    eventually("each is counted", SOON, async || {
        (sidecar.metric("outrigger_requests_total{code=\"400\"}").await == 4.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_handshake_has_the_time_of_a_head() {
    let ours = Authority::new("ours");
    let server = RawServer::always(vec![Step::ok("ok")]).await;
    let more = "[limits]\nhead_timeout = \"1s\"\nkeep_alive = \"2s\"\n";
    let sidecar = secure(&ours.sign("web", HERE), server.addr(), more).await;
    for (begin, least) in [(&b"\x16\x03\x01\x02"[..], 900), (b"", 1900)] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(sidecar.service("web")).await.unwrap();
        stream.write_all(begin).await.unwrap();
        // A connection from the first byte on, whatever comes of it.
        eventually("it is counted", SOON, async || {
            (sidecar.metric("outrigger_connections{side=\"client\"}").await == 1.0).then_some(())
        })
        .await;
        let mut rest = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(least), "{:?}", begun.elapsed());
        eventually("it is gone", SOON, async || {
            (sidecar.metric("outrigger_connections{side=\"client\"}").await == 0.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_large_answer_over_tls_is_whole() {
    let ours = Authority::new("ours");
    let instance = Instance::start("one").await;
    let sidecar = secure(&ours.sign("web", HERE), instance.addr(), "").await;
    let url = format!("https://{}/bytes/20000000", sidecar.service("web"));
    for flag in ["--http2", "--http1.1"] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", flag, &url, "--cacert"]).arg(ours.cert());
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        assert!(
            output.status.success() && output.stdout.len() == 20_000_000,
            "{flag}: {}",
            output.stdout.len()
        );
        assert!(output.stdout == crate::support::pattern::bytes(0..20_000_000), "{flag}");
    }
}

#[tokio::test]
async fn renewed_certificates_are_shown_at_once_and_open_connections_go_on() {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let [before, after] = [&ours, &theirs].map(|authority| authority.sign("web", HERE));
    let instance = Instance::start("one").await;
    let sidecar = secure(&before, instance.addr(), "").await;
    let [old, new] = [&ours, &theirs].map(|trusted| client(trusted, None, &["http/1.1"]));
    let mut open = connect(&sidecar, &old).await.unwrap();
    assert!(ask(&mut open).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(connect(&sidecar, &new).await.is_err());

    // One file after the other: in between they do not fit together, which nobody needs to hear of.
    std::fs::copy(&after.cert, &before.cert).unwrap();
    std::fs::copy(&after.key, &before.key).unwrap();
    let shown = async || connect(&sidecar, &new).await.ok();
    let mut fresh = eventually("the new certificate", SOON, shown).await;
    for stream in [&mut open, &mut fresh] {
        assert!(ask(stream).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert!(connect(&sidecar, &old).await.is_err());

    std::fs::write(&before.cert, "half a certi").unwrap();
    let told = async || sidecar.log().contains("cannot be used: those before stay").then_some(());
    eventually("a warning", SOON, told).await;
    let log = sidecar.log();
    assert!(log.contains(&format!("{} holds no PEM certificate", before.cert.display())), "{log}");
    assert!(log.contains("service.web.listen_tls"), "{log}");
    assert!(connect(&sidecar, &new).await.is_ok());
}

#[tokio::test]
async fn a_client_that_pauses_gets_the_end_of_its_answer_too() {
    const LENGTH: usize = 8_000_000;
    let ours = Authority::new("ours");
    let instance = Instance::start("one").await;
    let sidecar = secure(&ours.sign("web", HERE), instance.addr(), "").await;
    let mut stream = connect(&sidecar, &client(&ours, None, &["http/1.1"])).await.unwrap();
    stream.write_all(format!("GET /bytes/{LENGTH} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).await.unwrap();
    let mut read = vec![0; 64 << 10];
    let (mut total, mut paused) = (0, 0);
    while total < LENGTH {
        total += timeout(SOON, stream.read(&mut read)).await.expect("it goes on").unwrap();
        // Near the end all of it is written, as far as HTTP knows, and waits in TLS.
        if total > LENGTH - 4_000_000 && total / 400_000 > paused {
            paused = total / 400_000;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
