//! Watches that end without a word, or do not end and say nothing.

use super::fake::{Fake, Fault};
use super::wire::Wire;
use super::{SOON, Stage, put};
use crate::scenarios::{Bounds, Scenario};
use crate::support::etcd::Cluster;
use crate::support::registry::{key, source, states, three};
use crate::support::{Instance, Sidecar, eventually};
use std::time::Duration;
use tokio::time::Instant;

/// What a scenario's story does not notice within this, it notices too late.
const NOTICED: Duration = Duration::from_secs(8);

crate::support::etcd::on_both! {
    #[ignore = "slow: tests/run --all"]
    s44_a_member_that_only_listens_is_left
}

mod scenario {
    use super::*;

    pub async fn s44_a_member_that_only_listens_is_left(binary: &'static str) {
        let cluster = Cluster::start(binary, 1).await;
        let (first, second) = (Wire::to(cluster.addr(0)).await, Wire::to(cluster.addr(0)).await);
        let stage = Stage::over(binary, cluster, &[first.addr(), second.addr()], "").await;
        let mut scenario = stage.scenario(44, "one-way silence");
        scenario.serves(3);
        assert_eq!(second.accepted(), 0);
        first.mute();
        let muted = Instant::now();
        let fourth = Instance::start("web-4").await;
        put(&stage.cluster, 0, "web-4", &fourth.addr().to_string()).await;
        scenario
            .converges("a change by the next member", muted, NOTICED, async || stage.usable(4).await)
            .await;
        assert!(second.accepted() > 0);
        // A connection to it can be made; it is asked a question before it is used.
        second.cut();
        eventually("a failing source", SOON, async || stage.is("stale").await).await;
        second.mend();
        let mended = Instant::now();
        let fifth = stage.another("web-5", 0).await;
        scenario
            .converges("past the silent one", mended, Duration::from_secs(6), async || stage.usable(5).await)
            .await;
        drop((scenario.end().await, fifth));
    }
}

/// A sidecar whose etcd is a fake.
struct Staged {
    fake: Fake,
    sidecar: Sidecar,
    _instances: [Instance; 3],
}

async fn staged() -> Staged {
    let fake = Fake::start().await;
    let instances = three().await;
    for instance in &instances {
        fake.put(&key("web", instance.name()), &instance.addr().to_string());
    }
    let from = format!("etcd://{}/services/web/", fake.addr());
    let sidecar = Sidecar::start(&format!(
        "[etcd]\nsilence = \"4s\"\nprogress_timeout = \"1200ms\"\n[service.web]\nfrom = \"{from}\"\n"
    ))
    .await;
    Staged { fake, sidecar, _instances: instances }
}

impl Staged {
    fn scenario(&self, title: &str) -> Scenario {
        Scenario::begin(44, title, "fake etcd", &self.sidecar, Bounds::etcd([self.fake.addr().port()]))
    }

    /// Puts a fourth instance and sees it come, within what it may take to notice `fault` as well, of which is `said` this.
    async fn goes_on(&self, scenario: &mut Scenario, said: &str, fault: impl FnOnce(&Fake)) {
        let fourth = Instance::start("web-4").await;
        let (failed, watches) = (Instant::now(), self.fake.watches());
        fault(&self.fake);
        self.fake.put(&key("web", "web-4"), &fourth.addr().to_string());
        scenario
            .converges("a change behind the fault", failed, NOTICED, async || {
                (states(&self.sidecar, "web").await == ["usable"; 4]).then_some(())
            })
            .await;
        assert!(self.fake.watches() > watches, "by another watch");
        let told = source(&self.sidecar, "web").await;
        assert!(told["last_error"].as_str().is_some_and(|error| error.contains(said)), "{told}");
        eventually("a call", SOON, async || (fourth.count("/").await > 0).then_some(())).await;
        // Nothing is left of it.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let later = source(&self.sidecar, "web").await;
        assert_eq!((&later["state"], &later["errors"]), (&"live".into(), &told["errors"]));
        assert_eq!(states(&self.sidecar, "web").await, ["usable"; 4]);
        assert!(!self.sidecar.log().contains("panicked"), "{}", self.sidecar.log());
    }
}

#[tokio::test]
async fn s44_a_watch_that_is_canceled_without_a_reason_is_opened_again() {
    let staged = staged().await;
    let mut scenario = staged.scenario("canceled without reason");
    scenario.serves(3);
    staged.goes_on(&mut scenario, "watch canceled", |fake| fake.fail(Fault::CanceledWithoutReason)).await;
    scenario.end().await;
}

#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn s44_a_watch_that_was_created_and_then_is_silent_is_given_up() {
    let staged = staged().await;
    let mut scenario = staged.scenario("created, then nothing; progress answers stop");
    scenario.serves(3);
    // It is asked for its progress while it answers, and that is no fault.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(source(&staged.sidecar, "web").await["errors"], 0);
    staged.goes_on(&mut scenario, "no sign of life", |fake| fake.fail(Fault::Deaf)).await;
    scenario.end().await;
}

#[tokio::test]
async fn s44_a_watch_that_is_created_in_the_past_is_not_believed() {
    let staged = staged().await;
    let mut scenario = staged.scenario("watch created at an older revision");
    scenario.serves(3);
    staged.goes_on(&mut scenario, "went back from revision", Fake::create_low).await;
    scenario.end().await;
}

#[tokio::test]
async fn s44_a_history_that_goes_back_is_listed_anew() {
    let staged = staged().await;
    let mut scenario = staged.scenario("revision goes back under the same keys");
    scenario.serves(3);
    staged.goes_on(&mut scenario, "closed the watch", |fake| fake.go_back(5)).await;
    scenario.end().await;
}
