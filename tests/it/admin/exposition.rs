//! A strict reader of Prometheus' text formats: it fails where a scraper would, and where promtool would complain.

use std::collections::{BTreeMap, HashSet};

/// One line of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Text format 0.0.4: the samples of a counter are called what their family is called.
pub fn parse(text: &str) -> Vec<Sample> {
    families(text, |family, kind| match kind {
        "counter" | "gauge" => vec![family.to_owned()],
        "histogram" => ["_bucket", "_sum", "_count"].map(|suffix| format!("{family}{suffix}")).into(),
        other => panic!("{family} has the type {other:?}"),
    })
}

/// OpenMetrics 1.0: the samples of a counter end in `_total`, their family does not, and the text ends in `# EOF`.
pub fn parse_open(text: &str) -> Vec<Sample> {
    let text = text.strip_suffix("# EOF\n").expect("ends in # EOF");
    families(text, |family, kind| match kind {
        "counter" => {
            assert!(!family.ends_with("_total"), "{family}");
            vec![format!("{family}_total")]
        }
        "gauge" => vec![family.to_owned()],
        "histogram" => ["_bucket", "_sum", "_count"].map(|suffix| format!("{family}{suffix}")).into(),
        other => panic!("{family} has the type {other:?}"),
    })
}

fn families(text: &str, names: impl Fn(&str, &str) -> Vec<String>) -> Vec<Sample> {
    assert!(text.ends_with('\n'), "the last line is a whole one");
    let (mut samples, mut seen, mut series) = (Vec::new(), HashSet::new(), HashSet::new());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help =
            line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("a family begins with HELP: {line}"));
        let (family, sentence) = help.split_once(' ').expect("a help text");
        assert!(!sentence.is_empty());
        assert_name(family);
        assert!(seen.insert(family.to_owned()), "{family} comes twice");
        let kind =
            lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.strip_prefix(family)).expect("a type");
        let kind = kind.trim();
        let accepted = names(family, kind);
        let begun = samples.len();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = sample(line);
            assert!(accepted.contains(&sample.name), "{} within {family} ({kind})", sample.name);
            assert!(series.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            assert!(kind == "gauge" || sample.value >= 0.0, "{line}");
            samples.push(sample);
        }
        if kind == "histogram" {
            assert_histogram(family, &samples[begun..]);
        }
    }
    samples
}

fn assert_name(name: &str) {
    assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
}

/// Buckets grow up to `+Inf`, which is the count; there is a sum.
fn assert_histogram(family: &str, samples: &[Sample]) {
    let mut groups: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
    let named = |suffix: &str| {
        let name = format!("{family}{suffix}");
        samples.iter().filter(move |sample| sample.name == name)
    };
    for bucket in named("_bucket") {
        let mut labels = bucket.labels.clone();
        let bound = labels.remove("le").expect("a bucket has a bound");
        groups.entry(labels).or_default().push((bound.parse().expect("a number"), bucket.value));
    }
    assert_eq!(named("_count").count(), groups.len());
    for (labels, buckets) in groups {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family} {labels:?}: {buckets:?}");
        let (bound, total) = *buckets.last().unwrap();
        assert!(bound.is_infinite());
        let of = |suffix| named(suffix).find(|sample| sample.labels == labels).map(|sample| sample.value);
        assert_eq!(of("_count"), Some(total));
        assert!(of("_sum").is_some());
    }
}

/// `name{label="value",...} number`; without braces if there is no label.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, rest) = line.split_at(end);
    assert_name(name);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest, line),
        None => (BTreeMap::new(), rest),
    };
    let value = value.strip_prefix(' ').and_then(|value| value.parse().ok());
    Sample { name: name.to_owned(), labels, value: value.unwrap_or_else(|| panic!("no number: {line}")) }
}

/// Labels, and what follows the closing brace.
fn labels<'a>(mut rest: &'a str, line: &str) -> (BTreeMap<String, String>, &'a str) {
    let mut labels = BTreeMap::new();
    loop {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert_name(name);
        let mut text = String::new();
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("an open quote: {line}")) {
                (at, '"') => break at,
                (_, '\\') => text.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => panic!("no such escape: {other:?} in {line}"),
                }),
                (_, c) => text.push(c),
            }
        };
        assert!(labels.insert(name.to_owned(), text).is_none(), "{name} twice: {line}");
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, rest.strip_prefix('}').unwrap_or_else(|| panic!("no brace: {line}"))),
        }
    }
}
