//! The head of a request: what it says, and what of it the instance gets to see.

use super::host::is_host;
use super::spelling::{Heard, Names};
use crate::net::field::{Field, Named, lists, tokens};
use crate::proxy::grpc;
use crate::upstream::Framing;
use http::{HeaderValue, Method, Version, request};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::time::Duration;

/// A request that came through this many sidecars of our name goes round in circles.
const MOST_HOPS: usize = 8;

/// What the request's head says about how to handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Traits {
    /// Safe to repeat (RFC 9110, section 9.2.2), or marked so by an Idempotency-Key.
    pub idempotent: bool,
    /// It asks to switch protocols.
    pub upgrade: bool,
    /// It waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    /// It announces its body in chunks.
    pub chunked: bool,
    pub grpc: bool,
    /// How long a gRPC call may take, from its beginning.
    pub deadline: Option<Duration>,
    /// It may go no further than to us (RFC 9110, section 7.6.2).
    pub ends_here: bool,
    /// It has passed so many sidecars that it must be going in circles.
    pub circles: bool,
}

/// Who sent it.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Caller<'a> {
    /// The IP address.
    pub address: &'a str,
    /// By TLS.
    pub secure: bool,
}

/// A head, read in one pass.
#[derive(Debug)]
pub(in crate::proxy) struct Head<'a> {
    pub traits: Traits,
    parts: &'a request::Parts,
    named: Named<'a>,
    host: Option<&'a HeaderValue>,
    upgrade: Option<&'a HeaderValue>,
    trailers: bool,
}

impl<'a> Head<'a> {
    /// Reads it and checks what hyper leaves to us.
    ///
    /// # Errors
    /// The text says what is wrong.
    pub fn read(parts: &'a request::Parts) -> Result<Self, &'static str> {
        if parts.method == Method::CONNECT {
            return Err("CONNECT is not supported: this is a reverse proxy");
        }
        check_target(parts)?;
        let current = parts.version >= Version::HTTP_11;
        let (mut has_length, mut wants_switch, mut h2c, mut hops, mut keyed) =
            (false, false, false, 0, false);
        let traits = Traits {
            idempotent: is_idempotent(&parts.method),
            upgrade: false,
            expects_continue: false,
            chunked: false,
            grpc: false,
            deadline: None,
            ends_here: false,
            circles: false,
        };
        let mut head =
            Self { traits, parts, named: Named::default(), host: None, upgrade: None, trailers: false };
        for (name, field) in &parts.headers {
            let value = field.as_bytes();
            match Field::of(name.as_str().as_bytes()) {
                Field::Host if head.host.is_some() => {
                    return Err("more than one Host field (RFC 9112, section 3.2)");
                }
                Field::Host if !is_host(value) => {
                    return Err("an invalid Host field (RFC 9112, section 3.2)");
                }
                Field::Host => head.host = Some(field),
                Field::TransferEncoding => {
                    if head.traits.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err("a transfer coding other than chunked, once (RFC 9112, section 6.1)");
                    }
                    head.traits.chunked = true;
                }
                Field::ContentLength => has_length = true,
                Field::Connection => {
                    head.named.add(value);
                    wants_switch |= lists(value, "upgrade");
                }
                Field::Te => head.trailers |= lists(value, "trailers"),
                Field::Upgrade => {
                    h2c |= lists(value, "h2c");
                    head.upgrade.get_or_insert(field);
                }
                Field::Expect => {
                    head.traits.expects_continue |= current && value.eq_ignore_ascii_case(b"100-continue");
                }
                Field::ContentType => head.traits.grpc |= grpc::is_content_type(value),
                Field::GrpcTimeout => head.traits.deadline = grpc::timeout(value),
                Field::MaxForwards if head.is_counted() => {
                    head.traits.ends_here |= hops_left(value) == Some(0)
                }
                Field::Via => hops += tokens(value).filter(|hop| hop.ends_with(b" outrigger")).count(),
                Field::IdempotencyKey => keyed = true,
                _ => {}
            }
        }
        if current && head.host.is_none() {
            return Err("no Host field (RFC 9112, section 3.2)");
        }
        // Two framings are two meanings: the classic of request smuggling (RFC 9112, section 6.1).
        if head.traits.chunked && (has_length || !current) {
            return Err("Transfer-Encoding beside Content-Length, or in HTTP/1.0 (RFC 9112, section 6.1)");
        }
        head.traits.idempotent |= keyed;
        if !head.traits.grpc {
            head.traits.deadline = None;
        }
        head.traits.circles = hops >= MOST_HOPS;
        // `h2c` is obsolete, some clients offer it with every request, and nothing after the switch would be HTTP/1.1
        // any more: it is treated as not sent (RFC 9113, section 3.1).
        head.traits.upgrade = current && wants_switch && head.upgrade.is_some() && !h2c;
        Ok(head)
    }

