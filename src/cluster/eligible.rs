//! Which targets may be picked.

use super::{Member, Presence};
use crate::model::{Flag, Target};
use std::sync::Arc;

/// The targets that nobody has anything against. While none is proven yet, the unproven ones serve: a sidecar that
/// starts must not wait for its checks, but a proven instance goes before a new one. Weight 0 gets no new traffic.
pub(super) fn eligible(members: &[Member]) -> Vec<Arc<Target>> {
    let present = || {
        let targets = members.iter().filter(|m| m.presence != Presence::Draining).map(|m| &m.target);
        targets.filter(|target| target.endpoint.weight.get() > 0)
    };
    let clear: Vec<_> = present().filter(|t| t.history.health.is_clear()).cloned().collect();
    if !clear.is_empty() {
        return clear;
    }
    present().filter(|t| t.history.health.is_clear_but_for(Flag::Unproven)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Weight};
    use tokio::time::Instant;

    fn member(port: u16, presence: Presence, flags: &[Flag]) -> Member {
        let target = Target::new(Endpoint::at(([127, 0, 0, 1], port).into()), Instant::now());
        for flag in flags {
            target.history.health.raise(*flag);
        }
        Member { target: Arc::new(target), presence }
    }

    fn ports(members: &[Member]) -> Vec<u16> {
        eligible(members).iter().map(|t| t.endpoint.addr.port()).collect()
    }

    #[test]
    fn any_judges_bit_takes_a_target_out_and_suspects_still_serve() {
        for flag in Flag::ALL {
            let members = [
                member(1, Presence::Listed, &[]),
                member(2, Presence::Listed, &[flag]),
                member(3, Presence::Suspect, &[]),
                member(4, Presence::Draining, &[]),
            ];
            assert_eq!(ports(&members), [1, 3], "{flag:?}");
        }
    }

    #[test]
    fn weight_0_is_not_eligible_and_does_not_keep_the_unproven_out() {
        let weightless = |m: Member| {
            let endpoint = Endpoint { weight: Weight::ZERO, ..m.target.endpoint.clone() };
            Member { target: Arc::new(m.target.redescribed(endpoint)), ..m }
        };
        let proven = weightless(member(1, Presence::Listed, &[]));
        let new = member(2, Presence::Listed, &[Flag::Unproven]);
        assert_eq!(ports(std::slice::from_ref(&proven)), [0_u16; 0]);
        assert_eq!(ports(&[proven, new]), [2]);
    }

    #[test]
    fn the_unproven_serve_only_while_nobody_is_proven() {
        let new = member(1, Presence::Listed, &[Flag::Unproven]);
        let sick = member(2, Presence::Listed, &[Flag::Unproven, Flag::Registry]);
        let proven = member(3, Presence::Listed, &[]);
        assert_eq!(ports(&[new.clone(), sick.clone()]), [1]);
        assert_eq!(ports(&[new, sick, proven]), [3]);
    }
}
