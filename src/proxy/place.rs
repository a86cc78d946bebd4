//! A client connection's share of the process's limit, and of a worker's load.

use super::worker::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::OwnedSemaphorePermit;

/// One connection's place with one worker; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    /// Whom it goes to.
    pub worker: usize,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// A place with the worker that has the fewest, `here` if it is one of them.
    pub fn take(shared: &Arc<Shared>, here: usize, permit: OwnedSemaphorePermit) -> Self {
        let worker = loop {
            let Some((worker, load, seen)) = fewest(&shared.loads, here) else { break here };
            // Another listener may have dealt to the same worker just now: then it is somebody else's turn.
            if load.compare_exchange(seen, seen + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                break worker;
            }
        };
        Self { shared: Arc::clone(shared), worker, _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(load) = self.shared.loads.get(self.worker) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The worker with the fewest client connections, its cell and what was seen in it.
fn fewest(loads: &[AtomicUsize], here: usize) -> Option<(usize, &AtomicUsize, usize)> {
    let seen = loads.iter().enumerate().map(|(worker, load)| (worker, load, load.load(Ordering::Relaxed)));
    seen.min_by_key(|&(worker, _, seen)| (seen, worker != here))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ClientLimits;
    use rustc_hash::FxHashSet;
    use std::sync::Barrier;

    fn shared(workers: usize) -> Arc<Shared> {
        Shared::new(ClientLimits::default(), FxHashSet::default(), workers)
    }

    fn take(shared: &Arc<Shared>, here: usize) -> Place {
        Place::take(shared, here, Arc::clone(&shared.permits).try_acquire_owned().unwrap())
    }

    fn loads(shared: &Shared) -> Vec<usize> {
        shared.loads.iter().map(|load| load.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn connections_go_to_the_worker_with_the_fewest() {
        let shared = shared(3);
        let mut places: Vec<_> = (0..6).map(|_| take(&shared, 1)).collect();
        assert_eq!(loads(&shared), [2, 2, 2]);
        places.retain(|place| place.worker != 2);
        assert_eq!([take(&shared, 0), take(&shared, 1)].map(|place| place.worker), [2, 2]);
    }

    #[test]
    fn connections_stay_where_they_were_accepted_if_nobody_has_fewer() {
        let shared = shared(2);
        let first = take(&shared, 1);
        assert_eq!(first.worker, 1);
        let second = take(&shared, 1);
        assert_eq!((second.worker, loads(&shared)), (0, vec![1, 1]));
    }

    #[test]
    fn listeners_that_deal_at_the_same_moment_deal_evenly() {
        const EACH: usize = 4;
        for _ in 0..500 {
            let (shared, barrier) = (shared(2), Barrier::new(2));
            let deal = |here| {
                barrier.wait();
                (0..EACH).map(|_| take(&shared, here)).collect::<Vec<_>>()
            };
            std::thread::scope(|scope| {
                // Both deal from the same side, as listeners of one worker's neighbours do.
                let dealt =
                    [scope.spawn(|| deal(0)), scope.spawn(|| deal(0))].map(|thread| thread.join().unwrap());
                assert_eq!(loads(&shared), [EACH, EACH]);
                drop(dealt);
            });
        }
    }

    #[test]
    fn a_place_that_nobody_uses_is_given_back() {
        let limits = ClientLimits { connections: 1, ..ClientLimits::default() };
        let shared = Shared::new(limits, FxHashSet::default(), 2);
        let place = take(&shared, 0);
        assert_eq!((shared.connections(), shared.permits.available_permits()), (1, 0));
        drop(place);
        assert_eq!((shared.connections(), shared.permits.available_permits()), (0, 1));
    }
}
