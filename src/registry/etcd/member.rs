//! One connection to one member.

use super::EtcdSettings;
use super::auth::Token;
use super::error::{EtcdError, chain};
use super::messages::{StatusRequest, StatusResponse};
use crate::net::stamp::Stamp;
use crate::registry::TlsFiles;
use futures_util::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;
use url::Url;

/// Largest message that is read. A page of 1000 keys and a fragment of a watch are far below; a list of everything
/// in one answer would not be, and is never asked for.
const MESSAGE_LIMIT: usize = 32 * 1024 * 1024;

/// One connection to one member, shared with other clients. When the last of them drops it the connection is closed, once
/// its streams have ended too.
#[derive(Debug)]
pub(super) struct Member {
    /// Scheme, host and port.
    name: String,
    /// Keeps the connection for others to find.
    _link: Arc<Channel>,
    grpc: Grpc<Channel>,
    request_timeout: Duration,
}

impl Member {
    /// Connects, and waits until the member has answered: the kernel accepts connections for a stopped process too.
    pub(super) async fn dial(url: &Url, settings: &EtcdSettings) -> Result<Self, EtcdError> {
        let name = address(url);
        let stamps = Stamp::of_all(&settings.tls.paths()).await;
        let endpoint = endpoint(url, &name, settings).await?;
        let mut dialed = None;
        let hello = async {
            let link =
                settings.links.get(&name, (&settings.tls, stamps), &endpoint, settings.dial_timeout).await?;
            let grpc = Grpc::new(Channel::clone(&link)).max_decoding_message_size(MESSAGE_LIMIT);
            dialed = Some(Arc::clone(&link));
            let request_timeout = settings.request_timeout;
            let mut member = Self { name: name.clone(), _link: link, grpc, request_timeout };
            let path = "/etcdserverpb.Maintenance/Status";
            let status: StatusResponse = member.unary(path, StatusRequest {}, None).await?;
            Ok((member, status))
        };
        let answer = within(settings.dial_timeout, &name, hello).await;
        if let (Err(_), Some(link)) = (&answer, dialed) {
            settings.links.give_up(&name, &settings.tls, &link);
        }
        match answer {
            // rustls learns of a missing client certificate only by the connection's end.
            Err(EtcdError::Unavailable(text)) if url.scheme() == "https" && settings.tls.cert.is_none() => {
                Err(EtcdError::Unavailable(format!("{text} (no client certificate is configured)")))
            }
            Ok((_, StatusResponse { leader: 0 })) => {
                Err(EtcdError::Unavailable(format!("{name}: the member knows no leader")))
            }
            answer => answer.map(|(member, _)| member),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn unary<Q, A>(
        &mut self,
        path: &'static str,
        request: Q,
        token: Option<&Token>,
    ) -> Result<A, EtcdError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let request = with_token(request, token);
        let call = async {
            ready(&mut self.grpc, &self.name).await?;
            let codec = ProstCodec::<Q, A>::default();
            let answer = self.grpc.unary(request, PathAndQuery::from_static(path), codec).await;
            answer.map_err(|status| EtcdError::of_status(&self.name, &status))
        };
        Ok(within(self.request_timeout, &self.name, call).await?.into_inner())
    }

    /// Opens a stream in both directions and waits for its head. `strict` asks the member to end it as soon as it
    /// knows no leader.
    pub(super) async fn stream<Q, A>(
        &mut self,
        path: &'static str,
        requests: impl Stream<Item = Q> + Send + 'static,
        token: Option<&Token>,
        strict: bool,
    ) -> Result<Streaming<A>, EtcdError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = with_token(requests, token);
        if strict {
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        }
        let call = async {
            ready(&mut self.grpc, &self.name).await?;
            let codec = ProstCodec::<Q, A>::default();
            let answer = self.grpc.streaming(request, PathAndQuery::from_static(path), codec).await;
            answer.map_err(|status| EtcdError::of_status(&self.name, &status))
        };
        Ok(within(self.request_timeout, &self.name, call).await?.into_inner())
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }
}

/// Bounds what is asked of a member.
pub(super) async fn within<T>(
    limit: Duration,
    member: &str,
    call: impl Future<Output = Result<T, EtcdError>>,
) -> Result<T, EtcdError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(EtcdError::Unavailable(format!("{member}: no answer within {limit:?}"))),
    }
}

async fn ready(grpc: &mut Grpc<Channel>, name: &str) -> Result<(), EtcdError> {
    let ready = grpc.ready().await;
    ready.map_err(|e| EtcdError::Unavailable(format!("{name}: {}", chain(&e, "transport error"))))
}

fn with_token<Q>(message: Q, token: Option<&Token>) -> Request<Q> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}

/// Scheme, host and port of a member: what is connected to, and how it is called in texts.
pub(super) fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(2379);
    format!("{}://{host}:{port}", url.scheme())
}

async fn endpoint(url: &Url, name: &str, settings: &EtcdSettings) -> Result<Endpoint, EtcdError> {
    let refuse = |e: tonic::transport::Error| EtcdError::Refused(format!("{name}: {}", chain(&e, "")));
    let endpoint = Endpoint::from_shared(name.to_owned())
        .map_err(refuse)?
        .connect_timeout(settings.dial_timeout)
        .http2_keep_alive_interval(settings.keep_alive)
        .keep_alive_timeout(settings.keep_alive_timeout)
        .keep_alive_while_idle(true);
    if url.scheme() != "https" {
        return Ok(endpoint);
    }
    let tls =
        certificates(&settings.tls).await.map_err(|text| EtcdError::Refused(format!("{name}: {text}")))?;
    match endpoint.clone().tls_config(tls.clone().with_native_roots()) {
        Ok(endpoint) => Ok(endpoint),
        // A bare container has no roots of its own; the configured one is enough.
        Err(_) if settings.tls.ca.is_some() => endpoint.tls_config(tls).map_err(refuse),
        Err(e) => Err(refuse(e)),
    }
}

/// Reads the files anew at each connection, so that renewed certificates are picked up.
async fn certificates(files: &TlsFiles) -> Result<ClientTlsConfig, String> {
    let mut tls = ClientTlsConfig::new();
    if let Some(ca) = &files.ca {
        tls = tls.ca_certificate(Certificate::from_pem(pem(ca).await?));
    }
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => Ok(tls.identity(Identity::from_pem(pem(cert).await?, pem(key).await?))),
        (None, None) => Ok(tls),
        _ => Err("a client certificate needs its key, and a key its certificate".to_owned()),
    }
}

async fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let text = tokio::fs::read(path).await.map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    if text.windows(11).any(|part| part == b"-----BEGIN ") {
        Ok(text)
    } else {
        Err(format!("{} is no PEM file", path.display()))
    }
}
