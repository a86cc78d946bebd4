//! Whether a failed attempt is tried again, and if not, why.

use rand::{Rng, RngExt};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Attempts in all, 1 to 8; 1 turns retries off.
    pub attempts: u32,
    /// Statuses that are retried when the request is safe to repeat.
    pub statuses: Vec<u16>,
    /// Treat every method as safe to repeat.
    pub unsafe_methods: bool,
    pub backoff_base: Duration,
    pub backoff_cap: Duration,
    /// Longest `Retry-After` that is waited for.
    pub retry_after_max: Duration,
    /// Bytes of one request's body kept for replay.
    pub body_limit: usize,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 3,
            statuses: vec![502, 503, 504],
            unsafe_methods: false,
            backoff_base: Duration::from_millis(25),
            backoff_cap: Duration::from_millis(250),
            retry_after_max: Duration::from_secs(1),
            body_limit: 64 * 1024,
        }
    }
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection.
    Connect,
    /// There was one, but not a byte of the request left.
    Unsent,
    /// The connection broke when the instance may have seen the request.
    Reset,
    /// What came back was no HTTP.
    Protocol,
    /// The try's time ran out when the instance may have seen the request.
    Timeout,
    /// A complete answer with this status, and its Retry-After.
    Status(u16, Option<Duration>),
    /// gRPC's UNAVAILABLE and nothing else: the instance says that it has not done what it was asked, and that somebody
    /// else may (grpc/doc/statuscodes.md).
    Unavailable,
}

/// Why a retry is made; a label of `retries_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    ConnectFailed,
    Unsent,
    Reset,
    Timeout,
    Status,
    /// The instance may have closed a kept-alive connection before it saw the request; the one reason to ask the
    /// same instance again.
    StaleConnection,
}

impl RetryReason {
    pub const ALL: [Self; 6] =
        [Self::ConnectFailed, Self::Unsent, Self::Reset, Self::Timeout, Self::Status, Self::StaleConnection];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::Unsent => "unsent",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::StaleConnection => "stale_connection",
        }
    }
}

/// Why a failed attempt was not tried again although its failure would have allowed it; a label of
/// `retries_denied_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    UnsafeMethod,
    BodyTooLarge,
    Budget,
    Deadline,
    NoOtherTarget,
    /// All configured attempts are made.
    Attempts,
}

impl Denied {
    pub const ALL: [Self; 6] = [
        Self::UnsafeMethod,
        Self::BodyTooLarge,
        Self::Budget,
        Self::Deadline,
        Self::NoOtherTarget,
        Self::Attempts,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnsafeMethod => "unsafe_method",
            Self::BodyTooLarge => "body_too_large",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::NoOtherTarget => "no_other_target",
            Self::Attempts => "attempts",
        }
    }
}

/// All that the decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub failure: Failure,
    /// Attempts made, this one included.
    pub attempts: u32,
    /// The method is idempotent (RFC 9110, section 9.2.2), or the request carries an Idempotency-Key.
    pub idempotent: bool,
    /// The body can be sent again from its beginning.
    pub replayable: bool,
    /// Some eligible target was not tried yet.
    pub other_target: bool,
    /// Time left for the whole request.
    pub left: Duration,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The failure goes to the client; `Some` if a retry would have made sense but for this.
    Return(Option<Denied>),
    Retry {
        after: Duration,
        reason: RetryReason,
    },
}

/// Decides on a failed attempt. `budget` is asked last, and only when nothing else stands against a retry.
///
/// A request that was never sent does not draw on the budget: it reaches one instance in all, so that its retries
/// cannot multiply anybody's load, while one refusing instance of three would use up any sensible budget.
pub fn decide(
    settings: &RetrySettings,
    ask: &Ask,
    budget: impl FnOnce() -> bool,
    rng: &mut impl Rng,
) -> Next {
    let never_sent = matches!(ask.failure, Failure::Connect | Failure::Unsent);
    let (reason, retry_after) = match ask.failure {
        Failure::Connect => (RetryReason::ConnectFailed, None),
        Failure::Unsent => (RetryReason::Unsent, None),
        Failure::Reset => (RetryReason::Reset, None),
        Failure::Timeout => (RetryReason::Timeout, None),
        // An instance that speaks nonsense to this request will do so again.
        Failure::Protocol => return Next::Return(None),
        // 429 and 503 that name a short time ask to be tried again.
        Failure::Status(429, after @ Some(_)) => (RetryReason::Status, after),
        Failure::Status(status, after) if settings.statuses.contains(&status) => (RetryReason::Status, after),
        Failure::Status(..) => return Next::Return(None),
        Failure::Unavailable => (RetryReason::Status, None),
    };
    if settings.attempts <= 1 || retry_after.is_some_and(|after| after > settings.retry_after_max) {
        return Next::Return(None);
    }
    let denied = |why| Next::Return(Some(why));
    if ask.attempts >= settings.attempts {
        return denied(Denied::Attempts);
    }
    let not_done = never_sent || ask.failure == Failure::Unavailable;
    if !not_done && !ask.idempotent && !settings.unsafe_methods {
        return denied(Denied::UnsafeMethod);
    }
    if !ask.replayable {
        return denied(Denied::BodyTooLarge);
    }
    if !ask.other_target {
        return denied(Denied::NoOtherTarget);
    }
    let after = match retry_after {
        // Another instance has nothing to do with this one's refusal.
        None if never_sent => Duration::ZERO,
        None => backoff(settings, ask.attempts, rng),
        Some(after) => after,
    };
    if after >= ask.left {
        return denied(Denied::Deadline);
    }
    if !never_sent && !budget() {
        return denied(Denied::Budget);
    }
    Next::Retry { after, reason }
}

