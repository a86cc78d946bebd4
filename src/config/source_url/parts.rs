//! The pieces of a source URL: hosts, path, parameters.

use crate::config::problem::suggestion;
use percent_encoding::percent_decode_str;
use url::Url;

/// A source URL, cut but not decoded. It may have several hosts, which no URL of the standards has.
#[derive(Debug)]
pub(super) struct Parts<'u> {
    pub(super) scheme: &'u str,
    /// Between `//` and the path; `None` without `//`.
    pub(super) authority: Option<&'u str>,
    pub(super) path: &'u str,
    query: &'u str,
    /// A password may stand in it: messages quote nothing.
    discreet: bool,
}

impl<'u> Parts<'u> {
    pub(super) fn split(url: &'u str) -> Option<Self> {
        let (scheme, rest) = url.split_once(':')?;
        let known = |c: char| c.is_ascii_alphanumeric() || c == '+';
        if scheme.is_empty() || !scheme.chars().all(known) {
            return None;
        }
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match before.strip_prefix("//") {
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (Some(authority), path)
            }
            None => (None, before),
        };
        Some(Self { scheme, authority, path, query, discreet: url.contains('@') })
    }

    /// The URL again, with `***` for user and password.
    pub(super) fn masked(&self) -> String {
        let mut url = format!("{}:", self.scheme);
        if let Some(authority) = self.authority {
            let hosts =
                authority.rsplit_once('@').map_or(authority.to_owned(), |(_, hosts)| format!("***@{hosts}"));
            url.push_str("//");
            url.push_str(&hosts);
        }
        url.push_str(self.path);
        if !self.query.is_empty() {
            url.push('?');
            url.push_str(self.query);
        }
        url
    }

    /// The text before the last `@` of the authority, and the hosts after it.
    pub(super) fn user(&self) -> Result<(Option<&'u str>, &'u str), String> {
        let authority = self.authority.unwrap_or_default();
        if self.path.contains('@') {
            return Err(
                "\"@\" stands in the path: percent-encode \"/\" in a password as %2F, and \"@\" as %40"
                    .to_owned(),
            );
        }
        Ok(authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts)))
    }

    /// `HOST[:PORT],…` as URLs of `scheme`.
    pub(super) fn hosts(&self, hosts: &str, scheme: &str, port: u16) -> Result<Vec<Url>, String> {
        let each = hosts.split(',').map(|host| {
            let (host, given) = self.host_and_port(host)?;
            let url = format!("{scheme}://{host}:{}", given.unwrap_or(port));
            Url::parse(&url).map_err(|_| format!("{} is no host: write HOST:PORT", self.quote(host)))
        });
        each.collect()
    }

    /// Cuts `HOST[:PORT]`; an IPv6 address keeps its brackets.
    pub(super) fn host_and_port<'h>(&self, text: &'h str) -> Result<(&'h str, Option<u16>), String> {
        let (host, port) = match text.find(']') {
            Some(end) => {
                let (host, rest) = text.split_at_checked(end + 1).unwrap_or((text, ""));
                // What follows without a colon is no port: the whole is refused as one.
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or(text)) })
            }
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if text.matches(':').count() > 1 && v6.is_none() {
            return Err(format!(
                "{} is no address: an IPv6 address stands in brackets, such as [::1]:80",
                self.quote(text)
            ));
        }
        if host.is_empty() {
            return Err("an empty host: write HOST:PORT".to_owned());
        }
        let named =
            |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !v6.map_or_else(|| named(host), |host| host.parse::<std::net::Ipv6Addr>().is_ok()) {
            return Err(format!(
                "{} is no host: a name, an IPv4 address or [an IPv6 address] is accepted",
                self.quote(host)
            ));
        }
        let Some(port) = port else { return Ok((host, None)) };
        match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok((host, Some(number))),
            _ => Err(format!("{} is no port: 1 to 65535 is accepted", self.quote(port))),
        }
    }

    /// `name=value&…`, decoded; only these names, and each once unless `repeated` names it.
    pub(super) fn parameters(&self, known: &[&str], repeated: &str) -> Result<Vec<(String, String)>, String> {
        let mut seen: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(self.query.as_bytes()) {
            if !known.contains(&&*name) {
                let accepted = known.join(", ");
                return Err(format!(
                    "parameter {} is not accepted;{} accepted: {accepted}",
                    self.quote(&name),
                    suggestion(&name, known.iter().copied())
                ));
            }
            if name != repeated && seen.iter().any(|(other, _)| *other == name) {
                return Err(format!("parameter {name} is given twice"));
            }
            seen.push((name.into_owned(), value.into_owned()));
        }
        Ok(seen)
    }

    pub(super) fn has_parameter(&self, wanted: &str) -> bool {
        url::form_urlencoded::parse(self.query.as_bytes()).any(|(name, _)| name == wanted)
    }

    pub(super) fn has_parameters(&self) -> bool {
        !self.query.is_empty()
    }

    fn quote(&self, text: &str) -> String {
        if self.discreet { "a part of it".to_owned() } else { format!("{text:?}") }
    }
}

/// `%2F` and the like, decoded.
pub(super) fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(std::borrow::Cow::into_owned).map_err(|_| "what is percent-encoded is no UTF-8".to_owned())
}
