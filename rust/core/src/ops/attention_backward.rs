//! Attention backward: the probabilities are recomputed, block by block, from two numbers that forward keeps of each query.
//!
//! With `P[k][q] = exp(query[q] · key[k] * scale - origin[q]) * inverse[q]` and `scale = 1 / sqrt(d)`, for each head:
//!
//! `d_value[k] = Σ_q P[k][q] d_y[q]`, `dS[k][q] = P[k][q] * (value[k] · d_y[q] - d_y[q] · y[q]) * scale`,
//! `d_key[k] = Σ_q dS[k][q] query[q]`, `d_query[q] = Σ_k dS[k][q] key[k]`
//!
//! A mask is compared with a threshold, so forward is constant in it wherever it has a derivative: its gradient is 0, as
//! for medicai's TransUNet, whose masks are comparisons of sigmoids. Keys that a query does not see have `P = 0`; a query
//! that sees none has `inverse = 0`, and no gradient passes it.
//!
//! A task owns a slab of the keys of a head: their `d_key` and `d_value`, and a part of `d_query`. The slabs, of which the
//! shapes decide, are added up in order. As in forward, keys are rows and the lanes are queries.

use std::ops::Range;

use super::attention::{AttentionStep, BLOCK};
use super::attention_mask::Coarse;
use super::online_softmax::Probabilities;
use super::rows::{Rows, pack, run};
use super::training::Gradient;
use super::{Backward, Forward, Keeps, Step, TrainStep};
use crate::buffer::align_up;
use crate::gemm::outer::{self, Outer, Run};
use crate::gemm::{Panels, Segment};
use crate::parallel::{Pool, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};

/// Both directions.
pub(super) struct AttentionTraining {
    step: AttentionStep,
    /// Queries as rows, channels of a head as columns.
    by_query: Panels,
    /// Keys of a slab.
    slab: usize,
}

impl AttentionTraining {
    pub(super) fn new(step: AttentionStep) -> Self {
        /// Blocks that are worth a slab, and tasks that are enough: every slab has a `d_query` of its own.
        const BLOCKS: usize = 4;
        const TASKS: usize = 32;
        let keys = step.key.spatial();
        let most = TASKS.div_ceil(step.query.n * step.heads);
        let slabs = keys.div_ceil(BLOCKS * BLOCK).min(most).max(1);
        let by_query = Panels::new(step.isa, step.query.spatial(), step.panels.rows);
        Self { by_query, slab: keys.div_ceil(slabs).next_multiple_of(BLOCK), step }
    }

    fn slabs(&self) -> usize {
        self.step.key.spatial().div_ceil(self.slab)
    }

    /// Elements of the part of `d_query` that a slab leaves.
    fn partial(&self) -> usize {
        align_up(self.step.query.spatial() * self.step.panels.rows)
    }

    /// Of a task: queries and `d_y` by channel, the same by query, `d_y · y`, blocks of `P` and of `dS`.
    fn own(&self) -> [usize; 7] {
        let AttentionStep { panels, .. } = self.step;
        let (by_channel, by_query, block) = (panels.len(), self.by_query.len(), BLOCK * panels.width());
        [by_channel, by_channel, by_query, by_query, panels.padded_columns(), block, block].map(align_up)
    }

    /// Scratch memory: thresholds; parts of `d_query`; each thread's own.
    fn pieces(&self) -> [usize; 3] {
        let AttentionStep { query, heads, threads, .. } = self.step;
        [
            self.step.mask.as_ref().map_or(0, Coarse::len),
            query.n * heads * self.slabs() * self.partial(),
            threads * self.own().iter().sum::<usize>(),
        ]
    }

