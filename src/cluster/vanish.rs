//! What it means that an endpoint is missing from an answer: the disappearance table, as pure functions.

use crate::discovery::Trust;
use std::time::Duration;
use tokio::time::Instant;

/// How long doubtful losses are not obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graces {
    /// For a doubtful answer that is empty or has lost more than half; `None` = for ever.
    pub empty: Option<Duration>,
}

impl Default for Graces {
    fn default() -> Self {
        Self { empty: Some(Duration::from_secs(30)) }
    }
}

/// An endpoint that is kept although an answer no longer lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    since: Instant,
    /// It went together with most others.
    mass: bool,
}

/// One missing endpoint, and the answer it is missing from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing {
    pub trust: Trust,
    /// The answer before this one listed it.
    pub was_listed: bool,
    /// The answer is empty, or more than half of the known are missing from it.
    pub mass: bool,
    /// Our own check fails it.
    pub failing: bool,
    pub suspicion: Option<Suspicion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Suspect(Suspicion),
}

/// Decides on an endpoint that an answer does not list.
///
/// A trusted answer speaks with authority about what changed since the answer before it, and about nothing earlier:
/// a registry that lost its memory and then goes on counting has not removed anything.
pub(super) fn missing(missing: &Missing, graces: &Graces, now: Instant) -> Verdict {
    match (missing.trust, missing.suspicion) {
        (Trust::Trusted, _) if missing.was_listed => Verdict::Drop,
        (_, Some(Suspicion { mass: false, .. })) => Verdict::Drop,
        (_, Some(suspicion @ Suspicion { mass: true, .. })) => {
            if missing.failing || expired(&suspicion, graces, now) {
                Verdict::Drop
            } else {
                Verdict::Suspect(suspicion)
            }
        }
        (_, None) if missing.mass && missing.failing => Verdict::Drop,
        (_, None) => Verdict::Suspect(Suspicion { since: now, mass: missing.mass }),
    }
}

/// Whether a suspect's grace has run out.
pub(super) fn expired(suspicion: &Suspicion, graces: &Graces, now: Instant) -> bool {
    graces.empty.is_some_and(|grace| now.saturating_duration_since(suspicion.since) >= grace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBT: Trust = Trust::Doubtful("first answer after an error");
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_disappearance_table() {
        let start = Instant::now();
        let later = |seconds| start + SECOND * seconds;
        let graces = Graces::default();
        let suspect = |mass| Some(Suspicion { since: start, mass });
        let held = |since, mass| Verdict::Suspect(Suspicion { since, mass });
        // (trust, listed before, mass, own check fails, suspicion, seconds) -> verdict
        let table = [
            ("trusted: gone at once", (Trust::Trusted, true, false, false, None, 5), Verdict::Drop),
            ("trusted: even all of them", (Trust::Trusted, true, true, false, None, 5), Verdict::Drop),
            (
                "trusted, but lost earlier in doubt: still held",
                (Trust::Trusted, false, true, false, suspect(true), 5),
                held(start, true),
            ),
            (
                "trusted, lost earlier in doubt, a few: confirmed",
                (Trust::Trusted, false, false, false, suspect(false), 5),
                Verdict::Drop,
            ),
            (
                "doubtful: the first answer is not enough",
                (DOUBT, true, false, false, None, 5),
                held(later(5), false),
            ),
            (
                "doubtful: a second answer agrees",
                (DOUBT, false, false, false, suspect(false), 5),
                Verdict::Drop,
            ),
            ("doubtful and most gone: held", (DOUBT, true, true, false, None, 5), held(later(5), true)),
            (
                "doubtful and most gone: still held",
                (DOUBT, false, true, false, suspect(true), 29),
                held(start, true),
            ),
            (
                "doubtful and most gone: obeyed in the end",
                (DOUBT, false, true, false, suspect(true), 30),
                Verdict::Drop,
            ),
            ("doubtful and most gone, and they fail", (DOUBT, true, true, true, None, 5), Verdict::Drop),
            ("a suspect that fails", (DOUBT, false, true, true, suspect(true), 5), Verdict::Drop),
        ];
        for (what, (trust, was_listed, mass, failing, suspicion, seconds), expected) in table {
            let row = Missing { trust, was_listed, mass, failing, suspicion };
            assert_eq!(missing(&row, &graces, later(seconds)), expected, "{what}");
        }
    }

    #[test]
    fn for_ever_is_for_ever() {
        let start = Instant::now();
        let suspicion = Suspicion { since: start, mass: true };
        assert!(!expired(&suspicion, &Graces { empty: None }, start + SECOND * 1_000_000));
        assert!(expired(&suspicion, &Graces { empty: Some(Duration::ZERO) }, start));
    }
}
