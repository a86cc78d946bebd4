//! Source URLs: where the instances of a service come from, in one line.
//!
//! | URL | meaning |
//! |---|---|
//! | `static://10.0.0.1:80,10.0.0.2:80?weights=3,1` | a fixed list |
//! | `file:endpoints.toml`, `file:///abs/endpoints.json` | a watched file; relative to the configuration file's folder |
//! | `consul://host:8500/NAME?tag=a&dc=…`, `consul+https://…` | Consul's health API |
//! | `etcd://h1:2379,h2:2379/services/NAME/`, `etcd+https://…` | every key below a prefix of etcd |
//! | `dns://orders.internal:80`, `srv://_http._tcp.orders.internal` | addresses of a name; its service records |
//! | `consul:NAME?tag=a`, `etcd:NAME` | the same at the addresses of `[consul]` and `[etcd]` |
//!
//! Whatever a URL does not say, `[consul]`, `[etcd]` and `[dns]` do: a URL with a host takes token, certificates and
//! waiting time from there too.

mod consul;
mod dns;
mod etcd;
mod file;
mod fixed;
mod parts;
pub(super) mod register;

use super::problem::suggestion;
use super::registries::Registries;
use crate::discovery::SourceSettings;
use crate::model::ServiceName;
use parts::Parts;

const ACCEPTED: &str = "accepted: static://HOST:PORT,…, file:PATH, consul:NAME, consul://HOST:PORT/NAME, etcd:NAME, \
                        etcd://HOST:PORT,…/PREFIX/ (consul+https://, etcd+https://), dns://NAME:PORT, srv://NAME";

/// What a source URL stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub settings: SourceSettings,
    /// For people: the URL as it was written, without user and password; of a long fixed list only the beginning.
    pub shown: String,
    /// What a service that nobody named may be called after it: `orders` for `consul:orders`.
    pub name: Option<ServiceName>,
}

