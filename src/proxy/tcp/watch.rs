//! The TCP connections of one worker, looked after by its sweep: no timer and no clock for each of them.

use crate::cluster::Ticket;
use crate::model::History;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use tokio::time::Instant;

/// What is read at once, by all connections of a worker in turn: one that is idle needs no buffer.
const BLOCK: usize = 64 << 10;

/// The connections that an instance has taken.
#[derive(Debug)]
pub(in crate::proxy) struct Streams {
    all: RefCell<Vec<Weak<Watch>>>,
    /// Borrowed for one read and the write after it.
    pub(super) block: RefCell<Box<[u8]>>,
}

/// What the sweep knows of one of them.
#[derive(Debug)]
pub(super) struct Watch {
    /// Some byte went through since the last sweep.
    pub moved: Cell<bool>,
    since: Cell<Instant>,
    idle: Duration,
    history: Arc<History>,
    drain: Duration,
    verdict: Cell<Option<Verdict>>,
    task: RefCell<Option<Waker>>,
}

/// Why a connection is ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No byte for too long, in either direction.
    Idle,
    /// Its instance was removed, and its time is over.
    Removed,
}

impl Default for Streams {
    fn default() -> Self {
        Self { all: RefCell::default(), block: RefCell::new(vec![0; BLOCK].into()) }
    }
}

impl Streams {
    pub(super) fn watch(&self, ticket: &Ticket, idle: Duration, drain: Duration, now: Instant) -> Rc<Watch> {
        let watch = Rc::new(Watch {
            moved: Cell::new(false),
            since: Cell::new(now),
            idle,
            history: Arc::clone(&ticket.target().history),
            drain,
            verdict: Cell::new(None),
            task: RefCell::default(),
        });
        self.all.borrow_mut().push(Rc::downgrade(&watch));
        watch
    }

    /// Ends those whose time is over.
    pub fn sweep(&self, now: Instant) {
        self.all.borrow_mut().retain(|watch| {
            let Some(watch) = watch.upgrade() else { return false };
            watch.sweep(now);
            true
        });
    }
}

impl Watch {
    /// Remembers the connection's task.
    pub fn by(&self, task: &Waker) {
        let mut known = self.task.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }

    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict.get()
    }

    fn sweep(&self, now: Instant) {
        if self.moved.take() {
            self.since.set(now);
        }
        let past = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let verdict = match self.history.retired_at() {
            Some(retired) if past(retired, self.drain) => Verdict::Removed,
            _ if past(self.since.get(), self.idle) => Verdict::Idle,
            _ => return,
        };
        self.verdict.set(Some(verdict));
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}
