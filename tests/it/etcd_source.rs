//! The etcd source against real etcd: formats, speed, size, and who may read.

use crate::support::etcd::{
    Certificates, Cluster, PREFIX, delete, key, put, put_leased, query, request, value,
};
use crate::support::{Following, Relay, eventually, follow};
use outrigger::discovery::etcd::Etcd;
use outrigger::discovery::{Discover, EtcdQuery, Trust};
use outrigger::registry::etcd::{EtcdClient, EtcdError, EtcdSettings};
use outrigger::registry::{Credential, TlsFiles};
use outrigger::telemetry::Secret;
use std::time::Duration;
use tokio::time::Instant;

fn watching(settings: EtcdSettings, query: EtcdQuery) -> Following {
    follow(Etcd::new(settings, query))
}

crate::support::etcd::on_both! {
    all_value_styles_are_read_and_neither_garbage_nor_a_neighbour
    a_change_is_seen_within_moments
    a_wrong_password_and_a_missing_permission_are_refusals
    an_expired_token_is_renewed
}

/// What the tests that run against both versions do.
mod scenario {
    use super::*;

    pub async fn all_value_styles_are_read_and_neither_garbage_nor_a_neighbour(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let mut etcd = cluster.client();
        for (key, value) in [
            ("bare", "127.0.0.1:1001"),
            ("v6", "[::1]:1002"),
            ("naming", r#"{"Op":0,"Addr":"127.0.0.1:1003","Metadata":{"weight":3}}"#),
            ("object", r#"{"host":"localhost","port":1004,"weight":4,"zone":"z","meta":{"v":"1"}}"#),
            ("url", "http://127.0.0.1:1005"),
            (
                "micro",
                r#"{"name":"web","nodes":[{"id":"a","address":"127.0.0.1:1006"},{"id":"b","address":"127.0.0.1:1007"}]}"#,
            ),
            (
                "kratos",
                r#"{"id":"k","endpoints":["grpc://127.0.0.1:9?isSecure=false","http://127.0.0.1:1008?isSecure=false"]}"#,
            ),
            ("garbage/text", "hello"),
            ("garbage/json", "{\"Addr\":"),
            ("garbage/port", "127.0.0.1:70000"),
            ("garbage/name", "web-1.internal:80"),
            ("garbage/empty", ""),
        ] {
            put(&mut etcd, &format!("{PREFIX}{key}"), value).await;
        }
        put(&mut etcd, "svc/web2/other", "127.0.0.1:2001").await;
        put(&mut etcd, "svc/web", "127.0.0.1:2002").await;
        put(&mut etcd, &format!("{PREFIX}garbage/bytes"), [0xff, 0, 0xfe]).await;

        let following = watching(cluster.settings(), query());
        following.sees(1001..=1008, Duration::from_secs(10)).await;
        let answer = following.last().unwrap();
        assert_eq!(answer.trust, Trust::Trusted);
        let weights: Vec<_> = answer.set.iter().map(|e| (e.addr.port(), e.weight.get())).collect();
        assert!(weights.contains(&(1003, 3)) && weights.contains(&(1004, 4)), "{weights:?}");
        let node = answer.set.iter().find(|e| e.addr.port() == 1007).unwrap();
        assert_eq!(node.instance.as_str(), "svc/web/micro#b");
        let skipped: Vec<_> = answer.skipped.iter().map(|s| s.entry.trim_start_matches(PREFIX)).collect();
        assert_eq!(
            skipped,
            [
                "garbage/bytes",
                "garbage/empty",
                "garbage/json",
                "garbage/name",
                "garbage/port",
                "garbage/text"
            ]
        );
        // The neighbours stay out when they change, too; what was garbage comes in when it is mended.
        put(&mut etcd, "svc/web2/another", "127.0.0.1:2003").await;
        put(&mut etcd, &format!("{PREFIX}garbage/text"), "127.0.0.1:1009").await;
        following.sees(1001..=1009, Duration::from_secs(5)).await;
        assert_eq!(following.last().unwrap().skipped.len(), 5);
        assert_eq!(following.errors(), Vec::<String>::new());
    }

    pub async fn a_change_is_seen_within_moments(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let mut etcd = cluster.client();
        put(&mut etcd, &key(1), value(1)).await;
        let following = watching(cluster.settings(), query());
        let limit = Duration::from_secs(5);
        following.sees([1], limit).await;
        let mut times = Vec::new();
        for _ in 0..15 {
            put(&mut etcd, &key(2), value(2)).await;
            times.push(following.sees([1, 2], limit).await);
            put(&mut etcd, &key(2), value(3)).await;
            times.push(following.sees([1, 3], limit).await);
            delete(&mut etcd, &key(2)).await;
            times.push(following.sees([1], limit).await);
        }
        let lease = etcd.lease_grant(Duration::from_secs(60)).await.unwrap().id;
        for port in 10..60 {
            put_leased(&mut etcd, &key(port), value(port), lease).await;
        }
        following.sees((10..60).chain([1]), limit).await;
        etcd.lease_revoke(lease).await.unwrap();
        times.push(following.sees([1], limit).await);
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        assert!(median < Duration::from_millis(200), "median {median:?}, worst {worst:?}");
        following.trusted_all_along();
        assert_eq!(following.errors(), Vec::<String>::new());
    }

    pub async fn a_wrong_password_and_a_missing_permission_are_refusals(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        put(&mut cluster.client(), &key(1), value(1)).await;
        cluster.enable_auth(PREFIX);
        let settings = |name: &str, password: Credential| EtcdSettings {
            user: Some((name.to_owned(), password)),
            ..cluster.settings()
        };
        let limit = Duration::from_secs(10);

        let nobody = watching(cluster.settings(), query());
        nobody.fails("no user is configured", limit).await;
        let text = |text: &str| Credential::Text(Secret::new(text));
        let reader = watching(settings("reader", text("secret")), query());
        reader.sees([1], limit).await;
        let stranger = watching(settings("reader", text("secret")), EtcdQuery::new("svc/other"));
        stranger.fails("permission denied: the user may not read svc/other/", limit).await;

        // A wrong password is not tried again, until the file holds another one.
        let file = cluster.folder().join("password");
        std::fs::write(&file, "wrong\n").unwrap();
        let wrong = watching(settings("reader", Credential::File(file.clone())), query());
        wrong.fails("authentication failed", limit).await;
        eventually("a second refusal", limit, async || (wrong.errors().len() >= 2).then_some(())).await;
        assert_eq!(cluster.authentications().await, 3, "one of each who gave a password");
        for following in [&nobody, &stranger, &wrong] {
            for error in following.errors() {
                assert!(error.starts_with("Refused") && !error.contains("wrong"), "{error}");
            }
            assert!(following.last().is_none());
        }
        std::fs::write(&file, "secret\n").unwrap();
        wrong.sees([1], limit).await;
    }

    pub async fn an_expired_token_is_renewed(binary: &'static str) {
        let cluster = Cluster::start_with(binary, 1, &["--auth-token-ttl=2"]).await;
        put(&mut cluster.client(), &key(1), value(1)).await;
        cluster.enable_auth(PREFIX);
        let user =
            |name: &str, password: &str| Some((name.to_owned(), Credential::Text(Secret::new(password))));
        let relay = Relay::to(cluster.addr(0)).await;
        let settings = EtcdSettings { user: user("reader", "secret"), ..cluster.settings_by(&relay) };
        let following = watching(settings, query());
        following.sees([1], Duration::from_secs(10)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(following.errors(), Vec::<String>::new(), "the watch outlives its token");
        relay.cut();
        following.fails("Failed", Duration::from_secs(5)).await;
        let root = EtcdSettings { user: user("root", "root"), ..cluster.settings() };
        let mut root = EtcdClient::new(root);
        put(&mut root, &key(2), value(2)).await;
        relay.mend();
        following.sees([1, 2], Duration::from_secs(5)).await;
        following.never_said_less_than(1);
        assert!(following.errors().iter().all(|e| !e.contains("auth")), "{:?}", following.errors());
        // One of root, and two of the source: at its start, and for the watch that was opened anew.
        assert_eq!(cluster.authentications().await, 3);
    }
}

#[tokio::test]
async fn nothing_is_lost_between_the_list_and_the_watch() {
    let cluster = Cluster::start("etcd35", 1).await;
    let writers = (0..4_u16).map(|writer| {
        let mut etcd = cluster.client();
        async move {
            for n in 0..150 {
                let port = 1 + writer * 150 + n;
                put(&mut etcd, &key(port), value(port)).await;
                // Every other one moves: the old address must not stay.
                if port % 2 == 0 {
                    put(&mut etcd, &key(port), value(10_000 + port)).await;
                }
            }
        }
    });
    let followers = async {
        let mut all = Vec::new();
        for _ in 0..8 {
            all.push(watching(cluster.settings(), query()));
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        all
    };
    let (followers, _) = tokio::join!(followers, futures_util::future::join_all(writers));
    for following in followers {
        let all = (1..=600).map(|port| if port % 2 == 0 { 10_000 + port } else { port });
        following.sees(all, Duration::from_secs(10)).await;
        following.trusted_all_along();
    }
}

#[tokio::test]
async fn thousands_of_keys_come_in_pages_and_go_in_one_step() {
    const KEYS: u16 = 5_500;
    // The smallest limit lets the server split the watch's message about the revoked lease.
    let cluster = Cluster::start_with("etcd35", 1, &["--max-request-bytes=65536"]).await;
    let lease = cluster.client().lease_grant(Duration::from_secs(600)).await.unwrap().id;
    let writers = (0..50_u16).map(|writer| {
        let mut etcd = cluster.client();
        async move {
            for n in 0..KEYS / 50 {
                let port = 1 + writer * (KEYS / 50) + n;
                let long = format!("{PREFIX}{}/{port}", "x".repeat(200));
                put_leased(&mut etcd, &long, value(port), lease).await;
            }
        }
    });
    futures_util::future::join_all(writers).await;
    put(&mut cluster.client(), &key(60_000), value(60_000)).await;
    let following = watching(cluster.settings(), query());
    following.sees((1..=KEYS).chain([60_000]), Duration::from_secs(20)).await;
    cluster.client().lease_revoke(lease).await.unwrap();
    following.sees([60_000], Duration::from_secs(20)).await;
    let sizes: Vec<_> = following.answers().iter().map(|answer| answer.set.len()).collect();
    assert_eq!(sizes, [usize::from(KEYS) + 1, 1], "no answer in between");
    following.trusted_all_along();
    assert_eq!(following.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn a_lease_is_kept_alive_until_it_is_lost() {
    let cluster = Cluster::start("etcd", 1).await;
    let mut etcd = cluster.client();
    let lease = etcd.lease_grant(Duration::from_secs(5)).await.unwrap();
    assert_eq!(lease.ttl, 5);
    put_leased(&mut etcd, &key(1), value(1), lease.id).await;
    assert_eq!(etcd.lease_keep_alive(lease.id).await, Ok(Duration::from_secs(5)));
    etcd.lease_revoke(lease.id).await.unwrap();
    let lost = etcd.lease_keep_alive(lease.id).await;
    assert!(matches!(lost, Err(EtcdError::LeaseLost(_))), "{lost:?}");
    let mut dead = request(&key(1), &value(1));
    dead.lease = lease.id;
    let lost = etcd.put(dead).await;
    assert!(matches!(lost, Err(EtcdError::LeaseLost(_))), "{lost:?}");
    let lost = etcd.lease_revoke(lease.id).await;
    assert!(matches!(lost, Err(EtcdError::LeaseLost(_))), "{lost:?}");
}

#[tokio::test]
async fn a_dropped_question_loses_nothing() {
    let cluster = Cluster::start("etcd35", 1).await;
    let mut etcd = cluster.client();
    let mut source = Etcd::new(cluster.settings(), query());
    let writing = async {
        for port in 1..=200 {
            put(&mut etcd, &key(port), value(port)).await;
        }
    };
    let asking = async {
        let started = Instant::now();
        let mut patience = 0;
        loop {
            patience = (patience + 7) % 31;
            let question = tokio::time::timeout(Duration::from_millis(patience), source.next());
            if let Ok(answer) = question.await
                && answer.unwrap().set.len() == 200
            {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "not all were seen");
        }
    };
    tokio::join!(writing, asking);
}

#[tokio::test]
async fn certificates_are_wanted_and_shown() {
    let certificates = Certificates::new();
    let cluster = Cluster::start_tls("etcd", &certificates);
    let tls = |ca: &str, client: Option<&str>| TlsFiles {
        ca: Some(certificates.cert(ca)),
        cert: client.map(|name| certificates.cert(name)),
        key: client.map(|name| certificates.key(name)),
    };
    let with = |tls: TlsFiles| EtcdSettings { tls, ..cluster.settings() };
    let limit = Duration::from_secs(20);
    let mut etcd = EtcdClient::new(with(tls("ca", Some("client"))));
    eventually_put(&mut etcd).await;

    let good = watching(with(tls("ca", Some("client"))), query());
    good.sees([1], limit).await;
    let wrong = watching(with(tls("stranger", Some("client"))), query());
    wrong.fails("UnknownIssuer", limit).await;
    let shy = watching(with(tls("ca", None)), query());
    shy.fails("no client certificate is configured", limit).await;
    let missing = TlsFiles { ca: Some("/nowhere/ca.pem".into()), ..TlsFiles::default() };
    let missing = watching(with(missing), query());
    missing.fails("cannot read /nowhere/ca.pem", limit).await;
    let half = TlsFiles { key: None, ..tls("ca", Some("client")) };
    let half = watching(with(half), query());
    half.fails("needs its key", limit).await;
    let plain = format!("http://{}", cluster.addr(0)).parse().unwrap();
    let plain = watching(EtcdSettings::new(vec![plain]), query());
    plain.fails("Failed", limit).await;
    for following in [&wrong, &shy, &missing, &half, &plain] {
        assert!(following.last().is_none());
    }
}

async fn eventually_put(etcd: &mut EtcdClient) {
    let started = Instant::now();
    while let Err(error) = etcd.put(request(&key(1), &value(1))).await {
        assert!(started.elapsed() < Duration::from_secs(30), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
