//! Proxies that run side by side and take turns: the paired method.

use crate::Outcome;
use crate::backend::SIZES;
use crate::client::{Client, Until, request};
use crate::http2::Http2;
use crate::process::{Clock, Running};
use std::time::Duration;

/// A proxy that runs, with its client connections. Several lanes may be connections to one proxy.
pub struct Lane<'a, L = Client> {
    pub name: String,
    pub running: Option<&'a Running>,
    pub client: L,
    /// Requests under way at once.
    pub in_flight: usize,
}

/// A client that asks for the same again and again.
pub trait Load {
    /// Keeps `in_flight` requests under way; returns how many were answered.
    fn burst(&mut self, path: &str, in_flight: usize, until: Until) -> Outcome<usize>;
}

impl Load for Client {
    fn burst(&mut self, path: &str, in_flight: usize, until: Until) -> Outcome<usize> {
        self.burst(&request(path), in_flight, until)
    }
}

impl Load for Http2 {
    /// On each stream, which are as many as were opened.
    fn burst(&mut self, path: &str, _: usize, until: Until) -> Outcome<usize> {
        let length = SIZES.iter().find(|(name, _)| *name == path).map(|(_, length)| *length);
        self.burst(path, length, until)
    }
}

/// The CPU time per request of each lane, in microseconds, round by round.
pub fn cpu_rounds<L: Load>(
    lanes: &mut [Lane<'_, L>],
    path: &str,
    rounds: usize,
    length: Duration,
    clock: Clock,
) -> Outcome<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::new(); lanes.len()];
    for round in 0..rounds + WARM_UP {
        for which in turns(round, lanes.len()) {
            let (Some(lane), Some(samples)) = (lanes.get_mut(which), samples.get_mut(which)) else {
                continue;
            };
            let Some(running) = lane.running else { continue };
            let before = running.cpu(clock)?;
            let answered = Load::burst(&mut lane.client, path, lane.in_flight, Until::Over(length))
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
const WARM_UP: usize = 1;

/// The order within a round. Who comes first changes, and every other round goes backwards, so that nobody always follows
/// the same neighbour.
pub fn turns(round: usize, lanes: usize) -> impl Iterator<Item = usize> {
    (0..lanes).map(move |turn| {
        let turn = if round.is_multiple_of(2) { turn } else { lanes - 1 - turn };
        (turn + round / 2) % lanes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_one_turn_in_each_round_and_follows_different_neighbours() {
        let order = |round| turns(round, 4).collect::<Vec<_>>();
        assert_eq!([order(0), order(1), order(2)], [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0]]);
    }
}
