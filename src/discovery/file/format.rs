//! What an endpoint file says: TOML or JSON text to endpoints, entry by entry.

use crate::discovery::{Answer, Skipped};
use crate::model::{Endpoint, EndpointSet, InstanceId, Weight, Zone};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use toml::Spanned;

/// The file as a whole cannot be used; what it said before is kept.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    #[error("line {line}, column {column}: {message}")]
    At { line: usize, column: usize, message: String },
    #[error("{0}")]
    Shape(String),
    /// An empty file is most likely a half written one, so that it is no empty list.
    #[error("no list `endpoints`")]
    NoEndpoints,
    #[error("no list `services.{0}.endpoints`")]
    NoServiceEndpoints(String),
    #[error("no service {name:?} (in this file: {present})")]
    NoService { name: String, present: String },
}

/// The endpoints of one service in a TOML file.
pub fn from_toml(text: &str, service: &str) -> Result<Answer, FormatError> {
    let document: Document<Spanned<Value>> = toml::from_str(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        match error.span() {
            Some(span) => {
                let (line, column) = position(text, span.start);
                FormatError::At { line, column, message }
            }
            None => FormatError::Shape(message),
        }
    })?;
    let (name, entries) = document.list(service)?;
    // Counted on from entry to entry: the file may be long.
    let (mut line, mut counted) = (1, 0);
    let entries = entries.into_iter().enumerate().map(|(index, entry)| {
        let start = entry.span().start;
        line += text.get(counted..start).map_or(0, |between| between.matches('\n').count());
        counted = start;
        (format!("{name}[{index}], line {line}"), entry.into_inner())
    });
    Ok(answer(entries))
}

/// The endpoints of one service in a JSON file, which may also be just the list.
pub fn from_json(text: &str, service: &str) -> Result<Answer, FormatError> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        FormatError::At { line: error.line(), column: error.column(), message }
    })?;
    let document = match value {
        Value::Array(list) => Document { endpoints: Some(list), services: None },
        other => serde_json::from_value(other).map_err(|error| FormatError::Shape(error.to_string()))?,
    };
    let (name, entries) = document.list(service)?;
    let entries = entries.into_iter().enumerate().map(|(index, entry)| (format!("{name}[{index}]"), entry));
    Ok(answer(entries))
}

/// A file for one service, or with a table for each of several. Other keys are none of our business.
#[derive(Deserialize)]
struct Document<E> {
    endpoints: Option<Vec<E>>,
    services: Option<BTreeMap<String, Section<E>>>,
}

#[derive(Deserialize)]
struct Section<E> {
    endpoints: Option<Vec<E>>,
}

impl<E> Document<E> {
    /// The entries of one service, and the key they are under.
    fn list(self, service: &str) -> Result<(String, Vec<E>), FormatError> {
        let Some(mut services) = self.services else {
            let list = self.endpoints.ok_or(FormatError::NoEndpoints)?;
            return Ok(("endpoints".to_owned(), list));
        };
        let Some(section) = services.remove(service) else {
            let present = match services.len() {
                0 => "none".to_owned(),
                _ => services.into_keys().collect::<Vec<_>>().join(", "),
            };
            return Err(FormatError::NoService { name: service.to_owned(), present });
        };
        let list = section.endpoints.ok_or_else(|| FormatError::NoServiceEndpoints(service.to_owned()))?;
        Ok((format!("services.{service}.endpoints"), list))
    }
}

/// One endpoint in its long form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    addr: String,
    weight: Option<i64>,
    zone: Option<String>,
    id: Option<String>,
    #[serde(default)]
    meta: BTreeMap<String, Value>,
}

