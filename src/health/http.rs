//! One question over HTTP, and whether the answer passes.

use super::dial::{Dialer, Stream};
use super::http2;
use super::probe::is_cut;
use super::{HttpCheck, ProbeError};
use crate::upstream::HttpVersion;
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// RFC 9110, section 10.1.5: product and comment.
const AGENT: &str = concat!("outrigger/", env!("CARGO_PKG_VERSION"), " (health check)");
/// How much of an answer's head is accepted, and how much of its body is read.
const LIMIT: usize = 64 * 1024;
/// How long the rest of a body is waited for: what comes later costs a new connection, never the verdict.
const REST: Duration = Duration::from_millis(100);
/// Older kept connections are closed. Together with the pace this bounds how many there are (50/s for 30 s: 1,500).
const KEPT: Duration = Duration::from_secs(30);

/// Asks over a connection of its own, kept while the server keeps it.
#[derive(Debug)]
pub(super) struct HttpProbe {
    check: HttpCheck,
    dialer: Dialer,
    kept: Option<Kept>,
    /// The same in HTTP/2.
    shared: Option<http2::Kept>,
}

/// A connection after an answer.
#[derive(Debug)]
struct Kept {
    addr: SocketAddr,
    link: Link,
    /// What of the answer was not read yet.
    rest: Option<Incoming>,
    /// How many bytes of it may still be read.
    left: usize,
    until: Instant,
}

/// A connection and its driver, which runs only while somebody awaits an answer: no task of its own.
#[derive(Debug)]
struct Link {
    sender: http1::SendRequest<Empty<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Driver>,
}

type Driver = http1::Connection<TokioIo<Stream>, Empty<Bytes>>;

