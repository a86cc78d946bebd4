//! A service's rules for its traffic: balance, retry, timeouts, limits, and how its source is watched.

use super::check;
use super::document::Scalar;
use super::listen_tls;
use super::protocol::{self, http_only};
use super::section::Section;
use super::tls;
use super::units;
use super::value::{DAY, MILLI, integer, quoted, with_unit};
use crate::balance::{Algorithm, Tried};
use crate::cluster::{ClusterSettings, Graces, Mode};
use crate::discovery::WatchSettings;
use crate::health::CheckSettings;
use crate::net::tls::server::TlsServer;
use crate::policy::{
    BudgetSettings, Limits, OutlierSettings, Protocol, ProxyProtocol, RetrySettings, Timeouts,
};
use crate::upstream::{ConnectionSettings, HttpVersion};
use std::time::Duration;

/// What a service's table and `[defaults]` have in common.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) balance: Algorithm,
    pub(super) check: Option<CheckSettings>,
    pub(super) retry: RetrySettings,
    pub(super) budget: BudgetSettings,
    pub(super) timeouts: Timeouts,
    pub(super) connections: ConnectionSettings,
    pub(super) limits: Limits,
    pub(super) outlier: OutlierSettings,
    pub(super) panic: f64,
    pub(super) watch: WatchSettings,
    pub(super) mode: Mode,
    pub(super) graces: Graces,
    pub(super) listen_tls: Option<TlsServer>,
    pub(super) protocol: Protocol,
    pub(super) proxy_protocol: ProxyProtocol,
}

/// Tables and keys of a service that are planned.
const LATER: [&str; 3] = ["hedge", "slow_start", "zone"];

/// Why a planned table or key is refused.
pub(super) const NOT_YET: &str = "not available in this version";

impl Rules {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
        section.refuse(&LATER, NOT_YET);
        let later = ["peak_ewma", "ring_hash", "maglev"];
        let balance = section.choice("balance", &algorithms, &later, Algorithm::default());
        let modes = Mode::ALL.map(|mode| (mode.as_str(), mode));
        let mode = section.choice("mode", &modes, &[], Mode::default());
        let graces = graces(section);
        let (protocol, proxy_protocol) = protocol::read(section);
        http_only(section, protocol, &["http"], "bytes pass as they are");
        let versions = HttpVersion::ALL.map(|version| (version.as_str(), version));
        let http = section.choice("http", &versions, &[], HttpVersion::default());
        let tls = tls::of_service(section, http, protocol);
        let (retry, budget) = retry(section.section("retry"), protocol);
        let (timeouts, connections) = timeouts(section.section("timeouts"), protocol);
        let check = check::read(section.section("health"), tls.as_ref(), http);
        Self {
            balance,
            check,
            retry,
            budget,
            timeouts,
            connections: ConnectionSettings { http, tls, ..connections },
            limits: limits(section.section("limits")),
            outlier: outlier(section.section("outlier")),
            panic: section.share("panic", ClusterSettings::PANIC),
            watch: watch(section.section("watch")),
            mode,
            graces,
            listen_tls: listen_tls::read(section),
            protocol,
            proxy_protocol,
        }
    }
}

fn graces(section: &Section<'_>) -> Graces {
    let mass_removal = Graces::default().mass_removal;
    Graces {
        empty: empty_grace(section),
        mass_removal: section.duration("mass_removal_grace", Duration::ZERO..=DAY, mass_removal),
    }
}

/// `"forever"` is `None`.
fn empty_grace(section: &Section<'_>) -> Option<Duration> {
    let read = section.read("empty_grace", |scalar| match scalar {
        Scalar::Text(text) if text == "forever" => Ok(None),
        scalar => with_unit(scalar, |text| match units::duration(text)? {
            grace if grace <= DAY => Ok(Some(grace)),
            _ => Err(format!("{text:?} is out of range: \"0s\" to \"1day\" is accepted")),
        })
        .map_err(|error| format!("{error}, or \"forever\"")),
    });
    let grace = read.unwrap_or(Graces::default().empty);
    let shown = grace.map_or_else(|| "forever".to_owned(), units::show_duration);
    section.note("empty_grace", quoted(&shown), section.origin_of("empty_grace"));
    grace
}

