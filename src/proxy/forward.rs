//! The attempt loop: pick, send, judge, and on another target again while that makes sense.

use super::client::Client;
use super::error::Fault;
use super::failed::{Answer, Failed, blame};
use super::headers::Traits;
use super::relay::Exchange;
use super::upload::{Gate, RequestBody, Upload};
use crate::balance::{PickCtx, Tried};
use crate::cluster::{PickError, Ticket};
use crate::model::Outcome;
use crate::policy::{Ask, Denied, Failure, Next, RetryReason, decide};
use crate::upstream::{SendError, Stage};
use http::{Request, StatusCode, header, request};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at a client that keeps its instance waiting.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Who has kept an attempt waiting for too long.
enum Late {
    Instance,
    Client,
}

/// One request and all its attempts.
pub(super) struct Call<'a> {
    pub exchange: &'a Exchange,
    pub head: &'a request::Parts,
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
        let mut ticket = self.ticket(&tried).await.map_err(Fault::Pick)?;
        loop {
            if worker.shared.own.contains(&ticket.target().endpoint.addr) {
                return Err(Fault::Loop);
            }
            tried.push(ticket.target().id());
            attempts += 1;
            let mut failed = match self.attempt(ticket, self.time_for(attempts, &tried), &may_repeat).await {
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
                tokio::time::sleep(after).await;
            }
            // Meanwhile the others may have gone or filled up, and the upload may have outgrown what is kept of it.
            ticket = match self.ticket(&tried).await {
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
    async fn ticket(&self, tried: &Tried) -> Result<Ticket, PickError> {
        let Exchange { worker, cluster, .. } = self.exchange;
        let pick = || {
            let mut rng = worker.rng.borrow_mut();
            let mut ctx = PickCtx { hash: None, tried, rng: &mut rng, now: Instant::now() };
            cluster.pick(&mut ctx)
        };
        let mut picked = pick();
        if matches!(picked, Err(PickError::Undiscovered))
            && cluster.wait_discovered(cluster.settings.timeouts.first_list.min(self.left())).await
        {
            picked = pick();
        }
        match picked {
            Err(PickError::Saturated) => cluster.pick_in_turn(self.left(), !tried.is_empty(), pick).await,
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
            match worker.upstream.send(&target, self.request(), settings, false).await {
                Err(error)
                    if self.is_stale_connection(&error)
                        && may_repeat.replace(false)
                        && cluster.budget.retry(worker.index, Instant::now()) =>
                {
                    cluster.tally(worker.index).retry(RetryReason::StaleConnection);
                    worker.upstream.send(&target, self.request(), settings, true).await
                }
                sent => sent,
            }
        };
        let sent = match self.in_time(sending, limit).await {
            Ok(sent) => sent,
            Err(Late::Instance) => {
                ticket.finish(Outcome::Timeout);
                return Err(Failed::Fault(Failure::Timeout, Fault::Timeout(target.endpoint.addr)));
            }
            Err(Late::Client) => {
                ticket.finish(Outcome::Abandoned);
                return Err(Failed::Fault(Failure::Protocol, Fault::UploadFailed));
            }
        };
        match sent {
            Ok(response) => {
                ticket.saw_head(Instant::now());
                let answer = Answer { response, ticket };
                match self.judge(&answer) {
                    None => Ok(answer),
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

    /// The head and the body from its beginning, for one more attempt.
    fn request(&self) -> Request<RequestBody> {
        let gate = self.traits.expects_continue.then(Arc::<Gate>::default);
        let mut request = Request::new(self.upload.play(gate.clone()));
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        *request.headers_mut() = self.head.headers.clone();
        *request.extensions_mut() = self.head.extensions.clone();
        if self.interim {
            let client = Arc::clone(&self.exchange.client);
            hyper::ext::on_informational(&mut request, move |interim| match (interim.status(), &gate) {
                // Hyper says "100 Continue" to the client when its body is first asked for.
                (StatusCode::CONTINUE, Some(gate)) => gate.open(),
                (StatusCode::CONTINUE, None) => {}
                (status, _) => pass_on(&client, status, interim.headers()),
            });
        }
        request
    }

    /// RFC 9112, section 9.3.1: a connection closed before the first byte of a response may have been closed before
    /// the request was seen; a request that is safe to repeat is repeated on a fresh one. Once for all its attempts:
    /// whoever kills each instance that sees it must not do so twice at each.
    fn is_stale_connection(&self, error: &SendError) -> bool {
        error.reused
            && !error.heard
            && error.stage == Stage::Head
            && !error.is_protocol()
            && !error.is_upload()
            && (self.traits.idempotent || self.exchange.cluster.settings.retry.unsafe_methods)
            && self.upload.is_replayable()
    }

    /// Waits for the response head, for an instance within `limit`. While it is the client's upload that is waited for,
    /// that clock stands still, and the client has its own.
    async fn in_time<T>(&self, sending: impl Future<Output = T>, limit: Duration) -> Result<T, Late> {
        let idle = self.exchange.cluster.settings.timeouts.idle;
        let begun = Instant::now();
        let mut sending = std::pin::pin!(sending);
        let mut deadline = begun + limit.min(idle);
        loop {
            if let Ok(sent) = tokio::time::timeout_at(deadline, sending.as_mut()).await {
                return Ok(sent);
            }
            let now = Instant::now();
            let since = self.upload.handed_over(now).unwrap_or(begun).max(begun);
            if since + limit <= now {
                return Err(Late::Instance);
            }
            let starved = self.upload.starved();
            if starved.is_some_and(|since| since + idle <= now) {
                return Err(Late::Client);
            }
            // Should the client go on before that, its instance still has the whole of its limit.
            deadline = (since + limit.max(SHORTEST_WAIT)).min(starved.unwrap_or(now) + idle);
        }
    }

    /// Whether a complete response counts as a failure that may be retried.
    fn judge(&self, answer: &Answer) -> Option<Failure> {
        let status = answer.response.status().as_u16();
        let retry_after = || {
            let text = answer.response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
            text.trim().parse().ok().map(Duration::from_secs)
        };
        match status {
            429 => retry_after().map(|after| Failure::Status(status, Some(after))),
            _ if self.exchange.cluster.settings.retry.statuses.contains(&status) => {
                Some(Failure::Status(status, retry_after()))
            }
            _ => None,
        }
    }

    /// Time left until the response head must be there.
    fn left(&self) -> Duration {
        let now = Instant::now();
        let begun = self.upload.handed_over(now).unwrap_or(self.exchange.started);
        let deadline = begun.max(self.exchange.started) + self.exchange.cluster.settings.timeouts.request;
        deadline.saturating_duration_since(now)
    }

    /// This attempt's share: what is left, divided among the attempts that may still be made.
    fn time_for(&self, attempt: u32, tried: &Tried) -> Duration {
        let retry = &self.exchange.cluster.settings.retry;
        let may_repeat = (self.traits.idempotent || retry.unsafe_methods) && self.upload.is_replayable();
        let others = if may_repeat { self.exchange.cluster.usable().saturating_sub(tried.len()) } else { 0 };
        let more = retry.attempts.saturating_sub(attempt).min(u32::try_from(others).unwrap_or(u32::MAX));
        self.left() / (1 + more)
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
            left: self.left(),
        };
        decide(&cluster.settings.retry, &ask, || cluster.budget.retry(worker.index, now), &mut *rng)
    }
}

/// Sends an interim response ahead of the real one (RFC 9110, section 15.2).
fn pass_on(client: &Client, status: StatusCode, headers: &http::HeaderMap) {
    let mut bytes =
        format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in headers {
        // An interim response has no body and no say over the connection.
        if matches!(
            *name,
            header::CONNECTION | header::TRANSFER_ENCODING | header::CONTENT_LENGTH | header::UPGRADE
        ) {
            continue;
        }
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    client.overtake(&bytes);
}
