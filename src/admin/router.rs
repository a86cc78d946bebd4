//! Which path of the admin address is answered by whom.

use super::answer::{Answer, refuse, text};
use super::desk::Desk;
use super::{clusters, events, health, metrics, registrations, routes};
use http::{HeaderValue, Method, Request, StatusCode, header};

/// Every path, and what it is for.
const PATHS: [(&str, &str); 9] = [
    ("/", "this list"),
    ("/livez", "200 as long as the process answers"),
    ("/readyz", "200 when every service has a usable instance, else 503 and the reasons"),
    ("/metrics", "for Prometheus, as text or OpenMetrics"),
    ("/api/services", "all services with their sources and endpoints, JSON"),
    ("/api/services/NAME", "one of them"),
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
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let detail = format!("{} is not for {path}; {ALLOWED} are", request.method());
        let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &detail);
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOWED));
        return answer;
    }
    match (path, service) {
        (_, Some(name)) => one_service(desk, name),
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

fn one_service(desk: &Desk, name: &str) -> Answer {
    let clusters = &desk.window.clusters;
    match clusters.iter().find(|cluster| cluster.name().as_str() == name) {
        Some(cluster) => clusters::one(desk, cluster),
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
    let line = |(path, what): &(&str, &str)| format!("{path:20} {what}\n");
    format!("Outrigger {}\n\n", env!("CARGO_PKG_VERSION")) + &PATHS.iter().map(line).collect::<String>()
}
