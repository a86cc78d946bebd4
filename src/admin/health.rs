//! `/readyz`: whether every service could be called now, and if not, why.

use super::answer::{Answer, text};
use super::desk::{Desk, Seen};
use super::state::reasons;
use crate::cluster::{Member, Presence};
use http::StatusCode;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// So many instances of a service are named.
const EXAMPLES: usize = 3;

pub(super) fn readiness(desk: &Desk) -> Answer {
    if desk.is_stopping() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    let obstacles: Vec<_> = desk.clusters(Instant::now()).filter_map(|seen| obstacle(&seen)).collect();
    if obstacles.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    text(StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n")
}

/// Why a service cannot be called; `None` if it can.
fn obstacle(seen: &Seen<'_>) -> Option<String> {
    let Seen { snapshot, sources, .. } = seen;
    let mut line = format!("{}: ", seen.name());
    // Writing into a String cannot fail.
    let _ = if !snapshot.discovered {
        let each = sources.iter().filter(|source| source.age.is_none()).map(|source| {
            let error = source.last_error.as_deref().unwrap_or("no answer yet");
            let failing = source.failing_for.map(|time| format!(", failing for {}", in_words(time)));
            format!("source {}: {error}{}", source.url, failing.unwrap_or_default())
        });
        write!(line, "no list of instances yet ({})", each.collect::<Vec<_>>().join("; "))
    } else if snapshot.usable() == 0 {
        let known: Vec<_> =
            snapshot.members.iter().filter(|member| member.presence != Presence::Draining).collect();
        let hints: String =
            sources.iter().filter_map(|source| Some(format!("; {}", source.hint.as_ref()?))).collect();
        write!(line, "{} known, 0 usable{}{hints}", known.len(), examples(&known))
    } else {
        return None;
    };
    Some(line)
}

/// What stands against the first few instances, in brackets; nothing if nobody is known.
fn examples(known: &[&Member]) -> String {
    if known.is_empty() {
        return String::new();
    }
    let each = known.iter().take(EXAMPLES).map(|member| {
        let reasons: Vec<_> =
            reasons(member).into_iter().map(|reason| reason.replace(char::is_control, " ")).collect();
        format!("{} {}", member.target.endpoint.addr, reasons.join(", "))
    });
    let more = if known.len() > EXAMPLES { "; …" } else { "" };
    format!(" ({}{more})", each.collect::<Vec<_>>().join("; "))
}

/// Whole seconds, as people say them.
fn in_words(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}