/// Reads a source URL. `service` is the table that is looked for in a `file:`; without one, the file's own name.
///
/// # Errors
/// What is wrong, and what would be accepted; never a password.
pub(super) fn parse(
    url: &str,
    registries: &Registries,
    service: Option<&ServiceName>,
) -> Result<Source, String> {
    let parts = Parts::split(url).ok_or_else(|| {
        let shown = if url.contains('@') { "this".to_owned() } else { format!("{url:?}") };
        format!("{shown} is no source URL; {ACCEPTED}")
    })?;
    let (settings, name) = match parts.scheme {
        "static" => fixed::parse(&parts)?,
        "file" => file::parse(&parts, registries, service)?,
        "consul" => consul::parse(&parts, "http", registries)?,
        "consul+https" => consul::parse(&parts, "https", registries)?,
        "etcd" => etcd::parse(&parts, "http", registries)?,
        "etcd+https" => etcd::parse(&parts, "https", registries)?,
        "dns" => dns::addresses(&parts, registries)?,
        "srv" => dns::services(&parts, registries)?,
        "http" | "https" => {
            return Err(format!(
                "{}:// is no source; for one fixed instance write static://HOST:PORT; {ACCEPTED}",
                parts.scheme
            ));
        }
        scheme => {
            let known = ["static", "file", "consul", "consul+https", "etcd", "etcd+https", "dns", "srv"];
            return Err(format!("{scheme:?} is no source;{} {ACCEPTED}", suggestion(scheme, known)));
        }
    };
    let shown = if parts.scheme == "static" { fixed::shown(&parts) } else { parts.masked() };
    Ok(Source { settings, shown, name: name.and_then(|name| ServiceName::new(&name).ok()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::Document;
    use crate::config::env::Environment;
    use crate::config::section::Section;
    use crate::discovery::{ConsulQuery, DnsQuery, EtcdQuery, Records};
    use crate::model::Weight;
    use crate::registry::Credential;
    use crate::registry::dns::{DnsName, DnsSettings, Family, Servers};
    use proptest::prelude::*;
    use std::path::Path;
    use std::time::Duration;
    use toml::de::DeTable;

    fn registries() -> Registries {
        let env = Environment::Fixed([].into());
        let doc = Document::new("", Path::new(""), "", &env);
        Registries::read(&Section::root(&doc, &DeTable::new()))
    }

    fn read(url: &str) -> Source {
        parse(url, &registries(), None).unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    fn consul(url: &str) -> (Vec<String>, ConsulQuery) {
        match read(url).settings {
            SourceSettings::Consul(settings, query) => {
                (settings.addresses.iter().map(ToString::to_string).collect(), query)
            }
            other => panic!("{other:?}"),
        }
    }

    fn etcd(url: &str) -> (Vec<String>, EtcdQuery) {
        match read(url).settings {
            SourceSettings::Etcd(settings, query) => {
                (settings.endpoints.iter().map(ToString::to_string).collect(), query)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_static_list_has_addresses_and_weights() {
        let SourceSettings::Fixed(set) =
            read("static://10.0.0.1:80,[2001:db8::1]:81,localhost:82?weights=3,1,0").settings
        else {
            panic!("no list");
        };
        let got: Vec<_> = set.iter().map(|e| (e.addr.to_string(), e.weight)).collect();
        let expected = [("10.0.0.1:80", 3), ("127.0.0.1:82", 0), ("[2001:db8::1]:81", 1)];
        assert_eq!(got, expected.map(|(addr, weight)| (addr.to_owned(), Weight::new(weight))));
    }

    #[test]
    fn a_long_static_list_is_shown_by_its_beginning() {
        let url = |count: u16| {
            let addrs: Vec<_> = (1..=count).map(|port| format!("127.0.0.1:{port}")).collect();
            format!("static://{}", addrs.join(","))
        };
        assert_eq!(read(&url(5)).shown, url(5));
        assert_eq!(read(&url(6)).shown, "static://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3,… (6)");
        let long = read(&(url(10_001) + "?weights=1" + &",1".repeat(10_000)));
        assert_eq!(long.shown, "static://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3,… (10001)");
        let SourceSettings::Fixed(set) = long.settings else { panic!("no list") };
        assert_eq!(set.len(), 10_001);
    }

    #[test]
    fn a_consul_url_says_everything_about_the_question() {
        let (addresses, query) = consul(
            "consul://c.example:8501/web%2Fapi?tag=a&tag=b&dc=dc2&filter=Service.Port != 1&health=warning&stale=true&wait=10s",
        );
        assert_eq!(addresses, ["http://c.example:8501/"]);
        let expected = ConsulQuery {
            tags: vec!["a".to_owned(), "b".to_owned()],
            dc: Some("dc2".to_owned()),
            filter: Some("Service.Port != 1".to_owned()),
            warning: true,
            stale: true,
            wait: Duration::from_secs(10),
            ..ConsulQuery::new("web/api")
        };
        assert_eq!(query, expected);
        assert_eq!(consul("consul+https://c/web").0, ["https://c:8501/"]);
        assert_eq!(consul("consul://[::1]/web").0, ["http://[::1]:8500/"]);
        let (addresses, query) = consul("consul:orders?tag=v2");
        assert_eq!(addresses, ["http://127.0.0.1:8500/"]);
        assert_eq!(query, ConsulQuery { tags: vec!["v2".to_owned()], ..ConsulQuery::new("orders") });
    }

    #[test]
    fn an_etcd_url_names_members_and_a_prefix() {
        assert_eq!(
            etcd("etcd://h1:2379,[::1]:2380,h3/services/orders"),
            (
                vec![
                    "http://h1:2379/".to_owned(),
                    "http://[::1]:2380/".to_owned(),
                    "http://h3:2379/".to_owned()
                ],
                EtcdQuery::new("/services/orders/")
            )
        );
        assert_eq!(
            etcd("etcd:orders"),
            (vec!["http://127.0.0.1:2379/".to_owned()], EtcdQuery::new("/services/orders/"))
        );
        assert_eq!(etcd("etcd+https://h/a/b/").0, ["https://h:2379/"]);
    }

    #[test]
    fn a_dns_url_names_records_and_whom_to_ask() {
        let dns = |url| match read(url).settings {
            SourceSettings::Dns(settings, query) => (settings, query),
            other => panic!("{other:?}"),
        };
        let name = |text| DnsName::new(text).unwrap();
        let (settings, query) = dns("dns://Orders.internal.:80");
        assert_eq!(settings, DnsSettings::default());
        assert_eq!(query, DnsQuery::new(name("orders.internal."), Records::Addresses { port: 80 }));
        let (settings, query) =
            dns("srv://_http._tcp.orders?server=10.0.0.2&server=[::1]:5353&family=6&tcp=true");
        let servers = ["10.0.0.2:53".parse().unwrap(), "[::1]:5353".parse().unwrap()];
        assert_eq!((settings.servers, settings.tcp), (Servers::Given(servers.into()), true));
        let expected =
            DnsQuery { family: Family::V6, ..DnsQuery::new(name("_http._tcp.orders"), Records::Services) };
        assert_eq!(query, expected);
    }

    #[test]
    fn a_password_in_a_url_is_used_and_not_shown() {
        let source = read("etcd://root:p%40ss%2F@h1:2379/services/orders/");
        assert_eq!(source.shown, "etcd://***@h1:2379/services/orders/");
        let SourceSettings::Etcd(settings, _) = &source.settings else { panic!("no etcd") };
        let Some((user, Credential::Text(password))) = &settings.user else { panic!("no user") };
        assert_eq!((user.as_str(), password.reveal()), ("root", "p@ss/"));
        assert!(!format!("{source:?}").contains("p@ss"));
    }

    #[test]
    fn a_source_suggests_a_name() {
        for (url, name) in [
            ("consul:orders", Some("orders")),
            ("consul://h/orders", Some("orders")),
            ("etcd:orders", Some("orders")),
            ("etcd://h/services/orders/", Some("orders")),
            ("file:orders.toml", Some("orders")),
            ("static://127.0.0.1:1", None),
            ("dns://orders.default.svc:80", Some("orders")),
            ("srv://_http._tcp.orders.internal.", Some("orders")),
            ("consul:a%2Fb", None),
        ] {
            assert_eq!(read(url).name.as_ref().map(ServiceName::as_str), name, "{url}");
        }
    }

    #[test]
    fn a_wrong_url_is_told_what_is_right() {
        for (url, message) in [
            ("", "is no source URL; accepted: static://"),
            ("orders", "\"orders\" is no source URL; accepted"),
            ("dns:orders:80", "the name is missing: write dns://NAME:PORT"),
            ("dns://", "the name is missing: write dns://NAME:PORT"),
            ("dns://:80", "an empty host"),
            ("dns://orders", "the port of the instances is missing: write dns://NAME:PORT"),
            ("dns://orders:0", "\"0\" is no port"),
            ("dns://a:80,b:80", "one name is accepted"),
            ("dns://10.0.0.1:80", "\"10.0.0.1\" is an address, no name: write static://"),
            ("dns://[::1]:80", "\"[::1]\" is an address, no name"),
            ("dns://a..b:80", "\"a..b\" is no name: parts of 1 to 63"),
            ("dns://orders:80/x", "a name has no path"),
            ("dns://u:hunter2@orders:80", "user and password are not accepted"),
            (
                "dns://orders:80?server=ns.internal",
                "\"ns.internal\" is no DNS server: an IP address is accepted",
            ),
            ("dns://orders:80?family=5", "family: \"5\" is not accepted; accepted: 4, 6, any"),
            ("dns://orders:80?tcp=1", "tcp: \"1\" is not accepted; accepted: false, true"),
            ("dns://orders:80?famly=4", "did you mean \"family\"?"),
            ("srv://", "the name is missing: write srv://NAME"),
            ("srv://_http._tcp.orders:80", "a service record has a port of its own"),
            ("http://10.0.0.1:80", "write static://HOST:PORT"),
            ("conusl:orders", "\"conusl\" is no source; did you mean \"consul\"?"),
            ("static://", "write static://HOST:PORT"),
            ("static:10.0.0.1:80", "write static://HOST:PORT"),
            ("static://orders:80", "\"orders\" is no IP address"),
            ("static://10.0.0.1", "has no port"),
            ("static://10.0.0.1:0", "\"0\" is no port: 1 to 65535"),
            ("static://10.0.0.1:70000", "\"70000\" is no port"),
            ("static://::1:80", "brackets"),
            ("static://[::1:80", "brackets"),
            ("static://[::1]80", "\"[::1]80\" is no port"),
            ("static://10.0.0.1:80/x", "a list of addresses has no path"),
            ("static://10.0.0.1:80,10.0.0.1:80", "10.0.0.1:80 is given twice"),
            ("static://10.0.0.1:80?weights=1,2", "2 weights for 1 address"),
            ("static://10.0.0.1:80?weights=-1", "\"-1\" is no weight: 0 to 65535"),
            ("static://10.0.0.1:80?wieghts=1", "\"wieghts\" is not accepted; did you mean \"weights\"?"),
            ("file:", "write file:PATH"),
            ("file:endpoints.yaml", "ends in .toml or .json"),
            ("file://host/endpoints.toml", "write file:PATH"),
            ("file:/nowhere/at/all/x.toml", "the folder /nowhere/at/all"),
            ("consul:", "the service's name is missing"),
            ("consul://h:8500", "the service's name is missing"),
            ("consul://h:8500/a/b", "more than one part"),
            ("consul://h:x/a", "\"x\" is no port"),
            ("consul://h/a?health=critical", "\"critical\" is not accepted"),
            ("consul://h/a?stale=maybe", "\"maybe\" is not accepted"),
            ("consul://h/a?wait=10", "10 has no unit"),
            ("consul://h/a?wait=1h", "out of range"),
            ("consul://h/a?dc=a&dc=b", "dc is given twice"),
            ("consul://h/a?token_file=/nowhere/token", "cannot read /nowhere/token"),
            ("consul://h/a?token=hunter2", "a token does not belong into a URL"),
            ("consul://u:hunter2@h/a", "user and password are not accepted"),
            ("consul://a b/c", "\"a b\" is no host"),
            ("etcd:", "the service's name is missing"),
            ("etcd://h", "the prefix is missing"),
            ("etcd://h/", "the prefix is missing"),
            ("etcd://,/a/", "an empty host"),
            ("etcd://root@h/a/", "user:password"),
            ("etcd://root:hunter2/@h/a/", "percent-encode"),
            ("etcd://root:hunter2@h:x/a/", "no port"),
            ("etcd://root:hunter2@h/a/?b=hunter2", "no parameters"),
            ("etcd://h/%ff/", "UTF-8"),
        ] {
            let error = parse(url, &registries(), None).map(|s| s.shown).unwrap_err();
            assert!(error.contains(message), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(
            url in "(static|file|consul|consul[+]https|etcd|dns|srv|x)?(:|://|:///)?([a-z0-9.@:,/?&=%\\[\\]#-]|weights=|tag=|wait=|localhost|\\PC){0,24}",
        ) {
            let _ = parse(&url, &registries(), None);
        }
    }
}
