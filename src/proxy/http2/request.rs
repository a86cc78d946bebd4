//! One request on a stream: checked, translated, forwarded.

use super::body::StreamBody;
use super::response::{self, Ready};
use super::stream::Stream;
use super::websocket::Key;
use super::{Front, Open, SendResponse, websocket};
use crate::model::Outcome;
use crate::proxy::error::Fault;
use crate::proxy::failed::outcome_of;
use crate::proxy::forward::Call;
use crate::proxy::grpc;
use crate::proxy::headers::{self, Head, Heard};
use crate::proxy::mirror::Copy;
use crate::proxy::reflect::reflect;
use crate::proxy::relay::{Exchange, ResponseBody};
use crate::proxy::route::{self, Way};
use crate::proxy::upload::{Inflow, Upload};
use crate::upstream::Reply;
use h2::RecvStream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use tokio::time::Instant;

/// Starts to serve it.
pub(super) fn begin(front: &Rc<Front>, request: Request<RecvStream>, respond: SendResponse) {
    let open = Open::take(front);
    // In a box: the runtime moves a task several times, and this one is large.
    front.seat.worker.tasks.spawn("stream", Box::pin(serve(open, request, respond)));
}

async fn serve(open: Open, request: Request<RecvStream>, respond: SendResponse) {
    let Open(front) = &open;
    let (seat, now) = (&front.seat, Instant::now());
    let stream = Rc::new(Stream::new(respond, now));
    let (mut parts, recv) = request.into_parts();
    let (bare, fields) = (parts.method == Method::HEAD, parts.headers.len());
    let key = headers::from_stream(&mut parts)
        .and_then(|()| websocket::translate(&mut parts, &mut seat.worker.rng.borrow_mut()));
    let led = route::lead(seat, Rc::clone(&front.booth), &parts.uri, &parts.method, &parts.headers);
    let mut exchange =
        Exchange::on_stream(Rc::clone(&seat.worker), led, Arc::clone(&seat.client), Rc::clone(&stream), now);
    let ready = {
        let mut answering = std::pin::pin!(answer(&exchange, parts, recv, key, fields));
        // First this: nothing may be said on a stream that is over, and an interim response would be.
        std::future::poll_fn(|cx| match stream.poll_gone(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => answering.as_mut().poll(cx).map(Some),
        })
        .await
    };
    // With what was under way, the attempts end: their instances see it.
    let Some(ready) = ready else { return front.gives_up(now, stream.deadline()) };
    let client_left = exchange.unheard.get();
    match ready {
        Ready::Answer(answer) => {
            if !client_left {
                exchange.code = answer.status().as_u16();
            }
            response::send(front, &stream, answer, exchange, bare).await;
        }
        Ready::Tunnel(tunnel) => {
            exchange.code = StatusCode::OK.as_u16();
            drop(exchange);
            tunnel.carry(front, &stream).await;
        }
    }
}

