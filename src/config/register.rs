//! `[register.NAME]` and `--register URL`: the local app, and where it is announced.

use super::check;
use super::env::Environment;
use super::problem::Origin;
use super::registries::Registries;
use super::section::{Section, join};
use super::source_url::register::{self as target, Kind, Target};
use super::units;
use super::value::{DAY, MILLI, quoted};
use crate::health::{CheckKind, CheckSettings, HttpCheck};
use crate::model::{InstanceId, ServiceName, Weight, Zone};
use crate::registration::{Advertise, ConsulCheck, RegistrationSettings, Registry};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The option that says it without a file.
pub(super) const OPTION: &str = "--register";

/// What may stand behind the URL of [`OPTION`].
const PARAMETERS: [&str; 8] = ["port", "health", "address", "id", "tag", "weight", "zone", "ttl"];
/// Shorter leases are lost by a pause that nobody notices; etcd's own least is about two seconds.
const SHORTEST_TTL: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// What is known before the table is read, because the command line said it.
#[derive(Debug, Default)]
struct Given {
    health: Option<CheckSettings>,
    address: Option<IpAddr>,
    id: Option<String>,
    tags: Vec<String>,
    weight: Option<u16>,
    zone: Option<String>,
    ttl: Option<Duration>,
}

/// Reads every registration of the file.
pub(super) fn read_all(root: &Section<'_>, registries: &Registries) -> Vec<RegistrationSettings> {
    let mut all: Vec<RegistrationSettings> = Vec::new();
    for (name, section) in root.sections("register") {
        let new = read(name, section, registries, &all);
        all.extend(new);
    }
    all
}

/// Two that would fight for one entry.
pub(super) fn is_same(a: &RegistrationSettings, b: &RegistrationSettings) -> bool {
    let place = |registration: &RegistrationSettings| match &registration.to {
        Registry::Consul { settings, .. } => (settings.addresses.clone(), String::new()),
        Registry::Etcd { settings, prefix } => (settings.endpoints.clone(), prefix.clone()),
    };
    a.id == b.id && place(a) == place(b)
}

fn read(
    name: &str,
    section: Section<'_>,
    registries: &Registries,
    others: &[RegistrationSettings],
) -> Option<RegistrationSettings> {
    let table = ServiceName::new(name).map_err(|error| section.missing(error.to_string())).ok();
    let port = section.integer_or_none("port", &(1..=65_535));
    if !section.has("port") {
        section.missing("where the app listens is missing: give port = 8080");
    }
    let to = section.read("to", |scalar| {
        target::parse(scalar.text("a registry such as \"consul\" or \"etcd\"")?, registries, &[])
    });
    if let Some(to) = &to {
        section.note("to", quoted(&to.shown), section.origin_of("to"));
    }
    if !section.has("to") {
        section.missing("where it is registered is missing: give to = \"consul\" or to = \"etcd\"");
    }
    let service = section.text("name", "the name of the service", service_name);
    let service = match to.as_ref().and_then(in_url).filter(|_| !section.has("name")) {
        Some(name) => {
            section.note("name", quoted(name), section.origin_of("to"));
            service_name(name).map_err(|problem| section.problem("to", problem)).ok()
        }
        None => service,
    };
    if !section.has("name") && service.is_none() {
        section.note("name", quoted(name), Origin::Default);
    }
    let parts = Parts {
        table: table?,
        service,
        port: port.unwrap_or(1),
        to: to.clone().unwrap_or(nowhere(registries)),
    };
    let settings = assemble(&section, parts, registries, Given::default());
    // Whatever else is wrong has been said.
    let settings = settings.filter(|_| port.is_some() && to.is_some());
    if let Some(new) = &settings
        && let Some(other) = others.iter().find(|other| is_same(other, new))
    {
        let other = join("register", other.name.as_str());
        let id = quoted(new.id.as_str());
        section.missing(format!(
            "{other} has the same id {id} at the same registry: give one of them another id"
        ));
    }
    section.finish();
    settings
}

/// The service's name in the URL of a registry; the path of an etcd is a prefix of keys.
fn in_url(to: &Target) -> Option<&str> {
    to.name.as_deref().filter(|_| !matches!(to.registry, Kind::Etcd(_, Some(_))))
}

/// A registry that stands in for one that cannot be read, so that the rest of the table is looked at.
fn nowhere(registries: &Registries) -> Target {
    Target {
        registry: Kind::Consul(registries.consul.clone()),
        shown: String::new(),
        name: None,
        parameters: Vec::new(),
    }
}

