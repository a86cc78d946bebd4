//! WebSockets over HTTP/2 (RFC 8441).

use super::peer::Peer;
use super::{SOON, open};
use crate::support::client::Connection;
use crate::support::{ByHand, Sidecar, eventually, facing};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::Request;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::time::timeout;

async fn peer(sidecar: &Sidecar) -> Peer {
    let peer = open(sidecar).await;
    eventually("the setting has come", SOON, async || {
        peer.send.is_extended_connect_protocol_enabled().then_some(())
    })
    .await;
    peer
}

fn connect(protocol: &'static str) -> Request<()> {
    let request = Request::connect("http://peer.test/chat?room=1").header("sec-websocket-protocol", "chat");
    request.extension(Protocol::from_static(protocol)).body(()).unwrap()
}

/// What a server answers to this key (RFC 6455, section 4.2.2).
fn proof(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// A tunnel, and both its ends.
async fn tunnel(peer: &mut Peer, server: &ByHand) -> (SendStream<Bytes>, RecvStream, Connection) {
    let (answer, send) = peer.begin(connect("websocket"), false).await;
    let mut instance = server.accept().await;
    let asked = instance.head().await.unwrap();
    assert_eq!(asked.start, "GET /chat?room=1 HTTP/1.1");
    assert_eq!((asked.field("connection"), asked.field("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(asked.field("sec-websocket-version"), Some("13"));
    assert_eq!(asked.field("sec-websocket-protocol"), Some("chat"));
    let proof = proof(asked.field("sec-websocket-key").unwrap());
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: {proof}\r\n\
         Sec-WebSocket-Protocol: chat\r\n\r\nearly"
    );
    instance.send(switch).await.unwrap();
    let answer = timeout(SOON, answer).await.unwrap().unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers().get("sec-websocket-protocol").unwrap(), "chat");
    for gone in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
    (send, answer.into_body(), instance)
}

async fn next(recv: &mut RecvStream) -> Bytes {
    let data = timeout(SOON, recv.data()).await.unwrap().unwrap().unwrap();
    recv.flow_control().release_capacity(data.len()).unwrap();
    data
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_by_itself() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = peer(&sidecar).await;
    let (mut send, mut recv, mut instance) = tunnel(&mut peer, &server).await;
    assert_eq!(&next(&mut recv).await[..], b"early");
    send.send_data(Bytes::from_static(b"\x81\x05hello"), false).unwrap();
    instance.reads(b"\x81\x05hello").await;
    instance.send(b"\x81\x02ok").await.unwrap();
    assert_eq!(&next(&mut recv).await[..], b"\x81\x02ok");
    send.send_data(Bytes::from_static(b"bye"), true).unwrap();
    instance.reads(b"bye").await;
    assert!(instance.is_closed(SOON).await);
    instance.send("last").await.unwrap();
    assert_eq!(&next(&mut recv).await[..], b"last");
    drop(instance);
    let mut end = timeout(SOON, recv.data()).await.unwrap();
    if matches!(&end, Some(Ok(data)) if data.is_empty()) {
        end = timeout(SOON, recv.data()).await.unwrap();
    }
    assert!(end.is_none(), "a clean end: {end:?}");
}

#[tokio::test]
async fn an_end_that_breaks_is_passed_on() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = peer(&sidecar).await;
    let (mut send, _recv, mut instance) = tunnel(&mut peer, &server).await;
    send.send_reset(h2::Reason::CANCEL);
    assert!(instance.is_closed(SOON).await);
    let (_send, mut recv, instance) = tunnel(&mut peer, &server).await;
    assert_eq!(&next(&mut recv).await[..], b"early");
    instance.reset();
    let error = timeout(SOON, recv.data()).await.unwrap().unwrap().unwrap_err();
    assert!(error.is_reset(), "{error}");
    eventually("nothing runs any more", SOON, async || {
        let service = sidecar.api("/api/services/web").await;
        (service["endpoints"][0]["in_flight"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_does_not_understand_is_no_websocket() {
    let server = ByHand::start().await;
    let sidecar = facing(server.addr(), "").await;
    let mut peer = peer(&sidecar).await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: bm90IHRoZSBwcm9vZiBvZiBpdA==\r\n\r\n";
    for (says, status) in [
        (switch, 502),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
    ] {
        let (answer, _send) = peer.begin(connect("websocket"), false).await;
        let mut instance = server.accept().await;
        instance.head().await.unwrap();
        instance.send(says).await.unwrap();
        assert_eq!(timeout(SOON, answer).await.unwrap().unwrap().status().as_u16(), status, "{says}");
    }
    let (answer, _send) = peer.begin(connect("connect-udp"), false).await;
    assert_eq!(answer.await.unwrap().status().as_u16(), 400);
    // The instance would wait for so many bytes, and take the next request for them.
    let mut long = connect("websocket");
    long.headers_mut().insert("content-length", "64".parse().unwrap());
    let (answer, _send) = peer.begin(long, false).await;
    assert_eq!(answer.await.unwrap().status().as_u16(), 400);
}
