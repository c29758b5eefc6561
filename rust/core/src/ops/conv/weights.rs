//! Packs the weights of a convolution, scaled by the norm that follows it.

use std::ops::Range;

use super::strided::Split;
use crate::gemm::Panels;
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Isa, Kernel, MOST_LANES, Simd, dispatch, slices};

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

    /// Where the weight of output channel `k`, channel `c` of its group, and `tap` is, if there is one.
    #[inline(always)]
    fn at(&self, k: usize, c: usize, tap: usize) -> Option<usize> {
        match self.order {
            Order::Plain => Some((k * self.channels + c) * self.taps + tap),
            Order::Adjoint(adjoint) => {
                let (group, column) = (k / self.filters, k % self.filters);
                let row = (group * self.channels + c) * self.filters + column;
                Some(adjoint.order[tap]).filter(|&tap| tap != Adjoint::NONE).map(|tap| row * adjoint.taps + tap)
            }
            Order::Split(split) => {
                let (c, tap) = split.weight(c, tap);
                tap.map(|tap| k * self.step() + c * split.taps() + tap)
            }
        }
    }

    /// Elements between the weights of neighbouring output channels of a group.
    fn step(&self) -> usize {
        match self.order {
            Order::Plain => self.channels * self.taps,
            Order::Adjoint(adjoint) => adjoint.taps,
            Order::Split(_) => self.values.len() / (self.groups * self.filters),
        }
    }

    /// The weight of output channel `k`, channel `c` of its group, and `tap`, without its scale.
    #[inline(always)]
    pub(super) fn raw(&self, k: usize, c: usize, tap: usize) -> f32 {
        self.at(k, c, tap).map_or(0.0, |at| self.values[at])
    }

    /// The factor of output channel `k`.
    #[inline(always)]
    pub(super) fn scale(&self, k: usize) -> f32 {
        self.scale.map_or(1.0, |scale| scale[k])
    }

    /// Writes panels of output channels for each group; rows are `(tap, c)`. What only fills up a panel is not written.
    pub(super) fn pack(&self, panels: Panels, isa: Isa, packed: &mut [f32], pool: &Pool) {
        let position = |k: usize, c: usize, tap: usize| {
            let (group, column) = (k / self.filters, k % self.filters);
            let panel = panels.panel(column / panels.width());
            let row = (tap * self.channels + c) * panel.vectors * panels.lanes();
            group * panels.len() + panel.start + row + column - panel.column
        };
        self.place([self.filters, panels.width()], isa, packed, position, pool);
    }

    /// Writes the weights of a vector of output channels from `k` on, channel `c` and `tap` from `position(k, c, tap)` on.
    /// Vectors are cut as [`Weights::deal`] says.
    pub(super) fn place(
        &self,
        cut: [usize; 2],
        isa: Isa,
        packed: &mut [f32],
        position: impl Fn(usize, usize, usize) -> usize + Sync,
        pool: &Pool,
    ) {
        self.deal(cut, isa, &Place { position, taps: self.taps, packed: SharedMut::new(packed) }, pool);
    }

    /// Gives all weights to `taker`, a vector of output channels after the other. The output channels are cut to runs of
    /// `span`, those to pieces of `width` for a task, and those to vectors.
    pub(super) fn deal(&self, [span, width]: [usize; 2], isa: Isa, taker: &impl Take, pool: &Pool) {
        let rows = self.channels * self.taps;
        let chunk = if self.taps <= ROWS { ROWS / self.taps * self.taps } else { ROWS };
        let (pieces, chunks) = (span.div_ceil(width), rows.div_ceil(chunk));
        pool.for_each(self.groups * self.filters / span * pieces * chunks, |task| {
            let (run, piece, first) = (task / (pieces * chunks) * span, task / chunks % pieces, task % chunks * chunk);
            let filters = run + piece * width..run + span.min((piece + 1) * width);
            dispatch(isa, Deal { weights: self, taker, filters, rows: first..rows.min(first + chunk) });
        });
    }
}

/// Rows of a vector of output channels that are fetched at once: few enough for the first-level cache, and enough that
/// several lines of each output channel are read in a row.
const ROWS: usize = 256;

