//! What it means that an endpoint is missing, or that its registry has lost it: the disappearance table, as pure functions.

use crate::discovery::Trust;
use std::time::Duration;
use tokio::time::Instant;

/// How long losses are not obeyed that may not be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graces {
    /// For a doubtful answer that is empty or has lost more than half; `None` = for ever.
    pub empty: Option<Duration>,
    /// For three or more, and more than half, that went together without anybody's intent; zero obeys at once.
    pub mass_removal: Duration,
}

impl Default for Graces {
    fn default() -> Self {
        Self { empty: Some(Duration::from_secs(30)), mass_removal: Duration::from_secs(30) }
    }
}

/// What our own checks and recent traffic say of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    Works,
    Fails,
    Unknown,
}

/// An endpoint that is kept although its source no longer says that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub since: Instant,
    loss: Loss,
    /// For people.
    pub why: &'static str,
}

/// The kind of loss it was part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// A few, in a doubtful answer: a second one decides.
    Few,
    /// Most or all, in a doubtful answer.
    Most,
    /// Most, together, and nobody meant it.
    Unmeant,
}

/// How many are missing from an answer, of how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub gone: usize,
    pub known: usize,
}

impl Share {
    /// More than half, or all.
    pub(super) fn is_most(self) -> bool {
        self.gone * 2 > self.known
    }

    /// So many that chance is no explanation: three or more, and more than half.
    pub(super) fn is_mass(self) -> bool {
        self.gone >= 3 && self.is_most()
    }
}

/// One missing endpoint, and the answer it is missing from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing {
    pub trust: Trust,
    /// The answer before this one listed it.
    pub was_listed: bool,
    /// It is known from disk only: no answer of this process' time ever listed it.
    pub from_disk: bool,
    /// The answer lists nobody.
    pub empty: bool,
    pub share: Share,
    pub evidence: Evidence,
    pub suspicion: Option<Suspicion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Suspect(Suspicion),
}

/// A second doubtful answer that comes sooner is the first one over again.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Decides on an endpoint that an answer does not list.
///
/// A trusted answer speaks with authority about what changed since the answer before it, and about nothing earlier:
/// a registry that lost its memory and then goes on counting has not removed anything.
pub(super) fn missing(missing: &Missing, graces: &Graces, now: Instant) -> Verdict {
    let suspect = |loss, why| Verdict::Suspect(Suspicion { since: now, loss, why });
    let mass = missing.empty || missing.share.is_most();
    let (why, unmeant) = match missing.trust {
        Trust::Trusted if missing.was_listed => return Verdict::Drop,
        // What was remembered helps over the time without an answer, and that is over.
        Trust::Trusted if missing.from_disk && !missing.empty && missing.suspicion.is_none() => {
            return Verdict::Drop;
        }
        Trust::Trusted => ("not in the list", false),
        Trust::Unmeant(why) => (why, missing.was_listed),
        Trust::Doubtful(why) => (why, false),
    };
    match missing.suspicion {
        None if unmeant => {
            let works = missing.evidence == Evidence::Works;
            if works && missing.share.is_mass() && !graces.mass_removal.is_zero() {
                suspect(Loss::Unmeant, why)
            } else {
                Verdict::Drop
            }
        }
        None if mass && missing.evidence == Evidence::Fails => Verdict::Drop,
        None => suspect(if mass { Loss::Most } else { Loss::Few }, why),
        Some(few @ Suspicion { loss: Loss::Few, since, .. }) => {
            let agrees =
                missing.trust == Trust::Trusted || now.saturating_duration_since(since) >= SECOND_LOOK;
            match missing.trust {
                // Now most are gone: that is another loss than the one that was to be confirmed.
                Trust::Doubtful(_) if mass && missing.evidence != Evidence::Fails => {
                    Verdict::Suspect(Suspicion { loss: Loss::Most, ..few })
                }
                _ if agrees => Verdict::Drop,
                _ => Verdict::Suspect(few),
            }
        }
        Some(suspicion) if missing.evidence == Evidence::Fails || expired(&suspicion, graces, now) => {
            Verdict::Drop
        }
        Some(suspicion) => Verdict::Suspect(suspicion),
    }
}

/// One endpoint that is listed, but of whose node the registry's failure detector has lost sight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// When it was lost.
    pub since: Instant,
    /// It was kept before, until its grace had run out.
    pub given_up: bool,
    /// How many are lost now, of all that are listed.
    pub share: Share,
    pub evidence: Evidence,
    pub suspicion: Option<Suspicion>,
}

