//! The local app in a real Consul: the scenarios of registration, by their numbers.

use crate::support::consul::{ConsulAgent, service};
use crate::support::registering::{
    BEAT, EXIT, SOON, TTL, between, catalogue_has, config, ends, entries, error, hangs_up, has_lost, reaches,
    tells, told, with_consul,
};
use crate::support::registry::{events, write};
use crate::support::{Instance, Sidecar, eventually};
use outrigger::registry::consul::{ConsulClient, HealthQuery};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn to(agent: &ConsulAgent) -> String {
    format!("consul://127.0.0.1:{}", agent.port())
}

/// An app and a sidecar that announced it.
async fn announced(agent: &ConsulAgent, more: &str) -> (Instance, Sidecar) {
    let app = Instance::start("web-1").await;
    let sidecar = Sidecar::start(&config(&app, &to(agent), more)).await;
    reaches(&sidecar, "announced", SOON).await;
    (app, sidecar)
}

async fn index(agent: &ConsulAgent) -> Option<u64> {
    let query = HealthQuery { service: "web", tags: &[], filter: None, dc: None, stale: false };
    ConsulClient::new(agent.settings()).unwrap().health(0, &query, None).await.unwrap().index
}

#[tokio::test]
async fn s22_an_app_is_announced_as_soon_as_its_check_passes_and_not_before() {
    let agent = ConsulAgent::dev().await;
    let app = Instance::start("web-1").await;
    app.set_health(503).await;
    let more = "tags = [\"v2\"]\nmeta = { version = \"2\" }\nweight = 7\nzone = \"eu-1\"\n";
    let sidecar = Sidecar::start(&config(&app, &to(&agent), more)).await;
    let mut scenario = with_consul(22, "app announced when its check passes", &agent, &sidecar);
    eventually("the app was asked", SOON, async || (app.count("/health").await > 5).then_some(())).await;
    let pending = told(&sidecar).await;
    assert_eq!((&pending["state"], &pending["app"]["state"]), (&json!("pending"), &json!("unhealthy")));
    assert!(pending["app"]["reason"].as_str().unwrap().contains("503"), "{pending}");
    assert_eq!(entries(&agent).await, [], "announced before its check passed");
    assert_eq!(sidecar.metric("outrigger_registered{service=\"web\"}").await, 0.0);

    let since = Instant::now();
    app.set_health(200).await;
    catalogue_has(&agent, Some(true), SOON).await;
    scenario.converged("passing after the app is up", since.elapsed(), BEAT);
    reaches(&sidecar, "announced", SOON).await;
    assert_eq!(sidecar.metric("outrigger_registered{service=\"web\"}").await, 1.0);
    assert_eq!(events(&sidecar, "registration_made").await, 1);
    let entry = agent.get("/v1/catalog/service/web").await[0].take();
    assert_eq!(entry["ServiceAddress"], "127.0.0.1");
    assert_eq!(entry["ServicePort"], app.addr().port());
    assert_eq!(entry["ServiceTags"], json!(["v2"]));
    assert_eq!(entry["ServiceMeta"], json!({"version": "2", "zone": "eu-1"}));
    assert_eq!(entry["ServiceWeights"], json!({"Passing": 7, "Warning": 1}));
    scenario.end().await;
}

#[tokio::test]
async fn s22_an_app_that_is_well_is_announced_at_the_start() {
    let agent = ConsulAgent::dev().await;
    let (_app, sidecar) = announced(&agent, "").await;
    let mut scenario = with_consul(22, "app well at the start", &agent, &sidecar);
    let took = between(&sidecar, "started", "registration_made").await;
    scenario.converged("passing after the start", took, Duration::from_secs(1));
    catalogue_has(&agent, Some(true), Duration::ZERO).await;
    sleep(Duration::from_secs(2)).await;
    scenario.end().await;
}

