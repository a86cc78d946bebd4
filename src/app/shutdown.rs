//! Stopping, in order: leave the registries, let others learn of it, serve the app while it needs us, drain.

use super::Running;
use super::registrations::Withdrawal;
use crate::config::ShutdownSettings;
use crate::telemetry::{Events, Kind};
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// For whatever does not carry requests: watches, checks, the admin address.
const REST: Duration = Duration::from_secs(3);
/// For an app that is ended by force.
const FORCE: Duration = Duration::from_secs(1);
/// Between two looks whether the app still listens, and the time for one.
const LOOK: Duration = Duration::from_millis(250);

/// The app beside which the sidecar stands, as far as a stop is concerned.
pub enum App<'a> {
    /// It is gone, or nothing is known of it: nobody waits for it.
    Gone,
    There(Leaving<'a>),
}

/// How an app goes.
pub struct Leaving<'a> {
    /// Asks it to end; called once others have learned that it leaves.
    pub ask: Box<dyn FnOnce() + 'a>,
    /// Ends when it is gone, asked or not.
    pub gone: Pin<Box<dyn Future<Output = ()> + 'a>>,
    /// Ends it; called when its grace is over.
    pub end: Option<Box<dyn FnOnce() + 'a>>,
}

/// What is done in the order of the phases; a test records it instead.
trait Steps {
    async fn withdraw(&mut self, limit: Duration) -> Withdrawal;
    async fn drain(&mut self);
}

impl Running {
    /// Where the registered apps listen, as seen from here.
    pub fn apps(&self) -> &[SocketAddr] {
        &self.apps
    }

    /// Stops in order: readiness ends and the local app leaves the registries (`shutdown.withdraw` at most); others
    /// learn of it (`delay`); the app's own calls are served until it is gone (`grace` at most); what runs may finish
    /// (`drain` at most); everything else ends.
    pub async fn stop(self, app: App<'_>) {
        self.leaving.cancel();
        let (settings, events) = (self.shutdown.clone(), self.events.clone());
        phases(&mut Parts(Some(self)), &settings, &events, app).await;
    }
}

async fn phases(steps: &mut impl Steps, settings: &ShutdownSettings, events: &Events, app: App<'_>) {
    let tell = |what: &str| events.emit(Kind::Stopping, "", None, what);
    let withdrawal = steps.withdraw(settings.withdraw).await;
    if let App::There(Leaving { ask, mut gone, end }) = app {
        let mut is_gone = false;
        if withdrawal == Withdrawal::Out && !settings.delay.is_zero() {
            tell("the app has left its registries; waiting until others have learned of it");
            is_gone = timeout(settings.delay, &mut gone).await.is_ok();
        }
        if !is_gone {
            ask();
            tell("serving on until the app is gone");
            is_gone = timeout(settings.grace, &mut gone).await.is_ok();
        }
        if !is_gone {
            tell("the app is still there after its grace");
            if let Some(end) = end {
                end();
                // It cannot but end; how long that takes is not ours to know.
                let _ = timeout(FORCE, gone).await;
            }
        }
    }
    tell("no new connections; finishing what runs");
    steps.drain().await;
}

/// The sidecar itself; gone once it has drained.
struct Parts(Option<Running>);

impl Steps for Parts {
    async fn withdraw(&mut self, limit: Duration) -> Withdrawal {
        let Some(running) = &self.0 else { return Withdrawal::Unknown };
        running.registrations.withdraw_all(limit).await
    }

    async fn drain(&mut self) {
        let Some(Running { workers, crew, tasks, .. }) = self.0.take() else { return };
        workers.cancel();
        // Threads end by themselves within their drain time; the join only waits for it.
        let _ = tokio::task::spawn_blocking(move || crew.join()).await;
        tasks.stop(REST).await;
    }
}

/// An app of which nothing is known but where it listens.
pub fn listening(addrs: Vec<SocketAddr>) -> App<'static> {
    if addrs.is_empty() {
        return App::Gone;
    }
    // Whoever stopped us stops it, too.
    App::There(Leaving { ask: Box::new(|| ()), gone: Box::pin(nobody_listens(addrs)), end: None })
}

/// Waits until nobody listens at any of these addresses.
async fn nobody_listens(addrs: Vec<SocketAddr>) {
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
    use tokio::sync::Notify;
    use tokio::time::Instant;

    /// Writes down what happens when, in seconds.
    struct Diary<'a> {
        begun: Instant,
        pages: &'a RefCell<Vec<(u64, &'static str)>>,
        withdrawal: Withdrawal,
    }

    impl Steps for Diary<'_> {
        async fn withdraw(&mut self, limit: Duration) -> Withdrawal {
            self.pages.borrow_mut().push((self.begun.elapsed().as_secs(), "withdraw"));
            sleep(limit).await;
            self.withdrawal
        }

        async fn drain(&mut self) {
            self.pages.borrow_mut().push((self.begun.elapsed().as_secs(), "drain"));
        }
    }

    /// What happened, with an app that is gone so many seconds after it was asked, or at that second all by itself.
    async fn stopped(
        withdrawal: Withdrawal,
        after: Option<u64>,
        by_itself: Option<u64>,
    ) -> Vec<(u64, &'static str)> {
        let pages: RefCell<Vec<(u64, &str)>> = RefCell::default();
        let (begun, asked) = (Instant::now(), Notify::new());
        let note = |what| pages.borrow_mut().push((begun.elapsed().as_secs(), what));
        let gone = async {
            match by_itself {
                Some(second) => tokio::time::sleep_until(begun + Duration::from_secs(second)).await,
                None => {
                    asked.notified().await;
                    sleep(Duration::from_secs(after.unwrap_or_default())).await;
                }
            }
        };
        let ask = || {
            note("ask");
            asked.notify_one();
        };
        let app = if after.or(by_itself).is_none() {
            App::Gone
        } else {
            let end: Box<dyn FnOnce()> = Box::new(|| note("end"));
            App::There(Leaving { ask: Box::new(ask), gone: Box::pin(gone), end: Some(end) })
        };
        let mut diary = Diary { begun, pages: &pages, withdrawal };
        phases(&mut diary, &ShutdownSettings::default(), &Events::default(), app).await;
        pages.take()
    }

    #[tokio::test(start_paused = true)]
    async fn invariant_11_stopping_withdraws_first_and_drains_last() {
        use Withdrawal::{Failed, Out, Unknown};
        for withdrawal in [Unknown, Failed] {
            let expected = [(0, "withdraw"), (3, "ask"), (10, "drain")];
            assert_eq!(stopped(withdrawal, Some(7), None).await, expected, "nobody learns: nobody waits");
        }
        let expected = [(0, "withdraw"), (8, "ask"), (15, "drain")];
        assert_eq!(stopped(Out, Some(7), None).await, expected);
        let expected = [(0, "withdraw"), (8, "ask"), (33, "end"), (34, "drain")];
        assert_eq!(stopped(Out, Some(1_000), None).await, expected, "grace has an end");
        let expected = [(0, "withdraw"), (5, "drain")];
        assert_eq!(stopped(Out, None, Some(5)).await, expected, "it went before it was asked");
        assert_eq!(stopped(Out, None, None).await, [(0, "withdraw"), (3, "drain")], "nobody to wait for");
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
