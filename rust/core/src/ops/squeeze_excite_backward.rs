//! Squeeze-and-excitation backward, with nothing after the scaling.
//!
//! `d_s[n][c] = Σ_p d_y * x`, one pass over both maps; with `s = gate(z2)`, `z2 = fc2 . hidden`, `hidden = activation(z1)`
//! and `z1 = fc1 . mean` come `d_z2 = d_s gate'`, `d_hidden` (n, hidden) from the second layer, `d_z1 = d_hidden activation'` and
//! `d_mean` (n, c) from the first, both as `dense_backward` has it; and `d_x = d_y * s[n][c] + d_mean[n][c] / points`, one
//! elementwise pass. Nothing but `x` and vectors is kept.

use super::activation::Activation;
use super::affine::{AffineStep, Pass, repeats};
use super::affine_backward::BackwardPass;
use super::channel_sums::{ChannelSums, Terms};
use super::dense_backward::{DenseGradients, DenseTraining};
use super::fold::{Slabs, Sum};
use super::lanes::load;
use super::squeeze_excite::SqueezeExcite;
use super::{Backward, Compile, Forward, Gradient, Io, Keeps, Step, TrainStep, Wants};
use crate::buffer::align_up;
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::simd::{Isa, Simd};

/// Both directions, with nothing after the scaling.
pub(super) struct SqueezeExciteTraining {
    op: SqueezeExcite,
    isa: Isa,
    shape: Shape,
    slabs: Slabs,
    /// Over one sample.
    sums: ChannelSums,
    layers: [DenseTraining; 2],
}

impl SqueezeExciteTraining {
    pub(super) fn new(op: SqueezeExcite, context: &Compile<'_>, wants: Wants<'_>) -> Self {
        let (isa, shape) = (context.isa, context.output);
        let (n, c, hidden) = (shape.n, shape.c, op.hidden);
        Self {
            op,
            isa,
            shape,
            slabs: Slabs::new(isa, shape),
            sums: ChannelSums::new(isa, Shape { n: 1, ..shape }),
            layers: [
                DenseTraining::new(isa, n, [c, hidden], wants.parameters[0]),
                DenseTraining::new(isa, n, [hidden, c], wants.parameters[2]),
            ],
        }
    }

    /// What is saved, and each gradient of it: mean; `z1`; hidden; `z2`; `s`.
    fn vectors(&self) -> [usize; 5] {
        let (c, hidden) = (self.shape.n * self.shape.c, self.shape.n * self.op.hidden);
        [c, hidden, hidden, c, c]
    }

    fn vectors_length(&self) -> usize {
        self.vectors().map(align_up).iter().sum()
    }

    /// The vectors in memory, each on a line of its own.
    fn split<'a>(&self, mut memory: &'a mut [f32]) -> [&'a mut [f32]; 5] {
        self.vectors().map(|length| {
            let (vectors, rest) = std::mem::take(&mut memory).split_at_mut(align_up(length));
            memory = rest;
            &mut vectors[..length]
        })
    }

    fn split_saved<'a>(&self, mut memory: &'a [f32]) -> [&'a [f32]; 5] {
        self.vectors().map(|length| {
            let (vectors, rest) = memory.split_at(align_up(length));
            memory = rest;
            &vectors[..length]
        })
    }

    fn activate(&self, activation: Activation, x: &[f32], output: &mut [f32], pool: &Pool) {
        let io = Io { inputs: &[x], output, in_place: false, scratch: &mut [], pool };
        AffineStep::new(self.isa, &[1.0], &[0.0], false, activation).forward(io);
    }

    /// `d_x` of `y = activation(x)`.
    fn deactivate(&self, activation: Activation, [x, y, d_y]: [&[f32]; 3], d_x: &mut [f32], pool: &Pool) {
        let value = if activation.backward_takes_output() { y } else { x };
        let factor = vec![1.0; repeats(1)];
        let pass =
            BackwardPass { isa: self.isa, d_y, activation, value, factor: &factor, row: factor.len(), norm: None };
        pass.run(Some(Gradient { values: d_x, plus: None }), None, pool);
    }

    /// The sums of `d_y * x` over the points of every sample.
    fn gate_gradient(&self, x: &[f32], d_y: &[f32], d_gate: &mut [f32], scratch: &mut [f32], pool: &Pool) {
        let (sample, c) = (self.shape.sample(), self.shape.c);
        for ((x, d_y), d_gate) in x.chunks_exact(sample).zip(d_y.chunks_exact(sample)).zip(d_gate.chunks_exact_mut(c)) {
            let [total] = self.sums.total(&Scaling { x, d_y }, scratch, pool);
            d_gate.iter_mut().zip(total).for_each(|(to, total)| *to = total as f32);
        }
    }
}

