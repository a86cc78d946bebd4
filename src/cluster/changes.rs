//! What one answer did to a cluster, for the log.

use crate::model::Endpoint;
use crate::telemetry::{Events, Kind};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// An update that touches more endpoints than this is told in one event.
const EACH: usize = 50;

/// Events in the making: a line for each endpoint, or one for a flood of them.
#[derive(Debug, Default)]
pub(super) struct Changes {
    events: Vec<(Kind, SocketAddr, String)>,
    counts: [(&'static str, usize); 5],
    /// Why a source let go of an endpoint.
    dropped: BTreeMap<SocketAddr, &'static str>,
    /// Addresses of which a source's word is another than before.
    touched: Vec<SocketAddr>,
}

impl Changes {
    pub(super) fn note(&mut self, kind: Kind, addr: SocketAddr, detail: impl Into<String>) {
        let place = match kind {
            Kind::EndpointAdded => Some((0, "added")),
            Kind::EndpointRemoved => Some((1, "removed")),
            Kind::EndpointChanged => Some((2, "changed")),
            Kind::EndpointSuspected => Some((3, "suspect")),
            Kind::EndpointKept => Some((4, "kept")),
            _ => None,
        };
        if let Some((place, word)) = place
            && let Some(count) = self.counts.get_mut(place)
        {
            *count = (word, count.1 + 1);
        }
        if self.events.len() <= EACH {
            self.events.push((kind, addr, detail.into()));
        }
    }

    /// Something about an address is to be looked at.
    pub(super) fn touch(&mut self, addr: SocketAddr) {
        self.touched.push(addr);
    }

    /// The addresses to be looked at, each once, in order. There are none left then.
    pub(super) fn take_touched(&mut self) -> Vec<SocketAddr> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    pub(super) fn dropped(&mut self, addr: SocketAddr, why: &'static str) {
        self.dropped.insert(addr, why);
    }

    /// Why an endpoint is gone.
    pub(super) fn why(&self, addr: SocketAddr) -> &'static str {
        self.dropped.get(&addr).copied().unwrap_or("no longer listed")
    }

    pub(super) fn tell(self, events: &Events, service: &str) {
        if self.events.len() > EACH {
            let counts = self.counts.iter().filter(|(_, count)| *count > 0);
            let detail: Vec<_> = counts.map(|(word, count)| format!("{count} {word}")).collect();
            events.emit(Kind::SetChanged, service, None, detail.join(", "));
            return;
        }
        for (kind, addr, detail) in self.events {
            events.emit(kind, service, Some(addr), detail);
        }
    }
}

/// What changed in an endpoint's description, in words; `out` is what takes the old and the new one out, if anything.
pub(super) fn difference(old: &Endpoint, new: &Endpoint, out: [Option<&Arc<str>>; 2]) -> String {
    let mut words = Vec::new();
    if old.instance != new.instance {
        words.push(format!("known as {}", new.instance));
    }
    if old.weight != new.weight {
        words.push(format!("weight {} to {}", old.weight.get(), new.weight.get()));
    }
    match out {
        [before, now] if before == now => {}
        [_, Some(why)] => words.push(format!("out: {why}")),
        [_, None] => words.push("passing again".to_owned()),
    }
    if old.zone != new.zone {
        words.push("zone".to_owned());
    }
    if old.meta != new.meta {
        words.push("metadata".to_owned());
    }
    words.join(", ")
}
