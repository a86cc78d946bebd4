//! How soon a registered instance is called, and how soon a deregistered one no longer.

use crate::support::registry::three;
use crate::support::{Instance, Registry, Sidecar, alone};
use std::cell::Cell;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// One request of a steady stream.
struct Call {
    sent: Instant,
    by: String,
}

const ROUNDS: usize = 5;
/// The median must keep within this ...
const SOON: Duration = Duration::from_millis(100);
/// ... and each round within this: the machine is shared.
const LATEST: Duration = Duration::from_millis(500);

pub async fn a_change_is_felt_at_once(registry: Registry) {
    let instances = three().await;
    let fourth = Instance::start("web-4").await;
    registry.register_all("web", &instances).await;
    let _turn = alone().await;
    let sidecar = Sidecar::start(&format!("[service.web]\nfrom = \"{}\"\n", registry.source("web"))).await;

    let over = Cell::new(false);
    let stream = async {
        let (mut client, mut calls) = (sidecar.client("web"), Vec::new());
        while !over.get() {
            let sent = Instant::now();
            let answer = client.get("/").await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            calls.push(Call { sent, by: answer.instance().to_owned() });
            sleep(Duration::from_millis(2)).await;
        }
        calls
    };
    let changes = async {
        let mut answered = Vec::new();
        sleep(Duration::from_millis(500)).await;
        for _ in 0..ROUNDS {
            registry.register("web", "web-4", fourth.addr(), 1).await;
            let registered = Instant::now();
            sleep(Duration::from_millis(700)).await;
            registry.deregister("web", "web-4").await;
            answered.push((registered, Instant::now()));
            sleep(Duration::from_millis(700)).await;
        }
        over.set(true);
        answered
    };
    let (calls, answered) = tokio::join!(stream, changes);

    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut begin = calls[0].sent;
    for (registered, deregistered) in answered {
        let end = deregistered + Duration::from_millis(600);
        let mut to_fourth =
            calls.iter().filter(|call| call.by == "web-4" && (begin..end).contains(&call.sent));
        let earliest = to_fourth.next().expect("the fourth instance was never called").sent;
        let latest = to_fourth.next_back().expect("the fourth instance was called once only").sent;
        first.push(earliest.saturating_duration_since(registered));
        last.push(latest.saturating_duration_since(deregistered));
        begin = end;
    }
    assert!(calls.last().is_some_and(|call| call.by != "web-4"));
    eprintln!("after the registry's answer: first request {first:?}, last request {last:?}");
    for mut delays in [first, last] {
        delays.sort();
        assert!(delays[ROUNDS / 2] <= SOON && delays[ROUNDS - 1] <= LATEST, "{delays:?}");
    }
}
