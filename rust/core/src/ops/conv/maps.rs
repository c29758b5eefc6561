//! A convolution over several maps side by side, the first of them enlarged to twice its size: the block of a decoder.
//!
//! Neither the enlarged map nor the concatenation is ever made. A convolution is linear in its channels:
//! `y = conv(enlarge(a)) + conv(b, ...)`, each over channels of its own, the second adding to the sum of the first. Maps that
//! need not be enlarged are one reduction for Winograd's algorithm, whose transform reads one after the other.
//!
//! In a map whose cells are read twice, outputs of one parity see 2 cells where there are 3 taps: cells `i - 1, i` through
//! `w0, w1 + w2` at `2 i`, and `i, i + 1` through `w0 + w1, w2` at `2 i + 1`. So it is 4 (in 3D 8) convolutions of the small
//! map, one for each phase of the outputs: 2.25 (3.4) times fewer multiplications. Winograd's algorithm has tiles that hold all
//! phases: 4 (8) times fewer with no more weights than taps, where [`Axis::U2`](super::winograd) has tiles of one cell, and 5
//! (11) times fewer with those of [`Axis::U6`](super::winograd).

use std::any::Any;
use std::ops::Range;

use super::Conv;
use super::algorithm::Layer;
use super::blocking::{Grid, Work};
use super::direct::{self, Direct};
use super::sequence::Sequence;
use super::weights::{self, Weights};
use super::winograd::{self, Variant};
use crate::buffer::align_up;
use crate::ops::activation::Activation;
use crate::ops::{Compile, Io, Op, Signature, Step, TrainStep, Wants};
use crate::shape::{Dims3, Shape};
use crate::window::Window;

/// A convolution, and how its first map is enlarged.
#[derive(Clone, Copy, Debug)]
pub struct ConvOfMaps {
    conv: Conv,
    scale: Dims3,
}

impl ConvOfMaps {
    /// `conv` over maps of which the first is enlarged by `scale`, if that is 2 along every axis with taps.
    pub fn new(conv: &dyn Op, scale: Dims3) -> Option<Self> {
        let conv: &dyn Any = conv;
        let conv = *conv.downcast_ref::<Conv>()?;
        let Window { kernel, stride, dilation, padding } = conv.window;
        let axis = |axis: usize| match scale[axis] {
            1 => kernel[axis] == 1 && padding[axis] == [0; 2],
            2 => kernel[axis] == 3 && padding[axis] == [1; 2],
            _ => false,
        };
        let fits = (0..3).all(axis) && scale[1..] == [2, 2] && stride == [1; 3] && dilation == [1; 3];
        (fits && conv.groups == 1 && !conv.epilogue.residual).then_some(Self { conv, scale })
    }

    /// The shape of the maps side by side.
    fn joined(&self, inputs: &[Shape]) -> Shape {
        let maps = &inputs[..inputs.len() - usize::from(self.conv.epilogue.residual)];
        let dims = std::array::from_fn(|axis| maps[0].dims()[axis] * self.scale[axis]);
        maps[0].with_dims(dims).with_channels(maps.iter().map(|map| map.c).sum())
    }
}

