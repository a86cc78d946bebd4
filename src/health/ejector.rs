//! Takes targets out on the evidence of requests, and lets them come back on trial.

use crate::model::{Flag, History, Outcome, ServiceName, Target, TargetId};
use crate::policy::{Evidence, OutlierSettings, Window};
use crate::rt::Tasks;
use crate::telemetry::{Counter, Events, Kind};
use rand::rngs::SmallRng;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

/// Between two looks at the shares of success; a row of failures is looked at once it is long enough.
const TURN: Duration = Duration::from_secs(1);

/// After a look the next one waits this long, so that a storm of failures becomes a few.
const PAUSE: Duration = Duration::from_millis(20);

/// What those who make requests and the ejector of their service tell each other.
#[derive(Debug, Default)]
pub struct Ejections {
    /// Something speaks for or against a target, or somebody has pardoned one.
    pub news: Notify,
    counts: [Counter; Evidence::ALL.len()],
}

impl Ejections {
    /// How often targets were taken out, by what spoke against them.
    pub fn count(&self, evidence: Evidence) -> u64 {
        self.counts.get(evidence as usize).map_or(0, Counter::get)
    }
}

/// Judges the listed targets until the group stops or nobody can publish a list any more. The only one who raises and
/// clears [`Flag::Outlier`]; wakes `changed` whenever it does.
pub fn eject(
    tasks: &Tasks,
    service: ServiceName,
    settings: OutlierSettings,
    ejections: Arc<Ejections>,
    targets: watch::Receiver<Arc<[Arc<Target>]>>,
    changed: Arc<Notify>,
    rng: SmallRng,
) {
    let events = tasks.events().clone();
    let ejector = Ejector { service, settings, ejections, changed, events, rng, records: HashMap::new() };
    tasks.spawn("ejector", |stop| async move {
        tokio::select! {
            () = ejector.run(targets) => {}
            () = stop.cancelled() => {}
        }
    });
}

struct Ejector {
    service: ServiceName,
    settings: OutlierSettings,
    ejections: Arc<Ejections>,
    changed: Arc<Notify>,
    events: Events,
    rng: SmallRng,
    records: HashMap<TargetId, Record>,
}

/// What the ejector remembers of one target.
#[derive(Debug, Default)]
struct Record {
    window: Window,
    /// Ejections that are not forgotten.
    times: u32,
    stand: Stand,
}

#[derive(Clone, Copy, Debug, PartialEq, Default)]
enum Stand {
    #[default]
    Free,
    Out {
        until: Instant,
    },
    /// Back, one request at a time.
    Trial,
    /// Readmitted; its ejections are not forgotten yet.
    Watched {
        since: Instant,
    },
}

/// How many targets there are to lose.
#[derive(Debug, Default)]
struct Stock {
    /// Those that nobody but us has anything against.
    all: usize,
    ejected: usize,
    /// Those that requests can go to without a second thought.
    sound: usize,
}

impl Stock {
    fn of(listed: &[Arc<Target>]) -> Self {
        let mut stock = Self::default();
        for target in listed.iter().filter(|target| target.endpoint.weight.get() > 0) {
            let health = &target.history.health;
            let is_ours = health.is_clear_but_for(&[Flag::Outlier, Flag::Check]);
            stock.all += usize::from(is_ours);
            stock.ejected += usize::from(is_ours && health.has(Flag::Outlier));
            stock.sound += usize::from(is_sound(target));
        }
        stock
    }

    fn may_lose(&self, target: &Target, settings: &OutlierSettings) -> bool {
        settings.may_eject(self.all, self.ejected, self.sound - usize::from(is_sound(target)))
    }

    fn lose(&mut self, target: &Target) {
        self.ejected += 1;
        self.sound -= usize::from(is_sound(target));
    }
}

fn is_sound(target: &Target) -> bool {
    let history = &target.history;
    target.endpoint.weight.get() > 0 && history.health.is_clear() && history.trial.is_free()
}

