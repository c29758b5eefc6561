//! A pointwise convolution and the squeeze-and-excitation of its output, which is gone over once.
//!
//! The mean over all points commutes with what is linear and the same at every point: `mean(W x + b) = W mean(x) + b`. So the
//! gates follow from the mean of the convolution's input, which in a bottleneck has a quarter of the channels, and are known
//! before the convolution runs. It applies them, and what follows, in registers:
//!
//! `y = activation((W x + b) * (s[n][k] * scale[k]) + shift[k] + residual)`
//!
//! That reads the weights twice, and the input. Where they are more than the map, both operators run as they are, one after
//! the other.

use std::any::Any;

use super::Conv;
use super::algorithm::Layer;
use super::blocking::{Grid, Work};
use super::direct::{self, Direct};
use super::weights::{self, Weights};
use crate::buffer::align_up;
use crate::gemm::Scaling;
use crate::ops::activation::Activation;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::epilogue::Epilogue;
use crate::ops::fold::{Slabs, Sum};
use crate::ops::squeeze_excite::{Gates, SqueezeExcite};
use crate::ops::{Compile, Io, Op, Signature, Step, TrainStep, Wants};
use crate::shape::Shape;

/// A convolution with a norm at most, and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct ExcitedConv {
    conv: Conv,
    excite: SqueezeExcite,
}

impl ExcitedConv {
    /// `next` after `conv`, if that is one and the convolution linear and pointwise.
    pub(super) fn new(conv: Conv, next: &dyn Op) -> Option<Self> {
        let next: &dyn Any = next;
        let &excite = next.downcast_ref::<SqueezeExcite>()?;
        let Conv { window, groups, epilogue, .. } = conv;
        let is_linear = epilogue.activation == Activation::Linear && !epilogue.residual;
        let is_pointwise = window.is_pointwise() && window.stride == [1; 3];
        (groups == 1 && is_linear && is_pointwise).then_some(Self { conv, excite })
    }

    /// The output of the convolution, which is the other operator's input, and the residual, if there is one.
    fn inner(&self, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
        let output = self.conv.infer(&inputs[..1])?;
        Ok([&[output][..], &inputs[1..]].concat())
    }

    /// Parameters of the convolution and its norm: the first ones.
    fn parameters(&self) -> usize {
        let norm = if self.conv.epilogue.norm.is_some() { BatchNorm::PARAMETERS } else { 0 };
        1 + usize::from(self.conv.bias) + norm
    }
}

impl Op for ExcitedConv {
    fn kind(&self) -> &'static str {
        "conv"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        self.conv.signature(channels)
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        // Of which the mean is taken, if the gates come first.
        Slabs::infer(inputs[0])?;
        self.excite.infer(&self.inner(inputs)?)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        let epilogue = self.conv.worth(self.excite.epilogue.absorb(next, slot)?)?;
        Some(Box::new(Self { excite: SqueezeExcite { epilogue, ..self.excite }, ..*self }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        let (spatial, c, k) = (context.output.spatial(), context.inputs[0].c, context.output.c);
        // Of a sample: elements of the output that are not read and written again, against those of weights and input that are
        // read again.
        if 2 * spatial * k >= c * (k + spatial) {
            Box::new(self.gates_first(context))
        } else {
            Box::new(self.apart(context))
        }
    }

    fn compile_for_training(&self, _: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        unreachable!("what only inference absorbs is not trained")
    }
}

impl ExcitedConv {
    fn gates_first(&self, context: &mut Compile<'_>) -> Excited {
        let Compile { inputs, output, parameters, .. } = *context;
        let (own, rest) = parameters.split_at(self.parameters());
        let inner = [&[output][..], &inputs[1..]].concat();
        let (gates, shift) = Gates::new(self.excite, &mut context.part(&inner, output, rest));
        Excited::new(self, &mut context.part(&inputs[..1], output, own), gates, &shift)
    }

