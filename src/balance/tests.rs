//! What every algorithm must do, and what each promises of its own.

use super::*;
use crate::model::{Endpoint, Weight};
use proptest::prelude::*;
use rand::SeedableRng;
use std::collections::HashMap;

fn targets(weights: &[u16]) -> Vec<Arc<Target>> {
    let now = Instant::now();
    let target = |(n, weight): (usize, &u16)| {
        let addr = ([10, 0, (n >> 8) as u8, n as u8], 80).into();
        Arc::new(Target::new(Endpoint { weight: Weight::new(*weight), ..Endpoint::at(addr) }, now))
    };
    weights.iter().enumerate().map(target).collect()
}

/// One caller of pickers, with dice that always fall alike.
struct Caller {
    rng: SmallRng,
    tried: Tried,
    now: Instant,
}

impl Caller {
    fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), tried: Tried::default(), now: Instant::now() }
    }

    fn pick(&mut self, picker: &dyn Picker) -> Option<TargetId> {
        let mut ctx = PickCtx { hash: None, tried: &self.tried, rng: &mut self.rng, now: self.now };
        picker.pick(&mut ctx).map(|target| target.id())
    }

    /// The indices among `targets` of so many picks.
    fn picks(&mut self, picker: &dyn Picker, targets: &[Arc<Target>], count: usize) -> Vec<usize> {
        let places: HashMap<_, _> = targets.iter().enumerate().map(|(n, t)| (t.id(), n)).collect();
        (0..count).map(|_| places[&self.pick(picker).unwrap()]).collect()
    }
}

fn tally(picks: &[usize], kinds: usize) -> Vec<usize> {
    let mut counts = vec![0; kinds];
    picks.iter().for_each(|n| counts[*n] += 1);
    counts
}

fn everyone() -> impl Iterator<Item = (Algorithm, Caller)> {
    Algorithm::ALL.into_iter().map(|algorithm| (algorithm, Caller::new(1)))
}

#[test]
fn nobody_is_chosen_from_an_empty_list() {
    for (algorithm, mut caller) in everyone() {
        assert_eq!(caller.pick(&*algorithm.build(vec![], 9)), None, "{algorithm:?}");
    }
}

#[test]
fn the_only_target_is_chosen_until_it_was_tried() {
    for (algorithm, mut caller) in everyone() {
        let only = targets(&[7]);
        let picker = algorithm.build(only.clone(), 9);
        for _ in 0..10 {
            assert_eq!(caller.pick(&*picker), Some(only[0].id()), "{algorithm:?}");
        }
        caller.tried.push(only[0].id());
        assert_eq!(caller.pick(&*picker), None, "{algorithm:?}");
    }
}

#[test]
fn weight_zero_gets_nothing_even_when_nothing_else_is_left() {
    for (algorithm, mut caller) in everyone() {
        let some = targets(&[0, 2, 0, 1, 0]);
        let picker = algorithm.build(some.clone(), 9);
        assert_eq!(tally(&caller.picks(&*picker, &some, 100), 5).iter().filter(|n| **n > 0).count(), 2);
        caller.tried.push(some[1].id());
        caller.tried.push(some[3].id());
        assert_eq!(caller.pick(&*picker), None, "{algorithm:?}");
        assert_eq!(caller.pick(&*algorithm.build(targets(&[0, 0]), 9)), None, "{algorithm:?}");
    }
}

#[test]
fn a_removed_target_is_gone_with_the_next_picker() {
    for (algorithm, mut caller) in everyone() {
        let mut all = targets(&[1, 4, 2]);
        let before = algorithm.build(all.clone(), 9);
        assert!(tally(&caller.picks(&*before, &all, 200), 3).iter().all(|n| *n > 0), "{algorithm:?}");
        let removed = all.remove(1);
        let after = algorithm.build(all.clone(), 9);
        for _ in 0..200 {
            assert_ne!(caller.pick(&*after), Some(removed.id()), "{algorithm:?}");
        }
    }
}

