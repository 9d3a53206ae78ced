//! The arithmetic of a pass on the processor.
//!
//! **Row-invariant**: the bits of every output row depend on that row's input alone, never on how
//! many rows run beside it, on tiling, or on the number of threads. That is what lets a verifier see
//! the very numbers that plain decoding would have seen.
//!
//! Every kernel is written once over 16 lanes ([`lanes`]) and compiled for three paths, chosen at
//! run time: AVX-512, AVX2 with FMA, and portable. All three sum in the same order with fused
//! multiply-adds, so they agree bit for bit as well.
//!
//! A fourth path multiplies bf16 weights on the tile unit ([`tiles`]): as exact, in an order of its own.

#![allow(unsafe_code, reason = "vector instructions, and threads that write disjoint columns of one output")]
#![allow(
    clippy::needless_range_loop,
    reason = "a tile's registers are named by their numbers, and must be unrolled"
)]

pub mod attention;
mod crew;
pub(crate) mod lanes;
pub mod linear;
pub mod matrix;
pub mod pointwise;
pub mod tiles;

use std::sync::OnceLock;

pub(crate) use crew::share;

/// Which instructions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// bf16 weights on the tile unit (AMX), all else as AVX-512.
    Tiles,
    /// AVX-512 F.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// Whatever the target has; slow without a fused multiply-add.
    Portable,
}

impl Path {
    /// The quickest path of this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// Every path that this machine can run, quickest first.
    pub fn available() -> Vec<Self> {
        let mut paths = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if tiles::available() {
                paths.push(Self::Tiles);
            }
            if is_x86_feature_detected!("avx512f") {
                paths.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                paths.push(Self::Avx2);
            }
        }
        paths.push(Self::Portable);
        paths
    }

    /// The word that messages use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tiles => "avx512, amx for bf16 weights",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

/// Compiles a generic kernel for every path and calls the one asked for.
///
/// `compile! { fn name<L>(arguments) = kernel; }` defines `name(path, arguments)`, where `kernel` is
/// an `#[inline(always)] unsafe fn` generic over its lanes.
macro_rules! compile {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $kernel:ident $(::<$($generic:ty),*>)?;) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "a kernel's whole input, spelled out")]
        unsafe fn $name(path: $crate::kernels::Path, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            unsafe fn avx512($($arg: $type),*) {
                // SAFETY: passed on to the caller.
                unsafe { $kernel::<$crate::kernels::lanes::Avx512 $(, $($generic),*)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            unsafe fn avx2($($arg: $type),*) {
                // SAFETY: passed on to the caller.
                unsafe { $kernel::<$crate::kernels::lanes::Avx2 $(, $($generic),*)?>($($arg),*) }
            }
            match path {
                // SAFETY: a path is only ever chosen where the processor has it; the rest is the caller's.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Path::Avx512 | $crate::kernels::Path::Tiles => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Path::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: needs nothing of the processor; the rest is the caller's.
                _ => unsafe { $kernel::<$crate::kernels::lanes::Portable $(, $($generic),*)?>($($arg),*) },
            }
        }
    };
}
use compile;

/// A pointer that threads may share because they write disjoint places.
pub(crate) struct Shared<T>(pub(crate) *mut T);

// SAFETY: whoever makes one sees to it that no place is written by two threads.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn pointer(&self) -> *mut T {
        self.0
    }
}
