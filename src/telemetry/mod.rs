//! What the process tells about itself: events, logs, metric cells; and what it never tells: secrets.

mod cells;
mod events;
pub mod logging;
mod secret;

pub use cells::{Counter, Histogram, LocalCounter};
pub use events::{Event, Events, Kind};
pub use secret::Secret;
