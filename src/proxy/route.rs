//! Requests of a shared port: which service each goes to, and what becomes of its head on the way.

use super::error::Fault;
use super::headers::{Head, Heard, Spelled, Traits};
use super::mirror::Copy;
use super::relay::Exchange;
use super::upload::Upload;
use super::worker::Seat;
use crate::cluster::{Booth, Cluster};
use crate::net::field::{Field, tokens};
use crate::policy::{Asked, Edits, Route, find_route};
use crate::upstream::Framing;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request};
use memchr::memchr;
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

/// The routes of one listener. Places of [`Route`] are numbers of services here.
#[derive(Debug)]
pub struct Table {
    routes: Vec<Route>,
    /// A service, and which of its subsets, if not all of it.
    places: Vec<(Arc<Cluster>, Option<usize>)>,
}

impl Table {
    pub fn new(routes: Vec<Route>, places: Vec<(Arc<Cluster>, Option<usize>)>) -> Arc<Self> {
        Arc::new(Self { routes, places })
    }
}

/// A table as one connection sees it: a booth at each place that it has been led to.
#[derive(Debug)]
pub(super) struct Junction {
    table: Arc<Table>,
    booths: Box<[OnceCell<Rc<Booth>>]>,
    worker: usize,
}

/// How a request came to its service.
#[derive(Debug, Default)]
pub(super) enum Way {
    /// The port has only one.
    #[default]
    Straight,
    /// By the route of this number.
    Routed(Rc<Junction>, usize),
    /// Not at all.
    Lost,
}

/// The service of a request whose port has routes; else `fallback`.
pub(super) fn lead(
    seat: &Seat,
    fallback: Rc<Booth>,
    uri: &Uri,
    method: &Method,
    fields: &HeaderMap,
) -> (Rc<Booth>, Way) {
    match &seat.junction {
        None => (fallback, Way::Straight),
        Some(junction) => junction.lead(seat, &asked(uri, method, fields)).unwrap_or((fallback, Way::Lost)),
    }
}

/// Writes a head that was read, written and found good once more, as its route wants it.
///
/// # Errors
/// If the route makes it one that cannot be sent.
pub(super) fn change(
    exchange: &Exchange,
    parts: &mut request::Parts,
    traits: Traits,
    framing: Framing,
    heard: &[u8],
    text: &mut Vec<u8>,
) -> Result<(), Fault> {
    exchange.way.change(parts, traits.upgrade)?;
    let Exchange { worker, cluster, client, .. } = exchange;
    let head = Head::read(parts).map_err(Fault::BadRequest)?;
    text.clear();
    let rng = &mut *worker.rng.borrow_mut();
    let service = cluster.name().as_str();
    // It has not as many fields as were heard any more; those were looked at.
    let _ = head.write(framing, Heard(heard), client.caller(), service, rng, text);
    if text.ends_with(b"\r\n\r\n") { Ok(()) } else { Err(Fault::Malformed) }
}

impl Junction {
    pub fn new(table: &Arc<Table>, worker: usize) -> Rc<Self> {
        let booths = table.places.iter().map(|_| OnceCell::new()).collect();
        Rc::new(Self { table: Arc::clone(table), booths, worker })
    }

    fn lead(self: &Rc<Self>, seat: &Seat, asked: &Asked<'_>) -> Option<(Rc<Booth>, Way)> {
        let (number, route) = find_route(&self.table.routes, asked)?;
        let place = route.to.draw(&mut *seat.worker.rng.borrow_mut());
        Some((self.booth(place)?, Way::Routed(Rc::clone(self), number)))
    }

    fn booth(&self, place: usize) -> Option<Rc<Booth>> {
        let (cluster, subset) = self.table.places.get(place)?;
        let new = || Booth::of_subset(Arc::clone(cluster), self.worker, *subset);
        Some(Rc::clone(self.booths.get(place)?.get_or_init(new)))
    }
}

impl Way {
    /// The route that was taken.
    fn route(&self) -> Option<&Route> {
        match self {
            Self::Routed(junction, number) => junction.table.routes.get(*number),
            Self::Straight | Self::Lost => None,
        }
    }

    /// Whether the heads of requests are changed.
    pub fn changes(&self) -> bool {
        self.route().is_some_and(|route| route.rewrite.is_some() || !route.request.is_empty())
    }

    /// Makes a request's head what the route wants. What the client names in Connection goes first: it has no say over
    /// what comes from here (RFC 9110, section 7.6.1).
    fn change(&self, parts: &mut request::Parts, upgrade: bool) -> Result<(), Fault> {
        let Some(route) = self.route() else { return Ok(()) };
        if let Some(path) = route.rewritten(parts.uri.path())
            && !rewrite(&mut parts.uri, &path)
        {
            return Err(Fault::TargetTooLong);
        }
        forget_named(&mut parts.headers, upgrade);
        if route.request.replaces(b"host") {
            let told = parts.uri.authority().and_then(|authority| authority.as_str().parse().ok());
            let told = told.or_else(|| parts.headers.get(header::HOST).cloned());
            if let (Some(host), false) = (told, parts.headers.contains_key(FORWARDED_HOST)) {
                parts.headers.insert(FORWARDED_HOST, host);
            }
            // A whole URI would overrule it.
            if let Some(target) = parts.uri.path_and_query().cloned() {
                parts.uri = Uri::from(target);
            }
        }
        route.request.apply(&mut parts.headers);
        Ok(())
    }

