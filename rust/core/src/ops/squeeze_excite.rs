//! Squeeze-and-excitation (Hu et al. 2018): every channel is scaled by a gate that all channels decide on.
//!
//! `mean[n][c]` over the points; `hidden = activation(fc1 . mean)`; `s = gate(fc2 . hidden)`; `y = x * s[n][c]`
//!
//! The last step is one elementwise pass that takes along a batch norm, a residual sum and an activation: with the norm
//! after the scaling (Keras's order) `y = activation(x * (s[n][c] * scale[c]) + shift[c] + residual)`.
//! Backward: see `squeeze_excite_backward`.

use std::slice::ChunksExactMut;

use super::activation::Activation;
use super::affine::{Pass, repeats};
use super::dense::Product;
use super::epilogue::Epilogue;
use super::fold::{Slabs, Sum};
use super::squeeze_excite_backward::SqueezeExciteTraining;
use super::{Attributes, Compile, Io, Op, Packed, Parameter, Role, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::buffer::align_up;
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::simd::Isa;

/// Squeeze-and-excitation with what follows it.
#[derive(Clone, Copy, Debug)]
pub struct SqueezeExcite {
    pub(super) hidden: usize,
    pub(super) activation: Activation,
    pub(super) gate: Activation,
    pub(super) epilogue: Epilogue,
}

impl SqueezeExcite {
    /// Parameters of its own: weight and bias of both layers.
    pub(super) const PARAMETERS: usize = 4;

    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let hidden = attributes.size("hidden")?;
        let activation = Activation::named(&attributes.text("activation")?)?;
        let gate = Activation::named(&attributes.text("gate")?)?;
        Ok(Box::new(Self { hidden, activation, gate, epilogue: Epilogue::default() }))
    }
}

impl Op for SqueezeExcite {
    fn kind(&self) -> &'static str {
        "squeeze_excite"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let (c, hidden) = (channels[0], self.hidden);
        let parameters = vec![
            Parameter::new("fc1.weight", &[hidden, c, 1, 1, 1], Role::Kernel),
            Parameter::new("fc1.bias", &[hidden], Role::Bias),
            Parameter::new("fc2.weight", &[c, hidden, 1, 1, 1], Role::Kernel),
            Parameter::new("fc2.bias", &[c], Role::Bias),
        ];
        debug_assert_eq!(parameters.len(), Self::PARAMETERS);
        Ok(Signature { channels: c, parameters })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Slabs::infer(inputs[0])?;
        let hidden = Shape::vector(inputs[0].n, self.hidden);
        hidden.checked_len().ok_or_else(|| format!("the hidden layer is too large: {hidden}"))?;
        self.epilogue.infer(inputs[0], inputs)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        let epilogue = self.epilogue.absorb(next, slot)?;
        Some(Box::new(Self { epilogue, ..*self }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        let (isa, shape) = (context.isa, context.inputs[0]);
        let (gates, shift) = Gates::new(*self, context);
        Box::new(SqueezeExciteStep {
            epilogue: self.epilogue,
            isa,
            shape,
            slabs: Slabs::new(isa, shape),
            gates,
            shift: shift.repeat(repeats(shape.c)),
        })
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(SqueezeExciteTraining::new(*self, context, wants))
    }
}

/// The two layers: from the means of all channels to the factor of each.
pub(super) struct Gates {
    op: SqueezeExcite,
    isa: Isa,
    shape: Shape,
    /// Weight and bias of both layers.
    layers: [Packed; SqueezeExcite::PARAMETERS],
    ones: Vec<f32>,
    /// Of the norm that follows.
    scale: Vec<f32>,
}

impl Gates {
    /// For the maps that are the operator's input; and the summands of the norm that follows.
    pub(super) fn new(op: SqueezeExcite, context: &mut Compile<'_>) -> (Self, Vec<f32>) {
        let (isa, shape, parameters) = (context.isa, context.inputs[0], context.parameters);
        let layers = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"];
        let layers = std::array::from_fn(|i| context.copied(layers[i], parameters[i]));
        let norm = op.epilogue.scale_shift(parameters);
        let (scale, shift) = norm.unwrap_or_else(|| (vec![1.0; shape.c], vec![0.0; shape.c]));
        let ones = vec![1.0; shape.c.max(op.hidden)];
        (Self { op, isa, shape, layers, ones, scale }, shift)
    }

    /// Elements of the means.
    pub(super) fn means(&self) -> usize {
        self.shape.n * self.shape.c
    }

    /// Elements of the hidden layer.
    pub(super) fn hidden(&self) -> usize {
        self.shape.n * self.op.hidden
    }

    /// Makes gates of `mean` `(n, c)`, and writes the factors of each sample to one of `rows`, as often as they fit.
    pub(super) fn run(&self, mean: &mut [f32], hidden: &mut [f32], rows: ChunksExactMut<'_, f32>, pool: &Pool) {
        let Self { op, isa, shape: Shape { n, c, .. }, .. } = *self;
        let layer = |x: &[f32], [weight, shift]: [&[f32]; 2], c, activation, y: &mut [f32]| {
            let scale = &self.ones[..shift.len()];
            Product { isa, x, weight, rows: n, c, scale, shift, residual: None, activation }.run(y, pool);
        };
        let [weight1, bias1, weight2, bias2] = self.layers.each_ref().map(|layer| &layer[..]);
        layer(mean, [weight1, bias1], c, op.activation, hidden);
        layer(hidden, [weight2, bias2], op.hidden, op.gate, mean);
        for (row, gate) in rows.zip(mean.chunks_exact(c)) {
            for row in row.chunks_exact_mut(c) {
                for ((row, gate), scale) in row.iter_mut().zip(gate).zip(&self.scale) {
                    *row = gate * scale;
                }
            }
        }
    }

