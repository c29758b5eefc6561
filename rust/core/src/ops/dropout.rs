//! Dropout (Srivastava et al. 2014): in training an element is dropped with probability `rate`, and the others grow so that
//! the mean stays; at inference nothing happens.
//!
//! `y[i] = x[i] * m[i]` with `m[i] = 0` where dropped, `1 / (1 - rate)` elsewhere (0 everywhere at rate 1, as in PyTorch).
//! Backward: `d_x[i] = d_y[i] * m[i]`. Nothing is kept: `m[i]` is a function of the step's seed and of `i`, the same for both
//! directions, any number of threads and any instruction set.

use super::activation::Activation;
use super::training::Gradient;
use super::{Attributes, Backward, Compile, Forward, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::parallel::Pool;
use crate::rng::split;
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Random elements are dropped in training.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    rate: f32,
}

impl Dropout {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let rate = attributes.number("rate")?;
        if !(0.0..=1.0).contains(&rate) {
            return Err(format!("attribute \"rate\": expected a number from 0 to 1, got {rate}"));
        }
        Ok(Box::new(Self { rate }))
    }
}

impl Op for Dropout {
    fn kind(&self) -> &'static str {
        "dropout"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn is_for_training(&self) -> bool {
        true
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Activation::Linear.compile(context)
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(DropoutTraining { op: *self, isa: context.isa })
    }
}

struct DropoutTraining {
    op: Dropout,
    isa: Isa,
}

impl DropoutTraining {
    /// Writes `values = x * m`, plus what that is to be added to.
    fn run(&self, x: &[f32], y: Gradient<'_>, seed: u64, pool: &Pool) {
        /// Elements of a task, which has a key of its own. Another number would be another mask.
        const CHUNK: usize = 16 * 1024;
        let Dropout { rate } = self.op;
        // Rate 1 drops one element in 2^32 too few, times 0.
        let scale = if rate < 1.0 { 1.0 / (1.0 - rate) } else { 0.0 };
        let threshold = (f64::from(rate) * f64::from(u32::MAX)).round() as u32;
        let Gradient { values, plus } = y;
        pool.for_each_chunk(values, CHUNK, |task, y| {
            let start = task * CHUNK;
            let mask = Mask { key: key(seed, task as u64), threshold, scale };
            let x = &x[start..start + y.len()];
            let plus = plus.map(|plus| &plus[start..start + y.len()]);
            dispatch(self.isa, Masked { mask, x, plus, y });
        });
    }
}

impl TrainStep for DropoutTraining {
    fn keeps(&self) -> Keeps {
        Keeps::nothing()
    }

    fn forward(&self, io: Forward<'_>) {
        self.run(io.inputs[0], Gradient { values: io.output, plus: None }, io.seed, io.pool);
    }

    fn backward(&self, io: Backward<'_>) {
        if let Some(d_x) = io.d_inputs[0].take() {
            self.run(io.d_output, d_x, io.seed, io.pool);
        }
    }
}

/// The key of a chunk.
fn key(seed: u64, chunk: u64) -> [u32; 2] {
    let z = split(seed, chunk);
    [z as u32, (z >> 32) as u32]
}

/// Which elements of a chunk are dropped.
#[derive(Clone, Copy)]
struct Mask {
    key: [u32; 2],
    threshold: u32,
    scale: f32,
}

impl Mask {
    /// What element `i` is multiplied by: counter and key mixed by the finaliser of MurmurHash3, once for each half of the
    /// key. 32-bit operations only, which every instruction set has for whole vectors.
    #[inline(always)]
    fn factor(self, i: u32) -> f32 {
        let random = finalise(finalise(i ^ self.key[0]).wrapping_add(self.key[1]));
        if random < self.threshold { 0.0 } else { self.scale }
    }
}

#[inline(always)]
fn finalise(mut z: u32) -> u32 {
    z = (z ^ (z >> 16)).wrapping_mul(0x85eb_ca6b);
    z = (z ^ (z >> 13)).wrapping_mul(0xc2b2_ae35);
    z ^ (z >> 16)
}

