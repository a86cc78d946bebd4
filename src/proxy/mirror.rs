//! Copies of requests: sent to another service beside the real ones, their answers read and thrown away.

use super::failed::{blame, outcome_of};
use super::upload::{Charge, Upload};
use super::worker::Worker;
use crate::balance::{PickCtx, Tried};
use crate::cluster::{Booth, Ticket};
use crate::model::Outcome;
use crate::upstream::{Framing, Reply, Sending};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// Marks a copy.
const MARK: &[u8] = b"x-outrigger-mirror: 1\r\n\r\n";

/// More of an answer is not read.
const MOST: usize = 1 << 20;

/// A copy of a request, as the real one was sent.
#[derive(Debug)]
pub(super) struct Copy {
    head: Vec<u8>,
    framing: Framing,
    to_head: bool,
    grpc: bool,
}

impl Copy {
    /// `head` with its empty line.
    pub fn new(head: &[u8], framing: Framing, to_head: bool, grpc: bool) -> Option<Self> {
        let fields = head.strip_suffix(b"\r\n")?;
        Some(Self { head: [fields, MARK].concat(), framing, to_head, grpc })
    }

    /// Sends it beside the real one, as soon as its body is here as a whole.
    pub fn send_with(self, upload: &Upload, worker: &Rc<Worker>, booth: Rc<Booth>) {
        let worker = Rc::clone(worker);
        upload.when_whole(move |body, charge| self.send(worker, booth, body, charge));
    }

    /// Sends it in a task of its own. Where nobody has room for it, it is not sent.
    fn send(self, worker: Rc<Worker>, booth: Rc<Booth>, body: Bytes, charge: Charge) {
        let now = Instant::now();
        let picked = {
            let mut rng = worker.rng.borrow_mut();
            booth.pick(&mut PickCtx { hash: None, tried: &Tried::default(), rng: &mut rng, now })
        };
        let ticket = match picked {
            Ok(ticket) if !worker.shared.own.contains(&ticket.target().endpoint.addr) => ticket,
            picked => {
                tracing::debug!(service = %booth.name(), error = ?picked.err(), "not mirrored");
                return;
            }
        };
        let tasks = worker.tasks.clone();
        tasks.spawn("mirror", async move {
            let _charge = charge;
            let limit = booth.settings.timeouts.request;
            let mut code = None;
            let sent =
                tokio::time::timeout(limit, self.run(&worker.upstream, &booth, ticket, body, &mut code))
                    .await;
            let code = code.unwrap_or(if sent.is_err() { 504 } else { 502 });
            booth.tally(worker.index).request(code, now.elapsed());
        });
    }

    async fn run(
        self,
        upstream: &Rc<crate::upstream::Upstream>,
        booth: &Booth,
        mut ticket: Ticket,
        body: Bytes,
        code: &mut Option<u16>,
    ) {
        let target = Arc::clone(ticket.target());
        let Self { framing, to_head, grpc, .. } = self;
        let ask = Sending { head: &self.head, framing, to_head, grpc, upgrade: false, interim: &|_| {} };
        let body = Full::new(body);
        let sent = upstream.send(&target, &ask, body, &booth.settings.connections, false).await;
        let Reply { head, mut body } = match sent {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(cluster = %booth.name(), target.addr = %target.endpoint.addr, %error, "copy failed");
                return ticket.finish(blame(&error, target.endpoint.addr).1);
            }
        };
        ticket.saw_head(Instant::now());
        *code = Some(head.status.as_u16());
        let mut left = MOST;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return ticket.finish(Outcome::Reset) };
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
        ticket.finish(outcome_of(&head));
    }
}
