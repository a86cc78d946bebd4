//! The last thousand things that happened, each also a log line and a counter.

use super::Counter;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::broadcast;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    EndpointAdded,
    EndpointRemoved,
    EndpointChanged,
    /// The registry let go of it in a way that deserves no trust yet.
    EndpointSuspected,
    /// A suspect was confirmed by a later answer.
    EndpointKept,
    /// An active check failed it.
    EndpointUnhealthy,
    /// An active check found it well again.
    EndpointHealthy,
    /// The registry calls it passing, and requests or checks do not reach it.
    EndpointDisputed,
    /// Requests failed at it so often that it gets none for a while.
    EndpointEjected,
    /// It is one like the others again.
    EndpointReadmitted,
    /// So few instances are usable that our own verdicts are ignored.
    PanicBegan,
    PanicEnded,
    /// More endpoints changed at once than deserve a line each.
    SetChanged,
    /// A registry entry that cannot be used.
    EntrySkipped,
    SourceFailing,
    SourceRecovered,
    /// It answers, but somebody may have to mend something: a right that is missing, a leader that is.
    SourceDoubted,
    /// Another source of several is used now.
    SourceSelected,
    /// A list that was kept on disk serves until the source answers.
    SnapshotUsed,
    /// A list that was kept on disk is of no use; the detail says why.
    SnapshotRefused,
    /// The local app is in the registry now.
    RegistrationMade,
    /// It was still there, and is vouched for anew after a break.
    RegistrationRenewed,
    /// The registry has forgotten it, or gave its place to somebody else.
    RegistrationLost,
    /// It was taken out.
    RegistrationWithdrawn,
    /// The registry does not take it; told when it begins.
    RegistrationFailing,
    TaskPanicked,
    Started,
    Stopping,
}

impl Kind {
    pub const ALL: [Self; 28] = [
        Self::EndpointAdded,
        Self::EndpointRemoved,
        Self::EndpointChanged,
        Self::EndpointSuspected,
        Self::EndpointKept,
        Self::EndpointUnhealthy,
        Self::EndpointHealthy,
        Self::EndpointDisputed,
        Self::EndpointEjected,
        Self::EndpointReadmitted,
        Self::PanicBegan,
        Self::PanicEnded,
        Self::SetChanged,
        Self::EntrySkipped,
        Self::SourceFailing,
        Self::SourceRecovered,
        Self::SourceDoubted,
        Self::SourceSelected,
        Self::SnapshotUsed,
        Self::SnapshotRefused,
        Self::RegistrationMade,
        Self::RegistrationRenewed,
        Self::RegistrationLost,
        Self::RegistrationWithdrawn,
        Self::RegistrationFailing,
        Self::TaskPanicked,
        Self::Started,
        Self::Stopping,
    ];

