//! `/metrics`: every family there is, read from the cells when asked.

use super::answer::{Answer, quality, text, whole};
use super::desk::Desk;
use super::families::{Family, families};
use super::fold::Row;
use super::state::State;
use crate::cluster::{Cluster, Totals};
use crate::discovery::StatusView;
use crate::policy::Evidence;
use crate::registration;
use crate::telemetry::{Histogram, Kind};
use http::{HeaderMap, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

pub(super) fn answer(desk: &Desk, headers: &HeaderMap) -> Answer {
    let open = quality(headers, "application/openmetrics-text");
    let format =
        if open > 0.0 && open >= quality(headers, "text/plain") { Format::Open } else { Format::Plain };
    match Scrape::new(desk).render(format) {
        Ok(body) => whole(StatusCode::OK, format.content_type(), body.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Prometheus' own, version 0.0.4: a counter's family has the name of its samples.
    Plain,
    /// OpenMetrics 1.0: a counter's family is called without `_total`, and the end is marked.
    Open,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything that is shown, as of one moment.
#[derive(Debug)]
pub(super) struct Scrape {
    services: Vec<Service>,
    /// Ports that several services share.
    pub entrances: Vec<(String, Totals)>,
    registrations: Vec<registration::StatusView>,
    pub events: Vec<(Kind, u64)>,
    pub connections: usize,
    pub started: SystemTime,
}

#[derive(Debug)]
pub(super) struct Service {
    pub name: String,
    pub totals: Totals,
    states: [u64; State::ALL.len()],
    pub waiting: u32,
    rows: Vec<Row>,
    /// Endpoints that their registry calls passing and that are not reached.
    pub disputed: u64,
    pub ejections: Vec<(Evidence, u64)>,
    pub panic: bool,
    sources: Vec<StatusView>,
}

impl Scrape {
    fn new(desk: &Desk) -> Self {
        let mut folds = desk.folds.lock().unwrap_or_else(PoisonError::into_inner);
        let services = desk.clusters(Instant::now()).zip(folds.iter_mut()).map(|(seen, fold)| {
            let mut states = [0; State::ALL.len()];
            for member in seen.snapshot.members.iter() {
                if let Some(count) = states.get_mut(State::of(member) as usize) {
                    *count += 1;
                }
            }
            Service {
                name: seen.name().to_owned(),
                totals: Totals::of(seen.cluster.tallies()),
                states,
                waiting: seen.cluster.waiting(),
                rows: fold.rows(&seen.snapshot.members),
                disputed: seen.snapshot.members.iter().filter(|member| member.is_disputed()).count() as u64,
                ejections: Evidence::ALL.map(|e| (e, seen.cluster.ejections.count(e))).into(),
                panic: seen.snapshot.panic,
                sources: seen.sources,
            }
        });
        let entrance = |cluster: &Arc<Cluster>| (cluster.name().to_string(), Totals::of(cluster.tallies()));
        Self {
            services: services.collect(),
            entrances: desk.window.entrances.iter().map(entrance).collect(),
            registrations: desk.window.registrations.iter().map(|status| status.view()).collect(),
            events: desk.window.events.counts().collect(),
            connections: (desk.window.connections)(),
            started: desk.started,
        }
    }

    fn render(self, format: Format) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition { scrape: self, format }));
        match format {
            Format::Plain => encode_registry(&mut text, &registry)?,
            Format::Open => encode(&mut text, &registry)?,
        }
        Ok(text)
    }

    pub fn each(&self, write: impl FnMut(&Service) -> fmt::Result) -> fmt::Result {
        self.services.iter().try_for_each(write)
    }

    pub fn each_row(&self, mut write: impl FnMut([(&str, &str); 2], &Row) -> fmt::Result) -> fmt::Result {
        self.each(|service| {
            service
                .rows
                .iter()
                .try_for_each(|row| write([("service", &service.name), ("endpoint", &row.endpoint)], row))
        })
    }

    pub fn each_registration(
        &self,
        mut write: impl FnMut([(&str, &str); 2], &registration::StatusView) -> fmt::Result,
    ) -> fmt::Result {
        self.registrations
            .iter()
            .try_for_each(|view| write([("service", &view.service), ("registry", &view.registry)], view))
    }

    pub fn each_source(
        &self,
        mut write: impl FnMut([(&str, &str); 2], &StatusView) -> fmt::Result,
    ) -> fmt::Result {
        self.each(|service| {
            let mut sources = service.sources.iter();
            sources
                .try_for_each(|source| write([("service", &service.name), ("source", &source.url)], source))
        })
    }
}

impl Service {
    pub fn in_state(&self, state: State) -> u64 {
        self.states.get(state as usize).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Exposition {
    scrape: Scrape,
    format: Format,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Family { name, kind, help, write } in families() {
            let name = match self.format {
                Format::Plain => name,
                Format::Open => name.strip_suffix("_total").unwrap_or(name),
            };
            let metric = encoder.encode_descriptor(name, help, None, kind)?;
            write(&self.scrape, &mut Series { metric, format: self.format })?;
        }
        Ok(())
    }
}

/// Where a family's series are written.
pub(super) struct Series<'a> {
    metric: MetricEncoder<'a>,
    format: Format,
}

impl Series<'_> {
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        let mut metric = self.metric.encode_family(&labels)?;
        match self.format {
            // The family's name has its `_total` already, and a gauge's sample is called what its family is called.
            Format::Plain => metric.encode_gauge(&value),
            Format::Open => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        }
    }

    pub fn level(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        self.metric.encode_family(&labels)?.encode_gauge(&value)
    }

    pub fn seconds(&mut self, labels: &[(&str, &str)], value: Duration) -> fmt::Result {
        match labels {
            [] => self.metric.encode_gauge(&value.as_secs_f64()),
            labels => self.metric.encode_family(&labels)?.encode_gauge(&value.as_secs_f64()),
        }
    }

    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        (counts, sum): &([u64; Histogram::BOUNDS.len() + 1], f64),
    ) -> fmt::Result {
        let bounds = Histogram::BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
        let mut metric = self.metric.encode_family(&labels)?;
        metric.encode_histogram::<NoLabelSet>(*sum, counts.iter().sum(), &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Link;

    fn scrape() -> Scrape {
        let source = StatusView {
            url: "consul://h/\"web\"\\\n?tag=a".to_owned(),
            link: Link::Live,
            age: Some(Duration::from_millis(1500)),
            failing_for: None,
            last_error: None,
            hint: None,
            position: None,
            listed: 1,
            skipped: 2,
            updates: 3,
            errors: 4,
            questions: 5,
        };
        let service = Service {
            name: "web".to_owned(),
            totals: Totals { codes: vec![(200, 7)], ..Totals::default() },
            states: [0; State::ALL.len()],
            waiting: 0,
            disputed: 0,
            ejections: Vec::new(),
            panic: false,
            rows: Vec::new(),
            sources: vec![source],
        };
        Scrape {
            services: vec![service],
            entrances: Vec::new(),
            registrations: Vec::new(),
            events: Vec::new(),
            connections: 1,
            started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250),
        }
    }

    #[test]
    fn a_label_may_hold_anything() {
        for format in [Format::Plain, Format::Open] {
            let text = scrape().render(format).unwrap();
            let line = r#"outrigger_source_up{service="web",source="consul://h/\"web\"\\\n?tag=a"} 1"#;
            assert!(text.lines().any(|l| l == line), "{text}");
        }
    }

    #[test]
    fn a_counters_family_is_called_as_its_format_wants() {
        let plain = scrape().render(Format::Plain).unwrap();
        assert!(plain.contains("\n# TYPE outrigger_source_errors_total counter\n"), "{plain}");
        assert!(!plain.contains("# EOF"));
        let open = scrape().render(Format::Open).unwrap();
        assert!(open.contains("\n# TYPE outrigger_source_errors counter\n"), "{open}");
        assert!(open.ends_with("# EOF\n"));
        for text in [plain, open] {
            assert!(text.contains("\noutrigger_requests_total{service=\"web\",code=\"200\"} 7\n"), "{text}");
            assert!(text.contains("\nprocess_start_time_seconds 1700000000.25\n"), "{text}");
        }
    }
}
