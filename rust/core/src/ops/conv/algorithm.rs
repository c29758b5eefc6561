//! The algorithm that was chosen for a convolution: a step, and for training one whose weights can be packed again.

use super::blocking::Work;
use super::direct::{self, Direct};
use super::grouped::{self, Grouped};
use super::sparse::{self, Direction, Sparse};
use super::weights::{self, Weights};
use super::winograd::{self, Variant, Winograd};
use crate::ops::activation::Activation;
use crate::ops::{Compile, Io, Step};
use crate::parallel::Pool;

/// A compiled convolution.
pub(super) enum Algorithm {
    Direct(Direct),
    Grouped(Grouped),
    Sparse(Sparse),
    Winograd(Winograd),
}

impl Algorithm {
    /// The best one for `work`: Winograd's with tiles of `variant`, if there is one. `bias` is that of each output channel.
    pub(super) fn new(
        context: &mut Compile<'_>,
        work: Work,
        variant: Option<Variant>,
        (weights, bias): (&Weights<'_>, &[f32]),
        (residual, activation): (bool, Activation),
    ) -> Self {
        let Compile { isa, pool, .. } = *context;
        if sparse::pays(&work) {
            let kind = (Direction::Forward, work.window, work.groups);
            let shapes = (work.input, work.output);
            return Self::Sparse(Sparse::new(context, kind, shapes, (weights, bias), (residual, activation)));
        }
        if grouped::supports(isa, &work) {
            let width = work.window.kernel[2];
            let length = weights.len();
            let packed = context.packed("grouped", length, |packed| grouped::pack(isa, width, weights, packed));
            let bias = context.copied("shift", bias);
            return Self::Grouped(Grouped::new(isa, work, [packed, bias], residual, activation));
        }
        if let Some(variant) = variant {
            let (panels, length) = (winograd::panels(isa, &work), winograd::packed_len(isa, &work, variant));
            let packed = context
                .packed(&variant.name(), length, |packed| winograd::pack(weights, variant, panels, packed, pool));
            let bias = context.packed("bias", panels.padded_columns(), |padded| weights::pad(bias, panels, padded));
            return Self::Winograd(Winograd::new(isa, work, variant, [packed, bias], residual, activation));
        }
        let panels = direct::panels(isa, &work);
        let packed = context.packed("panels", work.groups * panels.len(), |packed| weights.pack(panels, packed, pool));
        let length = work.groups * panels.padded_columns();
        let bias = context.packed("bias", length, |padded| weights::pad(bias, panels, padded));
        Self::Direct(Direct::new(isa, work, [packed, bias], residual, activation))
    }

    /// Packs the weights, and the bias of each output channel, again.
    pub(super) fn repack(&mut self, weights: &Weights<'_>, bias: &[f32], pool: &Pool) {
        match self {
            Self::Direct(direct) => direct.repack(weights, bias, pool),
            Self::Grouped(grouped) => grouped.repack(weights, bias),
            Self::Sparse(sparse) => sparse.repack(weights, bias),
            Self::Winograd(winograd) => winograd.repack(weights, bias, pool),
        }
    }

    fn step(&self) -> &dyn Step {
        match self {
            Self::Direct(direct) => direct,
            Self::Grouped(grouped) => grouped,
            Self::Sparse(sparse) => sparse,
            Self::Winograd(winograd) => winograd,
        }
    }
}

impl Step for Algorithm {
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
