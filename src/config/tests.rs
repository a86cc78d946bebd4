//! Whole configurations: layers, environment, examples, the default file.

use super::*;
use crate::balance::Algorithm;
use crate::discovery::SourceSettings;
use crate::health::{CheckKind, CheckSettings, HttpCheck};
use crate::net::tls::server::{ClientAuthorities, ServerFiles, ServerTlsSettings, TlsServer};
use crate::net::tls::{Identity, ServerName, TlsClient, TlsSettings, authorities, certificates, private_key};
use crate::registration::{Advertise, ConsulCheck, RegistrationSettings, Registry};
use crate::registry::Credential;
use crate::upstream::HttpVersion;
use proptest::prelude::*;

const MINIMAL: &str = "[service.orders]\nport = 9001\nfrom = \"consul:orders\"\n";

fn env(pairs: &[(&str, &str)]) -> Environment {
    Environment::Fixed(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    read("a.toml", Path::new(""), text, &env(variables)).map(|(loaded, _)| loaded)
}

fn good(text: &str, variables: &[(&str, &str)]) -> Loaded {
    parse(text, variables).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn service(loaded: &Loaded) -> &ServiceSettings {
    &loaded.settings.services[0]
}

fn consul(loaded: &Loaded) -> &crate::registry::consul::ConsulSettings {
    match &service(loaded).sources[0].settings {
        SourceSettings::Consul(settings, _) => settings,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_minimal_file_is_all_defaults() {
    let loaded = good(MINIMAL, &[]);
    let service = service(&loaded);
    assert_eq!(service.listen, ["127.0.0.1:9001".parse().unwrap(), "[::1]:9001".parse().unwrap()]);
    assert_eq!(service.sources[0].url, "consul:orders");
    assert_eq!(service.check, None);
    assert_eq!(service.retry, crate::policy::RetrySettings::default());
    assert_eq!(service.budget, crate::policy::BudgetSettings::default());
    assert_eq!(service.timeouts, crate::policy::Timeouts::default());
    assert_eq!(service.connections, crate::upstream::ConnectionSettings::default());
    assert_eq!(service.limits, crate::policy::Limits::default());
    assert_eq!(service.watch, crate::discovery::WatchSettings::default());
    assert_eq!(service.graces.empty, Some(Duration::from_secs(30)));
    assert_eq!(loaded.settings.client, ClientLimits::default());
    assert_eq!(loaded.settings.admin, AdminSettings::default());
    assert_eq!(loaded.settings.workers, None);
}

#[test]
fn defaults_speak_where_a_service_is_silent() {
    let text = "[defaults]\nbalance = \"random\"\nempty_grace = \"forever\"\n[defaults.retry]\nattempts = 5\n\
                backoff_base = \"1ms\"\n[defaults.health]\nhttp = \"/up\"\nrise = 4\n\
                [service.a]\nport = 1\nfrom = \"consul:a\"\n[service.a.retry]\nattempts = 1\n\
                [service.b]\nport = 2\nfrom = \"consul:b\"\nbalance = \"least_request\"\nhealth = { tcp = true }\n\
                [service.c]\nport = 3\nfrom = \"consul:c\"\nhealth = { tcp = false }\n";
    let loaded = good(text, &[]);
    let [a, b, c] = &loaded.settings.services[..] else { panic!("three services") };
    assert_eq!((a.balance, b.balance), (Algorithm::Random, Algorithm::LeastRequest));
    assert_eq!((a.retry.attempts, a.retry.backoff_base), (1, Duration::from_millis(1)));
    assert_eq!((b.retry.attempts, b.graces.empty), (5, None));
    let http = CheckKind::Http(HttpCheck { version: HttpVersion::Auto, ..HttpCheck::get("/up") });
    assert_eq!(a.check, Some(CheckSettings { rise: 4, ..CheckSettings::new(http) }));
    assert_eq!(b.check, Some(CheckSettings { rise: 4, ..CheckSettings::new(CheckKind::Tcp) }));
    assert_eq!(c.check, None);
}

#[test]
fn an_http_check_speaks_the_services_http_unless_it_has_a_port_of_its_own() {
    let of = |service: &str, health: &str| {
        let text = format!("{MINIMAL}{service}\nhealth = {{ http = \"/\"{health} }}\n");
        match good(&text, &[]).settings.services[0].check.clone().map(|check| check.kind) {
            Some(CheckKind::Http(check)) => check.version,
            other => panic!("{other:?}"),
        }
    };
    for (text, version) in [("auto", HttpVersion::Auto), ("1", HttpVersion::One), ("2", HttpVersion::Two)] {
        assert_eq!(of(&format!("http = \"{text}\""), ""), version);
    }
    assert_eq!(of("http = \"2\"", ", port = 8081"), HttpVersion::Auto);
    assert_eq!(of("http = \"1\"", ", port = 8081"), HttpVersion::One);
}

#[test]
fn a_check_over_tls_takes_its_trust_from_defaults_and_its_name_from_the_service() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let text = "[defaults.health]\nhttp = \"/up\"\n[defaults.health.tls]\nca_cert = \"ca.pem\"\n\
                [service.a]\nport = 1\nfrom = \"consul:a\"\n\
                [service.b]\nport = 2\nfrom = \"consul:b\"\nhealth.host = \"b.internal:8443\"\n\
                [service.c]\nport = 3\nfrom = \"consul:c\"\n\
                health = { host = \"[::1]:8443\", tls = \"${TLS}\" }\n\
                [service.d]\nport = 4\nfrom = \"consul:d\"\n\
                health = { host = \"x\", tls = { server_name = \"d.internal\", verify = false } }\n\
                [service.e]\nport = 5\nfrom = \"consul:e\"\nhealth = { tcp = true }\n\
                [service.f]\nport = 6\nfrom = \"consul:f\"\nhealth = { tls = false }\n\
                [service.g]\nport = 7\nfrom = \"consul:g\"\nhealth = { tcp = false }\n";
    let (loaded, _) = read("a.toml", folder.path(), text, &env(&[("TLS", "true")])).unwrap();
    let client = |name: Option<&'static str>, http: bool, verify: bool| {
        let settings = TlsSettings {
            trusted: authorities(&folder.path().join("ca.pem")).unwrap(),
            identity: None,
            server_name: name.map(|name| ServerName::try_from(name).unwrap()),
            verify,
            alpn: if http { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { Vec::new() },
        };
        Some(Some(TlsClient::new(settings).unwrap()))
    };
    let checks = loaded.settings.services.into_iter().map(|service| service.check.map(|check| check.tls));
    let expected = [
        client(None, true, true),
        client(Some("b.internal"), true, true),
        client(Some("::1"), true, true),
        client(Some("d.internal"), true, false),
        client(None, false, true),
        Some(None),
        None,
    ];
    for (service, (got, expected)) in "abcdefg".chars().zip(checks.zip(expected)) {
        assert_eq!(got, expected, "{service}");
    }
}

#[test]
fn files_of_tls_are_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let file = |name: &str| folder.path().join(name);
    std::fs::copy(file("client.key"), file("other.key")).unwrap();
    certify(folder.path());
    let text = std::fs::read_to_string(file("ca.pem")).unwrap();
    std::fs::write(file("cut.pem"), &text[..text.len() / 2]).unwrap();
    std::fs::write(file("odd.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    std::fs::write(file("odd.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        .unwrap();
    let told = |tls: &str| {
        let text = format!("{MINIMAL}[service.orders.health]\ntcp = true\ntls = {{ {tls} }}\n");
        read("a.toml", folder.path(), &text, &env(&[])).unwrap_err().to_string()
    };
    for (tls, key, message) in [
        ("ca_cert = \"cut.pem\"", "ca_cert", "cut.pem holds a damaged PEM certificate: "),
        ("ca_cert = \"odd.pem\"", "ca_cert", "odd.pem holds a damaged PEM certificate: "),
        ("ca_cert = \"client.key\"", "ca_cert", "client.key holds no PEM certificate"),
        ("ca_cert = \".\"", "ca_cert", "cannot read "),
        (
            "client_cert = \"client.pem\", client_key = \"odd.key\"",
            "client_key",
            "odd.key holds a damaged private key: ",
        ),
        (
            "client_cert = \"client.pem\", client_key = \"other.key\"",
            "client_cert",
            "the client's certificate and key do not fit together: ",
        ),
    ] {
        let told = told(tls);
        assert!(told.contains(&format!("service.orders.health.tls.{key}: ")), "{told}");
        assert!(told.contains(message) && told.lines().count() == 1, "{message}: {told}");
    }
}

#[test]
fn routes_are_shown_in_one_line_without_what_may_be_secret() {
    let text = format!(
        "{MINIMAL}[listener.edge]\nport = 80\n[[listener.edge.route]]\nhost = \"${{HOST}}\"\nto = {{ orders = 3 }}\n\
         headers = {{ x-key = \"hunter2\" }}\nset_headers = {{ authorization = \"hunter2\" }}\n\
         response.add_headers = {{ x-b = \"hunter2\" }}\n"
    );
    let loaded = good(&text, &[("HOST", "a.b")]);
    let shown = loaded.values.iter().find(|value| value.path == "listener.edge.route").unwrap();
    assert!(shown.value.contains("host = \"a.b\"") && shown.value.contains("orders = 3"), "{}", shown.value);
    assert!(!format!("{:?}", loaded.values).contains("hunter2"));
    assert!(!loaded.values.iter().any(|value| value.path.contains("route[")));
}

#[test]
fn every_effective_value_names_its_origin() {
    let text = format!("{MINIMAL}[consul]\ntoken = \"hunter2\"\n[defaults.retry]\nattempts = 5\n");
    let loaded = good(&text, &[("CONSUL_HTTP_ADDR", "consul:8500")]);
    let find = |path: &str| {
        let all = loaded.values.iter().filter(|v| v.path == path);
        let [one] = all.collect::<Vec<_>>()[..] else { panic!("{path} not once") };
        (one.value.as_str(), one.origin.to_string())
    };
    assert_eq!(find("service.orders.port"), ("9001", "a.toml:2:8".to_owned()));
    assert_eq!(find("service.orders.retry.attempts"), ("5", "a.toml:7:12".to_owned()));
    assert_eq!(find("service.orders.retry.backoff_cap"), ("\"250ms\"", "default".to_owned()));
    assert_eq!(
        find("consul.address"),
        ("\"http://consul:8500\"", "environment variable CONSUL_HTTP_ADDR".to_owned())
    );
    assert_eq!(find("consul.token"), ("\"***\"", "a.toml:5:9".to_owned()));
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn consuls_variables_are_honoured_where_the_file_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "secret").unwrap();
    let file = file.to_str().unwrap();
    let address =
        |text: &str, variables: &[(&str, &str)]| consul(&good(text, variables)).addresses[0].to_string();
    for (variables, expected) in [
        (&[("CONSUL_HTTP_ADDR", "10.0.0.1:8500")][..], "http://10.0.0.1:8500/"),
        (&[("CONSUL_HTTP_ADDR", "https://c:8501")], "https://c:8501/"),
        (&[("CONSUL_HTTP_ADDR", "")], "http://127.0.0.1:8500/"),
        (&[("CONSUL_HTTP_ADDR", "c:8501"), ("CONSUL_HTTP_SSL", "true")], "https://c:8501/"),
        (&[("CONSUL_HTTP_ADDR", "https://c:1"), ("CONSUL_HTTP_SSL", "1")], "https://c:1/"),
        (&[("CONSUL_HTTP_ADDR", "http://c:1"), ("CONSUL_HTTP_SSL", "1")], "https://c:1/"),
        (&[("CONSUL_HTTP_SSL", "1")], "https://127.0.0.1:8500/"),
        (&[("CONSUL_HTTP_SSL", "false")], "http://127.0.0.1:8500/"),
    ] {
        assert_eq!(address(MINIMAL, variables), expected, "{variables:?}");
    }
    let own = format!("{MINIMAL}[consul]\naddress = \"http://mine:1\"\ntoken = \"own\"\n");
    let all = [
        ("CONSUL_HTTP_ADDR", "unix:///not/looked/at"),
        ("CONSUL_HTTP_TOKEN", "other"),
        ("CONSUL_HTTP_TOKEN_FILE", "/not/looked/at"),
    ];
    assert_eq!(address(&own, &all), "http://mine:1/");
    assert_eq!(consul(&good(&own, &all)).token, Some(Credential::Text(crate::telemetry::Secret::new("own"))));
    let both = [("CONSUL_HTTP_TOKEN", "t"), ("CONSUL_HTTP_TOKEN_FILE", file), ("CONSUL_NAMESPACE", "team")];
    let loaded = good(MINIMAL, &both);
    assert_eq!(consul(&loaded).token, Some(Credential::File(file.into())), "a token file before a token");
    assert_eq!(consul(&loaded).namespace.as_deref(), Some("team"));
    let tls = [("CONSUL_CACERT", file), ("CONSUL_CLIENT_CERT", file), ("CONSUL_CLIENT_KEY", file)];
    let tls = consul(&good(MINIMAL, &tls)).tls.clone();
    assert_eq!([tls.ca, tls.cert, tls.key], [Some(file.into()), Some(file.into()), Some(file.into())]);
}

#[test]
fn what_is_wrong_with_a_variable_names_it() {
    for (name, value, message) in [
        ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock", "consul.address: sockets in the file system"),
        ("CONSUL_HTTP_ADDR", "http://u:hunter2@h", "consul.address: user and password are not accepted"),
        ("CONSUL_HTTP_TOKEN_FILE", "/nowhere/token", "consul.token_file: cannot read /nowhere/token"),
        ("CONSUL_CACERT", "/nowhere/ca", "consul.ca_cert: cannot read /nowhere/ca"),
    ] {
        let problems = parse(MINIMAL, &[(name, value)]).unwrap_err().to_string();
        assert!(problems.starts_with(&format!("environment variable {name}: {message}")), "{problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}

#[test]
fn numbers_and_flags_may_come_out_of_variables() {
    let text = "workers = \"${W:-3}\"\n[service.a]\nport = \"${PORT}\"\nfrom = \"static://${HOST}:80\"\n\
                [service.a.retry]\nunsafe_methods = \"${UNSAFE}\"\n";
    let loaded = good(text, &[("PORT", "9005"), ("HOST", "10.1.1.1"), ("UNSAFE", "true")]);
    assert_eq!(loaded.settings.workers, Some(3));
    assert_eq!(service(&loaded).listen[0].port(), 9005);
    assert_eq!(service(&loaded).sources[0].url, "static://10.1.1.1:80");
    assert!(service(&loaded).retry.unsafe_methods);
    let problems =
        parse(text, &[("PORT", "hunter2"), ("HOST", "10.1.1.1"), ("UNSAFE", "hunter2")]).unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert!(!problems.to_string().contains("hunter2"), "{problems}");
}

fn examples() -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect()
}

#[test]
fn every_example_has_no_problems() {
    let examples = examples();
    assert!(examples.len() >= 6, "{examples:?}");
    for path in examples {
        if let Err(problems) = load(&path, &env(&[])) {
            panic!("{problems}");
        }
    }
}

/// The keys of the default file, commented out or not: table and key.
fn documented() -> BTreeSet<(String, String)> {
    let mut keys = BTreeSet::new();
    let mut table = String::new();
    for line in DEFAULTS.lines() {
        let (commented, line) = line.strip_prefix('#').map_or((false, line), |rest| (true, rest));
        if commented && line.starts_with(' ') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.insert((table.clone(), key.to_owned()));
        }
    }
    keys
}

/// Writes a certificate of its own authority, and its key.
fn certify(folder: &Path) {
    let mut command = std::process::Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    command.args(["-subj", "/CN=client", "-keyout", "client.key", "-out", "client.pem"]).current_dir(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    for (from, to) in [("client.pem", "ca.pem"), ("client.pem", "server.pem"), ("client.key", "server.key")] {
        std::fs::copy(folder.join(from), folder.join(to)).unwrap();
    }
}

/// The default file with every key that is commented out, and without these.
fn uncommented(folder: &Path, without: &[&str]) -> String {
    for name in ["consul-token", "etcd-password"] {
        std::fs::write(folder.join(name), "x").unwrap();
    }
    certify(folder);
    let mut table = String::new();
    let mut text = String::new();
    for line in DEFAULTS.lines() {
        let line = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(['[', ']']).to_owned();
        }
        let key = line.split_once(" = ").map_or("", |(key, _)| key);
        if !without.contains(&format!("{table}.{key}").as_str()) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.replace("/etc/outrigger", folder.to_str().unwrap())
}

const ALTERNATIVES: [&str; 8] = [
    "listener.edge.listen",
    "service.orders.listen",
    "service.orders.health.grpc",
    "service.orders.health.tcp",
    "register.web.health.grpc",
    "register.web.health.tcp",
    "consul.token",
    "etcd.password",
];

#[test]
fn a_grpc_check_asks_about_the_whole_server_or_one_service() {
    let of = |health: &str, defaults: &str| {
        let text = format!("{MINIMAL}[service.orders.health]\n{health}\n[defaults.health]\n{defaults}\n");
        good(&text, &[]).settings.services[0].check.clone().map(|check| check.kind)
    };
    let grpc = |service: &str| Some(CheckKind::Grpc(service.to_owned()));
    assert_eq!(of("grpc = true", ""), grpc(""));
    assert_eq!(of("grpc = \"a.B\"", "http = \"/\""), grpc("a.B"));
    assert_eq!(of("grpc = false", ""), None);
    assert_eq!(of("", "grpc = true"), grpc(""));
    assert_eq!(of("tcp = true", "grpc = true"), Some(CheckKind::Tcp));
    assert_eq!(of("grpc = false", "grpc = true"), None);
}

#[test]
fn the_default_file_changes_nothing() {
    assert_eq!(good(DEFAULTS, &[]).settings, good(MINIMAL, &[]).settings);
}

#[test]
fn the_default_file_uncommented_is_the_defaults_and_its_examples() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = good(&uncommented(folder.path(), &ALTERNATIVES), &[]);
    let file = |name: &str| Some(folder.path().join(name));
    let mut expected = good(MINIMAL, &[]).settings;
    expected.workers = Some(2);
    (expected.snapshot.folder, expected.snapshot.is_default) = (Some("/var/lib/outrigger".into()), false);
    let orders = &mut expected.services[0];
    let SourceSettings::Consul(consul, query) = &mut orders.sources[0].settings else { panic!("no consul") };
    consul.token = file("consul-token").map(Credential::File);
    let tls = &mut consul.tls;
    (tls.ca, tls.cert, tls.key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    consul.namespace = Some("team-a".to_owned());
    query.dc = Some("dc2".to_owned());
    let http = HttpCheck {
        headers: vec![("x-probe".parse().unwrap(), "outrigger".parse().unwrap())],
        host: Some("orders.internal".to_owned()),
        body: Some("ok".to_owned()),
        version: HttpVersion::Auto,
        ..HttpCheck::get("/health")
    };
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| folder.path().join(name));
    let own = || TlsSettings {
        trusted: authorities(&ca).unwrap(),
        identity: Some(Identity::new(certificates(&cert).unwrap(), private_key(&key).unwrap()).unwrap()),
        server_name: Some(ServerName::try_from("orders.internal").unwrap()),
        verify: true,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    orders.connections.tls = Some(TlsClient::new(own()).unwrap());
    let tls = Some(TlsClient::new(own()).unwrap());
    orders.check = Some(CheckSettings { port: Some(8081), tls, ..CheckSettings::new(CheckKind::Http(http)) });
    let server = ServerTlsSettings {
        identity: Identity::of_server(certificates(&cert).unwrap(), private_key(&key).unwrap()).unwrap(),
        clients: Some(ClientAuthorities { trusted: authorities(&ca).unwrap(), optional: false }),
    };
    let [cert, key] = ["server.pem", "server.key"].map(|name| folder.path().join(name));
    let files = ServerFiles { cert, key, client_ca: Some(ca) };
    orders.listen_tls = Some(TlsServer::new(server, files).unwrap());
    let [web] = &loaded.settings.registrations[..] else { panic!("one registration") };
    assert_eq!((web.ttl, web.reassert), (RegistrationSettings::TTL, RegistrationSettings::REASSERT));
    assert_eq!(web.withdraw_after, RegistrationSettings::WITHDRAW_AFTER);
    assert_eq!((web.beat, web.weight.get()), (web.ttl / 3, 1));
    let Registry::Consul { check, deregister_after, .. } = &web.to else { panic!("no Consul") };
    assert_eq!((*check, *deregister_after), (ConsulCheck::Ttl, RegistrationSettings::DEREGISTER_AFTER));
    let app = CheckSettings::of_the_app(web.check.kind.clone());
    assert_eq!(CheckSettings { port: None, tls: None, ..web.check.clone() }, app);
    expected.registrations.clone_from(&loaded.settings.registrations);
    let [edge] = &loaded.settings.listeners[..] else { panic!("one listener") };
    assert_eq!((edge.listen[0].port(), edge.routes.len(), edge.places.len()), (8080, 1, 2));
    expected.services[0].subsets = vec![edge.places[0].subset.clone()];
    expected.listeners.clone_from(&loaded.settings.listeners);
    assert_eq!(loaded.settings, expected);
}

#[test]
fn the_address_and_the_id_of_a_pod_come_from_its_environment() {
    let text = "[register.web]\nport = 80\nto = \"consul\"\n";
    let of = |variables: &[(&str, &str)]| good(text, variables).settings.registrations.remove(0);
    let pod = of(&[("POD_IP", "10.1.2.3"), ("POD_UID", "u-1"), ("HOSTNAME", "h")]);
    assert_eq!(pod.address, Advertise::Given([10, 1, 2, 3].into(), "POD_IP"));
    assert_eq!(pod.id.as_str(), "web-u-1-80");
    let host = of(&[("HOSTNAME", "h 1")]);
    assert_eq!((host.address, host.id.as_str()), (Advertise::Route, "web-h-1-80"));
    let problems = parse(text, &[("POD_IP", "x")]).unwrap_err().to_string();
    assert!(
        problems.starts_with("environment variable POD_IP: register.web.address: \"x\" is no IP"),
        "{problems}"
    );
}

#[test]
fn a_registration_needs_no_file() {
    let url = "consul://c:1/web?port=80&health=/up&address=10.0.0.1&id=w&tag=a&tag=b&weight=3&zone=z&ttl=6s";
    let of = |urls: &[&str]| {
        let urls: Vec<_> = urls.iter().map(ToString::to_string).collect();
        from_pairs(&[], &urls, None, &env(&[]))
    };
    let mut loaded = of(&[url]).unwrap();
    let text = "[register.web]\nport = 80\nto = \"consul://c:1\"\nhealth.http = \"/up\"\naddress = \"10.0.0.1\"\n\
                id = \"w\"\ntags = [\"a\", \"b\"]\nweight = 3\nzone = \"z\"\nttl = \"6s\"\n";
    let file = good(text, &[]).settings.registrations.remove(0);
    let mut one = loaded.settings.registrations.remove(0);
    assert_eq!(one.address, Advertise::Given([10, 0, 0, 1].into(), "--register"));
    one.address = file.address;
    assert_eq!(one, file, "it is a small file");
    let twice = of(&[url, url]).unwrap_err().to_string();
    assert_eq!(twice, "--register: the same is given twice");
}

#[test]
fn the_url_of_a_registration_may_name_the_service() {
    let of = |to: &str, more: &str| {
        let text = format!("[register.web]\nport = 80\nto = \"{to}\"\n{more}");
        good(&text, &[]).settings.registrations.remove(0).service.to_string()
    };
    assert_eq!(of("consul://c:1/shop", ""), "shop");
    assert_eq!(of("consul://c:1/shop", "name = \"store\"\n"), "store");
    assert_eq!(of("etcd://e:1/svc/shop/", ""), "web", "the path is a prefix of keys");
    let text = "[register.web]\nport = 80\nto = \"consul://c:1/a%20b\"\n";
    let problems = parse(text, &[]).unwrap_err().to_string();
    assert!(problems.contains("register.web.to"), "{problems}");
}

#[test]
fn the_alternatives_in_the_default_file_work_too() {
    let folder = tempfile::tempdir().unwrap();
    let http = ["service.orders", "register.web"].map(|owner| {
        ["http", "grpc", "method", "headers", "host", "expect", "body"]
            .map(|key| format!("{owner}.health.{key}"))
    });
    let mut without =
        vec!["service.orders.port", "listener.edge.port", "consul.token_file", "etcd.password_file"];
    without.extend(http.iter().flatten().map(String::as_str));
    let loaded = good(&uncommented(folder.path(), &without), &[]);
    let orders = service(&loaded);
    assert_eq!(orders.listen, service(&good(MINIMAL, &[])).listen);
    assert_eq!(orders.check.as_ref().map(|check| &check.kind), Some(&CheckKind::Tcp));
}

#[test]
fn the_default_file_has_every_key_that_is_known_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let text = uncommented(folder.path(), &ALTERNATIVES);
    let (_, known) = read("a.toml", Path::new(""), &text, &env(&[])).unwrap();
    let known: BTreeSet<_> = known.into_iter().map(|path| path.replace("[0]", "")).collect();
    let documented: BTreeSet<String> = documented()
        .into_iter()
        .map(|(table, key)| if table.is_empty() { key } else { format!("{table}.{key}") })
        .collect();
    let tables = |path: &&String| known.iter().any(|other| other.starts_with(&format!("{path}.")));
    let keys: BTreeSet<String> =
        known.iter().filter(|path| !tables(path)).filter(|path| *path != "defaults").cloned().collect();
    assert!(keys.len() > 60, "{}", keys.len());
    assert_eq!(keys, documented);
}

#[test]
fn pairs_need_no_file() {
    let pairs = |pairs: &[(&str, &str)], variables: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        from_pairs(&pairs, &[], None, &env(variables))
    };
    let loaded = pairs(
        &[
            ("9001", "consul:orders"),
            ("0.0.0.0:9002", "static://10.0.0.1:80"),
            ("9003", "consul:orders?tag=b"),
        ],
        &[("CONSUL_HTTP_ADDR", "c:1")],
    )
    .unwrap();
    let names: Vec<_> = loaded.settings.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["orders", "service-9002", "orders-9003"]);
    let from_file = good(MINIMAL, &[("CONSUL_HTTP_ADDR", "c:1")]);
    assert_eq!(loaded.settings.services[0], *service(&from_file), "a pair is a minimal file");
    assert_eq!(loaded.settings.admin, from_file.settings.admin);

    let problems = pairs(&[("9901", "dns://a"), ("0", "consul:orders"), ("x", "consul:")], &[]).unwrap_err();
    let problems: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 5, "{problems:?}");
    for start in [
        "--listen: 127.0.0.1:9901 is taken by admin.listen (its default)",
        "--listen: port 0 is out of range: 1 to 65535",
        "--listen: \"x\" is no address to listen on",
        "--to: the port of the instances is missing",
        "--to: the service's name is missing",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(start)), "{start}: {problems:?}");
    }
    assert!(pairs(&[], &[]).unwrap_err().to_string().starts_with("--to: there is no service"));
    let twice = pairs(&[("9001", "consul:a"), ("localhost:9001", "consul:b")], &[]).unwrap_err().to_string();
    assert_eq!(twice, "--listen: 127.0.0.1:9001 is taken by another --listen");
}