/// `y = x * m + plus`
struct Masked<'a> {
    mask: Mask,
    x: &'a [f32],
    plus: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Kernel for Masked<'_> {
    type Output = ();

    /// The compiler vectorises both loops.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { mask, x, plus, y } = self;
        let products = y.iter_mut().zip(x).zip(0u32..);
        match plus {
            None => products.for_each(|((y, x), i)| *y = x * mask.factor(i)),
            Some(plus) => products.zip(plus).for_each(|(((y, x), i), plus)| *y = x * mask.factor(i) + plus),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{Trial, op, try_op};
    use super::*;

    fn dropout(rate: f64) -> Box<dyn Op> {
        op("dropout", &[("rate", Value::Float(rate))])
    }

    #[test]
    fn inference_changes_nothing() {
        let trial = Trial::new(dropout(0.5), &[Shape::new(2, [3, 5, 7], 17)]);
        trial.check(&trial.input(0));
    }

    #[test]
    fn gradients() {
        for rate in [0.0, 0.1, 0.5] {
            for (dims, c) in [([1, 1, 1], 1), ([1, 9, 13], 17), ([5, 20, 21], 70)] {
                Trial::new(dropout(rate), &[Shape::new(2, dims, c)]).check_gradients(1e-1, 1e-4);
            }
        }
    }

    #[test]
    fn the_rate_is_met_and_the_mask_is_the_same_everywhere() {
        let shape = Shape::new(2, [5, 20, 21], 70);
        for rate in [0.0, 0.2, 0.9, 1.0] {
            let trial = Trial::new(dropout(rate), &[shape]);
            let d_y = vec![1.0; shape.len()];
            let (y, gradients) = trial.train(Isa::Portable, 1, &d_y, false);
            for isa in Isa::available() {
                assert!(trial.train(isa, 3, &d_y, false) == (y.clone(), gradients.clone()));
            }
            let scale = if rate < 1.0 { 1.0 / (1.0 - rate as f32) } else { 0.0 };
            let mut dropped = 0;
            for ((x, y), d_x) in trial.inputs[0].iter().zip(y).zip(&gradients[0]) {
                assert!(*d_x == 0.0 || *d_x == scale);
                assert_eq!(y, x * d_x);
                dropped += usize::from(*d_x == 0.0);
            }
            // Six standard errors.
            let (count, wanted) = (shape.len() as f64, rate * shape.len() as f64);
            assert!(
                (dropped as f64 - wanted).abs() <= 6.0 * (count * rate * (1.0 - rate)).sqrt(),
                "{dropped} at {rate}"
            );
        }
    }

    #[test]
    fn masks_of_seeds_and_chunks_differ_and_neighbours_are_independent() {
        let masks: Vec<Vec<bool>> = [(1, 0), (1, 1), (2, 0), (1 << 40, 0)]
            .map(|(seed, chunk)| {
                let mask = Mask { key: key(seed, chunk), threshold: 1 << 31, scale: 2.0 };
                (0..1 << 14).map(|i| mask.factor(i) == 0.0).collect()
            })
            .into();
        // The share of agreement of two fair coins is a half; 6 standard errors are 0.024.
        let share = |a: &[bool], b: &[bool]| {
            let agree = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len().min(b.len()) as f64;
            assert!((agree - 0.5).abs() < 0.024, "{agree}");
        };
        for (i, mask) in masks.iter().enumerate() {
            masks[..i].iter().for_each(|other| share(mask, other));
            [1, 2, 3, 16, 64, 70, 1024].iter().for_each(|&distance| share(mask, &mask[distance..]));
        }
    }

    #[test]
    fn rates_that_are_not_probabilities_are_refused() {
        for rate in [-0.1, 1.5, f64::NAN] {
            assert!(try_op("dropout", &[("rate", Value::Float(rate))]).unwrap_err().contains("rate"));
        }
    }
}