impl Op for ConvOfMaps {
    fn kind(&self) -> &'static str {
        "conv"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        self.conv.signature(&[channels.iter().sum()])
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let joined = self.joined(inputs);
        let output = joined.with_dims(self.conv.window.output(joined.dims())?).with_channels(self.conv.filters);
        self.conv.epilogue.infer(output, inputs)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        let epilogue = self.conv.absorb_epilogue(next, slot)?;
        Some(Box::new(Self { conv: Conv { epilogue, ..self.conv }, ..*self }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        let precision = context.precision;
        self.compile_as(context, |work, enlarged| match enlarged {
            true => winograd::choose_enlarging(work, phases_cost(work)),
            false => winograd::choose(work, precision),
        })
    }

    fn compile_for_training(&self, _: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        unreachable!("what only inference absorbs is not trained")
    }
}

impl ConvOfMaps {
    /// Compiles it with Winograd's algorithm where `choose` says so, for the map that is enlarged and for the others.
    fn compile_as(&self, context: &mut Compile<'_>, choose: impl Fn(&Work, bool) -> Option<Variant>) -> Box<dyn Step> {
        let Conv { window, epilogue, filters, .. } = self.conv;
        let Compile { isa, threads, inputs, output, .. } = *context;
        let (scale, shift) = self.conv.scale_shift(context);
        let zeros = vec![0.0; filters];
        let weight = epilogue.own_parameters(context.parameters)[0];
        let taps = window.taps();
        let joined = self.joined(inputs).c;
        let maps = inputs.len() - usize::from(epilogue.residual);
        let channels: Vec<usize> = inputs[..maps].iter().map(|map| map.c).collect();
        let mut parts = Vec::new();
        let mut compile = |maps: Range<usize>| -> Option<Box<dyn Step>> {
            let before = channels[..maps.start].iter().sum::<usize>();
            let sources = &channels[maps.clone()];
            let c = sources.iter().sum::<usize>();
            let mut values = Vec::with_capacity(filters * c * taps);
            for filter in weight.chunks_exact(joined * taps) {
                values.extend_from_slice(&filter[before * taps..(before + c) * taps]);
            }
            let last = before + c == joined;
            let input = inputs[maps.start].with_channels(c);
            let layer = Layer {
                name: &format!("maps {maps:?} "),
                work: Work { window, input, output, grid: Grid::dense(output), groups: 1, tile: isa.tile(), threads },
                weights: Weights::new(&values, Some(&scale), 1, input.c, taps),
                shift: if last { &shift } else { &zeros },
                residual: maps.start > 0 || epilogue.residual,
                activation: if last { epilogue.activation } else { Activation::Linear },
            };
            let enlarged = maps.start == 0;
            match choose(&layer.work, enlarged) {
                Some(variant) => Some(Box::new(layer.winograd(context, variant, sources))),
                None if enlarged => Some(Box::new(layer.phases(context, self.scale))),
                None => (maps.len() == 1).then(|| Box::new(layer.compile(context, None)) as Box<dyn Step>),
            }
        };
        parts.extend(compile(0..1).map(|part| (0..1, part)));
        // Maps of the same size are one reduction where the algorithm can read several.
        match if maps > 1 { compile(1..maps) } else { None } {
            Some(part) => parts.push((1..maps, part)),
            None => parts.extend((1..maps).filter_map(|map| Some((map..map + 1, compile(map..map + 1)?)))),
        }
        Box::new(Parts { parts, output, residual: epilogue.residual })
    }
}

/// Time of the direct convolutions of all phases, as [`winograd::direct`] counts it.
fn phases_cost(work: &Work) -> f64 {
    /// Outputs lie apart. A register tile of one vector of filters loads as much as it multiplies.
    const APART: [f64; 2] = [1.08, 1.25];
    /// Filters of AVX-512's vector.
    const NARROW: usize = 16;
    let window = Window { kernel: work.window.kernel.map(|taps| if taps == 1 { 1 } else { 2 }), ..work.window };
    let (phases, work) = (window.taps(), Work { window, ..*work });
    APART[usize::from(work.output.c <= NARROW)] * winograd::direct(&work)
        + (phases - 1) as f64 * winograd::stream(&work)
}

impl Layer<'_> {
    /// A direct convolution of the small map for each phase of the outputs.
    fn phases(&self, context: &mut Compile<'_>, scale: Dims3) -> Sequence<Direct> {
        let count: usize = scale.iter().product();
        let phase = |index: usize| [index / (scale[1] * scale[2]), index / scale[2] % scale[1], index % scale[2]];
        let phases = (0..count).map(|index| self.phase(context, scale, phase(index))).collect();
        Sequence(phases)
    }

