//! An etcd that does as it is told: for faults to which no real one can be brought.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger::registry::etcd::{Event, KeyValue, RangeRequest, RangeResponse, ResponseHeader};
use prost::Message;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// One member of a cluster of its own, with a leader and a few keys.
#[derive(Debug)]
pub(super) struct Fake {
    addr: SocketAddr,
    state: Arc<watch::Sender<State>>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct State {
    revision: i64,
    keys: BTreeMap<String, (String, i64)>,
    /// What the watches do that stood at that time; later ones behave.
    fault: Option<Fault>,
    faults: u64,
    /// The next watch says that it was created at revision 1.
    created_low: bool,
    watches: u64,
}

/// What may befall a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `canceled`, with neither a reason nor an end of the stream.
    CanceledWithoutReason,
    /// It is still there, and says nothing more, not even when it is asked.
    Deaf,
    Ended,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<Create>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Create {
    #[prost(int64, tag = "3")]
    start_revision: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

impl Fake {
    #[expect(clippy::disallowed_methods, reason = "a test's own server")]
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let state = Arc::new(watch::Sender::new(State { revision: 10, ..State::default() }));
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = answer(request, Arc::clone(&state));
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let http = http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { addr, state, accepting }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn put(&self, key: &str, value: &str) {
        self.state.send_modify(|state| {
            state.revision += 1;
            state.keys.insert(key.to_owned(), (value.to_owned(), state.revision));
        });
    }

    /// Lets this befall the watches that stand.
    pub(super) fn fail(&self, fault: Fault) {
        self.state.send_modify(|state| {
            state.fault = Some(fault);
            state.faults += 1;
        });
    }

    /// The same keys at a lower revision, and the end of the watches.
    pub(super) fn go_back(&self, revision: i64) {
        self.state.send_modify(|state| {
            state.revision = revision;
            state.keys.values_mut().for_each(|(_, modified)| *modified = revision);
        });
        self.fail(Fault::Ended);
    }

    /// The next watch is created at revision 1, as after a loss of all data; and the end of those that stand.
    pub(super) fn create_low(&self) {
        self.state.send_modify(|state| state.created_low = true);
        self.fail(Fault::Ended);
    }

    /// How many watches were opened so far.
    pub(super) fn watches(&self) -> u64 {
        self.state.borrow().watches
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Sender = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

#[expect(clippy::disallowed_methods, reason = "a test's own server")]
fn answer(
    request: Request<Incoming>,
    state: Arc<watch::Sender<State>>,
) -> Response<impl Body<Data = Bytes, Error = Infallible>> {
    let (send, mut receive) = mpsc::channel(64);
    tokio::spawn(async move {
        let path = request.uri().path().to_owned();
        let status = match path.as_str() {
            "/etcdserverpb.Watch/Watch" => watch(request.into_body(), &send, &state).await,
            "/etcdserverpb.KV/Range" => range(request.into_body(), &send, &state).await,
            // `leader`, the field with number 4, is 1.
            "/etcdserverpb.Maintenance/Status" => say_bytes(&send, &[0x20, 1]).await.map_or("1", |()| "0"),
            _ => "12",
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().expect("a value"));
        if status == "11" {
            let message = "etcdserver: mvcc: required revision is a future revision";
            trailers.insert("grpc-message", message.parse().expect("a value"));
        }
        let _ = send.send(Ok(Frame::trailers(trailers))).await;
    });
    let frames = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(StreamBody::new(frames)).expect("a response")
}

/// The next message of a request; each comes in a frame of its own.
async fn hear<M: Message + Default>(body: &mut Incoming) -> Option<M> {
    loop {
        if let Ok(bytes) = body.frame().await?.ok()?.into_data()
            && bytes.len() >= 5
        {
            return M::decode(&bytes[5..]).ok();
        }
    }
}

async fn say_bytes(send: &Sender, message: &[u8]) -> Option<()> {
    let length = u32::try_from(message.len()).expect("a short message");
    let bytes = [&[0], &length.to_be_bytes()[..], message].concat();
    send.send(Ok(Frame::data(bytes.into()))).await.ok()
}

async fn say(send: &Sender, message: &impl Message) -> Option<()> {
    say_bytes(send, &message.encode_to_vec()).await
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: 7, revision })
}

async fn range(mut body: Incoming, send: &Sender, state: &watch::Sender<State>) -> &'static str {
    let Some(asked) = hear::<RangeRequest>(&mut body).await else { return "13" };
    let state = state.borrow().clone();
    if asked.revision > state.revision {
        return "11";
    }
    let wanted = |key: &str| {
        let key = key.as_bytes();
        if asked.range_end.is_empty() {
            key == asked.key
        } else {
            key >= &asked.key[..] && key < &asked.range_end[..]
        }
    };
    let kvs = state.keys.iter().filter(|(key, _)| wanted(key)).map(|(key, at)| pair(key, at)).collect();
    let found = RangeResponse { header: header(state.revision), kvs, more: false };
    say(send, &found).await.map_or("1", |()| "0")
}

fn pair(key: &str, (value, modified): &(String, i64)) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.clone().into(),
        create_revision: *modified,
        mod_revision: *modified,
        lease: 0,
    }
}

/// Ends with the client, or with a fault that ends it.
async fn watch(mut body: Incoming, send: &Sender, state: &watch::Sender<State>) -> &'static str {
    let Some(WatchRequest { create: Some(create) }) = hear(&mut body).await else { return "13" };
    let mut states = state.subscribe();
    let (mut told, befallen) = (create.start_revision - 1, state.borrow().faults);
    let mut revision = 0;
    state.send_modify(|state| {
        state.watches += 1;
        revision = if std::mem::take(&mut state.created_low) { 1 } else { state.revision };
    });
    let created = WatchResponse { header: header(revision), created: true, ..WatchResponse::default() };
    let mut going = say(send, &created).await;
    while going.is_some() {
        let now = states.borrow_and_update().clone();
        let fault = now.fault.filter(|_| now.faults > befallen);
        match fault {
            Some(Fault::Ended) => return "0",
            Some(Fault::CanceledWithoutReason) => {
                let canceled =
                    WatchResponse { header: header(0), canceled: true, ..WatchResponse::default() };
                let _ = say(send, &canceled).await;
                while hear::<WatchRequest>(&mut body).await.is_some() {}
                return "0";
            }
            Some(Fault::Deaf) => {}
            None => {
                let new = now.keys.iter().filter(|(_, (_, modified))| *modified > told);
                let events: Vec<_> =
                    new.map(|(key, at)| Event { r#type: 0, kv: Some(pair(key, at)) }).collect();
                told = told.max(now.revision);
                if !events.is_empty() {
                    let changed =
                        WatchResponse { header: header(now.revision), events, ..WatchResponse::default() };
                    going = say(send, &changed).await;
                }
            }
        }
        tokio::select! {
            changed = states.changed() => going = going.and(changed.ok()),
            asked = hear::<WatchRequest>(&mut body) => {
                going = asked.map(drop);
                if going.is_some() && fault.is_none() {
                    let progress = WatchResponse { header: header(now.revision), ..WatchResponse::default() };
                    going = say(send, &progress).await;
                }
            }
        }
    }
    "0"
}
