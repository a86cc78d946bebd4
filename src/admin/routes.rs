//! `/api/routes`: which requests of a shared port go where.

use super::answer::{Answer, json};
use super::desk::Desk;
use crate::model::ServiceName;
use crate::policy::{Edits, Route, Subset};
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A port that several services share.
#[derive(Clone, Debug)]
pub struct Port {
    pub name: ServiceName,
    pub listen: Vec<SocketAddr>,
    /// The first that matches counts.
    pub routes: Vec<Route>,
    /// What the routes' numbers stand for.
    pub places: Vec<(ServiceName, Subset)>,
}

#[derive(Serialize)]
struct Listener<'a> {
    name: &'a str,
    listen: &'a [SocketAddr],
    routes: Vec<Told<'a>>,
}

/// As the configuration has it. Values of fields may be secrets: only names are told.
#[derive(Serialize)]
struct Told<'a> {
    host: Vec<String>,
    path: Option<String>,
    method: Vec<&'a str>,
    headers: Vec<&'a str>,
    to: Vec<Destination<'a>>,
    rewrite: Option<String>,
    request: Edited<'a>,
    response: Edited<'a>,
    mirror: Option<Copies<'a>>,
}

#[derive(Serialize)]
struct Destination<'a> {
    service: &'a str,
    /// Empty: all of its instances.
    subset: BTreeMap<&'a str, &'a str>,
    weight: u32,
}

#[derive(Serialize)]
struct Edited<'a> {
    set_headers: Vec<&'a str>,
    add_headers: Vec<&'a str>,
    remove_headers: Vec<&'a str>,
}

#[derive(Serialize)]
struct Copies<'a> {
    to: &'a str,
    /// 0 to 1.
    share: f64,
}

pub(super) fn all(desk: &Desk) -> Answer {
    let told = desk.window.ports.iter().map(|port| Listener {
        name: port.name.as_str(),
        listen: &port.listen,
        routes: port.routes.iter().map(|route| tell(route, port)).collect(),
    });
    json(&told.collect::<Vec<_>>())
}

fn tell<'a>(route: &'a Route, port: &'a Port) -> Told<'a> {
    let place = |number: usize| port.places.get(number).map(|(service, subset)| (service.as_str(), subset));
    let to = route.to.places().filter_map(|(number, weight)| {
        let (service, Subset(subset)) = place(number)?;
        let subset = subset.iter().map(|(key, value)| (&**key, &**value)).collect();
        Some(Destination { service, subset, weight })
    });
    let mirror = route.mirror.as_ref().and_then(|mirror| {
        let (to, _) = place(mirror.place)?;
        Some(Copies { to, share: f64::from(mirror.share) / 1e6 })
    });
    Told {
        host: route.hosts.iter().map(ToString::to_string).collect(),
        path: route.path.as_ref().map(ToString::to_string),
        method: route.methods.iter().map(|method| method.as_str()).collect(),
        headers: route.fields.iter().map(|(name, _)| name.as_str()).collect(),
        to: to.collect(),
        rewrite: route.rewrite.as_ref().map(ToString::to_string),
        request: edited(&route.request),
        response: edited(&route.response),
        mirror,
    }
}

fn edited(edits: &Edits) -> Edited<'_> {
    Edited {
        set_headers: names(&edits.set),
        add_headers: names(&edits.add),
        remove_headers: edits.remove.iter().map(HeaderName::as_str).collect(),
    }
}

fn names(fields: &[(HeaderName, HeaderValue)]) -> Vec<&str> {
    fields.iter().map(|(name, _)| name.as_str()).collect()
}
