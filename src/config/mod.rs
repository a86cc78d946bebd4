//! The configuration: a TOML file, or pairs of addresses and source URLs, turned into checked settings of every part.
//!
//! Nobody else knows TOML. A file is walked by sections, which take typed keys and collect every problem
//! with its place; so one look at the file tells all that is wrong with it.

mod check;
mod dns;
mod document;
mod env;
mod listen;
mod listen_tls;
mod listener;
mod pairs;
mod problem;
mod protocol;
mod register;
mod registries;
mod route;
mod section;
mod service;
mod settings;
mod shown;
mod snapshot;
mod source_url;
mod tls;
mod traffic;
mod units;
mod value;

pub use env::Environment;
pub use pairs::{from_pairs, source};
pub use problem::{Origin, Problem, Problems, Resolved};
pub use settings::{
    AdminSettings, ListenerSettings, LogSettings, NamedSource, Place, ServiceSettings, Settings,
    ShutdownSettings, SnapshotSettings,
};
pub use source_url::Source;

use crate::policy::ClientLimits;
use crate::telemetry::logging::{self, Format};
use document::Document;
use listen::Taken;
use registries::Registries;
use section::Section;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use value::{DAY, MILLI, quoted};

/// The commented file with every key, as `outrigger defaults` prints it.
pub const DEFAULTS: &str = include_str!("../../config/outrigger.toml");

/// A configuration without problems.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub settings: Settings,
    /// Every effective value and where it came from, in reading order; secrets are `***`.
    pub values: Vec<Resolved>,
}

/// Reads and checks the file at `path`. Files that it names are opened, nothing else is touched.
///
/// # Errors
/// All that is wrong with it.
pub fn load(path: &Path, env: &Environment) -> Result<Loaded, Problems> {
    let whole = |message: String| {
        let origin = Origin::File(path.display().to_string().into());
        Problems(vec![Problem { origin, path: String::new(), message }])
    };
    let bytes = std::fs::read(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count()
                + 1;
        whole(format!("is no text in UTF-8, from line {line} on"))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(read(&path.display().to_string(), folder, &text, env)?.0)
}

/// Reads and checks a text as if it stood in `file` inside `folder`; also tells which keys there are.
fn read(
    file: &str,
    folder: &Path,
    text: &str,
    env: &Environment,
) -> Result<(Loaded, BTreeSet<String>), Problems> {
    let doc = Document::new(file, folder, text, env);
    let tree = doc.parse();
    if doc.has_problems() {
        // What is left of a broken file would only bring problems of its own.
        doc.finish()?;
        return Err(Problems(Vec::new()));
    }
    let settings = settings(Section::root(&doc, tree.get_ref()));
    let (values, known) = doc.finish()?;
    Ok((Loaded { settings, values }, known))
}

fn settings(root: Section<'_>) -> Settings {
    let (mut settings, registries, mut taken) = without_services(&root, None);
    settings.listeners = listener::read_all(&root, &mut taken);
    settings.services = service::read_all(&root, &registries, &settings.listeners, &mut taken);
    settings.registrations = register::read_all(&root, &registries);
    root.refuse(&["access_log"], traffic::NOT_YET);
    root.finish();
    settings
}

/// What all services have in common; `given` stands for the table `[admin]`.
fn without_services(root: &Section<'_>, given: Option<AdminSettings>) -> (Settings, Registries, Taken) {
    let mut taken = Taken::default();
    let settings = Settings {
        admin: admin(root.section("admin"), given, &mut taken),
        log: log(root.section("log")),
        workers: workers(root),
        client: client(root.section("limits")),
        shutdown: shutdown(root.section("shutdown")),
        snapshot: snapshot::read(root.section("snapshot")),
        services: Vec::new(),
        listeners: Vec::new(),
        registrations: Vec::new(),
    };
    (settings, Registries::read(root), taken)
}

fn workers(root: &Section<'_>) -> Option<usize> {
    let workers = root.integer_or_none("workers", &(1..=1024));
    if workers.is_none() {
        root.note("workers", crate::rt::cores().to_string(), Origin::Default);
    }
    workers
}

fn admin(section: Section<'_>, given: Option<AdminSettings>, taken: &mut Taken) -> AdminSettings {
    let read = section.read("listen", |scalar| {
        admin_address(scalar.text("an address such as \"127.0.0.1:9901\", or \"off\",")?)
    });
    let (admin, path, origin) = match (given, read) {
        (Some(given), _) => (given, ADMIN.to_owned(), Origin::Argument(ADMIN)),
        (None, Some(listen)) => {
            (AdminSettings { listen }, section.path_of("listen"), section.origin_of("listen"))
        }
        (None, None) => (AdminSettings::default(), section.path_of("listen"), section.origin_of("listen")),
    };
    if let Some(addr) = admin.listen {
        // The first to take one: never refused.
        let _ = taken.take(addr, &path, &origin);
    }
    let shown = admin.listen.map_or_else(|| "off".to_owned(), |addr: SocketAddr| addr.to_string());
    section.note("listen", quoted(&shown), origin);
    section.finish();
    admin
}

/// The option that says it without a file.
const ADMIN: &str = "--admin";

fn admin_address(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "off" => Ok(None),
        text => listen::address(text).map(Some).map_err(|error| format!("{error}; \"off\" turns it off")),
    }
}

fn log(section: Section<'_>) -> LogSettings {
    let default = LogSettings::default();
    let level = section.text("level", "a level such as \"info\"", |text| match logging::filter(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(accepted) => {
            let hint = problem::suggestion(text, logging::LEVELS);
            Err(format!("{text:?} is no level;{hint} {accepted}"))
        }
    });
    let level = level.unwrap_or_else(|| {
        section.note("level", quoted(&default.level), Origin::Default);
        default.level
    });
    let format =
        section.choice("format", &[("text", Format::Text), ("json", Format::Json)], &[], default.format);
    section.finish();
    LogSettings { level, format }
}

fn client(section: Section<'_>) -> ClientLimits {
    let default = ClientLimits::default();
    let limits = ClientLimits {
        connections: section.integer("connections", 1..=10_000_000, default.connections),
        head_bytes: section.bytes("head_bytes", 8 << 10..=16 << 20, default.head_bytes),
        headers: section.integer("headers", 8..=4096, default.headers),
        head_timeout: section.duration("head_timeout", MILLI..=DAY, default.head_timeout),
        keep_alive: section.duration("keep_alive", MILLI..=DAY, default.keep_alive),
        streams: section.integer("streams", 1..=65_535, default.streams),
        replay_bytes: section.bytes("replay_bytes", 0..=1 << 31, default.replay_bytes),
    };
    section.finish();
    limits
}

fn shutdown(section: Section<'_>) -> ShutdownSettings {
    let default = ShutdownSettings::default();
    let time = |key, default| section.duration(key, Duration::ZERO..=DAY, default);
    let settings = ShutdownSettings {
        withdraw: time("withdraw", default.withdraw),
        delay: time("delay", default.delay),
        grace: time("grace", default.grace),
        drain: time("drain", default.drain),
    };
    section.finish();
    settings
}

#[cfg(test)]
mod tests;
