//! A keeper between a scripted source and its readers.

use super::*;
use crate::balance::{PickCtx, Tried};
use crate::cluster::{Booth, ClusterSettings, Mode, PickError, Presence, Ticket};
use crate::discovery::{Discover, DiscoverError, Trust, WatchSettings};
use crate::model::{Endpoint, Flag, InstanceId, Outcome, ServiceName, Standing, TargetId, Weight};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::mpsc;

mod sources;

const DOUBT: Trust = Trust::Doubtful("first answer after an error");
const SECOND: Duration = Duration::from_secs(1);

/// Says what it is told to say, and that again when it is asked afresh, which it counts.
struct Script {
    lines: mpsc::UnboundedReceiver<Result<Answer, DiscoverError>>,
    rewinds: Arc<AtomicUsize>,
    /// Asked afresh, it waits for its next line.
    silent: Arc<AtomicBool>,
    last: Option<Answer>,
    asked: bool,
}

impl Discover for Script {
    async fn next(&mut self) -> Result<Answer, DiscoverError> {
        let asked = std::mem::take(&mut self.asked) && !self.silent.load(Ordering::Relaxed);
        if let Some(last) = self.last.clone().filter(|_| asked && self.lines.is_empty()) {
            return Ok(last);
        }
        let Some(line) = self.lines.recv().await else { return std::future::pending().await };
        self.last = line.as_ref().ok().cloned().or(self.last.take());
        line
    }

    fn rewind(&mut self) {
        self.rewinds.fetch_add(1, Ordering::Relaxed);
        self.asked = true;
    }
}

type Prompt = mpsc::UnboundedSender<Result<Answer, DiscoverError>>;

/// A cluster, its keeper, and its sources' prompters.
struct Stage {
    cluster: Arc<Cluster>,
    upkeep: Upkeep,
    tasks: Tasks,
    prompts: Vec<Prompt>,
    rewinds: Arc<AtomicUsize>,
    /// The sources do not answer when they are asked afresh.
    silent: Arc<AtomicBool>,
}

/// A stage whose keeper was not started.
fn rehearse(checked: bool) -> (Stage, Keeper) {
    rehearse_with(checked, Mode::default(), 1, |_, _| Memory::none())
}

/// The same with several sources, and what is remembered of them.
fn rehearse_with(
    checked: bool,
    mode: Mode,
    sources: usize,
    memory: impl Fn(&Tasks, &[Arc<crate::discovery::Status>]) -> Memory,
) -> (Stage, Keeper) {
    let tasks = Tasks::new(Events::default());
    let (rewinds, silent) = (Arc::new(AtomicUsize::new(0)), Arc::<AtomicBool>::default());
    let name = ServiceName::new("web").unwrap();
    let settings = ClusterSettings { checked, mode, panic: 0.0, ..ClusterSettings::new(name) };
    let (mut feeds, mut prompts) = (Vec::new(), Vec::new());
    for source in 0..sources {
        let (prompt, lines) = mpsc::unbounded_channel();
        let (rewinds, silent) = (Arc::clone(&rewinds), Arc::clone(&silent));
        let script = Script { lines, rewinds, silent, last: None, asked: false };
        let (name, rng) = (settings.name.clone(), SmallRng::seed_from_u64(1));
        let url = format!("etcd-script:{source}");
        feeds.push(crate::discovery::watch(&tasks, name, url, script, WatchSettings::default(), rng));
        prompts.push(prompt);
    }
    let statuses: Vec<_> = feeds.iter().map(|feed| Arc::clone(&feed.status)).collect();
    let memory = memory(&tasks, &statuses);
    let cluster = Cluster::new(settings, statuses, 2, Instant::now());
    let events = tasks.events().clone();
    let (keeper, upkeep) = Keeper::new(Arc::clone(&cluster), feeds, Graces::default(), memory, events, 1);
    (Stage { cluster, upkeep, tasks, prompts, rewinds, silent }, keeper)
}

fn stage_with(checked: bool) -> Stage {
    let (stage, keeper) = rehearse(checked);
    keeper.spawn(&stage.tasks);
    stage
}

fn stage() -> Stage {
    stage_with(false)
}

fn at(port: u16) -> Endpoint {
    Endpoint::at(([127, 0, 0, 1], port).into())
}

fn answer(trust: Trust, ports: &[u16]) -> Answer {
    Answer { set: ports.iter().map(|port| at(*port)).collect(), trust, ..Answer::default() }
}

