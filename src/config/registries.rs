//! `[consul]`, `[etcd]` and `[dns]`: how to reach the registries, and what is asked unless a source URL says otherwise.

use super::dns::Dns;
use super::document::{Document, Scalar, readable};
use super::problem::Origin;
use super::section::Section;
use super::units;
use super::value::{DAY, MILLI, quoted};
use crate::discovery::{ConsulQuery, EtcdQuery};
use crate::registry::consul::ConsulSettings;
use crate::registry::etcd::EtcdSettings;
use crate::registry::{Credential, TlsFiles};
use crate::telemetry::Secret;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// What source URLs take from the tables of the registries.
#[derive(Clone, Debug)]
pub(super) struct Registries {
    /// Relative paths start here.
    pub(super) folder: PathBuf,
    pub(super) consul: ConsulSettings,
    /// Without a service.
    pub(super) consul_query: ConsulQuery,
    pub(super) etcd: EtcdSettings,
    /// Without a prefix.
    pub(super) etcd_query: EtcdQuery,
    /// With `{name}`.
    pub(super) etcd_prefix: String,
    pub(super) dns: Dns,
}

const SECOND: Duration = Duration::from_secs(1);
/// Consul itself holds a blocking query for ten minutes at most.
const WAIT: RangeInclusive<Duration> = SECOND..=Duration::from_secs(600);

impl Registries {
    pub(super) fn read(root: &Section<'_>) -> Self {
        let (consul, consul_query) = consul(root.section("consul"));
        let (etcd, etcd_query, etcd_prefix) = etcd(root.section("etcd"));
        let dns = Dns::read(root.section("dns"));
        Self { folder: root.doc.folder.clone(), consul, consul_query, etcd, etcd_query, etcd_prefix, dns }
    }
}

fn consul(section: Section<'_>) -> (ConsulSettings, ConsulQuery) {
    let defaults = ConsulQuery::new("");
    let tls = TlsFiles {
        ca: file_or_variable(&section, "ca_cert", "CONSUL_CACERT"),
        cert: file_or_variable(&section, "client_cert", "CONSUL_CLIENT_CERT"),
        key: file_or_variable(&section, "client_key", "CONSUL_CLIENT_KEY"),
    };
    let variable = |name| section.doc.env.get_filled(name).is_some();
    both_or_neither(&section, variable("CONSUL_CLIENT_CERT"), variable("CONSUL_CLIENT_KEY"));
    let settings = ConsulSettings {
        addresses: consul_addresses(&section),
        token: consul_token(&section),
        tls,
        namespace: text_or_variable(&section, "namespace", "CONSUL_NAMESPACE"),
    };
    let query = ConsulQuery {
        dc: section.text("dc", "the name of a datacenter", |text| Ok(text.to_owned())),
        warning: section.choice("health", &[("passing", false), ("warning", true)], &[], defaults.warning),
        stale: section.choice("consistency", &[("default", false), ("stale", true)], &[], defaults.stale),
        wait: section.duration("wait", WAIT, defaults.wait),
        reread: section.duration("reread", SECOND..=DAY, defaults.reread),
        ..defaults
    };
    section.finish();
    (settings, query)
}

/// The range of Consul's `wait`, for source URLs.
///
/// # Errors
/// The range.
pub(super) fn consul_wait(wait: Duration) -> Result<Duration, String> {
    if WAIT.contains(&wait) {
        return Ok(wait);
    }
    let [value, from, to] = [wait, *WAIT.start(), *WAIT.end()].map(units::show_duration);
    Err(format!("{value:?} is out of range: {from:?} to {to:?} is accepted"))
}

