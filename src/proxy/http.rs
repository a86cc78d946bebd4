//! One request from the client: checked, cleaned, forwarded; one response back.

use super::client::Phase;
use super::error::Fault;
use super::failed::Answer;
use super::forward::Call;
use super::headers::{self, Traits};
use super::relay::{Exchange, ResponseBody};
use super::upgrade;
use super::upload::{Refusal, Upload};
use super::worker::Seat;
use crate::cluster::Booth;
use crate::model::Outcome;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// Answers one request. An upgraded connection keeps its `seat` until it ends.
pub(super) async fn serve(
    seat: Rc<Seat>,
    cluster: Rc<Booth>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (worker, client) = (Rc::clone(&seat.worker), Arc::clone(&seat.client));
    let mut exchange = Exchange::open(worker, cluster, client, Instant::now());
    let response = answer(&exchange, seat, request).await;
    exchange.client.overtaken().await;
    exchange.client.enter(Phase::Answering, Instant::now());
    if !exchange.unheard.get() {
        exchange.code = response.status().as_u16();
    }
    Ok(response.map(|body| body.closing(exchange)))
}

async fn answer(
    exchange: &Exchange,
    seat: Rc<Seat>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let Exchange { worker, cluster, client, .. } = exchange;
    let refuse = |fault: &Fault, grpc| {
        tracing::debug!(service = %cluster.name(), code = fault.code(), ?fault, "own answer");
        fault.response(cluster, grpc, Instant::now())
    };
    let switching = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    client.set_uploading(!body.is_end_stream());
    let upload = Upload::new(body, cluster.settings.retry.body_limit, &worker.shared.replay_left, client);
    if let Err(why) = headers::check(&parts) {
        return refuse(&Fault::BadRequest(why), false);
    }
    if headers::came_round(&parts.headers) {
        return refuse(&Fault::Loop, headers::is_grpc(&parts.headers));
    }
    let interim = parts.version >= Version::HTTP_11;
    let service = cluster.name().as_str();
    let traits = headers::to_upstream(&mut parts, client.peer, service, &mut worker.rng.borrow_mut());
    let call = Call { exchange, head: &parts, upload: &upload, traits, interim };
    match call.run().await {
        Ok(answer) => respond(exchange, answer, traits, upload.refused(), switching, seat),
        Err(fault) => {
            exchange.unheard.set(upload.broke_off());
            refuse(&fault, traits.grpc)
        }
    }
}

/// Turns an instance's answer into ours.
fn respond(
    exchange: &Exchange,
    answer: Answer,
    traits: Traits,
    refusal: Option<Refusal>,
    switching: Option<OnUpgrade>,
    seat: Rc<Seat>,
) -> Response<ResponseBody> {
    let Exchange { worker, cluster, client, .. } = exchange;
    let Answer { mut response, ticket } = answer;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(from), true) = (switching, traits.upgrade) else {
            ticket.finish(Outcome::Protocol);
            let fault = Fault::Protocol("the instance switched protocols unasked".to_owned());
            return fault.response(cluster, traits.grpc, Instant::now());
        };
        let to = hyper::upgrade::on(&mut response);
        let idle = cluster.settings.timeouts.upgraded_idle;
        let target = Arc::clone(ticket.target());
        worker.upstream.run(&target, &cluster.settings.connections, "tunnel", async move {
            upgrade::tunnel(from, to, ticket, idle, &seat.client).await;
        });
        let protocol = response.headers().get(header::UPGRADE).cloned();
        let mut switched = response.map(|_| ResponseBody::empty());
        headers::from_upstream(switched.headers_mut());
        switched.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            switched.headers_mut().insert(header::UPGRADE, protocol);
        }
        return switched;
    }
    if let Err(why) = headers::check_answer(response.headers()) {
        ticket.finish(Outcome::Protocol);
        return Fault::Protocol(why.to_owned()).response(cluster, traits.grpc, Instant::now());
    }
    headers::from_upstream(response.headers_mut());
    if refusal.is_some() {
        // What comes next may be the body or another request: nobody can tell (RFC 9110, section 10.1.1).
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    *response.version_mut() = Version::HTTP_11;
    let outcome = if response.status().is_server_error() { Outcome::ServerError } else { Outcome::Success };
    response.map(|body| ResponseBody::relay(body, ticket, outcome, client, refusal))
}
