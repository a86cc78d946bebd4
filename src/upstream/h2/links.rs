//! The HTTP/2 connections of one worker to one target.

use super::link::{Link, Slot};
use super::opening::{Opening, Room};
use crate::upstream::ConnectionSettings;
use ::h2::client::SendRequest;
use bytes::Bytes;
use std::rc::Rc;
use tokio::time::Instant;

/// The connections; dropping this lets what runs on them finish.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Links {
    links: Vec<Rc<Link>>,
    /// One at a time.
    pub opening: Option<Rc<Opening>>,
    /// Calls those who wait for a place.
    pub room: Rc<Room>,
    /// How many were opened so far.
    pub opened: u64,
}

impl Links {
    /// A place on one of those that were opened after so many others; the oldest are filled first, so that those that
    /// are not needed any more run into their idle limit.
    pub fn take(&mut self, after: u64) -> Option<(SendRequest<Bytes>, Slot, bool)> {
        self.links.retain(|link| link.is_open() || link.streams() > 0);
        self.links.iter().filter(|link| link.number >= after).find_map(Link::take)
    }

    /// Whether another one may be opened.
    pub fn may_grow(&self, settings: &ConnectionSettings) -> bool {
        let open = self.links.iter().filter(|link| link.is_open()).count();
        self.opening.is_none() && open < settings.keep_alive_connections.max(1)
    }

    /// No more of them may be opened, nor is one being opened.
    pub fn is_full(&self, settings: &ConnectionSettings) -> bool {
        self.opening.is_none() && !self.may_grow(settings)
    }

    pub fn add(&mut self, link: Rc<Link>) {
        self.links.push(link);
        self.room.changes();
    }

    /// Nothing runs and nothing is open.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.opening.is_none()
    }

    /// Lets go of those that are closed or have been idle for too long.
    pub fn sweep(&mut self, now: Instant, settings: &ConnectionSettings) {
        for link in &self.links {
            if link.is_open() && link.is_idle(now, settings.keep_alive) {
                link.retire();
            }
        }
        self.links.retain(|link| link.is_open() || link.streams() > 0);
    }

    /// The target was removed.
    pub fn retire(&mut self) {
        self.links.iter().for_each(|link| link.retire());
        self.links.retain(|link| link.streams() > 0);
    }

    /// What still runs has had its time.
    pub fn cut(&mut self) {
        self.links.drain(..).for_each(|link| link.cut());
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.links.iter().for_each(|link| link.retire());
    }
}
