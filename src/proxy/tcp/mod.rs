//! A TCP connection: one pick, retried until an instance is connected, then bytes both ways.

mod relay;
mod watch;

pub(super) use watch::Streams;

use super::client::Phase;
use super::error::Fault;
use super::failed::blame;
use super::proxy_protocol::{self, Addresses};
use super::transport::Transport;
use super::worker::Seat;
use crate::balance::{PickCtx, Tried};
use crate::cluster::{Booth, PickError, Ticket};
use crate::model::Outcome;
use crate::policy::{Ask, Denied, Failure, Next, decide};
use crate::upstream::{Socket, connect_for_bytes};
use relay::{End, Side};
use socket2::SockRef;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use watch::Verdict;

/// Serves one connection to its end. `addresses` are those that the instance may be told.
pub(super) async fn serve(seat: Rc<Seat>, client: Transport, addresses: Option<Addresses>) {
    let started = Instant::now();
    seat.client.enter(Phase::Tunnel, started);
    let booth = Booth::new(Arc::clone(&seat.client.cluster), seat.worker.index);
    let mut account = Account { seat: &seat, booth: &booth, started, code: Some(Account::CLIENT_WENT_AWAY) };
    let call = Call { seat: &seat, booth: &booth, started, addresses };
    match call.connect().await {
        Ok((instance, ticket)) => {
            account.code = None;
            booth.tally(seat.worker.index).carried();
            // In a box: while it waits for an instance, the task need not have room for both.
            Box::pin(carry(&seat, client, instance, ticket)).await;
        }
        Err(fault) => {
            account.code = Some(fault.status().as_u16());
            tracing::debug!(service = %booth.name(), code = fault.code(), ?fault, "connection refused");
            reset(client.socket());
        }
    }
}

/// Has the peer see an abrupt end (RST) when the socket is closed: what was promised is not kept.
pub(super) fn reset(stream: &TcpStream) {
    // One that has failed already needs none.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// One connection's account; closed when it is dropped.
struct Account<'a> {
    seat: &'a Seat,
    booth: &'a Rc<Booth>,
    started: Instant,
    /// What an HTTP client would have been told; nothing once an instance is connected.
    code: Option<u16>,
}

impl Account<'_> {
    /// What is counted when it ended before that.
    const CLIENT_WENT_AWAY: u16 = 499;
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let tally = self.booth.tally(self.seat.worker.index);
        match self.code {
            Some(code) => tally.request(code, took),
            None => tally.carried_for(took),
        }
        tracing::debug!(service = %self.booth.name(), code = self.code, ?took, peer = %self.seat.client.peer, "connection");
    }
}

/// Bytes both ways until both sides have ended, one has broken off, or it is cut.
async fn carry(seat: &Seat, mut client: Transport, mut instance: Socket, mut ticket: Ticket) {
    let settings = &seat.client.cluster.settings;
    let streams = &seat.worker.streams;
    let (idle, drain) = (settings.timeouts.upgraded_idle, settings.connections.drain);
    let watch = streams.watch(&ticket, idle, drain, Instant::now());
    let mut silent = true;
    let end = relay::run(&mut client, &mut instance, &watch, streams, || {
        if std::mem::take(&mut silent) {
            ticket.saw_head(Instant::now());
            ticket.proves();
        }
    });
    let end = end.await;
    tracing::debug!(service = %settings.name, ?end, "connection ended");
    let outcome = match end {
        End::Broke(Side::Client) => {
            reset(instance.tcp());
            Outcome::Abandoned
        }
        End::Broke(Side::Instance) => {
            reset(client.socket());
            // Many a protocol ends with a reset; none begins with one.
            if silent { Outcome::Reset } else { Outcome::Success }
        }
        End::Cut(Verdict::Removed) => {
            // An end in order would say that this was all.
            reset(client.socket());
            reset(instance.tcp());
            Outcome::Success
        }
        End::Done | End::Cut(_) => Outcome::Success,
    };
    ticket.finish(outcome);
}

