//! Registries that are known by name.

use crate::support::dns::{Nsd, asking};
use crate::support::{Registry, Sidecar, registry};
use outrigger::registry::Names;
use outrigger::registry::dns::{DnsName, DnsSettings};
use std::net::IpAddr;
use tokio::net::UdpSocket;

/// By the name `localhost`, which has two addresses; the registry listens at one.
async fn is_reached(registry: Registry) {
    let instances = registry::three().await;
    registry.register_all("web", &instances).await;
    let from = registry.source("web");
    assert!(from.contains("127.0.0.1"), "{from}");
    let from = from.replace("127.0.0.1", "localhost");
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{from}\"")).await;
    assert_eq!(sidecar.get("web", "/").await.status, 200);
}

#[tokio::test]
async fn a_consul_agent_is_reached_by_name() {
    is_reached(Registry::consul().await).await;
}

#[tokio::test]
async fn an_etcd_member_is_reached_by_name() {
    is_reached(Registry::etcd("etcd").await).await;
}

#[tokio::test]
async fn dns_is_asked_about_what_the_hosts_file_lacks() {
    let nsd =
        Nsd::start("both A 10.0.0.1\nboth AAAA ::1\nfour A 10.0.0.4\nalias CNAME four\ntext TXT \"x\"").await;
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "10.9.9.9 four.lab\n").unwrap();
    let search = Some(vec![DnsName::new("lab.").unwrap()]);
    let names = Names::new(hosts, DnsSettings { search, ..asking(&[nsd.addr()]) });
    for (host, expected) in [
        ("both.lab", &["10.0.0.1", "::1"][..]),
        ("both", &["10.0.0.1", "::1"]),
        ("alias.lab.", &["10.0.0.4"]),
        ("four.lab", &["10.9.9.9"]),
        ("four", &["10.0.0.4"]),
    ] {
        let found: Vec<_> = names.addresses(host).await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{host}");
    }
    for unknown in ["text.lab", "nobody.lab"] {
        let error = names.addresses(unknown).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{unknown}: ")) && error.contains("nor DNS"), "{error}");
    }
}

/// Some servers fail when they are asked for AAAA records (RFC 4074).
#[tokio::test]
async fn one_family_is_enough_to_connect() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    let serve = async {
        let mut packet = [0; 512];
        loop {
            let (_, client) = socket.recv_from(&mut packet).await.unwrap();
            // After the head of 12 bytes the name, which ends with an empty part, then type and class.
            let end = 12 + packet[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let (answers, code) = if packet[end - 3] == 28 { (0, 2) } else { (1, 0) };
            let mut answer = packet[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x85, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
            if answers == 1 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 0, 0, 4]);
            }
            socket.send_to(&answer, client).await.unwrap();
        }
    };
    let names = Names::new("/nonexistent/hosts".into(), asking(&[server]));
    let found = tokio::select! {
        found = names.addresses("half.lab") => found.unwrap(),
        () = serve => unreachable!(),
    };
    assert_eq!(found, ["10.0.0.4".parse::<IpAddr>().unwrap()]);
}
