//! The attempt loop: pick, send, judge, and on another target again while that makes sense.

use super::error::Fault;
use super::failed::{Answer, Failed, blame, outcome_of};
use super::grpc;
use super::headers::{self, Traits};
use super::relay::Exchange;
use super::upload::{Gate, Upload};
use crate::balance::{PickCtx, Tried};
use crate::cluster::{PickError, Ticket};
use crate::model::{Outcome, Target};
use crate::net::field::Field;
use crate::policy::{Ask, Denied, Failure, Next, RetryReason, decide};
use crate::upstream::{ConnectionSettings, Framing, Head, Reply, SendError, Sending, Stage};
use http::StatusCode;
use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at a client that keeps its instance waiting.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Who has had less than this before the client's own deadline was over has not failed.
const FAIR_TIME: Duration = Duration::from_secs(1);

/// Who has kept an attempt waiting for too long.
enum Late {
    Instance,
    Client,
}

/// One request and all its attempts.
pub(super) struct Call<'a> {
    pub exchange: &'a Exchange,
    /// As the instances get it.
    pub head: &'a [u8],
    pub framing: Framing,
    /// The method is HEAD.
    pub to_head: bool,
    pub upload: &'a Upload,
    pub traits: Traits,
    /// The client understands 1xx responses.
    pub interim: bool,
}

