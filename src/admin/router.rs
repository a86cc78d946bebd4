//! Which path of the admin address is answered by whom.

use super::answer::{Answer, refuse, text};
use super::desk::Desk;
use super::{clusters, control, events, health, metrics, registrations, routes};
use crate::cluster::Cluster;
use http::{HeaderValue, Request, StatusCode, header};

/// Every path, and what it is for.
const PATHS: [(&str, &str); 10] = [
    ("/", "this list"),
    ("/livez", "200 as long as the process answers"),
    ("/readyz", "200 when every service has a usable instance, else 503 and the reasons"),
    ("/metrics", "for Prometheus, as text or OpenMetrics"),
    ("/api/services", "all services with their sources and endpoints, JSON"),
    ("/api/services/NAME", "one of them"),
    ("/api/services/NAME/endpoints/ADDR/readmit", "POST: takes back an ejection"),
    ("/api/routes", "the routes of shared ports, JSON; of header fields the names alone"),
    ("/api/registrations", "what is announced of the local app, where, and how that stands, JSON"),
    ("/api/events", "the last 1000 events, JSON; with Accept: text/event-stream they are followed live"),
];

const ALLOWED: &str = "GET, HEAD";

pub(super) fn answer<B>(desk: &Desk, request: &Request<B>) -> Answer {
    let path = request.uri().path();
    let service = path.strip_prefix("/api/services/");
    if service.is_none() && !PATHS.iter().any(|(known, _)| path == *known) {
        let known: Vec<_> = PATHS.iter().map(|(path, _)| *path).collect();
        let detail = format!("no such path; there are {}", known.join(", "));
        return refuse(StatusCode::NOT_FOUND, "not_found", &detail);
    }
    let act = service.and_then(|service| service.split_once('/'));
    let act = act.and_then(|(name, rest)| Some((name, control::parts(rest)?)));
    let allowed = if act.is_some() { "POST" } else { ALLOWED };
    if !allowed.split(", ").any(|method| request.method() == method) {
        let detail = format!("{} is not for {path}; only {allowed}", request.method());
        let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &detail);
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        return answer;
    }
    if let Some((name, act)) = act {
        return one_service(desk, name, |cluster| control::act(cluster, act, request.headers()));
    }
    match (path, service) {
        (_, Some(name)) => one_service(desk, name, |cluster| clusters::one(desk, cluster)),
        ("/livez", _) => text(StatusCode::OK, "ok\n"),
        ("/readyz", _) => health::readiness(desk),
        ("/metrics", _) => metrics::answer(desk, request.headers()),
        ("/api/services", _) => clusters::all(desk),
        ("/api/routes", _) => routes::all(desk),
        ("/api/registrations", _) => registrations::all(desk),
        ("/api/events", _) => events::answer(desk, request.method(), request.headers()),
        _ => text(StatusCode::OK, list()),
    }
}

fn one_service(desk: &Desk, name: &str, answer: impl FnOnce(&Cluster) -> Answer) -> Answer {
    let clusters = &desk.window.clusters;
    match clusters.iter().find(|cluster| cluster.name().as_str() == name) {
        Some(cluster) => answer(cluster),
        None => {
            let known: Vec<_> = clusters.iter().map(|cluster| cluster.name().as_str()).collect();
            let detail = match known.as_slice() {
                [] => format!("no service {name:?}; none is configured"),
                known => format!("no service {name:?}; there are {}", known.join(", ")),
            };
            refuse(StatusCode::NOT_FOUND, "unknown_service", &detail)
        }
    }
}

fn list() -> String {
    let line = |(path, what): &(&str, &str)| format!("{path:44} {what}\n");
    format!("Outrigger {}\n\n", env!("CARGO_PKG_VERSION")) + &PATHS.iter().map(line).collect::<String>()
}