#[tokio::test]
async fn a_failing_app_is_critical_at_once_and_withdrawn_after_long() {
    let agent = ConsulAgent::dev().await;
    let (app, sidecar) = announced(&agent, "withdraw_after = \"2s\"\n").await;
    let mut scenario = with_consul(22, "app fails: critical, then out", &agent, &sidecar);
    let since = Instant::now();
    app.set_health(503).await;
    catalogue_has(&agent, Some(false), SOON).await;
    scenario.converged("critical", since.elapsed(), BEAT);
    reaches(&sidecar, "failing", SOON).await;
    catalogue_has(&agent, None, SOON).await;
    assert!(since.elapsed() > Duration::from_secs(2), "it was given its time");
    reaches(&sidecar, "withdrawn", SOON).await;
    assert_eq!(events(&sidecar, "registration_withdrawn").await, 1);
    app.set_health(200).await;
    catalogue_has(&agent, Some(true), SOON).await;
    reaches(&sidecar, "announced", SOON).await;
    assert_eq!(events(&sidecar, "registration_made").await, 2);
    scenario.end().await;
}

#[tokio::test]
async fn an_app_that_flaps_is_held_back_longer_each_time() {
    let agent = ConsulAgent::dev().await;
    let (app, sidecar) = announced(&agent, "withdraw_after = \"0s\"\n").await;
    let mut took = Vec::new();
    for _ in 0..2 {
        app.set_health(503).await;
        reaches(&sidecar, "withdrawn", SOON).await;
        app.set_health(200).await;
        let since = Instant::now();
        reaches(&sidecar, "announced", Duration::from_secs(30)).await;
        took.push(since.elapsed());
    }
    assert!(took[0] < Duration::from_secs(4), "{took:?}");
    assert!(took[1] >= Duration::from_millis(4900), "{took:?}");
    let log = sidecar.log();
    assert!(log.contains("it fails often, and is held back for 5s"), "{log}");
}

#[tokio::test]
async fn s23_an_agent_that_forgot_is_told_again() {
    let mut agent = ConsulAgent::dev().await;
    let (_app, sidecar) = announced(&agent, "").await;
    let mut scenario = with_consul(23, "agent that forgot is told again", &agent, &sidecar);
    agent.restart().await;
    let since = Instant::now();
    catalogue_has(&agent, Some(true), SOON).await;
    scenario.converged("passing again", since.elapsed(), BEAT + Duration::from_secs(2));
    has_lost(&sidecar, 1).await;
    assert_eq!(events(&sidecar, "registration_lost").await, 1);
    let losses = sidecar.metric("outrigger_registration_losses_total{service=\"web\"}").await;
    assert_eq!(losses, 1.0);
    scenario.end().await;
}

#[tokio::test]
async fn s24_an_entry_that_somebody_removed_comes_back_and_quiet_times_move_no_index() {
    let agent = ConsulAgent::dev().await;
    let (_app, sidecar) = announced(&agent, "reassert = \"1s\"\n").await;
    let mut scenario = with_consul(24, "entry removed by others comes back", &agent, &sidecar);
    // The agent itself may put it back first, when it compares its list with the servers' as it does after its start.
    let mut tries = 0;
    while told(&sidecar).await["losses"] == 0 {
        tries += 1;
        assert!(tries <= 5, "no loss was noticed");
        let since = Instant::now();
        agent.put("/v1/catalog/deregister", json!({"Node": "n1", "ServiceID": "web-1"})).await;
        catalogue_has(&agent, Some(true), SOON).await;
        scenario.converged("back", since.elapsed(), Duration::from_secs(6));
        sleep(Duration::from_millis(200)).await;
    }
    reaches(&sidecar, "announced", SOON).await;
    let losses = told(&sidecar).await["losses"].clone();

    // The agent writes the output of a check that changed some time later.
    sleep(Duration::from_secs(2)).await;
    let before = index(&agent).await;
    // A beat each 1.7 s, each of them with a whole registration.
    sleep(Duration::from_secs(7)).await;
    assert_eq!(index(&agent).await, before, "who watches this service was woken for nothing");
    assert_eq!(told(&sidecar).await["losses"], losses);
    scenario.end().await;
}