/// `--register URL`.
pub(super) fn from_url(
    url: &str,
    root: &Section<'_>,
    registries: &Registries,
) -> Result<Option<RegistrationSettings>, String> {
    let to = target::parse(url, registries, &PARAMETERS)?;
    let name = to.name.clone().ok_or(
        "the service's name is missing: write for example consul://127.0.0.1:8500/web?port=8080&health=/health",
    )?;
    let name = service_name(&name)?;
    let mut given = Given::default();
    let mut port = None;
    for (key, value) in &to.parameters {
        match key.as_str() {
            "port" => port = Some(number(key, value)?),
            "health" => given.health = Some(health(value)?),
            "address" => given.address = Some(address(value)?),
            "id" => given.id = Some(id(value)?),
            "tag" => given.tags.push(value.clone()),
            "weight" => given.weight = Some(number(key, value)?),
            "zone" => given.zone = Some(value.clone()),
            _ => {
                let ttl = units::duration(value)?;
                if !(SHORTEST_TTL..=DAY).contains(&ttl) {
                    return Err(format!("ttl {value:?} is out of range: \"5s\" to \"1day\" is accepted"));
                }
                given.ttl = Some(ttl);
            }
        }
    }
    let port = port.ok_or("the app's port is missing: append ?port=8080")?;
    let section = root.named(&join("register", name.as_str()));
    section.doc.note(section.path_of("to"), quoted(&to.shown), Origin::Argument(OPTION));
    section.doc.note(section.path_of("port"), port.to_string(), Origin::Argument(OPTION));
    let parts = Parts { table: name, service: None, port, to };
    Ok(assemble(&section, parts, registries, given))
}

/// What is read differently in a file and on the command line.
struct Parts {
    table: ServiceName,
    service: Option<ServiceName>,
    port: u16,
    to: Target,
}

fn assemble(
    section: &Section<'_>,
    parts: Parts,
    registries: &Registries,
    given: Given,
) -> Option<RegistrationSettings> {
    let Parts { table, service, port, to } = parts;
    let service = service.unwrap_or_else(|| table.clone());
    let env = section.doc.env;
    let instance = given.id.or_else(|| section.text("id", "an id", id));
    let instance = instance.unwrap_or_else(|| {
        let id = default_id(&service, port, env);
        section.note("id", quoted(&id), Origin::Default);
        id
    });
    let health = given.health.unwrap_or_else(|| check::of_the_app(section.section("health")));
    let tags =
        section.list("tags", given.tags, |tag: &String| quoted(tag), |tag| Ok(tag.text("a tag")?.to_owned()));
    let ttl = match given.ttl {
        Some(ttl) => ttl,
        None => section.duration("ttl", SHORTEST_TTL..=DAY, RegistrationSettings::TTL),
    };
    let beat = beat(section, ttl);
    let reassert = section.duration("reassert", MINUTE / 60..=DAY, RegistrationSettings::REASSERT);
    let is_consul = matches!(to.registry, Kind::Consul(_));
    // Only Consul can show an app that fails, and asks by itself.
    section.hush(!is_consul);
    let withdraw_after =
        section.duration("withdraw_after", Duration::ZERO..=DAY, RegistrationSettings::WITHDRAW_AFTER);
    let deregister_after =
        section.duration("deregister_after", MINUTE..=DAY, RegistrationSettings::DEREGISTER_AFTER);
    let words = [("ttl", ConsulCheck::Ttl), ("agent", ConsulCheck::Agent)];
    let check = section.choice("check", &words, &[], ConsulCheck::default());
    section.hush(false);
    if !is_consul {
        for key in ["withdraw_after", "deregister_after", "check"].into_iter().filter(|key| section.has(key))
        {
            section.problem(
                key,
                "this is for Consul only: etcd knows presence alone, and an app that fails is withdrawn",
            );
        }
    } else if check == ConsulCheck::Agent {
        only_what_the_agent_can(section, &health);
    }
    let weight = given.weight.unwrap_or_else(|| section.integer("weight", 1..=65_535, 1));
    let zone = given.zone.or_else(|| section.text("zone", "the name of a zone", |text| Ok(text.to_owned())));
    let registry = match to.registry {
        Kind::Consul(settings) => Registry::Consul { settings, check, deregister_after },
        Kind::Etcd(settings, prefix) => {
            let prefix = prefix.unwrap_or_else(|| registries.etcd_prefix.replace("{name}", service.as_str()));
            Registry::Etcd { settings, prefix: format!("{}/", prefix.trim_end_matches('/')) }
        }
    };
    let (meta, app) = (meta(section), app(section));
    let address = advertise(section, given.address)?;
    Some(RegistrationSettings {
        id: InstanceId::new(instance),
        address,
        port,
        tags,
        meta,
        weight: Weight::new(weight),
        zone: zone.as_deref().and_then(Zone::new),
        app,
        check: health,
        ttl,
        beat,
        reassert,
        withdraw_after,
        to: registry,
        url: to.shown,
        name: table,
        service,
    })
}

