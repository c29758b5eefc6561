//! Packs the weights of a convolution, scaled by the norm that follows it.

use super::strided::Split;
use crate::gemm::Panels;
use crate::parallel::{Pool, SharedMut};

/// The weights of a convolution, wherever they lie.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    values: &'a [f32],
    /// Of each output channel; 1 if there is none.
    scale: Option<&'a [f32]>,
    /// Output and input channels of a group.
    filters: usize,
    pub(super) channels: usize,
    pub(super) groups: usize,
    pub(super) taps: usize,
    order: Order<'a>,
}

/// How the weights of a convolution follow from those that are given.
#[derive(Clone, Copy)]
enum Order<'a> {
    /// They are those.
    Plain,
    /// It is the adjoint of the given one, or a part of that.
    Adjoint(Adjoint<'a>),
    /// It does the work of the given one, which has a stride.
    Split(&'a Split),
}

/// How the taps of a convolution follow from those of the one that it is the adjoint of, or a part of the adjoint.
#[derive(Clone, Copy)]
pub(super) struct Adjoint<'a> {
    /// For each tap the one of the kernel; or [`Adjoint::NONE`], whose weight is zero.
    pub(super) order: &'a [usize],
    /// Taps of the kernel.
    pub(super) taps: usize,
}

impl Adjoint<'_> {
    /// No tap.
    pub(super) const NONE: usize = usize::MAX;
}

impl<'a> Weights<'a> {
    /// Weights in PyTorch's layout, `(k, c / groups, taps)`, each output channel times its `scale`.
    pub(super) fn new(
        values: &'a [f32],
        scale: Option<&'a [f32]>,
        groups: usize,
        channels: usize,
        taps: usize,
    ) -> Self {
        let filters = values.len() / (groups * channels * taps);
        Self { values, scale, filters, channels, groups, taps, order: Order::Plain }
    }

    /// Weights in the layout `(c, k / groups, taps)`: channels have changed places, and the taps their order.
    pub(super) fn adjoint(
        values: &'a [f32],
        scale: Option<&'a [f32]>,
        groups: usize,
        channels: usize,
        adjoint: Adjoint<'a>,
    ) -> Self {
        let filters = values.len() / (groups * channels * adjoint.taps);
        Self { values, scale, filters, channels, groups, taps: adjoint.order.len(), order: Order::Adjoint(adjoint) }
    }

    /// For the convolution of stride 1 that does the work of this one.
    pub(super) fn split(self, split: &'a Split) -> Self {
        let work = split.work();
        Self { channels: work.input.c, taps: work.window.taps(), order: Order::Split(split), ..self }
    }

    /// The number of weights.
    pub(super) fn len(&self) -> usize {
        self.groups * self.filters * self.channels * self.taps
    }

    /// The weight of output channel `k`, channel `c` of its group, and `tap`, without its scale.
    #[inline(always)]
    pub(super) fn raw(&self, k: usize, c: usize, tap: usize) -> f32 {
        match self.order {
            Order::Plain => self.values[(k * self.channels + c) * self.taps + tap],
            Order::Adjoint(adjoint) => {
                let (group, column) = (k / self.filters, k % self.filters);
                let row = (group * self.channels + c) * self.filters + column;
                match adjoint.order[tap] {
                    Adjoint::NONE => 0.0,
                    tap => self.values[row * adjoint.taps + tap],
                }
            }
            Order::Split(split) => {
                let filter = self.values.len() / self.filters;
                let (c, tap) = split.weight(c, tap);
                tap.map_or(0.0, |tap| self.values[k * filter + c * split.taps() + tap])
            }
        }
    }

    /// The factor of output channel `k`.
    #[inline(always)]
    pub(super) fn scale(&self, k: usize) -> f32 {
        self.scale.map_or(1.0, |scale| scale[k])
    }

    /// Writes panels of output channels for each group; rows are `(tap, c)`. What only fills up a panel is not written.
    pub(super) fn pack(&self, panels: Panels, packed: &mut [f32], pool: &Pool) {
        let (taps, channels) = (self.taps, self.channels);
        let count = panels.count();
        let packed = SharedMut::new(packed);
        pool.for_each(self.groups * count, |task| {
            let (group, panel) = (task / count, panels.panel(task % count));
            let stride = panel.columns.next_multiple_of(panels.lanes());
            let start = group * panels.len() + panel.start;
            // SAFETY: panels do not overlap.
            let out = unsafe { packed.slice_mut(start..start + panels.rows * stride) };
            let k = group * panels.columns + panel.column;
            for c in 0..channels {
                for tap in 0..taps {
                    let row = &mut out[(tap * channels + c) * stride..][..panel.columns];
                    for (column, to) in row.iter_mut().enumerate() {
                        *to = self.raw(k + column, c, tap) * self.scale(k + column);
                    }
                }
            }
        });
    }
}

/// Writes `values` of each output channel, padded group by group as the columns of `panels` are.
pub(super) fn pad(values: &[f32], panels: Panels, padded: &mut [f32]) {
    for (to, from) in padded.chunks_exact_mut(panels.padded_columns()).zip(values.chunks_exact(panels.columns)) {
        to[..from.len()].copy_from_slice(from);
    }
}
