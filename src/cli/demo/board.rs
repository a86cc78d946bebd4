//! The scoreboard: redrawn in place on a terminal, a line now and then elsewhere.

use super::world::World;
use crate::cli::Output;
use crate::cluster::{Member, Presence};
use crate::model::{Flag, TargetId};
use crate::telemetry::{Event, Kind};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Sentences that stay in sight.
const SENTENCES: usize = 12;
/// On what is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
const BAR: usize = 30;

#[derive(Debug)]
pub(super) struct Board {
    terminal: bool,
    begun: Instant,
    /// Lines that the last drawing took.
    drawn: usize,
    last_line: Option<Instant>,
    said: VecDeque<String>,
    unprinted: Vec<String>,
    /// Attempts at the last look, for rates.
    before: HashMap<TargetId, (Instant, u64, f64)>,
}

impl Board {
    pub fn new(terminal: bool) -> Self {
        Self {
            terminal,
            begun: Instant::now(),
            drawn: 0,
            last_line: None,
            said: VecDeque::new(),
            unprinted: Vec::new(),
            before: HashMap::new(),
        }
    }

    /// Something happened.
    pub fn say(&mut self, what: String) {
        let line = format!("{:>4} s  {what}", self.begun.elapsed().as_secs());
        self.unprinted.push(line.clone());
        self.said.push_back(line);
        if self.said.len() > SENTENCES {
            self.said.pop_front();
        }
    }

    /// The sidecars saw something happen.
    pub fn tell(&mut self, world: &World, event: &Event) {
        if matches!(event.kind, Kind::Started | Kind::Stopping) {
            return;
        }
        let whom = event.endpoint.map_or_else(String::new, |addr| format!("{} ", world.name_of(addr)));
        self.say(format!("  {} {whom}{}", event.kind.as_str(), event.detail));
    }

    pub fn show(&mut self, world: &World, now: Instant, output: &mut Output) {
        if self.terminal {
            self.draw(world, now, output);
        } else {
            self.line(world, now, output);
        }
        output.flush();
    }

    fn draw(&mut self, world: &World, now: Instant, output: &mut Output) {
        let mut lines = vec![format!(
            "{:<10} {:<22} {:<10} {:>9} {:>8} {:>9}",
            "INSTANCE", "ADDRESS", "STATE", "CALLS", "PER S", "LATENCY"
        )];
        for member in &world.members() {
            lines.push(self.row(world, member, now));
        }
        let calls = world.calls();
        lines.push(String::new());
        lines.push(format!("The demo's own calls: {}, failed: {}", calls.made, calls.failed));
        lines.extend(self.said.iter().cloned());
        if self.drawn > 0 {
            // Up to the first line, and clear from there.
            output.text(format_args!("\x1b[{}A\x1b[J", self.drawn));
        }
        // A line that is too long would take two, and the next drawing would begin too low.
        let width = output.width().unwrap_or(usize::MAX);
        for line in &lines {
            output.line(line.chars().take(width).collect::<String>());
        }
        self.drawn = lines.len();
    }

    fn row(&mut self, world: &World, member: &Member, now: Instant) -> String {
        let target = &member.target;
        let (addr, attempts) = (target.endpoint.addr, target.history.tally.attempts());
        let rate = self.rate(target.id(), attempts, now);
        let latency = target
            .history
            .load
            .latency()
            .map_or_else(|| "-".to_owned(), |latency| format!("{:.1} ms", latency.as_secs_f64() * 1e3));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few characters of a bar"
        )]
        let bar = "#".repeat(((rate / 2.0).ceil() as usize).min(BAR));
        format!(
            "{:<10} {:<22} {:<10} {attempts:>9} {rate:>8.0} {latency:>9}  {bar}",
            world.name_of(addr),
            addr.to_string(),
            state(member, world),
        )
    }

    /// Attempts per second, smoothed over about a second.
    fn rate(&mut self, id: TargetId, attempts: u64, now: Instant) -> f64 {
        let (then, before, rate) = self.before.get(&id).copied().unwrap_or((now, attempts, 0.0));
        let passed = now.saturating_duration_since(then).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "calls of a demo")]
        let rate = if passed > 0.0 {
            0.75 * rate + 0.25 * (attempts.saturating_sub(before)) as f64 / passed
        } else {
            rate
        };
        self.before.insert(id, (now, attempts, rate));
        rate
    }

    fn line(&mut self, world: &World, now: Instant, output: &mut Output) {
        for said in self.unprinted.drain(..) {
            output.line(said);
        }
        if self.last_line.is_some_and(|last| now < last + LINE_EVERY) {
            return;
        }
        self.last_line = Some(now);
        let members = world.members();
        let each: Vec<_> = members
            .iter()
            .map(|member| {
                let target = &member.target;
                let name = world.name_of(target.endpoint.addr);
                format!("{name} {} {}", state(member, world), target.history.tally.attempts())
            })
            .collect();
        let calls = world.calls();
        let seconds = self.begun.elapsed().as_secs();
        output.line(format_args!(
            "{seconds:>4} s  {} calls, {} failed | {}",
            calls.made,
            calls.failed,
            each.join(" | ")
        ));
    }
}

fn state(member: &Member, world: &World) -> &'static str {
    let health = &member.target.history.health;
    match member.presence {
        Presence::Draining => "draining",
        Presence::Suspect(_) => "suspect",
        Presence::Listed if health.has(Flag::Check) => "out",
        Presence::Listed if health.has(Flag::Unproven) => "unproven",
        Presence::Listed => match world.is_alive(member.target.endpoint.addr) {
            Some(true) => "usable",
            Some(false) => "dead",
            None => "leaving",
        },
    }
}
