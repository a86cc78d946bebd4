//! Proxies that run side by side and take turns: the paired method.

use crate::Outcome;
use crate::client::{Client, Until};
use crate::process::{Clock, Running};
use std::time::Duration;

/// A proxy that runs, with its client connections. Several lanes may be connections to one proxy.
pub struct Lane<'a> {
    pub name: String,
    pub running: Option<&'a Running>,
    pub client: Client,
    /// Requests under way at once.
    pub in_flight: usize,
}

/// The CPU time per request of each lane, in microseconds, round by round.
pub fn cpu_rounds(
    lanes: &mut [Lane<'_>],
    request: &[u8],
    rounds: usize,
    length: Duration,
    clock: Clock,
) -> Outcome<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::new(); lanes.len()];
    for round in 0..rounds + WARM_UP {
        for turn in 0..lanes.len() {
            // Who comes first changes, so nobody always follows the same neighbour from a full pause.
            let which = (turn + round) % lanes.len();
            let (Some(lane), Some(samples)) = (lanes.get_mut(which), samples.get_mut(which)) else {
                continue;
            };
            let Some(running) = lane.running else { continue };
            let before = running.cpu(clock)?;
            let answered = lane
                .client
                .burst(request, lane.in_flight, Until::Over(length))
                .map_err(|error| format!("{}: {error}", lane.name))?;
            let spent = running.cpu(clock)?.saturating_sub(before);
            if round >= WARM_UP && answered > 0 {
                samples.push(spent as f64 / 1_000.0 / answered as f64);
            }
        }
    }
    Ok(samples)
}

/// Rounds that do not count: connections are opened, pages touched, tables grown.
const WARM_UP: usize = 2;
