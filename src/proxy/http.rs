//! One request from the client: checked, cleaned, forwarded; one response back.

use super::client::Phase;
use super::error::Fault;
use super::failed::{Answer, outcome_of};
use super::forward::Call;
use super::headers::{self, Head, Heard, Traits};
use super::mirror::Copy;
use super::reflect::reflect;
use super::relay::{Exchange, ResponseBody};
use super::route::{self, Way};
use super::upgrade;
use super::upload::{Inflow, Refusal, Upload};
use super::worker::Seat;
use crate::cluster::{Booth, Ticket};
use crate::model::Outcome;
use crate::net::field::Field;
use crate::upstream::Reply;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request};
use hyper::body::{Body, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// Answers one request. An upgraded connection keeps its `seat` until it ends.
pub(super) async fn serve(
    seat: Rc<Seat>,
    cluster: Rc<Booth>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (worker, client) = (Rc::clone(&seat.worker), Arc::clone(&seat.client));
    let led = route::lead(&seat, cluster, request.uri(), request.method(), request.headers());
    let mut exchange = Exchange::open(worker, led, client, Instant::now());
    // Whoever asks to switch protocols brings the means to do so; others bring nothing.
    let switching = (!request.extensions().is_empty()).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let response = answer(&exchange, seat, &mut parts, body, switching).await;
    exchange.client.overtaken().await;
    exchange.client.announce();
    exchange.client.enter_at_sweep(Phase::Answering);
    if !exchange.unheard.get() {
        exchange.code = response.status().as_u16();
    }
    Ok(response.map(|body| body.closing(exchange)))
}

async fn answer(
    exchange: &Exchange,
    seat: Rc<Seat>,
    parts: &mut request::Parts,
    body: Incoming,
    switching: Option<OnUpgrade>,
) -> Response<ResponseBody> {
    let Exchange { worker, cluster, client, .. } = exchange;
    let refuse = |fault: &Fault, grpc| {
        tracing::debug!(service = %cluster.name(), code = fault.code(), ?fault, "own answer");
        fault.response(cluster, grpc, Instant::now())
    };
    client.set_uploading(client.request(), !body.is_end_stream());
    let heard = client.take_heard();
    let upload = if body.is_end_stream() {
        Upload::none()
    } else {
        let body = Inflow::Alone(body, Arc::clone(client), client.request());
        Upload::new(body, cluster.settings.retry.body_limit, &worker.shared.replay_left)
    };
    let head = match Head::read(parts) {
        Ok(head) => head,
        Err(why) => return refuse(&Fault::BadRequest(why), false),
    };
    let traits = head.traits;
    let framing = upload.framing(traits.chunked);
    let service = cluster.name().as_str();
    let mut text = worker.take_scratch();
    let written = {
        let rng = &mut *worker.rng.borrow_mut();
        head.write(framing, Heard(&heard), client.caller(), service, rng, &mut text)
    };
    let spelled = exchange.way.changes().then(|| heard.clone());
    if let Err(why) = written.and_then(|beyond| client.hear_on(heard, beyond, framing)) {
        worker.give_scratch_back(text);
        return refuse(&Fault::BadRequest(why), false);
    }
    if matches!(exchange.way, Way::Lost) {
        worker.give_scratch_back(text);
        return refuse(&Fault::NoRoute, traits.grpc);
    }
    if traits.circles {
        worker.give_scratch_back(text);
        return refuse(&Fault::Loop, traits.grpc);
    }
    if traits.ends_here {
        worker.give_scratch_back(text);
        return reflect(parts);
    }
    if let Some(spelled) = spelled
        && let Err(fault) = route::change(exchange, parts, traits, framing, &spelled, &mut text)
    {
        worker.give_scratch_back(text);
        return refuse(&fault, traits.grpc);
    }
    let (to_head, interim) = (parts.method == Method::HEAD, parts.version >= Version::HTTP_11);
    let call = Call { exchange, head: &text, framing, to_head, upload: &upload, traits, interim };
    exchange.way.mirror(exchange, &upload, || {
        // What follows an upgrade cannot be copied.
        if traits.upgrade { None } else { Copy::new(&text, framing, to_head, traits.grpc) }
    });
    let ended = call.run().await;
    worker.give_scratch_back(text);
    match ended {
        // Hyper keeps the room of an emptied map for its next head.
        Ok(answer) => {
            parts.headers.clear();
            let headers = std::mem::take(&mut parts.headers);
            respond(exchange, answer, traits, upload.refused(), switching, seat, headers)
        }
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
    mut headers: HeaderMap,
) -> Response<ResponseBody> {
    let Exchange { worker, cluster, client, .. } = exchange;
    let Answer { reply: Reply { head, body }, ticket } = answer;
    let protocol_fault = |ticket: Ticket, why: &str| {
        ticket.finish(Outcome::Protocol);
        Fault::Protocol(why.to_owned()).response(cluster, traits.grpc, Instant::now())
    };
    if let Err(why) = headers::check_answer(&head.fields) {
        return protocol_fault(ticket, why);
    }
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut body = if switched {
        let (Some(from), true, Some(to)) = (switching, traits.upgrade, body.into_tunnel()) else {
            return protocol_fault(ticket, "the instance switched protocols unasked");
        };
        let idle = cluster.settings.timeouts.upgraded_idle;
        worker.tasks.spawn("tunnel", async move {
            upgrade::tunnel(from, to, ticket, idle, &seat.client).await;
        });
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        let protocol = head.fields.all(Field::Upgrade).next().map(HeaderValue::from_bytes);
        headers.extend(protocol.into_iter().flatten().map(|protocol| (header::UPGRADE, protocol)));
        ResponseBody::empty()
    } else {
        let outcome = outcome_of(&head);
        if refusal.is_some() {
            // What comes next may be the body or another request: nobody can tell (RFC 9110, section 10.1.1).
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        ResponseBody::relay(body, ticket, outcome, client, refusal)
    };
    if let Some(deadline) = traits.deadline {
        body.ends_by(exchange.started + deadline);
    }
    let mut spelled = headers::to_client(&head, body.is_end_stream(), &mut headers);
    exchange.way.edit(&mut spelled);
    client.spell(spelled);
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
        response.extensions_mut().insert(reason);
    }
    response
}
