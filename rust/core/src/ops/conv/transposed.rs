//! Transposed convolution, the adjoint of a strided convolution:
//!
//! `y[i * stride - padding + tap][k] += Σ_c x[i][c] * weight[c][k][tap]`
//!
//! Read from the output: position `o` gets the taps `t` with `t = o + padding (mod stride)`. All outputs of one phase
//! (`o` modulo the stride, per axis) see the same taps, so each phase is a direct convolution of the input with every
//! `stride`-th tap in reverse order, whose outputs lie `stride` apart: no multiplication with an inserted zero. Where a
//! phase has no taps, or there are very many phases, `sparse` computes all of them.

use super::Conv;
use super::blocking::{Grid, Work};
use super::constant::Constant;
use super::direct::{self, Direct};
use super::sequence::Sequence;
use super::sparse::{self, Direction, Sparse};
use super::weights::{self, Adjoint, Weights};
use crate::ops::epilogue::Epilogue;
use crate::ops::{Attributes, Compile, Io, Op, Parameter, Role, Signature, Step, TrainStep, Wants, expect_inputs};
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::window::{AXES, Window};

/// A transposed convolution with what follows it.
#[derive(Clone, Copy, Debug)]
pub struct ConvTranspose {
    filters: usize,
    /// Of the convolution that this is the adjoint of; its padding crops the output.
    window: Window,
    output_padding: [usize; 3],
    /// Places between the taps, the first one included: the other places have no weight.
    spacing: [usize; 3],
    groups: usize,
    bias: bool,
    epilogue: Epilogue,
}

impl ConvTranspose {
    pub(in crate::ops) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let (filters, groups) = (attributes.size("filters")?, attributes.size("groups")?);
        let (kernel, stride) = (attributes.sizes("kernel")?, attributes.sizes("stride")?);
        let window = Window::new(kernel, stride, [1; 3], attributes.pairs("padding")?)?;
        let (output_padding, bias) = (attributes.counts("output_padding")?, attributes.flag("bias")?);
        if !filters.is_multiple_of(groups) {
            return Err(format!("{filters} filters cannot be dealt to {groups} groups"));
        }
        for axis in 0..3 {
            if output_padding[axis] >= stride[axis] {
                let (name, got, stride) = (AXES[axis], output_padding[axis], stride[axis]);
                return Err(format!(
                    "output_padding of the {name} axis must be less than its stride {stride}, got {got}"
                ));
            }
        }
        let (spacing, epilogue) = ([1; 3], Epilogue::default());
        Ok(Box::new(Self { filters, window, output_padding, spacing, groups, bias, epilogue }))
    }

    fn dims(&self, input: [usize; 3]) -> Result<[usize; 3], String> {
        let mut dims = [0; 3];
        for axis in 0..3 {
            let [before, after] = self.window.padding[axis];
            let full = input[axis].checked_sub(1).and_then(|last| last.checked_mul(self.window.stride[axis]));
            let full = full.and_then(|full| full.checked_add(self.window.kernel[axis] + self.output_padding[axis]));
            let full =
                full.ok_or_else(|| format!("the {} axis of the input has a bad size: {}", AXES[axis], input[axis]))?;
            dims[axis] = full.checked_sub(before + after).filter(|&size| size > 0).ok_or_else(|| {
                format!("padding {before} + {after} crops all of the {} axis, {full} positions", AXES[axis])
            })?;
        }
        Ok(dims)
    }
}

impl Op for ConvTranspose {
    fn kind(&self) -> &'static str {
        "conv_transpose"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let c = channels[0];
        if !c.is_multiple_of(self.groups) {
            return Err(format!("{c} input channels cannot be dealt to {} groups", self.groups));
        }
        let [kd, kh, kw] = self.window.kernel;
        let weight = [c, self.filters / self.groups, kd, kh, kw];
        let mut parameters = vec![Parameter::new("weight", &weight, Role::Kernel)];
        if self.bias {
            parameters.push(Parameter::new("bias", &[self.filters], Role::Bias));
        }
        Ok(Signature { channels: self.filters, parameters })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let output = inputs[0].with_dims(self.dims(inputs[0].dims())?).with_channels(self.filters);
        self.epilogue.infer(output, inputs)
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        let epilogue = self.epilogue.absorb(next, slot)?;
        Some(Box::new(Self { epilogue, ..*self }))
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.pieces(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        self.training(context, wants)
    }
}

/// More phases than this are not worth a step each.
const MOST_PHASES: usize = 1024;

/// A phase as a convolution.
struct Phase {
    offset: [usize; 3],
    work: Work,
    /// For each tap the one of the kernel.
    order: Vec<usize>,
}