#[tokio::test]
async fn s25_a_stopped_sidecar_vouches_again_at_once() {
    let agent = ConsulAgent::dev().await;
    let (_app, sidecar) = announced(&agent, "").await;
    let mut scenario = with_consul(25, "sidecar SIGSTOPped longer than the TTL", &agent, &sidecar);
    sidecar.signal("STOP");
    catalogue_has(&agent, Some(false), SOON).await;
    let since = Instant::now();
    sidecar.signal("CONT");
    catalogue_has(&agent, Some(true), SOON).await;
    scenario.converged("passing again", since.elapsed(), Duration::from_secs(2));
    reaches(&sidecar, "announced", SOON).await;
    sleep(Duration::from_secs(2)).await;
    scenario.end().await;
}

#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn s25_a_sidecar_that_was_stopped_until_it_was_removed_registers_anew() {
    let agent = ConsulAgent::dev().await;
    let (_app, sidecar) = announced(&agent, "deregister_after = \"1m\"\n").await;
    let mut scenario = with_consul(25, "sidecar SIGSTOPped until removed", &agent, &sidecar);
    sleep(Duration::from_secs(2)).await;
    scenario.leaves().await;
    sidecar.signal("STOP");
    catalogue_has(&agent, None, Duration::from_secs(150)).await;
    let since = Instant::now();
    sidecar.signal("CONT");
    catalogue_has(&agent, Some(true), SOON).await;
    scenario.converged("registered anew", since.elapsed(), Duration::from_secs(2));
    scenario.end().await;
}

#[tokio::test]
async fn s26_a_restarted_sidecar_takes_its_entry_over_without_a_gap() {
    let agent = ConsulAgent::dev().await;
    let (app, mut sidecar) = announced(&agent, "").await;
    let created = async || agent.get("/v1/catalog/service/web").await[0]["CreateIndex"].take();
    let before = created().await;
    sidecar.kill();
    let since = Instant::now();
    let next = Sidecar::launch(&config(&app, &to(&agent), "")).await;
    let mut scenario = with_consul(26, "sidecar SIGKILLed and restarted", &agent, &next);
    let expected = [("web-1".to_owned(), u64::from(app.addr().port()), true)];
    let watched = async {
        while since.elapsed() < TTL + Duration::from_secs(3) {
            assert_eq!(entries(&agent).await, expected, "{:?} after the kill", since.elapsed());
            sleep(Duration::from_millis(20)).await;
        }
    };
    let made = async {
        reaches(&next, "announced", SOON).await;
        since.elapsed()
    };
    let ((), made) = tokio::join!(watched, made);
    scenario.converged("taken over", made, TTL);
    assert_eq!(created().await, before, "it is the same entry, not even gone for a moment");
    scenario.end().await;
}

#[tokio::test]
async fn s26_an_app_without_its_sidecar_is_critical_after_the_ttl() {
    let agent = ConsulAgent::dev().await;
    let (_app, mut sidecar) = announced(&agent, "").await;
    let mut scenario = with_consul(26, "sidecar SIGKILLed: critical", &agent, &sidecar);
    sleep(Duration::from_secs(2)).await;
    scenario.leaves().await;
    sidecar.kill();
    let since = Instant::now();
    catalogue_has(&agent, Some(false), SOON).await;
    scenario.converged("critical", since.elapsed(), TTL + Duration::from_secs(1));
    assert!(since.elapsed() > TTL - BEAT - Duration::from_millis(500), "{:?}", since.elapsed());
    scenario.end().await;
}

/// Consul looks every thirty seconds for what has been critical for a minute.
#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn s26_an_app_whose_sidecar_never_returns_is_removed() {
    let agent = ConsulAgent::dev().await;
    let (_app, mut sidecar) = announced(&agent, "deregister_after = \"1m\"\n").await;
    let mut scenario = with_consul(26, "sidecar SIGKILLed: removed", &agent, &sidecar);
    sleep(Duration::from_secs(2)).await;
    scenario.leaves().await;
    sidecar.kill();
    catalogue_has(&agent, Some(false), SOON).await;
    let since = Instant::now();
    catalogue_has(&agent, None, Duration::from_secs(150)).await;
    scenario.converged("removed", since.elapsed(), Duration::from_secs(95));
    assert!(since.elapsed() > Duration::from_secs(59), "{:?}", since.elapsed());
    scenario.end().await;
}

