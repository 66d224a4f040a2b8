//! A thousand seeds hold every property, reach everything that they should, and repeat.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use synod_simulator::coverage::Coverage;
use synod_simulator::stats::Stats;
use synod_simulator::{Options, run, run_twice};

const SEEDS: u64 = 1000;

/// One run in so many is repeated.
const REPEAT_EVERY: u64 = 50;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds the lock")
}

#[test]
fn a_thousand_seeds_hold_every_property() {
    let (next, stats, reports) = (AtomicU64::new(0), Mutex::new(Stats::default()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return;
            }
            let options = Options { seed, ..Options::default() };
            let outcome = if seed.is_multiple_of(REPEAT_EVERY) { run_twice(options) } else { run(options) };
            lock(&stats).add(&outcome.stats);
            lock(&reports).extend(outcome.report());
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));

    let reports = lock(&reports);
    assert!(reports.is_empty(), "{}", reports.join("\n"));
    let stats = lock(&stats);
    for what in Coverage::EXPECTED {
        assert!(stats.coverage.count(what) > 0, "no seed ever {what}");
    }
    assert!(!stats.crashed.found_anything(), "crashes alone left more than crashes do: {}", stats.crashed);
    assert!(stats.crashed.restarts > 10_000, "hardly anything crashed: {}", stats.crashed);
    let damaged = stats.damaged;
    assert!(damaged.only_doubtful > 0 && damaged.in_doubt > 0 && damaged.unsure > 0, "{damaged}");
    assert!(damaged.places > damaged.places_doubtful && damaged.places_doubtful > 0, "{damaged}");
    assert!(stats.commands_acked > 100_000, "clients were told of {} commands only", stats.commands_acked);
}

#[test]
fn every_size_of_cluster_runs() {
    for nodes in [1, 2, 3, 5] {
        for seed in 5000..5010 {
            let outcome = run(Options { seed, nodes: Some(nodes), ..Options::default() });
            assert_eq!(outcome.report(), None);
        }
    }
}
