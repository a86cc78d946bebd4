//! A TLS server on a real socket whose certificate can be changed.

use super::authority::Signed;
use outrigger::net::tls::{authorities, certificates, private_key};
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Answers every request with 200 and keeps the connection; ends, connections included, when dropped.
pub struct TlsServer {
    pub addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

/// How a server differs from a plain one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners<'a> {
    /// Wants a certificate of this authority from its clients.
    pub clients: Option<&'a Path>,
    /// TLS 1.2 at most.
    pub old: bool,
    /// The only application protocol it speaks.
    pub alpn: Option<&'a str>,
    pub then: Then,
}

/// What a server does after the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    #[default]
    Answer,
    /// Answers once, then closes.
    AnswerOnce,
    /// Closes at once.
    End,
    /// Neither reads nor writes nor closes.
    Hang,
}

#[derive(Debug)]
struct State {
    key: Mutex<Arc<CertifiedKey>>,
    /// The names that clients asked for, one for each handshake.
    names: Mutex<Vec<Option<String>>>,
    requests: Mutex<Vec<String>>,
    /// Connections, and those of them that are open.
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl ResolvesServerCert for State {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.names.lock().unwrap().push(hello.server_name().map(str::to_owned));
        Some(Arc::clone(&self.key.lock().unwrap()))
    }
}

fn key_of(signed: &Signed) -> Arc<CertifiedKey> {
    let (chain, key) = (certificates(&signed.cert).unwrap(), private_key(&signed.key).unwrap());
    Arc::new(CertifiedKey::from_der(chain, key, &ring::default_provider()).unwrap())
}

impl TlsServer {
    pub async fn start(signed: &Signed) -> Self {
        Self::with(signed, Manners::default()).await
    }

    #[expect(clippy::disallowed_methods, reason = "a server of a test, ended by its handle")]
    pub async fn with(signed: &Signed, manners: Manners<'_>) -> Self {
        let state = Arc::new(State {
            key: Mutex::new(key_of(signed)),
            names: Mutex::default(),
            requests: Mutex::default(),
            accepted: AtomicUsize::default(),
            open: AtomicUsize::default(),
        });
        let acceptor = TlsAcceptor::from(Arc::new(config(&state, manners)));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::clone(&state);
        let then = manners.then;
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, acceptor) = (Arc::clone(&shared), acceptor.clone());
                state.accepted.fetch_add(1, SeqCst);
                state.open.fetch_add(1, SeqCst);
                connections.spawn(async move {
                    // How a connection ends is the client's business.
                    let _ = serve(acceptor, stream, &state, then).await;
                    state.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { addr, state, accepting }
    }

    /// From now on new connections are shown this certificate.
    pub fn show(&self, signed: &Signed) {
        *self.state.key.lock().unwrap() = key_of(signed);
    }

    pub fn accepted(&self) -> usize {
        self.state.accepted.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    pub fn names(&self) -> Vec<Option<String>> {
        self.state.names.lock().unwrap().clone()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn config(state: &Arc<State>, manners: Manners<'_>) -> ServerConfig {
    const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
    let versions = if manners.old { &BOTH[1..] } else { BOTH };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let builder = match manners.clients {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(authorities(ca).unwrap());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(state) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = manners.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, state: &State, then: Then) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    match then {
        Then::Hang => std::future::pending().await,
        Then::End => return stream.shutdown().await,
        Then::Answer | Then::AnswerOnce => {}
    }
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            let byte = stream.read_u8().await?;
            read.push(byte);
        }
        state.requests.lock().unwrap().push(String::from_utf8(std::mem::take(&mut read)).unwrap());
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine").await?;
        stream.flush().await?;
        if then == Then::AnswerOnce {
            return stream.shutdown().await;
        }
    }
}