    /// Multiplications and additions of the layers, and of the factors at every point.
    pub(super) fn flops(&self) -> u64 {
        let Shape { n, c, .. } = self.shape;
        let layers = (4 * n * c) as u64;
        layers.saturating_mul(self.op.hidden as u64).saturating_add(2 * self.shape.len() as u64)
    }
}

struct SqueezeExciteStep {
    epilogue: Epilogue,
    isa: Isa,
    shape: Shape,
    slabs: Slabs,
    gates: Gates,
    /// As the elementwise pass wants it.
    shift: Vec<f32>,
}

impl SqueezeExciteStep {
    /// Scratch memory: slabs; mean, later the gate; hidden; the rows of the elementwise pass.
    fn pieces(&self) -> [usize; 4] {
        let factors = self.shape.n * self.shift.len();
        [self.slabs.scratch(), self.gates.means(), self.gates.hidden(), factors].map(align_up)
    }
}

impl Step for SqueezeExciteStep {
    fn scratch(&self) -> usize {
        self.pieces().iter().sum()
    }

    fn forward(&self, io: Io<'_>) {
        let (x, pool, isa) = (io.inputs[0], io.pool, self.isa);
        let Epilogue { residual, activation, .. } = self.epilogue;
        let [slabs, mean, hidden, _] = self.pieces();
        let (slabs, scratch) = io.scratch.split_at_mut(slabs);
        let (mean, scratch) = scratch.split_at_mut(mean);
        let (hidden, rows) = scratch.split_at_mut(hidden);
        let (mean, hidden) = (&mut mean[..self.gates.means()], &mut hidden[..self.gates.hidden()]);
        let rows = &mut rows[..self.shape.n * self.shift.len()];

        self.slabs.fold::<Sum>(x, mean, slabs, pool, 1.0 / self.shape.spatial() as f32);
        self.gates.run(mean, hidden, rows.chunks_exact_mut(self.shift.len()), pool);
        let residual = residual.then(|| io.inputs[1]);
        Pass { isa, x, residual, scale: rows, shift: &self.shift, activation }.run(io.output, pool);
    }

    fn algorithm(&self) -> String {
        "squeeze, two layers, one pass".into()
    }

    fn flops(&self) -> u64 {
        self.gates.flops()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{Trial, excite, naive_excite, naive_norm, norm, op, text};
    use super::*;

    #[test]
    fn alone_and_with_what_follows() {
        for (c, hidden) in [(1, 1), (3, 1), (15, 2), (16, 1), (17, 3), (64, 4), (256, 16), (300, 30)] {
            for dims in [[1, 1, 1], [1, 14, 15], [3, 9, 20]] {
                let shape = Shape::new(3, dims, c);
                let trial = Trial::new(excite(hidden), &[shape]);
                let y = naive_excite(&trial.input(0), shape, &trial.parameters);
                trial.check(&y);
                let trial = trial.absorb(&*norm(), &[]);
                let mut want = naive_norm(&y, &trial.parameters[4..]);
                trial.check(&want);
                let trial = trial.absorb(&*op("add", &[]), &[shape]);
                want.iter_mut().zip(trial.input(1)).for_each(|(y, residual)| *y += residual);
                let trial = trial.absorb(&*op("activation", &[("function", text("relu"))]), &[]);
                trial.check(&want.iter().map(|y| y.max(0.0)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn gradients() {
        for (c, hidden) in [(1, 1), (5, 2), (16, 3), (70, 9)] {
            for dims in [[1, 1, 1], [1, 9, 13], [3, 9, 14]] {
                // Smooth functions, of which one is known from its output and one from its input.
                for (activation, gate) in [("tanh", "sigmoid"), ("silu", "sigmoid"), ("tanh", "gelu")] {
                    let names = [("activation", text(activation)), ("gate", text(gate))];
                    let op = op("squeeze_excite", &[&names[..], &[("hidden", Value::Int(hidden))]].concat());
                    let mut trial = Trial::new(op, &[Shape::new(3, dims, c)]);
                    // Means near zero would leave the first layer without a gradient.
                    trial.inputs[0].iter_mut().for_each(|x| *x += 0.5);
                    // Many channels move a gate far with a small step; one, whose gradient is small, needs a larger one.
                    let (h, tolerance) = if c == 1 { (2e-2, 5e-3) } else { (2e-3, 1e-3) };
                    trial.check_gradients(h, tolerance);
                }
            }
        }
    }

    #[test]
    fn names_and_sizes_are_checked() {
        let names =
            |activation, gate| [("hidden", Value::Int(1)), ("activation", text(activation)), ("gate", text(gate))];
        let parse =
            |activation, gate| super::super::trial::try_op("squeeze_excite", &names(activation, gate)).map(|_| ());
        assert_eq!(parse("relu", "hard_sigmoid"), Ok(()));
        assert!(parse("relu", "sigmod").unwrap_err().contains("sigmod"));
        assert!(parse("Relu", "sigmoid").is_err());
        assert!(excite(1 << 20).infer(&[Shape::vector(1 << 44, 1)]).is_err());
    }
}