/// Checks the request and makes its attempts.
async fn answer(
    exchange: &Exchange,
    mut parts: request::Parts,
    recv: RecvStream,
    key: Result<Option<Key>, &'static str>,
    fields: usize,
) -> Ready {
    let Exchange { worker, cluster, client, .. } = exchange;
    let refuse = |fault: &Fault, grpc| {
        tracing::debug!(service = %cluster.name(), code = fault.code(), ?fault, "own answer");
        let mut response = fault.response(cluster, grpc, Instant::now());
        // It is about the stream alone.
        response.headers_mut().remove(header::CONNECTION);
        Ready::Answer(response)
    };
    if fields > worker.shared.limits.headers {
        let kind = parts.headers.get(header::CONTENT_TYPE);
        let grpc = kind.is_some_and(|kind| grpc::is_content_type(kind.as_bytes()));
        return refuse(&Fault::HeadTooLarge, grpc);
    }
    let key = match key {
        Ok(key) => key,
        Err(why) => return refuse(&Fault::BadRequest(why), false),
    };
    let head = match Head::read(&parts) {
        Ok(head) => head,
        Err(why) => return refuse(&Fault::BadRequest(why), false),
    };
    let traits = head.traits;
    if let Some(stream) = &exchange.stream {
        stream.ends_by(traits.deadline.map(|deadline| exchange.started + deadline));
    }
    if matches!(exchange.way, Way::Lost) {
        return refuse(&Fault::NoRoute, traits.grpc);
    }
    if traits.circles {
        return refuse(&Fault::Loop, traits.grpc);
    }
    // What comes on the stream of a tunnel is no body.
    let (upload, recv) = match (&key, &exchange.stream) {
        (None, Some(stream)) if !recv.is_end_stream() => {
            let body = StreamBody::new(recv, stream, length(&parts), traits.expects_continue);
            let body = Inflow::Stream(Box::new(body));
            (Upload::new(body, cluster.settings.retry.body_limit, &worker.shared.replay_left), None)
        }
        _ => (Upload::none(), Some(recv)),
    };
    let framing = upload.framing(false);
    let mut text = worker.take_scratch();
    let written = {
        let rng = &mut *worker.rng.borrow_mut();
        let service = cluster.name().as_str();
        head.write(framing, Heard(b""), client.caller(), service, rng, &mut text)
    };
    if let Err(why) = written {
        worker.give_scratch_back(text);
        return refuse(&Fault::BadRequest(why), traits.grpc);
    }
    if traits.ends_here {
        worker.give_scratch_back(text);
        return Ready::Answer(reflect(&parts));
    }
    if exchange.way.changes()
        && let Err(fault) = route::change(exchange, &mut parts, traits, framing, b"", &mut text)
    {
        worker.give_scratch_back(text);
        return refuse(&fault, traits.grpc);
    }
    let to_head = parts.method == Method::HEAD;
    let call = Call { exchange, head: &text, framing, to_head, upload: &upload, traits, interim: true };
    exchange.way.mirror(exchange, &upload, || {
        // What follows an upgrade cannot be copied.
        if traits.upgrade { None } else { Copy::new(&text, framing, to_head, traits.grpc) }
    });
    let ended = call.run().await;
    worker.give_scratch_back(text);
    let answer = match ended {
        Ok(answer) => answer,
        Err(fault) => {
            exchange.unheard.set(upload.broke_off());
            return refuse(&fault, traits.grpc);
        }
    };
    let (Reply { head, body }, ticket) = (answer.reply, answer.ticket);
    if let Err(why) = headers::check_answer(&head.fields) {
        ticket.finish(Outcome::Protocol);
        return refuse(&Fault::Protocol(why.to_owned()), traits.grpc);
    }
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    match (key, recv) {
        (Some(key), Some(recv)) if switched || head.status.is_success() => {
            match websocket::switched(&key, &head, body) {
                Ok((mut head, to)) => {
                    exchange.way.edit_fields(head.headers_mut());
                    let idle = cluster.settings.timeouts.upgraded_idle;
                    Ready::Tunnel(Box::new(websocket::Tunnel { head, recv, to, ticket, idle }))
                }
                Err(why) => {
                    ticket.finish(Outcome::Protocol);
                    refuse(&Fault::Protocol(why.to_owned()), false)
                }
            }
        }
        _ if switched => {
            ticket.finish(Outcome::Protocol);
            refuse(&Fault::Protocol("the instance switched protocols unasked".to_owned()), traits.grpc)
        }
        _ => {
            let outcome = outcome_of(&head);
            let mut response =
                Response::new(ResponseBody::relay(body, ticket, outcome, client, upload.refused()));
            *response.status_mut() = head.status;
            *response.headers_mut() = headers::to_stream(&head);
            exchange.way.edit_fields(response.headers_mut());
            Ready::Answer(response)
        }
    }
}

/// The body's, as the head tells it; that it is true is checked as the body comes (RFC 9113, section 8.1.1).
fn length(parts: &request::Parts) -> Option<u64> {
    let value: &HeaderValue = parts.headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}
