//! One row of the table of scenarios: printed, and appended to the file that `tests/run` makes the table of.

use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// Where the rows go, one JSON object a line.
const FILE: &str = "OUTRIGGER_SCENARIO_REPORT";

/// What a scenario came to.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    number: u8,
    title: String,
    registry: String,
    pub(super) passed: bool,
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Of all times that were measured the one nearest to its limit.
    converge_ms: Option<u64>,
    limit_ms: Option<u64>,
    pub(super) registry_requests: Option<u64>,
    pub(super) seconds: f64,
    notes: String,
}

impl Row {
    pub(super) fn new(number: u8, title: &str, registry: &str) -> Self {
        assert!(!title.contains(['"', '|']) && !registry.contains(['"', '|']), "the table needs those");
        Self {
            number,
            title: title.to_owned(),
            registry: registry.to_owned(),
            passed: false,
            requests: 0,
            failed: 0,
            converge_ms: None,
            limit_ms: None,
            registry_requests: None,
            seconds: 0.0,
            notes: String::new(),
        }
    }

    pub(super) fn converged(&mut self, took: Duration, limit: Duration) {
        let (took, limit) = (millis(took), millis(limit).max(1));
        let share = |took: u64, limit: u64| took as f64 / limit as f64;
        let worst = self.converge_ms.zip(self.limit_ms).map_or(0.0, |(took, limit)| share(took, limit));
        if self.limit_ms.is_none() || share(took, limit) > worst {
            (self.converge_ms, self.limit_ms) = (Some(took), Some(limit));
        }
    }

    pub(super) fn note(&mut self, text: String) {
        if !self.notes.is_empty() {
            self.notes.push_str("; ");
        }
        self.notes.push_str(&text.replace(['"', '|', '\n'], " "));
    }

    pub fn tell(&self) {
        let line = serde_json::to_string(self).expect("a row");
        eprintln!("scenario {line}");
        if let Some(file) = std::env::var_os(FILE) {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
            // One write, so that rows of tests that run at once do not mix.
            file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("the report");
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[test]
fn the_time_nearest_to_its_limit_is_told() {
    let mut row = Row::new(1, "a title", "consul");
    for (took, limit) in [(100, 200), (900, 3000), (199, 200), (1, 200)] {
        row.converged(Duration::from_millis(took), Duration::from_millis(limit));
    }
    assert_eq!((row.converge_ms, row.limit_ms), (Some(199), Some(200)));
}
