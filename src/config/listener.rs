//! `[listener.NAME]`: a port that several services share.

use super::listen::Taken;
use super::listen_tls;
use super::problem::suggestion;
use super::protocol;
use super::route;
use super::section::Section;
use super::service::listen;
use super::settings::{ListenerSettings, Place};
use super::shown::inline;
use crate::model::ServiceName;
use crate::policy::Subset;

/// The services that routes may name, and the places that they do.
pub(super) struct Places<'a> {
    names: Vec<&'a str>,
    pub(super) all: Vec<Place>,
}

/// Reads every listener of the file.
pub(super) fn read_all(root: &Section<'_>, taken: &mut Taken) -> Vec<ListenerSettings> {
    let names: Vec<_> = root.sections("service").into_iter().map(|(name, _)| name).collect();
    let listeners = root.sections("listener").into_iter();
    listeners.filter_map(|(name, section)| read(name, section, names.clone(), taken)).collect()
}

fn read(name: &str, section: Section<'_>, names: Vec<&str>, taken: &mut Taken) -> Option<ListenerSettings> {
    let checked = ServiceName::new(name);
    if let Err(error) = &checked {
        section.missing(error.to_string());
    }
    if names.contains(&name) {
        section.missing("a service has this name: choose another one, they are told apart by it in metrics");
    }
    let listen = listen(&section, taken, true);
    let listen_tls = listen_tls::read(&section);
    let proxy_protocol = protocol::of_listener(&section);
    let mut places = Places { names, all: Vec::new() };
    if let Some(found) = section.find("route") {
        let shown = inline(section.doc, found.value.get_ref());
        section.note("route", shown, section.origin_of("route"));
    }
    let tables = section.tables("route");
    if tables.is_empty() {
        let path = section.path_of("route");
        section.missing(format!("there is no route: give at least one table [[{path}]]"));
    }
    let routes = tables.into_iter().filter_map(|table| route::read(table, &mut places)).collect();
    section.finish();
    let (name, places) = (checked.ok()?, places.all);
    Some(ListenerSettings { name, listen, listen_tls, proxy_protocol, places, routes })
}

impl Places<'_> {
    /// The number of a place.
    ///
    /// # Errors
    /// What would be accepted.
    pub(super) fn number(&mut self, service: &str, subset: Subset) -> Result<usize, String> {
        let known = self.names.contains(&service);
        let name = ServiceName::new(service).ok().filter(|_| known).ok_or_else(|| {
            let hint = suggestion(service, self.names.iter().copied());
            format!("there is no table [service.{service}];{hint} a service of this file is accepted")
        })?;
        let place = Place { service: name, subset };
        let found = self.all.iter().position(|other| *other == place);
        Ok(found.unwrap_or_else(|| {
            self.all.push(place);
            self.all.len() - 1
        }))
    }
}