impl Stage {
    /// Has the source say it, and waits until it has been heard.
    async fn say(&self, line: Answer) {
        self.says(0, line).await;
    }

    /// The same of one of several sources.
    async fn says(&self, source: usize, line: Answer) {
        self.prompts[source].send(Ok(line)).unwrap();
        pass(SECOND / 10).await;
    }

    async fn fail(&self) {
        self.prompts[0].send(Err(DiscoverError::Failed("connection refused".into()))).unwrap();
        pass(SECOND / 10).await;
    }

    fn members(&self, presence: Presence) -> Vec<u16> {
        let snapshot = self.cluster.snapshot();
        let members = snapshot.members.iter().filter(|member| member.presence == presence);
        members.map(|member| member.target.endpoint.addr.port()).collect()
    }

    fn suspects(&self) -> Vec<u16> {
        let snapshot = self.cluster.snapshot();
        let members = snapshot.members.iter().filter(|member| member.presence.is_suspect());
        members.map(|member| member.target.endpoint.addr.port()).collect()
    }

    fn target(&self, port: u16) -> Arc<Target> {
        let snapshot = self.cluster.snapshot();
        let member = snapshot.members.iter().find(|m| m.target.endpoint.addr.port() == port).unwrap();
        Arc::clone(&member.target)
    }

    fn pick(&self, tried: &Tried) -> Result<Ticket, PickError> {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut ctx = PickCtx { hash: None, tried, rng: &mut rng, now: Instant::now() };
        Booth::new(Arc::clone(&self.cluster), 0).pick(&mut ctx)
    }

    /// All that a request could be sent to.
    fn pickable(&self) -> Vec<u16> {
        let mut tried = Tried::default();
        let mut ports = Vec::new();
        while let Ok(ticket) = self.pick(&tried) {
            tried.push(ticket.target().id());
            ports.push(ticket.target().endpoint.addr.port());
        }
        ports.sort_unstable();
        ports
    }

    fn happened(&self, kind: Kind) -> u64 {
        self.tasks.events().counts().find(|(k, _)| *k == kind).unwrap().1
    }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[test]
fn invariant_2_only_the_keeper_stores_a_snapshot() {
    fn files(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, into) } else { into.push(path) }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let mut storing = Vec::new();
    for file in all {
        let bare: String =
            std::fs::read_to_string(&file).unwrap().chars().filter(|c| !c.is_whitespace()).collect();
        for verb in ["store", "swap", "rcu", "compare_and_swap"] {
            for _ in bare.matches(&format!("snapshot.{verb}(")) {
                storing.push((file.strip_prefix(&src).unwrap().to_owned(), verb));
            }
        }
    }
    assert_eq!(storing, [(PathBuf::from("cluster/keeper.rs"), "store")]);
}

