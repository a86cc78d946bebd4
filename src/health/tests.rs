//! The rhythm of checks, on a paused clock: no socket is involved, so a minute of a thousand targets takes a moment.

use super::checker::check_with;
use super::rounds::{Ask, Desk};
use super::{CheckKind, CheckSettings, Pace, ProbeError};
use crate::model::{Endpoint, Flag, Outcome, ServiceName, Target, Weight};
use crate::rt::Tasks;
use crate::telemetry::{Events, Kind};
use futures_util::FutureExt;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Notes who was asked when; answers as told.
#[derive(Clone, Default)]
struct Record(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    asked: Vec<(Duration, SocketAddr)>,
    ill: HashSet<SocketAddr>,
    /// Our own descriptors are used up.
    short: bool,
    begin: Option<Instant>,
}

impl Ask for Record {
    async fn ask(&mut self, addr: SocketAddr) -> Result<(), ProbeError> {
        let mut record = self.0.lock().unwrap();
        let at = record.begin.unwrap().elapsed();
        record.asked.push((at, addr));
        if record.short {
            return Err(ProbeError::Connect(std::io::Error::from_raw_os_error(24)));
        }
        if record.ill.contains(&addr) { Err(ProbeError::TimedOut(Duration::from_secs(2))) } else { Ok(()) }
    }

    async fn idle(&mut self) -> Infallible {
        std::future::pending().await
    }
}

struct World {
    tasks: Tasks,
    record: Record,
    publish: watch::Sender<Arc<[Arc<Target>]>>,
    changed: Arc<Notify>,
}

impl World {
    fn new(targets: &[Arc<Target>]) -> Self {
        let tasks = Tasks::new(Events::default());
        let record = Record::default();
        record.0.lock().unwrap().begin = Some(Instant::now());
        let (publish, listed) = watch::channel(targets.into());
        let changed = Arc::new(Notify::new());
        let desk = Desk {
            service: ServiceName::new("web").unwrap(),
            settings: CheckSettings::new(CheckKind::Tcp),
            changed: Arc::clone(&changed),
            pace: Arc::default(),
            events: tasks.events().clone(),
        };
        let asker = record.clone();
        check_with(&tasks, desk, listed, SmallRng::seed_from_u64(11), move |_, _| asker.clone());
        Self { tasks, record, publish, changed }
    }

    fn list(&self, targets: &[Arc<Target>]) {
        self.publish.send_replace(targets.into());
    }

    /// Seconds at which `target` was asked.
    fn asked(&self, target: &Target) -> Vec<f64> {
        let record = self.record.0.lock().unwrap();
        let addr = target.endpoint.addr;
        record.asked.iter().filter(|a| a.1 == addr).map(|a| a.0.as_secs_f64()).collect()
    }

    fn all_asked(&self) -> Vec<(Duration, SocketAddr)> {
        self.record.0.lock().unwrap().asked.clone()
    }

    fn ill(&self, target: &Target, ill: bool) {
        let addr = target.endpoint.addr;
        let set = &mut self.record.0.lock().unwrap().ill;
        if ill {
            set.insert(addr)
        } else {
            set.remove(&addr)
        };
    }

    fn events(&self) -> Vec<(Kind, String)> {
        self.tasks.events().recent().iter().map(|e| (e.kind, e.detail.clone())).collect()
    }
}