impl Ejector {
    async fn run(mut self, mut targets: watch::Receiver<Arc<[Arc<Target>]>>) {
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let turn = tokio::select! {
                _ = turns.tick() => true,
                () = self.ejections.news.notified() => false,
                listed = targets.changed() => match listed {
                    Ok(()) => false,
                    Err(_) => return,
                }
            };
            let listed = Arc::clone(&targets.borrow_and_update());
            self.look(&listed, turn, Instant::now());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Hears what there is about everybody; `turn` when another second has gone by.
    fn look(&mut self, listed: &[Arc<Target>], turn: bool, now: Instant) {
        if self.records.len() > listed.len() {
            let ids: HashSet<_> = listed.iter().map(|target| target.id()).collect();
            self.records.retain(|id, _| ids.contains(id));
        }
        let mut changed = false;
        for target in listed {
            changed |= self.release(target, now);
            if turn {
                self.count(&target.history);
            }
        }
        let mut stock = Stock::of(listed);
        for target in listed {
            let Some((evidence, detail)) = self.against(&target.history) else { continue };
            if stock.may_lose(target, &self.settings) {
                stock.lose(target);
                self.eject(target, evidence, detail, now);
                changed = true;
            } else if let Some(record) = self.records.get_mut(&target.id())
                && record.stand == Stand::Trial
            {
                // There is nobody to try it beside.
                record.stand = Stand::Watched { since: now };
                target.history.trial.end();
                changed = true;
            }
        }
        if changed {
            self.changed.notify_one();
        }
    }

    fn count(&mut self, history: &History) {
        let tally = &history.tally;
        let fine = tally.get(Outcome::Success) + tally.get(Outcome::ServerError);
        self.records.entry(history.id()).or_default().window.turn(fine, tally.outages());
    }

    /// Whatever speaks for a target that is out or on trial; `true` if its bit changed.
    fn release(&mut self, target: &Target, now: Instant) -> bool {
        let history = &target.history;
        let pardoned = history.take_pardon();
        let Some(record) = self.records.get_mut(&history.id()) else { return false };
        match record.stand {
            Stand::Free => false,
            _ if pardoned => {
                *record = Record::default();
                history.forgive();
                let changed = history.health.clear(Flag::Outlier);
                self.readmit(target, "by an operator");
                changed
            }
            Stand::Out { until } if until <= now => {
                record.stand = Stand::Trial;
                record.window.clear();
                history.proves();
                history.trial.offer();
                history.health.clear(Flag::Outlier)
            }
            Stand::Trial if history.trial.is_free() => {
                record.stand = Stand::Watched { since: now };
                history.proves();
                self.readmit(target, "it has passed its trial");
                // Whoever serves meanwhile may have to give way, and who waits has room.
                true
            }
            Stand::Watched { since }
                if now.saturating_duration_since(since) >= self.settings.forgiven_after =>
            {
                (record.times, record.stand) = (0, Stand::Free);
                false
            }
            _ => false,
        }
    }

    /// What speaks against a target that is in.
    fn against(&self, history: &History) -> Option<(Evidence, String)> {
        let record = self.records.get(&history.id());
        let outages = history.outages();
        match record.map_or(Stand::Free, |record| record.stand) {
            Stand::Out { .. } => None,
            Stand::Trial => history
                .trial
                .is_barred()
                .then(|| (Evidence::Trial, "the first request after it came back failed".to_owned())),
            _ if outages >= self.settings.consecutive => {
                Some((Evidence::Consecutive, format!("{outages} requests in a row failed")))
            }
            _ => {
                let (share, requests) = record?.window.too_low(&self.settings)?;
                let detail = format!("{:.0} % of the last {requests} requests succeeded", 100.0 * share);
                Some((Evidence::SuccessRate, detail))
            }
        }
    }

    fn eject(&mut self, target: &Target, evidence: Evidence, detail: String, now: Instant) {
        let record = self.records.entry(target.id()).or_default();
        record.times = record.times.saturating_add(1);
        record.window.clear();
        let term = self.settings.term(record.times, &mut self.rng);
        record.stand = Stand::Out { until: now + term };
        target.history.trial.bar();
        target.history.health.set_note(Flag::Outlier, Some((&*detail).into()));
        target.history.health.raise(Flag::Outlier);
        if let Some(count) = self.ejections.counts.get(evidence as usize) {
            count.inc();
        }
        let term = humantime::format_duration(Duration::from_millis(term.as_millis() as u64 / 100 * 100));
        let detail = format!("{detail}; out for {term}");
        self.events.emit(Kind::EndpointEjected, self.service.as_str(), Some(target.endpoint.addr), detail);
    }

    fn readmit(&self, target: &Target, how: &str) {
        self.events.emit(Kind::EndpointReadmitted, self.service.as_str(), Some(target.endpoint.addr), how);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Entry};
    use rand::SeedableRng;

    struct Bench {
        ejector: Ejector,
        targets: Vec<Arc<Target>>,
        now: Instant,
    }

    impl Bench {
        fn new(count: u16) -> Self {
            let now = Instant::now();
            let targets = (1..=count)
                .map(|port| Arc::new(Target::new(Endpoint::at(([127, 0, 0, 1], port).into()), now)));
            let ejector = Ejector {
                service: ServiceName::new("web").unwrap(),
                settings: OutlierSettings::default(),
                ejections: Arc::default(),
                changed: Arc::default(),
                events: Events::default(),
                rng: SmallRng::seed_from_u64(1),
                records: HashMap::new(),
            };
            Self { ejector, targets: targets.collect(), now }
        }

        fn fail(&self, target: usize, times: usize) {
            (0..times).for_each(|_| _ = self.targets[target].history.count(Outcome::Unavailable));
        }

        fn succeed(&self, target: usize, times: usize) {
            (0..times).for_each(|_| _ = self.targets[target].history.count(Outcome::Success));
        }

        /// A request is the trial, and ends so.
        fn judge(&self, target: usize, outcome: Outcome) {
            let trial = &self.targets[target].history.trial;
            assert_eq!(trial.enter(), Entry::Trial);
            trial.judge(outcome);
        }

        /// A look without a turn, and who is out after it.
        fn out(&mut self) -> Vec<usize> {
            self.ejector.look(&self.targets, false, self.now);
            self.who()
        }

        fn pass(&mut self, seconds: u64) -> Vec<usize> {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.ejector.look(&self.targets, true, self.now);
            }
            self.who()
        }

        fn who(&self) -> Vec<usize> {
            let out = |n: &usize| self.targets[*n].history.health.has(Flag::Outlier);
            (0..self.targets.len()).filter(out).collect()
        }

        fn told(&self) -> Vec<(Kind, u16)> {
            let events = self.ejector.events.recent();
            events.iter().map(|event| (event.kind, event.endpoint.unwrap().port())).collect()
        }
    }

