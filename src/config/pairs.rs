//! Settings without a file: `--listen ADDR --to URL`, `--register URL`.

use super::document::Document;
use super::env::Environment;
use super::listen;
use super::problem::{Origin, Problem, Problems};
use super::register;
use super::registries::Registries;
use super::section::{Section, join};
use super::service::assemble;
use super::source_url::{self, Source};
use super::traffic::Rules;
use super::{AdminSettings, Loaded, settings, value::quoted};
use crate::model::ServiceName;
use std::path::Path;
use toml::de::DeTable;

/// Settings of one service for each pair of a listen address (or a port alone) and a source URL, everything else at
/// its default; the environment is honoured as for a file. Services are named after their sources. `registrations` are URLs
/// of where the local app is announced. `admin` is where the admin address listens, or `off`.
///
/// # Errors
/// All that is wrong with them.
pub fn from_pairs(
    pairs: &[(String, String)],
    registrations: &[String],
    admin: Option<&str>,
    env: &Environment,
) -> Result<Loaded, Problems> {
    let doc = Document::new("", Path::new(""), "", env);
    let table = DeTable::new();
    let root = Section::root(&doc, &table);
    let given = admin.and_then(|text| match super::admin_address(text) {
        Ok(listen) => Some(AdminSettings { listen }),
        Err(message) => {
            doc.problem(Origin::Argument(super::ADMIN), "", message);
            None
        }
    });
    let (mut everything, registries, mut taken) = super::without_services(&root, given);
    if pairs.is_empty() && registrations.is_empty() {
        doc.problem(Origin::Argument("--to"), "", "there is no service: give --listen ADDR --to URL");
    }
    for (at, to) in pairs {
        let listen = listen::addresses(at).unwrap_or_else(|message| {
            doc.problem(Origin::Argument("--listen"), "", message);
            Vec::new()
        });
        let conflicts: Vec<_> = listen
            .iter()
            .filter_map(|a| taken.take(*a, "another --listen", &Origin::Argument("--listen")).err())
            .collect();
        if let Some(conflict) = conflicts.into_iter().next() {
            doc.problem(Origin::Argument("--listen"), "", conflict);
        }
        let source = match source_url::parse(to, &registries, None) {
            Ok(source) => source,
            Err(message) => {
                doc.problem(Origin::Argument("--to"), "", message);
                continue;
            }
        };
        let Some(port) = listen.first().map(std::net::SocketAddr::port) else { continue };
        let Some(name) = free_name(&source, port, &everything.services) else { continue };
        let path = join("service", name.as_str());
        let shown = format!("[{}]", listen::shown(&listen));
        doc.note(format!("{path}.listen"), shown, Origin::Argument("--listen"));
        doc.note(format!("{path}.from"), quoted(&source.shown), Origin::Argument("--to"));
        let rules = Rules::read(&root.named(&path));
        everything.services.push(assemble(name, listen, vec![source], rules));
    }
    for url in registrations {
        match register::from_url(url, &root, &registries) {
            Ok(new) => {
                if everything
                    .registrations
                    .iter()
                    .any(|other| new.as_ref().is_some_and(|new| register::is_same(other, new)))
                {
                    doc.problem(Origin::Argument(register::OPTION), "", "the same is given twice");
                }
                everything.registrations.extend(new);
            }
            Err(message) => doc.problem(Origin::Argument(register::OPTION), "", message),
        }
    }
    let (values, _) = doc.finish()?;
    Ok(Loaded { settings: everything, values })
}

/// What one source URL stands for, without a service around it; the environment is honoured.
///
/// # Errors
/// All that is wrong with it and with the environment.
pub fn source(url: &str, env: &Environment) -> Result<Source, Problems> {
    let doc = Document::new("", Path::new(""), "", env);
    let table = DeTable::new();
    let registries = Registries::read(&Section::root(&doc, &table));
    doc.finish()?;
    source_url::parse(url, &registries, None).map_err(|message| {
        Problems(vec![Problem { origin: Origin::Argument("URL"), path: String::new(), message }])
    })
}

/// After the source, else after the port; with the port too when another service has that name.
fn free_name(source: &Source, port: u16, others: &[settings::ServiceSettings]) -> Option<ServiceName> {
    let taken = |name: &ServiceName| others.iter().any(|other| other.name == *name);
    if let Some(name) = source.name.clone().filter(|name| !taken(name)) {
        return Some(name);
    }
    let stem = source.name.as_ref().map_or("service", ServiceName::as_str);
    let tail = format!("-{port}");
    let head = stem.get(..stem.len().min(128 - tail.len())).unwrap_or_default();
    ServiceName::new(&format!("{head}{tail}")).ok()
}