fn retry(section: Section<'_>, protocol: Protocol) -> (RetrySettings, BudgetSettings) {
    let (retry, budget) = (RetrySettings::default(), BudgetSettings::default());
    let most = Tried::MOST as u32;
    let retry = RetrySettings {
        attempts: section.integer("attempts", 1..=most, retry.attempts),
        statuses: section
            .list("statuses", retry.statuses, u16::to_string, |scalar| integer(scalar, &(400..=599))),
        unsafe_methods: section.flag("unsafe_methods", retry.unsafe_methods),
        backoff_base: section.duration("backoff_base", Duration::ZERO..=DAY, retry.backoff_base),
        backoff_cap: section.duration("backoff_cap", Duration::ZERO..=DAY, retry.backoff_cap),
        retry_after_max: section.duration("retry_after_max", Duration::ZERO..=DAY, retry.retry_after_max),
        body_limit: section.bytes("body_limit", 0..=64 << 20, retry.body_limit),
    };
    let budget = BudgetSettings {
        ratio: section.share("budget_ratio", budget.ratio),
        floor: section.integer("budget_floor", 0..=1_000_000, budget.floor),
    };
    not_above(&section, "backoff_base", retry.backoff_base, "backoff_cap", retry.backoff_cap);
    let why = "a connection is tried again only until it has come about";
    http_only(&section, protocol, &["statuses", "unsafe_methods", "retry_after_max", "body_limit"], why);
    section.finish();
    (retry, budget)
}

/// One table for users; two parts that keep to it.
fn timeouts(section: Section<'_>, protocol: Protocol) -> (Timeouts, ConnectionSettings) {
    let default = (Timeouts::default(), ConnectionSettings::default());
    let connect = section.duration("connect", MILLI..=DAY, default.1.connect);
    let timeouts = Timeouts {
        first_list: section.duration("first_list", Duration::ZERO..=DAY, default.0.first_list),
        request: section.duration("request", MILLI..=DAY, default.0.request),
        idle: section.duration("idle", MILLI..=DAY, default.0.idle),
        upgraded_idle: section.duration("upgraded_idle", MILLI..=DAY, default.0.upgraded_idle),
    };
    let connections = ConnectionSettings {
        connect,
        keep_alive: section.duration("keep_alive", Duration::ZERO..=DAY, default.1.keep_alive),
        keep_alive_connections: section.integer(
            "keep_alive_connections",
            0..=65_535,
            default.1.keep_alive_connections,
        ),
        drain: section.duration("drain", Duration::ZERO..=DAY, default.1.drain),
        ..default.1
    };
    not_above(&section, "connect", connect, "request", timeouts.request);
    http_only(&section, protocol, &["idle"], "a connection without a byte ends after upgraded_idle");
    let why = "each client has its own connection to an instance";
    http_only(&section, protocol, &["keep_alive", "keep_alive_connections"], why);
    section.finish();
    (timeouts, connections)
}

fn limits(section: Section<'_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        in_flight_per_target: section.integer(
            "in_flight_per_target",
            1..=1_000_000,
            default.in_flight_per_target,
        ),
        waiting: section.integer("waiting", 0..=1_000_000, default.waiting),
        wait: section.duration("wait", Duration::ZERO..=DAY, default.wait),
    };
    section.finish();
    limits
}

fn outlier(section: Section<'_>) -> OutlierSettings {
    let default = OutlierSettings::default();
    let outlier = OutlierSettings {
        enabled: section.flag("enabled", default.enabled),
        consecutive: section.integer("consecutive", 1..=1_000_000, default.consecutive),
        success_rate: section.share("success_rate", default.success_rate),
        minimum_requests: section.integer("minimum_requests", 1..=1_000_000, default.minimum_requests),
        ejection: section.duration("ejection", MILLI..=DAY, default.ejection),
        ejection_cap: section.duration("ejection_cap", MILLI..=DAY, default.ejection_cap),
        max_ejected: section.share("max_ejected", default.max_ejected),
        forgiven_after: section.duration("forgiven_after", Duration::ZERO..=DAY, default.forgiven_after),
    };
    not_above(&section, "ejection", outlier.ejection, "ejection_cap", outlier.ejection_cap);
    section.finish();
    outlier
}

fn watch(section: Section<'_>) -> WatchSettings {
    let default = WatchSettings::default();
    let watch = WatchSettings {
        backoff_base: section.duration("backoff_base", MILLI..=DAY, default.backoff_base),
        backoff_cap: section.duration("backoff_cap", MILLI..=DAY, default.backoff_cap),
        refused_retry: section.duration("refused_retry", MILLI..=DAY, default.refused_retry),
    };
    not_above(&section, "backoff_base", watch.backoff_base, "backoff_cap", watch.backoff_cap);
    section.finish();
    watch
}

/// `low` must not be more than `high`.
pub(super) fn not_above(
    section: &Section<'_>,
    low: &'static str,
    a: Duration,
    high: &'static str,
    b: Duration,
) {
    if a > b {
        let (a, b) = (units::show_duration(a), units::show_duration(b));
        section.conflict(
            &[low, high],
            format!("{low} ({a}) is longer than {high} ({b}): at most as long is accepted"),
        );
    }
}
