//! Tables of what matches and what becomes of it; shares, and any request at all.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn host(text: &str) -> HostPattern {
    HostPattern::new(text).unwrap()
}

fn path(text: &str) -> PathPrefix {
    PathPrefix::new(text).unwrap()
}

fn to(place: usize) -> Split {
    Split::new(vec![(place, 1)]).unwrap()
}

/// The place that a GET is led to.
fn led(routes: &[Route], host: &str, path: &str, fields: &[(&'static str, &str)]) -> Option<usize> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, value.parse().unwrap());
    }
    let asked = Asked { host: host.as_bytes(), path, method: &Method::GET, fields: &map };
    find(routes, &asked).map(|(number, _)| number)
}

#[test]
fn hosts() {
    for (pattern, asked, expected) in [
        ("api.example.com", "api.example.com", true),
        ("api.example.com", "API.Example.COM:8080", true),
        ("API.example.com", "api.example.com.", true),
        ("api.example.com", "api.example.com.:80", true),
        ("api.example.com", "example.com", false),
        ("api.example.com", "xapi.example.com", false),
        ("*.example.com", "api.example.com", true),
        ("*.example.com", "a.b.EXAMPLE.com:1", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "xexample.com", false),
        ("[::1]", "[::1]:80", true),
        ("[::1]", "[::1]", true),
        ("10.0.0.1", "10.0.0.1:80", true),
        ("a", "", false),
    ] {
        let route = Route { hosts: vec![host(pattern)], ..Route::default() };
        assert_eq!(led(&[route], asked, "/", &[]).is_some(), expected, "{pattern} {asked}");
    }
    for bad in ["", "a:80", "*", "*.", "a..b", "a b", "http://a", "a/b", "*a.b", "[::1", "*.[::1]", ".a"] {
        assert!(HostPattern::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn paths_match_at_the_borders_of_segments() {
    for (prefix, asked, expected) in [
        ("/v1", "/v1", true),
        ("/v1", "/v1/", true),
        ("/v1", "/v1/a/b", true),
        ("/v1", "/v10", false),
        ("/v1", "/V1", false),
        ("/v1/", "/v1", true),
        ("/v1/", "/v1/x", true),
        ("/", "/", true),
        ("/", "/anything", true),
        ("/", "*", false),
        ("/a%20b", "/a%20b/c", true),
        ("/a%20b", "/a b/c", false),
    ] {
        let route = Route { path: Some(path(prefix)), ..Route::default() };
        assert_eq!(led(&[route], "h", asked, &[]).is_some(), expected, "{prefix} {asked}");
    }
    for bad in ["", "v1", "*", "/a?b", "/a#b", "/a b"] {
        assert!(PathPrefix::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn rewriting_replaces_the_prefix_that_matched() {
    for (prefix, new, asked, expected) in [
        (Some("/v1"), "/", "/v1/orders/7", "/orders/7"),
        (Some("/v1"), "/", "/v1", "/"),
        (Some("/v1/"), "/", "/v1/", "/"),
        (Some("/v1"), "/api/v2", "/v1/x", "/api/v2/x"),
        (Some("/v1"), "/api/", "/v1", "/api"),
        (Some("/"), "/base", "/x", "/base/x"),
        (None, "/base", "/x", "/base/x"),
    ] {
        let route = Route { path: prefix.map(path), rewrite: Some(path(new)), ..Route::default() };
        assert_eq!(route.rewritten(asked).as_deref(), Some(expected), "{prefix:?} {new} {asked}");
    }
    assert_eq!(Route::default().rewritten("/x"), None);
}

#[test]
fn methods_and_fields_all_have_to_match() {
    let value = |text: &'static str| Some(HeaderValue::from_static(text));
    let name = HeaderName::from_static;
    let get = Route { methods: vec![Method::HEAD, Method::GET], ..Route::default() };
    assert!(led(&[get], "h", "/", &[]).is_some());
    let post = Route { methods: vec![Method::POST], ..Route::default() };
    assert!(led(&[post], "h", "/", &[]).is_none());
    let canary = Route {
        fields: vec![(name("x-canary"), value("always")), (name("x-user"), None)],
        ..Route::default()
    };
    for (fields, expected) in [
        (&[("x-canary", "always"), ("x-user", "")][..], true),
        (&[("x-canary", "no"), ("x-canary", "always"), ("x-user", "a")], true),
        (&[("x-canary", "always")], false),
        (&[("x-canary", "Always"), ("x-user", "a")], false),
        (&[("x-user", "a")], false),
    ] {
        assert_eq!(led(std::slice::from_ref(&canary), "h", "/", fields).is_some(), expected, "{fields:?}");
    }
}

#[test]
fn the_first_match_wins() {
    let routes = [
        Route { hosts: vec![host("a.b")], path: Some(path("/x")), to: to(0), ..Route::default() },
        Route { hosts: vec![host("a.b"), host("*.c")], to: to(1), ..Route::default() },
        Route { path: Some(path("/x/y")), to: to(2), ..Route::default() },
    ];
    for (asked, at, expected) in [
        ("a.b", "/x/y", Some(0)),
        ("a.b", "/", Some(1)),
        ("d.c", "/x", Some(1)),
        ("z", "/x/y/z", Some(2)),
        ("z", "/x", None),
    ] {
        assert_eq!(led(&routes, asked, at, &[]), expected, "{asked} {at}");
    }
    assert_eq!(led(&[], "a", "/", &[]), None);
}

#[test]
fn fields_are_removed_set_and_added_in_this_order() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let edits = Edits {
        remove: vec![name("x-old"), name("x-both")],
        set: vec![(name("x-env"), value("prod")), (name("x-both"), value("1"))],
        add: vec![(name("x-hop"), value("2"))],
    };
    let mut fields = HeaderMap::new();
    for (name, value) in [("x-old", "0"), ("x-env", "a"), ("x-env", "b"), ("x-hop", "1"), ("x-both", "0")] {
        fields.append(name, value.parse().unwrap());
    }
    edits.apply(&mut fields);
    let all = |name: &str| fields.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!([all("x-old"), all("x-env"), all("x-both")], [vec![], vec!["prod"], vec!["1"]]);
    assert_eq!(all("x-hop"), ["1", "2"]);
    assert!(edits.replaces(b"X-OLD") && edits.replaces(b"x-Env") && !edits.replaces(b"x-hop"));
}

#[test]
fn subsets_are_of_tags_and_of_metadata() {
    let meta = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Meta::from(pairs.collect::<std::collections::BTreeMap<_, _>>())
    };
    let subset = |pairs: &[(&str, &str)]| {
        Subset(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    };
    let v2 = meta(&[("tags", "blue, v2"), ("version", "2"), ("zone", "a")]);
    for (wanted, expected) in [
        (&[("tag", "v2")][..], true),
        (&[("tag", "blue"), ("version", "2")], true),
        (&[("tag", "v")], false),
        (&[("tags", "blue, v2")], true),
        (&[("version", "1")], false),
        (&[("absent", "")], false),
        (&[], true),
    ] {
        assert_eq!(subset(wanted).has(&v2), expected, "{wanted:?}");
    }
    assert!(subset(&[("tag", "x")]).has(&meta(&[("tag", "x")])));
    assert!(!subset(&[("tag", "x")]).has(&Meta::default()));
}

proptest! {
    #[test]
    fn the_draw_is_in_proportion_to_weight(weights in proptest::collection::vec(0..100_u32, 1..6), seed: u64) {
        let places: Vec<_> = weights.iter().copied().enumerate().collect();
        let Some(split) = Split::new(places) else {
            prop_assert!(weights.iter().all(|weight| *weight == 0));
            return Ok(());
        };
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut drawn = vec![0_u32; weights.len()];
        const DRAWS: u32 = 20_000;
        for _ in 0..DRAWS {
            drawn[split.draw(&mut rng)] += 1;
        }
        let total: u32 = weights.iter().sum();
        for (weight, drawn) in weights.iter().zip(drawn) {
            let (share, seen) = (f64::from(*weight) / f64::from(total), f64::from(drawn) / f64::from(DRAWS));
            prop_assert!((share - seen).abs() < 0.03, "{share} {seen}");
            prop_assert!(*weight > 0 || drawn == 0);
        }
    }

    #[test]
    fn a_rewritten_path_is_the_new_prefix_and_what_followed_the_old_one(
        old in "(/[a-z]{1,3}){0,3}", new in "(/[a-z]{1,3}){0,3}", rest in "(/[a-z]{0,3}){0,3}"
    ) {
        let route = Route {
            path: Some(path(&format!("{old}/"))),
            rewrite: Some(path(&format!("{new}/"))),
            ..Route::default()
        };
        let asked = format!("{old}{rest}");
        let asked = if asked.is_empty() { "/" } else { &asked };
        let rewritten = route.rewritten(asked).unwrap();
        prop_assert!(rewritten.starts_with('/'));
        prop_assert!(rewritten.starts_with(&new) && rewritten.ends_with(&rest));
    }

    #[test]
    fn no_request_makes_the_matcher_panic(
        asked in ".*", at in ".*", patterns in proptest::collection::vec("(\\*\\.)?[a-z]{1,3}(\\.[a-z]{1,3})?", 0..3),
    ) {
        let routes = [Route { hosts: patterns.iter().map(|text| host(text)).collect(), path: Some(path("/a")), ..Route::default() }];
        led(&routes, &asked, &at, &[]);
    }
}
