//! `/api/events`: what happened, as a list or followed live.

use super::answer::{Answer, json, quality, refuse, stream, whole};
use super::desk::{Desk, FOLLOWERS};
use crate::rt::Stop;
use crate::telemetry::{Event, Events};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Serialize;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, Interval, interval_at};

/// A comment this often tells proxies and clients that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const STREAM: &str = "text/event-stream";

#[derive(Serialize)]
struct Told<'a> {
    seq: u64,
    /// RFC 3339.
    at: String,
    kind: &'static str,
    service: &'a str,
    endpoint: Option<SocketAddr>,
    detail: &'a str,
}

impl<'a> Told<'a> {
    fn new(event: &'a Event) -> Self {
        Self {
            seq: event.seq,
            at: humantime::format_rfc3339_millis(event.at).to_string(),
            kind: event.kind.as_str(),
            service: &event.service,
            endpoint: event.endpoint,
            detail: &event.detail,
        }
    }
}

pub(super) fn answer(desk: &Desk, method: &Method, headers: &HeaderMap) -> Answer {
    let events = &desk.window.events;
    if quality(headers, STREAM) <= 0.0 {
        let recent = events.recent();
        return json(&recent.iter().map(|event| Told::new(event)).collect::<Vec<_>>());
    }
    if method == Method::HEAD {
        return whole(StatusCode::OK, STREAM, Bytes::new());
    }
    let Ok(place) = Arc::clone(&desk.followers).try_acquire_owned() else {
        let detail = format!("{FOLLOWERS} clients follow the events already");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too_many_followers", &detail);
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok());
    let follower = Follower::new(events.clone(), last.unwrap_or(0), desk.stop.clone(), place);
    let frames = futures_util::stream::unfold(follower, |mut follower| async move {
        let text = follower.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), follower))
    });
    stream(STREAM, StreamBody::new(frames).boxed_unsync())
}

/// One client that follows the events, in the format of server-sent events (WHATWG HTML, section 9.2).
struct Follower {
    events: Events,
    /// Not told yet.
    past: Vec<Arc<Event>>,
    live: Receiver<Arc<Event>>,
    /// The number of the last one told.
    last: u64,
    ticks: Interval,
    stop: Stop,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    fn new(events: Events, last: u64, stop: Stop, place: OwnedSemaphorePermit) -> Self {
        let (past, live) = events.follow();
        // A number that was not given out yet is from an earlier life of this process: nothing of this one is known.
        let last = if past.last().is_some_and(|newest| last <= newest.seq) { last } else { 0 };
        let ticks = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        Self { events, past, live, last, ticks, stop, _place: place }
    }

    /// What is to be sent next; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            let text = self.tell();
            if !text.is_empty() {
                return Some(text);
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                heard = self.live.recv() => match heard {
                    Ok(event) => self.past.push(event),
                    // Too slow for the live events: the remembered ones fill what can be filled.
                    Err(RecvError::Lagged(_)) => (self.past, self.live) = self.events.follow(),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.ticks.tick() => return Some(": keep-alive\n\n".to_owned()),
            }
        }
    }

    fn tell(&mut self) -> String {
        let mut text = String::new();
        for event in self.past.drain(..) {
            if event.seq <= self.last {
                continue;
            }
            self.last = event.seq;
            // JSON has no line breaks of its own, so one `data` line holds it; a String takes all that is written.
            if let Ok(data) = serde_json::to_string(&Told::new(&event)) {
                let _ = write!(text, "id: {}\ndata: {data}\n\n", event.seq);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Kind;
    use tokio::sync::Semaphore;

    fn follower(events: &Events, last: u64, stop: Stop) -> Follower {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Follower::new(events.clone(), last, stop, place)
    }

    fn ids(text: &str) -> Vec<u64> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_hears_the_past_then_the_present_then_a_sign_of_life() {
        let (events, stop) = (Events::default(), Stop::new());
        events.emit(Kind::Started, "", None, "two\nlines");
        let mut follower = follower(&events, 0, stop.clone());
        let text = follower.next().await.unwrap();
        assert_eq!(ids(&text), [1]);
        assert_eq!(text.lines().count(), 3, "a line break in an event's text breaks nothing: {text}");
        events.emit(Kind::Stopping, "", None, "");
        assert_eq!(ids(&follower.next().await.unwrap()), [2]);
        let before = Instant::now();
        assert_eq!(follower.next().await.unwrap(), ": keep-alive\n\n");
        assert_eq!(before.elapsed(), KEEP_ALIVE);
        stop.cancel();
        assert!(follower.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_goes_on_where_it_was_unless_that_was_another_process() {
        let events = Events::default();
        for _ in 0..5 {
            events.emit(Kind::Started, "", None, "");
        }
        for (last, expected) in [(3, vec![4, 5]), (6, vec![1, 2, 3, 4, 5])] {
            let text = follower(&events, last, Stop::new()).next().await.unwrap();
            assert_eq!(ids(&text), expected, "Last-Event-ID {last}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_follower_gets_what_is_still_remembered() {
        let events = Events::default();
        let mut follower = follower(&events, 0, Stop::new());
        for _ in 0..1_500 {
            events.emit(Kind::Started, "", None, "");
        }
        let heard = ids(&follower.next().await.unwrap());
        assert_eq!((heard.first(), heard.last()), (Some(&501), Some(&1_500)));
    }
}