/// What is made of weights.
pub(super) trait Take: Sync {
    /// Takes those of `filters`, at most a vector of them, for `rows`, the pairs `(c, tap)` in order: whole channels, unless
    /// one of them has more than [`ROWS`] taps. `values` has as many vectors as there are rows; lanes beyond `filters` are
    /// zero.
    fn take<S: Simd>(&self, simd: S, filters: Range<usize>, rows: Range<usize>, values: &[f32]);
}

/// The weights of some output channels, for some pairs `(c, tap)`.
struct Deal<'a, T> {
    weights: &'a Weights<'a>,
    taker: &'a T,
    filters: Range<usize>,
    rows: Range<usize>,
}

impl<T: Take> Kernel for Deal<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weights, taker, filters, rows } = self;
        let mut values = [0.0; (ROWS + MOST_LANES) * MOST_LANES];
        for first in filters.clone().step_by(S::LANES) {
            let filters = first..filters.end.min(first + S::LANES);
            weights.fetch(s, filters.clone(), rows.clone(), &mut values);
            let values = &mut values[..rows.len() * S::LANES];
            if let Some(scale) = weights.scale {
                let scale = slices::load(s, &scale[filters.clone()]);
                for row in values.chunks_exact_mut(S::LANES) {
                    let scaled = s.mul(slices::load(s, row), scale);
                    slices::store(s, row, scaled);
                }
            }
            taker.take(s, filters, rows.clone(), values);
        }
    }
}

impl Weights<'_> {
    /// Writes the weights of `filters` for each of `rows`, a vector each, and undefined values to a vector of rows more.
    #[inline(always)]
    fn fetch<S: Simd>(&self, s: S, filters: Range<usize>, rows: Range<usize>, values: &mut [f32]) {
        let one_group = filters.start / self.filters == (filters.end - 1) / self.filters;
        match self.order {
            Order::Plain => {
                let step = self.step();
                let from = &self.values[filters.start * step..filters.end * step];
                for row in rows.clone().step_by(S::LANES) {
                    let size = [filters.len(), S::LANES.min(rows.end - row)];
                    let to = &mut values[(row - rows.start) * S::LANES..][..S::LANES * S::LANES];
                    // SAFETY: each output channel has `step` weights, one for each row.
                    unsafe { s.transpose(from.as_ptr().add(row), step, size, to.as_mut_ptr()) };
                }
            }
            // Where most taps are wanted, all are read in order.
            Order::Adjoint(adjoint) if one_group && self.taps <= ROWS && adjoint.taps < 2 * self.taps => {
                let (group, column) = (filters.start / self.filters, filters.start % self.filters);
                let mut kernel = [0.0; MOST_LANES * MOST_LANES];
                for (c, values) in (rows.start / self.taps..)
                    .zip(values[..rows.len() * S::LANES].chunks_exact_mut(self.taps * S::LANES))
                {
                    let start = ((group * self.channels + c) * self.filters + column) * adjoint.taps;
                    let from = &self.values[start..start + filters.len() * adjoint.taps];
                    if adjoint.taps == 1 {
                        slices::store(s, values, slices::load(s, from));
                        continue;
                    }
                    for first in (0..adjoint.taps).step_by(S::LANES) {
                        let taps = first..adjoint.taps.min(first + S::LANES);
                        let size = [filters.len(), taps.len()];
                        // SAFETY: each output channel has so many taps, and the square has room for the most lanes.
                        unsafe { s.transpose(from.as_ptr().add(first), adjoint.taps, size, kernel.as_mut_ptr()) };
                        for (&tap, to) in adjoint.order.iter().zip(values.chunks_exact_mut(S::LANES)) {
                            if taps.contains(&tap) {
                                slices::store(s, to, slices::load(s, &kernel[(tap - first) * S::LANES..]));
                            } else if tap == Adjoint::NONE {
                                to.fill(0.0);
                            }
                        }
                    }
                }
            }
            _ => {
                let step = self.step();
                for (row, to) in rows.zip(values.chunks_exact_mut(S::LANES)) {
                    let (c, tap) = (row / self.taps, row % self.taps);
                    to.fill(0.0);
                    let mut k = filters.start;
                    while k < filters.end {
                        let end = filters.end.min((k / self.filters + 1) * self.filters);
                        if let Some(at) = self.at(k, c, tap) {
                            let from = self.values[at..].iter().step_by(step);
                            to[k - filters.start..end - filters.start]
                                .iter_mut()
                                .zip(from)
                                .for_each(|(to, &from)| *to = from);
                        }
                        k = end;
                    }
                }
            }
        }
    }
}

