//! `etcd://h1:2379,h2:2379/services/NAME/`, `etcd:NAME`

use super::parts::{Parts, decoded};
use crate::config::registries::Registries;
use crate::discovery::{EtcdQuery, SourceSettings};
use crate::registry::Credential;
use crate::telemetry::Secret;

const EXAMPLE: &str = "write etcd:NAME or etcd://HOST:PORT,HOST:PORT/PREFIX/";

pub(super) fn parse(
    parts: &Parts<'_>,
    scheme: &str,
    registries: &Registries,
) -> Result<(SourceSettings, Option<String>), String> {
    let mut settings = registries.etcd.clone();
    let (user, hosts) = parts.user()?;
    if parts.has_parameters() {
        return Err(format!("an etcd URL takes no parameters: {EXAMPLE}"));
    }
    if let Some(user) = user {
        let (name, password) = user
            .split_once(':')
            .ok_or("before \"@\", user:password is expected, or nothing: then [etcd] user and password_file are used")?;
        let password = Credential::Text(Secret::new(decoded(password)?));
        settings.user = Some((decoded(name)?, password));
    }
    if !hosts.is_empty() {
        settings.endpoints = parts.hosts(hosts, scheme, 2379)?;
    } else if scheme == "https" || user.is_some() {
        return Err(format!("there is no host: {EXAMPLE}"));
    }
    let path = decoded(parts.path)?;
    let (prefix, missing) = if parts.authority.is_some() {
        (path.clone(), "the prefix is missing")
    } else {
        (registries.etcd_prefix.replace("{name}", &path), "the service's name is missing")
    };
    if path.trim_matches('/').is_empty() {
        return Err(format!("{missing}: {EXAMPLE}"));
    }
    let query = EtcdQuery { prefix: EtcdQuery::new(&prefix).prefix, ..registries.etcd_query.clone() };
    let name = path.trim_end_matches('/').rsplit('/').next().map(ToOwned::to_owned);
    Ok((SourceSettings::Etcd(settings, query), name))
}