impl Call<'_> {
    /// Makes attempts until one is good enough or nothing more may be tried.
    pub async fn run(&self) -> Result<Answer, Fault> {
        let Exchange { worker, cluster, started, .. } = self.exchange;
        let tally = cluster.tally(worker.index);
        cluster.budget.request(worker.index, *started);
        let mut tried = Tried::default();
        let mut attempts = 0;
        let may_repeat = Cell::new(true);
        let mut ticket = self.ticket(&tried, *started).await.map_err(Fault::Pick)?;
        loop {
            if worker.shared.own.contains(&ticket.target().endpoint.addr) {
                return Err(Fault::Loop);
            }
            tried.push(ticket.target().id());
            attempts += 1;
            let limit =
                self.time_for(attempts, ticket.choices().saturating_sub(tried.len()), ticket.started());
            let mut failed = match self.attempt(ticket, limit, &may_repeat).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let (after, reason) = match self.next(failed.failure(), attempts, &tried) {
                Next::Retry { after, reason } => (after, reason),
                Next::Return(denied) => {
                    denied.into_iter().for_each(|why| tally.denied(why));
                    return failed.give_up();
                }
            };
            failed.settle();
            if !after.is_zero() {
                Box::pin(tokio::time::sleep(after)).await;
            }
            // Meanwhile the others may have gone or filled up, and the upload may have outgrown what is kept of it.
            ticket = match self.ticket(&tried, Instant::now()).await {
                Ok(ticket) if self.upload.is_replayable() => ticket,
                picked => {
                    tally.denied(if picked.is_ok() { Denied::BodyTooLarge } else { Denied::NoOtherTarget });
                    return failed.give_up();
                }
            };
            failed.forget(worker);
            tally.retry(reason);
        }
    }

    /// A target that was not tried; waits for the first list, or for room, but never for anything else.
    async fn ticket(&self, tried: &Tried, now: Instant) -> Result<Ticket, PickError> {
        let Exchange { worker, cluster, .. } = self.exchange;
        let pick = |now| {
            let mut rng = worker.rng.borrow_mut();
            let mut ctx = PickCtx { hash: None, tried, rng: &mut rng, now };
            cluster.pick(&mut ctx)
        };
        let mut picked = pick(now);
        if matches!(picked, Err(PickError::Undiscovered))
            && Box::pin(cluster.wait_discovered(cluster.settings.timeouts.first_list.min(self.left(now))))
                .await
        {
            picked = pick(Instant::now());
        }
        match picked {
            Err(PickError::Saturated) => {
                let (now, pick) = (Instant::now(), || pick(Instant::now()));
                // Room at the instances of one part of a service is none for the others.
                let again = !tried.is_empty() || cluster.is_part();
                Box::pin(cluster.pick_in_turn(self.left(now), again, pick)).await
            }
            picked => picked,
        }
    }

    /// One attempt within `limit`; on a kept-alive connection that turns out dead, once more on a fresh one, which
    /// uses up `may_repeat`.
    async fn attempt(
        &self,
        mut ticket: Ticket,
        limit: Duration,
        may_repeat: &Cell<bool>,
    ) -> Result<Answer, Failed> {
        let Exchange { worker, cluster, .. } = self.exchange;
        let settings = &cluster.settings.connections;
        let target = Arc::clone(ticket.target());
        let sending = async {
            match self.send(&target, settings, false).await {
                Err(error)
                    if self.is_stale_connection(&error)
                        && may_repeat.replace(false)
                        && (error.stage == Stage::Unsent
                            || cluster.budget.retry(worker.index, Instant::now())) =>
                {
                    cluster.tally(worker.index).retry(RetryReason::StaleConnection);
                    Box::pin(self.send(&target, settings, true)).await
                }
                sent => sent,
            }
        };
        // By reference: what is handed to a future by value has room in it twice.
        let sending = std::pin::pin!(sending);
        let sent = match self.in_time(sending, ticket.started(), limit).await {
            Ok(sent) => sent,
            Err(Late::Instance) => {
                let is_hasty = self.traits.deadline.is_some() && ticket.started().elapsed() < FAIR_TIME;
                ticket.finish(if is_hasty { Outcome::Abandoned } else { Outcome::Timeout });
                return Err(Failed::Fault(Failure::Timeout, Fault::Timeout(target.endpoint.addr)));
            }
            Err(Late::Client) => {
                ticket.finish(Outcome::Abandoned);
                return Err(Failed::Fault(Failure::Protocol, Fault::UploadFailed));
            }
        };
        match sent {
            Ok(reply) => {
                let now = Instant::now();
                ticket.saw_head(now);
                self.exchange.saw_head(now);
                let mut answer = Answer { reply, ticket };
                match self.judge(&answer) {
                    None => {
                        if answer.ticket.is_watched() && outcome_of(&answer.reply.head) == Outcome::Success {
                            answer.ticket.proves();
                        }
                        Ok(answer)
                    }
                    Some(failure) => Err(Failed::Status(failure, Box::new(answer))),
                }
            }
            Err(error) => {
                let (failure, outcome, fault) = blame(&error, target.endpoint.addr);
                tracing::debug!(cluster = %cluster.name(), target.addr = %target.endpoint.addr, %error, "attempt failed");
                ticket.finish(outcome);
                Err(Failed::Fault(failure, fault))
            }
        }
    }

    /// Sends the head, and the body from its beginning.
    async fn send(
        &self,
        target: &Target,
        settings: &ConnectionSettings,
        fresh: bool,
    ) -> Result<Reply, SendError> {
        let gate = self.traits.expects_continue.then(Arc::<Gate>::default);
        let body = self.upload.play(gate.clone());
        let interim = |head: &Head| match (head.status, &gate) {
            // The client hears "100 Continue" when its body is first asked for.
            (StatusCode::CONTINUE, Some(gate)) => gate.open(),
            (StatusCode::CONTINUE, None) => {}
            _ if self.interim => pass_on(self.exchange, head),
            _ => {}
        };
        let timed;
        let head = match self.traits.deadline {
            // Of the whole call, while our own time limit is for the head alone.
            Some(deadline) => {
                let left = (self.exchange.started + deadline).saturating_duration_since(Instant::now());
                timed = grpc::with_timeout(self.head, left);
                &*timed
            }
            None => self.head,
        };
        let ask = Sending {
            head,
            framing: self.framing,
            to_head: self.to_head,
            grpc: self.traits.grpc,
            upgrade: self.traits.upgrade,
            interim: &interim,
        };
        self.exchange.worker.upstream.send(target, &ask, body, settings, fresh).await
    }

    /// RFC 9112, section 9.3.1: a connection closed before the first byte of a response may have been closed before
    /// the request was seen; a request that is safe to repeat is repeated on a fresh one. Once for all its attempts:
    /// whoever kills each instance that sees it must not do so twice at each. A request that was not seen for certain may
    /// be any.
    fn is_stale_connection(&self, error: &SendError) -> bool {
        let may_be_seen = error.stage == Stage::Head;
        error.reused
            && !error.heard
            && matches!(error.stage, Stage::Head | Stage::Unsent)
            && !error.is_protocol()
            && !error.is_upload()
            && (!may_be_seen || self.traits.idempotent || self.exchange.cluster.settings.retry.unsafe_methods)
            && self.upload.is_replayable()
    }

    /// Waits for the response head, for an instance within `limit`. While it is the client's upload that is waited for,
    /// that clock stands still, and the client has its own.
    async fn in_time<T>(
        &self,
        mut sending: Pin<&mut impl Future<Output = T>>,
        begun: Instant,
        limit: Duration,
    ) -> Result<T, Late> {
        let idle = self.exchange.cluster.settings.timeouts.idle;
        // A gRPC deadline stands still for nobody.
        let end = self.traits.deadline.map(|deadline| self.exchange.started + deadline);
        let mut now = begun;
        let mut deadline = begun + limit.min(idle);
        loop {
            if let Some(sent) = self.exchange.worker.alarm.timeout_at(now, deadline, sending.as_mut()).await {
                return Ok(sent);
            }
            now = Instant::now();
            let since = self.upload.handed_over(now).unwrap_or(begun).max(begun);
            if since + limit <= now || end.is_some_and(|end| end <= now) {
                return Err(Late::Instance);
            }
            let starved = self.upload.starved();
            if starved.is_some_and(|since| since + idle <= now) {
                return Err(Late::Client);
            }
            // Should the client go on before that, its instance still has the whole of its limit.
            deadline = (since + limit.max(SHORTEST_WAIT)).min(starved.unwrap_or(now) + idle);
            deadline = end.map_or(deadline, |end| deadline.min(end));
        }
    }

    /// Whether a complete response counts as a failure that may be retried.
    fn judge(&self, answer: &Answer) -> Option<Failure> {
        let head = &answer.reply.head;
        let status = head.status.as_u16();
        let retry_after = || {
            let text = head.fields.all(Field::RetryAfter).next()?;
            std::str::from_utf8(text).ok()?.trim().parse().ok().map(Duration::from_secs)
        };
        match status {
            200 if self.traits.grpc && grpc::is_unavailable(&head.fields) => {
                // Another sidecar says so of a call that its instance may have begun.
                let begun = |(_, name, value): (Field, &[u8], &[u8])| {
                    name.eq_ignore_ascii_case(b"x-outrigger-error") && value.starts_with(b"upstream_reset")
                };
                (!head.fields.iter().any(begun)).then_some(Failure::Unavailable)
            }
            429 => retry_after().map(|after| Failure::Status(status, Some(after))),
            _ if self.exchange.cluster.settings.retry.statuses.contains(&status) => {
                Some(Failure::Status(status, retry_after()))
            }
            _ => None,
        }
    }

    /// Time left until the response head must be there.
    fn left(&self, now: Instant) -> Duration {
        let begun = self.upload.handed_over(now).unwrap_or(self.exchange.started);
        let deadline = begun.max(self.exchange.started) + self.exchange.cluster.settings.timeouts.request;
        let left = deadline.saturating_duration_since(now);
        match self.traits.deadline {
            Some(deadline) => left.min((self.exchange.started + deadline).saturating_duration_since(now)),
            None => left,
        }
    }

    /// This attempt's share: what is left, divided among the attempts that may still be made, at so many `others`.
    fn time_for(&self, attempt: u32, others: usize, now: Instant) -> Duration {
        let retry = &self.exchange.cluster.settings.retry;
        let may_repeat = (self.traits.idempotent || retry.unsafe_methods) && self.upload.is_replayable();
        let others = if may_repeat { others } else { 0 };
        let more = retry.attempts.saturating_sub(attempt).min(u32::try_from(others).unwrap_or(u32::MAX));
        self.left(now) / (1 + more)
    }

    fn next(&self, failure: Failure, attempts: u32, tried: &Tried) -> Next {
        let Exchange { worker, cluster, .. } = self.exchange;
        let mut rng = worker.rng.borrow_mut();
        let now = Instant::now();
        let ask = Ask {
            failure,
            attempts,
            idempotent: self.traits.idempotent,
            replayable: self.upload.is_replayable(),
            other_target: cluster.has_untried(tried),
            left: self.left(now),
        };
        decide(&cluster.settings.retry, &ask, || cluster.budget.retry(worker.index, now), &mut *rng)
    }
}

/// Sends an interim response ahead of the real one (RFC 9110, section 15.2).
fn pass_on(exchange: &Exchange, head: &Head) {
    if let Some(stream) = &exchange.stream {
        return stream.inform(head);
    }
    let status = head.status;
    let mut bytes =
        format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("")).into_bytes();
    headers::interim_to_client(&head.fields, &mut bytes);
    exchange.client.overtake(&bytes);
}