#[test]
fn retries_go_through_all_targets_before_they_give_up() {
    for (algorithm, mut caller) in everyone() {
        // The heavy one would be drawn again and again if `tried` did not forbid it.
        let all = targets(&[1, u16::MAX, 1, 1, 1, 1, 1, 1]);
        let picker = algorithm.build(all, 9);
        for turn in 0..Tried::MOST {
            let id = caller.pick(&*picker).unwrap_or_else(|| panic!("{algorithm:?} gave up at {turn}"));
            assert!(!caller.tried.contains(id), "{algorithm:?}");
            caller.tried.push(id);
        }
        assert_eq!(caller.pick(&*picker), None, "{algorithm:?}");
    }
}

#[test]
fn a_full_memory_still_keeps_the_last_ones_out() {
    for (algorithm, mut caller) in everyone() {
        let all = targets(&[1; 12]);
        let picker = algorithm.build(all.clone(), 9);
        for target in &all {
            caller.tried.push(target.id());
        }
        for _ in 0..100 {
            let id = caller.pick(&*picker).unwrap();
            assert!(all[..4].iter().any(|t| t.id() == id), "{algorithm:?} chose one of the last eight");
        }
    }
}

#[test]
fn retries_of_a_heavy_target_do_not_all_go_to_its_neighbour() {
    for (algorithm, mut caller) in everyone() {
        let all = targets(&[1, 1, u16::MAX, 1, 1, 1]);
        let picker = algorithm.build(all.clone(), 9);
        caller.tried.push(all[2].id());
        let counts = tally(&caller.picks(&*picker, &all, 1000), 6);
        assert_eq!(counts[2], 0);
        assert!(counts.iter().all(|n| *n < 600), "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn three_one_one_is_exact_in_every_window_of_five() {
    let all = targets(&[3, 1, 1]);
    for seed in 0..10 {
        let picks = Caller::new(1).picks(&*Algorithm::RoundRobin.build(all.clone(), seed), &all, 50);
        for window in picks.windows(5) {
            assert_eq!(tally(window, 3), [3, 1, 1], "seed {seed}");
        }
        assert!(picks.windows(3).all(|w| w != [0, 0, 0]), "not in a row: {picks:?}");
    }
}

#[test]
fn equal_weights_rotate() {
    let all = targets(&[9; 5]);
    let picks = Caller::new(1).picks(&*Algorithm::RoundRobin.build(all.clone(), 13), &all, 12);
    assert_eq!(picks, [3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

#[test]
fn frequent_rebuilding_favours_nobody() {
    for weights in [&[1; 10][..], &[1, 2, 3, 4]] {
        let all = targets(weights);
        let total = weights.iter().sum::<u16>() as f64;
        let mut seeds = SmallRng::seed_from_u64(5);
        let firsts: Vec<_> = (0..10_000)
            .map(|_| {
                Caller::new(1).picks(&*Algorithm::RoundRobin.build(all.clone(), seeds.next_u64()), &all, 1)[0]
            })
            .collect();
        for (count, weight) in tally(&firsts, all.len()).iter().zip(weights) {
            let share = f64::from(*weight) / total;
            assert!(within_four_deviations(*count, 10_000, share), "{weights:?}: {count} of weight {weight}");
        }
    }
}

#[test]
fn threads_that_share_a_picker_stay_exact_together() {
    for weights in [&[3, 1, 1][..], &[1, 1, 1], &[50, 7, 7, 1], &[65_535, 1, 300]] {
        const THREADS: usize = 4;
        let all = targets(weights);
        let cycle: usize = weights.iter().map(|w| usize::from(*w)).sum();
        let cycles = THREADS * 4_000_usize.div_ceil(cycle);
        let picker = Algorithm::RoundRobin.build(all.clone(), 77);
        let (picker, all_ref) = (&*picker, &all);
        let mut sums = vec![0; weights.len()];
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|n| {
                    let count = cycles * cycle / THREADS;
                    scope.spawn(move || {
                        tally(&Caller::new(n as u64).picks(picker, all_ref, count), all_ref.len())
                    })
                })
                .collect();
            for thread in threads {
                sums.iter_mut().zip(thread.join().unwrap()).for_each(|(sum, n)| *sum += n);
            }
        });
        let expected: Vec<_> = match weights {
            [1, 1, 1] => vec![cycles; 3],
            _ => weights.iter().map(|w| usize::from(*w) * cycles).collect(),
        };
        assert_eq!(sums, expected);
    }
}

#[test]
fn ten_thousand_very_unequal_targets_are_built_and_met_exactly() {
    let weights: Vec<u16> =
        (0..10_000_u32).map(|n| if n % 1000 == 0 { 5_000 } else { 1 + (n % 7) as u16 }).collect();
    let all = targets(&weights);
    let picker = Algorithm::RoundRobin.build(all.clone(), 3);
    let total: usize = weights.iter().map(|w| usize::from(*w)).sum();
    let counts = tally(&Caller::new(1).picks(&*picker, &all, total), all.len());
    assert!(counts.iter().zip(&weights).all(|(n, w)| *n == usize::from(*w)));
}

#[test]
fn least_request_avoids_the_loaded_one() {
    let all = targets(&[1; 4]);
    for _ in 0..20 {
        all[2].history.load.enter(u32::MAX);
    }
    let picker = Algorithm::LeastRequest.build(all.clone(), 0);
    let counts = tally(&Caller::new(1).picks(&*picker, &all, 10_000), 4);
    // Only when all four draws hit it, 1 in 256, is there nobody to prefer.
    assert!(counts[2] < 100, "{counts:?}");
}

#[test]
fn least_request_weighs_load_by_weight() {
    let all = targets(&[30, 10]);
    let picker = Algorithm::LeastRequest.build(all.clone(), 0);
    let mut caller = Caller::new(1);
    // Nothing ends: the picks themselves are the load.
    for _ in 0..4_000 {
        let id = caller.pick(&*picker).unwrap();
        all.iter().find(|t| t.id() == id).unwrap().history.load.enter(u32::MAX);
    }
    let heavy = all[0].history.load.in_flight();
    assert!((2_950..=3_050).contains(&heavy), "{heavy} of 4000 for three quarters of the weight");
}

#[test]
fn least_request_with_nothing_running_keeps_to_the_weights() {
    let all = targets(&[30, 10]);
    let picker = Algorithm::LeastRequest.build(all.clone(), 0);
    let counts = tally(&Caller::new(1).picks(&*picker, &all, 10_000), 2);
    assert!((7_250..=7_750).contains(&counts[0]), "{counts:?}");
}

/// By which factor the distribution of independent draws may differ from its expectation: four standard deviations.
fn within_four_deviations(count: usize, draws: usize, share: f64) -> bool {
    let (mean, deviation) = (draws as f64 * share, (draws as f64 * share * (1.0 - share)).sqrt());
    (count as f64 - mean).abs() <= 4.0 * deviation + 1.0
}

fn weights(most: u16, count: usize) -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(prop_oneof![3 => 1..=most.min(9), 1 => 1..=most], 1..=count)
}

proptest! {
    #[test]
    fn any_choice_is_eligible_and_untried(
        weights in prop::collection::vec(prop_oneof![Just(0), 1..5_u16, any::<u16>()], 0..30),
        tried in prop::collection::vec(0..30_usize, 0..10),
        seed in any::<u64>(),
    ) {
        for algorithm in Algorithm::ALL {
            let all = targets(&weights);
            let picker = algorithm.build(all.clone(), seed);
            let mut caller = Caller::new(seed);
            tried.iter().filter_map(|n| all.get(*n)).for_each(|t| caller.tried.push(t.id()));
            let left: Vec<_> = all
                .iter()
                .filter(|t| t.endpoint.weight.get() > 0 && !caller.tried.contains(t.id()))
                .map(|t| t.id())
                .collect();
            for _ in 0..20 {
                match caller.pick(&*picker) {
                    Some(id) => prop_assert!(left.contains(&id), "{:?}", algorithm),
                    None => prop_assert!(left.is_empty(), "{:?}", algorithm),
                }
            }
        }
    }

    #[test]
    fn round_robin_is_exact_in_every_window_of_a_cycle(
        weights in weights(200, 12), factor in 1..50_u16, seed in any::<u64>(),
    ) {
        let scaled: Vec<_> = weights.iter().map(|w| w * factor).collect();
        let all = targets(&scaled);
        let unit = weights.iter().fold(0, |a, b| { let (mut a, mut b) = (a, *b); while b > 0 { (a, b) = (b, a % b) } a });
        let reduced: Vec<_> = weights.iter().map(|w| usize::from(w / unit)).collect();
        let cycle: usize = reduced.iter().sum();
        let picker = Algorithm::RoundRobin.build(all.clone(), seed);
        let picks = Caller::new(1).picks(&*picker, &all, 3 * cycle);
        for start in (0..2 * cycle).step_by((cycle / 5).max(1)) {
            prop_assert_eq!(&tally(&picks[start..start + cycle], all.len()), &reduced);
        }
    }

    #[test]
    fn round_robin_never_strays_far_from_the_ideal(weights in weights(3_000, 40), seed in any::<u64>()) {
        let all = targets(&weights);
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let picks = Caller::new(1).picks(&*Algorithm::RoundRobin.build(all.clone(), seed), &all, total as usize);
        // How far the count of each was ahead of its share, and behind it, at any time of the cycle: the sum is the
        // most by which any window of picks can be off.
        let mut counts = vec![0_u32; all.len()];
        let mut range = vec![(0.0_f64, 0.0_f64); all.len()];
        for (time, chosen) in picks.iter().enumerate() {
            let share = f64::from(weights[*chosen]) / total;
            let ahead = |count: u32, time: usize| f64::from(count) - time as f64 * share;
            range[*chosen].0 = range[*chosen].0.min(ahead(counts[*chosen], time));
            counts[*chosen] += 1;
            range[*chosen].1 = range[*chosen].1.max(ahead(counts[*chosen], time + 1));
        }
        let bound = 2.0 + 0.4 * total.ln();
        for (n, (behind, ahead)) in range.iter().enumerate() {
            prop_assert!(ahead - behind <= bound, "target {n}: {behind}..{ahead}, bound {bound}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(11), cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn random_is_uniform_whatever_the_weights(weights in weights(u16::MAX, 12), seed in any::<u64>()) {
        let all = targets(&weights);
        let counts = tally(&Caller::new(seed).picks(&*Algorithm::Random.build(all.clone(), 0), &all, 5_000), all.len());
        for count in counts {
            prop_assert!(within_four_deviations(count, 5_000, 1.0 / all.len() as f64), "{count}");
        }
    }

    #[test]
    fn weighted_random_follows_the_weights(weights in weights(u16::MAX, 12), seed in any::<u64>()) {
        let all = targets(&weights);
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let picker = Algorithm::WeightedRandom.build(all.clone(), 0);
        let counts = tally(&Caller::new(seed).picks(&*picker, &all, 5_000), all.len());
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert!(within_four_deviations(*count, 5_000, f64::from(*weight) / total), "{counts:?} for {weights:?}");
        }
    }

    #[test]
    fn least_request_never_takes_the_busier_of_two_equals(
        running in prop::collection::vec(0..50_u32, 2..6), seed in any::<u64>(),
    ) {
        let all = targets(&vec![1; running.len()]);
        for (target, count) in all.iter().zip(&running) {
            (0..*count).for_each(|_| { target.history.load.enter(u32::MAX); });
        }
        let counts = tally(&Caller::new(seed).picks(&*Algorithm::LeastRequest.build(all.clone(), 0), &all, 5_000), all.len());
        let (busiest, idlest) = (running.iter().max().unwrap(), running.iter().min().unwrap());
        if busiest > idlest {
            let sum = |load: &u32| {
                let of: Vec<_> = counts.iter().zip(&running).filter(|(_, r)| *r == load).map(|(c, _)| *c).collect();
                of.iter().sum::<usize>() / of.len()
            };
            prop_assert!(sum(idlest) > sum(busiest), "{counts:?} for {running:?}");
        }
    }
}
