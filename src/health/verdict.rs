//! From single probes to a verdict: rise and fall, as pure state.

/// What is thought of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not asked yet.
    Unproven,
    Healthy,
    Unhealthy,
}

/// The verdict on one target. One probe decides on a new one; from then on only `rise` passes or `fall` failures in a
/// row change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    state: State,
    /// Probes in a row that contradict `state`.
    against: u32,
    rise: u32,
    fall: u32,
}

impl Verdict {
    /// Goes on from `state`. A `rise` or `fall` of 0 counts as 1.
    pub fn new(state: State, rise: u32, fall: u32) -> Self {
        Self { state, against: 0, rise: rise.max(1), fall: fall.max(1) }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Healthy, and the last probe said so too.
    pub fn is_undoubted(&self) -> bool {
        self.state == State::Healthy && self.against == 0
    }

    /// Takes in one probe; `true` if it changed the verdict.
    pub fn take(&mut self, passed: bool) -> bool {
        let (says, needed) = match self.state {
            State::Unproven => (if passed { State::Healthy } else { State::Unhealthy }, 1),
            State::Healthy if !passed => (State::Unhealthy, self.fall),
            State::Unhealthy if passed => (State::Healthy, self.rise),
            State::Healthy | State::Unhealthy => {
                self.against = 0;
                return false;
            }
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        self.state = says;
        self.against = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The states after each probe, as letters: `.` passes, `x` fails.
    fn play(rise: u32, fall: u32, probes: &str) -> String {
        let mut verdict = Verdict::new(State::Unproven, rise, fall);
        let after = probes.chars().map(|probe| {
            verdict.take(probe == '.');
            match verdict.state() {
                State::Unproven => '?',
                State::Healthy => 'H',
                State::Unhealthy => 'U',
            }
        });
        after.collect()
    }

    #[test]
    fn rise_and_fall_count_probes_in_a_row() {
        for (rise, fall, probes, states) in [
            (2, 3, "", ""),
            (2, 3, ".", "H"),
            (2, 3, "x", "U"),
            (2, 3, ".xxx", "HHHU"),
            (2, 3, ".xx.xx.", "HHHHHHH"),
            (2, 3, ".xx.xxx", "HHHHHHU"),
            (2, 3, "x..", "UUH"),
            (2, 3, "x.x.x..", "UUUUUUH"),
            (2, 3, "x..xx.xxx", "UUHHHHHHU"),
            (1, 1, ".x.x", "HUHU"),
            (0, 0, ".x.x", "HUHU"),
            (3, 1, "x...x", "UUUHU"),
        ] {
            assert_eq!(play(rise, fall, probes), states, "rise {rise}, fall {fall}: {probes}");
        }
    }

    #[test]
    fn a_verdict_goes_on_from_what_was_known() {
        let mut verdict = Verdict::new(State::Healthy, 2, 2);
        assert!(verdict.is_undoubted());
        assert!(!verdict.take(false), "one failure is not enough for a target known as healthy");
        assert!(!verdict.is_undoubted());
        assert!(verdict.take(false));
        assert_eq!(verdict.state(), State::Unhealthy);
        assert!(!verdict.is_undoubted());
    }

    proptest! {
        /// The definition, read backwards over the history, agrees with the machine that forgets.
        #[test]
        fn the_verdict_is_what_the_definition_says(
            rise in 1_u32..5, fall in 1_u32..5, probes in proptest::collection::vec(any::<bool>(), 1..60),
        ) {
            let mut verdict = Verdict::new(State::Unproven, rise, fall);
            let mut state = None;
            for n in 0..probes.len() {
                let before = verdict.state();
                let changed = verdict.take(probes[n]);
                prop_assert_eq!(changed, before != verdict.state());
                let last = |wanted: bool, many: u32| {
                    let many = many as usize;
                    n + 1 >= many && probes[n + 1 - many..=n].iter().all(|p| *p == wanted)
                };
                state = match state {
                    None => Some(probes[n]),
                    Some(true) if last(false, fall) => Some(false),
                    Some(false) if last(true, rise) => Some(true),
                    kept => kept,
                };
                let expected = if state == Some(true) { State::Healthy } else { State::Unhealthy };
                prop_assert_eq!(verdict.state(), expected);
            }
        }
    }
}
