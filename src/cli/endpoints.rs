//! `outrigger endpoints`: what a source answers, as Outrigger understands it.

use super::{Outcome, Output, control_runtime};
use crate::app::sources;
use crate::config::{self, Environment, Source};
use crate::discovery::{Answer, Feed, Trust, WatchSettings};
use crate::model::{Endpoint, ServiceName, Standing};
use crate::rt::Tasks;
use crate::telemetry::Events;
use clap::Args;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Show what a source answers now.
#[derive(Debug, Args)]
pub(super) struct Endpoints {
    /// A source URL, such as consul://127.0.0.1:8500/orders or etcd://127.0.0.1:2379/services/orders/.
    url: String,
    /// Go on, and show every new answer, until interrupted.
    #[arg(long)]
    watch: bool,
    /// One JSON object for each answer.
    #[arg(long)]
    json: bool,
}

/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a look is taken at how the source stands.
const LOOK: Duration = Duration::from_millis(100);

impl Endpoints {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        let source = match config::source(&self.url, &Environment::Process) {
            Ok(source) => source,
            Err(problems) => {
                output.error(problems);
                return Outcome::Refused;
            }
        };
        match control_runtime() {
            Ok(runtime) => {
                let outcome = runtime.block_on(self.show(source, output));
                runtime.shutdown_background();
                outcome
            }
            Err(error) => {
                output.error(format_args!("cannot start: {error}"));
                Outcome::Failed
            }
        }
    }

    async fn show(&self, source: Source, output: &mut Output) -> Outcome {
        let tasks = Tasks::new(Events::default());
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        let shown = source.shown.clone();
        let started = service_name(&source).and_then(|name| {
            sources::watch(&tasks, name, source.shown, source.settings, WatchSettings::default(), &mut rng)
        });
        let mut feed = match started {
            Ok(feed) => feed,
            Err(reason) => {
                output.error(format_args!("{shown}: {reason}"));
                return Outcome::Failed;
            }
        };
        let mut answer = match first(&mut feed, &shown).await {
            Ok(answer) => answer,
            Err(reason) => {
                output.error(format_args!("{shown}: {reason}"));
                return Outcome::Failed;
            }
        };
        loop {
            self.print(&answer, output);
            output.flush();
            if !self.watch || output.is_closed() {
                return Outcome::Fine;
            }
            match next(&mut feed, &shown, output).await {
                Some(next) => answer = next,
                None => return Outcome::Fine,
            }
            self.part(output);
        }
    }

    /// Between two answers; JSON has its lines for that.
    fn part(&self, output: &mut Output) {
        if !self.json {
            output.line(format_args!("\n{}", humantime::format_rfc3339_seconds(SystemTime::now())));
        }
    }

    fn print(&self, answer: &Answer, output: &mut Output) {
        if self.json {
            output.line(json(answer));
            return;
        }
        let mut rows = vec![["ADDRESS", "WEIGHT", "STATE", "ZONE", "INSTANCE"].map(str::to_owned)];
        rows.extend(answer.set.iter().map(row));
        let widths = [0, 1, 2, 3].map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        });
        for [address, weight, state, zone, instance] in &rows {
            let [a, w, s, z] = widths;
            output.line(format_args!("{address:a$}  {weight:>w$}  {state:s$}  {zone:z$}  {instance}"));
        }
        for skipped in &answer.skipped {
            output.line(format_args!("skipped {}: {}", skipped.entry, skipped.reason));
        }
        let doubt = match answer.trust {
            Trust::Trusted => String::new(),
            Trust::Unmeant(why) | Trust::Doubtful(why) => format!(", doubtful: {why}"),
        };
        let position = answer.position.map_or_else(String::new, |position| format!(", at {position}"));
        let (listed, skipped) = (answer.set.len(), answer.skipped.len());
        output.line(format_args!("{listed} listed, {skipped} skipped{position}{doubt}"));
        if listed == 0 && skipped == 0 {
            output.line(
                "The source answers, but knows no instance: is the name right, and is anything registered?",
            );
        }
    }
}

/// A name for the log; what the source is called plays no part here.
fn service_name(source: &Source) -> Result<ServiceName, String> {
    source.name.clone().map_or_else(|| ServiceName::new("endpoints").map_err(|error| error.to_string()), Ok)
}

/// The first answer, or why there is none.
async fn first(feed: &mut Feed, shown: &str) -> Result<Arc<Answer>, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let heard = tokio::time::timeout(LOOK, feed.answers.changed()).await;
        if let Ok(Ok(())) = heard
            && let Some(answer) = feed.answers.borrow_and_update().clone()
        {
            return Ok(answer);
        }
        if let Some(error) = feed.status.view(Instant::now()).last_error {
            return Err(error.to_string());
        }
        if Instant::now() >= deadline {
            return Err(format!("no answer within {} s; is {shown} right?", PATIENCE.as_secs()));
        }
    }
}

/// The next answer; tells meanwhile when the source begins to fail and when it answers again.
async fn next(feed: &mut Feed, shown: &str, output: &mut Output) -> Option<Arc<Answer>> {
    let mut failing = false;
    loop {
        let heard = tokio::time::timeout(LOOK, feed.answers.changed()).await;
        let view = feed.status.view(Instant::now());
        if view.failing_for.is_some() != failing {
            failing = !failing;
            match view.last_error.filter(|_| failing) {
                Some(error) => output.error(format_args!("{shown}: {error}; asked again until it answers")),
                None => output.error(format_args!("{shown}: answers again")),
            }
        }
        match heard {
            Ok(Ok(())) => {
                if let Some(answer) = feed.answers.borrow_and_update().clone() {
                    return Some(answer);
                }
            }
            Ok(Err(_)) => return None,
            Err(_) => {}
        }
    }
}

fn row(endpoint: &Endpoint) -> [String; 5] {
    [
        endpoint.addr.to_string(),
        endpoint.weight.get().to_string(),
        match &endpoint.standing {
            Standing::Passing => "passing".to_owned(),
            Standing::Lost(why) => format!("lost ({why})"),
            Standing::Critical(why) => format!("critical ({why})"),
        },
        endpoint.zone.as_ref().map_or("-", |zone| zone.as_str()).to_owned(),
        endpoint.instance.to_string(),
    ]
}

fn json(answer: &Answer) -> serde_json::Value {
    let endpoints: Vec<_> = answer
        .set
        .iter()
        .map(|endpoint| {
            let (state, reason) = match &endpoint.standing {
                Standing::Passing => ("passing", None),
                Standing::Lost(why) => ("lost", Some(&**why)),
                Standing::Critical(why) => ("critical", Some(&**why)),
            };
            serde_json::json!({
                "addr": endpoint.addr.to_string(),
                "instance": endpoint.instance.as_str(),
                "weight": endpoint.weight.get(),
                "zone": endpoint.zone.as_ref().map(|zone| zone.as_str()),
                "meta": *endpoint.meta,
                "state": state,
                "reason": reason,
            })
        })
        .collect();
    let skipped: Vec<_> = answer
        .skipped
        .iter()
        .map(|skipped| serde_json::json!({ "entry": skipped.entry, "reason": skipped.reason }))
        .collect();
    let doubt = match answer.trust {
        Trust::Trusted => None,
        Trust::Unmeant(why) | Trust::Doubtful(why) => Some(why),
    };
    serde_json::json!({ "endpoints": endpoints, "skipped": skipped, "position": answer.position, "doubt": doubt })
}