/// Targets as a keeper lists them: new, hence unproven.
fn targets(many: u16) -> Vec<Arc<Target>> {
    let target = |port| {
        let target = Target::new(Endpoint::at(([10, 0, 0, 1], port).into()), Instant::now());
        target.history.health.raise(Flag::Unproven);
        Arc::new(target)
    };
    (1..=many).map(target).collect()
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_targets_are_checked_evenly_over_twenty_seconds() {
    let targets = targets(1000);
    let world = World::new(&targets);
    pass(60).await;
    let asked = world.all_asked();
    assert!((2_900..=3_001).contains(&asked.len()), "{} probes in a minute", asked.len());
    for pair in asked.windows(2) {
        let gap = pair[1].0 - pair[0].0;
        assert!(gap >= Duration::from_millis(14), "two probes within {gap:?} at {:?}", pair[0].0);
    }
    let ports: Vec<_> = asked.iter().map(|a| a.1.port()).collect();
    assert!(!ports[..500].is_sorted(), "the order is by chance, not the same in every sidecar");
    for (n, (from, _)) in asked.iter().enumerate() {
        let within = asked[n..].iter().take_while(|a| a.0 < *from + Duration::from_secs(1)).count();
        assert!(within <= Pace::PER_SECOND as usize + 1, "{within} probes in the second after {from:?}");
    }
    let mut times: HashMap<SocketAddr, Vec<Duration>> = HashMap::new();
    for (at, addr) in asked {
        times.entry(addr).or_default().push(at);
    }
    assert_eq!(times.len(), 1000);
    let last = times.values().map(|t| t[0]).max().unwrap();
    assert!(last < Duration::from_secs(22), "the last first verdict came after {last:?}");
    assert!(times.values().all(|t| (2..=4).contains(&t.len())), "the stretched interval is everyone's");
}

#[tokio::test(start_paused = true)]
async fn a_few_targets_have_their_first_verdict_within_a_second_and_then_keep_their_interval() {
    let targets = targets(20);
    let world = World::new(&targets);
    pass(1).await;
    assert!(targets.iter().all(|t| t.history.health.is_clear()), "all are proven within a second");
    assert!(world.changed.notified().now_or_never().is_some(), "the keeper was woken");
    assert!(world.events().is_empty(), "a new target that is well is no news");
    pass(120).await;
    for target in &targets {
        for pair in world.asked(target).windows(2) {
            let gap = pair[1] - pair[0];
            assert!((7.9..12.6).contains(&gap), "10 s plus or minus 20 %, not {gap}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_target_does_not_queue_behind_a_thousand() {
    let mut targets = targets(1000);
    let late = targets.pop().unwrap();
    let world = World::new(&targets);
    pass(60).await;
    targets.push(Arc::clone(&late));
    world.list(&targets);
    pass(1).await;
    assert!(late.history.health.is_clear(), "the first verdict on one new target comes within a second");
}

#[tokio::test(start_paused = true)]
async fn a_failing_target_falls_is_asked_ever_more_seldom_and_rises() {
    let targets = targets(1);
    let (target, health) = (&targets[0], &targets[0].history.health);
    let world = World::new(&targets);
    pass(5).await;
    world.ill(target, true);
    pass(20).await;
    assert!(health.is_clear(), "two failures of three");
    pass(15).await;
    assert_eq!(health.flags().collect::<Vec<_>>(), [Flag::Check]);
    assert_eq!(health.note(Flag::Check).as_deref(), Some("timed out after 2s"));
    pass(120).await;
    // One pass, three failures; from the third on it is out.
    let gaps: Vec<_> = world.asked(target)[3..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, expected) in gaps.iter().zip([5.0, 10.0, 20.0, 30.0, 30.0]) {
        assert!((gap / expected - 1.0).abs() < 0.21, "{gaps:?}");
    }
    world.ill(target, false);
    pass(60).await;
    assert!(health.is_clear() && health.note(Flag::Check).is_none());
    let reasons = [
        (Kind::EndpointUnhealthy, "timed out after 2s".to_owned()),
        (Kind::EndpointHealthy, "passed 2 checks in a row".to_owned()),
    ];
    assert_eq!(world.events(), reasons, "one event for each turn");
}

#[tokio::test(start_paused = true)]
async fn a_new_target_that_fails_is_out_after_one_check() {
    let targets = targets(1);
    let world = World::new(&targets);
    world.ill(&targets[0], true);
    pass(1).await;
    assert_eq!(targets[0].history.health.flags().collect::<Vec<_>>(), [Flag::Check]);
    assert_eq!(world.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_redescribed_target_keeps_its_schedule_and_its_streak() {
    let mut targets = targets(1);
    let world = World::new(&targets);
    pass(1).await;
    world.ill(&targets[0], true);
    for weight in 2..=35 {
        pass(1).await;
        let endpoint = Endpoint { weight: Weight::new(weight), ..targets[0].endpoint.clone() };
        targets = vec![Arc::new(targets[0].redescribed(endpoint))];
        world.list(&targets);
    }
    pass(2).await;
    assert!(targets[0].history.health.has(Flag::Check), "three failures in 37 s, in spite of 34 updates");
    assert!(world.asked(&targets[0]).len() <= 6);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_gone_is_asked_no_more() {
    let targets = targets(3);
    let world = World::new(&targets);
    pass(30).await;
    world.list(&targets[..2]);
    pass(1).await;
    let counts = |world: &World| targets.iter().map(|t| world.asked(t).len()).collect::<Vec<_>>();
    let before = counts(&world);
    pass(60).await;
    let after = counts(&world);
    assert!(after[0] > before[0] && after[1] > before[1]);
    assert_eq!(after[2], before[2]);
    let World { publish, tasks, record, .. } = world;
    drop(publish);
    pass(1).await;
    let ended = record.0.lock().unwrap().asked.len();
    pass(60).await;
    assert_eq!(record.0.lock().unwrap().asked.len(), ended, "without a list nobody is asked");
    assert!(tasks.stop(Duration::from_secs(1)).await, "no task is left behind");
}

#[tokio::test(start_paused = true)]
async fn traffic_that_succeeds_spares_the_check_and_one_failure_brings_it_back() {
    let targets = targets(1);
    let tally = &targets[0].history.tally;
    let world = World::new(&targets);
    pass(5).await;
    for _ in 0..60 {
        tally.count(Outcome::Success);
        pass(1).await;
    }
    assert_eq!(world.asked(&targets[0]).len(), 1, "only the first verdict");
    pass(25).await;
    assert!(world.asked(&targets[0]).len() >= 2, "silence proves nothing");
    let before = world.asked(&targets[0]).len();
    for n in 0..60 {
        tally.count(if n % 5 == 0 { Outcome::ServerError } else { Outcome::Success });
        pass(1).await;
    }
    assert!(world.asked(&targets[0]).len() >= before + 4, "mixed traffic proves nothing");
    let before = world.asked(&targets[0]).len();
    for _ in 0..60 {
        tally.count(Outcome::Abandoned);
        pass(1).await;
    }
    assert!(world.asked(&targets[0]).len() >= before + 4, "abandoned attempts prove nothing");
}

#[tokio::test(start_paused = true)]
async fn traffic_does_not_acquit_a_failed_or_a_doubted_target() {
    let targets = targets(1);
    let world = World::new(&targets);
    pass(1).await;
    world.ill(&targets[0], true);
    pass(12).await;
    for _ in 0..40 {
        targets[0].history.tally.count(Outcome::Success);
        pass(1).await;
    }
    assert!(targets[0].history.health.has(Flag::Check), "once a check failed, checks settle it");
}

#[tokio::test(start_paused = true)]
async fn our_own_lack_of_descriptors_is_no_evidence_against_anybody() {
    let targets = targets(2);
    let world = World::new(&targets[..1]);
    pass(5).await;
    world.record.0.lock().unwrap().short = true;
    world.list(&targets);
    pass(120).await;
    assert!(targets[0].history.health.is_clear());
    assert_eq!(targets[1].history.health.flags().collect::<Vec<_>>(), [Flag::Unproven]);
    world.record.0.lock().unwrap().short = false;
    pass(15).await;
    assert!(targets[1].history.health.is_clear());
}

#[tokio::test(start_paused = true)]
async fn a_new_checker_goes_on_from_the_bits() {
    let targets = targets(2);
    for target in &targets {
        target.history.health.clear(Flag::Unproven);
    }
    targets[0].history.health.raise(Flag::Check);
    let world = World::new(&targets);
    world.ill(&targets[1], true);
    pass(1).await;
    assert!(targets[0].history.health.has(Flag::Check), "one pass does not bring back a failed one");
    assert!(targets[1].history.health.is_clear(), "one failure does not take out a healthy one");
    pass(40).await;
    assert!(targets[0].history.health.is_clear() && targets[1].history.health.has(Flag::Check));
}