    /// One slab of a head.
    fn slab(&self, task: &Task<'_>, mut scratch: &mut [f32], d_query: &mut [f32]) {
        let AttentionStep { isa, query, key, panels, .. } = self.step;
        let (depth, points) = (panels.rows, query.spatial());
        let channel = task.head * depth;
        let [q_by_channel, d_y_by_channel, q_by_query, d_y_by_query, shares, scores, products] =
            self.own().map(|length| {
                let (piece, rest) = std::mem::take(&mut scratch).split_at_mut(length);
                scratch = rest;
                piece
            });
        let first = task.n * query.sample() + channel;
        let [q, y, d_y] = [task.inputs[0], task.y, task.d_y].map(|map| &map[first..]);
        for (from, by_channel, by_query) in
            [(q, &mut *q_by_channel, &mut *q_by_query), (d_y, d_y_by_channel, d_y_by_query)]
        {
            pack(panels, from, [1, query.c], by_channel);
            pack(self.by_query, from, [query.c, 1], by_query);
        }
        shares.fill(0.0);
        for point in 0..points {
            let [y, d_y] = [y, d_y].map(|map| &map[point * query.c..][..depth]);
            shares[point] = y.iter().zip(d_y).map(|(y, d_y)| y * d_y).sum();
        }
        for start in task.keys.clone().step_by(BLOCK) {
            let count = BLOCK.min(task.keys.end - start);
            let first = task.n * key.sample() + start * key.c + channel;
            let [k, v] = [1, 2].map(|input| task.inputs[input][first..].as_ptr());
            let outputs = [&task.d_value, &task.d_key].map(|d| d.as_ref().map(|d| d.begin(first, count, depth, key.c)));
            for index in 0..panels.count() {
                let panel = panels.panel(index);
                let width = panel.vectors * panels.lanes();
                let (scores, products) = (&mut scores[..count * width], &mut products[..count * width]);
                for (a, packed, out) in [(k, &*q_by_channel, &mut *scores), (v, &*d_y_by_channel, &mut *products)] {
                    let rows = Rows {
                        a,
                        a_stride: key.c,
                        rows: count,
                        segments: &self.step.by_channel,
                        b: &packed[panel.start..panel.start + depth * width],
                        vectors: panel.vectors,
                        columns: width,
                        out: out.as_mut_ptr(),
                        out_stride: width,
                        start: Some(&self.step.zeros),
                    };
                    // SAFETY: `count` keys with `depth` channels each follow `first`; the block has `count` rows.
                    unsafe { run(isa, rows) };
                }
                let kernel = Probabilities {
                    scores: &mut *scores,
                    products: &mut *products,
                    statistics: &task.statistics[2 * panel.column..][..2 * width],
                    shares: &shares[panel.column..][..width],
                    scale: self.step.scale(),
                    visible: self.step.mask.as_ref().map(|mask| {
                        mask.visible(task.inputs[3], task.thresholds, task.n, start..start + count, panel.column)
                    }),
                };
                dispatch(isa, kernel);
                let by_query = [Segment { a: 0, b: panel.column, length: panel.columns }];
                for (factor, packed, out) in
                    [(&*scores, &*d_y_by_query, outputs[0]), (&*products, &*q_by_query, outputs[1])]
                {
                    let Some(out) = out else { continue };
                    for index in 0..self.by_query.count() {
                        let channels = self.by_query.panel(index);
                        let length = points * channels.vectors * self.by_query.lanes();
                        let rows = Rows {
                            a: factor.as_ptr(),
                            a_stride: width,
                            rows: count,
                            segments: &by_query,
                            b: &packed[channels.start..channels.start + length],
                            vectors: channels.vectors,
                            columns: channels.columns,
                            out: out.wrapping_add(channels.column),
                            out_stride: key.c,
                            start: None,
                        };
                        // SAFETY: the block has `count` rows; so many keys of this task start at `out`.
                        unsafe { run(isa, rows) };
                    }
                }
                let out = &mut d_query[panel.column * depth..][..panel.columns * depth];
                let add = start > task.keys.start;
                dispatch(isa, QueryGradient { products, width, k, step: key.c, depth, out, add });
            }
        }
    }
}

/// One slab of a head.
struct Task<'a> {
    inputs: &'a [&'a [f32]],
    thresholds: &'a [f32],
    /// Of this head.
    statistics: &'a [f32],
    y: &'a [f32],
    d_y: &'a [f32],
    d_key: Option<Target<'a>>,
    d_value: Option<Target<'a>>,
    n: usize,
    head: usize,
    keys: Range<usize>,
}

/// Where the gradient of keys or values goes.
#[derive(Clone, Copy)]
struct Target<'a> {
    values: SharedMut<'a>,
    plus: Option<&'a [f32]>,
}

impl<'a> Target<'a> {
    fn new(gradient: Gradient<'a>) -> Self {
        assert!(gradient.plus.is_none_or(|plus| plus.len() == gradient.values.len()));
        Self { values: SharedMut::new(gradient.values), plus: gradient.plus }
    }

    /// Prepares `count` rows of `depth` channels, `stride` apart, to be added to; they belong to the calling task.
    fn begin(&self, first: usize, count: usize, depth: usize, stride: usize) -> *mut f32 {
        for at in (0..count).map(|row| first + row * stride) {
            // SAFETY: the channels of a head of a key belong to one task.
            let row = unsafe { self.values.slice_mut(at..at + depth) };
            match self.plus {
                Some(plus) => row.copy_from_slice(&plus[at..at + depth]),
                None => row.fill(0.0),
            }
        }
        self.values.as_mut_ptr().wrapping_add(first)
    }
}

/// `out[q] = Σ_k products[k][q] * key[k]`, or added.
struct QueryGradient<'a> {
    /// Keys as rows, `width` queries in each.
    products: &'a [f32],
    width: usize,
    /// Keys, `step` apart.
    k: *const f32,
    step: usize,
    depth: usize,
    out: &'a mut [f32],
    add: bool,
}

