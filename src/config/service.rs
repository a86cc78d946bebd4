//! `[service.NAME]`: where it listens, and where its instances come from.

use super::document::Scalar;
use super::listen::{self, Taken};
use super::registries::Registries;
use super::section::Section;
use super::settings::ServiceSettings;
use super::source_url::{self, Source};
use super::traffic::Rules;
use super::value::quoted;
use crate::model::ServiceName;
use std::net::SocketAddr;
use toml::de::DeValue;

/// Reads every service of the file; `[defaults]` speaks where they are silent.
pub(super) fn read_all(
    root: &Section<'_>,
    registries: &Registries,
    taken: &mut Taken,
) -> Vec<ServiceSettings> {
    let defaults = root.section("defaults");
    let services = root.sections("service");
    let none = root
        .find("service")
        .is_none_or(|found| found.value.get_ref().as_table().is_some_and(|t| t.is_empty()));
    if none {
        let message = "there is no service: give at least one table [service.NAME] with port and from";
        root.doc.problem(root.doc.whole(), "", message);
    }
    let settings = services
        .into_iter()
        .filter_map(|(name, section)| read(name, section.with_defaults(&defaults), registries, taken))
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
    taken: &mut Taken,
) -> Option<ServiceSettings> {
    let checked = ServiceName::new(name);
    if let Err(error) = &checked {
        section.missing(error.to_string());
    }
    let listen = listen(&section, taken);
    let source = source(&section, registries, checked.as_ref().ok());
    let rules = Rules::read(&section);
    section.finish();
    Some(assemble(checked.ok()?, listen, source?, rules))
}

/// One service out of its parts.
pub(super) fn assemble(
    name: ServiceName,
    listen: Vec<SocketAddr>,
    source: Source,
    rules: Rules,
) -> ServiceSettings {
    let Rules { balance, check, retry, budget, timeouts, connections, limits, watch, empty_grace } = rules;
    let (source, source_url) = (source.settings, source.shown);
    ServiceSettings {
        name,
        listen,
        source,
        source_url,
        balance,
        check,
        retry,
        budget,
        timeouts,
        connections,
        limits,
        watch,
        empty_grace,
    }
}

fn listen(section: &Section<'_>, taken: &mut Taken) -> Vec<SocketAddr> {
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
        section.missing("where to listen is missing: give port = 9001 or listen = [\"127.0.0.1:9001\"]");
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

fn source(section: &Section<'_>, registries: &Registries, name: Option<&ServiceName>) -> Option<Source> {
    let Some(found) = section.find("from").filter(|_| section.has("from")) else {
        section.missing(
            "where its instances come from is missing: give from = \"consul:NAME\" or another source URL",
        );
        return None;
    };
    let path = section.path_of("from");
    let value = match found.value.get_ref() {
        DeValue::Array(list) if list.len() == 1 => list.first()?,
        DeValue::Array(list) => {
            let message = if list.is_empty() {
                "an empty list: one source URL is expected".to_owned()
            } else {
                format!("{} sources: a service has one source only in this version", list.len())
            };
            section.problem("from", message);
            return None;
        }
        _ => found.value,
    };
    let read = section.scalar(&found.within(value), &path)?;
    let source = read
        .text("a source URL such as \"consul:orders\"")
        .and_then(|url| source_url::parse(url, registries, name));
    match source {
        Ok(source) => {
            section.note("from", quoted(&source.shown), section.origin_of("from"));
            Some(source)
        }
        Err(message) => {
            section.problem_at(&found.within(value), &path, message);
            None
        }
    }
}
