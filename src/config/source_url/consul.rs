//! `consul://host:8500/NAME?tag=a&…`, `consul:NAME?…`

use super::parts::{Parts, decoded};
use crate::config::document::readable;
use crate::config::registries::{self, Registries};
use crate::config::units;
use crate::discovery::SourceSettings;
use crate::registry::Credential;

const EXAMPLE: &str = "write consul:NAME or consul://HOST:PORT/NAME";
const PARAMETERS: [&str; 7] = ["tag", "dc", "filter", "health", "stale", "wait", "token_file"];

pub(super) fn parse(
    parts: &Parts<'_>,
    scheme: &str,
    registries: &Registries,
) -> Result<(SourceSettings, Option<String>), String> {
    let mut settings = registries.consul.clone();
    let (user, hosts) = parts.user()?;
    if user.is_some() {
        return Err("user and password are not accepted: Consul takes a token, from [consul] token_file or \
                    ?token_file=PATH"
            .to_owned());
    }
    if !hosts.is_empty() {
        settings.addresses = parts.hosts(hosts, scheme, if scheme == "https" { 8501 } else { 8500 })?;
    } else if scheme == "https" {
        return Err("consul+https has no host: write consul+https://HOST:PORT/NAME".to_owned());
    }
    let path =
        if parts.authority.is_some() { parts.path.strip_prefix('/').unwrap_or_default() } else { parts.path };
    if path.contains('/') {
        return Err(format!("the path has more than one part: {EXAMPLE}; \"/\" in a name is %2F"));
    }
    let name = decoded(path)?;
    if name.is_empty() {
        return Err(format!("the service's name is missing: {EXAMPLE}"));
    }
    let mut query = registries.consul_query.clone();
    query.service.clone_from(&name);
    if parts.has_parameter("token") {
        return Err(NO_TOKEN.to_owned());
    }
    for (key, value) in parts.parameters(&PARAMETERS, "tag")? {
        match key.as_str() {
            "tag" => query.tags.push(value),
            "dc" => query.dc = Some(value),
            "filter" => query.filter = Some(value),
            "health" => query.warning = word(&key, &value, ["passing", "warning"])?,
            "stale" => query.stale = word(&key, &value, ["false", "true"])?,
            "wait" => query.wait = registries::consul_wait(units::duration(&value)?)?,
            _ => {
                let path = registries.folder.join(value);
                readable(&path)?;
                settings.token = Some(Credential::File(path));
            }
        }
    }
    Ok((SourceSettings::Consul(settings, query), Some(name)))
}

const NO_TOKEN: &str = "a token does not belong into a URL, which is shown: write [consul] token or token_file, or \
                        ?token_file=PATH";

/// Whether it is the second of two words.
fn word(key: &str, value: &str, words: [&str; 2]) -> Result<bool, String> {
    let found = words.iter().position(|word| *word == value).map(|index| index == 1);
    found.ok_or_else(|| format!("{key}: {value:?} is not accepted; accepted: {}", words.join(", ")))
}
