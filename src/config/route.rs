//! `[[listener.NAME.route]]`: what a route matches, where it leads, and what it changes.

use super::document::Scalar;
use super::listener::Places;
use super::section::{Section, join};
use super::value::{integer, quoted};
use crate::policy::{Edits, HostPattern, Mirror, PathPrefix, Route, Split, Subset};
use http::{HeaderName, HeaderValue, Method};

/// Fields that belong to a connection, to the framing of a body, or tell who has passed a request on: nobody may change
/// them.
const OF_THE_CONNECTION: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// `None` if it leads nowhere.
pub(super) fn read(section: Section<'_>, places: &mut Places<'_>) -> Option<Route> {
    // The list is shown as a whole.
    section.hush(true);
    let hosts = section.list_of_some(
        "host",
        Vec::new(),
        |host: &HostPattern| quoted(&host.to_string()),
        |scalar| HostPattern::new(scalar.text("a host such as \"api.example.com\"")?),
    );
    let methods = section.list_of_some("method", Vec::new(), |method| quoted(method.as_str()), method);
    let path = section.text("path", "a path such as \"/v1\"", PathPrefix::new);
    let fields = fields(&section);
    let subset = Subset(section.texts("subset").into_iter().map(|(_, k, v)| (k.to_owned(), v)).collect());
    let to = split(&section, &subset, places);
    let rewrite = section.text("rewrite", "a path such as \"/\"", PathPrefix::new);
    let request = edits(&section, true);
    let inner = section.section("response");
    inner.hush(true);
    let response = edits(&inner, false);
    inner.finish();
    let mirror = mirror(section.section("mirror"), places);
    section.finish();
    Some(Route { hosts, path, methods, fields, to: to?, rewrite, request, response, mirror })
}

fn method(scalar: &Scalar<'_>) -> Result<Method, String> {
    let text = scalar.text("a method such as \"GET\"")?;
    let fits = !text.bytes().any(|byte| byte.is_ascii_lowercase());
    Method::from_bytes(text.as_bytes()).ok().filter(|_| fits).ok_or_else(|| {
        format!(
            "{text:?} is no method: capital letters are accepted, such as \"GET\" (RFC 9110, section 9.1)"
        )
    })
}

/// What fields must be there, and with which value.
fn fields(section: &Section<'_>) -> Vec<(HeaderName, Option<HeaderValue>)> {
    let texts = section.texts("headers");
    let named = texts.into_iter().filter_map(|(at, name, value)| {
        if name.eq_ignore_ascii_case("host") {
            problem(section, "headers", at, name, "the Host header has a key of its own: host = \"…\"");
            return None;
        }
        let (name, value) = field(section, "headers", at, name, &value)?;
        let value = (value != "*").then_some(value);
        Some((name, value))
    });
    named.collect()
}

fn problem(section: &Section<'_>, key: &str, at: usize, name: &str, message: impl Into<String>) {
    let path = join(&section.path_of(key), name);
    section.doc.problem(section.doc.origin(at), &path, message);
}

fn field(
    section: &Section<'_>,
    key: &str,
    at: usize,
    name: &str,
    value: &str,
) -> Option<(HeaderName, HeaderValue)> {
    let Ok(header) = name.parse::<HeaderName>() else {
        let message = format!("{name:?} is no header name: letters, digits and - are accepted");
        problem(section, key, at, name, message);
        return None;
    };
    let Ok(value) = HeaderValue::from_str(value) else {
        problem(section, key, at, name, "no header value: visible characters in one line are accepted");
        return None;
    };
    Some((header, value))
}

