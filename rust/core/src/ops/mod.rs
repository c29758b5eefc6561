//! The operators: one file each, with both directions and its tests.
//!
//! An operator is plain data ([`Op`]). For given shapes and a given instruction set it is compiled to a [`Step`],
//! which has chosen its algorithm and packed its weights, and which cannot fail.

use std::any::Any;
use std::fmt;

use crate::parallel::Pool;
use crate::shape::Shape;
use crate::simd::Isa;

mod activation;
mod add;
mod affine;
mod affine_backward;
mod attention;
mod attention_backward;
mod attention_mask;
mod attributes;
mod avg_pool;
mod batch_norm;
mod channel_sums;
mod concat;
mod conv;
mod dense;
mod dense_backward;
mod dropout;
mod epilogue;
mod fold;
mod global_pool;
mod group_norm;
mod group_norm_backward;
mod input;
mod lanes;
mod layer_norm;
mod matmul;
mod max_pool;
mod multiply;
mod online_softmax;
mod outer_sum;
mod packs;
mod pad;
mod pad_channels;
mod parameter;
mod point_norm;
mod pool;
mod rescale;
mod rows;
mod softmax;
mod squeeze_excite;
mod squeeze_excite_backward;
mod training;
mod transposed_axes;
#[cfg(test)]
mod trial;
mod unit_norm;
mod upsample;

pub use activation::Activation;
pub use attributes::{Attributes, Value};
pub use conv::Precision;
pub use packs::{Packed, Packing, Packs, Stretches};
pub use training::{Backward, Forward, Gradient, Keeps, TrainStep, Wants};

/// The list of operators: the name in a network's description, and how to read the attributes.
const OPERATORS: &[(&str, Parse)] = &[
    ("activation", activation::Activation::parse),
    ("add", add::Add::parse),
    ("attention", attention::Attention::parse),
    ("avg_pool", avg_pool::AvgPool::parse),
    ("batch_norm", batch_norm::BatchNorm::parse),
    ("concat", concat::Concat::parse),
    ("dense", dense::Dense::parse),
    ("dropout", dropout::Dropout::parse),
    ("global_avg_pool", global_pool::GlobalPool::parse_avg),
    ("global_max_pool", global_pool::GlobalPool::parse_max),
    ("conv", conv::Conv::parse),
    ("conv_transpose", conv::ConvTranspose::parse),
    ("crop", pad::Crop::parse),
    ("group_norm", group_norm::GroupNorm::parse),
    ("input", input::Input::parse),
    ("layer_norm", layer_norm::LayerNorm::parse),
    ("matmul", matmul::Matmul::parse),
    ("max_pool", max_pool::MaxPool::parse),
    ("multiply", multiply::Multiply::parse),
    ("pad", pad::Pad::parse),
    ("pad_channels", pad_channels::PadChannels::parse),
    ("parameter", parameter::Parameter::parse),
    ("rescale", rescale::Rescale::parse),
    ("resize", upsample::Resize::parse),
    ("softmax", softmax::Softmax::parse),
    ("squeeze_excite", squeeze_excite::SqueezeExcite::parse),
    ("unit_norm", unit_norm::UnitNorm::parse),
    ("upsample", upsample::Upsample::parse),
];

type Parse = fn(&mut Attributes) -> Result<Box<dyn Op>, String>;

/// The operator of that name with those attributes.
///
/// # Errors
/// An unknown name, and attributes that are missing, unknown or out of range.
pub fn parse(kind: &str, mut attributes: Attributes) -> Result<Box<dyn Op>, String> {
    let (_, parse) = OPERATORS.iter().find(|(name, _)| *name == kind).ok_or_else(|| {
        let names: Vec<&str> = OPERATORS.iter().map(|(name, _)| *name).collect();
        format!("unknown operator {kind:?}, expected one of {}", names.join(", "))
    })?;
    let op = parse(&mut attributes)?;
    attributes.finish()?;
    Ok(op)
}

/// An operator: its attributes, and what follows from them.
pub trait Op: Any + fmt::Debug + Send + Sync {
    /// The name in [`OPERATORS`].
    fn kind(&self) -> &'static str;

    /// Output channels and parameters for inputs of these channels. Raises every error that channels can cause.
    fn signature(&self, channels: &[usize]) -> Result<Signature, String>;

    /// The shape of the output. Raises every error that sizes can cause; channels have been checked.
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String>;

    /// For inference: this operator and `next`, the only reader of its output, as one operator.
    ///
    /// `slot` says which of the inputs of `next` this operator's output is. The other inputs and all parameters of
    /// `next` are appended to this operator's own.
    fn absorb(&self, _next: &dyn Op, _slot: usize) -> Option<Box<dyn Op>> {
        None
    }

    /// Whether it does something in training only. Inference takes its input for its output; training runs it even where
    /// no gradient passes.
    fn is_for_training(&self) -> bool {
        false
    }

    /// Chooses the algorithm and packs the weights for these shapes, instruction set and number of threads.
    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step>;

    /// For training: as [`Op::absorb`], where one pass over memory can do for both in both directions.
    fn absorb_for_training(&self, _next: &dyn Op, _slot: usize) -> Option<Box<dyn Op>> {
        None
    }

    /// As [`Op::compile`], with both directions. At least one gradient is wanted, unless the operator
    /// [is for training](Op::is_for_training). Weights are packed by
    /// [`TrainStep::repack`], which comes before the first step.
    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep>;
}