    #[test]
    fn a_row_of_failures_takes_a_target_out_and_a_success_ends_the_row() {
        let mut bench = Bench::new(3);
        bench.fail(0, 4);
        assert_eq!(bench.out(), [0; 0]);
        bench.succeed(0, 1);
        bench.fail(0, 4);
        assert_eq!(bench.out(), [0; 0]);
        bench.fail(0, 1);
        assert_eq!(bench.out(), [0]);
        assert_eq!(bench.ejector.ejections.count(Evidence::Consecutive), 1);
    }

    #[test]
    fn a_low_share_of_successes_does_too() {
        let mut bench = Bench::new(3);
        bench.pass(1);
        for _ in 0..6 {
            bench.fail(1, 1);
            bench.succeed(1, 3);
        }
        assert_eq!(bench.out(), [0; 0], "only turns count");
        assert_eq!(bench.pass(1), [1]);
        assert_eq!(bench.ejector.ejections.count(Evidence::SuccessRate), 1);
        let detail = bench.ejector.events.recent()[0].detail.clone();
        assert!(detail.starts_with("75 % of the last 24 requests succeeded; out for "), "{detail}");
    }

    #[test]
    fn the_last_one_and_more_than_the_cap_stay() {
        let mut one = Bench::new(1);
        one.fail(0, 50);
        assert_eq!(one.out(), [0; 0]);
        for count in [2, 3, 6] {
            let mut bench = Bench::new(count);
            (0..usize::from(count)).for_each(|target| bench.fail(target, 50));
            assert_eq!(bench.out().len(), 1, "of {count}");
        }
        let mut ten = Bench::new(10);
        (0..10).for_each(|target| ten.fail(target, 50));
        assert_eq!(ten.out().len(), 3);
        // In panic those that fail their checks get requests too; the cap is theirs as well.
        let mut sick = Bench::new(10);
        for target in 2..10 {
            sick.targets[target].history.health.raise(Flag::Check);
            sick.fail(target, 50);
        }
        assert_eq!(sick.out().len(), 3);
        // Who is on trial is no substitute.
        let mut pair = Bench::new(2);
        pair.fail(0, 5);
        pair.out();
        assert_eq!(pair.pass(13), [0; 0]);
        pair.fail(1, 50);
        assert_eq!(pair.out(), [0; 0]);
        // Whom another judge has taken out is none of those who are left.
        let mut two = Bench::new(2);
        two.targets[1].history.health.raise(Flag::Check);
        two.fail(0, 50);
        assert_eq!(two.out(), [0; 0]);
    }

