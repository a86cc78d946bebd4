//! `[service.NAME]`: where it listens, and where its instances come from.

use super::document::Scalar;
use super::listen::{self, Taken};
use super::protocol;
use super::registries::Registries;
use super::section::Section;
use super::settings::{ListenerSettings, NamedSource, ServiceSettings};
use super::source_url::{self, Source};
use super::traffic::Rules;
use super::value::quoted;
use crate::model::ServiceName;
use crate::policy::Protocol;
use std::net::SocketAddr;

/// Reads every service of the file; `[defaults]` speaks where they are silent.
pub(super) fn read_all(
    root: &Section<'_>,
    registries: &Registries,
    listeners: &[ListenerSettings],
    taken: &mut Taken,
) -> Vec<ServiceSettings> {
    let defaults = root.section("defaults");
    let services = root.sections("service");
    let none = |key| {
        root.find(key).is_none_or(|found| found.value.get_ref().as_table().is_some_and(|t| t.is_empty()))
    };
    if none("service") && none("register") {
        let message = "there is no service: give at least one table [service.NAME] with port and from";
        root.doc.problem(root.doc.whole(), "", message);
    }
    let settings = services
        .into_iter()
        .filter_map(|(name, section)| {
            read(name, section.with_defaults(&defaults), registries, listeners, taken)
        })
        .collect();
    let defaults = defaults.into_defaults();
    Rules::read(&defaults);
    defaults.refuse(&["port", "listen", "from"], "each service has its own: give it in [service.NAME]");
    defaults.finish();
    settings
}

fn read(
    name: &str,
    section: Section<'_>,
    registries: &Registries,
    listeners: &[ListenerSettings],
    taken: &mut Taken,
) -> Option<ServiceSettings> {
    let checked = ServiceName::new(name);
    if let Err(error) = &checked {
        section.missing(error.to_string());
    }
    let leads =
        |listener: &&ListenerSettings| listener.places.iter().any(|place| place.service.as_str() == name);
    let routed = listeners.iter().find(leads);
    let listen = listen(&section, taken, routed.is_none());
    let sources = sources(&section, registries, checked.as_ref().ok());
    let rules = Rules::read(&section);
    let by = routed.map(|listener| super::section::join("listener", listener.name.as_str()));
    if let (Some(path), Protocol::Tcp) = (&by, rules.protocol) {
        section.problem(
            "protocol",
            format!("{path} leads requests to it: only protocol = \"http\" is accepted"),
        );
    }
    if let (Some(path), true) = (&by, listen.is_empty()) {
        protocol::has_a_port(&section, path);
    }
    section.finish();
    let mut settings = assemble(checked.ok()?, listen, sources?, rules);
    let places = listeners.iter().flat_map(|listener| &listener.places);
    let ours = places.filter(|place| place.service == settings.name && !place.subset.0.is_empty());
    settings.subsets = ours.map(|place| place.subset.clone()).collect();
    settings.subsets.sort();
    settings.subsets.dedup();
    Some(settings)
}

/// One service out of its parts.
pub(super) fn assemble(
    name: ServiceName,
    listen: Vec<SocketAddr>,
    sources: Vec<Source>,
    rules: Rules,
) -> ServiceSettings {
    let Rules { balance, check, retry, budget, timeouts, connections, limits, watch, mode, graces, .. } =
        rules;
    let Rules { listen_tls, protocol, proxy_protocol, outlier, panic, .. } = rules;
    let named = |source: Source| NamedSource { settings: source.settings, url: source.shown };
    ServiceSettings {
        name,
        listen,
        listen_tls,
        sources: sources.into_iter().map(named).collect(),
        mode,
        balance,
        check,
        retry,
        budget,
        timeouts,
        connections,
        limits,
        outlier,
        panic,
        watch,
        graces,
        protocol,
        proxy_protocol,
        subsets: Vec::new(),
    }
}

/// `required`: nobody gets there without a port.
pub(super) fn listen(section: &Section<'_>, taken: &mut Taken, required: bool) -> Vec<SocketAddr> {
    section.exclusive(&["port", "listen"]);
    let (key, addrs) = if section.has("port") {
        let port = section.integer_or_none("port", &(1..=65_535));
        ("port", port.map(listen::loopback).unwrap_or_default())
    } else if section.has("listen") {
        let parse = |scalar: &Scalar<'_>| match scalar {
            Scalar::Integer(number, _) => Err(format!("a port alone goes with another key: port = {number}")),
            scalar => {
                listen::addresses(scalar.text("an address such as \"127.0.0.1:9001\", or a list of them")?)
            }
        };
        let addrs = section.list_of_some("listen", Vec::new(), |addrs| listen::shown(addrs), parse);
        ("listen", addrs.concat())
    } else {
        if required {
            section.missing("where to listen is missing: give port = 9001 or listen = [\"127.0.0.1:9001\"]");
        }
        return Vec::new();
    };
    let origin = section.origin_of(key);
    let conflicts: Vec<_> =
        addrs.iter().filter_map(|addr| taken.take(*addr, &section.path_of(key), &origin).err()).collect();
    // A port stands for two addresses; one line about it is enough.
    if let Some(conflict) = conflicts.into_iter().next() {
        section.problem(key, conflict);
    }
    addrs
}

/// One source URL, or a list of them; `None` if anything is wrong with it.
fn sources(
    section: &Section<'_>,
    registries: &Registries,
    name: Option<&ServiceName>,
) -> Option<Vec<Source>> {
    if !section.has("from") {
        section.missing(
            "where its instances come from is missing: give from = \"consul:NAME\" or another source URL",
        );
        return None;
    }
    let found = section.find("from")?;
    let path = section.path_of("from");
    let listed = found.value.get_ref().as_array();
    let entries: Vec<_> = match listed {
        Some(list) => list.iter().enumerate().map(|(n, value)| (value, format!("{path}[{n}]"))).collect(),
        None => vec![(found.value, path.clone())],
    };
    if entries.is_empty() {
        section.problem("from", "an empty list: at least one source URL is expected");
        return None;
    }
    let count = entries.len();
    let mut sources: Vec<Source> = Vec::new();
    for (value, path) in entries {
        let found = found.within(value);
        let Some(scalar) = section.scalar(&found, &path) else { continue };
        let read = scalar
            .text("a source URL such as \"consul:orders\"")
            .and_then(|url| source_url::parse(url, registries, name));
        match read {
            Ok(source) if sources.iter().any(|other| other.shown == source.shown) => {
                section.problem_at(&found, &path, format!("{} is given twice", quoted(&source.shown)));
            }
            Ok(source) => sources.push(source),
            Err(message) => section.problem_at(&found, &path, message),
        }
    }
    let shown: Vec<_> = sources.iter().map(|source| quoted(&source.shown)).collect();
    let shown = if listed.is_some() { format!("[{}]", shown.join(", ")) } else { shown.join("") };
    section.note("from", shown, section.origin_of("from"));
    // What is left of a list after its wrong entries is no list that anybody meant.
    (sources.len() == count).then_some(sources)
}
