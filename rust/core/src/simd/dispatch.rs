//! Which instruction sets there are, which of them this processor has, and the only `#[target_feature]` functions.

use super::portable::Portable;
use super::{Kernel, Simd};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Whatever the build targets, as arrays that the compiler vectorises.
    Portable,
    /// AVX2 and FMA, 8 lanes.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, 16 lanes.
    Avx512,
}

impl Isa {
    const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// What this processor has, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The fastest that this processor has.
    pub fn best() -> Isa {
        Isa::available().pop().unwrap_or(Isa::Portable)
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The name that [`Isa::from_name`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this processor can run it. The standard library remembers the answer, so this is cheap.
    #[inline]
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Floats in a vector.
    pub fn lanes(self) -> usize {
        self.shape().0
    }

    /// Rows and vectors of the register tile of a matrix product.
    pub fn tile(self) -> (usize, usize) {
        let (_, rows, vectors) = self.shape();
        (rows, vectors)
    }

    fn shape(self) -> (usize, usize, usize) {
        #[inline]
        fn of<S: Simd>() -> (usize, usize, usize) {
            (S::LANES, S::TILE_ROWS, S::TILE_VECTORS)
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => of::<Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => of::<Avx512>(),
            _ => of::<Portable>(),
        }
    }
}

/// Runs `kernel` with the vectors of `isa`.
///
/// # Panics
/// If this processor does not have `isa`.
#[inline]
pub fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.is_available(), "this processor has no {}", isa.name());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the features, as just asserted.
        Isa::Avx2 => unsafe { run_avx2(kernel, Avx2::new()) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the features, as just asserted.
        Isa::Avx512 => unsafe { run_avx512(kernel, Avx512::new()) },
        _ => kernel.run(Portable::new()),
    }
}

/// Runs `kernel` as a function of its own, compiled once however many other kernels call it.
///
/// Everything else below `dispatch` is inlined. For a body as large as the register tile that would mean minutes of
/// compilation for every further caller. `proof` shows that the processor has the instruction set.
#[inline(always)]
pub fn outlined<S: Simd, K: Kernel>(proof: S, kernel: K) -> K::Output {
    match S::ISA {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever has an `S` is already running on a processor with these features.
        Isa::Avx2 => unsafe { run_avx2(kernel, proof) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { run_avx512(kernel, proof) },
        _ => kernel.run(proof),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K, simd: impl Simd) -> K::Output {
    kernel.run(simd)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: Kernel>(kernel: K, simd: impl Simd) -> K::Output {
    kernel.run(simd)
}