/// A connection that looks for its instance.
struct Call<'a> {
    seat: &'a Seat,
    booth: &'a Rc<Booth>,
    started: Instant,
    addresses: Option<Addresses>,
}

impl Call<'_> {
    /// Tries instances until one takes the connection.
    async fn connect(&self) -> Result<(Socket, Ticket), Fault> {
        let Self { seat, booth, started, .. } = self;
        let worker = &seat.worker;
        let tally = booth.tally(worker.index);
        booth.budget.request(worker.index, *started);
        let mut tried = Tried::default();
        let mut attempts = 0;
        let ahead = self.introduction();
        let mut ticket = self.ticket(&tried).await.map_err(Fault::Pick)?;
        loop {
            let target = Arc::clone(ticket.target());
            if worker.shared.own.contains(&target.endpoint.addr) {
                return Err(Fault::Loop);
            }
            tried.push(target.id());
            attempts += 1;
            let limit = booth.settings.connections.connect.min(self.left(Instant::now()));
            let settings = &booth.settings.connections;
            let connecting = connect_for_bytes(&target, settings, limit, &ahead);
            let (failure, outcome, fault) = match connecting.await {
                Ok(instance) => return Ok((instance, ticket)),
                Err(error) => {
                    tracing::debug!(cluster = %booth.name(), target.addr = %target.endpoint.addr, %error, "attempt failed");
                    blame(&error, target.endpoint.addr)
                }
            };
            ticket.finish(outcome);
            let reason = match self.next(failure, attempts, &tried) {
                Next::Retry { reason, .. } => reason,
                Next::Return(denied) => {
                    denied.into_iter().for_each(|why| tally.denied(why));
                    return Err(fault);
                }
            };
            // Meanwhile the others may have gone or filled up.
            let Ok(next) = self.ticket(&tried).await else {
                tally.denied(Denied::NoOtherTarget);
                return Err(fault);
            };
            ticket = next;
            tally.retry(reason);
        }
    }

    /// What tells the instance whom it talks to, if it is to know.
    fn introduction(&self) -> Vec<u8> {
        let version = self.booth.settings.proxy_protocol.send;
        version.map(|version| proxy_protocol::header(version, self.addresses.as_ref())).unwrap_or_default()
    }

    /// A target that was not tried; waits for the first list, or for room, but never for anything else.
    async fn ticket(&self, tried: &Tried) -> Result<Ticket, PickError> {
        let pick = || {
            let mut rng = self.seat.worker.rng.borrow_mut();
            self.booth.pick(&mut PickCtx { hash: None, tried, rng: &mut rng, now: Instant::now() })
        };
        let left = || self.left(Instant::now());
        let mut picked = pick();
        if matches!(picked, Err(PickError::Undiscovered))
            && self.booth.wait_discovered(self.booth.settings.timeouts.first_list.min(left())).await
        {
            picked = pick();
        }
        match picked {
            Err(PickError::Saturated) => self.booth.pick_in_turn(left(), !tried.is_empty(), pick).await,
            picked => picked,
        }
    }

    /// Nothing was sent: any connection may be tried again.
    fn next(&self, failure: Failure, attempts: u32, tried: &Tried) -> Next {
        let now = Instant::now();
        let ask = Ask {
            failure,
            attempts,
            idempotent: true,
            replayable: true,
            other_target: self.booth.has_untried(tried),
            left: self.left(now),
        };
        let index = self.seat.worker.index;
        let mut rng = self.seat.worker.rng.borrow_mut();
        decide(&self.booth.settings.retry, &ask, || self.booth.budget.retry(index, now), &mut *rng)
    }

    /// Time left until an instance must be connected.
    fn left(&self, now: Instant) -> Duration {
        (self.started + self.booth.settings.timeouts.request).saturating_duration_since(now)
    }
}
