//! The algorithm that was chosen for a convolution: a step, and for training one whose weights can be packed again.

use super::blocking::Work;
use super::direct::{self, Direct};
use super::grouped::{self, Grouped};
use super::sparse::{self, Direction, Sparse};
use super::strided::{Split, Strided};
use super::weights::{self, Weights};
use super::winograd::{self, Variant, Winograd};
use crate::ops::activation::Activation;
use crate::ops::{Compile, Io, Packed, Step};
use crate::parallel::Pool;

/// A compiled convolution.
pub(super) enum Algorithm {
    Direct(Box<Direct>),
    Grouped(Box<Grouped>),
    Sparse(Box<Sparse>),
    Strided(Box<Strided>),
    Winograd(Box<Winograd>),
}

/// A convolution with its weights.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    /// Starts the names of its packed weights.
    pub(super) name: &'a str,
    pub(super) work: Work,
    pub(super) weights: Weights<'a>,
    /// Of each output channel.
    pub(super) shift: &'a [f32],
    pub(super) residual: bool,
    pub(super) activation: Activation,
}

impl Layer<'_> {
    /// Compiles it, with Winograd's algorithm and tiles of `variant` if there is one.
    pub(super) fn compile(&self, context: &mut Compile<'_>, variant: Option<Variant>) -> Algorithm {
        let Self { name, work, weights, shift, residual, activation } = *self;
        let Compile { isa, pool, .. } = *context;
        if sparse::pays(&work) {
            let kind = (Direction::Forward, work.window, work.groups);
            let shapes = (work.input, work.output);
            return Algorithm::Sparse(Box::new(Sparse::new(
                context,
                kind,
                shapes,
                (&weights, shift),
                (residual, activation),
            )));
        }
        if grouped::supports(isa, &work) {
            let width = work.window.kernel[2];
            let pack = |packed: &mut [f32]| grouped::pack(isa, width, &weights, packed, pool);
            let packed = context.packed(&format!("{name}grouped"), weights.len(), pack);
            let bias = context.copied(&format!("{name}shift"), shift);
            return Algorithm::Grouped(Box::new(Grouped::new(isa, work, [packed, bias], residual, activation)));
        }
        if let Some(variant) = variant {
            return match Split::new(&work) {
                Some(split) => {
                    let dense = Layer { work: split.work(), weights: weights.split(&split), ..*self };
                    let winograd = dense.winograd(context, variant, &[dense.work.input.c]);
                    Algorithm::Strided(Box::new(Strided::new(isa, split, winograd)))
                }
                None => Algorithm::Winograd(Box::new(self.winograd(context, variant, &[work.input.c]))),
            };
        }
        Algorithm::Direct(Box::new(Direct::new(isa, work, self.pack(context), residual, activation)))
    }

    /// Weights and biases as the direct algorithm takes them.
    pub(super) fn pack(&self, context: &mut Compile<'_>) -> [Packed; 2] {
        let Self { name, work, weights, shift, .. } = *self;
        let Compile { isa, pool, .. } = *context;
        let panels = direct::panels(isa, &work);
        let pack = |packed: &mut [f32]| weights.pack(panels, isa, packed, pool);
        let packed = context.packed(&format!("{name}panels"), work.groups * panels.len(), pack);
        let length = work.groups * panels.padded_columns();
        [packed, context.packed(&format!("{name}bias"), length, |padded| weights::pad(shift, panels, padded))]
    }

    /// Compiles it with Winograd's algorithm, for maps with as many channels as `sources` says, side by side.
    pub(super) fn winograd(&self, context: &mut Compile<'_>, variant: Variant, sources: &[usize]) -> Winograd {
        let Self { name, work, weights, shift, residual, activation } = *self;
        let Compile { isa, pool, .. } = *context;
        let (panels, length) = (winograd::panels(isa, &work), winograd::packed_len(isa, &work, variant));
        let pack = |packed: &mut [f32]| winograd::pack(&weights, variant, (isa, panels), packed, pool);
        let packed = context.packed(&format!("{name}{}", variant.name()), length, pack);
        let pad = |padded: &mut [f32]| weights::pad(shift, panels, padded);
        let bias = context.packed(&format!("{name}bias"), panels.padded_columns(), pad);
        Winograd::new(isa, work, variant, sources, [packed, bias], residual, activation)
    }
}

impl Algorithm {
    /// Packs the weights, and the bias of each output channel, again.
    pub(super) fn repack(&mut self, weights: &Weights<'_>, bias: &[f32], pool: &Pool) {
        match self {
            Self::Direct(direct) => direct.repack(weights, bias, pool),
            Self::Grouped(grouped) => grouped.repack(weights, bias, pool),
            Self::Sparse(sparse) => sparse.repack(weights, bias, pool),
            Self::Strided(strided) => strided.repack(weights, bias, pool),
            Self::Winograd(winograd) => winograd.repack(weights, bias, pool),
        }
    }

    fn step(&self) -> &dyn Step {
        match self {
            Self::Direct(direct) => &**direct,
            Self::Grouped(grouped) => &**grouped,
            Self::Sparse(sparse) => &**sparse,
            Self::Strided(strided) => &**strided,
            Self::Winograd(winograd) => &**winograd,
        }
    }
}

impl Step for Algorithm {
    fn scratch(&self) -> usize {
        self.step().scratch()
    }

    fn in_place(&self) -> Option<usize> {
        self.step().in_place()
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
