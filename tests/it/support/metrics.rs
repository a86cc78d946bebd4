//! Reads Prometheus' text format, as far as tests look at it.

/// Adds up the series of a Prometheus text that a selector such as `name{a="1"}` names.
pub fn sum(text: &str, selector: &str) -> f64 {
    let (name, wanted) = series(selector);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| {
        let (line, value) = line.rsplit_once(' ')?;
        let (found, labels) = series(line);
        (found == name && wanted.iter().all(|label| labels.contains(label)))
            .then(|| value.parse::<f64>().unwrap_or_else(|e| panic!("{e}: {line} {value}")))
    });
    values.sum()
}

/// A series' name and its labels, each `key="value"`. Values with a comma and a quote after it are not foreseen.
fn series(text: &str) -> (&str, Vec<&str>) {
    let Some((name, labels)) = text.split_once('{') else { return (text, Vec::new()) };
    let labels = labels.trim_end_matches('}').split_inclusive("\",");
    (name, labels.map(|label| label.trim_end_matches(',').trim()).collect())
}

#[test]
fn metrics_are_summed_over_the_series_that_have_the_labels() {
    let text = "# TYPE outrigger_requests counter\n\
        outrigger_requests_total{service=\"web\",code=\"200\"} 41\n\
        outrigger_requests_total{service=\"web\",code=\"503\"} 1\n\
        outrigger_requests_total{service=\"api\",code=\"200\"} 7\n\
        outrigger_requests_total_other{service=\"web\"} 1000\n\
        outrigger_up 1\n# EOF\n";
    assert_eq!(sum(text, "outrigger_requests_total"), 49.0);
    assert_eq!(sum(text, "outrigger_requests_total{service=\"web\"}"), 42.0);
    assert_eq!(sum(text, "outrigger_requests_total{code=\"200\",service=\"web\"}"), 41.0);
    assert_eq!(sum(text, "outrigger_requests_total{service=\"none\"}"), 0.0);
    assert_eq!(sum(text, "outrigger_up"), 1.0);
}