#[test]
fn the_admin_address_needs_no_file_either() {
    let with = |listen: &str, admin| {
        from_pairs(&[(listen.to_owned(), "consul:orders".to_owned())], &[], Some(admin), &env(&[]))
            .map(|loaded| loaded.settings.admin.listen.map(|addr| addr.to_string()))
            .map_err(|problems| problems.to_string())
    };
    assert_eq!(with("9901", "127.0.0.1:9902"), Ok(Some("127.0.0.1:9902".to_owned())));
    assert_eq!(with("9901", "off"), Ok(None));
    assert_eq!(
        with("9902", "127.0.0.1:9902"),
        Err("--listen: 127.0.0.1:9902 is taken by --admin".to_owned())
    );
    let wrong = with("9001", "x").unwrap_err();
    assert!(wrong.starts_with("--admin: \"x\" is no address") && !wrong.contains('\n'), "{wrong}");
}

#[test]
fn one_url_alone_is_a_source() {
    assert_eq!(source("consul:orders", &env(&[])).unwrap().shown, "consul:orders");
    let error = source("orders", &env(&[])).unwrap_err().to_string();
    assert!(error.starts_with("URL: \"orders\" is no source URL"), "{error}");
}

proptest! {
    #[test]
    fn no_file_panics(line in 0..400_usize, value in "(\\$\\{|[\"'\\[\\]{}=.,0-9a-z% -]|\\PC){0,16}", cut in 0..4_000_usize) {
        let mut lines: Vec<_> = DEFAULTS.lines().map(|line| line.strip_prefix('#').unwrap_or(line).to_owned()).collect();
        let line = line % lines.len();
        let key = lines[line].split('=').next().unwrap_or_default().to_owned();
        lines[line] = format!("{key}= {value}");
        let text: Vec<_> = lines.iter().filter(|line| !line.starts_with(' ')).cloned().collect();
        let _ = parse(&text.join("\n"), &[]);
        lines[line] = format!("{key}= {}", toml::Value::from(value));
        let text: Vec<_> = lines.into_iter().filter(|line| !line.starts_with(' ')).collect();
        let _ = parse(&text.join("\n"), &[]);
        let _ = parse(&DEFAULTS.chars().take(cut).collect::<String>(), &[]);
    }
}

#[test]
fn an_etcd_endpoint_without_a_port_is_at_etcds_own() {
    let text = "[etcd]\nendpoints = [\"http://a\", \"https://b:443\", \"c\"]\n\
                [service.orders]\nport = 9001\nfrom = \"etcd:orders\"\n";
    let loaded = good(text, &[]);
    let SourceSettings::Etcd(settings, _) = &service(&loaded).sources[0].settings else {
        panic!("{loaded:?}")
    };
    let shown: Vec<_> = settings.endpoints.iter().map(|url| url.port_or_known_default()).collect();
    assert_eq!(shown, [Some(2379), Some(443), Some(2379)]);
}