    /// Its method is one that `Max-Forwards` counts the hops of.
    fn is_counted(&self) -> bool {
        matches!(self.parts.method, Method::OPTIONS | Method::TRACE)
    }

    /// Writes the head that the instance gets to `out`, in the spelling that was `heard`. `service` is its Host if the
    /// client named none. A gRPC deadline is left out: what is left of it is not known yet. Tells how much was heard
    /// beyond this head.
    ///
    /// # Errors
    /// If the head that was heard has another meaning than the one that was read. The text says what is wrong.
    pub fn write(
        &self,
        framing: Framing,
        heard: Heard<'_>,
        caller: Caller<'_>,
        service: &str,
        rng: &mut SmallRng,
        out: &mut Vec<u8>,
    ) -> Result<usize, &'static str> {
        let request::Parts { method, uri, headers, version, .. } = self.parts;
        let mut spelling = heard.names();
        let mut out = Out { text: out, lines: spelling.fields(), run: (0, 0) };
        let target = self.target(&spelling)?;
        // An absolute target may have a query and no path (RFC 9112, section 3.2.1).
        let slash: &[u8] = if target.starts_with(b"?") { b"/" } else { b"" };
        out.push(&[method.as_str().as_bytes(), b" ", slash, target, b" HTTP/1.1\r\n"]);
        // An absolute target overrules Host (RFC 9112, section 3.2.2).
        let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = authority.or(self.host.map(HeaderValue::as_bytes));
        // What came and goes on; not what the client had stripped by naming it in Connection.
        let (mut forwarded, mut proto, mut forwarded_host, mut trace) = (false, false, false, false);
        for (name, value) in headers {
            let field = Field::of(name.as_str().as_bytes());
            let spelled = spelling.of_field(name.as_str(), value.as_bytes());
            match field {
                _ if field.is_hop_by_hop() || self.named.has(spelled) => {}
                // A length without a body would make one of what comes next.
                Field::ContentLength if framing == Framing::Empty && value.as_bytes() != b"0" => {}
                Field::GrpcTimeout if self.traits.deadline.is_some() => {}
                Field::MaxForwards if self.is_counted() => match hops_left(value.as_bytes()) {
                    Some(hops) => out.field(spelled, hops.saturating_sub(1).to_string().as_bytes()),
                    None => out.field(spelled, value.as_bytes()),
                },
                Field::Host if authority.is_some() => out.field(spelled, host.unwrap_or_default()),
                Field::ForwardedFor if forwarded => {}
                Field::ForwardedFor => {
                    forwarded = true;
                    out.push(&[spelled, b": "]);
                    for hop in headers.get_all(name) {
                        out.push(&[hop.as_bytes(), b", "]);
                    }
                    out.push(&[caller.address.as_bytes(), b"\r\n"]);
                }
                _ => {
                    proto |= field == Field::ForwardedProto;
                    forwarded_host |= field == Field::ForwardedHost;
                    trace |= field == Field::Traceparent;
                    match spelling.whole() {
                        Some(line) => out.line(line),
                        None => out.field(spelled, value.as_bytes()),
                    }
                }
            }
        }
        // HTTP/1.0 may go without Host, what we send may not (RFC 9112, section 3.2). The client did not name this one.
        if self.host.is_none() {
            out.field(b"host", host.unwrap_or(service.as_bytes()));
        }
        if let (true, Some(protocols)) = (self.traits.upgrade, self.upgrade) {
            out.push(&[b"connection: upgrade\r\nupgrade: ", protocols.as_bytes(), b"\r\n"]);
        } else if self.trailers {
            out.push(&[b"connection: te\r\nte: trailers\r\n"]);
        }
        if framing == Framing::Chunked {
            out.push(&[b"transfer-encoding: chunked\r\n"]);
        }
        if !forwarded {
            out.field(b"x-forwarded-for", caller.address.as_bytes());
        }
        if !proto {
            out.push(&[if caller.secure {
                b"x-forwarded-proto: https\r\n"
            } else {
                &b"x-forwarded-proto: http\r\n"[..]
            }]);
        }
        if let (false, Some(host)) = (forwarded_host, host) {
            out.field(b"x-forwarded-host", host);
        }
        // The version that was received (RFC 9110, section 7.6.3).
        out.push(&[match *version {
            version if version < Version::HTTP_11 => b"via: 1.0 outrigger\r\n",
            Version::HTTP_2 => b"via: 2.0 outrigger\r\n",
            _ => b"via: 1.1 outrigger\r\n",
        }]);
        if trace {
            out.push(&[b"\r\n"]);
        } else {
            out.push(&[b"traceparent: ", &traceparent(rng), b"\r\n\r\n"]);
        }
        spelling.after_head(headers.len()).map(<[u8]>::len)
    }

    /// The request target, in origin form or as an asterisk.
    fn target(&self, spelling: &Names<'_>) -> Result<&'a [u8], &'static str> {
        let request::Parts { method, uri, .. } = self.parts;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let line = spelling.first_line();
        if uri.authority().is_none() {
            // Two spaces and the version come with them: what is longer had something that is not told.
            let told = method.as_str().len() + target.len() + b"  HTTP/1.1\r\n".len();
            let fragment = !line.is_empty() && line.len() != told && line.contains(&b'#');
            return if fragment { Err(FRAGMENT) } else { Ok(target.as_bytes()) };
        }
        if line.contains(&b'#') {
            return Err(FRAGMENT);
        }
        // The whole server is meant (RFC 9112, section 3.2.4): no slash but the two before the authority and the version's.
        let whole = *method == Method::OPTIONS && line.iter().filter(|byte| **byte == b'/').count() == 3;
        Ok(if whole && target == "/" { &b"*"[..] } else { target.as_bytes() })
    }
}

