//! Which targets may be picked.

use super::{Member, Mode, Presence};
use crate::cluster::book::Origin;
use crate::model::{Flag, Target};
use crate::policy::Subset;
use std::sync::Arc;

/// Whom requests may be sent to.
#[derive(Debug, Default)]
pub(super) struct Eligible {
    pub targets: Vec<Arc<Target>>,
    /// The source they are of, if there is an order of sources and any is of use.
    pub source: Option<usize>,
    /// Our own verdicts were ignored to find them.
    pub panic: bool,
}

/// The targets that nobody has anything against. While none is proven yet, the unproven ones serve: a sidecar that
/// starts must not wait for its checks, but a proven instance goes before a new one. Weight 0 gets no new traffic.
///
/// In failover the first of the `sources` that has such targets gives them all: before one of which only targets on
/// trial are left, which then come along, and before one in panic.
///
/// Where fewer than the share `panic` of those that it lists as passing are left, checks and ejections are ignored: then
/// it is likelier that they err, or that the few would be crushed, than that nearly all have failed by themselves
/// (Envoy's panic threshold). What the registry or an operator says holds.
pub(super) fn eligible(members: &[Member], mode: Mode, sources: usize, panic: f64) -> Eligible {
    let orders: Vec<_> = match mode {
        Mode::Union => vec![None],
        Mode::Failover => (0..sources).map(Some).collect(),
    };
    let of = |source: Option<usize>, kind: fn(&Member) -> bool| {
        let theirs = members.iter().filter(move |member| source.is_none_or(|source| member.source == source));
        theirs.filter(move |member| is_present(member) && kind(member))
    };
    let targets = |source, kind| -> Vec<_> { of(source, kind).map(|m| Arc::clone(&m.target)).collect() };
    // Whoever is on trial gets a request at a time: no source to rely on, but one whose trials go on.
    let mut on_trial: Vec<Arc<Target>> = Vec::new();
    let mut few = None;
    for source in orders.iter().copied() {
        let mut clear = targets(source, is_clear);
        if clear.iter().all(|target| !target.history.trial.is_free()) {
            on_trial.append(&mut clear);
        } else if is_below(clear.len(), panic, of(source, is_judged).count()) {
            few = few.or(Some(source));
        } else {
            clear.append(&mut on_trial);
            return Eligible { targets: clear, source, panic: false };
        }
    }
    if let Some(source) = few {
        return Eligible { targets: targets(source, is_passing), source, panic: true };
    }
    if !on_trial.is_empty() {
        return Eligible { targets: on_trial, source: orders.first().copied().flatten(), panic: false };
    }
    for (kind, panics) in [(may_serve_unproven as fn(&Member) -> bool, false), (is_passing, true)] {
        for source in orders.iter().copied().filter(|_| !panics || panic > 0.0) {
            let targets = targets(source, kind);
            if !targets.is_empty() {
                return Eligible { targets, source, panic: panics };
            }
        }
    }
    Eligible::default()
}

/// The same among those of a subset, of the source that gives all of them; a subset of which nobody is proven has its
/// unproven ones, whoever else is.
pub(super) fn eligible_part(
    members: &[Member],
    source: Option<usize>,
    subset: &Subset,
    panic: f64,
) -> Vec<Arc<Target>> {
    let ours = members
        .iter()
        .filter(|member| {
            source.is_none_or(|source| member.source == source) || !member.target.history.trial.is_free()
        })
        .filter(|member| subset.has(&member.target.endpoint.meta))
        .cloned()
        .collect::<Vec<_>>();
    eligible(&ours, Mode::Union, 1, panic).targets
}

#[expect(clippy::cast_precision_loss, reason = "counts of targets")]
fn is_below(count: usize, share: f64, all: usize) -> bool {
    (count as f64) < share * all as f64
}

fn is_present(member: &Member) -> bool {
    member.presence != Presence::Draining && member.target.endpoint.weight.get() > 0
}

