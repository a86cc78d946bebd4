//! Which HTTP is spoken: as the service is set to, as TLS agrees on, as gRPC needs it; and what is said when two do not fit.

use super::*;
use crate::health_tls::authority::{Authority, Signed};
use crate::health_tls::server::{Manners as TlsManners, TlsServer};
use crate::support::{Instance, Process, free_port};
use outrigger::net::tls::{certificates, private_key};
use rustls::crypto::ring;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;

const HERE: &str = "IP:127.0.0.1";

fn tls(signed: &Signed, alpn: &[&str]) -> Option<Arc<rustls::ServerConfig>> {
    let (chain, key) = (certificates(&signed.cert).unwrap(), private_key(&signed.key).unwrap());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Some(Arc::new(config))
}

fn trusting(authority: &Authority, http: &str) -> String {
    format!("http = \"{http}\"\nretry.attempts = 1\ntls.ca_cert = \"{}\"\n", authority.cert().display())
}

async fn detail(sidecar: &Sidecar) -> String {
    let answer = send(sidecar, "GET", "/").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    answer.json::<serde_json::Value>()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_tls_auto_is_http_2_for_grpc_and_http_1_for_all_others() {
    let (one, two) = (Instance::start("one").await, H2Server::start().await);
    let config = format!(
        "[service.one]\nfrom = \"static://{}\"\n[service.two]\nfrom = \"static://{}\"\n",
        one.addr(),
        two.addr
    );
    let sidecar = Sidecar::start(&config).await;
    let post = |kind| {
        Request::post("/grpc.Service/Call")
            .header("content-type", kind)
            .header("te", "trailers")
            .body(client::empty())
            .unwrap()
    };
    let ask = async |name, kind| client::request(sidecar.service(name), post(kind)).await.unwrap();
    assert_eq!(sidecar.get("one", "/").await.instance(), "one");
    assert_eq!(
        ask("two", "application/grpc+proto").await.trailers,
        [("grpc-status".to_owned(), "0".to_owned())]
    );
    // gRPC-Web is HTTP/1.1's, too.
    assert_eq!(ask("one", "application/grpc-web+proto").await.instance(), "one");
    assert_eq!(two.requests().len(), 1);
}

#[tokio::test]
async fn over_tls_both_sides_agree_on_what_is_spoken() {
    let ours = Authority::new("ours");
    let signed = ours.sign("web", HERE);
    let two = H2Server::with(Manners { tls: tls(&signed, &["h2", "http/1.1"]), ..Manners::default() }).await;
    let one = TlsServer::with(&signed, TlsManners { alpn: Some("http/1.1"), ..TlsManners::default() }).await;
    let silent = TlsServer::start(&signed).await;
    for http in ["auto", "2"] {
        let before = two.accepted();
        let sidecar = sidecar(&[two.addr], &trusting(&ours, http)).await;
        for _ in 0..3 {
            assert_eq!(send(&sidecar, "GET", "/").await.text(), "fine");
        }
        assert_eq!(two.accepted() - before, 1, "{http}");
        assert_eq!(two.requests()[0].uri.split(':').next(), Some("https"));
    }
    for server in [&one, &silent] {
        for http in ["auto", "1"] {
            let before = (server.accepted(), server.requests().len());
            let sidecar = sidecar(&[server.addr], &trusting(&ours, http)).await;
            for _ in 0..3 {
                assert_eq!(send(&sidecar, "GET", "/").await.text(), "fine");
            }
            let now = (server.accepted(), server.requests().len());
            assert_eq!((now.0 - before.0, now.1 - before.1), (1, 3), "{http}");
        }
    }
    let refused = detail(&sidecar(&[one.addr], &trusting(&ours, "2")).await).await;
    assert!(refused.contains("refused by the server (NoApplicationProtocol)"), "{refused}");
    let ignored = detail(&sidecar(&[silent.addr], &trusting(&ours, "2")).await).await;
    assert!(ignored.contains("does not agree on HTTP/2 over TLS (ALPN)"), "{ignored}");
}

#[tokio::test]
async fn what_does_not_fit_together_is_told_in_a_sentence() {
    let ours = Authority::new("ours");
    let signed = ours.sign("web", HERE);
    let secure = H2Server::with(Manners { tls: tls(&signed, &["h2"]), ..Manners::default() }).await;
    let plain = Instance::start("plain").await;
    for (addr, rules, expected) in [
        (
            secure.addr,
            "http = \"1\"\n",
            "the instance speaks TLS, and the service is not set to: give tls = true",
        ),
        (
            secure.addr,
            "http = \"2\"\n",
            "the instance speaks TLS, and the service is not set to: give tls = true",
        ),
        (plain.addr(), "http = \"2\"\n", "the instance speaks HTTP/1.1 and not HTTP/2"),
        (plain.addr(), &trusting(&ours, "auto"), "the instance speaks no TLS, and the service is set to tls"),
    ] {
        let told = detail(&sidecar(&[addr], rules).await).await;
        // An instance that hangs up with bytes unread resets the connection, and what it said may be lost.
        let lost = rules.contains('2') && told.contains("no HTTP/2 there: ");
        assert!(lost || told.ends_with(expected), "{told}");
    }
}

const ASK: &str = "GET /tunnel HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn a_websocket_is_an_extended_connect_where_the_instance_takes_it() {
    let server = H2Server::with(Manners { websockets: true, ..Manners::default() }).await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut client = open(&sidecar).await;
    client.send(ASK).await.unwrap();
    let head = client.head().await.unwrap();
    assert_eq!((head.status(), head.field("upgrade")), (Some(101), Some("websocket")));
    assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for bytes in [&b"\x81\x05hello"[..], &[7; 100_000]] {
        client.send(bytes).await.unwrap();
        let mut back = Vec::new();
        while back.len() < bytes.len() {
            back.extend(client.some().await.unwrap());
        }
        assert!(back == bytes);
    }
    let seen = &server.requests()[0];
    assert_eq!(
        (&seen.method[..], &seen.headers["sec-websocket-version"]),
        ("CONNECT", &"13".parse().unwrap())
    );
    assert!(!seen.headers.contains_key("sec-websocket-key"));
    client.finish().await.unwrap();
    assert!(client.is_closed(LIMIT).await, "each direction ends by itself");
    until("the stream has ended", || server.running() == 0).await;
    // Others share the connection, and a tunnel that breaks off is reset. It has no body: a length would be none of it.
    let mut client = open(&sidecar).await;
    client.send(ASK.replace("Host: t", "Host: t\r\nContent-Length: 0")).await.unwrap();
    client.head().await.unwrap();
    assert_eq!((send(&sidecar, "GET", "/").await.text(), server.accepted()), ("fine".to_owned(), 1));
    let seen = server.requests();
    let asked = seen.iter().rfind(|seen| seen.method == "CONNECT").unwrap();
    assert!(!asked.headers.contains_key("content-length"), "{:?}", asked.headers);
    client.reset();
    until("the stream has ended", || server.running() == 0).await;
}