impl HttpProbe {
    pub(super) fn new(check: HttpCheck, dialer: Dialer) -> Self {
        Self { check, dialer, kept: None, shared: None }
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(super) async fn ask(&mut self, addr: SocketAddr) -> Result<(), ProbeError> {
        let request = self.request(addr).map_err(ProbeError::Request)?;
        // Servers close idle connections as they like: failure on a kept one only means that a new one is needed.
        if let Some(mut link) = self.reuse(addr).await
            && let Ok(response) = link.send(request.clone()).await
        {
            return self.judge(addr, link, response).await;
        }
        if let Some(link) = self.shared.take().and_then(|kept| kept.reuse(addr))
            && let Ok(answer) = self.ask_in_two(addr, link, &request).await
        {
            return self.judge_in_two(&answer);
        }
        let stream = self.dialer.dial(addr).await?;
        let agreed = Dialer::agreed(&stream) == Some(b"h2");
        let in_two = match self.check.version {
            HttpVersion::One => false,
            HttpVersion::Two if self.dialer.is_secure() && !agreed => return Err(ProbeError::NotAgreed),
            HttpVersion::Two => true,
            HttpVersion::Auto => agreed,
        };
        if in_two {
            let link = http2::Link::open(stream).await.map_err(ProbeError::NoHttp2)?;
            let answer = self.ask_in_two(addr, link, &request).await?;
            return self.judge_in_two(&answer);
        }
        let mut link = Link::open(stream).await?;
        let response = link.send(request).await.map_err(|error| self.unanswered(error))?;
        self.judge(addr, link, response).await
    }

    /// Never ends; see `Probe::idle`.
    pub(super) async fn idle(&mut self) -> Infallible {
        if let Some(kept) = &mut self.kept {
            let until = kept.until;
            // Both arms of the result mean the same: closed by the server, or by us.
            let _ = tokio::time::timeout_at(until, kept.end()).await;
            self.kept = None;
        }
        http2::Kept::idle(&mut self.shared).await
    }

    /// Asks over HTTP/2, and keeps the connection.
    async fn ask_in_two(
        &mut self,
        addr: SocketAddr,
        mut link: http2::Link,
        request: &Request<Empty<Bytes>>,
    ) -> Result<http2::Answer, ProbeError> {
        let request = self.in_two(request).map_err(ProbeError::Request)?;
        let text = self.check.body.as_deref().unwrap_or_default();
        let answer = link.ask(request, text.as_bytes(), LIMIT).await.map_err(ProbeError::NoHttp2)?;
        self.shared = Some(http2::Kept::new(addr, link));
        Ok(answer)
    }

    /// The request as HTTP/2 has it: with its authority in the place of Host (RFC 9113, section 8.3.1).
    fn in_two(&self, request: &Request<Empty<Bytes>>) -> http::Result<Request<()>> {
        let mut headers = request.headers().clone();
        let host = headers.remove(HOST);
        let authority = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        let uri = Uri::builder().scheme(self.dialer.scheme()).authority(authority);
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let mut translated = Request::new(());
        *translated.method_mut() = request.method().clone();
        *translated.uri_mut() = uri.path_and_query(path).build()?;
        *translated.version_mut() = Version::HTTP_2;
        *translated.headers_mut() = headers;
        Ok(translated)
    }

    fn judge_in_two(&self, answer: &http2::Answer) -> Result<(), ProbeError> {
        self.judge_status(answer.status.as_u16())?;
        match &self.check.body {
            Some(text) if !answer.found => Err(ProbeError::Body(text.clone())),
            _ => Ok(()),
        }
    }

    fn judge_status(&self, got: u16) -> Result<(), ProbeError> {
        if self.check.expect.iter().any(|range| range.contains(&got)) {
            Ok(())
        } else {
            Err(ProbeError::Status { got, expected: ranges(&self.check) })
        }
    }

    fn request(&self, addr: SocketAddr) -> http::Result<Request<Empty<Bytes>>> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.check.headers {
            headers.append(name, value.clone());
        }
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        if let Some(host) = &self.check.host {
            headers.insert(HOST, HeaderValue::try_from(host)?);
        } else if !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::try_from(addr.to_string())?);
        }
        let path = PathAndQuery::try_from(self.check.path.as_str())?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.check.method.clone();
        *request.uri_mut() = Uri::from(path);
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn unanswered(&self, error: hyper::Error) -> ProbeError {
        if self.dialer.is_anonymous() && is_cut(&error) {
            ProbeError::Anonymous(error)
        } else {
            ProbeError::Exchange(error)
        }
    }

    async fn reuse(&mut self, addr: SocketAddr) -> Option<Link> {
        let mut kept = self.kept.take()?;
        let fits = kept.addr == addr && Instant::now() < kept.until;
        (fits && kept.settle().await).then_some(kept.link)
    }

    async fn judge(
        &mut self,
        addr: SocketAddr,
        mut link: Link,
        response: Response<Incoming>,
    ) -> Result<(), ProbeError> {
        let got = response.status().as_u16();
        let mut body = response.into_body();
        let mut left = LIMIT;
        let verdict = if let Err(error) = self.judge_status(got) {
            Err(error)
        } else if let Some(text) = self.check.body.as_ref().filter(|text| !text.is_empty()) {
            match link.find(text.as_bytes(), &mut body, &mut left).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(ProbeError::Body(text.clone())),
                Err(error) => return Err(ProbeError::Exchange(error)),
            }
        } else {
            Ok(())
        };
        let rest = (!body.is_end_stream()).then_some(body);
        self.kept = Some(Kept { addr, link, rest, left, until: Instant::now() + KEPT });
        verdict
    }
}

impl Kept {
    /// Reads the rest of the last answer; `false` if the connection is not worth that.
    async fn settle(&mut self) -> bool {
        let Self { link, rest, left, .. } = self;
        let Some(body) = rest else { return true };
        let reading = async {
            while let Some(frame) = link.drive(body.frame()).await {
                let length = frame.ok()?.data_ref().map_or(0, Bytes::len);
                *left = left.checked_sub(length)?;
            }
            Some(())
        };
        let settled = matches!(tokio::time::timeout(REST, reading).await, Ok(Some(())));
        if settled {
            *rest = None;
        }
        settled
    }

