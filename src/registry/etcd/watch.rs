//! One watch on one stream: whole revisions, in order, and never silence for long.

use super::auth::Token;
use super::error::EtcdError;
use super::member::{Member, within};
use super::messages::{
    Event, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchRequestUnion, WatchResponse,
};
use super::prefix_end;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Streaming;

/// What is watched, from where, and how long silence is borne.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRange {
    pub prefix: Vec<u8>,
    /// The first revision to be seen.
    pub start: i64,
    /// After this much silence the member is asked for its progress ...
    pub silence: Duration,
    /// ... and without an answer within this, given up.
    pub progress_timeout: Duration,
}

/// A watch that stands. Dropping it ends it at the member too. It ends for good with its first error.
#[derive(Debug)]
pub struct Watch {
    member: String,
    stream: Streaming<WatchResponse>,
    requests: mpsc::Sender<WatchRequest>,
    created: i64,
    /// Events of a revision whose last message is still to come.
    fragments: Vec<Event>,
    silence: Duration,
    progress_timeout: Duration,
    heard: Instant,
    asked: Option<Instant>,
}

/// What a watch has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Whole revisions, in order; never empty.
    Changed(Vec<Event>),
    /// The member's key space is at this revision. Versions before 3.4.25 and 3.5.8 may say so before they have sent
    /// all events up to it (etcd issue 15220).
    Progress(i64),
}

impl Watch {
    /// Opens the stream and waits for the member's word that the watch stands.
    pub(super) async fn open(
        member: &mut Member,
        token: Option<&Token>,
        range: &WatchRange,
    ) -> Result<Self, EtcdError> {
        let name = member.name().to_owned();
        within(member.request_timeout(), &name, Self::opening(member, token, range)).await
    }

    async fn opening(
        member: &mut Member,
        token: Option<&Token>,
        range: &WatchRange,
    ) -> Result<Self, EtcdError> {
        let create = WatchRequestUnion::Create(WatchCreateRequest {
            key: range.prefix.clone(),
            range_end: prefix_end(&range.prefix),
            start_revision: range.start,
            fragment: true,
        });
        let (requests, mut queue) = mpsc::channel(2);
        // The queue is new and empty: this cannot fail.
        let _ = requests.try_send(WatchRequest { request_union: Some(create) });
        let queue = futures_util::stream::poll_fn(move |cx| queue.poll_recv(cx));
        let mut stream = member.stream("/etcdserverpb.Watch/Watch", queue, token, true).await?;
        let first: Option<WatchResponse> =
            stream.message().await.map_err(|status| EtcdError::of_status(member.name(), &status))?;
        let mut watch = Self {
            member: member.name().to_owned(),
            stream,
            requests,
            created: 0,
            fragments: Vec::new(),
            silence: range.silence,
            progress_timeout: range.progress_timeout,
            heard: Instant::now(),
            asked: None,
        };
        match first {
            Some(message) if message.created && !message.canceled => {
                watch.created = message.header.map_or(0, |header| header.revision);
                Ok(watch)
            }
            Some(message) if message.canceled => Err(canceled(&watch.member, &message)),
            Some(_) => Err(watch.gone("answered a watch before it stood")),
            None => Err(watch.gone("closed the watch")),
        }
    }

    /// Of the key space when the watch was made: lower than a revision seen before means lost history.
    pub fn created_revision(&self) -> i64 {
        self.created
    }

    /// The next change or sign of progress. Cancel-safe.
    ///
    /// # Errors
    /// Whatever ends the watch; [`EtcdError::Compacted`] if its start is gone. It is to be dropped then.
    pub async fn next(&mut self) -> Result<Update, EtcdError> {
        loop {
            let limit = match self.asked {
                Some(at) => at + self.progress_timeout,
                None => self.heard + self.silence,
            };
            tokio::select! {
                biased;
                message = self.stream.message() => {
                    let message = message.map_err(|status| EtcdError::of_status(&self.member, &status))?;
                    let message = message.ok_or_else(|| self.gone("closed the watch"))?;
                    self.heard = Instant::now();
                    self.asked = None;
                    if let Some(update) = self.take(message)? {
                        return Ok(update);
                    }
                }
                () = tokio::time::sleep_until(limit) => self.ask_or_give_up()?,
            }
        }
    }

    fn ask_or_give_up(&mut self) -> Result<(), EtcdError> {
        if self.asked.is_some() {
            return Err(self.gone(&format!("no sign of life within {:?}", self.progress_timeout)));
        }
        let ask = WatchRequest { request_union: Some(WatchRequestUnion::Progress(WatchProgressRequest {})) };
        // A full queue means that the member takes nothing in; the timeout will tell.
        let _ = self.requests.try_send(ask);
        self.asked = Some(Instant::now());
        Ok(())
    }

    fn take(&mut self, message: WatchResponse) -> Result<Option<Update>, EtcdError> {
        if message.canceled {
            return Err(canceled(&self.member, &message));
        }
        if message.created {
            return Ok(None);
        }
        let revision = message.header.map_or(0, |header| header.revision);
        if message.events.is_empty() && !message.fragment && self.fragments.is_empty() {
            return Ok(Some(Update::Progress(revision)));
        }
        self.fragments.extend(message.events);
        if message.fragment {
            return Ok(None);
        }
        Ok(Some(Update::Changed(std::mem::take(&mut self.fragments))))
    }

    fn gone(&self, what: &str) -> EtcdError {
        EtcdError::Unavailable(format!("{}: {what}", self.member))
    }
}

fn canceled(member: &str, message: &WatchResponse) -> EtcdError {
    if message.compact_revision > 0 {
        let text = format!("{member}: compacted up to revision {}", message.compact_revision);
        return EtcdError::Compacted(text);
    }
    EtcdError::of_cancel(member, &message.cancel_reason)
}