#[tokio::test]
async fn a_websocket_at_an_instance_that_takes_none_over_http_2_says_so() {
    let server = H2Server::start().await;
    let sidecar = sidecar(&[server.addr], "").await;
    let mut client = open(&sidecar).await;
    client.send(ASK).await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!(answer.status, 502);
    assert!(
        answer.text().contains("the instance takes no WebSockets over HTTP/2 (RFC 8441)"),
        "{}",
        answer.text()
    );
}

/// Starts a real server in a folder and waits until it accepts.
async fn real(command: &mut std::process::Command, folder: &Path, port: u16) -> Process {
    let mut process = Process::start(command, &folder.join("log"));
    eventually("the server accepts", LIMIT, async || {
        assert!(process.is_running(), "{}", process.output());
        TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    process
}

#[tokio::test]
async fn node_over_tls_speaks_both_and_a_websocket_falls_back_to_http_1() {
    const SCRIPT: &str = r#"
const { createSecureServer } = require('http2'), fs = require('fs');
const [port, cert, key] = process.argv.slice(2);
const server = createSecureServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key), allowHTTP1: true });
server.on('request', (request, response) => {
  const parts = [];
  request.on('data', part => parts.push(part));
  request.on('end', () => {
    response.setHeader('x-version', request.httpVersion);
    response.setHeader('x-length', String(Buffer.concat(parts).length));
    response.end(request.method + ' ' + request.url);
  });
});
server.on('upgrade', (request, socket) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  socket.pipe(socket);
});
server.listen(Number(port), '127.0.0.1');
"#;
    let ours = Authority::new("ours");
    let signed = ours.sign("web", HERE);
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    std::fs::write(folder.path().join("server.js"), SCRIPT).unwrap();
    let mut command = std::process::Command::new("node");
    command.arg("server.js").arg(port.to_string()).arg(&signed.cert).arg(&signed.key).current_dir(&folder);
    let _node = real(&mut command, folder.path(), port).await;
    let addr: SocketAddr = ([127, 0, 0, 1], port).into();
    for (http, version) in [("auto", "2.0"), ("2", "2.0"), ("1", "1.1")] {
        let sidecar = sidecar(&[addr], &trusting(&ours, http)).await;
        let request = Request::post("/a?b").body(client::full(vec![7; 300_000])).unwrap();
        let answer = client::request(sidecar.service("web"), request).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, "POST /a?b".to_owned()));
        assert_eq!((answer.header("x-version"), answer.header("x-length")), (Some(version), Some("300000")));
        if http == "auto" {
            let mut client = open(&sidecar).await;
            client.send(ASK).await.unwrap();
            assert_eq!(client.head().await.unwrap().status(), Some(101));
            client.send("ping").await.unwrap();
            client.reads(b"ping").await;
        }
    }
}

