//! The list of metrics: names, help, and where their series come from.

use super::metrics::{Scrape, Series};
use super::state::State;
use crate::discovery::Link;
use crate::model::Outcome;
use crate::registration;
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::time::SystemTime;

/// One metric: its whole name, what it says, and where its series come from.
pub(super) struct Family {
    pub name: &'static str,
    pub kind: MetricType,
    pub help: &'static str,
    pub write: fn(&Scrape, &mut Series<'_>) -> fmt::Result,
}

/// All families, in the order in which they are shown.
pub(super) fn families() -> [Family; 25] {
    use MetricType::{Counter, Gauge, Histogram};
    let family = |name, kind, help, write| Family { name, kind, help, write };
    [
        family(
            "outrigger_requests_total",
            Counter,
            "Requests by the status that the client got; 499 stands for a client that went away. TCP connections that an \
             instance took have the code tcp, others that of the HTTP answer which they could not get.",
            |scrape, series| {
                scrape.each(|service| {
                    if service.totals.carried > 0 {
                        let labels = [("service", &*service.name), ("code", "tcp")];
                        series.count(&labels, service.totals.carried)?;
                    }
                    service.totals.codes.iter().try_for_each(|(code, count)| {
                        series.count(&[("service", &service.name), ("code", &code.to_string())], *count)
                    })
                })?;
                // What had no route.
                scrape.entrances.iter().try_for_each(|(name, totals)| {
                    totals.codes.iter().try_for_each(|(code, count)| {
                        series.count(&[("service", name), ("code", &code.to_string())], *count)
                    })
                })
            },
        ),
        family(
            "outrigger_request_duration_seconds",
            Histogram,
            "From the request's head to the last byte of the response, all attempts together; of a TCP connection, from its \
             beginning to its end.",
            |scrape, series| {
                scrape
                    .each(|service| series.histogram(&[("service", &service.name)], &service.totals.duration))
            },
        ),
        family(
            "outrigger_upstream_attempts_total",
            Counter,
            "Attempts at instances by how they ended.",
            |scrape, series| {
                scrape.each(|service| {
                    service.totals.attempts.iter().try_for_each(|(outcome, count)| {
                        series.count(&[("service", &service.name), ("outcome", outcome.as_str())], *count)
                    })
                })
            },
        ),
        family(
            "outrigger_retries_total",
            Counter,
            "Attempts that were made again, by why the one before failed.",
            |scrape, series| {
                scrape.each(|service| {
                    service.totals.retries.iter().try_for_each(|(reason, count)| {
                        series.count(&[("service", &service.name), ("reason", reason.as_str())], *count)
                    })
                })
            },
        ),
        family(
            "outrigger_retries_denied_total",
            Counter,
            "Failures that were not tried again although their kind would have allowed it, by what stood against it.",
            |scrape, series| {
                scrape.each(|service| {
                    service.totals.denied.iter().try_for_each(|(reason, count)| {
                        series.count(&[("service", &service.name), ("reason", reason.as_str())], *count)
                    })
                })
            },
        ),
        family("outrigger_endpoints", Gauge, "Endpoints by state.", |scrape, series| {
            scrape.each(|service| {
                State::ALL.into_iter().try_for_each(|state| {
                    let labels = [("service", &*service.name), ("state", state.as_str())];
                    series.level(&labels, service.in_state(state))
                })
            })
        }),
        family(
            "outrigger_suspect_endpoints",
            Gauge,
            "Endpoints kept although an answer that deserves no trust yet no longer lists them.",
            |scrape, series| {
                scrape.each(|service| {
                    series.level(&[("service", &service.name)], service.in_state(State::Suspect))
                })
            },
        ),
        family(
            "outrigger_disputed_endpoints",
            Gauge,
            "Endpoints that their registry calls passing and that our checks or requests do not reach.",
            |scrape, series| {
                scrape.each(|service| series.level(&[("service", &service.name)], service.disputed))
            },
        ),
        family(
            "outrigger_ejections_total",
            Counter,
            "Endpoints taken out on the evidence of requests, by what spoke against them.",
            |scrape, series| {
                scrape.each(|service| {
                    service.ejections.iter().try_for_each(|(evidence, count)| {
                        series.count(&[("service", &service.name), ("reason", evidence.as_str())], *count)
                    })
                })
            },
        ),
        family(
            "outrigger_panic",
            Gauge,
            "1 while so few endpoints are usable that checks and ejections are ignored.",
            |scrape, series| {
                scrape.each(|service| series.level(&[("service", &service.name)], service.panic.into()))
            },
        ),
        family(
            "outrigger_waiting_requests",
            Gauge,
            "Requests that wait because every usable instance is at its limit.",
            |scrape, series| {
                scrape.each(|service| series.level(&[("service", &service.name)], service.waiting.into()))
            },
        ),
        family(
            "outrigger_endpoint_in_flight",
            Gauge,
            "Requests that run at an endpoint.",
            |scrape, series| scrape.each_row(|labels, row| series.level(&labels, row.in_flight)),
        ),
        family(
            "outrigger_endpoint_latency_seconds",
            Gauge,
            "Moving average of the time to the response head.",
            |scrape, series| {
                scrape.each_row(|labels, row| match row.latency {
                    Some(latency) => series.seconds(&labels, latency),
                    None => Ok(()),
                })
            },
        ),
        family(
            "outrigger_endpoint_requests_total",
            Counter,
            "Attempts at an endpoint by how they ended.",
            |scrape, series| {
                scrape.each_row(|[service, endpoint], row| {
                    Outcome::ALL.into_iter().zip(row.outcomes).try_for_each(|(outcome, count)| {
                        series.count(&[service, endpoint, ("outcome", outcome.as_str())], count)
                    })
                })
            },
        ),
        family(
            "outrigger_source_age_seconds",
            Gauge,
            "Since the source's last good answer.",
            |scrape, series| {
                scrape.each_source(|labels, source| match source.age {
                    Some(age) => series.seconds(&labels, age),
                    None => Ok(()),
                })
            },
        ),
        family(
            "outrigger_source_up",
            Gauge,
            "1 while the source answers, 0 while it fails or has never answered.",
            |scrape, series| {
                scrape.each_source(|labels, source| series.level(&labels, (source.link == Link::Live).into()))
            },
        ),
        family(
            "outrigger_source_updates_total",
            Counter,
            "Answers of the source that changed something.",
            |scrape, series| scrape.each_source(|labels, source| series.count(&labels, source.updates)),
        ),
        family(
            "outrigger_source_errors_total",
            Counter,
            "Questions to the source that failed.",
            |scrape, series| scrape.each_source(|labels, source| series.count(&labels, source.errors)),
        ),
        family(
            "outrigger_source_entries_skipped",
            Gauge,
            "Entries of the source's last answer that cannot be used.",
            |scrape, series| {
                scrape.each_source(|labels, source| series.level(&labels, source.skipped as u64))
            },
        ),
        family(
            "outrigger_registered",
            Gauge,
            "1 while the local app is in this registry and passing, for everybody to see.",
            |scrape, series| {
                scrape.each_registration(|labels, view| {
                    series.level(&labels, u64::from(view.state == registration::State::Announced))
                })
            },
        ),
        family(
            "outrigger_registration_losses_total",
            Counter,
            "How often this registry has forgotten the local app.",
            |scrape, series| scrape.each_registration(|labels, view| series.count(&labels, view.losses)),
        ),
        family("outrigger_connections", Gauge, "Open connections.", |scrape, series| {
            series.level(&[("side", "client")], scrape.connections as u64)
        }),
        family(
            "outrigger_events_total",
            Counter,
            "What happened, by kind, as told by /api/events.",
            |scrape, series| {
                scrape
                    .events
                    .iter()
                    .try_for_each(|(kind, count)| series.count(&[("kind", kind.as_str())], *count))
            },
        ),
        family("outrigger_build_info", Gauge, "1, labelled with the version.", |_, series| {
            series.level(&[("version", env!("CARGO_PKG_VERSION"))], 1)
        }),
        family(
            "process_start_time_seconds",
            Gauge,
            "When the process began, in seconds since 1970.",
            |scrape, series| {
                series.seconds(&[], scrape.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_name_of_its_own_and_a_sentence() {
        let names: std::collections::HashSet<_> = families().iter().map(|family| family.name).collect();
        assert_eq!(names.len(), families().len());
        for family in families() {
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\']), "{}", family.name);
            let is_total = family.name.ends_with("_total");
            assert_eq!(is_total, matches!(family.kind, MetricType::Counter), "{}", family.name);
        }
    }
}