/// One service, several with their weights, or a list of services, subsets and weights.
fn split(section: &Section<'_>, subset: &Subset, places: &mut Places<'_>) -> Option<Split> {
    let Some(found) = section.find("to") else {
        section
            .missing("where it leads is missing: give to = \"SERVICE\", or to = { SERVICE = 95, OTHER = 5 }");
        return None;
    };
    let path = section.path_of("to");
    let value = found.value.get_ref();
    let mut all = Vec::new();
    if value.as_table().is_some() {
        for (name, weight, at) in section.entries("to") {
            let path = join(&path, name);
            let read = section.scalar(&weight, &path).map(|scalar| integer(&scalar, &(0..=1_000_000_u32)));
            let place = places.number(name, subset.clone());
            match (read, place) {
                (Some(Ok(weight)), Ok(place)) => all.push((place, weight)),
                (Some(Err(message)), _) => section.problem_at(&weight, &path, message),
                (_, Err(message)) => section.doc.problem(section.doc.origin(at), &path, message),
                (None, _) => {}
            }
        }
    } else if value.as_array().is_some() {
        for inner in section.tables("to") {
            all.extend(destination(inner, subset, places));
        }
    } else {
        let scalar = section.scalar(&found, &path)?;
        let place = scalar.text("a service, or a table of services and weights,").map(str::to_owned);
        match place.and_then(|name| places.number(&name, subset.clone())) {
            Ok(place) => all.push((place, 1)),
            Err(message) => section.problem_at(&found, &path, message),
        }
    }
    let listed =
        value.as_table().map_or(0, |table| table.len()) + value.as_array().map_or(0, |list| list.len());
    if all.is_empty() {
        if listed == 0 && !value.is_str() {
            section.problem_at(&found, &path, "leads nowhere: at least one service is needed");
        }
        return None;
    }
    let split = Split::new(all);
    if split.is_none() {
        section.problem_at(&found, &path, "all weights are 0: at least one of 1 to 1000000 is needed");
    }
    split
}

/// One entry of a list.
fn destination(section: Section<'_>, outer: &Subset, places: &mut Places<'_>) -> Option<(usize, u32)> {
    section.hush(true);
    let own: Vec<_> = section.texts("subset").into_iter().map(|(_, k, v)| (k.to_owned(), v)).collect();
    let subset = if own.is_empty() { outer.clone() } else { Subset(own) };
    let weight = section.integer("weight", 0..=1_000_000, 1_u32);
    let place = section.read("service", |scalar| places.number(scalar.text("a service")?, subset));
    if !section.has("service") {
        section.missing("which service is missing: give service = \"NAME\"");
    }
    section.finish();
    Some((place?, weight))
}

fn edits(section: &Section<'_>, of_a_request: bool) -> Edits {
    let allowed = |name: &HeaderName| !OF_THE_CONNECTION.contains(&name.as_str());
    let belongs = "this header belongs to the connection: it cannot be changed";
    let pairs = |key: &'static str| {
        let texts = section.texts(key).into_iter();
        let pairs = texts.filter_map(|(at, name, value)| {
            let (header, field) = field(section, key, at, name, &value)?;
            let host = header == http::header::HOST && (!of_a_request || key == "add_headers");
            if !allowed(&header) || host {
                problem(section, key, at, name, belongs);
                return None;
            }
            let named = value.parse::<http::uri::Authority>().is_ok_and(|host| !host.as_str().contains('@'));
            if header == http::header::HOST && !named {
                problem(section, key, at, name, "no host: write \"inside\" or \"inside:8080\"");
                return None;
            }
            Some((header, field))
        });
        pairs.collect()
    };
    let remove = |scalar: &Scalar<'_>| {
        let text = scalar.text("a header's name")?;
        let name: HeaderName = text
            .parse()
            .map_err(|_| format!("{text:?} is no header name: letters, digits and - are accepted"))?;
        let host = name == http::header::HOST;
        if allowed(&name) && !host { Ok(name) } else { Err(belongs.to_owned()) }
    };
    Edits {
        set: pairs("set_headers"),
        add: pairs("add_headers"),
        remove: section.list("remove_headers", Vec::new(), |name| quoted(name.as_str()), remove),
    }
}

fn mirror(section: Section<'_>, places: &mut Places<'_>) -> Option<Mirror> {
    section.hush(true);
    let place = section.read("to", |scalar| places.number(scalar.text("a service")?, Subset::default()));
    let share = section.share("share", 1.0);
    if section.is_present() && !section.has("to") {
        section.missing("where copies go is missing: give to = \"SERVICE\"");
    }
    section.finish();
    // At most a million, and no sign.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is 0 to 1")]
    let share = (share * 1e6).round() as u32;
    Some(Mirror { place: place?, share })
}