#[tokio::test]
async fn invariant_1_a_request_never_waits_on_the_control_plane() {
    const SWAPS: u64 = 300;
    let (stage, mut keeper) = rehearse(false);
    let ports: Vec<_> = (1..=200).collect();
    keeper.adopt(0, &answer(Trust::Trusted, &ports), Instant::now());
    let (done, picks) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 2]);
    std::thread::scope(|scope| {
        for (worker, picks) in picks.iter().enumerate() {
            let (cluster, done) = (&stage.cluster, &done);
            scope.spawn(move || {
                let booth = Booth::new(Arc::clone(cluster), worker);
                let mut rng = SmallRng::seed_from_u64(2);
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    let tried = Tried::default();
                    let mut ctx = PickCtx { hash: None, tried: &tried, rng: &mut rng, now: Instant::now() };
                    let ticket = booth.pick(&mut ctx).expect("half of the list is always there");
                    ticket.finish(Outcome::Success);
                    let generation = cluster.snapshot().generation;
                    assert!(generation >= seen, "a newer snapshot is never taken back");
                    seen = generation;
                    picks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for turn in 0..SWAPS {
            // Neither picker stands still while the keeper works.
            let before = picks.each_ref().map(|picks| picks.load(Ordering::Relaxed));
            let half = if turn % 2 == 0 { &ports[..100] } else { &ports[100..] };
            let both = answer(Trust::Trusted, &ports);
            keeper.adopt(0, &both, Instant::now());
            keeper.adopt(0, &answer(Trust::Trusted, half), Instant::now());
            if turn % 50 == 0 {
                while picks.iter().zip(before).any(|(picks, n)| picks.load(Ordering::Relaxed) == n) {
                    std::thread::yield_now();
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(stage.cluster.snapshot().generation, 1 + 2 * SWAPS);
}

#[tokio::test(start_paused = true)]
async fn invariant_3_errors_change_nothing() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2])).await;
    let before = stage.cluster.snapshot().generation;
    for _ in 0..5 {
        stage.fail().await;
    }
    pass(SECOND * 300).await;
    assert_eq!(stage.pickable(), [1, 2]);
    assert_eq!(stage.cluster.snapshot().generation, before);
}

#[tokio::test(start_paused = true)]
async fn invariant_4_history_outlives_snapshots() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1])).await;
    stage.pick(&Tried::default()).unwrap().finish(Outcome::Timeout);
    let old = stage.target(1);
    old.history.health.raise(Flag::Check);
    let heavier = Endpoint { weight: Weight::new(9), ..at(1) };
    stage.say(Answer { set: [heavier].into_iter().collect(), ..Answer::default() }).await;
    let heavier = stage.target(1);
    assert_eq!(heavier.endpoint.weight.get(), 9);
    assert_eq!(heavier.id(), old.id());
    assert_eq!(heavier.history.tally.failures(), 1);
    assert_eq!(stage.pickable(), [0; 0], "a weight change revives nobody");
    assert_eq!(stage.happened(Kind::EndpointChanged), 1);

    let stranger = Endpoint { instance: InstanceId::new("another"), ..at(1) };
    stage.say(Answer { set: [stranger].into_iter().collect(), ..Answer::default() }).await;
    assert_eq!((stage.members(Presence::Listed), stage.members(Presence::Draining)), (vec![1], vec![1]));
    let stranger = stage.target(1);
    assert_ne!(stranger.id(), old.id());
    assert_eq!(stranger.history.tally.attempts(), 0);
    assert_eq!(stage.pickable(), [1], "another instance starts clean");
    assert!(old.history.retired_at().is_some());
}

#[tokio::test(start_paused = true)]
async fn invariant_6_every_attempt_has_one_ticket() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1])).await;
    let history = Arc::clone(&stage.target(1).history);
    let (first, second) = (stage.pick(&Tried::default()).unwrap(), stage.pick(&Tried::default()).unwrap());
    assert_eq!((history.load.in_flight(), history.tally.attempts()), (2, 0));
    drop(first);
    assert_eq!((history.load.in_flight(), history.tally.get(Outcome::Abandoned)), (1, 1));
    second.finish(Outcome::Success);
    assert_eq!((history.load.in_flight(), history.tally.attempts(), history.tally.failures()), (0, 2, 0));
    let totals = crate::cluster::Totals::of(stage.cluster.tallies());
    assert!(totals.attempts.contains(&(Outcome::Abandoned, 1)));
    assert!(totals.attempts.contains(&(Outcome::Success, 1)));
    assert_eq!(totals.attempts.iter().map(|(_, count)| count).sum::<u64>(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flip_before_the_first_answer_is_no_answer() {
    let stage = stage();
    stage.upkeep.health_changed.notify_one();
    pass(SECOND).await;
    assert!(!stage.cluster.snapshot().discovered);
    assert!(!stage.cluster.wait_discovered(Duration::ZERO).await);
    assert_eq!(stage.pick(&Tried::default()).unwrap_err(), PickError::Undiscovered);
    stage.say(answer(Trust::Trusted, &[])).await;
    assert!(stage.cluster.wait_discovered(Duration::ZERO).await);
    assert_eq!(stage.pick(&Tried::default()).unwrap_err(), PickError::Empty);
}

#[tokio::test(start_paused = true)]
async fn a_doubtful_empty_answer_is_held_for_its_grace_and_then_obeyed() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2, 3])).await;
    stage.say(answer(DOUBT, &[])).await;
    assert_eq!(stage.suspects(), [1, 2, 3]);
    assert_eq!(stage.pickable(), [1, 2, 3]);
    assert_eq!(stage.happened(Kind::EndpointSuspected), 3);
    pass(SECOND * 10).await;
    let asked = stage.rewinds.load(Ordering::Relaxed);
    assert!((4..=10).contains(&asked), "asked afresh every 1 to 2 s, not {asked} times in 10 s");
    stage.say(answer(DOUBT, &[])).await;
    stage.say(answer(Trust::Trusted, &[])).await;
    pass(SECOND * 19).await;
    assert_eq!(stage.pickable(), [1, 2, 3], "29 s: still held");
    pass(SECOND * 3).await;
    assert_eq!(stage.pickable(), [0; 0], "more than 30 s: obeyed");
    assert_eq!(stage.happened(Kind::EndpointRemoved), 3);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_is_listed_again_is_kept() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2])).await;
    let old = stage.target(1).id();
    stage.say(answer(DOUBT, &[])).await;
    stage.say(answer(DOUBT, &[1, 2])).await;
    pass(SECOND * 60).await;
    assert_eq!(stage.members(Presence::Listed), [1, 2]);
    assert_eq!(stage.target(1).id(), old);
    assert_eq!(stage.happened(Kind::EndpointKept), 2);
}