    fn apart(&self, context: &mut Compile<'_>) -> Apart {
        let Compile { inputs, output, parameters, .. } = *context;
        let (own, rest) = parameters.split_at(self.parameters());
        let inner = [&[output][..], &inputs[1..]].concat();
        let conv = self.conv.compile(&mut context.part(&inputs[..1], output, own));
        let excite = self.excite.compile(&mut context.part(&inner, output, rest));
        Apart { conv, excite, output }
    }
}

/// The gates first.
struct Excited {
    /// Of all points.
    conv: Direct,
    /// The same of the mean.
    mean: Direct,
    input: Shape,
    slabs: Slabs,
    gates: Gates,
    /// Summands, padded as the biases.
    shift: Vec<f32>,
}

impl Excited {
    /// With what the convolution is compiled from.
    fn new(op: &ExcitedConv, context: &mut Compile<'_>, gates: Gates, shift: &[f32]) -> Self {
        let ExcitedConv { conv, excite: SqueezeExcite { epilogue: Epilogue { residual, activation, .. }, .. } } = *op;
        let Compile { isa, threads, inputs, output, .. } = *context;
        let (scale, summand) = conv.scale_shift(context);
        let values = conv.epilogue.own_parameters(context.parameters)[0];
        // Each sample, which has gates of its own, as one long row; their means together as another.
        let work = |n: usize, points: usize| {
            let [input, output] = [inputs[0].c, output.c].map(|c| Shape::new(n, [1, 1, points], c));
            let grid = Grid::dense(output);
            Work { window: conv.window, input, output, grid, groups: 1, tile: isa.tile(), threads }
        };
        let (each, means) = (work(output.n, output.spatial()), work(1, output.n));
        let weights = Weights::new(values, Some(&scale), 1, inputs[0].c, 1);
        let layer = Layer { name: "", work: each, weights, shift: &summand, residual, activation };
        let packed = layer.pack(context);
        let panels = direct::panels(isa, &each);
        let mut padded = vec![0.0; panels.padded_columns()];
        weights::pad(shift, panels, &mut padded);
        Self {
            mean: Direct::new(isa, means, packed.clone(), false, Activation::Linear),
            conv: Direct::new(isa, each, packed, residual, activation),
            input: inputs[0],
            slabs: Slabs::new(isa, inputs[0]),
            gates,
            shift: padded,
        }
    }

    /// Scratch memory: slabs; mean of the input; that of the output, later the gates; hidden; factors.
    fn pieces(&self) -> [usize; 5] {
        let Shape { n, c, .. } = self.input;
        [self.slabs.scratch(), n * c, self.gates.means(), self.gates.hidden(), n * self.shift.len()].map(align_up)
    }
}

impl Step for Excited {
    fn scratch(&self) -> usize {
        self.pieces().iter().sum()
    }

    fn in_place(&self) -> Option<usize> {
        self.conv.in_place()
    }

    fn forward(&self, io: Io<'_>) {
        let Io { inputs, output, in_place, mut scratch, pool } = io;
        let Shape { n, c, .. } = self.input;
        let [slabs, mean, gates, hidden, factor] = self.pieces().map(|length| {
            let (piece, rest) = std::mem::take(&mut scratch).split_at_mut(length);
            scratch = rest;
            piece
        });
        let (mean, gates) = (&mut mean[..n * c], &mut gates[..self.gates.means()]);
        let (hidden, factor) = (&mut hidden[..self.gates.hidden()], &mut factor[..n * self.shift.len()]);

        self.slabs.fold::<Sum>(inputs[0], mean, slabs, pool, 1.0 / self.input.spatial() as f32);
        // Windows of one point are read in place: no scratch memory.
        self.mean.forward(Io { inputs: &[mean], output: &mut *gates, in_place: false, scratch: &mut [], pool });
        self.gates.run(gates, hidden, factor.chunks_exact_mut(self.shift.len()), pool);
        let scaling = Scaling { factor, shift: &self.shift };
        self.conv.forward_scaled(Io { inputs, output, in_place, scratch: &mut [], pool }, Some(scaling));
    }

    fn algorithm(&self) -> String {
        format!("gates, {}", self.conv.algorithm())
    }

    /// Of the two operators: what the gates cost here, from the mean of the input, is not theirs.
    fn flops(&self) -> u64 {
        self.conv.flops().saturating_add(self.gates.flops())
    }
}

/// One after the other.
struct Apart {
    conv: Box<dyn Step>,
    excite: Box<dyn Step>,
    output: Shape,
}

impl Apart {
    /// Elements of the output of the convolution.
    fn between(&self) -> usize {
        align_up(self.output.len())
    }
}

impl Step for Apart {
    fn scratch(&self) -> usize {
        self.between() + self.conv.scratch().max(self.excite.scratch())
    }

