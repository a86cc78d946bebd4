//! One request to one agent: token, deadline, size limit, and a readable error.

use super::http::{Http, root};
use super::token::Token;
use super::{ConsulError, ConsulSettings};
use crate::net::stamp::Stamp;
use ::http::header::{CONTENT_LENGTH, LOCATION};
use ::http::{HeaderMap, Method, StatusCode};
use std::time::Duration;
use url::Url;

/// A client of Consul's agents. Clones share its connections.
#[derive(Clone, Debug)]
pub struct ConsulClient {
    http: Http,
    /// At least one.
    agents: Vec<Url>,
    token: Token,
    namespace: Option<String>,
}

/// One request, without what all of them have in common.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Segments of the path, unescaped.
    pub(super) path: &'a [&'a str],
    pub(super) query: Vec<(&'static str, String)>,
    /// JSON; empty for none.
    pub(super) body: Vec<u8>,
    /// For the whole exchange.
    pub(super) deadline: Duration,
}

/// A successful answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// Host and port of who answered.
    pub(super) agent: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl ConsulClient {
    /// Largest answer that is read, in bytes, unpacked.
    const BODY_LIMIT: usize = 64 << 20;
    /// Of an error's text, in bytes and then in characters.
    const TEXT_LIMIT: usize = 4 << 10;
    const TEXT_SHOWN: usize = 300;

    /// # Errors
    /// If there is no usable address, or a TLS file cannot be used.
    pub fn new(settings: ConsulSettings) -> Result<Self, ConsulError> {
        let ConsulSettings { addresses, token, tls, namespace } = settings;
        if addresses.is_empty() {
            return Err(ConsulError::Settings("no address of a Consul agent is given".into()));
        }
        if let Some(odd) = addresses.iter().find(|a| !matches!(a.scheme(), "http" | "https")) {
            let scheme = odd.scheme();
            let text = format!("Consul is reached by http or https, not by {scheme:?}");
            return Err(ConsulError::Settings(text));
        }
        let encrypted = addresses.iter().any(|a| a.scheme() == "https");
        let http = Http::new(tls, encrypted)?;
        Ok(Self { http, agents: addresses, token: Token(token), namespace })
    }

    /// How many agents there are; they are numbered from 0 in order of preference.
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    /// How the token's file stands now.
    pub async fn token_stamp(&self) -> Stamp {
        self.token.stamp().await
    }

    /// Ends when the token's file is no longer as it was; never where the token comes from no file. Cancel-safe.
    pub async fn token_changed(&self, since: &Stamp) {
        self.token.changed(since).await;
    }

    pub fn has_token(&self) -> bool {
        self.token.0.is_some()
    }

    /// Asks one agent (the number counts round), once.
    pub(super) async fn call(&self, agent: usize, call: Call<'_>) -> Result<Reply, ConsulError> {
        let Some(base) = self.agents.get(agent.checked_rem(self.agents.len()).unwrap_or(0)) else {
            return Err(ConsulError::Settings("no address of a Consul agent is given".into()));
        };
        let name = authority(base);
        let fail = |problem: String| ConsulError::Exchange { agent: name.clone(), problem };
        let mut query = call.query;
        if let Some(namespace) = &self.namespace {
            query.push(("ns", namespace.clone()));
        }
        let url = join(base, call.path).ok_or_else(|| fail("the address takes no path".into()))?;
        let http = self.http.current().await;
        let mut request = http.client.request(call.method, url).query(&query).timeout(call.deadline);
        if !call.body.is_empty() {
            request = request.body(call.body);
        }
        if let Some(token) = self.token.header().await? {
            request = request.header("X-Consul-Token", token);
        }
        let mut response = request.send().await.map_err(|e| {
            // TLS 1.3 servers say so only after the handshake, often too late to be heard (RFC 8446, section 4.4.2.4).
            let unknown = base.scheme() == "https" && !http.identified && !e.is_connect() && !e.is_timeout();
            let hint = if unknown { "; does the agent want a client certificate?" } else { "" };
            fail(explain(&e, call.deadline) + hint)
        })?;
        let status = response.status();
        if !status.is_success() {
            let text = match response.headers().get(LOCATION).filter(|_| status.is_redirection()) {
                Some(to) => format!("redirects are not followed, this one goes to {to:?}"),
                None => text_of(response).await,
            };
            return Err(ConsulError::Status { agent: name, status: status.as_u16(), text });
        }
        let too_large = || fail(format!("the answer is larger than {} MiB", Self::BODY_LIMIT >> 20));
        let announced = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > Self::BODY_LIMIT) {
            return Err(too_large());
        }
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| fail(explain(&e, call.deadline)))? {
            if body.len() + chunk.len() > Self::BODY_LIMIT {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { agent: name, headers, body })
    }
}

/// The beginning of an error's body, fit for one line.
async fn text_of(mut response: reqwest::Response) -> String {
    let status = response.status();
    let mut body = Vec::new();
    // A body that breaks off still has a beginning.
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ConsulClient::TEXT_LIMIT {
            break;
        }
    }
    let text = String::from_utf8_lossy(&body);
    let line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let line: String = line.take(ConsulClient::TEXT_SHOWN).collect();
    if line.is_empty() { reason(status).to_owned() } else { line }
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("no text")
}

/// Host and port: what tells agents apart, and holds no secret.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn join(base: &Url, path: &[&str]) -> Option<Url> {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.path_segments_mut().ok()?.pop_if_empty().extend(path);
    Some(url)
}

/// An error of reqwest in words that name neither the URL nor the layers in between.
fn explain(error: &reqwest::Error, deadline: Duration) -> String {
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => format!("no connection within {} s", Http::CONNECT_TIMEOUT.as_secs()),
        (true, false) => format!("cannot connect: {}", root(error)),
        (false, true) => format!("no whole answer within {:.1} s", deadline.as_secs_f32()),
        (false, false) => format!("the exchange broke off: {}", root(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::TlsFiles;

    fn settings(address: &str) -> ConsulSettings {
        ConsulSettings {
            addresses: vec![Url::parse(address).unwrap()],
            token: None,
            tls: TlsFiles::default(),
            namespace: None,
        }
    }

    #[test]
    fn a_name_is_one_segment_of_the_path() {
        let base = Url::parse("http://user:pw@gw:1/consul/?x#y").unwrap();
        let url = join(&base, &["v1", "health", "service", "a/b ü%?"]).unwrap();
        assert_eq!(url.path(), "/consul/v1/health/service/a%2Fb%20%C3%BC%25%3F");
        assert_eq!((url.query(), authority(&url).as_str()), (None, "gw:1"));
        let bare = join(&Url::parse("https://[::1]").unwrap(), &["v1"]).unwrap();
        assert_eq!((bare.path(), authority(&bare).as_str()), ("/v1", "[::1]:443"));
    }

    #[test]
    fn unusable_settings_are_found_before_any_request() {
        let none = ConsulSettings { addresses: Vec::new(), ..settings("http://h") };
        assert!(matches!(ConsulClient::new(none), Err(ConsulError::Settings(_))));
        let odd = ConsulClient::new(settings("ftp://h")).unwrap_err().to_string();
        assert!(odd.contains("ftp"), "{odd}");
        let tls = TlsFiles { ca: Some("/nonexistent/ca.pem".into()), ..TlsFiles::default() };
        let missing = ConsulClient::new(ConsulSettings { tls, ..settings("https://h") }).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/ca.pem"), "{missing}");
        ConsulClient::new(settings("http://h")).unwrap();
    }
}