#[tokio::test(start_paused = true)]
async fn flips_of_health_do_not_put_off_the_grace() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2])).await;
    stage.say(answer(DOUBT, &[])).await;
    for _ in 0..400 {
        stage.upkeep.health_changed.notify_one();
        pass(SECOND / 10).await;
    }
    assert_eq!(stage.pickable(), [0; 0], "obeyed within 40 s");
    assert_eq!(stage.members(Presence::Draining), [0; 0], "and forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_trusted_empty_answer_empties_at_once() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2, 3])).await;
    stage.say(answer(Trust::Trusted, &[])).await;
    assert_eq!(stage.pickable(), [0; 0]);
    assert_eq!(stage.pick(&Tried::default()).unwrap_err(), PickError::Empty);
}

#[tokio::test(start_paused = true)]
async fn a_doubtful_small_loss_waits_for_a_second_answer() {
    for second in [DOUBT, Trust::Trusted] {
        let stage = stage();
        stage.say(answer(Trust::Trusted, &[1, 2, 3, 4])).await;
        stage.say(answer(DOUBT, &[1, 2, 3])).await;
        assert_eq!((stage.suspects(), stage.pickable()), (vec![4], vec![1, 2, 3, 4]));
        pass(SECOND * 2).await;
        assert!(stage.rewinds.load(Ordering::Relaxed) > 0, "a second answer is asked for");
        stage.say(answer(second, &[1, 2, 3])).await;
        assert_eq!(stage.pickable(), [1, 2, 3], "{second:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn additions_in_a_doubtful_answer_apply() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2, 3])).await;
    stage.say(answer(DOUBT, &[1, 2, 4])).await;
    assert_eq!(stage.pickable(), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn newcomers_do_not_make_a_doubtful_loss_smaller() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2, 3])).await;
    // A registry restored from an old copy: wholly other instances, and it stays with them.
    stage.say(answer(DOUBT, &[7, 8, 9])).await;
    stage.say(answer(DOUBT, &[7, 8, 9])).await;
    assert_eq!(stage.suspects(), [1, 2, 3]);
    assert_eq!(stage.pickable(), [1, 2, 3, 7, 8, 9]);
    pass(SECOND * 33).await;
    assert_eq!(stage.pickable(), [7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_target_drains_while_something_runs_there_and_is_then_forgotten() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1])).await;
    let ticket = stage.pick(&Tried::default()).unwrap();
    stage.say(answer(Trust::Trusted, &[2])).await;
    assert_eq!(stage.pickable(), [2]);
    pass(SECOND * 20).await;
    assert_eq!(stage.members(Presence::Draining), [1]);
    drop(ticket);
    pass(SECOND * 2).await;
    assert_eq!(stage.members(Presence::Draining), [0; 0]);

    let endless = stage.pick(&Tried::default()).unwrap();
    stage.say(answer(Trust::Trusted, &[])).await;
    pass(SECOND * 40).await;
    assert_eq!(stage.members(Presence::Draining), [0; 0], "30 s of drain are enough");
    drop(endless);
}

