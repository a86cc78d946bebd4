//! How often a registry was asked by somebody else than its test, as its servers have counted it themselves.

use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// In the URL of each request that a test sends to Consul itself.
pub const MARK: &str = "by=test";
/// Calls to etcd that tests do not make while they observe. Tests read a lot: reads are not counted.
const OWN_CALLS: [&str; 4] = ["\"LeaseGrant\"", "\"LeaseKeepAlive\"", "\"LeaseRevoke\"", "\"Txn\""];
/// A member that is stopped answers nothing.
const PATIENCE: Duration = Duration::from_millis(200);

/// Who counts.
#[derive(Clone, Debug)]
pub enum Servers {
    /// The log of an agent.
    Consul(PathBuf),
    Etcd(Vec<SocketAddr>),
}

/// The count so far, since it was begun.
#[derive(Debug)]
pub(super) struct Asked {
    servers: Servers,
    /// How much of the log was read.
    read: u64,
    /// What each member said last; it begins anew with each start of a member.
    last: Vec<Option<u64>>,
    sum: u64,
}

impl Asked {
    pub(super) fn new(servers: Servers) -> Self {
        let (read, last) = match &servers {
            Servers::Consul(log) => (log.metadata().map_or(0, |log| log.len()), Vec::new()),
            Servers::Etcd(members) => (0, vec![None; members.len()]),
        };
        Self { servers, read, last, sum: 0 }
    }

    pub(super) async fn count(&mut self) -> u64 {
        match &self.servers {
            Servers::Consul(log) => {
                let mut text = Vec::new();
                let file = std::fs::File::open(log);
                let _ = file.and_then(|mut file| {
                    file.seek(SeekFrom::Start(self.read))?;
                    file.read_to_end(&mut text)
                });
                // The last line may be half of one.
                let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
                self.read += whole as u64;
                self.sum += requests(&String::from_utf8_lossy(&text[..whole]));
            }
            Servers::Etcd(members) => {
                for (member, last) in members.iter().zip(&mut self.last) {
                    let Ok(Some(now)) = tokio::time::timeout(PATIENCE, calls(*member)).await else {
                        continue;
                    };
                    self.sum += match last.replace(now) {
                        None => 0,
                        Some(last) if now < last => now,
                        Some(last) => now - last,
                    };
                }
            }
        }
        self.sum
    }
}

/// Lines of requests that no test has sent.
fn requests(log: &str) -> u64 {
    log.lines().filter(|line| line.contains("Request finished") && !line.contains(MARK)).count() as u64
}

async fn calls(member: SocketAddr) -> Option<u64> {
    let mut stream = TcpStream::connect(member).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let own = |line: &&str| {
        line.starts_with("grpc_server_started_total") && OWN_CALLS.iter().any(|call| line.contains(call))
    };
    Some(text.lines().filter(own).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

#[tokio::test]
async fn what_a_test_asks_is_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let line = |url: &str| format!("agent.http: Request finished: method=GET url={url} from=127.0.0.1:1\n");
    std::fs::write(&log, line("/v1/before")).unwrap();
    let mut asked = Asked::new(Servers::Consul(log.clone()));
    let mut text = line("/v1/before") + &line("/v1/one") + &line("/v1/two?by=test") + "agent: started\n";
    text += line("/v1/half").trim_end();
    std::fs::write(&log, &text).unwrap();
    assert_eq!(asked.count().await, 1);
    std::fs::write(&log, text + "\n").unwrap();
    assert_eq!(asked.count().await, 2);
}