/// The weights as they are, somewhere else.
struct Place<'a, F> {
    position: F,
    taps: usize,
    packed: SharedMut<'a>,
}

impl<F: Fn(usize, usize, usize) -> usize + Sync> Take for Place<'_, F> {
    #[inline(always)]
    fn take<S: Simd>(&self, s: S, filters: Range<usize>, rows: Range<usize>, values: &[f32]) {
        // Tap by tap: neighbouring channels are written one after the other.
        for first in rows.start..rows.end.min(rows.start + self.taps) {
            let (c, tap) = (first / self.taps, first % self.taps);
            for (later, row) in (first..rows.end).step_by(self.taps).enumerate() {
                let start = (self.position)(filters.start, c + later, tap);
                // SAFETY: every weight has a position of its own.
                let to = unsafe { self.packed.slice_mut(start..start + filters.len()) };
                slices::store(s, to, slices::load(s, &values[(row - rows.start) * S::LANES..]));
            }
        }
    }
}

/// Writes `values` of each output channel, padded group by group as the columns of `panels` are.
pub(super) fn pad(values: &[f32], panels: Panels, padded: &mut [f32]) {
    for (to, from) in padded.chunks_exact_mut(panels.padded_columns()).zip(values.chunks_exact(panels.columns)) {
        to[..from.len()].copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::run_with;
    use crate::testing::{for_each_isa, random};

    /// Every weight is where the panels say, and nothing is anywhere else.
    fn check(weights: &Weights<'_>) {
        let Weights { groups, filters, channels, taps, .. } = *weights;
        for_each_isa(|isa| {
            let panels = Panels::new(isa, taps * channels, filters);
            let mut want = vec![0.0; groups * panels.len()];
            for (k, c) in (0..groups * filters).flat_map(|k| (0..channels).map(move |c| (k, c))) {
                let panel = panels.panel(k % filters / panels.width());
                for tap in 0..taps {
                    let row = (tap * channels + c) * panel.vectors * panels.lanes();
                    let at = k / filters * panels.len() + panel.start + row + k % filters - panel.column;
                    want[at] = weights.raw(k, c, tap) * weights.scale(k);
                }
            }
            for threads in [1, 2] {
                let mut packed = vec![0.0; want.len()];
                run_with(threads, |pool| weights.pack(panels, isa, &mut packed, pool));
                assert!(packed == want, "{isa:?}: {groups} groups of {channels} to {filters}, {taps} taps");
            }
        });
    }

    #[test]
    fn every_order_and_size() {
        // More taps than are fetched at once, and channels of which several are.
        for taps in [1, 2, 9, 16, 27, 300] {
            for (groups, channels, filters) in [(1, 1, 1), (1, 3, 5), (1, 40, 33), (2, 16, 64), (3, 5, 19), (8, 4, 4)] {
                let values = random(1, groups * filters * channels * taps);
                let scale = random(2, groups * filters);
                check(&Weights::new(&values, None, groups, channels, taps));
                check(&Weights::new(&values, Some(&scale), groups, channels, taps));
                let reversed: Vec<usize> = (0..taps).rev().collect();
                let some: Vec<usize> = (0..taps).step_by(3).collect();
                let gaps: Vec<usize> = (0..taps).flat_map(|tap| [tap, Adjoint::NONE]).collect();
                for order in [reversed, some, gaps] {
                    let adjoint = Adjoint { order: &order, taps };
                    check(&Weights::adjoint(&values, Some(&scale), groups, channels, adjoint));
                }
            }
        }
    }
}
