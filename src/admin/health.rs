//! `/readyz`: whether every service could be called now, and if not, why.

use super::answer::{Answer, text};
use super::desk::{Desk, Seen};
use crate::cluster::Presence;
use http::StatusCode;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

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
    let Seen { snapshot, source, .. } = seen;
    let mut line = format!("{}: ", seen.name());
    // Writing into a String cannot fail.
    let _ = if !snapshot.discovered {
        let error = source.last_error.as_deref().unwrap_or("no answer yet");
        let failing = source.failing_for.map(|time| format!(", failing for {}", in_words(time)));
        write!(
            line,
            "no list of instances yet (source {}: {error}{})",
            source.url,
            failing.unwrap_or_default()
        )
    } else if snapshot.usable == 0 {
        let known = snapshot.members.iter().filter(|member| member.presence != Presence::Draining).count();
        write!(line, "{known} known, 0 usable")
    } else {
        return None;
    };
    Some(line)
}

/// Whole seconds, as people say them.
fn in_words(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}
