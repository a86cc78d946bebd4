//! Where log lines go: stderr, as text or JSON.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Starts logging for the whole process. `OUTRIGGER_LOG` wins over `level` (tracing's filter syntax).
///
/// # Errors
/// If the level is no filter; the text says what is accepted.
pub fn start(level: &str, format: Format) -> Result<(), String> {
    let directives = std::env::var("OUTRIGGER_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::builder()
        .parse(&directives)
        .map_err(|e| format!("log level {directives:?}: {e}; accepted: error, warn, info, debug, trace"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let _ = match format {
        Format::Text => lines.try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}
