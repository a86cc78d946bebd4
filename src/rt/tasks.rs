//! Nobody spawns but this: every task has a name, a stop token and someone who reaps it.

use super::Stop;
use crate::telemetry::{Events, Kind};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// A group of tasks that stop together. Clones share the group; dropping it stops nothing.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: Stop,
    events: Events,
}

impl Tasks {
    pub fn new(events: Events) -> Self {
        Self { tracker: TaskTracker::new(), stop: Stop::new(), events }
    }

    /// Starts a task; a panic in it becomes an event. The future must end soon after its token is cancelled.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn<F>(&self, name: &'static str, start: impl FnOnce(Stop) -> F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = reported(name, self.events.clone(), start(self.stop.clone()));
        tokio::spawn(self.tracker.track_future(task)).abort_handle()
    }

    pub fn stop_token(&self) -> Stop {
        self.stop.clone()
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Tells all tasks to stop and waits for them; `false` if some still ran when `limit` was over.
    pub async fn stop(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// The tasks of one worker thread; they never leave it.
#[derive(Clone, Debug)]
pub struct LocalTasks {
    tracker: TaskTracker,
    events: Events,
}

impl LocalTasks {
    pub fn new(events: Events) -> Self {
        Self { tracker: TaskTracker::new(), events }
    }

    /// Starts a task on this thread; a panic in it becomes an event.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns on a worker")]
    pub fn spawn<F>(&self, name: &'static str, task: F) -> AbortHandle
    where
        F: Future<Output = ()> + 'static,
    {
        let task = reported(name, self.events.clone(), task);
        tokio::task::spawn_local(self.tracker.track_future(task)).abort_handle()
    }

    /// Waits until no task is left.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// No `async fn`, which would have room for the task twice: as its argument, and as what it awaits.
fn reported(name: &'static str, events: Events, task: impl Future<Output = ()>) -> impl Future<Output = ()> {
    AssertUnwindSafe(task).catch_unwind().map(move |ended| {
        if let Err(panic) = ended {
            let what = panic
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            events.emit(Kind::TaskPanicked, "", None, format!("task {name}: {what}"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn invariant_9_a_panic_is_an_event_and_every_task_is_reaped() {
        let tasks = Tasks::new(Events::default());
        tasks.spawn("doomed", |_| async { panic!("by design") });
        tasks.spawn("patient", |stop| async move { stop.cancelled().await });
        assert!(tasks.stop(Duration::from_secs(5)).await, "all tasks ended");
        let events = tasks.events().recent();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].kind, Kind::TaskPanicked);
        assert_eq!(events[0].detail, "task doomed: by design");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_its_token_is_reported() {
        let tasks = Tasks::new(Events::default());
        tasks.spawn("deaf", |_| std::future::pending());
        assert!(!tasks.stop(Duration::from_secs(1)).await);
    }
}
