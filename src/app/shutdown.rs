//! Stopping, in order: leave the registries, let others learn of it, serve the app while it needs us, drain.

use super::Running;
use crate::config::ShutdownSettings;
use crate::registration::State;
use crate::telemetry::{Events, Kind};
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// For whatever does not carry requests: watches, checks, the admin address.
const REST: Duration = Duration::from_secs(3);
/// After the app's grace, for whoever ends it by force.
const FORCE: Duration = Duration::from_secs(1);
/// Between two looks whether the app still listens, and the time for one.
const LOOK: Duration = Duration::from_millis(250);

/// The app beside which the sidecar stands, as far as a stop is concerned.
#[derive(Debug)]
pub enum App<F> {
    /// It is gone, or nothing is known of it: nobody waits for it.
    Gone,
    /// It is still there. The future, begun once others have learned that it leaves, ends when it is gone.
    There(F),
}

/// What is done in the order of the phases; a test records it instead.
trait Steps {
    /// `true` if anybody may have known of the app.
    async fn withdraw(&mut self, limit: Duration) -> bool;
    async fn drain(&mut self);
}

impl Running {
    /// Whether the local app still listens can be asked at these addresses; empty if none is registered.
    pub fn app(&self) -> Vec<SocketAddr> {
        self.apps.clone()
    }

    /// Stops in order: readiness ends and the local app leaves the registries (`shutdown.withdraw` at most); others
    /// learn of it (`delay`); the app's own calls are served until it is gone (`grace` at most); what runs may finish
    /// (`drain` at most); everything else ends.
    pub async fn stop<F: Future<Output = ()>>(self, app: App<F>) {
        self.leaving.cancel();
        let (settings, events) = (self.shutdown.clone(), self.events.clone());
        phases(&mut Parts(Some(self)), &settings, &events, app).await;
    }
}

async fn phases<F: Future<Output = ()>>(
    steps: &mut impl Steps,
    settings: &ShutdownSettings,
    events: &Events,
    app: App<F>,
) {
    let tell = |what: &str| events.emit(Kind::Stopping, "", None, what);
    let was_known = steps.withdraw(settings.withdraw).await;
    if let App::There(gone) = app {
        if was_known && !settings.delay.is_zero() {
            tell("the app has left its registries; waiting until others have learned of it");
            sleep(settings.delay).await;
        }
        tell("serving on until the app is gone");
        if timeout(settings.grace + FORCE, gone).await.is_err() {
            tell("the app is still there after its grace");
        }
    }
    tell("no new connections; finishing what runs");
    steps.drain().await;
}

/// The sidecar itself; gone once it has drained.
struct Parts(Option<Running>);

impl Steps for Parts {
    async fn withdraw(&mut self, limit: Duration) -> bool {
        let Some(running) = &self.0 else { return false };
        let known = |state| matches!(state, State::Announcing | State::Announced | State::Failing);
        let was_known = running.registrations.statuses().iter().any(|status| known(status.view().state));
        running.registrations.withdraw_all(limit).await;
        was_known
    }

    async fn drain(&mut self) {
        let Some(Running { workers, crew, tasks, .. }) = self.0.take() else { return };
        workers.cancel();
        // Threads end by themselves within their drain time; the join only waits for it.
        let _ = tokio::task::spawn_blocking(move || crew.join()).await;
        tasks.stop(REST).await;
    }
}

/// Waits until nobody listens at any of these addresses.
pub async fn nobody_listens(addrs: Vec<SocketAddr>) {
    for addr in addrs {
        while is_listened_at(addr).await {
            sleep(LOOK).await;
        }
    }
}

/// An app that is too busy to accept is still there.
async fn is_listened_at(addr: SocketAddr) -> bool {
    match timeout(LOOK, TcpStream::connect(addr)).await {
        Ok(Ok(_)) | Err(_) => true,
        Ok(Err(error)) => !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::AddrNotAvailable | ErrorKind::NetworkUnreachable
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::time::Instant;

    /// Writes down what happens when, in seconds.
    struct Diary<'a> {
        begun: Instant,
        pages: &'a RefCell<Vec<(u64, String)>>,
        was_known: bool,
    }

    impl Diary<'_> {
        fn note(&self, what: &str) {
            self.pages.borrow_mut().push((self.begun.elapsed().as_secs(), what.to_owned()));
        }
    }

    impl Steps for Diary<'_> {
        async fn withdraw(&mut self, limit: Duration) -> bool {
            self.note("withdraw");
            sleep(limit).await;
            self.was_known
        }

        async fn drain(&mut self) {
            self.note("drain");
        }
    }

    /// What happened, with an app that needs so many seconds to go.
    async fn stopped(was_known: bool, app: Option<u64>) -> Vec<(u64, String)> {
        let pages = RefCell::default();
        let begun = Instant::now();
        let mut diary = Diary { begun, pages: &pages, was_known };
        let leave = async |seconds| {
            pages.borrow_mut().push((begun.elapsed().as_secs(), "leave".to_owned()));
            sleep(Duration::from_secs(seconds)).await;
        };
        let app = app.map_or(App::Gone, |seconds| App::There(leave(seconds)));
        phases(&mut diary, &ShutdownSettings::default(), &Events::default(), app).await;
        pages.into_inner()
    }

    fn at(second: u64, what: &str) -> (u64, String) {
        (second, what.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn invariant_11_stopping_withdraws_first_and_drains_last() {
        let expected = [at(0, "withdraw"), at(3, "leave"), at(10, "drain")];
        assert_eq!(stopped(false, Some(7)).await, expected, "nobody knew of it: nobody need learn");
        let expected = [at(0, "withdraw"), at(8, "leave"), at(15, "drain")];
        assert_eq!(stopped(true, Some(7)).await, expected);
        let expected = [at(0, "withdraw"), at(8, "leave"), at(34, "drain")];
        assert_eq!(stopped(true, Some(1_000)).await, expected, "grace has an end");
        assert_eq!(stopped(true, None).await, [at(0, "withdraw"), at(3, "drain")], "nobody to wait for");
    }

    #[tokio::test]
    async fn an_app_is_there_while_it_listens() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(timeout(LOOK * 3, nobody_listens(vec![addr])).await.is_err());
        drop(listener);
        timeout(Duration::from_secs(5), nobody_listens(vec![addr])).await.unwrap();
    }
}