/// A third of the TTL, so that two may be lost.
fn beat(section: &Section<'_>, ttl: Duration) -> Duration {
    let third = Duration::from_millis(u64::try_from(ttl.as_millis() / 3).unwrap_or(u64::MAX));
    let beat = section.duration("beat", MILLI * 100..=DAY, third);
    let half = ttl / 2;
    if beat >= half {
        let [beat, ttl] = [beat, ttl].map(units::show_duration);
        let message = format!(
            "beat is {beat:?}, and ttl is {ttl:?}: give less than half of it, so that one that is lost does no harm"
        );
        section.conflict(&["beat", "ttl"], message);
    }
    beat
}

/// Explicit, else `POD_IP`, else that of the default route. `None` if what is given is no address.
fn advertise(section: &Section<'_>, given: Option<IpAddr>) -> Option<Advertise> {
    const VARIABLE: &str = "POD_IP";
    if let Some(ip) = given {
        section.note("address", quoted(&ip.to_string()), Origin::Argument(OPTION));
        return Some(Advertise::Given(ip, OPTION));
    }
    if section.find("address").is_some() {
        let ip = section.text("address", "an IP address", address)?;
        return Some(Advertise::Given(ip, "the configuration"));
    }
    let Some(text) = section.doc.env.get_filled(VARIABLE) else { return Some(Advertise::Route) };
    match address(&text) {
        Ok(ip) => {
            section.note("address", quoted(&text), Origin::Variable(VARIABLE));
            Some(Advertise::Given(ip, VARIABLE))
        }
        Err(message) => {
            section.doc.problem(Origin::Variable(VARIABLE), &section.path_of("address"), message);
            None
        }
    }
}

/// Where the app is asked: on this machine, unless something else is said.
fn app(section: &Section<'_>) -> Vec<IpAddr> {
    match section.text("host", "an IP address", address) {
        Some(ip) => vec![ip],
        None => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    }
}

fn meta(section: &Section<'_>) -> BTreeMap<String, String> {
    let texts = section.texts("meta");
    let meta: BTreeMap<_, _> = texts.into_iter().map(|(_, key, value)| (key.to_owned(), value)).collect();
    if !meta.is_empty() {
        let shown: Vec<_> =
            meta.iter().map(|(key, value)| format!("{} = {}", join("", key), quoted(value))).collect();
        section.note("meta", format!("{{ {} }}", shown.join(", ")), section.origin_of("meta"));
    }
    meta
}

/// Consul's own checks know a path, a method and a status of 2xx.
fn only_what_the_agent_can(section: &Section<'_>, health: &CheckSettings) {
    let plain = match &health.kind {
        CheckKind::Tcp | CheckKind::Grpc(_) => true,
        CheckKind::Http(http) => {
            *http == HttpCheck { method: http.method.clone(), ..HttpCheck::get(&*http.path) }
        }
    };
    if !plain || health.tls.is_some() {
        let message = "the agent asks for a path by a method, and takes 2xx: headers, host, expect, body and tls \
                       of the health check go with check = \"ttl\"";
        section.problem("check", message);
    }
}

/// `{service}-{host or pod uid}-{port}`
fn default_id(service: &ServiceName, port: u16, env: &Environment) -> String {
    let host = env.get_filled("POD_UID").or_else(|| env.get_filled("HOSTNAME"));
    let host = host.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let plain = |c: char| if is_plain(c) { c } else { '-' };
    let host: String = host.chars().map(plain).take(128).collect();
    format!("{service}-{host}-{port}")
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn id(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no id: 1 to 255 of A-Z a-z 0-9 . _ - are accepted"))
    }
}

fn service_name(text: &str) -> Result<ServiceName, String> {
    ServiceName::new(text).map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => {
            Err(format!("{text:?} is where one listens: nobody can connect to it"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => {
            Err(format!("{text:?} is no IP address: write for example \"10.0.0.1\" or \"2001:db8::1\""))
        }
    }
}

fn number(key: &str, value: &str) -> Result<u16, String> {
    match value.parse::<u16>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{key}: {value:?} is out of range: 1 to 65535 is accepted")),
    }
}

/// A path, or `tcp`.
fn health(value: &str) -> Result<CheckSettings, String> {
    if value == "tcp" {
        return Ok(CheckSettings::of_the_app(CheckKind::Tcp));
    }
    check::path(value).map(|path| CheckSettings::of_the_app(CheckKind::Http(HttpCheck::get(path))))
}
