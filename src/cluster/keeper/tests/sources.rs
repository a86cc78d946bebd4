//! Several sources, losses that nobody meant, lists on disk.

use super::*;
use crate::cluster::Origin;
use crate::discovery::cache::{Cache, Kept};
use crate::discovery::{Link, Status};
use std::time::{Duration, SystemTime};

fn stage_of(mode: Mode, sources: usize) -> Stage {
    let (stage, keeper) = rehearse_with(false, mode, sources, |_, _| Memory::none());
    keeper.spawn(&stage.tasks);
    stage
}

fn sure(ports: &[u16]) -> Answer {
    answer(Trust::Trusted, ports)
}

fn named(port: u16, instance: &str) -> Endpoint {
    Endpoint { instance: InstanceId::new(instance), ..at(port) }
}

fn lost(port: u16) -> Endpoint {
    Endpoint { standing: Standing::Lost("serfHealth".into()), ..at(port) }
}

fn of(endpoints: impl IntoIterator<Item = Endpoint>) -> Answer {
    Answer { set: endpoints.into_iter().collect(), ..Answer::default() }
}

impl Stage {
    /// Has every target answer a request now.
    fn work(&self) {
        for member in self.cluster.snapshot().members.iter() {
            member.target.history.answered(Instant::now());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_union_an_address_is_one_target_whoever_lists_it() {
    let stage = stage_of(Mode::Union, 2);
    stage.says(0, of([named(1, "consul-1"), named(2, "consul-2")])).await;
    stage.says(1, of([named(2, "/svc/2"), named(3, "/svc/3")])).await;
    assert_eq!(stage.pickable(), [1, 2, 3]);
    let (id, endpoint) = (stage.target(2).id(), stage.target(2).endpoint.clone());
    assert_eq!(endpoint.instance.as_str(), "consul-2", "the first source's word");
    // The team has moved: the first source is emptied, on purpose.
    stage.says(0, of([])).await;
    assert_eq!(stage.pickable(), [2, 3]);
    assert_eq!(stage.target(2).id(), id, "its history goes on under its other name");
    assert_eq!(stage.target(2).endpoint.instance.as_str(), "/svc/2");
    assert_eq!(stage.happened(Kind::EndpointRemoved), 1);
}

#[tokio::test(start_paused = true)]
async fn doubts_about_one_source_are_not_doubts_about_another() {
    let stage = stage_of(Mode::Union, 2);
    stage.says(0, sure(&[1, 2, 3])).await;
    stage.says(1, sure(&[7, 8])).await;
    stage.says(0, answer(DOUBT, &[])).await;
    assert_eq!((stage.suspects(), stage.pickable()), (vec![1, 2, 3], vec![1, 2, 3, 7, 8]));
    stage.says(1, sure(&[8])).await;
    assert_eq!(stage.pickable(), [1, 2, 3, 8], "the other one is believed at once");
}

#[tokio::test(start_paused = true)]
async fn what_one_source_calls_critical_another_may_vouch_for() {
    let stage = stage_of(Mode::Union, 2);
    let critical = Endpoint { standing: Standing::Critical("check".into()), ..at(1) };
    stage.says(0, of([critical])).await;
    assert_eq!(stage.pickable(), [0; 0]);
    let id = stage.target(1).id();
    stage.says(1, sure(&[1])).await;
    assert_eq!(stage.pickable(), [1]);
    assert_eq!(stage.target(1).id(), id);
}

#[tokio::test(start_paused = true)]
async fn in_failover_the_next_source_serves_while_the_first_has_nothing_usable() {
    let stage = stage_of(Mode::Failover, 2);
    stage.says(0, sure(&[1, 2])).await;
    stage.says(1, sure(&[7])).await;
    assert_eq!(stage.pickable(), [1, 2]);
    let standby = || {
        let snapshot = stage.cluster.snapshot();
        let waiting = snapshot.members.iter().filter(|member| member.standby);
        waiting.map(|member| member.target.endpoint.addr.port()).collect::<Vec<_>>()
    };
    assert_eq!((standby(), stage.happened(Kind::SourceSelected)), (vec![7], 0));
    for port in [1, 2] {
        stage.target(port).history.health.raise(Flag::Check);
    }
    stage.upkeep.health_changed.notify_one();
    pass(SECOND / 10).await;
    assert_eq!((stage.pickable(), stage.happened(Kind::SourceSelected)), (vec![7], 1));
    stage.target(2).history.health.clear(Flag::Check);
    stage.upkeep.health_changed.notify_one();
    pass(SECOND / 10).await;
    assert_eq!((stage.pickable(), stage.happened(Kind::SourceSelected)), (vec![2], 2));
    stage.says(0, sure(&[])).await;
    assert_eq!(stage.pickable(), [7]);
    let events = stage.tasks.events().recent();
    let details: Vec<_> =
        events.iter().filter(|e| e.kind == Kind::SourceSelected).map(|e| &*e.detail).collect();
    let left = "etcd-script:1 serves: etcd-script:0 has nothing usable";
    assert_eq!(details, [left, "etcd-script:0 serves: it is usable again", left]);
}

#[tokio::test(start_paused = true)]
async fn requests_wait_while_a_source_may_still_have_what_another_lacks() {
    let stage = stage_of(Mode::Failover, 2);
    stage.says(0, sure(&[])).await;
    assert_eq!(stage.pick(&Tried::default()).unwrap_err(), PickError::Undiscovered);
    stage.says(1, sure(&[])).await;
    assert_eq!(stage.pick(&Tried::default()).unwrap_err(), PickError::Empty);
}

#[tokio::test(start_paused = true)]
async fn most_nodes_lost_at_once_are_kept_while_their_instances_work() {
    let stage = stage();
    stage.say(sure(&[1, 2, 3, 4, 5])).await;
    stage.work();
    // A failure detector finds one after another.
    stage.say(of([lost(1), at(2), at(3), at(4), at(5)])).await;
    assert_eq!(stage.pickable(), [2, 3, 4, 5], "a node alone is out at once");
    stage.say(of([lost(1), lost(2), at(3), at(4), at(5)])).await;
    assert_eq!(stage.pickable(), [3, 4, 5]);
    let mass = || of([lost(1), lost(2), lost(3), at(4), at(5)]);
    stage.say(mass()).await;
    assert_eq!(stage.pickable(), [1, 2, 3, 4, 5], "together it is nobody's intent");
    assert_eq!((stage.suspects(), stage.happened(Kind::EndpointSuspected)), (vec![1, 2, 3], 3));
    stage.target(2).history.health.raise(Flag::Check);
    pass(SECOND * 2).await;
    stage.say(mass()).await;
    assert_eq!((stage.pickable(), stage.suspects()), (vec![1, 3, 4, 5], vec![1, 3]), "2 fails");
    stage.say(of([at(1), lost(2), lost(3), at(4), at(5)])).await;
    assert_eq!(stage.pickable(), [1, 4, 5], "what is left lost is no mass any more");
    assert_eq!(stage.happened(Kind::EndpointKept), 1);
}

#[tokio::test(start_paused = true)]
async fn lost_nodes_are_given_up_after_their_grace() {
    let stage = stage();
    stage.say(sure(&[1, 2, 3])).await;
    stage.work();
    let all = || of([lost(1), lost(2), lost(3)]);
    stage.say(all()).await;
    assert_eq!(stage.suspects(), [1, 2, 3]);
    pass(SECOND * 29).await;
    assert_eq!(stage.pickable(), [1, 2, 3], "29 s: still kept");
    pass(SECOND * 4).await;
    assert_eq!((stage.pickable(), stage.suspects()), (vec![], vec![]), "more than 30 s: obeyed");
    stage.work();
    stage.say(all()).await;
    assert_eq!(stage.suspects(), [0; 0], "and not taken up again");
    assert_eq!(stage.members(Presence::Listed), [1, 2, 3], "they are still listed");
    stage.say(sure(&[1, 2, 3])).await;
    assert_eq!(stage.pickable(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn lost_nodes_that_were_never_seen_to_work_are_out() {
    let stage = stage();
    stage.say(of([lost(1), lost(2), lost(3)])).await;
    assert_eq!((stage.pickable(), stage.suspects()), (vec![], vec![]));
    let stage = self::stage();
    stage.say(sure(&[1, 2, 3])).await;
    stage.say(of([lost(1), lost(2), lost(3)])).await;
    assert_eq!((stage.pickable(), stage.suspects()), (vec![], vec![]), "nothing is known of them");
}

#[tokio::test(start_paused = true)]
async fn leases_that_ran_out_together_are_kept_while_their_instances_work() {
    let expired = |ports: &[u16]| answer(Trust::Unmeant("many leases ran out"), ports);
    let stage = stage();
    stage.say(sure(&[1, 2, 3, 4, 5])).await;
    stage.target(1).history.answered(Instant::now());
    stage.target(2).history.answered(Instant::now());
    stage.say(expired(&[4, 5])).await;
    assert_eq!(
        (stage.suspects(), stage.pickable()),
        (vec![1, 2], vec![1, 2, 4, 5]),
        "3 was not seen to work"
    );
    stage.say(sure(&[1, 4, 5])).await;
    assert_eq!(stage.suspects(), [2], "1 has registered again");
    pass(SECOND * 33).await;
    assert_eq!(stage.pickable(), [1, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_is_not_given_up_while_its_source_fails() {
    let stage = stage();
    stage.say(sure(&[1, 2])).await;
    stage.say(answer(DOUBT, &[])).await;
    stage.fail().await;
    pass(SECOND * 100).await;
    assert_eq!(stage.cluster.sources[0].view(Instant::now()).link, Link::Stale);
    assert_eq!(stage.pickable(), [1, 2], "nobody says any more that they are gone");
    stage.say(answer(DOUBT, &[])).await;
    pass(SECOND * 3).await;
    assert_eq!(stage.pickable(), [0; 0], "it answers, and it still says so");
}

/// Silence is neither an error nor an answer: nothing is obeyed, and the question is not put again and again.
#[tokio::test(start_paused = true)]
async fn a_suspect_is_not_given_up_while_its_source_keeps_silent() {
    let stage = stage();
    stage.say(sure(&[1, 2])).await;
    stage.silent.store(true, Ordering::Relaxed);
    stage.say(answer(DOUBT, &[])).await;
    pass(SECOND * 100).await;
    assert_eq!(stage.cluster.sources[0].view(Instant::now()).link, Link::Live, "no error has shown yet");
    assert_eq!(stage.pickable(), [1, 2]);
    assert_eq!(stage.rewinds.load(Ordering::Relaxed), 1, "a slow answer is waited for");
    stage.silent.store(false, Ordering::Relaxed);
    stage.say(answer(DOUBT, &[])).await;
    pass(SECOND * 4).await;
    assert_eq!(stage.pickable(), [0; 0], "it answers, and it still says so");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_the_registry_praises_and_nobody_reaches_is_disputed_once() {
    let stage = stage();
    stage.say(sure(&[1, 2])).await;
    let target = stage.target(1);
    for _ in 0..3 {
        for _ in 0..5 {
            if target.history.count(Outcome::ConnectFailed).doubt {
                stage.cluster.doubted.notify_one();
            }
        }
        pass(SECOND * 2).await;
    }
    assert_eq!(stage.happened(Kind::EndpointDisputed), 1);
    let disputed = |stage: &Stage| {
        let snapshot = stage.cluster.snapshot();
        snapshot.members.iter().filter(|member| member.is_disputed()).count()
    };
    assert_eq!(disputed(&stage), 1);
    target.history.count(Outcome::Success);
    assert_eq!(disputed(&stage), 0);
    stage.target(2).history.health.raise(Flag::Check);
    stage.target(2).history.health.set_note(Flag::Check, Some("connection refused".into()));
    stage.upkeep.health_changed.notify_one();
    pass(SECOND).await;
    let events = stage.tasks.events().recent();
    let last = events.iter().rfind(|event| event.kind == Kind::EndpointDisputed).unwrap();
    assert_eq!(last.detail, "its registry calls it passing, but: connection refused");
}

/// A keeper that an earlier run left the ports 1 to 3, as of a minute ago.
fn remembering(checked: bool, folder: &Path) -> Stage {
    let cache = || Cache::open(folder, ServiceName::new("web").unwrap(), Duration::from_secs(3_600)).unwrap();
    let before = SystemTime::now() - SECOND * 60;
    let set = [1, 2, 3].map(at).into_iter().collect();
    let kept = Kept { url: "etcd-script:0".to_owned(), as_of: before, set };
    let stored = std::thread::spawn({
        let cache = cache();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(cache.store(&[kept])).unwrap();
        }
    });
    stored.join().unwrap();
    let (stage, keeper) = rehearse_with(checked, Mode::default(), 1, |tasks, sources: &[Arc<Status>]| {
        Memory::open(tasks, cache(), &ServiceName::new("web").unwrap(), sources)
    });
    keeper.spawn(&stage.tasks);
    stage
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_serves_when_the_source_keeps_silent_and_is_shown_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let stage = remembering(false, folder.path());
    pass(SECOND / 2).await;
    assert_eq!(
        stage.pick(&Tried::default()).unwrap_err(),
        PickError::Undiscovered,
        "its first word is waited for"
    );
    pass(SECOND).await;
    assert_eq!(stage.pickable(), [1, 2, 3]);
    let snapshot = stage.cluster.snapshot();
    assert!(snapshot.members.iter().all(|member| matches!(member.origin, Origin::Snapshot(_))));
    assert_eq!(stage.happened(Kind::SnapshotUsed), 1);
    stage.say(sure(&[1, 9])).await;
    assert_eq!(stage.pickable(), [1, 9], "a list makes the remembered one useless");
    assert!(
        stage
            .cluster
            .snapshot()
            .members
            .iter()
            .all(|m| m.origin == Origin::Live || m.presence == Presence::Draining)
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_waits_for_its_checks() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = remembering(true, folder.path());
    pass(SECOND * 2).await;
    assert_eq!(stage.pick(&Tried::default()).unwrap_err(), PickError::Undiscovered);
    assert_eq!(stage.upkeep.targets.borrow_and_update().len(), 3, "they are checked");
    let first = stage.cluster.snapshot().members[0].target.clone();
    first.history.health.clear(Flag::Unproven);
    stage.upkeep.health_changed.notify_one();
    pass(SECOND / 10).await;
    assert_eq!(stage.pickable(), [1]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_first_answer_does_not_erase_what_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let stage = remembering(false, folder.path());
    stage.say(sure(&[])).await;
    assert_eq!((stage.suspects(), stage.pickable()), (vec![1, 2, 3], vec![1, 2, 3]));
    pass(SECOND * 33).await;
    assert_eq!(stage.pickable(), [0; 0], "it is believed in the end");
}

#[tokio::test(start_paused = true)]
async fn a_full_first_answer_makes_what_is_remembered_useless() {
    let folder = tempfile::tempdir().unwrap();
    let stage = remembering(false, folder.path());
    stage.say(sure(&[9])).await;
    pass(SECOND * 5).await;
    assert_eq!((stage.suspects(), stage.pickable()), (vec![], vec![9]));
    assert_eq!(stage.happened(Kind::SnapshotUsed), 0);
}

#[tokio::test]
async fn the_last_lists_are_on_disk_when_the_keeper_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let stage = remembering(false, folder.path());
    stage.say(sure(&[4, 5])).await;
    stage.say(answer(DOUBT, &[])).await;
    assert!(stage.tasks.stop(SECOND * 5).await);
    let cache = Cache::open(folder.path(), ServiceName::new("web").unwrap(), SECOND * 30).unwrap();
    let (kept, refused) = cache.load(SystemTime::now());
    assert!(refused.is_empty(), "{refused:?}");
    let ports: Vec<_> = kept[0].set.iter().map(|endpoint| endpoint.addr.port()).collect();
    assert_eq!((kept.len(), ports), (1, vec![4, 5]), "what is believed, not what is doubted");
}