#[tokio::test(start_paused = true)]
async fn a_health_flip_publishes_a_snapshot_without_the_target() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2])).await;
    let before = stage.cluster.snapshot().generation;
    stage.target(1).history.health.raise(Flag::Check);
    stage.upkeep.health_changed.notify_one();
    pass(SECOND / 10).await;
    assert_eq!(stage.pickable(), [2]);
    assert_eq!(stage.cluster.snapshot().generation, before + 1);
    stage.target(1).history.health.clear(Flag::Check);
    stage.upkeep.health_changed.notify_one();
    pass(SECOND / 10).await;
    assert_eq!(stage.pickable(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_calls_critical_is_out_at_once_and_back_when_it_passes() {
    let stage = stage();
    stage.say(answer(Trust::Trusted, &[1, 2])).await;
    let critical = Endpoint { standing: Standing::Critical("maintenance".into()), ..at(1) };
    stage.say(Answer { set: [critical, at(2)].into_iter().collect(), ..Answer::default() }).await;
    assert_eq!((stage.pickable(), stage.members(Presence::Listed)), (vec![2], vec![1, 2]));
    stage.say(answer(Trust::Trusted, &[1, 2])).await;
    assert_eq!(stage.pickable(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn one_change_among_ten_thousand_leaves_the_others_alone() {
    let stage = stage();
    let mut endpoints: Vec<_> = (1..=10_000).map(at).collect();
    let set =
        |endpoints: &[Endpoint]| Answer { set: endpoints.iter().cloned().collect(), ..Answer::default() };
    stage.say(set(&endpoints)).await;
    let ids = |stage: &Stage| -> Vec<TargetId> {
        stage.cluster.snapshot().members.iter().map(|member| member.target.id()).collect()
    };
    let before = ids(&stage);
    assert_eq!((before.len(), stage.cluster.usable()), (10_000, 10_000));
    assert_eq!(stage.tasks.events().recent().len(), 1, "one event for a flood");
    endpoints[4_999] = Endpoint { instance: InstanceId::new("another"), ..at(5_000) };
    stage.say(set(&endpoints)).await;
    let after = ids(&stage);
    let changed: Vec<_> = (0..10_000).filter(|n| before[*n] != after[*n]).collect();
    assert_eq!(changed, [4_999]);
    assert_eq!(after.len(), 10_001, "the old instance drains");
}

#[tokio::test(start_paused = true)]
async fn the_checkers_list_follows_and_new_targets_are_unproven() {
    let mut stage = stage_with(true);
    let listed = |stage: &mut Stage| -> Vec<u16> {
        let list = stage.upkeep.targets.borrow_and_update();
        list.iter().map(|target| target.endpoint.addr.port()).collect()
    };
    stage.say(answer(Trust::Trusted, &[1, 2])).await;
    assert_eq!(listed(&mut stage), [1, 2]);
    assert!(stage.target(1).history.health.has(Flag::Unproven));
    assert_eq!(stage.pickable(), [1, 2], "a sidecar that starts does not wait for its checks");
    stage.target(1).history.health.clear(Flag::Unproven);
    stage.upkeep.health_changed.notify_one();
    pass(SECOND / 10).await;
    assert_eq!(stage.pickable(), [1]);
    assert!(!stage.upkeep.targets.has_changed().unwrap(), "a flip is no news to the checker");
    stage.say(answer(DOUBT, &[2, 3])).await;
    assert_eq!(listed(&mut stage), [1, 2, 3], "suspects are checked");
    stage.say(answer(Trust::Trusted, &[2, 3])).await;
    assert_eq!(listed(&mut stage), [2, 3]);
}

/// Lets so many attempts fail to connect.
fn refuse(stage: &Stage, count: usize) {
    for _ in 0..count {
        stage.pick(&Tried::default()).unwrap().finish(Outcome::ConnectFailed);
    }
}

#[tokio::test(start_paused = true)]
async fn five_refused_connections_in_a_row_ask_the_source_again() {
    let stage = stage();
    stage.silent.store(true, Ordering::Relaxed);
    stage.say(answer(Trust::Trusted, &[1])).await;
    let asked = || stage.rewinds.load(Ordering::Relaxed);
    refuse(&stage, 4);
    stage.pick(&Tried::default()).unwrap().finish(Outcome::Success);
    refuse(&stage, 4);
    pass(SECOND * 5).await;
    assert_eq!(asked(), 0, "four in a row are no reason");
    refuse(&stage, 1);
    pass(SECOND / 10).await;
    assert_eq!(asked(), 1);
    stage.say(answer(Trust::Trusted, &[1])).await;
    for _ in 0..8 {
        refuse(&stage, 5);
        pass(SECOND / 10).await;
    }
    assert_eq!(asked(), 1, "at most one question per second");
    pass(SECOND / 2).await;
    assert_eq!(asked(), 2, "a doubt during the pause is not lost");
    for _ in 0..10 {
        refuse(&stage, 5);
        pass(SECOND).await;
    }
    assert_eq!(asked(), 2, "a question that is not answered yet is not cut short");
    stage.say(answer(Trust::Trusted, &[1])).await;
    refuse(&stage, 5);
    pass(SECOND / 10).await;
    assert_eq!(asked(), 3);
    stage.fail().await;
    refuse(&stage, 50);
    pass(SECOND * 5).await;
    assert_eq!(asked(), 3, "a source that fails is asked at the pace of its back-off");
}
