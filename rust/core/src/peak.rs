//! The arithmetic peak: multiply-adds on registers alone, which no kernel can outdo.

use std::hint::black_box;
use std::time::Instant;

use crate::parallel::Pool;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Chains of multiply-adds side by side: two a cycle, each of them four cycles long, and some to spare.
const CHAINS: usize = 12;

/// FLOP/s of all threads of the pool in one short round. What else the machine does shows: the highest of several rounds
/// is the peak.
pub fn measure(isa: Isa, pool: &Pool) -> f64 {
    const LENGTH: usize = 40_000;
    let start = Instant::now();
    pool.for_each(pool.threads(), |_| {
        black_box(dispatch(isa, MultiplyAdds(LENGTH)));
    });
    (LENGTH * CHAINS * 2 * isa.lanes() * pool.threads()) as f64 / start.elapsed().as_secs_f64()
}

struct MultiplyAdds(usize);

impl Kernel for MultiplyAdds {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (x, y) = (s.splat(0.5), s.splat(0.25));
        let mut sums = [s.splat(1.0); CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.fma(x, *sum, y);
            }
        }
        s.reduce_add(sums.into_iter().reduce(|a, b| s.add(a, b)).unwrap_or(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::run_with;
    use crate::testing::for_each_isa;

    #[test]
    fn there_is_one_with_every_instruction_set() {
        for_each_isa(|isa| {
            let found = run_with(2, |pool| measure(isa, pool));
            assert!(found.is_finite() && found > 0.0, "{isa:?}: {found}");
        });
    }
}
