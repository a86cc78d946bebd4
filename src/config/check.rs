//! `[service.NAME.health]`: active checks; `[register.NAME.health]`: the local app's own.

use super::document::Scalar;
use super::section::{Section, join};
use super::tls;
use super::traffic::not_above;
use super::value::{DAY, MILLI, flag, integer, quoted};
use crate::health::{CheckKind, CheckSettings, HttpCheck};
use crate::net::tls::TlsClient;
use crate::upstream::HttpVersion;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method};
use std::ops::RangeInclusive;

/// Only an HTTP check has these.
const HTTP_ONLY: [&str; 5] = ["method", "headers", "host", "expect", "body"];

/// `None` if nothing asks for checks.
///
/// `service` is what the service's requests speak TLS with.
/// `http` is what they speak: so does an HTTP check, unless it has a port of its own.
pub(super) fn read(
    section: Section<'_>,
    service: Option<&TlsClient>,
    http: HttpVersion,
) -> Option<CheckSettings> {
    asked(section, CheckSettings::new, false, service, http)
}

/// The check of the local app; whatever is not asked for, it is a connection.
pub(super) fn of_the_app(section: Section<'_>) -> CheckSettings {
    asked(section, CheckSettings::of_the_app, true, None, HttpVersion::One)
        .unwrap_or(CheckSettings::of_the_app(CheckKind::Tcp))
}

/// `must`: there is no going without.
fn asked(
    section: Section<'_>,
    new: fn(CheckKind) -> CheckSettings,
    must: bool,
    service: Option<&TlsClient>,
    version: HttpVersion,
) -> Option<CheckSettings> {
    section.exclusive(&["http", "grpc", "tcp"]);
    let asks_http = section.find("http").is_some();
    let grpc = if asks_http { None } else { grpc(&section) };
    let asks_more = asks_http || grpc.is_some();
    let path = section.text("http", "the path of an HTTP check, such as \"/health\",", path);
    let says_tcp = section.find("tcp").is_some();
    let tcp =
        if must && !asks_more { section.flag("tcp", true) } else { says_tcp && section.flag("tcp", false) };
    if must && !asks_more && !tcp {
        section.problem(
            "tcp",
            "the app is announced only while a check passes: leave this out, or give http or grpc",
        );
    }
    let says = asks_more || says_tcp || section.find("grpc").is_some();
    if section.is_present() && !says && !section.is_defaults && !must {
        section.missing(
            "checks of which kind? give http = \"/PATH\", grpc = true or tcp = true (tcp = false for none)",
        );
    }
    // What has no effect is checked all the same.
    section.hush(!asks_http);
    let http = http(&section, path.unwrap_or_else(|| "/".to_owned()));
    let elsewhere = section.find("port").is_some() && version == HttpVersion::Two;
    let http = HttpCheck { version: if elsewhere { HttpVersion::Auto } else { version }, ..http };
    for key in HTTP_ONLY.into_iter().filter(|key| (tcp || grpc.is_some()) && section.has(key)) {
        let what = if tcp { "a TCP check asks nothing" } else { "a gRPC check asks as gRPC says" };
        section.problem(key, format!("{what}: this goes with http = \"/PATH\" only"));
    }
    let asks = asks_more || tcp;
    section.hush(!asks);
    let kind = match grpc {
        _ if asks_http => CheckKind::Http(http),
        Some(service) => CheckKind::Grpc(service),
        None => CheckKind::Tcp,
    };
    let tls = tls::of_checks(&section, Some(&kind).filter(|_| asks), service);
    let settings = CheckSettings { tls, ..timing(&section, new(kind)) };
    section.finish();
    asks.then_some(settings)
}

/// The service that is asked about; empty for `true`, nothing for `false`.
fn grpc(section: &Section<'_>) -> Option<String> {
    let service = section.read("grpc", |scalar| match (flag(scalar), scalar) {
        (Ok(asks), _) => Ok(asks.then(String::new)),
        (Err(_), Scalar::Text(text)) if text.is_empty() => {
            Err("an empty name: true asks about the server as a whole".to_owned())
        }
        (Err(_), Scalar::Text(text)) => Ok(Some(text.to_string())),
        (Err(kind), _) => Err(format!("true, false or a service's name is expected here, not {kind}")),
    })?;
    let shown = match service.as_deref() {
        None => "false".to_owned(),
        Some("") => "true".to_owned(),
        Some(name) => quoted(name),
    };
    section.note("grpc", shown, section.origin_of("grpc"));
    service
}