#[tokio::test]
async fn s27_a_sidecar_that_stops_takes_its_app_out_before_it_drains() {
    let agent = ConsulAgent::dev().await;
    let (_app, mut sidecar) = announced(&agent, "").await;
    let mut scenario = with_consul(27, "SIGTERM", &agent, &sidecar);
    sleep(Duration::from_secs(2)).await;
    scenario.leaves().await;
    let slow = sidecar.service("web");
    let running = async { crate::support::client::get(slow, "/delay/3000").await };
    let stopping = async {
        sleep(Duration::from_millis(500)).await;
        let since = Instant::now();
        sidecar.signal("TERM");
        catalogue_has(&agent, None, SOON).await;
        scenario.converged("others see it", since.elapsed(), Duration::from_millis(500));
        assert!(sidecar.is_running(), "a request still runs");
    };
    let (answer, ()) = tokio::join!(running, stopping);
    assert_eq!(answer.status, 200);
    sidecar.stop_was_asked().await;
    assert_eq!(entries(&agent).await, []);
    assert!(sidecar.log().contains("registration_withdrawn"), "{}", sidecar.log());
    scenario.end().await;
}

#[tokio::test]
async fn s27_an_agent_that_is_gone_holds_up_no_stop() {
    for (signal, title) in [("STOP", "SIGTERM with a stopped agent"), ("KILL", "SIGTERM with a dead agent")] {
        let mut agent = ConsulAgent::dev().await;
        let (_app, mut sidecar) = announced(&agent, "").await;
        let mut scenario = with_consul(27, title, &agent, &sidecar);
        agent.process().signal(signal);
        // Long enough to see what the sidecar does meanwhile.
        sleep(Duration::from_secs(8)).await;
        scenario.leaves().await;
        let since = Instant::now();
        sidecar.signal("TERM");
        ends(&mut scenario, "the end", &mut sidecar, since, EXIT).await;
        let log = sidecar.log();
        assert!(log.contains("could not be taken out within 3s"), "{log}");
        scenario.end().await;
    }
}

#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn s28_a_token_without_the_right_is_told_and_one_that_was_mended_is_used() {
    let agent = ConsulAgent::dev_with_acls().await;
    let app = Instance::start("web-1").await;
    let reads = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }";
    let wrong = agent.token("reads", reads).await;
    let right = agent.token("writes", &format!("{reads} service \"web\" {{ policy = \"write\" }}")).await;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "token", &wrong);
    let more = "[consul]\ntoken_file = \"token\"\n";
    let sidecar = Sidecar::launch_in(folder, &config(&app, &to(&agent), more), |_| {}).await;
    let mut scenario = with_consul(28, "token without a right, mended", &agent, &sidecar);
    let error = error(&sidecar, SOON).await;
    assert!(error.contains("403") && error.contains("service:write"), "{error}");
    let tries = || agent.requests_of("method=PUT url=/v1/agent/service/register");
    assert_eq!(tries(), 1);
    sleep(Duration::from_secs(27)).await;
    assert_eq!(tries(), 1, "it tries again seldom");
    eventually("the next try", Duration::from_secs(10), async || (tries() > 1).then_some(())).await;
    assert_eq!(sidecar.get("web", "/").await.status, 200, "traffic goes on");

    write(sidecar.folder(), "token", &right);
    let since = Instant::now();
    catalogue_has(&agent, Some(true), Duration::from_secs(40)).await;
    scenario.converged("registered", since.elapsed(), Duration::from_secs(35));
    assert!(tries() <= 3, "{} tries", tries());
    assert_eq!(events(&sidecar, "registration_failing").await, 1, "told once");
    for token in [wrong, right] {
        assert!(!sidecar.log().contains(&token));
    }
    scenario.end().await;
}

