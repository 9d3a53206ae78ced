//! Threads that share the work of one kernel, and stay awake between kernels.
//!
//! A pass is dozens of kernels of 10 to 100 microseconds each. Waking a sleeping thread takes as long, so a
//! general thread pool, whose idle threads sleep, costs a small model more than its work. Helpers here look
//! for the next job a little while before they sleep, and a job is taken, task by task, by whoever is there:
//! the caller never waits for a helper that has not begun.
//!
//! One caller is helped at a time. Another that comes meanwhile does all of its own work.

use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};
use std::thread::{self, Thread};

use crate::cores;

/// How often a helper looks for a job before it sleeps: some 150 microseconds, the pause between two passes
/// of a large model while small ones draft.
const LOOKS: u32 = 4_000;
/// How often the caller looks whether helpers are done before it lets others have the core.
const WAITS: u32 = 10_000;

/// Runs `task(0) .. task(tasks - 1)`, shared with helper threads.
///
/// # Panics
/// When a task does, after all that had begun are done.
pub(crate) fn share(tasks: usize, task: impl Fn(usize) + Sync) {
    match tasks {
        0 => {}
        1 => task(0),
        _ => CREW.run(tasks, &task),
    }
}

/// What is to be done: a closure on its caller's stack.
type Job = *const (dyn Fn(usize) + Sync);

struct Crew {
    /// The helpers; held by the caller that they help.
    helpers: Mutex<Helpers>,
    board: Board,
}

static CREW: Crew = Crew {
    helpers: Mutex::new(Helpers { all: Vec::new(), refused: false }),
    board: Board {
        state: AtomicU64::new(0),
        done: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        job: JobPlace(UnsafeCell::new(None)),
    },
};

/// Where a job is announced.
struct Board {
    /// Number of the job, tasks, next task: 32, 16 and 16 bits. A task is taken by adding 1 to the whole,
    /// which fails if any of them has changed.
    state: AtomicU64,
    /// Tasks of the job that are done.
    done: AtomicUsize,
    /// A task of the job has panicked.
    failed: AtomicBool,
    /// The job. Only who has taken one of its tasks may look, since its caller then waits.
    job: JobPlace,
}

struct JobPlace(UnsafeCell<Option<Job>>);

// SAFETY: written by the caller that holds the crew before it announces the job, and read by those who have
// taken one of its tasks, until they say that it is done.
unsafe impl Sync for JobPlace {}

struct Helpers {
    all: Vec<&'static Helper>,
    /// The system has no more threads for us.
    refused: bool,
}

struct Helper {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Crew {
    fn run(&'static self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let mut helpers = match self.helpers.try_lock() {
            _ if tasks >= usize::from(u16::MAX) || thread::panicking() => return (0..tasks).for_each(task),
            Ok(helpers) => helpers,
            // Left so by a caller whose task panicked; the job was over by then.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..tasks).for_each(task),
        };
        self.hire(&mut helpers, tasks - 1);
        let board = &self.board;
        // SAFETY: the lifetime is cut off a pointer that is followed only until `wait` below is dropped.
        let job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(task) };
        // SAFETY: the crew is held, and no task of an earlier job is left.
        unsafe { *board.job.0.get() = Some(job) };
        board.done.store(0, Ordering::Relaxed);
        board.failed.store(false, Ordering::Relaxed);
        let number = (board.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // The first task is the caller's own.
        board.state.store(number << 32 | (tasks as u64) << 16 | 1, Ordering::SeqCst);
        for helper in helpers.all.iter().take(tasks - 1) {
            if helper.asleep.load(Ordering::SeqCst)
                && let Some(thread) = helper.thread.get()
            {
                thread.unpark();
            }
        }
        let wait = Wait { board, tasks, own_done: Cell::new(false), helpers };
        task(0);
        wait.own_done.set(true);
        board.done.fetch_add(1, Ordering::Release);
        while board.take_one() {}
        wait.until_done();
        let failed = board.failed.load(Ordering::Relaxed);
        drop(wait);
        assert!(!failed, "a task of a kernel panicked; its own message says why");
    }

