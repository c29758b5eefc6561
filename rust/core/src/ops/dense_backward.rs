//! The dense layer in both directions, on few rows of activations and with the weights where they lie.
//!
//! With `y = x Wᵀ + b`, `x` of shape (rows, c) and `W` (k, c): `d_W = d_yᵀ x`, `d_b` the sum of the rows of `d_y`, and
//! `d_x = d_y W`. All are sums of outer products of rows: `d_W` over the rows of `d_y` and `x`, `d_x` over the rows of `W` and
//! of the transposed `d_y`, which is the only thing that is rearranged.

use super::activation::Activation;
use super::channel_sums::ChannelSums;
use super::dense::Product;
use super::outer_sum::OuterSum;
use super::training::Gradient;
use super::{Backward, Forward, Keeps, TrainStep};
use crate::buffer::align_up;
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::simd::Isa;

/// A layer from vectors of `c` to vectors of `k` channels.
pub(super) struct DenseTraining {
    isa: Isa,
    rows: usize,
    c: usize,
    k: usize,
    ones: Vec<f32>,
    zeros: Vec<f32>,
    d_bias: ChannelSums,
    /// Whether the gradient of the weights is wanted.
    trains: bool,
}

/// The gradients of a layer's parameters, where they are wanted.
pub(super) struct DenseGradients<'a> {
    pub(super) weight: Option<&'a mut [f32]>,
    pub(super) bias: Option<&'a mut [f32]>,
}

impl DenseTraining {
    /// `trains` says whether the weights do.
    pub(super) fn new(isa: Isa, rows: usize, [c, k]: [usize; 2], trains: bool) -> Self {
        let d_bias = ChannelSums::new(isa, Shape::vector(rows, k));
        Self { isa, rows, c, k, ones: vec![1.0; k], zeros: vec![0.0; k], d_bias, trains }
    }

    /// Elements of scratch memory that [`DenseTraining::gradients`] needs.
    pub(super) fn backward_scratch(&self) -> usize {
        align_up(self.rows * self.k).max(self.d_bias.scratch(1))
    }

    /// `y = x Wᵀ + b`
    pub(super) fn output(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32], pool: &Pool) {
        let Self { isa, rows, c, .. } = *self;
        let (scale, shift) = (&self.ones, bias.unwrap_or(&self.zeros));
        Product { isa, x, weight, rows, c, scale, shift, residual: None, activation: Activation::Linear }.run(y, pool);
    }

    /// Adds to the gradients of the parameters, and writes that of `x`.
    pub(super) fn gradients(
        &self,
        [x, weight, d_y]: [&[f32]; 3],
        parameters: DenseGradients<'_>,
        d_x: Option<Gradient<'_>>,
        scratch: &mut [f32],
        pool: &Pool,
    ) {
        let Self { isa, rows, c, k, .. } = *self;
        if let Some(d_weight) = parameters.weight {
            OuterSum { isa, a: d_y, b: x, rows: k, columns: c }.run(d_weight, true, pool);
        }
        if let Some(d_bias) = parameters.bias {
            self.d_bias.add(d_y, d_bias, scratch, pool);
        }
        if let Some(Gradient { values, plus }) = d_x {
            let transposed = &mut scratch[..rows * k];
            for (unit, row) in transposed.chunks_exact_mut(rows).enumerate() {
                row.iter_mut().zip(d_y[unit..].iter().step_by(k)).for_each(|(to, &from)| *to = from);
            }
            if let Some(plus) = plus {
                values.copy_from_slice(plus);
            }
            OuterSum { isa, a: transposed, b: weight, rows, columns: c }.run(values, plus.is_some(), pool);
        }
    }
}

impl TrainStep for DenseTraining {
    fn keeps(&self) -> Keeps {
        if self.trains { Keeps::inputs(&[0]) } else { Keeps::nothing() }
    }

    fn scratch(&self) -> [usize; 2] {
        [0, self.backward_scratch()]
    }

    fn flops(&self) -> u64 {
        2 * (self.rows * self.c) as u64 * self.k as u64
    }

    fn forward(&self, io: Forward<'_>) {
        self.output(io.inputs[0], io.parameters[0], io.parameters.get(1).copied(), io.output, io.pool);
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { parameters, inputs, d_output, d_inputs, d_parameters, scratch, pool, .. } = io;
        let (weight, bias) = match d_parameters {
            [weight, bias] => (weight.as_deref_mut(), bias.as_deref_mut()),
            d_parameters => (d_parameters[0].as_deref_mut(), None),
        };
        let gradients = DenseGradients { weight, bias };
        self.gradients([inputs[0], parameters[0], d_output], gradients, d_inputs[0].take(), scratch, pool);
    }
}