/// Full jitter below `base * 2^(attempts - 1)`, at most the cap.
fn backoff(settings: &RetrySettings, attempts: u32, rng: &mut impl Rng) -> Duration {
    let ceiling = settings.backoff_base.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    ceiling.min(settings.backoff_cap).mul_f64(rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const EASY: Ask = Ask {
        failure: Failure::Connect,
        attempts: 1,
        idempotent: true,
        replayable: true,
        other_target: true,
        left: Duration::from_secs(10),
    };

    fn settled(ask: Ask, budget: bool) -> Next {
        decide(&RetrySettings::default(), &ask, || budget, &mut SmallRng::seed_from_u64(3))
    }

    #[test]
    fn each_obstacle_has_its_name() {
        let post = Ask { failure: Failure::Reset, idempotent: false, ..EASY };
        for (ask, budget, expected) in [
            (post, true, Denied::UnsafeMethod),
            (Ask { replayable: false, ..EASY }, true, Denied::BodyTooLarge),
            (Ask { other_target: false, ..EASY }, true, Denied::NoOtherTarget),
            (Ask { left: Duration::ZERO, ..EASY }, true, Denied::Deadline),
            (Ask { attempts: 3, ..EASY }, true, Denied::Attempts),
            (Ask { failure: Failure::Reset, ..EASY }, false, Denied::Budget),
        ] {
            assert_eq!(settled(ask, budget), Next::Return(Some(expected)), "{ask:?}");
        }
    }

    #[test]
    fn a_request_that_was_never_sent_is_retried_at_once_whatever_its_method() {
        for (failure, reason) in
            [(Failure::Connect, RetryReason::ConnectFailed), (Failure::Unsent, RetryReason::Unsent)]
        {
            let ask = Ask { failure, idempotent: false, ..EASY };
            for budget in [true, false] {
                assert_eq!(settled(ask, budget), Next::Retry { after: Duration::ZERO, reason });
            }
        }
    }

    #[test]
    fn a_call_that_an_instance_was_unavailable_for_is_retried_whatever_its_method_within_the_budget() {
        let ask = Ask { failure: Failure::Unavailable, idempotent: false, ..EASY };
        assert!(matches!(settled(ask, true), Next::Retry { reason: RetryReason::Status, .. }));
        assert_eq!(settled(ask, false), Next::Return(Some(Denied::Budget)));
        assert_eq!(settled(Ask { replayable: false, ..ask }, true), Next::Return(Some(Denied::BodyTooLarge)));
    }

    #[test]
    fn statuses() {
        for status in [200, 301, 404, 429, 500, 501] {
            let ask = Ask { failure: Failure::Status(status, None), ..EASY };
            assert_eq!(settled(ask, true), Next::Return(None), "{status}");
        }
        for status in [502, 503, 504] {
            let ask = Ask { failure: Failure::Status(status, None), ..EASY };
            assert!(
                matches!(settled(ask, true), Next::Retry { reason: RetryReason::Status, .. }),
                "{status}"
            );
        }
        let soon = Some(Duration::from_secs(1));
        for status in [429, 503] {
            let ask = Ask { failure: Failure::Status(status, soon), ..EASY };
            let expected = Next::Retry { after: Duration::from_secs(1), reason: RetryReason::Status };
            assert_eq!(settled(ask, true), expected);
            let ask = Ask { failure: Failure::Status(status, Some(Duration::from_secs(2))), ..EASY };
            assert_eq!(settled(ask, true), Next::Return(None), "too long to wait for");
            let post = Ask { idempotent: false, ..ask };
            assert_eq!(settled(post, true), Next::Return(None), "whatever else stands against it");
        }
    }

    #[test]
    fn attempts_of_one_turns_retries_off_without_counting_denials() {
        let settings = RetrySettings { attempts: 1, ..RetrySettings::default() };
        let next = decide(&settings, &EASY, || true, &mut SmallRng::seed_from_u64(1));
        assert_eq!(next, Next::Return(None));
    }

    fn failures() -> impl Strategy<Value = Failure> {
        prop_oneof![
            Just(Failure::Connect),
            Just(Failure::Unsent),
            Just(Failure::Reset),
            Just(Failure::Protocol),
            Just(Failure::Timeout),
            Just(Failure::Unavailable),
            (100..600_u16, proptest::option::of(0..5_u64))
                .prop_map(|(s, after)| Failure::Status(s, after.map(Duration::from_secs))),
        ]
    }

    proptest! {
        #[test]
        fn invariant_8_nothing_unsafe_is_repeated_once_it_may_have_been_seen(
            failure in failures(),
            attempts in 1..10_u32,
            idempotent: bool,
            replayable: bool,
            other_target: bool,
            left in 0..20_000_u64,
            budget: bool,
            seed: u64,
        ) {
            let ask = Ask { failure, attempts, idempotent, replayable, other_target, left: Duration::from_millis(left) };
            let settings = RetrySettings::default();
            let next = decide(&settings, &ask, || budget, &mut SmallRng::seed_from_u64(seed));
            if let Next::Retry { after, .. } = next {
                let sent = !matches!(failure, Failure::Connect | Failure::Unsent);
                prop_assert!(idempotent || !sent || failure == Failure::Unavailable);
                prop_assert!(replayable && other_target && attempts < settings.attempts);
                prop_assert!(budget || !sent);
                prop_assert!(after < ask.left && after <= Duration::from_secs(1));
                prop_assert!(sent || after.is_zero());
            }
        }
    }
}
