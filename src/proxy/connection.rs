//! A client connection's task: nothing but its socket while it rests, hyper's machinery while it is awake.
//!
//! What hyper keeps for one connection, two buffers above all, is some twenty times what its socket needs. It is built
//! when the first byte is here, and taken apart again when nothing has come for a moment.

use super::client::{Client, Phase};
use super::http::serve;
use super::http2;
use super::sniff::{self, Said};
use super::socket::ClientIo;
use super::transport::{Agreed, Rewound, Transport};
use super::welcome::Doorman;
use super::worker::Seat;
use crate::cluster::Booth;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// What is read at once of a request that ends a rest; as much as hyper asks for at first.
const FIRST_READ: usize = 8192;

/// So many fields of a request hyper reads without taking room for them from the heap.
const HYPERS_HEADERS: usize = 100;

/// Serves one connection to its end.
pub(super) async fn run(seat: Rc<Seat>, stream: TcpStream, doorman: Option<Doorman>) {
    let mut task = Watched::default();
    let mut stream = match doorman {
        None => Transport::Plain(stream),
        // In a box, as all that follows: as long as it rests, the task is to be small.
        Some(doorman) => match Box::pin(doorman.welcome(&seat, stream, &mut task)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    let agreed = stream.agreed();
    if agreed == Agreed::Http2 {
        return Box::pin(http2::run(seat, Rewound::new(Bytes::new(), stream), task)).await;
    }
    let mut is_new = agreed == Agreed::Nothing;
    while let Some(mut read) = stirs(&mut stream, &seat.client, &mut task).await {
        if std::mem::take(&mut is_new) && sniff::said(&read) != Said::Http1 {
            let limit = seat.worker.shared.limits.head_timeout;
            match Box::pin(timeout(limit, sniff::listen(&mut stream, read))).await {
                Ok(Some((Said::Http2, read))) => {
                    return Box::pin(http2::run(seat, Rewound::new(read, stream), task)).await;
                }
                Ok(Some((_, first))) => read = first,
                Ok(None) | Err(_) => return,
            }
        }
        match Box::pin(awake(Rc::clone(&seat), stream, read, &mut task)).await {
            Some(resting) => stream = resting,
            None => return,
        }
    }
    stream.part().await;
}

/// What the client knows of its task. It hardly ever changes: a look is cheaper than to tell it each time.
#[derive(Default)]
pub(super) struct Watched(Option<Waker>);

impl Watched {
    pub fn by(&mut self, client: &Client, task: &Waker) {
        if !self.0.as_ref().is_some_and(|known| known.will_wake(task)) {
            client.watch(task);
            self.0 = Some(task.clone());
        }
    }
}

/// The first that comes from the client; nothing if the connection is over.
async fn stirs(stream: &mut Transport, client: &Client, task: &mut Watched) -> Option<Bytes> {
    std::future::poll_fn(|cx| {
        task.by(client, cx.waker());
        let mut scratch = [MaybeUninit::uninit(); FIRST_READ];
        let mut read = ReadBuf::uninit(&mut scratch);
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                Poll::Ready(Some(Bytes::copy_from_slice(read.filled())))
            }
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending if client.is_over() && !stream.has_unread() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Answers requests until none has come for a moment, and gives the socket back; nothing when the connection has ended.
async fn awake(seat: Rc<Seat>, stream: Transport, read: Bytes, task: &mut Watched) -> Option<Transport> {
    let now = Instant::now();
    seat.client.wake_up(now);
    let _awake = seat.awake(now);
    let mut io = ClientIo::new(stream, read, &seat.client);
    loop {
        io = converse(&seat, io, task).await?;
        match io.into_resting() {
            Ok(stream) => return Some(stream),
            // Part of a request came together with the one before it.
            Err(more) => io = more,
        }
    }
}

/// Runs hyper until the client is tired; nothing when the connection has ended.
async fn converse(seat: &Rc<Seat>, io: ClientIo, task: &mut Watched) -> Option<ClientIo> {
    let client = &seat.client;
    let limits = &seat.worker.shared.limits;
    let booth = Booth::new(Arc::clone(&client.cluster), seat.worker.index);
    let service = service_fn(|request| serve(Rc::clone(seat), Rc::clone(&booth), request));
    let mut builder = http1::Builder::new();
    if limits.headers != HYPERS_HEADERS {
        builder.max_headers(limits.headers);
    }
    let mut connection = builder
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(8192) + 8192)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut told = false;
    let tired = std::future::poll_fn(|cx| {
        task.by(client, cx.waker());
        client.take_turn();
        // Its errors are the client's or were answered already.
        if client.is_aborted() || Pin::new(&mut connection).poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        let tired = client.is_tired();
        match client.phase() {
            // Hyper is between two requests, and everything is written: the socket enters the phase at no other moment.
            Phase::Idle if tired => return Poll::Ready(true),
            // Hyper closes at once what is not amid a request, even if one is on its way: the socket ends those.
            Phase::Busy | Phase::Answering if client.is_stopping() && !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            _ => {}
        }
        Poll::Pending
    });
    if !tired.await {
        return None;
    }
    let parts = connection.into_parts()?;
    let mut io = parts.io.into_inner();
    io.put_back(parts.read_buf);
    Some(io)
}