impl Kernel for QueryGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { products, width, k, step, depth, out, add } = self;
        let queries = out.len() / depth;
        let runs = [Run { a: 0, b: 0, length: products.len() / width }];
        for column in (0..depth).step_by(S::TILE_VECTORS * S::LANES) {
            let columns = (S::TILE_VECTORS * S::LANES).min(depth - column);
            for query in (0..queries).step_by(S::TILE_ROWS) {
                let outer = Outer {
                    a: products.as_ptr().wrapping_add(query),
                    b: k.wrapping_add(column),
                    steps: [width, step],
                    runs: &runs,
                    columns,
                    out: out.as_mut_ptr().wrapping_add(query * depth + column),
                    out_stride: depth,
                    add,
                };
                // SAFETY: as many keys as there are rows of products have `depth` channels; `out` has these queries.
                unsafe { outer::run(s, &outer, S::TILE_ROWS.min(queries - query), columns.div_ceil(S::LANES)) };
            }
        }
    }
}

impl TrainStep for AttentionTraining {
    fn keeps(&self) -> Keeps {
        let inputs = 3 + usize::from(self.step.mask.is_some());
        Keeps { inputs: (0..inputs).collect(), output: true }
    }

    fn saved(&self) -> usize {
        self.step.query.n * self.step.heads * self.step.statistics()
    }

    fn scratch(&self) -> [usize; 2] {
        [self.step.pieces().iter().sum(), self.pieces().iter().sum()]
    }

    fn flops(&self) -> u64 {
        self.step.flops()
    }

    fn forward(&self, io: Forward<'_>) {
        let Forward { inputs, output, saved, scratch, pool, .. } = io;
        self.step.run(super::Io { inputs, output, in_place: false, scratch, pool }, Some(saved));
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { inputs, output: y, d_output: d_y, saved, d_inputs, scratch, pool, .. } = io;
        let AttentionStep { query, key, heads, .. } = self.step;
        let [thresholds, partials, own] = self.pieces();
        let (thresholds, scratch) = scratch.split_at_mut(thresholds);
        let (partials, scratch) = scratch.split_at_mut(partials);
        if let Some(mask) = &self.step.mask {
            mask.thresholds(inputs[3], thresholds, pool);
        }
        let mut targets = d_inputs.iter_mut().map(Option::take);
        let [d_query, d_key, d_value, d_mask] = std::array::from_fn(|_| targets.next().flatten());
        if let Some(Gradient { values, plus }) = d_mask {
            match plus {
                Some(plus) => values.copy_from_slice(plus),
                None => values.fill(0.0),
            }
        }
        let [d_key, d_value] = [d_key, d_value].map(|gradient| gradient.map(Target::new));
        let (slabs, partial, thresholds) = (self.slabs(), self.partial(), &*thresholds);
        let shared = SharedMut::new(partials);
        pool.for_each_scratch(query.n * heads * slabs, &mut scratch[..own], |number, scratch| {
            // SAFETY: every task has a part of its own.
            let d_query = unsafe { shared.slice_mut(number * partial..(number + 1) * partial) };
            let (head, slab) = (number / slabs, number % slabs);
            let statistics = &saved[head * self.step.statistics()..][..self.step.statistics()];
            let keys = slab * self.slab..key.spatial().min((slab + 1) * self.slab);
            let (n, head) = (head / heads, head % heads);
            let task = Task { inputs, thresholds, statistics, y, d_y, d_key, d_value, n, head, keys };
            self.slab(&task, scratch, d_query);
        });
        if let Some(d_query) = d_query {
            self.gather(partials, d_query, pool);
        }
    }
}

impl AttentionTraining {
    /// Adds up what the slabs left of `d_query`.
    fn gather(&self, partials: &[f32], Gradient { values, plus }: Gradient<'_>, pool: &Pool) {
        let AttentionStep { query, heads, .. } = self.step;
        let (depth, slabs, partial) = (self.step.panels.rows, self.slabs(), self.partial());
        pool.for_each_chunk(values, query.c, |point, values| {
            let (n, own) = (point / query.spatial(), point % query.spatial());
            for (head, values) in values.chunks_exact_mut(depth).enumerate() {
                let parts = &partials[(n * heads + head) * slabs * partial..][..slabs * partial];
                for (slab, part) in parts.chunks_exact(partial).enumerate() {
                    let part = &part[own * depth..][..depth];
                    match slab {
                        0 => values.copy_from_slice(part),
                        _ => values.iter_mut().zip(part).for_each(|(to, from)| *to += from),
                    }
                }
            }
            if let Some(plus) = plus {
                values.iter_mut().zip(&plus[point * query.c..]).for_each(|(to, plus)| *to += plus);
            }
        });
    }
}
