//! `outrigger defaults`: the commented configuration file with every key.

use super::{Outcome, Output};
use crate::config::DEFAULTS;
use clap::Args;

/// Print a configuration file with every key at its default, explained.
#[derive(Debug, Args)]
pub(super) struct Defaults {}

impl Defaults {
    pub(super) fn run(self, output: &mut Output) -> Outcome {
        output.text(DEFAULTS);
        Outcome::Fine
    }
}