/// The file's, else `CONSUL_HTTP_ADDR`, which as for Consul's own tools may lack its scheme, and is never reached
/// without TLS when `CONSUL_HTTP_SSL` asks for it.
fn consul_addresses(section: &Section<'_>) -> Vec<Url> {
    const LOCAL: &str = "127.0.0.1:8500";
    let variable = |name| section.doc.env.get_filled(name).filter(|_| section.find("address").is_none());
    let tls = variable("CONSUL_HTTP_SSL")
        .is_some_and(|flag| matches!(flag.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
    let (text, name) = match variable("CONSUL_HTTP_ADDR") {
        Some(text) => (text, "CONSUL_HTTP_ADDR"),
        None if tls => (LOCAL.to_owned(), "CONSUL_HTTP_SSL"),
        None => return addresses(section, "address", None, http_address(LOCAL).into_iter().collect()),
    };
    let bare = text.strip_prefix("http://").or((!text.contains("://")).then_some(&*text));
    let text = bare.filter(|_| tls).map_or_else(|| text.clone(), |bare| format!("https://{bare}"));
    match http_address(&text) {
        Ok(url) => {
            section.note("address", quoted(&show_address(&url)), Origin::Variable(name));
            vec![url]
        }
        Err(message) => {
            section.doc.problem(Origin::Variable(name), &section.path_of("address"), message);
            Vec::new()
        }
    }
}

/// The file's, else the environment's; a token file before a token, as for Consul's own tools.
fn consul_token(section: &Section<'_>) -> Option<Credential> {
    let given = section.find("token").is_some() || section.find("token_file").is_some();
    let from_file = section.credential("token", "token_file");
    if given {
        return from_file;
    }
    if let Some(path) = variable_file(section, "token_file", "CONSUL_HTTP_TOKEN_FILE") {
        return Some(Credential::File(path));
    }
    let token = section.doc.env.get_filled("CONSUL_HTTP_TOKEN")?;
    section.note("token", quoted("***"), Origin::Variable("CONSUL_HTTP_TOKEN"));
    Some(Credential::Text(Secret::new(token)))
}

fn etcd(section: Section<'_>) -> (EtcdSettings, EtcdQuery, String) {
    let local = http_address("127.0.0.1:2379").into_iter().collect();
    let endpoints = addresses(&section, "endpoints", Some(2379), local);
    let defaults = EtcdSettings::new(endpoints);
    let query = EtcdQuery::new("");
    let tls = TlsFiles {
        ca: section.file("ca_cert"),
        cert: section.file("client_cert"),
        key: section.file("client_key"),
    };
    both_or_neither(&section, false, false);
    let settings = EtcdSettings {
        user: etcd_user(&section),
        tls,
        dial_timeout: section.duration("dial_timeout", MILLI..=DAY, defaults.dial_timeout),
        request_timeout: section.duration("request_timeout", MILLI..=DAY, defaults.request_timeout),
        keep_alive: section.duration("keep_alive", SECOND..=DAY, defaults.keep_alive),
        keep_alive_timeout: section.duration("keep_alive_timeout", MILLI..=DAY, defaults.keep_alive_timeout),
        endpoints: defaults.endpoints,
    };
    let query = EtcdQuery {
        silence: section.duration("silence", SECOND..=DAY, query.silence),
        progress_timeout: section.duration("progress_timeout", MILLI..=DAY, query.progress_timeout),
        ..query
    };
    const PREFIX: &str = "/services/{name}/";
    let prefix = section.text("prefix", "a prefix", |text| match text.contains("{name}") {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} lacks {{name}}, which stands for the service's name, such as in {PREFIX:?}"
        )),
    });
    if section.find("prefix").is_none() {
        section.note("prefix", quoted(PREFIX), Origin::Default);
    }
    section.finish();
    (settings, query, prefix.unwrap_or_else(|| PREFIX.to_owned()))
}

fn etcd_user(section: &Section<'_>) -> Option<(String, Credential)> {
    let given = section.has("password") || section.has("password_file");
    let user = section.text("user", "a user's name", |text| Ok(text.to_owned()));
    let password = section.credential("password", "password_file");
    match (section.has("user"), given) {
        (true, false) => {
            section.problem("user", "a user without a password: give password or password_file too")
        }
        (false, true) => {
            section.conflict(&["password", "password_file"], "a password without a user: give user too")
        }
        _ => {}
    }
    Some((user?, password?))
}

