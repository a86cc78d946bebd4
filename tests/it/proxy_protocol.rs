//! The PROXY protocol, to instances and from clients, with HAProxy, nginx and curl on the other side.

use crate::support::client::{self, Connection};
use crate::support::{ByHand, Instance, Process, eventually, facing, free_port};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(5);
const ACCEPT: &str = "proxy_protocol.accept = true\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A client at another address of this machine.
async fn from(ip: &str, to: SocketAddr) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
    Connection::from(socket.connect(to).await.unwrap())
}

/// Another proxy; killed when dropped.
struct Other {
    _process: Process,
    _folder: TempDir,
}

async fn other(name: &str, config: &str, port: u16, arguments: impl Fn(&Path) -> Vec<String>) -> Other {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("conf");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(name);
    command.args(arguments(&file)).current_dir(folder.path());
    let mut process = Process::start(&mut command, &folder.path().join("log"));
    eventually(name, SOON, async || {
        assert!(process.is_running(), "{name} ended: {}", process.output());
        TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    Other { _process: process, _folder: folder }
}

async fn haproxy(config: &str, port: u16) -> Other {
    let defaults = "defaults\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n";
    other("haproxy", &format!("{defaults}{config}"), port, |file| {
        vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()]
    })
    .await
}

async fn nginx(server: &str, port: u16) -> Other {
    let config = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path t1;\nproxy_temp_path t2;\nfastcgi_temp_path t3;\n\
         uwsgi_temp_path t4;\nscgi_temp_path t5;\nserver {{ {server} }}\n}}\n"
    );
    other("nginx", &config, port, |file| {
        let folder = file.parent().unwrap().display().to_string();
        vec!["-p".to_owned(), folder, "-c".to_owned(), file.display().to_string()]
    })
    .await
}

#[tokio::test]
async fn haproxy_tells_us_who_the_client_is() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), ACCEPT).await;
    let (port, to) = (free_port(), sidecar.service("web"));
    for word in ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"] {
        let config =
            format!("listen a\n mode tcp\n bind 127.0.0.1:{port}\n server s {to} {word} check inter 200ms\n");
        let _haproxy = haproxy(&config, port).await;
        let mut client = from("127.0.0.77", SocketAddr::from(([127, 0, 0, 1], port))).await;
        client.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut instance = server.accept().await;
        let (head, _) = instance.request().await.unwrap();
        assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.77"), "{word}");
        instance.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), "ok");
    }
}

#[tokio::test]
async fn haproxy_is_told_who_the_client_is() {
    let port = free_port();
    let config = format!(
        "frontend f\n mode http\n bind 127.0.0.1:{port} accept-proxy\n \
         http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"\n"
    );
    let _haproxy = haproxy(&config, port).await;
    for version in ["v1", "v2"] {
        let more = format!("protocol = \"tcp\"\nproxy_protocol.send = \"{version}\"\n");
        let sidecar = facing(SocketAddr::from(([127, 0, 0, 1], port)), &more).await;
        let to = sidecar.service("web");
        let mut client = from("127.0.0.78", to).await;
        let answer = client.get("/").await.unwrap().text();
        let [source, source_port, dst, dst_port] = answer.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{answer}")
        };
        assert_eq!((source, dst), ("127.0.0.78", "127.0.0.1"), "{version}");
        assert!(source_port.parse::<u16>().is_ok());
        assert_eq!(dst_port, to.port().to_string());
        // The same over IPv6.
        let mut client = Connection::open(format!("[::1]:{}", to.port()).parse().unwrap()).await.unwrap();
        let answer = client.get("/").await.unwrap().text();
        assert!(answer.starts_with("::1 ") && answer.contains(" ::1 "), "{answer}");
    }
}

#[tokio::test]
async fn nginx_is_told_and_curl_tells() {
    let port = free_port();
    let server = format!(
        "listen 127.0.0.1:{port} proxy_protocol; set_real_ip_from 127.0.0.0/8; real_ip_header proxy_protocol; \
         location / {{ return 200 $remote_addr; }}"
    );
    let _nginx = nginx(&server, port).await;
    for version in ["v1", "v2"] {
        // Whoever we are told of is who the instance is told of.
        let more =
            format!("protocol = \"tcp\"\nproxy_protocol = {{ accept = true, send = \"{version}\" }}\n");
        let sidecar = facing(SocketAddr::from(([127, 0, 0, 1], port)), &more).await;
        let mut client = Connection::open(sidecar.service("web")).await.unwrap();
        client.send("PROXY TCP4 192.0.2.55 198.51.100.7 1234 80\r\n").await.unwrap();
        assert_eq!(client.get("/").await.unwrap().text(), "192.0.2.55", "{version}");
        let url = format!("http://{}/", sidecar.service("web"));
        let curl = tokio::task::spawn_blocking(move || {
            Command::new("curl").args(["-sS", "--max-time", "10", "--haproxy-protocol", &url]).output()
        });
        assert_eq!(String::from_utf8_lossy(&curl.await.unwrap().unwrap().stdout), "127.0.0.1");
    }
}

#[tokio::test]
async fn who_does_not_say_it_is_refused() {
    let instance = Instance::start("a").await;
    for protocol in ["http", "tcp"] {
        let more = format!("protocol = \"{protocol}\"\n{ACCEPT}[limits]\nhead_timeout = \"700ms\"\n");
        let sidecar = facing(instance.addr(), &more).await;
        let refused = async || sidecar.metric("outrigger_requests_total{service=\"web\",code=\"400\"}").await;
        let to = sidecar.service("web");
        let mut without = Connection::open(to).await.unwrap();
        without.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert!(without.is_closed(SOON).await);
        let mut malformed = Connection::open(to).await.unwrap();
        malformed.send("PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n").await.unwrap();
        assert!(malformed.is_closed(SOON).await);
        let mut endless = Connection::open(to).await.unwrap();
        endless.send([SIGNATURE, b"\x21\x11\xff\xff"].concat()).await.unwrap();
        assert!(endless.is_closed(SOON).await);
        let begun = Instant::now();
        let mut slow = Connection::open(to).await.unwrap();
        slow.send("PROXY TCP4 1.2.3.4").await.unwrap();
        assert!(slow.is_closed(SOON).await);
        assert!(begun.elapsed() > Duration::from_millis(600));
        eventually("all are counted", SOON, async || (refused().await == 4.0).then_some(())).await;
        // A proxy that checks us by itself, and one that cannot tell.
        for header in [[SIGNATURE, b"\x20\0\0\0"].concat(), b"PROXY UNKNOWN\r\n".to_vec()] {
            let mut client = Connection::open(to).await.unwrap();
            client.send(header).await.unwrap();
            assert_eq!(client.get("/").await.unwrap().status, 200);
        }
    }
}

#[tokio::test]
async fn the_requests_of_one_connection_are_all_of_its_client() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), ACCEPT).await;
    let mut client = Connection::open(sidecar.service("web")).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    client.send(format!("PROXY TCP6 2001:db8::9 ::1 1 2\r\n{request}")).await.unwrap();
    let mut instance = server.accept().await;
    for turn in 0..3 {
        if turn > 0 {
            // Long enough for the connection to rest in between.
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.send(request).await.unwrap();
        }
        let (head, _) = instance.request().await.unwrap();
        assert_eq!(head.field("x-forwarded-for"), Some("2001:db8::9"));
        instance.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    let plain = client::try_get(sidecar.admin(), "/livez").await;
    assert_eq!(plain.unwrap().status, 200, "the admin address is not asked for it");
}