    /// Waits until the server closes the connection, or until it turns out to be of no use.
    async fn end(&mut self) {
        if self.settle().await
            && let Some(driver) = &mut self.link.driver
        {
            // How it ended does not matter: nothing was being asked.
            let _ = driver.await;
        }
    }
}

impl Link {
    async fn open(stream: Stream) -> Result<Self, ProbeError> {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ProbeError::Exchange)?;
        Ok(Self { sender, driver: Some(driver) })
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let sender = &mut self.sender;
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        drive(&mut self.driver, answer).await
    }

    /// Whether the next `left` bytes of the body contain `text`; reads no further than needed.
    async fn find(&mut self, text: &[u8], body: &mut Incoming, left: &mut usize) -> hyper::Result<bool> {
        let mut read = Vec::new();
        while *left > 0 {
            let Some(frame) = self.drive(body.frame()).await else { break };
            let Ok(mut data) = frame?.into_data() else { continue };
            data.truncate(*left);
            *left -= data.len();
            // What was searched before can only matter as the beginning of a match.
            let from = (read.len() + 1).saturating_sub(text.len());
            read.extend_from_slice(&data);
            if read.get(from..).is_some_and(|new| new.windows(text.len()).any(|window| window == text)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn drive<T>(&mut self, future: impl Future<Output = T>) -> T {
        drive(&mut self.driver, future).await
    }
}

/// Awaits `future` while the connection moves.
async fn drive<T>(driver: &mut Option<Driver>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        if let Some(running) = driver
            && let Poll::Ready(_end) = Pin::new(running).poll(cx)
        {
            // `future` learns of the end, and of its reason, from the connection's other half.
            *driver = None;
        }
        future.as_mut().poll(cx)
    })
    .await
}

/// The accepted statuses for people: `200-299, 304`.
fn ranges(check: &HttpCheck) -> String {
    let text = check.expect.iter().map(|range| match (range.start(), range.end()) {
        (one, same) if one == same => one.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(check: HttpCheck) -> HttpProbe {
        HttpProbe::new(check, Dialer::new(None))
    }

    #[test]
    fn ranges_read_as_people_write_them() {
        let check = HttpCheck { expect: vec![200..=299, 304..=304], ..HttpCheck::get("/") };
        assert_eq!(ranges(&check), "200-299, 304");
    }

    #[test]
    fn own_headers_win_over_the_defaults() {
        let addr = "[::1]:80".parse().unwrap();
        let plain = probe(HttpCheck::get("/health?full=1")).request(addr).unwrap();
        assert_eq!(plain.uri().to_string(), "/health?full=1");
        assert_eq!(plain.headers()[HOST], "[::1]:80");
        assert!(plain.headers()[USER_AGENT].to_str().unwrap().starts_with("outrigger/"));

        let check = HttpCheck {
            headers: vec![
                (USER_AGENT, HeaderValue::from_static("probe")),
                (HOST, HeaderValue::from_static("a")),
            ],
            ..HttpCheck::get("/")
        };
        let own = probe(check.clone()).request(addr).unwrap();
        assert_eq!(
            (&own.headers()[USER_AGENT], &own.headers()[HOST]),
            (&"probe".parse().unwrap(), &"a".parse().unwrap())
        );

        let named = probe(HttpCheck { host: Some("b".to_owned()), ..check }).request(addr).unwrap();
        assert_eq!(named.headers().get_all(HOST).iter().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_cannot_be_asked_is_an_error_not_a_panic() {
        let addr = "127.0.0.1:80".parse().unwrap();
        assert!(probe(HttpCheck::get("/a b")).request(addr).is_err());
        let check = HttpCheck { host: Some("a\nb".to_owned()), ..HttpCheck::get("/") };
        assert!(probe(check).request(addr).is_err());
    }
}