    /// Sends the request that `copy` makes of the head, with the body of `upload`, to the route's mirror, if it has one
    /// and chance wants it.
    pub fn mirror(&self, exchange: &Exchange, upload: &Upload, copy: impl FnOnce() -> Option<Copy>) {
        let Some(mirror) = self.route().and_then(|route| route.mirror.as_ref()) else { return };
        let wanted = mirror.draws(&mut *exchange.worker.rng.borrow_mut());
        if let (true, Self::Routed(junction, _)) = (wanted, self)
            && let (Some(booth), Some(copy)) = (junction.booth(mirror.place), copy())
        {
            copy.send_with(upload, &exchange.worker, booth);
        }
    }

    /// As [`Self::edit`], where they are a map.
    pub fn edit_fields(&self, answer: &mut HeaderMap) {
        if let Some(route) = self.route() {
            route.response.apply(answer);
        }
    }

    /// Makes the answer's fields what the route wants.
    pub fn edit(&self, answer: &mut Spelled) {
        if let Some(route) = self.route().filter(|route| !route.response.is_empty()) {
            edit(answer.text(), &route.response);
        }
    }
}

fn asked<'a>(uri: &'a Uri, method: &'a Method, fields: &'a HeaderMap) -> Asked<'a> {
    // An absolute target overrules Host (RFC 9112, section 3.2.2).
    let authority = uri.authority().map(|authority| {
        let text = authority.as_str();
        text.rsplit_once('@').map_or(text, |(_, host)| host).as_bytes()
    });
    let host = || fields.get(header::HOST).map(|host| host.as_bytes());
    Asked { host: authority.or_else(host).unwrap_or_default(), path: uri.path(), method, fields }
}

const FORWARDED_HOST: &str = "x-forwarded-host";

/// Takes out what Connection names, but for what is the connection's own anyway.
fn forget_named(fields: &mut HeaderMap, upgrade: bool) {
    let named = fields.get_all(header::CONNECTION).iter().flat_map(|value| tokens(value.as_bytes()));
    let named = named.filter(|name| !Field::of(name).is_hop_by_hop() && !name.eq_ignore_ascii_case(b"host"));
    let named: Vec<_> = named.filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
    named.iter().for_each(|name| {
        fields.remove(name);
    });
    fields.remove(header::CONNECTION);
    if upgrade {
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Another path with the same query; `false` if the target would be too long.
fn rewrite(uri: &mut Uri, path: &str) -> bool {
    let text = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let Ok(target) = PathAndQuery::try_from(text) else { return false };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    let new = Uri::from_parts(parts);
    new.map(|new| *uri = new).is_ok()
}

/// The same for fields that are text already, one line each.
fn edit(text: &mut Vec<u8>, edits: &Edits) {
    let mut kept = Vec::with_capacity(text.len() + 128);
    let mut rest = &**text;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let (line, after) = rest.split_at(end);
        let name = memchr(b':', line).and_then(|end| line.get(..end)).unwrap_or_default();
        if !edits.replaces(name) {
            kept.extend_from_slice(line);
        }
        rest = after;
    }
    for (name, value) in edits.set.iter().chain(&edits.add) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            kept.extend_from_slice(part);
        }
    }
    *text = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn a_path_is_rewritten_and_the_query_stays() {
        for (uri, path, expected) in [
            ("/v1/a?b=/v1", "/a", "/a?b=/v1"),
            ("/v1", "/", "/"),
            ("http://h:1/v1/a?x", "/y/a", "http://h:1/y/a?x"),
            ("/v1/%41", "/%41", "/%41"),
        ] {
            let mut uri: Uri = uri.parse().unwrap();
            assert!(rewrite(&mut uri, path));
            assert_eq!(uri.to_string(), expected);
        }
    }

    #[test]
    fn an_answers_fields_are_edited_line_by_line() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let edits = Edits {
            remove: vec![name("server")],
            set: vec![(name("x-env"), value("prod"))],
            add: vec![(name("via"), value("1.1 edge"))],
        };
        let mut text = b"Server: x\r\nX-Env: a: b\r\nVia: 1.0 a\r\nx-env: c\r\nserver-timing: 1\r\n".to_vec();
        edit(&mut text, &edits);
        let expected = b"Via: 1.0 a\r\nserver-timing: 1\r\nx-env: prod\r\nvia: 1.1 edge\r\n";
        assert_eq!(text, expected, "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn the_target_goes_before_host() {
        let of = |uri: &str| {
            let request = Request::get(uri).header("host", "in-field:1").body(()).unwrap();
            asked(request.uri(), request.method(), request.headers()).host.to_vec()
        };
        assert_eq!(of("/x"), b"in-field:1");
        assert_eq!(of("http://user@in-target:2/x"), b"in-target:2");
    }
}