#[tokio::test]
async fn nginx_over_tls_and_its_goaway_after_each_few_requests() {
    let ours = Authority::new("ours");
    let signed = ours.sign("web", HERE);
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let config = format!(
        "daemon off;\nmaster_process off;\nerror_log stderr;\npid nginx.pid;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path body;\nproxy_temp_path p;\nfastcgi_temp_path f;\nuwsgi_temp_path u;\nscgi_temp_path s;\n\
         keepalive_requests 5;\nserver {{\nlisten 127.0.0.1:{port} ssl http2;\n\
         ssl_certificate {};\nssl_certificate_key {};\n\
         location / {{ add_header x-protocol $server_protocol; return 200 fine; }}\n}}\n}}\n",
        signed.cert.display(),
        signed.key.display()
    );
    std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let mut command = std::process::Command::new("nginx");
    command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
    let _nginx = real(&mut command, folder.path(), port).await;
    let sidecar = sidecar(&[([127, 0, 0, 1], port).into()], &trusting(&ours, "auto")).await;
    let mut client = sidecar.client("web");
    for n in 0..40 {
        let request = Request::post("/").body(client::full("body")).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("x-protocol")),
            (200, Some("HTTP/2.0")),
            "{n}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn checks_speak_what_the_service_speaks() {
    let authority = Authority::new("ours");
    let signed = authority.sign("web", HERE);
    let two = H2Server::start().await;
    let (secure, both) =
        (Manners { tls: tls(&signed, &["h2"]), ..Manners::default() }, Instance::start("one").await);
    let secure = H2Server::with(secure).await;
    let trust = format!("tls.ca_cert = \"{}\"\n", authority.cert().display());
    let service = |name: &str, addr: SocketAddr, more: &str| {
        format!(
            "[service.{name}]\nfrom = \"static://{addr}\"\nhealth = {{ http = \"/health?x\", interval = \"2s\" }}\n{more}"
        )
    };
    let config = [
        service("two", two.addr, "http = \"2\"\n"),
        service("secure", secure.addr, &trust),
        service("one", both.addr(), ""),
        service("wrong", both.addr(), "http = \"2\"\n"),
        format!(
            "[service.text]\nfrom = \"static://{}\"\nhttp = \"2\"\nhealth = {{ http = \"/\", body = \"ine\" }}\n",
            two.addr
        ),
        format!(
            "[service.none]\nfrom = \"static://{}\"\nhttp = \"2\"\nhealth = {{ http = \"/\", body = \"wine\" }}\n",
            two.addr
        ),
    ];
    let sidecar = Sidecar::launch(&config.concat()).await;
    for (name, state) in [
        ("two", "usable"),
        ("secure", "usable"),
        ("one", "usable"),
        ("wrong", "unhealthy"),
        ("text", "usable"),
        ("none", "unhealthy"),
    ] {
        eventually(name, LIMIT, async || (sidecar.states(name).await[0].1 == state).then_some(())).await;
    }
    let seen = &two.requests().into_iter().find(|seen| seen.uri.contains("health")).unwrap();
    assert_eq!((&seen.method[..], &seen.uri[..]), ("GET", &*format!("http://{}/health?x", two.addr)));
    assert!(!seen.headers.contains_key("host"), "{:?}", seen.headers);
    assert!(seen.headers["user-agent"].to_str().unwrap().contains("health check"));
    assert_eq!(secure.requests()[0].uri, format!("https://{}/health?x", secure.addr));
    // One connection for all checks of an instance.
    until("the second check", || secure.requests().len() > 1).await;
    assert_eq!(secure.accepted(), 1);
}

#[tokio::test]
async fn checks_ask_for_the_name_that_the_source_tells_last() {
    let authority = Authority::new("ours");
    let server = Manners { tls: tls(&authority.sign("web", "DNS:new.test"), &["h2"]), ..Manners::default() };
    let server = H2Server::with(server).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.toml");
    let list = |name: &str| {
        let meta = format!("meta = {{ tls_server_name = \"{name}\" }}");
        std::fs::write(&file, format!("endpoints = [{{ addr = \"{}\", {meta} }}]", server.addr)).unwrap();
    };
    list("old.test");
    let config = format!(
        "[service.web]\nfrom = \"file:web.toml\"\nhealth = {{ http = \"/\", unhealthy_interval = \"200ms\", rise = 1 }}\n\
         tls.ca_cert = \"{}\"\n",
        authority.cert().display()
    );
    let sidecar = Sidecar::launch_in(folder, &config, |_| {}).await;
    let is = async |state: &str| (sidecar.states("web").await.first()?.1 == state).then_some(());
    eventually("it is not who it is to be", LIMIT, async || is("unhealthy").await).await;
    list("new.test");
    eventually("it is", LIMIT, async || is("usable").await).await;
}