/// Losses that come within this time count as one: a failure detector finds one node after another (Consul's gossip took 4
/// to 8 s for three of four, and longer on a busy machine).
const TOGETHER: Duration = Duration::from_secs(60);

/// Decides whether an endpoint that was lost is kept: as long as it works, and most are lost with it.
pub(super) fn lost(lost: &Lost, graces: &Graces, now: Instant) -> Option<Suspicion> {
    let obeys = graces.mass_removal.is_zero() || lost.given_up;
    if obeys || !lost.share.is_mass() || lost.evidence == Evidence::Fails {
        return None;
    }
    match lost.suspicion {
        Some(suspicion) => (!expired(&suspicion, graces, now)).then_some(suspicion),
        None => {
            let fresh = now.saturating_duration_since(lost.since) < TOGETHER;
            let why = "most nodes were lost together";
            let keep = fresh && lost.evidence == Evidence::Works;
            keep.then_some(Suspicion { since: now, loss: Loss::Unmeant, why })
        }
    }
}

/// Whether a suspect's grace has run out.
pub(super) fn expired(suspicion: &Suspicion, graces: &Graces, now: Instant) -> bool {
    let grace = match suspicion.loss {
        Loss::Few | Loss::Most => graces.empty,
        Loss::Unmeant => Some(graces.mass_removal),
    };
    grace.is_some_and(|grace| now.saturating_duration_since(suspicion.since) >= grace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Evidence::{Fails, Unknown, Works};
    use Loss::{Few, Most, Unmeant};
    use Verdict::Drop;

    const WHY: &str = "first answer after an error";
    const DOUBT: Trust = Trust::Doubtful(WHY);
    const SURE: Trust = Trust::Trusted;
    const LEASES: &str = "many leases ran out";
    const EXPIRED: Trust = Trust::Unmeant(LEASES);
    const SECOND: Duration = Duration::from_secs(1);

    /// `(gone, known)`, and what is known of the one in question.
    struct Row {
        what: &'static str,
        trust: Trust,
        was_listed: bool,
        gone: (usize, usize),
        evidence: Evidence,
        /// Suspect since second 0.
        suspect: Option<Loss>,
        second: u32,
        expected: Option<(u32, Loss)>,
    }

    fn row(
        what: &'static str,
        trust: Trust,
        was_listed: bool,
        gone: (usize, usize),
        evidence: Evidence,
    ) -> Row {
        Row { what, trust, was_listed, gone, evidence, suspect: None, second: 5, expected: None }
    }

    impl Row {
        fn suspect(self, loss: Loss, second: u32) -> Self {
            Self { suspect: Some(loss), second, ..self }
        }

        fn held(self, since: u32, loss: Loss) -> Self {
            Self { expected: Some((since, loss)), ..self }
        }
    }

    #[test]
    fn the_disappearance_table() {
        let start = Instant::now();
        let graces = Graces::default();
        let rows = [
            row("trusted: gone at once", SURE, true, (1, 9), Works),
            row("trusted: even all of them, even if they work", SURE, true, (9, 9), Works),
            row("trusted, lost in doubt before: still held", SURE, false, (9, 9), Unknown)
                .suspect(Most, 5)
                .held(0, Most),
            row("trusted, a few lost in doubt before: confirmed", SURE, false, (1, 9), Works).suspect(Few, 5),
            row("unmeant, most, and they work: held", EXPIRED, true, (5, 9), Works).held(5, Unmeant),
            row("unmeant, most, and they fail", EXPIRED, true, (5, 9), Fails),
            row("unmeant, most, and nothing is known", EXPIRED, true, (5, 9), Unknown),
            row("unmeant, but not most", EXPIRED, true, (4, 9), Works),
            row("unmeant, all, but only two", EXPIRED, true, (2, 2), Works),
            row("unmeant before, and still gone: held", SURE, false, (5, 9), Unknown)
                .suspect(Unmeant, 29)
                .held(0, Unmeant),
            row("unmeant before: obeyed in the end", SURE, false, (5, 9), Works).suspect(Unmeant, 30),
            row("unmeant before, fails now", SURE, false, (5, 9), Fails).suspect(Unmeant, 5),
            row("doubtful: the first answer is not enough", DOUBT, true, (1, 9), Fails).held(5, Few),
            row("doubtful: a second answer agrees", DOUBT, false, (1, 9), Works).suspect(Few, 6),
            row("doubtful: that is the same answer still", DOUBT, false, (1, 9), Works)
                .suspect(Few, 0)
                .held(0, Few),
            row("a few, and then most: that is another loss", DOUBT, false, (9, 9), Works)
                .suspect(Few, 6)
                .held(0, Most),
            row("doubtful, most, and they work: held", DOUBT, true, (5, 9), Works).held(5, Most),
            row("doubtful, most, nothing is known: held", DOUBT, true, (5, 9), Unknown).held(5, Most),
            row("doubtful, most, and they fail", DOUBT, true, (5, 9), Fails),
            row("doubtful, most: still held", DOUBT, false, (5, 9), Unknown).suspect(Most, 29).held(0, Most),
            row("doubtful, most: obeyed in the end", DOUBT, false, (5, 9), Works).suspect(Most, 30),
            row("a suspect that fails", DOUBT, false, (5, 9), Fails).suspect(Most, 5),
        ];
        for row in rows {
            let since = |second| start + SECOND * second;
            let why = if row.trust == SURE { "not in the list" } else { WHY };
            let suspicion = row.suspect.map(|loss| Suspicion { since: start, loss, why });
            let case = Missing {
                trust: row.trust,
                was_listed: row.was_listed,
                from_disk: false,
                empty: row.gone.0 == row.gone.1,
                share: Share { gone: row.gone.0, known: row.gone.1 },
                evidence: row.evidence,
                suspicion,
            };
            let expected = row.expected.map_or(Drop, |(second, loss)| {
                let why = if row.trust == EXPIRED { LEASES } else { why };
                Verdict::Suspect(Suspicion { since: since(second), loss, why })
            });
            assert_eq!(missing(&case, &graces, since(row.second)), expected, "{}", row.what);
        }
    }

    #[test]
    fn what_was_remembered_gives_way_to_a_list_but_not_to_an_empty_one() {
        let now = Instant::now();
        let remembered = |trust, empty, suspicion| {
            let share = Share { gone: 3, known: 3 };
            let case = Missing {
                trust,
                was_listed: false,
                from_disk: true,
                empty,
                share,
                evidence: Unknown,
                suspicion,
            };
            missing(&case, &Graces::default(), now)
        };
        assert_eq!(remembered(SURE, false, None), Drop);
        assert!(matches!(remembered(SURE, true, None), Verdict::Suspect(_)));
        assert!(matches!(remembered(DOUBT, false, None), Verdict::Suspect(_)));
        let doubted = Some(Suspicion { since: now, loss: Most, why: WHY });
        assert!(
            matches!(remembered(SURE, false, doubted), Verdict::Suspect(_)),
            "the first to register again after a loss of memory does not stand for all"
        );
    }

    #[test]
    fn lost_nodes_are_kept_only_together_and_while_they_work() {
        let start = Instant::now();
        let suspicion = Some(Suspicion { since: start, loss: Unmeant, why: "" });
        let graces = Graces::default();
        let keeps = |gone, known, evidence, suspicion, second: u32| {
            let share = Share { gone, known };
            let case = Lost { since: start, given_up: false, share, evidence, suspicion };
            lost(&case, &graces, start + SECOND * second).is_some()
        };
        assert!(keeps(3, 5, Works, None, 0));
        assert!(!keeps(2, 5, Works, None, 0), "a node alone is out at once");
        assert!(!keeps(3, 6, Works, None, 0), "and so is half of them");
        assert!(!keeps(2, 2, Works, None, 0), "two are no mass");
        assert!(!keeps(3, 5, Unknown, None, 0) && !keeps(3, 5, Fails, None, 0));
        assert!(keeps(3, 5, Works, None, 59), "the first to be lost is taken in again ...");
        assert!(!keeps(3, 5, Works, None, 60), "... if that was not long ago");
        assert!(keeps(3, 5, Unknown, suspicion, 29) && !keeps(3, 5, Works, suspicion, 30));
        assert!(!keeps(3, 5, Fails, suspicion, 1));
        assert!(!keeps(2, 5, Works, suspicion, 1), "the others are back: what is left is a node alone");
    }

    #[test]
    fn graces_may_be_endless_or_none() {
        let start = Instant::now();
        let suspicion = |loss| Suspicion { since: start, loss, why: "" };
        let endless = Graces { empty: None, ..Graces::default() };
        assert!(!expired(&suspicion(Most), &endless, start + SECOND * 1_000_000));
        let none = Graces { empty: Some(Duration::ZERO), mass_removal: Duration::ZERO };
        assert!(expired(&suspicion(Most), &none, start) && expired(&suspicion(Unmeant), &none, start));
        let share = Share { gone: 3, known: 3 };
        let case = Lost { since: start, given_up: false, share, evidence: Works, suspicion: None };
        assert_eq!(lost(&case, &none, start), None);
        assert!(lost(&case, &endless, start).is_some());
        assert_eq!(lost(&Lost { given_up: true, ..case }, &endless, start), None, "once is enough");
    }
}