/// Uses what can be used; the first of two entries with the same address counts.
fn answer(entries: impl Iterator<Item = (String, Value)>) -> Answer {
    let (mut endpoints, mut skipped, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (place, entry) in entries {
        match endpoint(entry) {
            Ok(endpoint) if !seen.insert(endpoint.addr) => {
                skipped.push(Skipped::new(place, format!("{} was listed before", endpoint.addr)));
            }
            Ok(endpoint) => endpoints.push(endpoint),
            Err(reason) => skipped.push(Skipped::new(place, reason)),
        }
    }
    Answer { set: EndpointSet::new(endpoints), skipped, ..Answer::default() }
}

fn endpoint(entry: Value) -> Result<Endpoint, String> {
    let entry = match entry {
        Value::String(addr) => return Ok(Endpoint::at(address(&addr)?)),
        Value::Object(_) => serde_json::from_value::<Entry>(entry).map_err(|error| error.to_string())?,
        other => return Err(format!("{other} is neither \"address:port\" nor a table with `addr`")),
    };
    let plain = Endpoint::at(address(&entry.addr)?);
    let weight = entry.weight.map_or(Ok(1), u16::try_from);
    let weight =
        weight.map_err(|_| format!("weight {} is not in 0 to 65535", entry.weight.unwrap_or_default()))?;
    let meta = entry.meta.into_iter().map(|(key, value)| match value {
        Value::String(text) => Ok((key, text)),
        Value::Number(_) | Value::Bool(_) => Ok((key, value.to_string())),
        _ => Err(format!("meta.{key} is no text")),
    });
    Ok(Endpoint {
        weight: Weight::new(weight),
        zone: entry.zone.as_deref().and_then(Zone::new),
        instance: entry.id.filter(|id| !id.is_empty()).map_or(plain.instance.clone(), InstanceId::new),
        meta: meta.collect::<Result<BTreeMap<_, _>, _>>()?.into(),
        ..plain
    })
}

/// `address:port`; of names only `localhost`, because a file is no resolver.
fn address(text: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr = text.parse().or_else(|_| {
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("{text:?} has no port"));
        };
        let port: u16 = port.parse().map_err(|_| format!("{text:?}: {port:?} is no port"))?;
        match host {
            "localhost" => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            _ if host.contains(':') => Err(format!("{text:?}: an IPv6 address is written [address]:port")),
            _ => Err(format!("{text:?} is no IP address, and names are not resolved here")),
        }
    })?;
    if addr.port() == 0 || addr.ip().is_unspecified() {
        return Err(format!("{text:?} is nobody's address"));
    }
    Ok(addr)
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn toml(text: &str) -> Answer {
        from_toml(text, "web").unwrap()
    }

    fn addrs(answer: &Answer) -> Vec<String> {
        answer.set.iter().map(|e| e.addr.to_string()).collect()
    }

    const LONG: &str =
        r#"{ "addr": "10.0.0.2:80", "weight": 3, "zone": "a", "id": "x", "meta": { "k": "v", "n": 2 } }"#;

    #[test]
    fn both_forms_in_both_languages_say_the_same() {
        let long = LONG.replace("\": ", "\" = ");
        let text = format!("endpoints = [\"10.0.0.1:80\", {long}, '[::1]:80', 'localhost:81']");
        let answer = toml(&text);
        assert_eq!(answer.skipped, []);
        assert_eq!(addrs(&answer), ["10.0.0.1:80", "10.0.0.2:80", "127.0.0.1:81", "[::1]:80"]);
        let second = &answer.set[1];
        assert_eq!((second.weight.get(), second.instance.as_str()), (3, "x"));
        assert_eq!(second.zone.as_ref().unwrap().as_str(), "a");
        assert_eq!((second.meta["k"].as_str(), second.meta["n"].as_str()), ("v", "2"));
        assert_eq!(answer.set[0], Endpoint::at("10.0.0.1:80".parse().unwrap()));

        let list = format!(r#"["10.0.0.1:80", {LONG}, "[::1]:80", "localhost:81"]"#);
        for json in [list.clone(), format!(r#"{{"endpoints": {list}}}"#)] {
            assert_eq!(from_json(&json, "web").unwrap(), answer);
        }
        let tables = "[[endpoints]]\naddr = '10.0.0.1:80'\n[[endpoints]]\naddr = '10.0.0.2:80'\nweight = 0";
        let answer = toml(tables);
        assert_eq!(answer.set.iter().map(|e| e.weight.get()).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn a_bad_entry_is_skipped_with_its_place_and_reason() {
        let text = "# a comment\nendpoints = [\n  '10.0.0.1:80',\n  'web.internal:80', '10.0.0.1',\n  '10.0.0.2:99999',\n  \
                    '::1:80', '0.0.0.0:80', 7,\n  { addr = '10.0.0.3:80', weight = 65536 },\n  { addr = '10.0.0.4:80', wieght = 0 },\n  \
                    { weight = 2 }, '10.0.0.1:80', { addr = '10.0.0.5:80', weight = -1 },\n  '10.0.0.6:80' ]";
        let answer = toml(text);
        assert_eq!(addrs(&answer), ["10.0.0.1:80", "10.0.0.6:80"]);
        let expected = [
            ("endpoints[1], line 4", "names are not resolved"),
            ("endpoints[2], line 4", "has no port"),
            ("endpoints[3], line 5", "\"99999\" is no port"),
            ("endpoints[4], line 6", "[address]:port"),
            ("endpoints[5], line 6", "nobody's address"),
            ("endpoints[6], line 6", "neither"),
            ("endpoints[7], line 7", "weight 65536 is not in 0 to 65535"),
            ("endpoints[8], line 8", "unknown field `wieght`"),
            ("endpoints[9], line 9", "missing field `addr`"),
            ("endpoints[10], line 9", "10.0.0.1:80 was listed before"),
            ("endpoints[11], line 9", "weight -1"),
        ];
        assert_eq!(answer.skipped.len(), expected.len(), "{:?}", answer.skipped);
        for (skipped, (entry, reason)) in answer.skipped.iter().zip(expected) {
            assert_eq!(skipped.entry, entry);
            assert!(skipped.reason.contains(reason), "{skipped:?} should say {reason:?}");
        }
        let answer = from_json(r#"["10.0.0.1:80", null]"#, "web").unwrap();
        assert_eq!((answer.set.len(), answer.skipped[0].entry.as_str()), (1, "endpoints[1]"));
    }

    #[test]
    fn a_services_table_is_read_by_name() {
        let text = "[services.web]\nendpoints = ['10.0.0.1:80']\n[services.api]\nendpoints = ['nowhere']\n[services.none]";
        assert_eq!(addrs(&toml(text)), ["10.0.0.1:80"]);
        let api = from_toml(text, "api").unwrap();
        assert_eq!((api.set.len(), api.skipped[0].entry.as_str()), (0, "services.api.endpoints[0], line 4"));
        let missing = from_toml(text, "orders").unwrap_err().to_string();
        assert_eq!(missing, "no service \"orders\" (in this file: api, none, web)");
        assert_eq!(from_toml(text, "none"), Err(FormatError::NoServiceEndpoints("none".into())));
        let json = r#"{"services": {"web": {"endpoints": ["10.0.0.1:80"]}}}"#;
        assert_eq!(addrs(&from_json(json, "web").unwrap()), ["10.0.0.1:80"]);
    }

    #[test]
    fn an_empty_list_is_an_answer_and_an_empty_file_is_none() {
        assert_eq!(toml("endpoints = []"), Answer::default());
        assert_eq!(from_json("[]", "web"), Ok(Answer::default()));
        for nothing in ["", "# soon", "endpoint = ['10.0.0.1:80']"] {
            assert_eq!(from_toml(nothing, "web"), Err(FormatError::NoEndpoints), "{nothing:?}");
        }
        assert_eq!(from_json("{}", "web"), Err(FormatError::NoEndpoints));
        assert!(from_json("", "web").is_err());
    }

    #[test]
    fn a_file_that_is_no_list_says_where_and_why() {
        let says = |error: FormatError, expected: &str| {
            let text = error.to_string();
            assert!(text.contains(expected) && !text.contains('\n'), "{text:?} should say {expected:?}");
        };
        says(from_toml("endpoints = [\n  '10.0.0.1:80',\n  '10.0", "web").unwrap_err(), "line 3, column ");
        says(
            from_toml("endpoints = '10.0.0.1:80'", "web").unwrap_err(),
            "line 1, column 13: invalid type: string",
        );
        says(from_json("[\n  \"10.0.0.1:80\",\n", "web").unwrap_err(), "line 3, column 0: EOF while parsing");
        says(from_json(r#"{"endpoints": 1}"#, "web").unwrap_err(), "invalid type: integer");
    }

    #[test]
    fn ten_thousand_entries_are_read_in_one_go() {
        let list: Vec<_> = (0..10_000).map(|n| format!("'10.1.{}.{}:80'", n / 250, n % 250)).collect();
        assert_eq!(toml(&format!("endpoints = [\n{}\n]", list.join(",\n"))).set.len(), 10_000);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>(), service in any::<String>()) {
            let _ = (from_toml(&text, &service), from_json(&text, &service));
        }

        #[test]
        fn no_text_that_looks_like_a_file_makes_the_parser_panic(
            words in prop::collection::vec(prop_oneof![
                Just("endpoints"), Just("services"), Just("[services.web]"), Just("[[endpoints]]"), Just("addr"),
                Just("weight"), Just(" = "), Just("["), Just("]"), Just("{"), Just("}"), Just(","), Just("\n"),
                Just("\""), Just("'10.0.0.1:80'"), Just("\"10.0.0.1:80\""), Just(":"), Just("-1"), Just("ü"), Just("2020-01-01"),
            ], 0..30),
        ) {
            let text = words.concat();
            let _ = (from_toml(&text, "web"), from_json(&text, "web"));
        }

        #[test]
        fn no_entry_is_lost_without_a_word(entries in prop::collection::vec(any::<String>(), 0..20)) {
            let json = serde_json::to_string(&entries).unwrap();
            let answer = from_json(&json, "web").unwrap();
            prop_assert_eq!(answer.set.len() + answer.skipped.len(), entries.len());
        }
    }
}