fn is_clear(member: &Member) -> bool {
    member.target.history.health.is_clear()
}

/// Our own judges have a verdict, if only they have.
fn is_judged(member: &Member) -> bool {
    let health = &member.target.history.health;
    health.is_clear()
        || (member.origin == Origin::Live && health.is_clear_but_for(&[Flag::Check, Flag::Outlier]))
}

/// Nobody but us has anything against it.
fn is_passing(member: &Member) -> bool {
    is_judged(member) || may_serve_unproven(member)
}

/// What is known from disk only waits for its check: it may be long gone.
fn may_serve_unproven(member: &Member) -> bool {
    member.origin == Origin::Live && member.target.history.health.is_clear_but_for(&[Flag::Unproven])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Weight};
    use std::collections::BTreeMap;
    use std::time::SystemTime;
    use tokio::time::Instant;

    const SUSPECT: Presence = Presence::Suspect("test");

    fn member(port: u16, presence: Presence, flags: &[Flag]) -> Member {
        let target = Target::new(Endpoint::at(([127, 0, 0, 1], port).into()), Instant::now());
        for flag in flags {
            target.history.health.raise(*flag);
        }
        Member::new(Arc::new(target), presence)
    }

    fn of(source: usize, member: Member) -> Member {
        Member { source, ..member }
    }

    fn ports(members: &[Member]) -> Vec<u16> {
        let chosen = eligible(members, Mode::Union, 1, 0.0);
        chosen.targets.iter().map(|t| t.endpoint.addr.port()).collect()
    }

    #[test]
    fn any_judges_bit_takes_a_target_out_and_suspects_still_serve() {
        for flag in Flag::ALL {
            let members = [
                member(1, Presence::Listed, &[]),
                member(2, Presence::Listed, &[flag]),
                member(3, SUSPECT, &[]),
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

    #[test]
    fn a_subset_of_which_nobody_is_proven_has_its_unproven_ones() {
        let of_version = |m: Member, version: &str| {
            let meta = BTreeMap::from([("version".to_owned(), version.to_owned())]);
            let endpoint = Endpoint { meta: meta.into(), ..m.target.endpoint.clone() };
            Member { target: Arc::new(m.target.redescribed(endpoint)), ..m }
        };
        let members = [
            of_version(member(1, Presence::Listed, &[]), "1"),
            of_version(member(2, Presence::Listed, &[Flag::Unproven]), "1"),
            of_version(member(3, Presence::Listed, &[Flag::Unproven]), "2"),
            of_version(member(4, Presence::Listed, &[Flag::Check]), "2"),
            of(1, of_version(member(5, Presence::Listed, &[]), "2")),
        ];
        let part = |version: &str, source| {
            let subset = Subset(vec![("version".to_owned(), version.to_owned())]);
            let targets = eligible_part(&members, source, &subset, 0.0);
            targets.iter().map(|t| t.endpoint.addr.port()).collect::<Vec<_>>()
        };
        assert_eq!([part("1", Some(0)), part("2", Some(0)), part("3", Some(0))], [vec![1], vec![3], vec![]]);
        assert_eq!(part("2", None), [5]);
    }

    #[test]
    fn what_is_known_from_disk_serves_unless_its_check_is_still_out() {
        let from_disk = |m: Member| Member { origin: Origin::Snapshot(SystemTime::UNIX_EPOCH), ..m };
        assert_eq!(ports(&[from_disk(member(1, Presence::Listed, &[]))]), [1]);
        assert_eq!(ports(&[from_disk(member(1, Presence::Listed, &[Flag::Unproven]))]), [0_u16; 0]);
    }

    #[test]
    fn in_failover_the_next_source_serves_only_while_the_ones_before_have_nothing_usable() {
        let serving = |members: &[Member]| {
            let chosen = eligible(members, Mode::Failover, 2, 0.0);
            (chosen.source, chosen.targets.iter().map(|t| t.endpoint.addr.port()).collect::<Vec<_>>())
        };
        let second = of(1, member(2, Presence::Listed, &[]));
        let well = [member(1, Presence::Listed, &[]), second.clone()];
        assert_eq!(serving(&well), (Some(0), vec![1]));
        let sick = [member(1, Presence::Listed, &[Flag::Check]), second.clone()];
        assert_eq!(serving(&sick), (Some(1), vec![2]));
        let new = [member(1, Presence::Listed, &[Flag::Unproven]), second];
        assert_eq!(serving(&new), (Some(1), vec![2]), "proven ones of a later source go before");
        let both = [
            member(1, Presence::Listed, &[Flag::Unproven]),
            of(1, member(2, Presence::Listed, &[Flag::Unproven])),
        ];
        assert_eq!(serving(&both), (Some(0), vec![1]));
        assert_eq!(serving(&[]), (None, vec![]));
    }

    #[test]
    fn in_panic_our_own_verdicts_are_ignored_and_nobody_elses() {
        let serving = |members: &[Member], share: f64| {
            let chosen = eligible(members, Mode::Union, 1, share);
            let ports: Vec<_> = chosen.targets.iter().map(|t| t.endpoint.addr.port()).collect();
            (chosen.panic, ports)
        };
        let clear = |port| member(port, Presence::Listed, &[]);
        let out = |port, flag| member(port, Presence::Listed, &[flag]);
        let others = [
            out(5, Flag::Registry),
            out(6, Flag::Operator),
            out(7, Flag::Retired),
            member(8, Presence::Draining, &[Flag::Check]),
        ];
        let with = |some: &[Member]| [some, &others].concat();
        let three = with(&[clear(1), out(2, Flag::Check), out(3, Flag::Outlier)]);
        assert_eq!(serving(&three, 0.3), (false, vec![1]), "one of three is 33 %");
        assert_eq!(serving(&three, 0.5), (true, vec![1, 2, 3]));
        let four = with(&[clear(1), out(2, Flag::Check), out(3, Flag::Outlier), out(4, Flag::Check)]);
        assert_eq!(serving(&four, 0.3), (true, vec![1, 2, 3, 4]));
        assert_eq!(serving(&four, 0.0), (false, vec![1]));
        let none = with(&[out(1, Flag::Check), out(2, Flag::Outlier)]);
        assert_eq!(serving(&none, 0.3), (true, vec![1, 2]));
        assert_eq!(serving(&none, 0.0), (false, vec![]));
        assert_eq!(serving(&others, 0.3), (false, vec![]));
        // New ones whose first check is still out say nothing.
        let new = [clear(1), out(2, Flag::Unproven), out(3, Flag::Unproven), out(4, Flag::Unproven)];
        assert_eq!(serving(&new, 0.3), (false, vec![1]));
    }

    #[test]
    fn in_failover_a_source_with_enough_goes_before_one_in_panic_or_on_trial() {
        let serving = |members: &[Member]| {
            let chosen = eligible(members, Mode::Failover, 2, 0.3);
            let ports: Vec<_> = chosen.targets.iter().map(|t| t.endpoint.addr.port()).collect();
            (chosen.source, chosen.panic, ports)
        };
        let sick = |port| member(port, Presence::Listed, &[Flag::Check]);
        let few = [member(1, Presence::Listed, &[]), sick(2), sick(3), sick(4)];
        let second = of(1, member(5, Presence::Listed, &[]));
        assert_eq!(serving(&few), (Some(0), true, vec![1, 2, 3, 4]));
        assert_eq!(serving(&[&few[..], std::slice::from_ref(&second)].concat()), (Some(1), false, vec![5]));
        let tried = member(1, Presence::Listed, &[]);
        tried.target.history.trial.offer();
        assert_eq!(serving(std::slice::from_ref(&tried)), (Some(0), false, vec![1]));
        assert_eq!(serving(&[tried, second]), (Some(1), false, vec![5, 1]), "or it would be tried never");
    }
}
