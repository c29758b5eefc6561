//! The masks of attention: which keys each query sees, by the table in `attention`.
//!
//! A mask is a coarser map with one channel per query. Every key belongs to its nearest point.

use std::ops::Range;

use super::lanes::load;
use crate::buffer::align_up;
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::simd::Simd;

/// How a mask is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    /// Hidden where positive; resized along the flattened points.
    Medicai,
    /// Seen where positive, at the same place.
    Foreground,
}

/// A mask for keys of some shape.
#[derive(Clone, Debug)]
pub(super) struct Coarse {
    rule: Mask,
    shape: Shape,
    /// For every key its point in the mask.
    points: Vec<u32>,
}

impl Coarse {
    /// A mask of shape `mask` for keys of shape `key`.
    pub(super) fn new(rule: Mask, key: Shape, mask: Shape) -> Self {
        // The cell in which the centre of cell `i` of `size` falls when there are `cells`.
        let nearest = |i: usize, size: usize, cells: usize| (2 * i + 1) * cells / (2 * size);
        let point = |k: usize| match rule {
            Mask::Medicai => nearest(k, key.spatial(), mask.spatial()),
            Mask::Foreground => {
                let d = nearest(k / (key.h * key.w), key.d, mask.d);
                let h = nearest(k / key.w % key.h, key.h, mask.h);
                (d * mask.h + h) * mask.w + nearest(k % key.w, key.w, mask.w)
            }
        };
        Self { rule, shape: mask, points: (0..key.spatial()).map(|k| point(k) as u32).collect() }
    }

    /// Elements of the thresholds.
    pub(super) fn len(&self) -> usize {
        self.shape.n * align_up(self.shape.c)
    }

    /// Finds what the mask must exceed to be seen by each query: 0, or minus infinity for a query that would see nothing.
    pub(super) fn thresholds(&self, map: &[f32], thresholds: &mut [f32], pool: &Pool) {
        let Shape { c, .. } = self.shape;
        pool.for_each_chunk(&mut thresholds[..self.len()], align_up(c), |n, out| {
            out.fill(f32::NEG_INFINITY);
            for point in map[n * self.shape.sample()..(n + 1) * self.shape.sample()].chunks_exact(c) {
                for (out, &mask) in out.iter_mut().zip(point) {
                    *out = if mask > 0.0 { 0.0 } else { *out };
                }
            }
        });
    }

    /// What the queries from `column` of sample `n` see of `keys`.
    pub(super) fn visible<'a>(
        &'a self,
        map: &'a [f32],
        thresholds: &'a [f32],
        n: usize,
        keys: Range<usize>,
        column: usize,
    ) -> Visible<'a> {
        Visible {
            rule: self.rule,
            map: &map[n * self.shape.sample()..(n + 1) * self.shape.sample()],
            points: &self.points[keys],
            thresholds: &thresholds[n * align_up(self.shape.c)..],
            queries: self.shape.c,
            column,
        }
    }
}

/// Which of the keys of a block each query sees.
#[derive(Clone, Copy)]
pub(super) struct Visible<'a> {
    rule: Mask,
    /// The mask: points with one channel per query.
    map: &'a [f32],
    /// For each key of the block its point in the mask.
    points: &'a [u32],
    /// For each query what the mask must exceed ([`Mask::Foreground`]).
    thresholds: &'a [f32],
    queries: usize,
    /// The first query of the panel.
    column: usize,
}

impl Visible<'_> {
    /// The scores of a key, minus infinity where it is hidden.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(&self, simd: S, score: S::V, key: usize, column: usize) -> S::V {
        let first = self.column + column;
        let Some(left) = self.queries.checked_sub(first).filter(|&left| left > 0) else { return score };
        let tail = if left < S::LANES { Some(simd.first(left)) } else { None };
        let point = self.points[key] as usize * self.queries;
        let row = &self.map[point..point + self.queries];
        // SAFETY: the row has `left` queries from `first`, and so have the thresholds.
        unsafe {
            let mask = load(simd, row.as_ptr().add(first), tail);
            let hidden = simd.splat(f32::NEG_INFINITY);
            match self.rule {
                Mask::Medicai => simd.select(simd.less(simd.splat(0.0), mask), hidden, score),
                Mask::Foreground => {
                    let threshold = load(simd, self.thresholds[..self.queries].as_ptr().add(first), tail);
                    simd.select(simd.less(threshold, mask), score, hidden)
                }
            }
        }
    }
}
