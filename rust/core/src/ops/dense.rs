//! The fully connected layer: `y[k] = sum over c of x[c] * weight[k][c] + bias[k]`, at every point of the map.
//!
//! One vector of activations makes it a stream over the weights, so they are used where they lie, in PyTorch's layout:
//! vectors run along `c`, several outputs at a time, and each lane is summed at the end. A task owns a block of
//! outputs and goes over all rows of activations with it, so that its weights are read from memory once. Every output
//! is summed in the same order however many rows there are. A map of more than one point is a 1x1 convolution instead.
//! The directions of training are in `dense_backward`, and those of maps in that convolution.

use std::ops::Range;

use super::activation::Activation;
use super::conv::Conv;
use super::dense_backward::DenseTraining;
use super::epilogue::Epilogue;
use super::lanes::load;
use super::{Attributes, Compile, Io, Op, Packed, Parameter, Role, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::parallel::{Pool, SharedMut};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// A fully connected layer with what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    units: usize,
    bias: bool,
    epilogue: Epilogue,
}

impl Dense {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let (units, bias) = (attributes.size("units")?, attributes.flag("bias")?);
        Ok(Box::new(Self { units, bias, epilogue: Epilogue::default() }))
    }
}

impl Op for Dense {
    fn kind(&self) -> &'static str {
        "dense"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let mut parameters = vec![Parameter::new("weight", &[self.units, channels[0]], Role::Kernel)];
        if self.bias {
            parameters.push(Parameter::new("bias", &[self.units], Role::Bias));
        }
        Ok(Signature { channels: self.units, parameters })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        self.epilogue.infer(inputs[0].with_channels(self.units), inputs)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        let epilogue = self.epilogue.absorb(next, slot)?;
        Some(Box::new(Self { epilogue, ..*self }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        if context.output.spatial() > 1 {
            // Many rows of each sample are worth packed weights.
            return Conv::pointwise(self.units, self.bias, self.epilogue).compile(context);
        }
        let own = self.epilogue.own_parameters(context.parameters);
        let (weight, bias) = (own[0], own.get(1));
        // bias and norm as one: (x + bias) * scale + shift
        let norm = self.epilogue.scale_shift(context.parameters);
        let (scale, mut shift) = norm.unwrap_or_else(|| (vec![1.0; self.units], vec![0.0; self.units]));
        if let Some(bias) = bias {
            for ((shift, &scale), &bias) in shift.iter_mut().zip(&scale).zip(*bias) {
                *shift = (f64::from(bias) * f64::from(scale) + f64::from(*shift)) as f32;
            }
        }
        let weight = context.copied("rows", weight);
        let Compile { isa, inputs, output, .. } = *context;
        let Epilogue { residual, activation, .. } = self.epilogue;
        let rows = output.n * output.spatial();
        Box::new(DenseStep { isa, rows, c: inputs[0].c, weight, scale, shift, residual, activation })
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        let Compile { isa, output, inputs, .. } = *context;
        if output.spatial() > 1 {
            return Conv::pointwise(self.units, self.bias, self.epilogue).compile_for_training(context, wants);
        }
        Box::new(DenseTraining::new(isa, output.n, [inputs[0].c, self.units], wants.parameters[0]))
    }
}

struct DenseStep {
    isa: Isa,
    rows: usize,
    c: usize,
    weight: Packed,
    scale: Vec<f32>,
    shift: Vec<f32>,
    residual: bool,
    activation: Activation,
}

impl Step for DenseStep {
    fn forward(&self, io: Io<'_>) {
        let residual = self.residual.then(|| io.inputs[1]);
        let Self { isa, rows, c, activation, .. } = *self;
        let (x, weight, scale, shift) = (io.inputs[0], &self.weight, &self.scale, &self.shift);
        Product { isa, x, weight, rows, c, scale, shift, residual, activation }.run(io.output, io.pool);
    }

    fn algorithm(&self) -> String {
        "dot products".into()
    }

    fn flops(&self) -> u64 {
        (2 * self.rows as u64).saturating_mul(self.weight.len() as u64)
    }
}

/// `y[row][k] = activation((x[row] . weight[k]) * scale[k] + shift[k] + residual[row][k])`
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) isa: Isa,
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) rows: usize,
    pub(super) c: usize,
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) residual: Option<&'a [f32]>,
    pub(super) activation: Activation,
}

