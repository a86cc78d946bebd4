//! An attempt that failed: what it is blamed on, and what becomes of an answer that nobody may want.

use super::error::Fault;
use super::grpc;
use super::worker::Worker;
use crate::cluster::Ticket;
use crate::model::Outcome;
use crate::policy::Failure;
use crate::upstream::{Head, Reply, SendError, Stage};
use http_body::Body;
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::time::Duration;

/// Bytes of an answer that are read only to keep its connection ...
const MOST_FORGOTTEN: u64 = 64 * 1024;
/// ... and how long that may take.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// What an instance answered, and the ticket that lives as long as the answer's body.
pub(super) struct Answer {
    pub reply: Reply,
    pub ticket: Ticket,
}

/// How an attempt ended without an answer that is passed on as it is.
pub(super) enum Failed {
    /// No answer; the fault is what the client gets if there is no other attempt.
    Fault(Failure, Fault),
    /// An answer that another instance might better.
    Status(Failure, Box<Answer>),
}

impl Failed {
    pub fn failure(&self) -> Failure {
        match self {
            Self::Fault(failure, _) | Self::Status(failure, _) => *failure,
        }
    }

    /// The client gets what there is: an instance's own answer goes before one of ours.
    pub fn give_up(self) -> Result<Answer, Fault> {
        match self {
            Self::Fault(_, fault) => Err(fault),
            Self::Status(_, answer) => Ok(*answer),
        }
    }

    /// The attempt is over, but its answer may yet be the best there is.
    pub fn settle(&mut self) {
        if let Self::Status(_, answer) = self {
            let outcome = outcome_of(&answer.reply.head);
            answer.ticket.settle(outcome);
        }
    }

    /// Nobody will read this answer. What little is left of it is read, so that its connection can be used again.
    pub fn forget(self, worker: &Worker) {
        let Self::Status(_, answer) = self else { return };
        let mut body = answer.reply.body;
        if body.is_end_stream() || body.size_hint().lower() > MOST_FORGOTTEN {
            return;
        }
        worker.tasks.spawn("forget", async move {
            let mut left = MOST_FORGOTTEN;
            let rest = async {
                while let Some(Ok(frame)) = body.frame().await {
                    left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                    if left == 0 {
                        return;
                    }
                }
            };
            // Late or long: the connection goes with the body.
            let _ = tokio::time::timeout(FORGOTTEN, rest).await;
        });
    }
}

/// What an answer counts as once it is complete, as far as its head says it.
pub(super) fn outcome_of(head: &Head) -> Outcome {
    match head.status.as_u16() {
        502..=504 => Outcome::Unavailable,
        500.. => Outcome::ServerError,
        _ => grpc::failed(&head.fields).unwrap_or(Outcome::Success),
    }
}

/// What a failed send means for the retry, for the target's record, and for the client.
pub(super) fn blame(error: &SendError, instance: SocketAddr) -> (Failure, Outcome, Fault) {
    let text = format!("{instance}: {error}");
    match error.stage {
        _ if error.is_upload() => (Failure::Protocol, Outcome::Abandoned, Fault::UploadFailed),
        Stage::Connect if error.is_out_of_files() => {
            (Failure::Connect, Outcome::Abandoned, Fault::OutOfFiles)
        }
        Stage::Connect => (Failure::Connect, Outcome::ConnectFailed, Fault::ConnectFailed(text)),
        Stage::Unsent => (Failure::Unsent, Outcome::Reset, Fault::Reset(text)),
        Stage::Head if error.is_protocol() => (Failure::Protocol, Outcome::Protocol, Fault::Protocol(text)),
        Stage::Head => (Failure::Reset, Outcome::Reset, Fault::Reset(text)),
    }
}
