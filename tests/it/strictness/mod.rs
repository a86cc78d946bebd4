//! Messages that are malformed, or that two readers may take for two things: refused, or passed on in one form.
//!
//! Each table has a row per message: its name, where the RFC speaks of it, its bytes, and what must happen. Everything
//! goes over real sockets, through a real sidecar, to an instance that keeps what it gets byte for byte.

mod chunks;
mod framing;
mod lines;
mod peers;
mod recorder;
mod responses;
mod targets;

use crate::support::{Sidecar, facing};
use recorder::Recorder;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Sent behind every request that is to be refused.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than is wanted comes within this time.
const MOMENT: Duration = Duration::from_millis(30);

/// One request.
struct Row {
    name: &'static str,
    /// The section, of RFC 9112 where no other is named.
    section: &'static str,
    bytes: Vec<u8>,
    must: Must,
}

enum Must {
    /// Answered with this status; the connection ends, and not one byte of it or of what follows reaches the instance.
    Refuse(u16),
    /// Refused after its head has gone on: 400, the connection ends, and the instance never has a whole request.
    BreakOff,
    /// The instance gets exactly this, but for the fields that every request is given.
    Forward(Vec<u8>),
}

fn refuse(name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>) -> Row {
    refuse_with(400, name, section, bytes)
}

fn refuse_with(status: u16, name: &'static str, section: &'static str, bytes: impl AsRef<[u8]>) -> Row {
    Row { name, section, bytes: bytes.as_ref().to_vec(), must: Must::Refuse(status) }
}

fn forward(
    name: &'static str,
    section: &'static str,
    bytes: impl AsRef<[u8]>,
    expected: impl AsRef<[u8]>,
) -> Row {
    Row { name, section, bytes: bytes.as_ref().to_vec(), must: Must::Forward(expected.as_ref().to_vec()) }
}

/// Sends every row on a connection of its own, and fails the test with all that went wrong.
async fn hold(rows: Vec<Row>) {
    let recorder = Recorder::start().await;
    let sidecar = facing(recorder.addr(), "").await;
    let mut wrong = Vec::new();
    for row in &rows {
        if let Err(why) = hold_one(&sidecar, &recorder, row).await {
            wrong.push(format!(
                "{} ({}): {why}\n    sent {:?}",
                row.name,
                row.section,
                String::from_utf8_lossy(&row.bytes).chars().take(200).collect::<String>()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

async fn hold_one(sidecar: &Sidecar, recorder: &Recorder, row: &Row) -> Result<(), String> {
    let before = recorder.connections();
    let mut client = TcpStream::connect(sidecar.service("web")).await.unwrap();
    let (bytes, answers) = match &row.must {
        Must::Forward(expected) => (row.bytes.clone(), count(expected, b" HTTP/1.1\r\n")),
        _ => ([&row.bytes, SMUGGLED].concat(), usize::MAX),
    };
    // Who is refused early may not get rid of all of it.
    let _ = client.write_all(&bytes).await;
    let mut answer = Vec::new();
    let mut patience = PATIENCE;
    // To the end; or a moment longer than it takes to get what is wanted.
    let ended = loop {
        match timeout(patience, client.read_buf(&mut answer)).await {
            Ok(Ok(1..)) if count(&answer, b"\r\n\r\n") < answers => {}
            Ok(Ok(1..)) => patience = MOMENT,
            Ok(_) => break true,
            Err(_) => break false,
        }
    };
    let shown = String::from_utf8_lossy(&answer).into_owned();
    if !ended && patience == PATIENCE {
        return Err(format!("the connection stays open after {shown:?}"));
    }
    let got = recorder.since(before);
    let text = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
    let refused = |status: u16| {
        let heads = shown.matches("x-outrigger-error: bad_request").count();
        let closes = shown.contains("\r\nconnection: close\r\n");
        if status_of(&shown) == Some(status) && heads == 1 && closes {
            Ok(())
        } else {
            Err(format!("not refused with {status}, once and for all: {shown:?}"))
        }
    };
    match &row.must {
        Must::Refuse(status) => {
            refused(*status)?;
            if got.is_empty() { Ok(()) } else { Err(format!("the instance got {}", text(&got.concat()))) }
        }
        Must::BreakOff => {
            refused(400)?;
            if got.iter().any(|bytes| recorder::is_whole(bytes)) {
                return Err(format!("the instance got a whole request: {}", text(&got.concat())));
            }
            Ok(())
        }
        Must::Forward(expected) => {
            let got = recorder::without_ours(&got.concat());
            if got != *expected {
                return Err(format!("the instance got {}\n    instead of {}", text(&got), text(expected)));
            }
            if status_of(&shown) == Some(200) { Ok(()) } else { Err(format!("answered {shown:?}")) }
        }
    }
}

/// To a request in HTTP/1.0 the answer is in HTTP/1.0 too.
fn status_of(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|window| *window == part).count()
}

/// A GET with these fields after Host.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n")
}

/// A POST with these fields after Host, and this body.
fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: t\r\n{fields}\r\n{body}")
}