impl ConvTranspose {
    /// The adjoint of a convolution with that window, from `filters` channels: its gradient. The gaps of a dilated kernel
    /// count as taps.
    pub(super) fn adjoint(filters: usize, window: Window, groups: usize, epilogue: Epilogue) -> Self {
        let kernel = [0, 1, 2].map(|axis| window.extent(axis));
        let dense = Window { kernel, dilation: [1; 3], ..window };
        Self { filters, window: dense, spacing: window.dilation, output_padding: [0; 3], groups, bias: false, epilogue }
    }

    /// The convolution that this is the adjoint of.
    pub(super) fn conv(&self, filters: usize) -> Conv {
        let Self { window, groups, .. } = *self;
        Conv { filters, window, groups, bias: false, epilogue: Epilogue::default() }
    }

    /// Whether it has a bias.
    pub(super) fn has_bias(&self) -> bool {
        self.bias
    }

    /// Compiles it, phase by phase if that pays.
    pub(super) fn pieces(&self, context: &mut Compile<'_>) -> Transposed {
        let pieces = match self.phases(context) {
            Some(phases) => phases.into_iter().map(|phase| self.compile_phase(context, phase)).collect(),
            None => vec![self.compile_sparse(context)],
        };
        Transposed { op: *self, channels: context.inputs[0].c / self.groups, pieces: Sequence(pieces) }
    }

    /// The phases, or `None` where they are too many, or too little of them is not padding.
    fn phases(&self, context: &Compile<'_>) -> Option<Vec<Phase>> {
        let dims = context.output.dims();
        let [sd, sh, sw] = std::array::from_fn(|axis| self.window.stride[axis].min(dims[axis]));
        let count = sd.checked_mul(sh)?.checked_mul(sw).filter(|&count| count <= MOST_PHASES)?;
        let offsets = (0..count).map(|i| [i / (sh * sw), i / sw % sh, i % sw]);
        let pays = |phase: &Phase| phase.order.is_empty() || !sparse::pays(&phase.work);
        offsets.map(|offset| self.phase(context, offset).filter(pays)).collect()
    }

    /// The convolution that computes the outputs `offset`, `offset + stride`, ..., which may have no taps.
    ///
    /// `None` if all that some of its taps see is cropped.
    fn phase(&self, context: &Compile<'_>, offset: [usize; 3]) -> Option<Phase> {
        let (input, full) = (context.inputs[0], context.output);
        let stride = self.window.stride;
        let (mut kernel, mut first, mut padding, mut dims) = ([0; 3], [0; 3], [[0; 2]; 3], [0; 3]);
        for axis in 0..3 {
            // The first output sees input `start` through tap `first`, `start - 1` through `first + stride` ...
            let position = offset[axis] + self.window.padding[axis][0];
            let start = position / stride[axis];
            first[axis] = position % stride[axis];
            kernel[axis] = self.window.kernel[axis].saturating_sub(first[axis]).div_ceil(stride[axis]);
            dims[axis] = (full.dims()[axis] - offset[axis]).div_ceil(stride[axis]);
            padding[axis] =
                [kernel[axis].wrapping_sub(start + 1), (start + dims[axis]).saturating_sub(input.dims()[axis])];
        }
        let taps: usize = kernel.iter().product();
        if taps > 0 && (0..3).any(|axis| padding[axis][0] > kernel[axis]) {
            return None;
        }
        let window = Window { kernel, stride: [1; 3], dilation: [1; 3], padding };
        let output = full.with_dims(dims);
        let dense = Grid::dense(full).strides;
        let strides = [dense[0], dense[1] * stride[0], dense[2] * stride[1], dense[3] * stride[2]];
        let start = (0..3).map(|axis| offset[axis] * dense[axis + 1]).sum();
        let (groups, grid, tile) = (self.groups, Grid { start, strides }, context.isa.tile());
        let work = Work { window, input, output, grid, groups, tile, threads: context.threads };
        let order = (0..taps).map(|tap| {
            let at = [tap / (kernel[1] * kernel[2]), tap / kernel[2] % kernel[1], tap % kernel[2]];
            self.tap([0, 1, 2].map(|axis| first[axis] + stride[axis] * (kernel[axis] - 1 - at[axis])))
        });
        Some(Phase { offset, work, order: order.collect() })
    }

    /// The tap of the kernel at a place of its extent.
    fn tap(&self, at: [usize; 3]) -> usize {
        let kernel = self.kernel();
        if (0..3).any(|axis| !at[axis].is_multiple_of(self.spacing[axis])) {
            return Adjoint::NONE;
        }
        let [d, h, w] = [0, 1, 2].map(|axis| at[axis] / self.spacing[axis]);
        (d * kernel[1] + h) * kernel[2] + w
    }

    /// Taps along each axis, without gaps.
    fn kernel(&self) -> [usize; 3] {
        [0, 1, 2].map(|axis| (self.window.kernel[axis] - 1) / self.spacing[axis] + 1)
    }