    /// The outputs from `offset` on that are `scale` apart.
    fn phase(&self, context: &mut Compile<'_>, scale: Dims3, offset: Dims3) -> Direct {
        let Self { name, work, shift, residual, activation, .. } = *self;
        let (isa, full) = (context.isa, Grid::dense(work.output).strides);
        let padding = std::array::from_fn(|axis| match scale[axis] {
            1 => [0; 2],
            _ => [1 - offset[axis], offset[axis]],
        });
        let window = Window { kernel: scale, stride: [1; 3], dilation: [1; 3], padding };
        let strides = [full[0], full[1] * scale[0], full[2] * scale[1], full[3] * scale[2]];
        let start = (0..3).map(|axis| offset[axis] * full[axis + 1]).sum();
        let output = work.output.with_dims(work.input.dims());
        let work = Work { window, output, grid: Grid { start, strides }, ..work };
        let panels = direct::panels(isa, &work);
        let layout = format!("{name}phase {offset:?}");
        let pool = context.pool;
        let packed = context.packed(&layout, panels.len(), |packed| {
            let values = self.taps(scale, offset);
            Weights::new(&values, None, 1, work.input.c, window.taps()).pack(panels, isa, packed, pool);
        });
        let pad = |padded: &mut [f32]| weights::pad(shift, panels, padded);
        let bias = context.packed(&format!("{name}bias"), panels.padded_columns(), pad);
        Direct::new(isa, work, [packed, bias], residual, activation)
    }

    /// The weights of a phase, scaled: taps that see the same cell are summed.
    fn taps(&self, scale: Dims3, offset: Dims3) -> Vec<f32> {
        let kernel = self.work.window.kernel;
        let (count, taps): (usize, usize) = (scale.iter().product(), self.work.window.taps());
        let (filters, channels) = (self.work.output.c, self.work.input.c);
        let mut sums = Vec::with_capacity(filters * channels * count);
        for (k, c) in (0..filters).flat_map(|k| (0..channels).map(move |c| (k, c))) {
            let mut phase = vec![0.0f64; count];
            for tap in 0..taps {
                let value = f64::from(self.weights.raw(k, c, tap)) * f64::from(self.weights.scale(k));
                let tap = [tap / (kernel[1] * kernel[2]), tap / kernel[2] % kernel[1], tap % kernel[2]];
                let cell: Dims3 = std::array::from_fn(|axis| (tap[axis] + 1 + offset[axis]) / 2 - offset[axis]);
                let cell: Dims3 = std::array::from_fn(|axis| if scale[axis] == 1 { 0 } else { cell[axis] });
                phase[(cell[0] * scale[1] + cell[1]) * scale[2] + cell[2]] += value;
            }
            sums.extend(phase.iter().map(|&sum| sum as f32));
        }
        sums
    }
}

/// Convolutions whose results are added up: each takes the sum of those before it as its residual.
struct Parts {
    /// The inputs of each.
    parts: Vec<(Range<usize>, Box<dyn Step>)>,
    output: Shape,
    residual: bool,
}

impl Parts {
    /// Elements of a sum that is not the result.
    fn sum(&self) -> usize {
        if self.parts.len() > 1 { align_up(self.output.len()) } else { 0 }
    }
}

impl Step for Parts {
    fn scratch(&self) -> usize {
        self.sum() + self.parts.iter().map(|(_, part)| part.scratch()).max().unwrap_or(0)
    }

    fn forward(&self, io: Io<'_>) {
        let Io { inputs, output, scratch, pool, .. } = io;
        let (sum, scratch) = scratch.split_at_mut(self.sum());
        let (mut from, mut to) = (output, &mut sum[..if self.parts.len() > 1 { self.output.len() } else { 0 }]);
        // They take turns such that the last one writes the output.
        if self.parts.len() % 2 == 1 {
            (from, to) = (to, from);
        }
        for (maps, part) in &self.parts {
            let residual: Option<&[f32]> = match maps.start {
                0 => self.residual.then(|| inputs[inputs.len() - 1]),
                _ => Some(&*from),
            };
            let maps: Vec<&[f32]> = inputs[maps.clone()].iter().copied().chain(residual).collect();
            let scratch = &mut scratch[..part.scratch()];
            part.forward(Io { inputs: &maps, output: &mut *to, in_place: false, scratch, pool });
            drop(maps);
            (from, to) = (to, from);
        }
    }

    fn algorithm(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(|(_, part)| part.algorithm()).collect();
        format!("enlarged {}", parts.join(" + "))
    }

    fn flops(&self) -> u64 {
        self.parts.iter().map(|(_, part)| part.flops()).sum()
    }
}

#[cfg(test)]
mod tests;