/// A target that ends in one is cut by some and taken whole by others.
const FRAGMENT: &str = "a fragment in the request target (RFC 9112, section 3.2)";

/// Whether the target is one that a server gets (RFC 9112, section 3.2).
fn check_target(parts: &request::Parts) -> Result<(), &'static str> {
    let uri = &parts.uri;
    let Some(authority) = uri.authority() else {
        let asterisk = uri.path() == "*";
        return if asterisk && parts.method != Method::OPTIONS {
            Err("an asterisk as request target is for OPTIONS only (RFC 9112, section 3.2.4)")
        } else {
            Ok(())
        };
    };
    let Some(scheme) = uri.scheme_str() else {
        return Err("the request target is neither a path nor a whole URI (RFC 9112, section 3.2)");
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err("a request target of another scheme than http and https (RFC 9112, section 3.2.2)");
    }
    if authority.as_str().is_empty() || !is_host(authority.as_str().as_bytes()) {
        return Err("an invalid host in the request target (RFC 9110, sections 4.2.1 and 4.2.4)");
    }
    Ok(())
}

/// What `Max-Forwards` says; nothing if it is no number (RFC 9110, section 7.6.2).
fn hops_left(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// A head as it is written.
struct Out<'a> {
    text: &'a mut Vec<u8>,
    /// Those that were heard ...
    lines: &'a [u8],
    /// ... and which of them come next: mostly many go on as they came, in one piece.
    run: (usize, usize),
}

impl Out<'_> {
    fn push(&mut self, parts: &[&[u8]]) {
        self.end_run();
        for part in parts {
            self.text.extend_from_slice(part);
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.push(&[name, b": ", value, b"\r\n"]);
    }

    /// One of the lines, by its place.
    fn line(&mut self, (from, to): (usize, usize)) {
        if self.run.1 != from {
            self.end_run();
            self.run.0 = from;
        }
        self.run.1 = to;
    }

    fn end_run(&mut self) {
        let (from, to) = self.run;
        if from != to {
            self.text.extend_from_slice(self.lines.get(from..to).unwrap_or_default());
            self.run.0 = to;
        }
    }
}

/// A fresh, unsampled W3C trace context (Trace Context, section 3.2): a later hop decides whether to record.
fn traceparent(rng: &mut SmallRng) -> [u8; 55] {
    let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
    let mut bytes = [0; 24];
    for eight in bytes.as_chunks_mut::<8>().0 {
        *eight = rng.random::<u64>().to_le_bytes();
    }
    // An identifier of zeros is invalid.
    bytes[15] |= 1;
    bytes[23] |= 1;
    let mut digits = [0; 48];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let (trace, span) = digits.split_at(32);
    text[3..35].copy_from_slice(trace);
    text[36..52].copy_from_slice(span);
    text
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}
