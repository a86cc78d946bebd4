//! Answers that no real Consul can be made to give when a test wants them.

use crate::support::{Line, Scripted};
use outrigger::discovery::consul::Consul;
use outrigger::discovery::{ConsulQuery, Discover, DiscoverError, Trust};
use outrigger::registry::TlsFiles;
use outrigger::registry::consul::ConsulSettings;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const ONE: &str = r#"[{"Node": {"Node": "n1", "Address": "127.0.0.1"},
    "Service": {"ID": "web-1", "Service": "web", "Port": 81}, "Checks": []}]"#;

fn source(fake: &Scripted) -> Consul {
    let address = url::Url::parse(&format!("http://{}", fake.addr())).unwrap();
    let settings =
        ConsulSettings { addresses: vec![address], token: None, tls: TlsFiles::default(), namespace: None };
    Consul::new(settings, ConsulQuery::new("web"), SmallRng::seed_from_u64(7)).unwrap()
}

#[tokio::test]
async fn an_index_is_taken_from_good_answers_only() {
    let one = "X-Consul-Index: 1\r\n";
    let lines = vec![
        Line::good(40, ONE),
        Line::http(500, one, "No cluster leader"),
        Line::good(40, ONE),
        Line::http(403, one, "ACL not found"),
        Line::good(40, ONE),
        Line::good(41, ONE),
    ];
    let fake = Scripted::start(lines).await;
    let mut source = source(&fake);
    source.next().await.unwrap();
    let error = source.next().await.unwrap_err();
    assert!(matches!(&error, DiscoverError::Failed(text) if text.contains("No cluster leader")), "{error}");
    let after = source.next().await.unwrap();
    assert_eq!((after.set.len(), after.trust), (1, Trust::Doubtful("the first answer after an error")));
    assert!(matches!(source.next().await, Err(DiscoverError::Refused(_))));
    source.next().await.unwrap();
    assert_eq!(source.next().await.unwrap().trust, Trust::Trusted);
    assert_eq!(fake.asked(), [None, Some(40), None, Some(40), None, Some(40)]);
}

#[tokio::test]
async fn an_index_that_goes_back_begins_anew() {
    let missing = Line::http(200, "X-Consul-KnownLeader: true\r\n", ONE);
    let fake = Scripted::start(vec![
        Line::good(100, ONE),
        Line::good(50, "[]"),
        Line::good(50, ONE),
        Line::good(0, ONE),
        missing,
    ])
    .await;
    let mut source = source(&fake);
    source.next().await.unwrap();
    let lost = source.next().await.unwrap();
    assert_eq!((lost.set.len(), lost.trust), (0, Trust::Doubtful("the index went back")));
    for _ in 0..3 {
        source.next().await.unwrap();
    }
    assert_eq!(fake.asked(), [None, Some(100), None, Some(50), None]);
}

#[tokio::test]
async fn an_answer_that_is_not_whole_is_an_error() {
    let cut = {
        let mut cut = Line::good(41, ONE).bytes();
        cut.truncate(cut.len() - 20);
        Line::Says(cut)
    };
    let huge = {
        let mut huge = b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Consul-Index: 41\r\n\r\n[".to_vec();
        huge.resize(65 << 20, b' ');
        Line::Says(huge)
    };
    let announced = Line::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n[".to_vec());
    let cases = [
        (cut, "broke off"),
        (Line::good(41, "<html>hello</html>"), "no list of instances"),
        (Line::good(41, "{\"errors\": []}"), "no list of instances"),
        (huge, "larger than 64 MiB"),
        (announced, "larger than 64 MiB"),
        (Line::Says(b"HTTP/1.1 200 OK\r\n".to_vec()), "broke off"),
        (Line::http(301, "Location: http://127.0.0.1:1/elsewhere\r\n", ""), "redirects are not followed"),
        (Line::http(429, "", "Your IP is issuing too many concurrent connections"), "429"),
        (Line::http(500, "", &format!("<secret>\n{}", "x".repeat(100_000))), "500: <secret> xxx"),
    ];
    let lines = cases.iter().flat_map(|(line, _)| [line.clone(), Line::good(40, ONE)]).collect();
    let fake = Scripted::start(lines).await;
    let mut source = source(&fake);
    for (_, words) in &cases {
        let error = source.next().await.unwrap_err();
        assert!(matches!(&error, DiscoverError::Failed(text) if text.contains(words)), "{words}: {error}");
        assert!(error.to_string().len() < 400, "{error}");
        assert_eq!(source.next().await.unwrap().set.len(), 1, "{words}");
    }
    let asked = fake.asked();
    assert_eq!(asked.len(), 2 * cases.len(), "nothing is retried or followed");
    assert!(asked.iter().step_by(2).skip(1).all(|index| *index == Some(40)), "{asked:?}");
    assert!(asked.iter().skip(1).step_by(2).all(Option::is_none), "{asked:?}");
}

#[tokio::test]
async fn every_request_says_what_it_can_unpack() {
    let fake = Scripted::start(vec![Line::good(7, ONE)]).await;
    source(&fake).next().await.unwrap();
    let requests = fake.requests();
    let head = requests[0].1.to_ascii_lowercase();
    assert!(head.starts_with("get /v1/health/service/web http/1.1\r\n"), "{head}");
    assert!(head.contains("accept-encoding: gzip"), "{head}");
    assert!(!head.contains("x-consul-token"), "{head}");
}
