//! The keeper with a registry that answers by script, on a clock that leaps.

use super::*;
use crate::health::{CheckKind, CheckSettings};
use crate::model::{InstanceId, ServiceName, Weight};
use crate::registration::{Advertise, Announcement, Registry};
use crate::registry::etcd::EtcdSettings;
use std::collections::VecDeque;
use std::sync::Mutex;

/// What the registry was asked, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Announce,
    Renew(Standing),
    Withdraw,
}

#[derive(Debug)]
enum Answer {
    Fine,
    Unseen,
    Lost,
    Fails(RegistrarError),
    /// As a registry that is stopped.
    Never,
    /// A bug of ours.
    Panics,
}

#[derive(Clone)]
struct Scripted {
    shows_failing: bool,
    calls: Arc<Mutex<Vec<(Call, Duration)>>>,
    /// What is answered next; fine when it is empty. Withdrawals have a script of their own.
    script: Arc<Mutex<VecDeque<Answer>>>,
    withdrawals: Arc<Mutex<VecDeque<Answer>>>,
    begin: Instant,
}

impl Scripted {
    async fn answer(&self, call: Call) -> Answer {
        self.calls.lock().unwrap().push((call, self.begin.elapsed()));
        let script = if call == Call::Withdraw { &self.withdrawals } else { &self.script };
        let answer = script.lock().unwrap().pop_front().unwrap_or(Answer::Fine);
        if matches!(answer, Answer::Never) {
            std::future::pending::<()>().await;
        }
        assert!(!matches!(answer, Answer::Panics), "as scripted");
        answer
    }
}

fn lease(answer: &Answer) -> Lease {
    match answer {
        Answer::Unseen => Lease { seen: false, doubt: Some("unseen".to_owned()), ..Lease::seen(7) },
        _ => Lease::seen(7),
    }
}

impl Registrar for Scripted {
    fn shows_failing(&self) -> bool {
        self.shows_failing
    }

    async fn announce(&mut self, _: Standing) -> Result<Lease, RegistrarError> {
        match self.answer(Call::Announce).await {
            Answer::Fails(error) => Err(error),
            answer => Ok(lease(&answer)),
        }
    }

    async fn renew(&mut self, standing: Standing) -> Result<Renewal, RegistrarError> {
        match self.answer(Call::Renew(standing)).await {
            Answer::Fails(error) => Err(error),
            Answer::Lost => Ok(Renewal::Lost("forgotten".to_owned())),
            answer => Ok(Renewal::Kept(lease(&answer))),
        }
    }

    async fn withdraw(&mut self) -> Result<bool, RegistrarError> {
        match self.answer(Call::Withdraw).await {
            Answer::Fails(error) => Err(error),
            Answer::Lost => Ok(false),
            _ => Ok(true),
        }
    }
}

struct Play {
    registry: Scripted,
    app: watch::Sender<VerdictState>,
    status: Arc<Status>,
    tasks: Tasks,
}

fn play(shows_failing: bool, script: impl IntoIterator<Item = Answer>) -> Play {
    play_at(Duration::from_secs(5), shows_failing, script)
}

fn play_at(beat: Duration, shows_failing: bool, script: impl IntoIterator<Item = Answer>) -> Play {
    let name = ServiceName::new("web").unwrap();
    let settings = RegistrationSettings {
        name: name.clone(),
        service: name.clone(),
        id: InstanceId::new("web-1"),
        address: Advertise::Route,
        port: 80,
        tags: Vec::new(),
        meta: [].into(),
        weight: Weight::ONE,
        zone: None,
        app: Vec::new(),
        check: CheckSettings::of_the_app(CheckKind::Tcp),
        ttl: Duration::from_secs(15),
        beat,
        reassert: Duration::from_secs(30),
        withdraw_after: Duration::from_secs(30),
        to: Registry::Etcd { settings: EtcdSettings::new(Vec::new()), prefix: String::new() },
        url: "etcd".to_owned(),
    };
    let announcement = Announcement {
        service: name,
        id: settings.id.clone(),
        addr: ([10, 0, 0, 1], 80).into(),
        tags: Vec::new(),
        meta: [].into(),
        weight: Weight::ONE,
        zone: None,
    };
    let status = Arc::new(Status::new(&settings, announcement));
    let registry = Scripted {
        shows_failing,
        calls: Arc::default(),
        script: Arc::new(Mutex::new(script.into_iter().collect())),
        withdrawals: Arc::default(),
        begin: Instant::now(),
    };
    let (app, heard) = watch::channel(VerdictState::Unproven);
    let tasks = Tasks::new(Events::default());
    let rhythm = Rhythm::new(&settings);
    let rng = SmallRng::seed_from_u64(7);
    let keeper =
        Keeper::new(registry.clone(), rhythm, heard, Arc::clone(&status), tasks.events().clone(), rng);
    tasks.spawn("keeper", |stop| keeper.run(stop));
    Play { registry, app, status, tasks }
}

impl Play {
    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn app_is(&self, state: VerdictState) {
        self.app.send_replace(state);
    }