    #[test]
    fn it_comes_back_on_trial_and_stays_or_goes_for_longer() {
        let mut bench = Bench::new(3);
        bench.fail(0, 5);
        assert_eq!(bench.out(), [0]);
        assert_eq!(bench.pass(7), [0]);
        assert_eq!(bench.pass(6), [0; 0]);
        bench.fail(0, 5);
        assert_eq!(bench.out(), [0; 0], "requests from before say nothing of it now");
        bench.judge(0, Outcome::Timeout);
        assert_eq!(bench.out(), [0], "one failure is enough");
        assert_eq!(bench.ejector.ejections.count(Evidence::Trial), 1);
        assert_eq!(bench.pass(15), [0], "for twice the time");
        assert_eq!(bench.pass(10), [0; 0]);
        bench.judge(0, Outcome::Success);
        bench.out();
        bench.fail(0, 4);
        assert_eq!(bench.out(), [0; 0], "it is one like the others again");
        use Kind::{EndpointEjected, EndpointReadmitted};
        assert_eq!(bench.told(), [(EndpointEjected, 1), (EndpointEjected, 1), (EndpointReadmitted, 1)]);
        bench.succeed(0, 1);
        bench.pass(290);
        bench.fail(0, 5);
        bench.out();
        assert_eq!(bench.pass(22), [0], "the third time lasts three times as long");
        bench.pass(20);
        bench.judge(0, Outcome::Success);
        bench.pass(301);
        bench.fail(0, 5);
        bench.out();
        assert_eq!(bench.pass(13), [0; 0], "after five minutes all is forgotten");
    }

    #[test]
    fn who_fails_its_trial_while_nobody_else_is_left_stays() {
        let mut bench = Bench::new(2);
        bench.fail(0, 5);
        bench.out();
        bench.pass(13);
        bench.targets[1].history.health.raise(Flag::Check);
        bench.judge(0, Outcome::Reset);
        assert_eq!(bench.out(), [0; 0]);
        assert!(bench.targets[0].history.trial.is_free(), "or it would get no request at all");
    }

    #[test]
    fn an_operator_pardons() {
        let mut bench = Bench::new(3);
        bench.fail(0, 5);
        bench.out();
        bench.targets[0].history.pardon();
        assert_eq!(bench.out(), [0; 0]);
        assert!(bench.targets[0].history.trial.is_free());
        assert_eq!(bench.told().last(), Some(&(Kind::EndpointReadmitted, 1)));
        // There is nothing to pardon, and nothing is remembered for later.
        bench.targets[1].history.pardon();
        bench.out();
        bench.fail(1, 5);
        assert_eq!(bench.out(), [1]);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut bench = Bench::new(3);
        bench.fail(0, 5);
        bench.pass(1);
        bench.targets.remove(0);
        bench.out();
        assert_eq!(bench.ejector.records.len(), 2);
    }
}
