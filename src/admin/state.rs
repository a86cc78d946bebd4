//! One word for how an endpoint stands, and all that is held against it.

use crate::cluster::{Member, Presence};
use crate::model::Flag;

/// How an endpoint stands; the most telling word if several are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Usable,
    /// Its first check is still out.
    Unproven,
    /// Our own check fails it.
    Unhealthy,
    /// Out on the evidence of traffic.
    Ejected,
    /// Gets no new requests; what runs may finish.
    Draining,
    /// Missing from an answer that deserves no trust yet.
    Suspect,
    /// The registry says so.
    Critical,
    /// Another source of its service serves.
    Standby,
}

impl State {
    pub const ALL: [Self; 8] = [
        Self::Usable,
        Self::Unproven,
        Self::Unhealthy,
        Self::Ejected,
        Self::Draining,
        Self::Suspect,
        Self::Critical,
        Self::Standby,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Unproven => "unproven",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Critical => "critical",
            Self::Standby => "standby",
        }
    }

    pub fn of(member: &Member) -> Self {
        let has = |flag| member.target.history.health.has(flag);
        match member.presence {
            Presence::Draining => Self::Draining,
            _ if has(Flag::Retired) => Self::Draining,
            _ if has(Flag::Registry) => Self::Critical,
            Presence::Suspect(_) => Self::Suspect,
            _ if has(Flag::Outlier) => Self::Ejected,
            _ if has(Flag::Check) => Self::Unhealthy,
            _ if has(Flag::Operator) || is_weightless(member) => Self::Draining,
            _ if has(Flag::Unproven) => Self::Unproven,
            Presence::Listed if member.standby => Self::Standby,
            Presence::Listed => Self::Usable,
        }
    }
}

/// Everything that is held against an endpoint: a word each, with what the registry or the check said.
pub(super) fn reasons(member: &Member) -> Vec<String> {
    let health = &member.target.history.health;
    let mut reasons: Vec<_> = health
        .flags()
        .map(|flag| {
            let said = match (flag, &member.target.endpoint.standing) {
                (Flag::Registry, standing) => standing.objection().cloned(),
                (flag, _) => health.note(flag),
            };
            said.map_or_else(|| flag.as_str().to_owned(), |said| format!("{}: {said}", flag.as_str()))
        })
        .collect();
    if let Presence::Suspect(why) = member.presence {
        reasons.push(format!("suspect: kept for now: {why}"));
    }
    if member.is_disputed() {
        reasons.push("disputed: its registry calls it passing".to_owned());
    }
    if member.standby {
        reasons.push("standby: another source serves".to_owned());
    }
    if is_weightless(member) {
        reasons.push("weight 0".to_owned());
    }
    reasons
}

fn is_weightless(member: &Member) -> bool {
    member.target.endpoint.weight.get() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Standing, Target, Weight};
    use std::sync::Arc;
    use tokio::time::Instant;

    fn member(presence: Presence, flags: &[Flag], endpoint: Endpoint) -> Member {
        let target = Target::new(endpoint, Instant::now());
        for flag in flags {
            target.history.health.raise(*flag);
        }
        Member::new(Arc::new(target), presence)
    }

    fn endpoint() -> Endpoint {
        Endpoint::at(([127, 0, 0, 1], 80).into())
    }

    #[test]
    fn the_most_telling_state_wins() {
        use Flag::{Check, Operator, Outlier, Registry, Retired, Unproven};
        use Presence::{Draining, Listed, Suspect};
        let all = [Registry, Check, Unproven, Outlier, Operator];
        let table: [(Presence, &[Flag], State); 13] = [
            (Draining, &all, State::Draining),
            (Draining, &[], State::Draining),
            (Listed, &[Retired, Registry], State::Draining),
            (Suspect("test"), &all, State::Critical),
            (Listed, &[Registry, Outlier], State::Critical),
            (Suspect("test"), &[Outlier, Check, Operator, Unproven], State::Suspect),
            (Suspect("test"), &[], State::Suspect),
            (Listed, &[Outlier, Check, Operator, Unproven], State::Ejected),
            (Listed, &[Check, Operator, Unproven], State::Unhealthy),
            (Listed, &[Operator, Unproven], State::Draining),
            (Listed, &[Operator], State::Draining),
            (Listed, &[Unproven], State::Unproven),
            (Listed, &[], State::Usable),
        ];
        for (presence, flags, expected) in table {
            assert_eq!(State::of(&member(presence, flags, endpoint())), expected, "{presence:?} {flags:?}");
        }
        let weightless = Endpoint { weight: Weight::ZERO, ..endpoint() };
        assert_eq!(State::of(&member(Listed, &[], weightless)), State::Draining);
    }

    #[test]
    fn reasons_say_what_the_registry_and_the_check_said() {
        let standing = Standing::Critical("maintenance: disk swap".into());
        let sick = member(
            Presence::Suspect("test"),
            &[Flag::Registry, Flag::Check],
            Endpoint { standing, ..endpoint() },
        );
        sick.target.history.health.set_note(Flag::Check, Some("GET /health: 500".into()));
        assert_eq!(
            reasons(&sick),
            ["registry: maintenance: disk swap", "check: GET /health: 500", "suspect: kept for now: test"]
        );
        let well = member(Presence::Listed, &[], endpoint());
        well.target.history.health.set_note(Flag::Check, Some("an old story".into()));
        assert!(reasons(&well).is_empty());
        let weightless = member(Presence::Listed, &[], Endpoint { weight: Weight::ZERO, ..endpoint() });
        assert_eq!(reasons(&weightless), ["weight 0"]);
    }
}