    /// The word in logs, metrics and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointAdded => "endpoint_added",
            Self::EndpointRemoved => "endpoint_removed",
            Self::EndpointChanged => "endpoint_changed",
            Self::EndpointSuspected => "endpoint_suspected",
            Self::EndpointKept => "endpoint_kept",
            Self::EndpointUnhealthy => "endpoint_unhealthy",
            Self::EndpointHealthy => "endpoint_healthy",
            Self::EndpointDisputed => "endpoint_disputed",
            Self::EndpointEjected => "endpoint_ejected",
            Self::EndpointReadmitted => "endpoint_readmitted",
            Self::PanicBegan => "panic_began",
            Self::PanicEnded => "panic_ended",
            Self::SetChanged => "set_changed",
            Self::EntrySkipped => "entry_skipped",
            Self::SourceFailing => "source_failing",
            Self::SourceRecovered => "source_recovered",
            Self::SourceDoubted => "source_doubted",
            Self::SourceSelected => "source_selected",
            Self::SnapshotUsed => "snapshot_used",
            Self::SnapshotRefused => "snapshot_refused",
            Self::RegistrationMade => "registration_made",
            Self::RegistrationRenewed => "registration_renewed",
            Self::RegistrationLost => "registration_lost",
            Self::RegistrationWithdrawn => "registration_withdrawn",
            Self::RegistrationFailing => "registration_failing",
            Self::TaskPanicked => "task_panicked",
            Self::Started => "started",
            Self::Stopping => "stopping",
        }
    }

    /// One log line, its message the kind's word. What somebody may have to mend is a warning, a panic an error.
    fn log(self, service: &str, endpoint: Option<SocketAddr>, detail: &str) {
        let word = self.as_str();
        let service = (!service.is_empty()).then_some(service);
        let addr = endpoint.map(tracing::field::display);
        match self {
            Self::SourceFailing
            | Self::SourceDoubted
            | Self::EntrySkipped
            | Self::EndpointDisputed
            | Self::PanicBegan
            | Self::SnapshotRefused
            | Self::RegistrationLost
            | Self::RegistrationFailing => tracing::warn!(service, addr, detail, "{word}"),
            Self::TaskPanicked => tracing::error!(service, addr, detail, "{word}"),
            _ => tracing::info!(service, addr, detail, "{word}"),
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// Counts from 1 in this process, without gaps.
    pub seq: u64,
    pub at: SystemTime,
    pub kind: Kind,
    /// The service it happened to; empty for the process itself.
    pub service: String,
    pub endpoint: Option<SocketAddr>,
    pub detail: String,
}

/// Handle on the log of events; clones share it.
#[derive(Clone, Debug)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Held for a push or a copy, never across an await.
    recent: Mutex<(u64, VecDeque<Arc<Event>>)>,
    counts: [Counter; Kind::ALL.len()],
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Inner {
            recent: Mutex::default(),
            counts: Default::default(),
            live: broadcast::channel(256).0,
        }))
    }
}

impl Events {
    /// How many events are remembered.
    pub const KEPT: usize = 1000;

    pub fn emit(&self, kind: Kind, service: &str, endpoint: Option<SocketAddr>, detail: impl Into<String>) {
        let detail = detail.into();
        kind.log(service, endpoint, &detail);
        if let Some(count) = self.0.counts.get(kind as usize) {
            count.inc();
        }
        let mut recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.0 += 1;
        let event = Arc::new(Event {
            seq: recent.0,
            at: SystemTime::now(),
            kind,
            service: service.to_owned(),
            endpoint,
            detail,
        });
        if recent.1.len() == Self::KEPT {
            recent.1.pop_front();
        }
        recent.1.push_back(Arc::clone(&event));
        // Sent under the lock, so that followers see the same order; nobody listening is fine.
        let _ = self.0.live.send(event);
    }

    /// The last events, newest last.
    pub fn recent(&self) -> Vec<Arc<Event>> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).1.iter().cloned().collect()
    }

    /// The remembered events, and a receiver of all that follow them, without a gap between the two.
    pub fn follow(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.1.iter().cloned().collect(), self.0.live.subscribe())
    }

    /// How often each kind happened.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().zip(self.0.counts.iter().map(Counter::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_thousand_are_kept_in_order() {
        let events = Events::default();
        for n in 0..1_100 {
            events.emit(Kind::EntrySkipped, "web", None, n.to_string());
        }
        let recent = events.recent();
        assert_eq!(recent.len(), Events::KEPT);
        assert_eq!((recent[0].seq, recent[999].seq), (101, 1_100));
        assert_eq!(recent[999].detail, "1099");
        assert_eq!(events.counts().find(|c| c.0 == Kind::EntrySkipped).unwrap().1, 1_100);
    }

    #[test]
    fn a_follower_misses_nothing() {
        let events = Events::default();
        events.emit(Kind::Started, "", None, "");
        let (past, mut live) = events.follow();
        events.emit(Kind::Stopping, "", None, "");
        assert_eq!((past.len(), past[0].kind), (1, Kind::Started));
        assert_eq!(live.try_recv().unwrap().kind, Kind::Stopping);
    }

    #[test]
    fn every_kind_has_its_place_and_its_word() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(place, kind as usize);
        }
        let words: std::collections::HashSet<_> = Kind::ALL.iter().map(|k| k.as_str()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
    }
}