fn timing(section: &Section<'_>, default: CheckSettings) -> CheckSettings {
    let settings = CheckSettings {
        interval: section.duration("interval", MILLI..=DAY, default.interval),
        timeout: section.duration("timeout", MILLI..=DAY, default.timeout),
        rise: section.integer("rise", 1..=100, default.rise),
        fall: section.integer("fall", 1..=100, default.fall),
        jitter: section.share("jitter", default.jitter),
        unhealthy_interval: section.duration("unhealthy_interval", MILLI..=DAY, default.unhealthy_interval),
        unhealthy_interval_max: section.duration(
            "unhealthy_interval_max",
            MILLI..=DAY,
            default.unhealthy_interval_max,
        ),
        port: section.integer_or_none("port", &(1..=65_535)),
        kind: default.kind,
        tls: None,
    };
    not_above(section, "timeout", settings.timeout, "interval", settings.interval);
    let (low, high) = (settings.unhealthy_interval, settings.unhealthy_interval_max);
    not_above(section, "unhealthy_interval", low, "unhealthy_interval_max", high);
    settings
}

fn http(section: &Section<'_>, path: String) -> HttpCheck {
    let default = HttpCheck::get(path);
    let methods = [("GET", 0), ("HEAD", 1), ("OPTIONS", 2), ("POST", 3)];
    let method = match section.choice("method", &methods, &[], 0) {
        1 => Method::HEAD,
        2 => Method::OPTIONS,
        3 => Method::POST,
        _ => Method::GET,
    };
    HttpCheck {
        method,
        headers: headers(section),
        host: section.text("host", "a host", |text| match text.parse::<Authority>() {
            Ok(_) if !text.contains('@') => Ok(text.to_owned()),
            _ => Err(format!("{text:?} is no host: HOST or HOST:PORT is accepted")),
        }),
        expect: section.list_of_some("expect", default.expect, show_statuses, statuses),
        body: section.text("body", "a text that the body contains", |text| match text.len() {
            0 => Err("an empty text is in every body: leave it out".to_owned()),
            _ => Ok(text.to_owned()),
        }),
        path: default.path,
        version: default.version,
    }
}

pub(super) fn path(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/') && !text.contains('#') && text.parse::<PathAndQuery>().is_ok();
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no path: \"/\" and what follows it is accepted, such as \"/health\""))
    }
}

/// Their values may be secrets, and are never shown.
fn headers(section: &Section<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for (at, name, value) in section.texts("headers") {
        let problem = |message: String| {
            let path = join(&section.path_of("headers"), name);
            section.doc.problem(section.doc.origin(at), &path, message);
        };
        let Ok(header) = name.parse::<HeaderName>() else {
            problem(format!("{name:?} is no header name: letters, digits and - are accepted"));
            continue;
        };
        let Ok(mut value) = HeaderValue::from_str(&value) else {
            problem("no header value: visible characters in one line are accepted".to_owned());
            continue;
        };
        match header.as_str() {
            "host" => problem("the Host header has a key of its own: host = \"…\"".to_owned()),
            "connection" | "content-length" | "transfer-encoding" | "upgrade" => {
                problem("this header belongs to the connection: it cannot be set".to_owned());
            }
            _ => {
                value.set_sensitive(true);
                headers.push((header, value));
            }
        }
    }
    if !headers.is_empty() {
        let shown: Vec<_> = headers.iter().map(|(name, _)| format!("{name} = \"***\"")).collect();
        section.note("headers", format!("{{ {} }}", shown.join(", ")), section.origin_of("headers"));
    }
    headers
}

/// `204`, `"204"` or `"200-299"`.
fn statuses(scalar: &Scalar<'_>) -> Result<RangeInclusive<u16>, String> {
    const RANGE: RangeInclusive<u16> = 100..=599;
    let Scalar::Text(text) = scalar else {
        let status =
            integer(scalar, &RANGE).map_err(|error| format!("{error}, or a range such as \"200-299\""))?;
        return Ok(status..=status);
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.trim().parse::<u16>(), to.trim().parse::<u16>()) {
        (Ok(from), Ok(to)) if from <= to && RANGE.contains(&from) && RANGE.contains(&to) => Ok(from..=to),
        _ => Err(format!(
            "{text:?} is no range of statuses: 100 to 599 is accepted, such as \"200-299\" or 204"
        )),
    }
}

fn show_statuses(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        quoted(&format!("{}-{}", range.start(), range.end()))
    }
}
