//! Where log lines go: stderr, as text or JSON.

use std::fmt;
use std::io::IsTerminal;
use std::time::SystemTime;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// The levels by name, from the quietest on.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A level, or levels by module such as `info,outrigger::health=debug`.
///
/// # Errors
/// What is accepted, without the text itself.
pub fn filter(text: &str) -> Result<Targets, String> {
    // To tracing any word is a filter, the name of a module: a misspelt level would silence everything.
    let known = LEVELS.contains(&text) || text.contains(['=', ',']);
    text.parse().ok().filter(|_| known).ok_or_else(|| {
        format!("accepted: {}, or a filter such as \"info,outrigger::health=debug\"", LEVELS.join(", "))
    })
}

/// Starts logging for the whole process. `OUTRIGGER_LOG`, unless empty, wins over `level`.
///
/// # Errors
/// If one of them is no [`filter`]; the text says what is accepted.
pub fn start(level: &str, format: Format) -> Result<(), String> {
    let variable = std::env::var("OUTRIGGER_LOG").ok().filter(|text| !text.is_empty());
    let (whose, text) =
        variable.as_deref().map_or(("log.level", level), |text| ("environment variable OUTRIGGER_LOG", text));
    let filter = filter(text).map_err(|accepted| format!("{whose}: {text:?} is no level; {accepted}"))?;
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(colours)
        .with_timer(Millis)
        // It would tell of a line that could not be written by writing to the same place, and panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let log = tracing_subscriber::registry().with(filter);
    let _ = match format {
        Format::Text => log.with(lines).try_init(),
        Format::Json => log.with(lines.json().flatten_event(true)).try_init(),
    };
    Ok(())
}

/// RFC 3339 in milliseconds, as the events of the admin address have it.
struct Millis;

impl FormatTime for Millis {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_no_filter() {
        for good in ["info", "off", "info,outrigger::health=debug", "outrigger=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "verbose", "Info!", "a=b=c", "info,x=loud"] {
            assert!(filter(bad).unwrap_err().starts_with("accepted: off, error, warn"), "{bad}");
        }
    }
}