    /// Sees to it that there are `count` helpers, as far as the system has threads.
    fn hire(&'static self, helpers: &mut Helpers, count: usize) {
        while helpers.all.len() < count && !helpers.refused {
            let helper: &'static Helper =
                Box::leak(Box::new(Helper { asleep: AtomicBool::new(false), thread: OnceLock::new() }));
            let index = helpers.all.len();
            let started = thread::Builder::new()
                .name("kernel-helper".to_owned())
                .spawn(move || helper.work(index, &self.board));
            match started {
                Ok(started) => {
                    helper.thread.get_or_init(|| started.thread().clone());
                    helpers.all.push(helper);
                }
                // The caller does what nobody takes.
                Err(_) => helpers.refused = true,
            }
        }
    }
}

impl Board {
    /// Is a task left?
    fn open(&self) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        (state as u16) < (state >> 16) as u16
    }

    /// Takes and does one task, if one is left.
    fn take_one(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let (tasks, next) = ((state >> 16) as u16, state as u16);
        if next >= tasks {
            return false;
        }
        if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return true; // Somebody else took it; there may be another.
        }
        // SAFETY: a task of the announced job is taken and not done, so its caller waits and the job stands.
        let job = unsafe { (*self.job.0.get()).map(|job| &*job) };
        let did = catch_unwind(AssertUnwindSafe(|| job.map(|job| job(usize::from(next)))));
        if let Err(message) = did {
            self.failed.store(true, Ordering::Relaxed);
            std::mem::forget(message); // It was printed; what its drop may do is not ours to risk.
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }
}

impl Helper {
    fn work(&self, index: usize, board: &Board) {
        let mut settled = false;
        loop {
            settled = settled || cores::settle_helper(index);
            let mut looks = 0;
            while looks < LOOKS {
                if board.take_one() {
                    looks = 0;
                } else {
                    looks += 1;
                    std::hint::spin_loop();
                }
            }
            // Say it, then look once more: a caller announces, then looks who is asleep.
            self.asleep.store(true, Ordering::SeqCst);
            if !board.open() {
                thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }
}

/// Waits, when dropped, until nobody works on the job any more: also when the caller's own task panics.
struct Wait<'a> {
    board: &'static Board,
    tasks: usize,
    /// The caller's first task is done; if it never will be, it has panicked.
    own_done: Cell<bool>,
    #[allow(dead_code, reason = "held until the job is done")]
    helpers: MutexGuard<'a, Helpers>,
}

impl Wait<'_> {
    fn until_done(&self) {
        let mut tasks = self.tasks;
        if !self.own_done.get() {
            // Nobody takes what is left from here on; those that were taken are waited for.
            let state = self.board.state.fetch_or(0xffff, Ordering::AcqRel);
            tasks = usize::from(state as u16).min(tasks) - 1;
        }
        let mut waits = 0u32;
        while self.board.done.load(Ordering::Acquire) < tasks {
            waits = waits.wrapping_add(1);
            match waits % WAITS {
                0 => thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.until_done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whoever_shares_at_the_same_time() {
        thread::scope(|scope| {
            for caller in 0..4usize {
                scope.spawn(move || {
                    for round in 0..3000 {
                        let tasks = 1 + (caller + round) % 7;
                        let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                        share(tasks, |task| {
                            ran[task].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(ran.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn helpers_that_sleep_are_woken() {
        for _ in 0..20 {
            thread::sleep(std::time::Duration::from_millis(2));
            let ran = AtomicUsize::new(0);
            share(3, |_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn a_task_that_panics_is_heard_and_the_crew_goes_on() {
        for bad in 0..3 {
            let failing = |task: usize| assert!(task != bad, "task {task}");
            assert!(catch_unwind(AssertUnwindSafe(|| share(3, failing))).is_err(), "task {bad}");
            let ran = AtomicUsize::new(0);
            share(3, |_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 3);
        }
    }
}
