//! Jobs on all cores. What comes out does not depend on how many.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// `run` of every job on `threads` threads, in the order of jobs; `None` where `stop` was raised before a job, or
/// where the job itself gave up.
///
/// # Errors
/// The first job's error, in order of jobs; it stops the others.
pub fn map<J: Sync, R: Send>(
    jobs: &[J],
    threads: usize,
    stop: &AtomicBool,
    run: impl Fn(&J) -> anyhow::Result<Option<R>> + Sync,
) -> anyhow::Result<Vec<Option<R>>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<anyhow::Result<Option<R>>>>> =
        jobs.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let result = run(job);
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed); // The others would be for nothing.
                    }
                    *results[index].lock().expect("no thread panics while it holds a result") = Some(result);
                }
            });
        }
    });
    let results =
        results.into_iter().map(|slot| slot.into_inner().expect("no thread panics while it holds a result"));
    results.map(|result| result.unwrap_or(Ok(None))).collect()
}
