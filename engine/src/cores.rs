//! Threads that keep to a core each.
//!
//! After a pause the system may wake the caller and its helper on one core and move them apart only
//! milliseconds later; until then every pass takes twice as long. Where the process uses every core it may,
//! no choice is taken from anybody by giving each thread its own.

use std::sync::atomic::{AtomicBool, Ordering};

/// Helpers keep to a core each from their next wake on.
static APART: AtomicBool = AtomicBool::new(false);

/// While it lives, the thread that made it keeps to the first core, and the kernels' helpers to the others.
/// Threads started meanwhile by that thread would keep to its core too.
#[must_use]
pub struct OwnCore {
    #[cfg(target_os = "linux")]
    before: Option<nix::sched::CpuSet>,
}

impl OwnCore {
    /// Takes the first core, if `threads` is the number of cores that the process may use; else, and on
    /// systems other than Linux, nothing changes.
    pub fn take(threads: usize) -> Self {
        let apart = threads > 1 && allowed().len() == threads;
        APART.store(apart, Ordering::Relaxed);
        #[cfg(target_os = "linux")]
        {
            let before = apart.then(linux::mask).flatten();
            if before.is_some() {
                linux::keep_to(0);
            }
            Self { before }
        }
        #[cfg(not(target_os = "linux"))]
        Self {}
    }
}

impl Drop for OwnCore {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some(before) = &self.before {
            linux::restore(before);
        }
    }
}

/// Puts the helper with this index on its core, if cores are kept. Answers whether it has been.
pub(crate) fn settle_helper(index: usize) -> bool {
    let apart = APART.load(Ordering::Relaxed);
    #[cfg(target_os = "linux")]
    if apart {
        linux::keep_to(index + 1);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = index;
    apart
}

/// Cores that the process may use; none where that is not known.
fn allowed() -> &'static [usize] {
    #[cfg(target_os = "linux")]
    return linux::allowed();
    #[cfg(not(target_os = "linux"))]
    &[]
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::OnceLock;

    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    /// The caller's thread, to the system.
    const THIS: Pid = Pid::from_raw(0);

    /// Cores that this thread may run on.
    pub(super) fn mask() -> Option<CpuSet> {
        sched_getaffinity(THIS).ok()
    }

    /// Cores of the process, as they were when it was first asked.
    pub(super) fn allowed() -> &'static [usize] {
        static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
        ALLOWED.get_or_init(|| {
            let mask = mask().unwrap_or_default();
            (0..CpuSet::count()).filter(|&core| mask.is_set(core).unwrap_or(false)).collect()
        })
    }

    /// Keeps this thread to the `place`-th core of the process. A system that refuses is no error: the
    /// thread then runs where it did.
    pub(super) fn keep_to(place: usize) {
        let mut own = CpuSet::new();
        if let Some(&core) = allowed().get(place)
            && own.set(core).is_ok()
        {
            let _ = sched_setaffinity(THIS, &own);
        }
    }

    pub(super) fn restore(mask: &CpuSet) {
        let _ = sched_setaffinity(THIS, mask);
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_to_a_core_and_is_let_go() {
        std::thread::spawn(|| {
            let cores = allowed().len();
            let few = OwnCore::take(cores + 1);
            assert_eq!(linux::mask().map(count), Some(cores), "not all cores are used: nothing is kept");
            drop(few);
            let own = OwnCore::take(cores);
            assert_eq!(linux::mask().map(count), Some(1));
            drop(own);
            assert_eq!(linux::mask().map(count), Some(cores));
        })
        .join()
        .unwrap();
    }

    fn count(mask: nix::sched::CpuSet) -> usize {
        (0..nix::sched::CpuSet::count()).filter(|&core| mask.is_set(core).unwrap()).count()
    }
}