/// `port` is what an address without one means; `None` is its scheme's.
fn addresses(section: &Section<'_>, key: &'static str, port: Option<u16>, default: Vec<Url>) -> Vec<Url> {
    section.list_of_some(
        key,
        default,
        |url| quoted(&show_address(url)),
        |scalar: &Scalar<'_>| {
            let text = scalar.text("an address such as \"http://127.0.0.1:8500\", or a list of them")?;
            let mut url = http_address(text)?;
            if !names_port(text) {
                // A host can always carry a port.
                let _ = url.set_port(port.or(url.port()));
            }
            Ok(url)
        },
    )
}

/// `http://host:port`, `https://…`, or `host:port` for HTTP.
fn http_address(text: &str) -> Result<Url, String> {
    const EXAMPLE: &str = "write http://HOST:PORT or https://HOST:PORT";
    if text.starts_with("unix:") {
        return Err(format!("sockets in the file system are not supported: {EXAMPLE}"));
    }
    if text.contains('@') {
        return Err(format!("user and password are not accepted in an address, which is shown: {EXAMPLE}"));
    }
    let shown = text.split('?').next().unwrap_or_default();
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url =
        Url::parse(&with_scheme).map_err(|error| format!("{shown:?} is no address ({error}): {EXAMPLE}"))?;
    let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !bare || url.port() == Some(0) {
        return Err(format!("{shown:?} is no address: {EXAMPLE}"));
    }
    Ok(url)
}

/// Whether the address spells its port out; `Url` forgets one that is its scheme's own.
fn names_port(address: &str) -> bool {
    let host = address.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let tail = host.rsplit(']').next().unwrap_or_default();
    tail.contains(':')
}

fn show_address(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// A client certificate and its key, each given here or by a variable.
fn both_or_neither(section: &Section<'_>, cert: bool, key: bool) {
    let cert = cert || section.find("client_cert").is_some();
    let key = key || section.find("client_key").is_some();
    if cert != key {
        let (there, missing) =
            if cert { ("client_cert", "client_key") } else { ("client_key", "client_cert") };
        section.problem(there, format!("{there} without {missing}: give both or neither"));
    }
}

fn file_or_variable(section: &Section<'_>, key: &'static str, variable: &'static str) -> Option<PathBuf> {
    match section.find(key) {
        Some(_) => section.file(key),
        None => variable_file(section, key, variable),
    }
}

/// A file that a variable names, from the working directory.
fn variable_file(section: &Section<'_>, key: &'static str, variable: &'static str) -> Option<PathBuf> {
    let path = PathBuf::from(section.doc.env.get_filled(variable)?);
    let doc: &Document<'_> = section.doc;
    if let Err(message) = readable(&path) {
        doc.problem(Origin::Variable(variable), &section.path_of(key), message);
        return None;
    }
    section.note(key, quoted(&path.display().to_string()), Origin::Variable(variable));
    Some(path)
}

fn text_or_variable(section: &Section<'_>, key: &'static str, variable: &'static str) -> Option<String> {
    if section.find(key).is_some() {
        return section.text(key, "a string", |text| Ok(text.to_owned()));
    }
    let text = section.doc.env.get_filled(variable)?;
    section.note(key, quoted(&text), Origin::Variable(variable));
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::names_port;

    #[test]
    fn a_port_that_is_spelt_out_is_seen_even_if_it_is_the_schemes_own() {
        for spelt in ["http://h:80", "https://h:443/", "h:2379", "http://[::1]:2379"] {
            assert!(names_port(spelt), "{spelt}");
        }
        for bare in ["http://h", "https://h/", "h", "http://[::1]/", "[::1]"] {
            assert!(!names_port(bare), "{bare}");
        }
    }
}
