//! Asks the local app how it is, on this machine, for as long as it is registered.

use super::RegistrationSettings;
use super::status::Status;
use crate::health::{Probe, ProbeError, Schedule, Verdict, VerdictState};
use rand::rngs::SmallRng;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// The addresses at which the app may listen, each with its own probe, and what came of asking.
pub(super) struct Questioner {
    doors: Vec<(SocketAddr, Probe)>,
    /// Which of them answered last.
    at: usize,
    verdict: Verdict,
    schedule: Schedule,
    status: Arc<Status>,
    told: watch::Sender<VerdictState>,
    rng: SmallRng,
}

impl Questioner {
    /// And where its verdicts are heard.
    pub(super) fn new(
        settings: &RegistrationSettings,
        status: Arc<Status>,
        rng: SmallRng,
    ) -> (Self, watch::Receiver<VerdictState>) {
        let check = &settings.check;
        let door = |ip: &std::net::IpAddr| (SocketAddr::new(*ip, settings.port), Probe::new(check));
        let (told, heard) = watch::channel(VerdictState::Unproven);
        let verdict = Verdict::new(VerdictState::Unproven, check.rise, check.fall);
        let doors = settings.app.iter().map(door).collect();
        let schedule = Schedule::new(check);
        (Self { doors, at: 0, verdict, schedule, status, told, rng }, heard)
    }

    pub(super) async fn run(mut self) {
        loop {
            let started = Instant::now();
            let answer = self.ask().await;
            let ours = answer.as_ref().err().is_some_and(ProbeError::is_ours);
            if !ours {
                self.verdict.take(answer.is_ok());
                let note = answer.as_ref().err().map(ToString::to_string);
                self.status.app(self.verdict.state(), note);
                let state = self.verdict.state();
                self.told.send_if_modified(|told| std::mem::replace(told, state) != state);
            }
            let pause = if self.verdict.state() == VerdictState::Healthy {
                self.schedule.healthy(&mut self.rng)
            } else {
                self.schedule.unhealthy(answer.is_ok(), &mut self.rng)
            };
            tokio::time::sleep_until(started + pause).await;
        }
    }

    /// At the door that answered last; if nobody opens there, at the others.
    async fn ask(&mut self) -> Result<(), ProbeError> {
        let count = self.doors.len();
        let mut first = None;
        for turn in 0..count {
            let at = (self.at + turn) % count;
            let Some((addr, probe)) = self.doors.get_mut(at) else { continue };
            match probe.ask(*addr).await {
                Err(error) if matches!(error, ProbeError::Connect(_)) && !error.is_ours() => {
                    first.get_or_insert(error);
                }
                answer => {
                    self.at = at;
                    return answer;
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}
