//! Where the local app is registered: `consul`, `etcd`, or a URL of one of them.

use super::parts::{Parts, decoded};
use crate::config::document::readable;
use crate::config::registries::Registries;
use crate::registry::Credential;
use crate::registry::consul::ConsulSettings;
use crate::registry::etcd::EtcdSettings;
use crate::telemetry::Secret;

const ACCEPTED: &str =
    "accepted: consul, etcd, consul://HOST:PORT, etcd://HOST:PORT,HOST:PORT (consul+https://, etcd+https://)";

/// What a URL of a registry stands for.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct Target {
    pub(in crate::config) registry: Kind,
    /// For people: without user, password and parameters.
    pub(in crate::config) shown: String,
    /// The service's name, if the URL has one.
    pub(in crate::config) name: Option<String>,
    /// Those of the registration, not of the registry.
    pub(in crate::config) parameters: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum Kind {
    Consul(ConsulSettings),
    /// With the prefix that the URL names.
    Etcd(EtcdSettings, Option<String>),
}

/// Reads the name or URL of a registry; `parameters` are those that the URL may have (`tag` as often as one likes).
///
/// # Errors
/// What is wrong, and what would be accepted; never a password.
pub(in crate::config) fn parse(
    url: &str,
    registries: &Registries,
    parameters: &[&str],
) -> Result<Target, String> {
    let target = |registry| Target { registry, shown: url.to_owned(), name: None, parameters: Vec::new() };
    match url {
        "consul" => return Ok(target(Kind::Consul(registries.consul.clone()))),
        "etcd" => return Ok(target(Kind::Etcd(registries.etcd.clone(), None))),
        _ => {}
    }
    let shown = || if url.contains('@') { "this".to_owned() } else { format!("{url:?}") };
    let parts = Parts::split(url).ok_or_else(|| format!("{} is no registry; {ACCEPTED}", shown()))?;
    let known: Vec<&str> = parameters.iter().copied().chain(["token_file"]).collect();
    let mut given = parts.parameters(&known, "tag")?;
    let (user, hosts) = parts.user()?;
    let path = decoded(parts.path)?;
    let name = path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty());
    let name = name.map(ToOwned::to_owned);
    let scheme = if parts.scheme.ends_with("+https") { "https" } else { "http" };
    if scheme == "https" && hosts.is_empty() {
        return Err(format!("{} has no host: write {}://HOST:PORT", parts.scheme, parts.scheme));
    }
    let registry = match parts.scheme {
        "consul" | "consul+https" => {
            let mut settings = registries.consul.clone();
            if user.is_some() {
                return Err(
                    "user and password are not accepted: Consul takes a token, from [consul] token_file or \
                            ?token_file=PATH"
                        .to_owned(),
                );
            }
            if !hosts.is_empty() {
                settings.addresses =
                    parts.hosts(hosts, scheme, if scheme == "https" { 8501 } else { 8500 })?;
            }
            if let Some(at) = given.iter().position(|(key, _)| key == "token_file") {
                let path = registries.folder.join(given.swap_remove(at).1);
                readable(&path)?;
                settings.token = Some(Credential::File(path));
            }
            if path.trim_matches('/').contains('/') {
                return Err("the path has more than one part: write consul://HOST:PORT/NAME".to_owned());
            }
            Kind::Consul(settings)
        }
        "etcd" | "etcd+https" => {
            let mut settings = registries.etcd.clone();
            if given.iter().any(|(key, _)| key == "token_file") {
                return Err("token_file is Consul's: etcd takes user and password from [etcd]".to_owned());
            }
            if let Some(user) = user {
                let (name, password) =
                    user.split_once(':').ok_or("before \"@\", user:password is expected, or nothing")?;
                let password = Credential::Text(Secret::new(decoded(password)?));
                settings.user = Some((decoded(name)?, password));
            }
            if !hosts.is_empty() {
                settings.endpoints = parts.hosts(hosts, scheme, 2379)?;
            }
            let is_prefix = parts.authority.is_some() && name.is_some();
            let prefix = is_prefix.then(|| format!("{}/", path.trim_end_matches('/')));
            Kind::Etcd(settings, prefix)
        }
        _ => return Err(format!("{} is no registry; {ACCEPTED}", shown())),
    };
    let shown = match parts.authority {
        Some(_) => format!("{}://{hosts}", parts.scheme),
        None => parts.scheme.to_owned(),
    };
    Ok(Target { registry, shown, name, parameters: given })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::Document;
    use crate::config::env::Environment;
    use crate::config::section::Section;
    use std::path::Path;
    use toml::de::DeTable;

    fn read(url: &str) -> Result<Target, String> {
        let env = Environment::Fixed([].into());
        let doc = Document::new("", Path::new(""), "", &env);
        parse(url, &Registries::read(&Section::root(&doc, &DeTable::new())), &["port", "tag"])
    }

    #[test]
    fn a_registry_is_a_word_or_a_url() {
        let target = read("consul://a:1/web?port=80&tag=x&tag=y").unwrap();
        assert_eq!((target.shown.as_str(), target.name.as_deref()), ("consul://a:1", Some("web")));
        assert_eq!(target.parameters.len(), 3);
        assert_eq!(read("consul").unwrap().shown, "consul");
        assert_eq!(read("consul:web").unwrap().name.as_deref(), Some("web"));
        let Kind::Etcd(settings, prefix) = read("etcd://u:p%2F@a:1,b/services/web?port=80").unwrap().registry
        else {
            panic!("no etcd")
        };
        assert_eq!((settings.endpoints.len(), prefix.as_deref()), (2, Some("/services/web/")));
        let target = read("etcd://u:hunter2@a:1").unwrap();
        assert_eq!((target.shown.as_str(), target.name), ("etcd://a:1", None));
        assert_eq!(target.registry, read("etcd://u:hunter2@a:1/").unwrap().registry);
    }

    #[test]
    fn a_wrong_one_is_told_what_is_right() {
        for (url, message) in [
            ("", "\"\" is no registry; accepted: consul, etcd"),
            ("zookeeper://a", "is no registry"),
            ("static://10.0.0.1:80", "is no registry"),
            ("consul://a/b/c", "more than one part"),
            ("consul://u:hunter2@a", "user and password are not accepted"),
            ("consul://a?wieght=1", "\"wieght\" is not accepted"),
            ("consul+https:web", "has no host"),
            ("etcd://hunter2@a", "user:password"),
            ("etcd://a?token_file=x", "token_file is Consul's"),
        ] {
            let error = read(url).unwrap_err();
            assert!(error.contains(message) && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