/// What an operator takes and gives, as far as channels tell.
#[derive(Debug, Default)]
pub struct Signature {
    /// Channels of the output.
    pub channels: usize,
    /// In the order in which `compile` gets them.
    pub parameters: Vec<Parameter>,
}

/// A parameter of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Appended, with a dot, to the node's name.
    pub suffix: &'static str,
    /// In PyTorch's layout, always with three kernel dimensions.
    pub shape: Vec<usize>,
    /// How it starts, and whether an optimiser may change it.
    pub role: Role,
}

impl Parameter {
    /// A parameter of this name, shape and role.
    pub fn new(suffix: &'static str, shape: &[usize], role: Role) -> Self {
        Self { suffix, shape: shape.to_vec(), role }
    }
}

/// What a parameter is for: how it starts, and whether it is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A matrix or kernel: starts random.
    Kernel,
    /// Tokens of its own: starts random and small.
    Embedding,
    /// A shift: starts at 0.
    Bias,
    /// A factor: starts at 1.
    Scale,
    /// A running mean: starts at 0, is not trained.
    RunningMean,
    /// A running variance: starts at 1, is not trained.
    RunningVariance,
}

/// What an operator knows when it is compiled.
pub struct Compile<'a> {
    /// The instruction set to use.
    pub isa: Isa,
    /// The number of threads that will run it.
    pub threads: usize,
    /// Threads to pack weights with.
    pub pool: &'a Pool,
    /// How exact it must be.
    pub precision: Precision,
    /// The shapes of the inputs.
    pub inputs: &'a [Shape],
    /// The shape of the output.
    pub output: Shape,
    /// The parameters in the order of the signature (and of those absorbed).
    pub parameters: &'a [&'a [f32]],
    /// Where packed weights go.
    pub packing: Packing<'a>,
}

impl Compile<'_> {
    /// Weights packed in `layout`, `length` elements of zeros that `pack` writes to if no other plan has done it.
    pub fn packed(&mut self, layout: &str, length: usize, pack: impl FnOnce(&mut [f32])) -> Packed {
        match &mut self.packing {
            Packing::Own => Packed::own(length),
            Packing::Shared { known, made } => {
                let layout = format!("{} {layout}", self.isa.name());
                known.entry(layout).or_insert_with(|| made.pack(length, pack)).clone()
            }
        }
    }

    /// What a part of this operator knows: it has these inputs, this output and these parameters.
    pub fn part<'b>(&'b mut self, inputs: &'b [Shape], output: Shape, parameters: &'b [&'b [f32]]) -> Compile<'b> {
        let packing = match &mut self.packing {
            Packing::Own => Packing::Own,
            Packing::Shared { known, made } => Packing::Shared { known, made },
        };
        let Self { isa, threads, pool, precision, .. } = *self;
        Compile { isa, threads, pool, precision, inputs, output, parameters, packing }
    }

    /// A copy of `values` among the packed weights.
    pub fn copied(&mut self, layout: &str, values: &[f32]) -> Packed {
        self.packed(layout, values.len(), |copy| copy.copy_from_slice(values))
    }
}

/// A compiled operator.
pub trait Step: Send + Sync {
    /// Scratch memory in elements, for all threads together.
    fn scratch(&self) -> usize {
        0
    }

    /// The input whose memory the output may take, if there is one: each of its elements is read before that of the output is
    /// written, and by the same task. Where the output does, [`Io::in_place`] says so.
    fn in_place(&self) -> Option<usize> {
        None
    }

    /// Computes the output. Every element of the output is written; its content before is undefined.
    fn forward(&self, io: Io<'_>);

    /// The algorithm, for profiles.
    fn algorithm(&self) -> String;

    /// Multiplications and additions of the direct algorithm, for profiles.
    fn flops(&self) -> u64 {
        0
    }
}

/// The memory and threads of one forward step.
pub struct Io<'a> {
    /// As declared by the shapes.
    pub inputs: &'a [&'a [f32]],
    /// To be written.
    pub output: &'a mut [f32],
    /// Whether the input that [`Step::in_place`] names is empty, and its elements are what the output holds.
    pub in_place: bool,
    /// As large as the step asked for, on a line, with undefined content.
    pub scratch: &'a mut [f32],
    /// The threads.
    pub pool: &'a Pool,
}

/// What is added to an output.
#[derive(Clone, Copy)]
pub(crate) enum Residual<'a> {
    /// Elsewhere, laid out as the output.
    Apart(&'a [f32]),
    /// What the output holds before it is written.
    Output,
}

impl<'a> Residual<'a> {
    /// The input `slot`, which [`Step::in_place`] may have named.
    pub(crate) fn new(io: &Io<'a>, slot: usize) -> Self {
        let input = io.inputs[slot];
        assert_eq!(input.len(), if io.in_place { 0 } else { io.output.len() }, "a residual is as long as the output");
        if io.in_place { Self::Output } else { Self::Apart(input) }
    }

    /// Where its first element is, if `output` is where that of the output is.
    pub(crate) fn start(self, output: *const f32) -> *const f32 {
        match self {
            Self::Apart(values) => values.as_ptr(),
            Self::Output => output,
        }
    }
}

/// Fails unless there are `expected` inputs.
pub(crate) fn expect_inputs(channels: &[usize], expected: usize) -> Result<(), String> {
    if channels.len() == expected {
        Ok(())
    } else {
        Err(format!("expected {expected} input(s), got {}", channels.len()))
    }
}
