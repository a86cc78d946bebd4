//! Ports that several services share: which one a request goes to, and what becomes of its head.

use crate::support::client::{self, Connection, Response};
use crate::support::raw::{RawServer, Step};
use crate::support::{ByHand, Instance, Sidecar, eventually, free_port};
use http::Request;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// A sidecar with these services at these addresses, and the port `edge` with these routes.
async fn start(services: &[(&str, SocketAddr)], routes: &str) -> (Sidecar, SocketAddr) {
    let port = free_port();
    let mut config = String::from("workers = 1\n");
    for (name, addr) in services {
        config += &format!("[service.{name}]\nfrom = \"static://{addr}\"\nretry.attempts = 1\n");
    }
    config += &format!("[listener.edge]\nport = {port}\n{routes}");
    (Sidecar::start(&config).await, SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn get(edge: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Response {
    let mut request = Request::get(path).header("host", host);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client::request(edge, request.body(client::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_first_route_that_matches_leads_to_its_service() {
    let [a, b, c] = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let routes = "[[listener.edge.route]]\nhost = \"api.example.com\"\npath = \"/v1\"\nto = \"a\"\n\
                  [[listener.edge.route]]\nhost = [\"*.example.com\", \"other\"]\nmethod = [\"GET\", \"HEAD\"]\nto = \"b\"\n\
                  [[listener.edge.route]]\nheaders = { x-canary = \"always\", x-user = \"*\" }\nto = \"c\"\n";
    let services = [("a", a.addr()), ("b", b.addr()), ("c", c.addr())];
    let (sidecar, edge) = start(&services, routes).await;
    for (host, path, fields, expected) in [
        ("api.example.com", "/v1", &[][..], "a"),
        ("API.example.com:80", "/v1/x?y=z", &[], "a"),
        ("api.example.com", "/v10", &[], "b"),
        ("other", "/", &[], "b"),
        ("nobody", "/", &[("x-canary", "always"), ("x-user", "u")], "c"),
    ] {
        assert_eq!(get(edge, host, path, fields).await.instance(), expected, "{host}{path}");
    }
    let lost = get(edge, "nobody", "/", &[("x-canary", "always")]).await;
    assert_eq!(lost.status, 404);
    assert!(lost.header("x-outrigger-error").unwrap().starts_with("no_route; service=edge;"), "{lost:?}");
    let grpc = get(edge, "nobody", "/", &[("content-type", "application/grpc")]).await;
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("12")));
    // Each is counted as its service's, and what had no route as the port's.
    let count = async |service: &str, code: u16| {
        let series = format!("outrigger_requests_total{{service=\"{service}\",code=\"{code}\"}}");
        sidecar.metric(&series).await
    };
    assert_eq!([count("a", 200).await, count("b", 200).await, count("c", 200).await], [2.0, 2.0, 1.0]);
    assert_eq!(count("edge", 404).await, 1.0);
    // Requests of one connection go different ways.
    let mut one = client::Client::new(edge);
    for (host, expected) in [("other", "b"), ("api.example.com", "a"), ("other", "b")] {
        let request = Request::get("/v1/").header("host", host).body(client::empty()).unwrap();
        assert_eq!(one.send(request).await.unwrap().instance(), expected);
    }
    // curl, as a client that nobody wrote for this.
    let url = format!("http://{edge}/v1/");
    let curl = tokio::task::spawn_blocking(move || {
        Command::new("curl")
            .args(["-sS", "-D", "-", "-o", "/dev/null", "-H", "Host: api.example.com", &url])
            .output()
    });
    let said = String::from_utf8_lossy(&curl.await.unwrap().unwrap().stdout).into_owned();
    assert!(said.contains("x-instance: a") || said.contains("X-Instance: a"), "{said}");
}

#[tokio::test]
async fn heads_are_changed_on_both_ways() {
    let server = ByHand::start().await;
    let routes = "[[listener.edge.route]]\npath = \"/v1/\"\nrewrite = \"/\"\nto = \"a\"\n\
                  set_headers = { x-env = \"prod\", host = \"inside\" }\nadd_headers = { x-hop = \"2\" }\n\
                  remove_headers = [\"x-debug\"]\n\
                  [listener.edge.route.response]\nset_headers = { server = \"edge\" }\n\
                  add_headers = { x-seen = \"yes\" }\nremove_headers = [\"x-internal\"]\n\
                  [[listener.edge.route]]\nto = \"a\"\n";
    let (_sidecar, edge) = start(&[("a", server.addr())], routes).await;
    let fields = [("X-Env", "test"), ("x-hop", "1"), ("X-Debug", "1"), ("X-Kept", "k")];
    let asked = get(edge, "outside", "/v1/orders?id=/v1/7", &fields);
    let told = async {
        let mut instance = server.accept().await;
        let (head, _) = instance.request().await.unwrap();
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: secret\r\nX-Internal: 1\r\nX-Seen: no\r\n\r\nok";
        instance.send(answer).await.unwrap();
        (instance, head)
    };
    let (answer, (mut instance, head)) = tokio::join!(asked, told);
    assert!(head.start.starts_with("GET /orders?id=/v1/7 HTTP/1.1"), "{}", head.start);
    let all = |name: &str| {
        let fields = head.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(
        [all("x-env"), all("host"), all("x-debug"), all("x-kept")],
        [vec!["prod"], vec!["inside"], vec![], vec!["k"]]
    );
    assert_eq!(all("x-hop"), ["1", "2"]);
    let all = |name: &str| {
        let fields = answer.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!([all("server"), all("x-internal"), all("x-seen")], [vec!["edge"], vec![], vec!["no", "yes"]]);
    assert_eq!(answer.text(), "ok");
    // Another route of the same connection changes nothing.
    let fields = [("x-debug", "1")];
    let asked = get(edge, "outside", "/v10", &fields);
    let told = async {
        let (head, _) = instance.request().await.unwrap();
        instance.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Internal: 1\r\n\r\n").await.unwrap();
        head
    };
    let (answer, head) = tokio::join!(asked, told);
    assert!(head.start.starts_with("GET /v10 "), "{}", head.start);
    assert_eq!((head.field("host"), head.field("x-debug")), (Some("outside"), Some("1")));
    assert_eq!(answer.header("x-internal"), Some("1"));
}

#[tokio::test]
async fn weights_share_the_requests() {
    let (old, new) = (Instance::start("old").await, Instance::start("new").await);
    let routes = "[[listener.edge.route]]\nto = { orders = 80, orders-next = 20 }\n";
    let (_sidecar, edge) = start(&[("orders", old.addr()), ("orders-next", new.addr())], routes).await;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut client = client::Client::new(edge);
    for _ in 0..1000 {
        *seen.entry(client.get("/").await.unwrap().instance().to_owned()).or_default() += 1;
    }
    // Five standard deviations of 1000 draws are 63.
    assert!((137..=263).contains(&seen["new"]), "{seen:?}");
    assert_eq!(seen.values().sum::<u32>(), 1000);
}

#[tokio::test]
async fn a_subset_is_some_of_a_services_instances() {
    let [a, b, c] = [Instance::start("a").await, Instance::start("b").await, Instance::start("c").await];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.toml");
    let list = |second: &str| {
        let text = format!(
            "endpoints = [\"{}\", {{ addr = \"{}\", meta = {{ version = \"{second}\" }} }}, \
             {{ addr = \"{}\", meta = {{ tags = \"blue,v2\" }} }}]",
            a.addr(),
            b.addr(),
            c.addr()
        );
        std::fs::write(&file, text).unwrap();
    };
    list("2");
    let port = free_port();
    let config = format!(
        "[service.web]\nfrom = \"file:web.toml\"\n[listener.edge]\nport = {port}\n\
         [[listener.edge.route]]\npath = \"/two\"\nto = \"web\"\nsubset = {{ version = \"2\" }}\n\
         [[listener.edge.route]]\npath = \"/tag\"\nto = [{{ service = \"web\", subset = {{ tag = \"v2\" }}, weight = 3 }}]\n\
         [[listener.edge.route]]\npath = \"/none\"\nto = \"web\"\nsubset = {{ version = \"3\" }}\n\
         [[listener.edge.route]]\nto = \"web\"\n"
    );
    let mut sidecar = Sidecar::launch_in(folder, &config, |_| {}).await;
    sidecar.ready(SOON).await;
    let edge = SocketAddr::from(([127, 0, 0, 1], port));
    let of = async |path: &str| {
        let mut names = Vec::new();
        for _ in 0..6 {
            names.push(get(edge, "h", path, &[]).await.instance().to_owned());
        }
        names.sort();
        names.dedup();
        names.concat()
    };
    assert_eq!([of("/two").await, of("/tag").await, of("/").await], ["b", "c", "abc"]);
    let none = get(edge, "h", "/none", &[]).await;
    assert_eq!(none.status, 503);
    assert!(none.header("x-outrigger-error").unwrap().starts_with("no_usable_endpoint"), "{none:?}");
    // What an instance is may change.
    list("3");
    eventually("it is another version", SOON, async || (of("/none").await == "b").then_some(())).await;
    assert_eq!(get(edge, "h", "/two", &[]).await.status, 503);
}

#[tokio::test]
async fn a_service_that_routes_lead_to_needs_no_port() {
    let instance = Instance::start("a").await;
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[admin]\nlisten = \"off\"\n[service.web]\nfrom = \"static://{}\"\n[listener.edge]\nlisten = \"127.0.0.1:{port}\"\n\
         [[listener.edge.route]]\nto = \"web\"\n",
        instance.addr()
    );
    std::fs::write(folder.path().join("o.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["run", "o.toml"]).current_dir(folder.path());
    let _sidecar = crate::support::Process::start(&mut command, &folder.path().join("log"));
    let edge = SocketAddr::from(([127, 0, 0, 1], port));
    let answer = eventually("it answers", SOON, async || client::try_get(edge, "/").await.ok()).await;
    assert_eq!(answer.instance(), "a");
}

#[tokio::test]
async fn copies_go_to_the_mirror_and_never_hold_the_real_request_up() {
    let (real, shadow) = (Instance::start("real").await, ByHand::start().await);
    let routes = "[[listener.edge.route]]\nto = \"real\"\nmirror = { to = \"shadow\" }\n";
    let (sidecar, edge) = start(&[("real", real.addr()), ("shadow", shadow.addr())], routes).await;
    let body = "x".repeat(1000);
    let request = Request::post("/echo").header("host", "h").body(client::full(body.clone())).unwrap();
    let answer = client::request(edge, request).await.unwrap();
    assert_eq!((answer.status, answer.instance()), (200, "real"), "before the mirror has said a word");
    let mut copy = shadow.accept().await;
    let (head, content) = copy.request().await.unwrap();
    assert!(head.start.starts_with("POST /echo "), "{}", head.start);
    assert_eq!((head.field("x-outrigger-mirror"), head.field("host")), (Some("1"), Some("h")));
    assert_eq!(content, body.as_bytes());
    copy.send("HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nnone").await.unwrap();
    let count = async |service: &str, code: u16| {
        let series = format!("outrigger_requests_total{{service=\"{service}\",code=\"{code}\"}}");
        sidecar.metric(&series).await
    };
    eventually("the copy is counted", SOON, async || (count("shadow", 500).await == 1.0).then_some(())).await;
    assert_eq!(count("real", 200).await, 1.0);
    // One that resets, one that is gone: nobody notices.
    let asked = get(edge, "h", "/", &[]);
    let (answer, _) = tokio::join!(asked, async {
        // On the connection that was kept.
        copy.request().await.unwrap();
        copy.reset();
    });
    assert_eq!(answer.status, 200);
    drop(shadow);
    assert_eq!(get(edge, "h", "/", &[]).await.status, 200);
    // A body that is too long to be kept is not copied.
    let long = Request::post("/echo").header("host", "h").body(client::full("x".repeat(100_000))).unwrap();
    assert_eq!(client::request(edge, long).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_changed_head_was_checked_as_it_came() {
    let server = RawServer::always(vec![Step::ok("fine")]).await;
    let route = |path: &str, change: &str| {
        format!(
            "[[listener.edge.route]]\npath = \"/{path}\"\nrewrite = \"/{path}/changed\"\nto = \"a\"\n{change}\n"
        )
    };
    let routes = [
        route("set", "set_headers = { x-env = \"prod\" }"),
        route("add", "add_headers = { x-hop = \"2\" }"),
        route("remove", "remove_headers = [\"x-debug\"]"),
        route("host", "set_headers = { host = \"inside\" }"),
        route("token", "set_headers = { x-token = \"of-the-route\" }"),
    ];
    let (_sidecar, edge) = start(&[("a", server.addr())], &routes.concat()).await;
    let ask = async |text: &str| {
        let mut client = Connection::open(edge).await.unwrap();
        client.send(text).await.unwrap();
        client.response().await.unwrap()
    };
    for (text, kept) in [
        ("GET /set HTTP/1.1\r\nHost: h\r\nX-Kept: k\r\n\r\n", &[("x-env", "prod"), ("X-Kept", "k")][..]),
        ("GET /add HTTP/1.1\r\nHost: h\r\nX-Hop: 1\r\n\r\n", &[("X-Hop", "1"), ("x-hop", "2")]),
        ("GET /remove HTTP/1.1\r\nHost: h\r\nX-Debug: 1\r\nX-Kept: k\r\n\r\n", &[("X-Kept", "k")]),
        ("GET /host HTTP/1.1\r\nHost: h\r\n\r\n", &[("Host", "inside"), ("x-forwarded-host", "h")]),
        ("GET http://h/host HTTP/1.1\r\nHost: h\r\n\r\n", &[("Host", "inside"), ("x-forwarded-host", "h")]),
        // The client has no say over what the route sets.
        (
            "GET /token HTTP/1.1\r\nHost: h\r\nX-Token: mine\r\nConnection: x-token\r\n\r\n",
            &[("x-token", "of-the-route")],
        ),
    ] {
        assert_eq!(ask(text).await.text(), "fine", "{text}");
        let seen = server.requests().pop().unwrap();
        assert!(seen.head.start.ends_with("/changed HTTP/1.1"), "{}", seen.head.start);
        for (name, value) in kept {
            let count =
                seen.head.fields.iter().filter(|(n, v)| n.eq_ignore_ascii_case(name) && v == value).count();
            assert_eq!(count, 1, "{name}: {value} in {:?} for {text}", seen.head.fields);
        }
        assert!(seen.head.fields.iter().all(|(name, _)| !name.eq_ignore_ascii_case("x-debug")), "{text}");
    }
    let before = server.requests().len();
    for path in ["set", "add", "remove", "host"] {
        for fields in [
            "Host: h\r\nContent-Length: 0\r\nContent-Length: 0\r\n",
            "Host: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "Host: h\r\nHost: i\r\n",
            "X-Debug: 1\r\n",
            "Host: h\r\nX-Debug: 1\nX-Hop: 1\r\n",
        ] {
            let answer = ask(&format!("POST /{path} HTTP/1.1\r\n{fields}\r\n0\r\n\r\n")).await;
            assert_eq!(answer.status, 400, "{path}: {fields}");
        }
    }
    let shown = ask("TRACE /token HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n").await.text();
    assert!(shown.starts_with("TRACE /token HTTP/1.1") && !shown.contains("of-the-route"), "{shown}");
    // What does not fit must not go out unchanged.
    let long = format!("GET /set?{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(65_525));
    assert!([414, 431].contains(&ask(&long).await.status));
    assert_eq!(server.requests().len(), before, "a refused request went on");

    let url = format!("http://{edge}/host");
    let curl = move || Command::new("curl").args(["-sS", "--http2-prior-knowledge", &url]).output();
    let said = tokio::task::spawn_blocking(curl).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "fine", "{said:?}");
    let seen = server.requests().pop().unwrap();
    assert!(
        seen.head.fields.iter().any(|(name, value)| name.eq_ignore_ascii_case("host") && value == "inside")
    );
}

#[tokio::test]
async fn a_shared_port_may_be_told_who_the_client_is() {
    let server = ByHand::start().await;
    let port = free_port();
    let _sidecar = Sidecar::start(&format!(
        "workers = 1\n[service.a]\nfrom = \"static://{}\"\n[listener.edge]\nport = {port}\n\
         proxy_protocol.accept = true\n[[listener.edge.route]]\nto = \"a\"\n",
        server.addr()
    ))
    .await;
    let edge = SocketAddr::from(([127, 0, 0, 1], port));
    let mut client = Connection::open(edge).await.unwrap();
    client.send("PROXY TCP4 10.1.2.3 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut instance = server.accept().await;
    let (head, _) = instance.request().await.unwrap();
    assert_eq!(head.field("x-forwarded-for"), Some("10.1.2.3"));
    // Who does not say so is refused.
    let mut client = Connection::open(edge).await.unwrap();
    let _ = client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(client.response().await.is_err());
}

#[tokio::test]
async fn copies_go_out_beside_the_real_requests_and_within_what_may_be_kept() {
    let (real, shadow) = (ByHand::start().await, ByHand::start().await);
    let port = free_port();
    let sidecar = Sidecar::start(&format!(
        "workers = 1\n[limits]\nreplay_bytes = \"20KiB\"\n\
         [service.real]\nfrom = \"static://{}\"\n[service.shadow]\nfrom = \"static://{}\"\n\
         [listener.edge]\nport = {port}\n[[listener.edge.route]]\nto = \"real\"\nmirror = {{ to = \"shadow\" }}\n",
        real.addr(),
        shadow.addr()
    ))
    .await;
    let edge = SocketAddr::from(([127, 0, 0, 1], port));
    let ask = |size: usize| {
        let request = Request::post("/").header("host", "h").body(client::full("x".repeat(size))).unwrap();
        client::request(edge, request)
    };
    let serve = async |copied: Option<usize>| {
        let mut instance = real.accept().await;
        instance.request().await.unwrap();
        // Before the real one has its answer.
        match copied {
            Some(size) => {
                let mut copy = shadow.accept().await;
                assert_eq!(copy.request().await.unwrap().1.len(), size);
                copy.send("HTTP/1.1 204 No\r\nConnection: close\r\n\r\n").await.unwrap();
            }
            None => assert!(shadow.is_left_alone(Duration::from_millis(300)).await),
        }
        instance.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    };
    // One of 12,000 bytes is kept for retries, but not twice; what was kept is given back each time.
    for (size, copied) in
        [(8000, Some(8000)), (12_000, None), (0, Some(0)), (8000, Some(8000)), (8000, Some(8000))]
    {
        let (answer, ()) = tokio::join!(ask(size), serve(copied));
        assert_eq!(answer.unwrap().status, 200, "{size}");
        eventually("the copy is over", SOON, async || {
            let shadow = sidecar.api("/api/services/shadow").await;
            (shadow["endpoints"][0]["in_flight"] == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn our_own_answers_stay_as_they_are() {
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let routes = "[[listener.edge.route]]\nto = \"a\"\n[listener.edge.route.response]\n\
                  set_headers = { x-outrigger-error = \"none\", server = \"edge\" }\nremove_headers = [\"content-type\"]\n";
    let (sidecar, edge) = start(&[("a", gone)], routes).await;
    let answer = get(edge, "h", "/", &[]).await;
    assert_eq!((answer.status, answer.header("server")), (502, None));
    assert!(answer.header("x-outrigger-error").unwrap().starts_with("connect_failed"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    drop(sidecar);
}

#[tokio::test]
async fn the_admin_address_shows_the_routes_and_no_secrets() {
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let routes = "[[listener.edge.route]]\nhost = \"*.example.com\"\npath = \"/v1/\"\nmethod = \"GET\"\n\
                  headers = { x-token = \"secret\" }\nto = { a = 9, b = 1 }\nsubset = { tag = \"v2\" }\nrewrite = \"/\"\n\
                  set_headers = { authorization = \"secret\" }\nmirror = { to = \"b\", share = \"10%\" }\n\
                  [listener.edge.route.response]\nremove_headers = [\"server\"]\n[[listener.edge.route]]\nto = \"b\"\n";
    let (sidecar, edge) = start(&[("a", gone), ("b", gone)], routes).await;
    let told = sidecar.api("/api/routes").await;
    assert!(!told.to_string().contains("secret"), "{told}");
    let listener = &told[0];
    assert_eq!((&listener["name"], told.as_array().unwrap().len()), (&"edge".into(), 1));
    assert_eq!(listener["listen"][0], edge.to_string());
    let nothing = serde_json::json!({ "set_headers": [], "add_headers": [], "remove_headers": [] });
    let first = serde_json::json!({
        "host": ["*.example.com"], "path": "/v1", "method": ["GET"], "headers": ["x-token"],
        "to": [
            { "service": "a", "subset": { "tag": "v2" }, "weight": 9 },
            { "service": "b", "subset": { "tag": "v2" }, "weight": 1 },
        ],
        "rewrite": "/",
        "request": { "set_headers": ["authorization"], "add_headers": [], "remove_headers": [] },
        "response": { "set_headers": [], "add_headers": [], "remove_headers": ["server"] },
        "mirror": { "to": "b", "share": 0.1 },
    });
    assert_eq!(listener["routes"][0], first);
    let second = &listener["routes"][1];
    assert_eq!((&second["response"], &second["to"][0]["service"]), (&nothing, &"b".into()));
}

#[tokio::test]
async fn a_subset_whose_instance_waits_for_its_first_check_is_used() {
    let old = Instance::start("old").await;
    let new = RawServer::start(|request| {
        let checked = request.head.start.starts_with("GET /health ");
        vec![if checked { Step::Hang } else { Step::ok("new") }]
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "endpoints = [\"{}\", {{ addr = \"{}\", meta = {{ version = \"2\" }} }}]",
        old.addr(),
        new.addr()
    );
    std::fs::write(folder.path().join("web.toml"), text).unwrap();
    let port = free_port();
    let config = format!(
        "[service.web]\nfrom = \"file:web.toml\"\nhealth = {{ http = \"/health\", timeout = \"20s\", interval = \"20s\" }}\n\
         [listener.edge]\nport = {port}\n[[listener.edge.route]]\npath = \"/two\"\nto = \"web\"\nsubset = {{ version = \"2\" }}\n\
         [[listener.edge.route]]\nto = \"web\"\n"
    );
    let sidecar = Sidecar::launch_in(folder, &config, |_| {}).await;
    let edge = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("one is proven and the other is not", SOON, async || {
        let states = sidecar.states("web").await;
        let is = |state: &str| states.iter().any(|(_, one)| one == state);
        (is("usable") && is("unproven")).then_some(())
    })
    .await;
    for _ in 0..4 {
        assert_eq!(get(edge, "h", "/two", &[]).await.text(), "new");
        assert_eq!(get(edge, "h", "/", &[]).await.instance(), "old");
    }
}