    fn forward(&self, io: Io<'_>) {
        let Io { inputs, output, scratch, pool, .. } = io;
        let (between, scratch) = scratch.split_at_mut(self.between());
        let between = &mut between[..self.output.len()];
        let conv = &mut scratch[..self.conv.scratch()];
        self.conv.forward(Io { inputs: &inputs[..1], output: &mut *between, in_place: false, scratch: conv, pool });
        let maps: Vec<&[f32]> = [&*between].into_iter().chain(inputs[1..].iter().copied()).collect();
        let excite = &mut scratch[..self.excite.scratch()];
        self.excite.forward(Io { inputs: &maps, output, in_place: false, scratch: excite, pool });
    }

    fn algorithm(&self) -> String {
        format!("{}; {}", self.conv.algorithm(), self.excite.algorithm())
    }

    fn flops(&self) -> u64 {
        self.conv.flops().saturating_add(self.excite.flops())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Value;
    use crate::ops::trial::{
        TOLERANCE, Trial, excite, forward, naive_excite, naive_norm, norm, op, pairs, text, triple,
    };
    use crate::simd::Isa;
    use crate::testing::{assert_close, for_each_isa};

    fn conv(filters: usize, bias: bool, groups: usize, stride: usize) -> Box<dyn Op> {
        let attributes = [
            ("filters", Value::Int(filters as i64)),
            ("groups", Value::Int(groups as i64)),
            ("kernel", triple([1; 3])),
            ("stride", triple([stride; 3])),
            ("dilation", triple([1; 3])),
            ("padding", pairs([[0; 2]; 3])),
            ("bias", Value::Bool(bias)),
        ];
        op("conv", &attributes)
    }

    fn naive_conv(trial: &Trial, bias: bool) -> Vec<f64> {
        let (x, weight, c) = (trial.input(0), trial.parameter(0), trial.shapes[0].c);
        let dot = |x: &[f64], weight: &[f64]| x.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>();
        let bias = if bias { trial.parameter(1) } else { vec![0.0; weight.len() / c] };
        x.chunks(c).flat_map(|x| weight.chunks(c).zip(&bias).map(move |(weight, bias)| dot(x, weight) + bias)).collect()
    }

    /// Every combination of norms before and after, with as many points as are worth gates first, and with fewer.
    #[test]
    fn with_all_that_may_follow() {
        for (c, k, hidden) in [(1, 1, 1), (3, 17, 2), (16, 64, 4), (70, 33, 5), (33, 300, 20)] {
            for dims in [[1, 1, 1], [1, 3, 3], [1, 14, 15], [3, 4, 5]] {
                for (bias, before, after) in [(false, true, false), (true, false, true), (true, true, true)] {
                    let shape = Shape::new(3, dims, c);
                    let mut trial = Trial::new(conv(k, bias, 1, 1), &[shape]);
                    let mut want = naive_conv(&trial, bias);
                    let add_norm = |trial: Trial, want: &mut Vec<f64>| {
                        let first = trial.parameters.len();
                        let trial = trial.absorb(&*norm(), &[]);
                        *want = naive_norm(want, &trial.parameters[first..]);
                        trial
                    };
                    if before {
                        trial = add_norm(trial, &mut want);
                    }
                    let first = trial.parameters.len();
                    trial = trial.absorb(&*excite(hidden), &[]);
                    want = naive_excite(&want, shape.with_channels(k), &trial.parameters[first..]);
                    trial.check(&want);
                    if after {
                        trial = add_norm(trial, &mut want);
                    }
                    trial = trial.absorb(&*op("add", &[]), &[shape.with_channels(k)]);
                    want.iter_mut().zip(trial.input(1)).for_each(|(y, residual)| *y += residual);
                    trial.check(&want);
                    let trial = trial.absorb(&*op("activation", &[("function", text("relu"))]), &[]);
                    trial.check(&want.iter().map(|y| y.max(0.0)).collect::<Vec<_>>());
                }
            }
        }
    }

    /// Weights that do not stay cached, and a reduction in pieces: the sums of the first are where the residual would be.
    #[test]
    fn gates_before_the_largest_blockings() {
        for (c, k, dims, in_place) in [(800, 300, [1, 20, 21], Some(1)), (12_300, 40, [1, 4, 5], None)] {
            let shape = Shape::new(1, dims, c);
            let mut trial = Trial::new(conv(k, false, 1, 1), &[shape]);
            let mut want = naive_conv(&trial, false);
            trial = trial.absorb(&*excite(30), &[]);
            want = naive_excite(&want, shape.with_channels(k), &trial.parameters[1..]);
            trial = trial.absorb(&*op("add", &[]), &[shape.with_channels(k)]);
            want.iter_mut().zip(trial.input(1)).for_each(|(y, residual)| *y += residual);
            trial = trial.absorb(&*op("activation", &[("function", text("silu"))]), &[]);
            want.iter_mut().for_each(|y| *y /= 1.0 + (-*y).exp());

            let any: &dyn Any = &*trial.op;
            let excited = any.downcast_ref::<ExcitedConv>().unwrap();
            for_each_isa(|isa| {
                let run = |threads: usize| {
                    let step = trial.compile(isa, threads, |context| excited.gates_first(context));
                    assert_eq!(step.in_place(), in_place, "{c} channels on {}", isa.name());
                    forward(&step, &[&trial.inputs[0], &trial.inputs[1]], trial.output(), threads)
                };
                let one = run(1);
                assert_close(&one, &want, TOLERANCE);
                assert!(run(2) == one && run(3) == one, "{c} channels on {}", isa.name());
            });
        }
    }

    #[test]
    fn gates_come_first_where_the_map_is_larger_than_what_is_read_twice() {
        let algorithm = |c: usize, k: usize, size: usize| {
            let trial = Trial::new(conv(k, false, 1, 1), &[Shape::new(1, [1, size, size], c)]);
            let trial = trial.absorb(&*excite(2), &[]);
            trial.compile(Isa::best(), 2, |context| trial.op.compile(context)).algorithm()
        };
        // Those of ResNet-50, from the first to the last stage.
        for (c, size, first) in [(64, 56, true), (128, 28, true), (256, 14, true), (512, 7, false)] {
            assert_eq!(algorithm(c, 4 * c, size).starts_with("gates"), first, "{c} channels");
        }
        // The input is larger than what is saved of the output.
        assert!(!algorithm(64, 16, 56).starts_with("gates"));
    }

    #[test]
    fn a_sample_does_not_depend_on_the_others() {
        for dims in [[1, 2, 2], [1, 13, 11]] {
            let (shape, k) = (Shape::new(4, dims, 40), 50);
            let all = Trial::new(conv(k, false, 1, 1), &[shape]).absorb(&*excite(6), &[]);
            for isa in Isa::available() {
                let y = all.run(isa, 2);
                for (sample, y) in y.chunks(shape.spatial() * k).enumerate() {
                    let mut one = all.clone();
                    one.shapes[0].n = 1;
                    one.inputs[0] = all.inputs[0][sample * shape.sample()..(sample + 1) * shape.sample()].to_vec();
                    assert!(one.run(isa, 1) == y, "sample {sample} on {}", isa.name());
                }
            }
        }
    }

    #[test]
    fn gates_that_come_later_are_not_absorbed() {
        let relu = op("activation", &[("function", text("relu"))]);
        assert!(conv(8, true, 1, 1).absorb(&*excite(2), 0).is_some());
        for conv in [conv(8, true, 2, 1), conv(8, true, 1, 2), conv(8, true, 1, 1).absorb(&*relu, 0).unwrap()] {
            assert!(conv.absorb(&*excite(2), 0).is_none());
        }
    }

    #[test]
    fn costly_functions_of_few_channels_are_a_pass_of_their_own() {
        let absorbs = |filters: usize, function: &str| {
            let excited = conv(filters, true, 1, 1).absorb(&*excite(2), 0).unwrap();
            excited.absorb(&*op("activation", &[("function", text(function))]), 0).is_some()
        };
        assert!(!absorbs(7, "silu") && absorbs(7, "relu") && absorbs(8, "silu"));
    }

    #[test]
    fn sums_that_cannot_be_addressed_are_refused() {
        let excited = conv(1, false, 1, 1).absorb(&*excite(1), 0).unwrap();
        assert!(excited.infer(&[Shape::vector(1 << 20, 1 << 30)]).is_ok());
        // The maps can be, and the sums of the output's slabs.
        let error = excited.infer(&[Shape::vector(1 << 20, 1 << 38)]).unwrap_err();
        assert!(error.contains("too many samples"), "{error}");
    }
}