impl TrainStep for SqueezeExciteTraining {
    fn keeps(&self) -> Keeps {
        Keeps::inputs(&[0])
    }

    fn saved(&self) -> usize {
        self.vectors_length()
    }

    fn scratch(&self) -> [usize; 2] {
        let layers = self.layers.iter().map(DenseTraining::backward_scratch);
        let rest = layers.chain([self.sums.scratch(1)]).max().unwrap_or(0);
        [self.slabs.scratch(), self.vectors_length() + rest]
    }

    fn forward(&self, io: Forward<'_>) {
        let Forward { parameters, inputs, pool, .. } = io;
        let SqueezeExcite { activation, gate, .. } = self.op;
        let [mean, z1, hidden, z2, s] = self.split(io.saved);
        self.slabs.fold::<Sum>(inputs[0], mean, io.scratch, pool, 1.0 / self.shape.spatial() as f32);
        self.layers[0].output(mean, parameters[0], Some(parameters[1]), z1, pool);
        self.activate(activation, z1, hidden, pool);
        self.layers[1].output(hidden, parameters[2], Some(parameters[3]), z2, pool);
        self.activate(gate, z2, s, pool);
        self.forward_again(io);
    }

    fn forward_again(&self, io: Forward<'_>) {
        let Forward { inputs, output, saved, pool, .. } = io;
        let (x, c) = (inputs[0], self.shape.c);
        let [.., s] = self.split_saved(saved);
        let repeats = repeats(c);
        let (scale, shift): (Vec<f32>, _) =
            (s.chunks_exact(c).flat_map(|row| row.repeat(repeats)).collect(), vec![0.0; c * repeats]);
        Pass { isa: self.isa, x, residual: None, scale: &scale, shift: &shift, activation: Activation::Linear }
            .run(output, pool);
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { parameters, inputs, d_output, saved, d_inputs, d_parameters, scratch, pool, .. } = io;
        let SqueezeExcite { activation, gate, .. } = self.op;
        let Shape { c, .. } = self.shape;
        let [mean, z1, hidden, z2, s] = self.split_saved(saved);
        let (vectors, scratch) = scratch.split_at_mut(self.vectors_length());
        let [d_mean, d_z1, d_hidden, d_z2, d_s] = self.split(vectors);
        let [weight1, bias1, weight2, bias2] = d_parameters else {
            unreachable!("squeeze_excite has {} parameters", SqueezeExcite::PARAMETERS)
        };
        self.gate_gradient(inputs[0], d_output, d_s, scratch, pool);
        self.deactivate(gate, [z2, s, d_s], d_z2, pool);
        let gradients = DenseGradients { weight: weight2.as_deref_mut(), bias: bias2.as_deref_mut() };
        let d_x = Some(Gradient { values: &mut *d_hidden, plus: None });
        self.layers[1].gradients([hidden, parameters[2], d_z2], gradients, d_x, scratch, pool);
        self.deactivate(activation, [z1, hidden, d_hidden], d_z1, pool);
        let gradients = DenseGradients { weight: weight1.as_deref_mut(), bias: bias1.as_deref_mut() };
        let d_x = Some(Gradient { values: &mut *d_mean, plus: None });
        self.layers[0].gradients([mean, parameters[0], d_z1], gradients, d_x, scratch, pool);

        let Some(Gradient { values, plus }) = d_inputs[0].take() else { return };
        let (sample, points) = (self.shape.sample(), self.shape.spatial() as f32);
        for (n, values) in values.chunks_exact_mut(sample).enumerate() {
            let (channels, elements) = (n * c..(n + 1) * c, n * sample..(n + 1) * sample);
            let shift: Vec<f32> = d_mean[channels.clone()].iter().map(|d_mean| d_mean / points).collect();
            let [scale, shift] = [&s[channels], &shift].map(|row| row.repeat(repeats(c)));
            let pass = Pass {
                isa: self.isa,
                x: &d_output[elements.clone()],
                residual: plus.map(|plus| &plus[elements]),
                scale: &scale,
                shift: &shift,
                activation: Activation::Linear,
            };
            pass.run(values, pool);
        }
    }
}

/// `d_y * x`
struct Scaling<'a> {
    x: &'a [f32],
    d_y: &'a [f32],
}

impl Terms<1> for Scaling<'_> {
    #[inline(always)]
    unsafe fn terms<S: Simd>(&self, simd: S, at: usize, _: usize, _: usize, tail: Option<S::M>) -> [S::V; 1] {
        // SAFETY: by this function's contract, for both maps.
        unsafe { [simd.mul(load(simd, self.x.as_ptr().add(at), tail), load(simd, self.d_y.as_ptr().add(at), tail))] }
    }
}