/// Outputs of a register tile.
const UNITS: usize = 4;

impl Product<'_> {
    /// Writes all of `y`.
    pub(super) fn run(self, y: &mut [f32], pool: &Pool) {
        /// Weights of a task.
        const WEIGHTS: usize = 16 * 1024;
        /// Multiplications of a task, where there are many rows.
        const WORK: usize = 512 * 1024;
        let Self { isa, rows, c, .. } = self;
        let k = self.shift.len();
        assert!(self.x.len() == rows * c && self.weight.len() == k * c && self.scale.len() == k && y.len() == rows * k);
        assert!(self.residual.is_none_or(|residual| residual.len() == y.len()));
        let units = (WEIGHTS / c).next_multiple_of(UNITS).clamp(UNITS, k.next_multiple_of(UNITS));
        let height = (WORK / (units * c)).next_multiple_of(4).max(4);
        let blocks = rows.div_ceil(height);
        let y = SharedMut::new(y);
        pool.for_each(blocks * k.div_ceil(units), |task| {
            let (first, row) = (task / blocks * units, task % blocks * height);
            let block =
                Block { product: self, y, units: first..k.min(first + units), rows: row..rows.min(row + height) };
            dispatch(isa, block);
        });
    }
}

/// The outputs `units` of `rows`.
struct Block<'a> {
    product: Product<'a>,
    y: SharedMut<'a>,
    units: Range<usize>,
    rows: Range<usize>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // As many accumulators as there are registers for.
        let accumulators = S::TILE_ROWS * S::TILE_VECTORS;
        if self.rows.len() == 1 || accumulators < 2 * UNITS {
            self.tiles::<S, 1>(simd);
        } else if accumulators < 4 * UNITS {
            self.tiles::<S, 2>(simd);
        } else {
            self.tiles::<S, 4>(simd);
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize>(&self, simd: S) {
        for unit in self.units.clone().step_by(UNITS) {
            for row in self.rows.clone().step_by(ROWS) {
                self.tile::<S, ROWS>(simd, row, unit);
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize>(&self, simd: S, row: usize, unit: usize) {
        let Product { x, weight, c, .. } = self.product;
        // Beyond the edge the last row and unit are computed again, and not written.
        let x: [*const f32; ROWS] = std::array::from_fn(|i| x[(row + i).min(self.rows.end - 1) * c..][..c].as_ptr());
        let weight: [*const f32; UNITS] =
            std::array::from_fn(|i| weight[(unit + i).min(self.units.end - 1) * c..][..c].as_ptr());
        let mut acc = [[simd.splat(0.0); UNITS]; ROWS];
        let vectors = c / S::LANES;
        for vector in 0..vectors {
            if ROWS == 1 {
                // One row makes little of its weights: those of the next tile are on their way meanwhile.
                for weight in weight {
                    simd.prefetch(weight.wrapping_add(UNITS * c + vector * S::LANES));
                }
            }
            // SAFETY: the vector is inside the `c` elements of each pointer.
            unsafe { multiply(simd, &mut acc, x, weight, vector * S::LANES, None) };
        }
        let start = vectors * S::LANES;
        if start < c {
            // SAFETY: the mask ends with the `c` elements of each pointer.
            unsafe { multiply(simd, &mut acc, x, weight, start, Some(simd.first(c - start))) };
        }
        for (row, acc) in (row..self.rows.end).zip(acc) {
            self.finish(simd, row, unit, acc.map(|sums| simd.reduce_add(sums)));
        }
    }

    /// Everything after the sums, and the output.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, row: usize, unit: usize, sums: [f32; UNITS]) {
        let Product { scale, shift, residual, activation, .. } = self.product;
        let count = UNITS.min(self.units.end - unit);
        let mask = simd.first(count);
        let start = row * shift.len() + unit;
        // SAFETY: `count` outputs from `unit` are in `sums`, `scale`, `shift` and the row of the residual.
        let y = unsafe {
            let sums = simd.load_masked(sums.as_ptr(), mask);
            let scale = simd.load_masked(scale.as_ptr().add(unit), mask);
            let y = simd.fma(sums, scale, simd.load_masked(shift.as_ptr().add(unit), mask));
            match residual {
                Some(residual) => simd.add(y, simd.load_masked(residual.as_ptr().add(start), mask)),
                None => y,
            }
        };
        // SAFETY: every output belongs to one task.
        let to = unsafe { self.y.slice_mut(start..start + count) };
        // SAFETY: `to` has `count` elements.
        unsafe { simd.store_masked(to.as_mut_ptr(), activation.apply(simd, y), mask) };
    }
}

/// `acc[i][j] += x[i] * weight[j]` for the vector at `start`.
///
/// # Safety
/// The vector, or the lanes of the tail, must be readable from all pointers.
#[inline(always)]
unsafe fn multiply<S: Simd, const ROWS: usize>(
    simd: S,
    acc: &mut [[S::V; UNITS]; ROWS],
    x: [*const f32; ROWS],
    weight: [*const f32; UNITS],
    start: usize,
    tail: Option<S::M>,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let x = x.map(|x| load(simd, x.add(start), tail));
        for j in 0..UNITS {
            let weight = load(simd, weight[j].add(start), tail);
            for i in 0..ROWS {
                acc[i][j] = simd.fma(x[i], weight, acc[i][j]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{Trial, naive_norm, norm, op, text};
    use super::*;

    fn dense(units: usize, bias: bool) -> Box<dyn Op> {
        op("dense", &[("units", Value::Int(units as i64)), ("bias", Value::Bool(bias))])
    }

    fn naive(trial: &Trial) -> Vec<f64> {
        let (x, weight, c) = (trial.input(0), trial.parameter(0), trial.shapes[0].c);
        let mut y = Vec::new();
        for row in x.chunks(c) {
            for (unit, weight) in weight.chunks(c).enumerate() {
                let bias = trial.parameters.get(1).map_or(0.0, |bias| f64::from(bias[unit]));
                y.push(row.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>() + bias);
            }
        }
        y
    }

    #[test]
    fn products_of_all_sizes() {
        for (c, units) in [(1, 1), (3, 5), (15, 16), (16, 4), (17, 33), (64, 10), (512, 1000), (2048, 6)] {
            for n in [1, 2, 3, 7, 70] {
                for bias in [false, true] {
                    let trial = Trial::new(dense(units, bias), &[Shape::vector(n, c)]);
                    trial.check(&naive(&trial));
                }
            }
        }
        let trial = Trial::new(dense(9, true), &[Shape::new(2, [3, 4, 5], 11)]);
        trial.check(&naive(&trial));
    }

    #[test]
    fn gradients() {
        for (c, units) in [(1, 1), (3, 5), (17, 33), (70, 16), (300, 61)] {
            for n in [1, 3, 70] {
                for bias in [false, true] {
                    Trial::new(dense(units, bias), &[Shape::vector(n, c)]).check_gradients(1e-1, 1e-4);
                }
            }
        }
        for dims in [[1, 5, 7], [3, 4, 5]] {
            Trial::new(dense(19, true), &[Shape::new(2, dims, 11)]).check_gradients(1e-1, 1e-4);
        }
    }

    #[test]
    fn what_follows_is_absorbed() {
        for (n, units) in [(1, 1), (3, 18), (5, 70)] {
            let trial = Trial::new(dense(units, true), &[Shape::vector(n, 40)]);
            let y = naive(&trial);
            let trial = trial.absorb(&*norm(), &[]);
            let mut want = naive_norm(&y, &trial.parameters[2..]);
            trial.check(&want);
            let trial = trial.absorb(&*op("add", &[]), &[Shape::vector(n, units)]);
            want.iter_mut().zip(trial.input(1)).for_each(|(y, residual)| *y += residual);
            trial.check(&want);
            let trial = trial.absorb(&*op("activation", &[("function", text("sigmoid"))]), &[]);
            want.iter_mut().for_each(|y| *y = 1.0 / (1.0 + (-*y).exp()));
            trial.check(&want);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let all = Trial::new(dense(50, true), &[Shape::vector(9, 300)]);
        for isa in Isa::available() {
            let y = all.run(isa, 2);
            for row in 0..9 {
                let mut one = Trial::new(dense(50, true), &[Shape::vector(1, 300)]);
                one.inputs[0].copy_from_slice(&all.inputs[0][row * 300..(row + 1) * 300]);
                assert_eq!(one.run(isa, 1), y[row * 50..(row + 1) * 50]);
            }
        }
    }
}