    /// One factor and one summand of each output channel.
    fn scale_shift(&self, context: &Compile<'_>) -> (Vec<f32>, Vec<f32>) {
        let own = self.epilogue.own_parameters(context.parameters);
        let norm = self.epilogue.scale_shift(context.parameters);
        super::scale_shift(self.filters, own.get(1).copied(), norm)
    }

    /// The weights as those of a convolution with the taps `order`.
    fn weights<'a>(
        &self,
        values: &'a [f32],
        scale: Option<&'a [f32]>,
        channels: usize,
        order: &'a [usize],
    ) -> Weights<'a> {
        let taps = self.kernel().iter().product();
        Weights::adjoint(values, scale, self.groups, channels, Adjoint { order, taps })
    }

    fn compile_phase(&self, context: &mut Compile<'_>, phase: Phase) -> Piece {
        let Phase { offset, work, order } = phase;
        let Compile { isa, pool, .. } = *context;
        let (scale, shift) = self.scale_shift(context);
        let Epilogue { residual, activation, .. } = self.epilogue;
        if order.is_empty() {
            let bias = context.copied("constant", &shift);
            return Piece::Constant(Box::new(Constant::new(isa, work, bias, residual, activation)));
        }
        let panels = direct::panels(isa, &work);
        let (values, channels) = (context.parameters[0], work.input.c / work.groups);
        let packed = context.packed(&format!("phase {offset:?}"), work.groups * panels.len(), |packed| {
            self.weights(values, Some(&scale), channels, &order).pack(panels, isa, packed, pool);
        });
        let length = work.groups * panels.padded_columns();
        let bias = context.packed("bias", length, |bias| weights::pad(&shift, panels, bias));
        Piece::Direct(Box::new(Direct::new(isa, work, [packed, bias], residual, activation)), order)
    }

    fn compile_sparse(&self, context: &mut Compile<'_>) -> Piece {
        let (scale, shift) = self.scale_shift(context);
        let Window { kernel: [depth, height, width], .. } = self.window;
        let taps = (0..depth * height * width).map(|tap| [tap / (height * width), tap / width % height, tap % width]);
        let order: Vec<usize> = taps.map(|at| self.tap(at)).collect();
        let (input, output) = (context.inputs[0], context.output);
        let weights = self.weights(context.parameters[0], Some(&scale), input.c / self.groups, &order);
        let kind = (Direction::Transposed, self.window, self.groups);
        let Epilogue { residual, activation, .. } = self.epilogue;
        let sparse = Sparse::new(context, kind, (input, output), (&weights, &shift), (residual, activation));
        Piece::Sparse(Box::new(sparse), order)
    }
}

/// A part of the output, and the taps of its weights.
enum Piece {
    Direct(Box<Direct>, Vec<usize>),
    /// What no tap sees.
    Constant(Box<Constant>),
    Sparse(Box<Sparse>, Vec<usize>),
}

impl Piece {
    fn step(&self) -> &dyn Step {
        match self {
            Self::Direct(direct, _) => &**direct,
            Self::Constant(constant) => &**constant,
            Self::Sparse(sparse, _) => &**sparse,
        }
    }
}

impl Step for Piece {
    fn scratch(&self) -> usize {
        self.step().scratch()
    }

    fn forward(&self, io: Io<'_>) {
        self.step().forward(io);
    }

    fn algorithm(&self) -> String {
        self.step().algorithm()
    }

    fn flops(&self) -> u64 {
        self.step().flops()
    }
}

/// One piece after the other, each with outputs of its own.
pub(super) struct Transposed {
    op: ConvTranspose,
    /// Input channels of a group.
    channels: usize,
    pieces: Sequence<Piece>,
}

impl Transposed {
    /// Packs the weights, and the bias of each output channel, again.
    pub(super) fn repack(&mut self, values: &[f32], bias: &[f32], pool: &Pool) {
        let Self { op, channels, .. } = *self;
        for piece in &mut self.pieces.0 {
            match piece {
                Piece::Direct(direct, order) => direct.repack(&op.weights(values, None, channels, order), bias, pool),
                Piece::Constant(constant) => constant.repack(bias),
                Piece::Sparse(sparse, order) => sparse.repack(&op.weights(values, None, channels, order), bias, pool),
            }
        }
    }
}

impl Step for Transposed {
    fn scratch(&self) -> usize {
        self.pieces.scratch()
    }

    fn forward(&self, io: Io<'_>) {
        self.pieces.forward(io);
    }

    fn algorithm(&self) -> String {
        format!("transposed, {}", self.pieces.algorithm())
    }

    fn flops(&self) -> u64 {
        self.pieces.flops()
    }
}

#[cfg(test)]
mod tests;
