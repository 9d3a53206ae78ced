//! Sixteen f32 lanes, as one AVX-512 register, two AVX2 registers, or an array.
//!
//! Every operation is IEEE arithmetic on each lane by itself, so the three agree bit for bit.

/// One 64-byte line: sixteen lanes in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Line(pub [f32; 16]);

/// One 64-byte line: sixteen pairs of bfloat16 by their bits, the first of each pair in the low half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct PairLine(pub [u32; 16]);

/// Sixteen f32 lanes.
///
/// # Safety
/// Every function needs a processor with the path's instructions; those that take a pointer need 16
/// (or the named number of) readable or writable places behind it.
pub(super) trait Lanes: Copy {
    /// One register holds all lanes, and there are 32 of them.
    const WIDE: bool;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first bfloat16 of sixteen pairs, widened.
    unsafe fn load_low(from: *const u32) -> Self;
    /// The second bfloat16 of sixteen pairs, widened.
    unsafe fn load_high(from: *const u32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * by + plus`, rounded once.
    unsafe fn fma(self, by: Self, plus: Self) -> Self;
    /// The larger of each lane; where `other` is NaN or both are equal, `other`.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each lane; where `other` is NaN or both are equal, `other`.
    unsafe fn min(self, other: Self) -> Self;
    /// Each lane's bits, shifted up by 23.
    unsafe fn shift_to_exponent(self) -> Self;
    /// Keeps the first `count` lanes; the others become `fill`.
    unsafe fn first(self, count: usize, fill: f32) -> Self;

    /// Lanes added up in a fixed tree: halves onto halves.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0f32; 16];
        // SAFETY: 16 places.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut width = 8;
        while width > 0 {
            let mut i = 0;
            while i < width {
                lanes[i] += lanes[i + width];
                i += 1;
            }
            width /= 2;
        }
        lanes[0]
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut lanes = [0f32; 16];
        // SAFETY: 16 places.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut largest = lanes[0];
        let mut i = 1;
        while i < 16 {
            largest = if lanes[i] > largest { lanes[i] } else { largest };
            i += 1;
        }
        largest
    }
}

/// AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512(std::arch::x86_64::__m512);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    const WIDE: bool = true;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's; so below.
        Self(unsafe { std::arch::x86_64::_mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { std::arch::x86_64::_mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> Self {
        use std::arch::x86_64::*;
        Self(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast()))) })
    }
    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> Self {
        use std::arch::x86_64::*;
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            Self(_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), upper)))
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_fmadd_ps(self.0, by.0, plus.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { std::arch::x86_64::_mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn shift_to_exponent(self) -> Self {
        use std::arch::x86_64::*;
        Self(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(self.0))) })
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, fill: f32) -> Self {
        use std::arch::x86_64::*;
        let keep = ((1u32 << count) - 1) as u16;
        Self(unsafe { _mm512_mask_blend_ps(keep, _mm512_set1_ps(fill), self.0) })
    }
}

/// AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(std::arch::x86_64::__m256, std::arch::x86_64::__m256);

/// One AVX2 operation on both halves.
#[cfg(target_arch = "x86_64")]
macro_rules! halves {
    ($operation:ident, $($argument:expr),+) => {
        // SAFETY: the trait's.
        unsafe { Avx2(
            std::arch::x86_64::$operation($($argument.0),+),
            std::arch::x86_64::$operation($($argument.1),+),
        ) }
    };
}

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    const WIDE: bool = false;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's; so below.
        let half = unsafe { std::arch::x86_64::_mm256_set1_ps(value) };
        Self(half, half)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        use std::arch::x86_64::_mm256_loadu_ps;
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        use std::arch::x86_64::_mm256_storeu_ps;
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> Self {
        use std::arch::x86_64::*;
        unsafe {
            let low = |at: *const u32| _mm256_slli_epi32::<16>(_mm256_loadu_si256(at.cast()));
            Self(_mm256_castsi256_ps(low(from)), _mm256_castsi256_ps(low(from.add(8))))
        }
    }
    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> Self {
        use std::arch::x86_64::*;
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let high = |at: *const u32| _mm256_and_si256(_mm256_loadu_si256(at.cast()), upper);
            Self(_mm256_castsi256_ps(high(from)), _mm256_castsi256_ps(high(from.add(8))))
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        halves!(_mm256_add_ps, self, other)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        halves!(_mm256_sub_ps, self, other)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        halves!(_mm256_mul_ps, self, other)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        halves!(_mm256_div_ps, self, other)
    }
    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        halves!(_mm256_fmadd_ps, self, by, plus)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        halves!(_mm256_max_ps, self, other)
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        halves!(_mm256_min_ps, self, other)
    }
    #[inline(always)]
    unsafe fn shift_to_exponent(self) -> Self {
        use std::arch::x86_64::*;
        let shift = |v| unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v))) };
        Self(shift(self.0), shift(self.1))
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, fill: f32) -> Self {
        use std::arch::x86_64::*;
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let below = |n: i32| _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes));
            let (count, fill) = (count as i32, _mm256_set1_ps(fill));
            Self(
                _mm256_blendv_ps(fill, self.0, below(count)),
                _mm256_blendv_ps(fill, self.1, below(count - 8)),
            )
        }
    }
}

/// An array.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 16]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Portable {
    const WIDE: bool = false;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's; so below.
        Self(unsafe { from.cast::<[f32; 16]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 16]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> Self {
        Self(unsafe { from.cast::<[u32; 16]>().read() }.map(|pair| f32::from_bits(pair << 16)))
    }
    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> Self {
        Self(unsafe { from.cast::<[u32; 16]>().read() }.map(|pair| f32::from_bits(pair & 0xffff_0000)))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(by.0[i], plus.0[i])))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn shift_to_exponent(self) -> Self {
        Self(self.0.map(|v| f32::from_bits(v.to_bits() << 23)))
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, fill: f32) -> Self {
        Self(std::array::from_fn(|i| if i < count { self.0[i] } else { fill }))
    }
}
