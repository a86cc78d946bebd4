//! One bit per judge: whoever may take a target out, and nobody else may take that verdict back.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who raised a hand against a target. Each judge owns exactly one bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Flag {
    /// The registry calls it critical or in maintenance. Set by the keeper.
    Registry = 1,
    /// The active check fails. Set by the checker.
    Check = 1 << 1,
    /// Active checks are configured and the first verdict is still out. Set by the keeper, cleared by the checker.
    Unproven = 1 << 2,
    /// Ejected on the evidence of real traffic.
    Outlier = 1 << 3,
    /// An operator drains it.
    Operator = 1 << 4,
    /// Discovery removed it; what runs may finish. Set by the keeper, for good.
    Retired = 1 << 5,
}

impl Flag {
    pub const ALL: [Self; 6] =
        [Self::Registry, Self::Check, Self::Unproven, Self::Outlier, Self::Operator, Self::Retired];

    /// The word that users see in `reasons`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Check => "check",
            Self::Unproven => "unproven",
            Self::Outlier => "outlier",
            Self::Operator => "operator",
            Self::Retired => "removed",
        }
    }
}

/// The health bits of one instance, shared by every target that ever described it.
#[derive(Debug, Default)]
pub struct Health {
    bits: AtomicU32,
    /// Why the checker last failed it, and why requests took it out, for people; touched by these two judges and by who
    /// shows it.
    notes: Mutex<[Option<Arc<str>>; 2]>,
}

impl Health {
    /// Raises a judge's bit; `true` if this call changed it.
    pub fn raise(&self, flag: Flag) -> bool {
        self.bits.fetch_or(flag as u32, Ordering::AcqRel) & flag as u32 == 0
    }

    /// Clears a judge's bit; `true` if this call changed it.
    pub fn clear(&self, flag: Flag) -> bool {
        self.bits.fetch_and(!(flag as u32), Ordering::AcqRel) & flag as u32 != 0
    }

    /// Raises or clears; `true` if this call changed it.
    pub fn set(&self, flag: Flag, raised: bool) -> bool {
        if raised { self.raise(flag) } else { self.clear(flag) }
    }

    pub fn has(&self, flag: Flag) -> bool {
        self.bits.load(Ordering::Acquire) & flag as u32 != 0
    }

    /// No judge has anything against it.
    pub fn is_clear(&self) -> bool {
        self.bits.load(Ordering::Acquire) == 0
    }

    /// No judge but the named ones has anything against it.
    pub fn is_clear_but_for(&self, flags: &[Flag]) -> bool {
        let named = flags.iter().fold(0, |named, flag| named | *flag as u32);
        self.bits.load(Ordering::Acquire) & !named == 0
    }

    pub fn flags(&self) -> impl Iterator<Item = Flag> {
        let bits = self.bits.load(Ordering::Acquire);
        Flag::ALL.into_iter().filter(move |f| bits & *f as u32 != 0)
    }

    /// What a judge has said of it last.
    pub fn note(&self, judge: Flag) -> Option<Arc<str>> {
        self.notes().get(place(judge)?)?.clone()
    }

    /// Those of other judges than the checker and requests are not kept: they have their say elsewhere.
    pub fn set_note(&self, judge: Flag, note: Option<Arc<str>>) {
        if let Some(place) = place(judge)
            && let Some(kept) = self.notes().get_mut(place)
        {
            *kept = note;
        }
    }

    fn notes(&self) -> MutexGuard<'_, [Option<Arc<str>>; 2]> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a judge's note is kept.
fn place(judge: Flag) -> Option<usize> {
    match judge {
        Flag::Check | Flag::Unproven => Some(0),
        Flag::Outlier => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_5_no_judge_clears_anothers_bit() {
        for raised in Flag::ALL {
            let health = Health::default();
            assert!(health.raise(raised));
            assert!(!health.raise(raised), "the second raise changes nothing");
            for other in Flag::ALL.into_iter().filter(|f| *f != raised) {
                assert!(!health.clear(other));
                assert!(health.has(raised), "{other:?} cleared {raised:?}");
            }
            assert!(!health.is_clear());
            assert!(health.is_clear_but_for(&[raised]));
            assert!(health.clear(raised));
            assert!(health.is_clear());
        }
    }
}