/// Slow, because an agent without a leader holds each call that changes something for 7 s.
#[tokio::test]
#[ignore = "slow: tests/run --all"]
async fn s29_a_registration_that_the_servers_have_not_heard_of_is_not_called_announced() {
    let agent = ConsulAgent::leaderless().await;
    let app = Instance::start("web-1").await;
    let sidecar = Sidecar::start(&config(&app, &to(&agent), "")).await;
    let mut scenario = with_consul(29, "no quorum at the registration", &agent, &sidecar);
    let unseen = reaches(&sidecar, "announcing", SOON).await;
    eventually("the agent has it", Duration::from_secs(60), async || {
        agent.get("/v1/agent/services").await.get("web-1").is_some().then_some(())
    })
    .await;
    tells(&sidecar, "said so", Duration::from_secs(60), |told| {
        told["last_error"].as_str()?.contains("the servers' catalogue does not show it yet").then_some(())
    })
    .await;
    assert_eq!(unseen["state"], "announcing");
    assert_eq!(events(&sidecar, "registration_made").await, 0);
    assert_eq!(sidecar.metric("outrigger_registered{service=\"web\"}").await, 0.0);

    let since = Instant::now();
    let _second = agent.joined();
    reaches(&sidecar, "announced", Duration::from_secs(60)).await;
    scenario.converged("visible, from the second server on", since.elapsed(), Duration::from_secs(30));
    catalogue_has(&agent, Some(true), SOON).await;
    scenario.end().await;
}

/// A real agent that is dead counts no calls.
#[tokio::test]
async fn an_agent_that_hangs_up_on_everybody_is_called_less_than_once_a_second() {
    let mut agent = ConsulAgent::dev().await;
    let (_app, _sidecar) = announced(&agent, "").await;
    agent.kill();
    let calls = hangs_up(agent.port(), Duration::from_secs(30)).await;
    assert!((5..=30).contains(&calls), "{calls} calls in 30 s");
}

#[tokio::test]
async fn an_id_that_somebody_else_has_is_left_alone() {
    let agent = ConsulAgent::dev().await;
    let app = Instance::start("web-1").await;
    let mut other = service("web", "web-1", 4321);
    other["Address"] = "127.0.0.1".into();
    agent.register(&other).await;
    let mut sidecar = Sidecar::start(&config(&app, &to(&agent), "")).await;
    let error = error(&sidecar, SOON).await;
    assert!(error.contains("\"web-1\" belongs to \"web\" at 127.0.0.1, port 4321"), "{error}");
    sidecar.stop().await;
    assert_eq!(entries(&agent).await, [("web-1".to_owned(), 4321, true)]);
}

/// After us somebody took the id: it is theirs now.
#[tokio::test]
async fn an_entry_that_became_somebody_elses_is_not_taken_back_and_not_removed() {
    let agent = ConsulAgent::dev().await;
    let (_app, mut sidecar) = announced(&agent, "reassert = \"1s\"\n").await;
    let mut other = service("web", "web-1", 4321);
    other["Address"] = "127.0.0.1".into();
    agent.put("/v1/agent/service/register?replace-existing-checks=true", other).await;
    has_lost(&sidecar, 1).await;
    reaches(&sidecar, "announcing", SOON).await;
    sidecar.stop().await;
    assert_eq!(entries(&agent).await, [("web-1".to_owned(), 4321, true)]);
}

#[tokio::test]
async fn the_agent_may_ask_the_app_by_itself() {
    let agent = ConsulAgent::dev().await;
    let app = Instance::start("web-1").await;
    let more = "check = \"agent\"\nwithdraw_after = \"1m\"\n";
    let sidecar = Sidecar::start(&config(&app, &to(&agent), more)).await;
    catalogue_has(&agent, Some(true), SOON).await;
    app.set_health(503).await;
    catalogue_has(&agent, Some(false), SOON).await;
    app.set_health(200).await;
    catalogue_has(&agent, Some(true), SOON).await;
    let checks = agent.get("/v1/health/checks/web").await;
    assert_eq!(checks[0]["Type"], "http", "{checks}");
    reaches(&sidecar, "announced", SOON).await;
}