    /// The calls since the last time, each with the whole seconds since the beginning.
    fn calls(&self) -> Vec<(Call, u64)> {
        self.registry.calls.lock().unwrap().drain(..).map(|(call, at)| (call, at.as_secs())).collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        self.tasks.events().recent().iter().map(|event| event.kind).collect()
    }

    fn state(&self) -> State {
        self.status.view().state
    }
}

use Call::{Announce, Renew, Withdraw};
use Standing::{Failing, Passing};
use VerdictState::{Healthy, Unhealthy};

#[tokio::test(start_paused = true)]
async fn invariant_11_announcing_waits_for_the_app_and_stopping_withdraws() {
    let play = play(true, []);
    play.pass(60).await;
    play.app_is(Unhealthy);
    play.pass(60).await;
    assert_eq!((play.calls(), play.state()), (vec![], State::Pending));
    play.app_is(Healthy);
    play.pass(12).await;
    assert_eq!(play.calls(), [(Announce, 120), (Renew(Passing), 125), (Renew(Passing), 130)]);
    assert_eq!(play.state(), State::Announced);
    assert!(play.tasks.stop(Duration::from_secs(3)).await);
    assert_eq!(play.calls(), [(Withdraw, 132)]);
    assert_eq!(play.kinds(), [Kind::RegistrationMade, Kind::RegistrationWithdrawn]);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_announced_is_not_withdrawn() {
    let play = play(true, []);
    play.pass(5).await;
    assert!(play.tasks.stop(Duration::from_secs(3)).await);
    assert_eq!((play.calls(), play.state()), (vec![], State::Withdrawn));
    assert_eq!(play.kinds(), []);
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_forgot_is_announced_at_once_but_not_in_a_circle() {
    let play = play(true, [Answer::Fine, Answer::Lost]);
    play.app_is(Healthy);
    play.pass(6).await;
    assert_eq!(play.calls(), [(Announce, 0), (Renew(Passing), 5), (Announce, 5)]);
    assert_eq!(play.status.view().losses, 1);
    let expected = [Kind::RegistrationMade, Kind::RegistrationLost, Kind::RegistrationMade];
    assert_eq!(play.kinds(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_fails_is_tried_again_and_told_once() {
    let down = || Answer::Fails(RegistrarError::Unavailable("down".to_owned()));
    let play = play(true, [Answer::Fine, down(), down(), down()]);
    play.app_is(Healthy);
    play.pass(6).await;
    play.pass(6).await;
    let calls = play.calls();
    assert!(calls.len() >= 5 && calls[1..].iter().all(|(call, _)| *call == Renew(Passing)), "{calls:?}");
    let expected = [Kind::RegistrationMade, Kind::RegistrationFailing, Kind::RegistrationRenewed];
    assert_eq!(play.kinds(), expected);
    assert_eq!(play.status.view().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_repeated_soon_and_lack_of_room_a_little_sooner() {
    let full = Answer::Fails(RegistrarError::Full("no room".to_owned()));
    let refused = Answer::Fails(RegistrarError::Refused("no right".to_owned()));
    let play = play(true, [refused, full]);
    play.app_is(Healthy);
    play.pass(20).await;
    assert_eq!(play.status.view().last_error.as_deref(), Some("no right"));
    assert_eq!(play.state(), State::Announcing);
    play.pass(21).await;
    assert_eq!(play.calls(), [(Announce, 0), (Announce, 30), (Announce, 40)]);
    assert_eq!(play.state(), State::Announced);
}

/// The shortest TTL, whose beat bounds the pauses.
#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_is_asked_less_than_once_a_second() {
    let down = || Answer::Fails(RegistrarError::Unavailable("down".to_owned()));
    let play = play_at(Duration::from_secs(5) / 3, true, std::iter::repeat_with(down).take(2000));
    play.app_is(Healthy);
    play.pass(600).await;
    let calls = play.calls();
    let most = (0..570)
        .map(|from| calls.iter().filter(|(_, at)| (from..from + 30).contains(at)).count())
        .max()
        .unwrap();
    assert!((20..=30).contains(&most), "{most} calls in 30 s");
}

#[tokio::test(start_paused = true)]
async fn a_failing_app_is_marked_then_withdrawn_where_the_registry_can_show_it() {
    let play = play(true, []);
    play.app_is(Healthy);
    play.pass(1).await;
    play.app_is(Unhealthy);
    play.pass(1).await;
    assert_eq!(play.calls(), [(Announce, 0), (Renew(Failing), 1)]);
    assert_eq!(play.state(), State::Failing);
    play.pass(40).await;
    let calls = play.calls();
    assert_eq!(calls.last(), Some(&(Withdraw, 31)), "{calls:?}");
    assert!(calls[..calls.len() - 1].iter().all(|(call, _)| *call == Renew(Failing)), "{calls:?}");
    play.app_is(Healthy);
    play.pass(1).await;
    assert_eq!(play.calls(), [(Announce, 42)]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_app_is_withdrawn_at_once_where_presence_is_all() {
    let play = play(false, []);
    play.app_is(Healthy);
    play.pass(1).await;
    play.app_is(Unhealthy);
    play.pass(1).await;
    assert_eq!(play.calls(), [(Announce, 0), (Withdraw, 1)]);
    assert_eq!(play.state(), State::Withdrawn);
}

#[tokio::test(start_paused = true)]
async fn a_flapping_app_comes_back_later_each_time() {
    let play = play(false, []);
    play.app_is(Healthy);
    play.pass(1).await;
    let mut waits = Vec::new();
    for _ in 0..4 {
        play.app_is(Unhealthy);
        play.pass(1).await;
        play.calls();
        play.app_is(Healthy);
        let begin = play.registry.begin.elapsed().as_secs();
        play.pass(30).await;
        waits.push(play.calls()[0].1 - begin);
    }
    assert_eq!(waits, [0, 5, 10, 20]);
}

/// The call may have arrived: what it did is undone.
#[tokio::test(start_paused = true)]
async fn a_stop_in_the_middle_of_an_announcement_withdraws_it() {
    let play = play(true, [Answer::Never]);
    play.app_is(Healthy);
    play.pass(1).await;
    assert!(play.tasks.stop(Duration::from_secs(3)).await);
    play.pass(60).await;
    assert_eq!(play.calls(), [(Announce, 0), (Withdraw, 1)], "and nothing is announced again");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_that_fails_is_tried_until_the_time_is_over() {
    let play = play(true, []);
    play.app_is(Healthy);
    play.pass(1).await;
    let down = || Answer::Fails(RegistrarError::Unavailable("down".to_owned()));
    play.registry.withdrawals.lock().unwrap().extend([down(), down(), down()]);
    assert!(play.tasks.stop(Duration::from_secs(3)).await);
    let calls = play.calls();
    assert_eq!(calls.iter().filter(|(call, _)| *call == Withdraw).count(), 4, "{calls:?}");
    assert_eq!(play.kinds().last(), Some(&Kind::RegistrationWithdrawn));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_see_is_not_called_announced() {
    let play = play(true, [Answer::Unseen, Answer::Unseen]);
    play.app_is(Healthy);
    play.pass(1).await;
    assert_eq!((play.state(), play.kinds()), (State::Announcing, vec![]));
    assert!(play.status.view().last_error.is_some());
    play.pass(4).await;
    assert_eq!(play.calls(), [(Announce, 0), (Renew(Passing), 2), (Renew(Passing), 4)]);
    assert_eq!((play.state(), play.kinds()), (State::Announced, vec![Kind::RegistrationMade]));
    assert_eq!(play.status.view().last_error, None);
}

fn refused() -> Answer {
    Answer::Fails(RegistrarError::Refused("no right".to_owned()))
}

fn full() -> Answer {
    Answer::Fails(RegistrarError::Full("no room".to_owned()))
}

/// The lease would end before a refusal is tried again.
#[tokio::test(start_paused = true)]
async fn what_is_held_is_vouched_for_at_each_beat_whatever_the_registry_refuses() {
    let play = play(true, [Answer::Fine, refused(), full(), Answer::Fine]);
    play.app_is(Healthy);
    play.pass(16).await;
    let expected = [(Announce, 0), (Renew(Passing), 5), (Renew(Passing), 10), (Renew(Passing), 15)];
    assert_eq!(play.calls(), expected);
    assert_eq!(play.state(), State::Announced);
}

#[tokio::test(start_paused = true)]
async fn a_registry_without_room_is_asked_again_to_take_the_app_out_and_a_refusing_one_is_not() {
    for (answers, calls, state) in
        [([full(), full()], 3, State::Withdrawn), ([refused(), refused()], 1, State::Announced)]
    {
        let play = play(true, []);
        play.app_is(Healthy);
        play.pass(1).await;
        play.registry.withdrawals.lock().unwrap().extend(answers);
        assert!(play.tasks.stop(Duration::from_secs(3)).await);
        assert_eq!(play.calls().iter().filter(|(call, _)| *call == Withdraw).count(), calls);
        assert_eq!(play.state(), state, "who has ended need not have succeeded");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_is_not_said_to_be_taken_out() {
    let play = play(true, [refused()]);
    play.app_is(Healthy);
    play.pass(1).await;
    play.registry.withdrawals.lock().unwrap().push_back(Answer::Lost);
    assert!(play.tasks.stop(Duration::from_secs(3)).await);
    assert_eq!((play.state(), play.kinds()), (State::Withdrawn, vec![Kind::RegistrationFailing]));
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_panicked_is_not_withdrawn() {
    let play = play(true, [Answer::Fine, Answer::Panics]);
    play.app_is(Healthy);
    play.pass(6).await;
    assert!(play.tasks.stop(Duration::from_secs(3)).await);
    assert_eq!(play.state(), State::Announced);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_nobody_asks_any_more_is_withdrawn() {
    let play = play(false, []);
    play.app_is(Healthy);
    play.pass(1).await;
    let Play { registry, app, status, tasks } = play;
    drop(app);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let calls: Vec<_> = registry.calls.lock().unwrap().iter().map(|(call, _)| *call).collect();
    assert_eq!((calls, status.view().state), (vec![Announce, Withdraw], State::Withdrawn));
    assert!(tasks.stop(Duration::from_secs(3)).await);
}
