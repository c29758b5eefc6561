//! Multi-head attention (Vaswani et al. 2017) between maps that are projected already: the points are the tokens.
//!
//! `y[q] = Σ_k softmax_k(query[q] · key[k] / sqrt(d)) * value[k]`, for each of `heads` parts of `d` channels
//!
//! A fourth input may say what each query sees: a coarser map with one channel per query, of which the sign counts.
//!
//! | mask | query sees key | sees none |
//! |---|---|---|
//! | medicai | where the mask, resized along the flattened points, is **not** positive | result 0 |
//! | foreground | where the mask at the same place is positive | sees all |
//!
//! The first is what medicai's TransUNet computes (it hands numbers to an argument of Keras that takes booleans), the
//! second what Cheng et al. 2022 (Mask2Former) describe and it meant.
//!
//! Scores are never stored whole: keys come in blocks, and maximum, sum and result of each query are corrected when a
//! block raises the maximum. The lanes of a vector are queries, so nothing is summed across lanes and nothing but the
//! queries is packed. Long lists of keys are cut in slabs, by the shape alone, which are combined in order.
//! Backward recomputes the scores block by block: see `attention_backward`.

use super::attention_backward::AttentionTraining;
use super::attention_mask::{Coarse, Mask};
use super::online_softmax::{Combine, Update};
use super::rows::{Rows, pack, run};
use super::{Attributes, Compile, Io, Op, Signature, Step, TrainStep, Wants};
use crate::buffer::align_up;
use crate::gemm::{Panels, Segment};
use crate::parallel::SharedMut;
use crate::shape::Shape;
use crate::simd::{Isa, dispatch};

/// Attention of the points of one map to those of another.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    heads: usize,
    mask: Option<Mask>,
}

impl Attention {
    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let mask = match attributes.text("mask")?.as_str() {
            "none" => None,
            "medicai" => Some(Mask::Medicai),
            "foreground" => Some(Mask::Foreground),
            other => {
                return Err(format!(
                    "attribute \"mask\": expected \"none\", \"medicai\" or \"foreground\", got {other:?}"
                ));
            }
        };
        Ok(Box::new(Self { heads: attributes.size("heads")?, mask }))
    }
}

impl Op for Attention {
    fn kind(&self) -> &'static str {
        "attention"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        let expected = 3 + usize::from(self.mask.is_some());
        if channels.len() != expected {
            return Err(format!("expected {expected} inputs, got {}", channels.len()));
        }
        let c = channels[0];
        if channels[1] != c || channels[2] != c {
            return Err(format!("query, key and value have {c}, {} and {} channels", channels[1], channels[2]));
        }
        if !c.is_multiple_of(self.heads) {
            return Err(format!("{c} channels cannot be dealt to {} heads", self.heads));
        }
        Ok(Signature { channels: c, parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (query, key, value) = (inputs[0], inputs[1], inputs[2]);
        if key != value || key.n != query.n {
            return Err(format!("query {query}, key {key} and value {value} do not fit each other"));
        }
        if let Some(&mask) = inputs.get(3)
            && (mask.n != query.n || mask.c != query.spatial())
        {
            return Err(format!(
                "mask {mask} does not fit {query}: expected a channel for each of {} queries",
                query.spatial()
            ));
        }
        Ok(query)
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(self.step(context))
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(AttentionTraining::new(self.step(context)))
    }
}

impl Attention {
    fn step(&self, context: &Compile<'_>) -> AttentionStep {
        let Compile { isa, threads, inputs, .. } = *context;
        let (query, key) = (inputs[0], inputs[1]);
        let mask = self.mask.map(|rule| Coarse::new(rule, key, inputs[3]));
        let depth = query.c / self.heads;
        let panels = Panels::new(isa, depth, query.spatial());
        let by_channel = [Segment { a: 0, b: 0, length: depth }];
        let by_key = (0..BLOCK).map(|k| Segment { a: (k * key.c) as isize, b: k, length: 1 }).collect();
        let zeros = vec![0.0; panels.width()];
        AttentionStep { isa, threads, heads: self.heads, query, key, mask, panels, by_channel, by_key, zeros }
    }
}

/// Keys whose scores are in memory at once.
pub(super) const BLOCK: usize = 64;

/// Keys of a slab: a task.
const SLAB: usize = 64 * BLOCK;

pub(super) struct AttentionStep {
    pub(super) isa: Isa,
    pub(super) threads: usize,
    pub(super) heads: usize,
    pub(super) query: Shape,
    pub(super) key: Shape,
    pub(super) mask: Option<Coarse>,
    /// Queries as columns, channels of a head as rows.
    pub(super) panels: Panels,
    pub(super) by_channel: [Segment; 1],
    pub(super) by_key: Vec<Segment>,
    pub(super) zeros: Vec<f32>,
}

impl AttentionStep {
    fn slabs(&self) -> usize {
        self.key.spatial().div_ceil(SLAB)
    }

    /// Elements that a slab leaves: for each panel a row of maxima, a row of sums, and the result, channels as rows.
    fn partial(&self) -> usize {
        align_up((2 + self.panels.rows) * self.panels.padded_columns())
    }

    /// Scratch memory: what the slabs leave; thresholds; for each thread packed queries and a block of scores.
    pub(super) fn pieces(&self) -> [usize; 3] {
        let per_thread = align_up(self.panels.len()) + BLOCK * self.panels.width();
        [
            self.query.n * self.heads * self.slabs() * self.partial(),
            self.mask.as_ref().map_or(0, Coarse::len),
            self.threads * align_up(per_thread),
        ]
    }

    /// Elements of what backward needs of a head: rows of origins and of inverse sums (see `Combine`), for each panel.
    pub(super) fn statistics(&self) -> usize {
        2 * self.panels.padded_columns()
    }

    /// What scores are multiplied by.
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.panels.rows as f32).sqrt()
    }

    /// One head and one slab of keys: fills what the slab leaves.
    fn slab(&self, task: &Task<'_>, scratch: &mut [f32], partial: &mut [f32]) {
        let Self { isa, panels, query, key, .. } = *self;
        let depth = panels.rows;
        let channel = task.head * depth;
        let [q, k, v] = [0, 1, 2].map(|input| task.inputs[input]);
        let (packed, scores) = scratch.split_at_mut(align_up(panels.len()));
        pack(panels, &q[task.n * query.sample() + channel..], [1, query.c], packed);
        let keys = task.slab * SLAB..key.spatial().min((task.slab + 1) * SLAB);
        for start in keys.clone().step_by(BLOCK) {
            let count = BLOCK.min(keys.end - start);
            let first = task.n * key.sample() + start * key.c + channel;
            let (k, v) = (&k[first..], &v[first..]);
            for index in 0..panels.count() {
                let panel = panels.panel(index);
                let width = panel.vectors * panels.lanes();
                let scores = &mut scores[..count * width];
                let left = &mut partial[(2 + depth) * panel.column..][..(2 + depth) * width];
                let (sums, values) = left.split_at_mut(2 * width);
                let to_scores = Rows {
                    a: k.as_ptr(),
                    a_stride: key.c,
                    rows: count,
                    segments: &self.by_channel,
                    b: &packed[panel.start..panel.start + depth * width],
                    vectors: panel.vectors,
                    columns: width,
                    out: scores.as_mut_ptr(),
                    out_stride: width,
                    start: Some(&self.zeros),
                };
                // SAFETY: `count` keys with `depth` channels each follow `first`; the scores have `count` rows.
                unsafe { run(isa, to_scores) };
                let visible = self.mask.as_ref().map(|mask| {
                    mask.visible(task.inputs[3], task.thresholds, task.n, start..start + count, panel.column)
                });
                let (scale, first) = (self.scale(), start == keys.start);
                dispatch(isa, Update { scores, sums, values, width, scale, visible, first });
                let to_values = Rows {
                    a: v.as_ptr(),
                    a_stride: 1,
                    rows: depth,
                    segments: &self.by_key[..count],
                    b: scores,
                    vectors: panel.vectors,
                    columns: width,
                    out: values.as_mut_ptr(),
                    out_stride: width,
                    start: None,
                };
                // SAFETY: as above; the result has `depth` rows.
                unsafe { run(isa, to_values) };
            }
        }
    }
}

/// One head and one slab of keys.
struct Task<'a> {
    inputs: &'a [&'a [f32]],
    thresholds: &'a [f32],
    n: usize,
    head: usize,
    slab: usize,
}

impl AttentionStep {
    /// Computes the output, and keeps of every head what backward needs.
    pub(super) fn run(&self, io: Io<'_>, statistics: Option<&mut [f32]>) {
        let Self { isa, heads, query, panels, .. } = *self;
        let Io { inputs, output, scratch, pool, .. } = io;
        let (slabs, depth) = (self.slabs(), panels.rows);
        let [partials, thresholds, scratches] = self.pieces();
        let (partials, scratch) = scratch.split_at_mut(partials);
        let (thresholds, scratch) = scratch.split_at_mut(thresholds);
        if let Some(mask) = &self.mask {
            mask.thresholds(inputs[3], thresholds, pool);
        }
        let (thresholds, shared) = (&*thresholds, SharedMut::new(partials));
        pool.for_each_scratch(query.n * heads * slabs, &mut scratch[..scratches], |number, scratch| {
            // SAFETY: every task has a part of its own.
            let partial = unsafe { shared.slice_mut(number * self.partial()..(number + 1) * self.partial()) };
            let (head, slab) = (number / slabs, number % slabs);
            let task = Task { inputs, thresholds, n: head / heads, head: head % heads, slab };
            self.slab(&task, scratch, partial);
        });
        let (output, statistics) = (SharedMut::new(output), statistics.map(SharedMut::new));
        pool.for_each_chunk(partials, slabs * self.partial(), |task, pieces| {
            let (n, channel) = (task / heads, task % heads * depth);
            for index in 0..panels.count() {
                let panel = panels.panel(index);
                let (width, start) = (panel.vectors * panels.lanes(), (2 + depth) * panel.column);
                dispatch(isa, Combine { pieces, pitch: self.partial(), start, rows: depth, width });
                if let Some(statistics) = &statistics {
                    let at = task * self.statistics() + 2 * panel.column;
                    // SAFETY: every head has a part of its own.
                    unsafe { statistics.slice_mut(at..at + 2 * width) }
                        .copy_from_slice(&pieces[start..start + 2 * width]);
                }
                let values = &pieces[start + 2 * width..][..depth * width];
                for column in 0..panel.columns {
                    let at = (n * query.spatial() + panel.column + column) * query.c + channel;
                    // SAFETY: the channels of a head belong to one task.
                    let y = unsafe { output.slice_mut(at..at + depth) };
                    y.iter_mut().zip(values[column..].iter().step_by(width)).for_each(|(y, &value)| *y = value);
                }
            }
        });
    }
}

impl Step for AttentionStep {
    fn scratch(&self) -> usize {
        self.pieces().iter().sum()
    }

    fn forward(&self, io: Io<'_>) {
        self.run(io, None);
    }

    fn algorithm(&self) -> String {
        format!("{} slabs of keys", self.slabs())
    }

    fn flops(&self) -> u64 {
        4 * (self.query.len() * self.key.spatial()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{Trial, op, text};
    use super::super::{Op, Value};
    use super::*;

    fn attention(heads: usize, mask: &str) -> Box<dyn Op> {
        op("attention", &[("heads", Value::Int(heads as i64)), ("mask", text(mask))])
    }

    /// By the definition; `sees(q, k)` of sample `n`.
    fn naive(trial: &Trial, heads: usize, sees: impl Fn(usize, usize, usize) -> bool) -> Vec<f64> {
        let (query, key) = (trial.shapes[0], trial.shapes[1]);
        let [q, k, v] = [0, 1, 2].map(|input| trial.input(input));
        let (c, depth) = (query.c, query.c / heads);
        let mut y = vec![0.0; query.len()];
        for (at, y) in y.chunks_mut(depth).enumerate() {
            let (head, point) = (at % heads, at / heads);
            let (n, own) = (point / query.spatial(), point % query.spatial());
            let part = |x: &[f64], point: usize| x[point * c + head * depth..][..depth].to_vec();
            let q = part(&q, point);
            let keys: Vec<usize> = (0..key.spatial()).filter(|&k| sees(n, own, k)).collect();
            let score = |&i: &usize| {
                let k = part(&k, n * key.spatial() + i);
                (q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (depth as f64).sqrt()).exp()
            };
            let sum: f64 = keys.iter().map(score).sum();
            for i in &keys {
                let weight = score(i) / sum;
                let v = part(&v, n * key.spatial() + i);
                y.iter_mut().zip(v).for_each(|(y, v)| *y += weight * v);
            }
        }
        y
    }

    #[test]
    fn all_to_all() {
        for (queries, keys, c, heads) in [
            ([1, 1, 1], [1, 1, 1], 4, 1),
            ([1, 1, 3], [1, 5, 9], 24, 3),
            ([1, 7, 10], [1, 7, 10], 64, 2),
            ([1, 1, 33], [3, 40, 39], 32, 4),
        ] {
            let (query, key) = (Shape::new(2, queries, c), Shape::new(2, keys, c));
            let trial = Trial::new(attention(heads, "none"), &[query, key, key]);
            trial.check(&naive(&trial, heads, |_, _, _| true));
        }
    }

    #[test]
    fn masks_hide_keys() {
        let (query, key) = (Shape::new(2, [1, 1, 21], 16), Shape::new(2, [2, 8, 12], 16));
        let mask = Shape::new(2, [1, 4, 6], 21);
        for rule in ["medicai", "foreground"] {
            let mut trial = Trial::new(attention(2, rule), &[query, key, key, mask]);
            // One query for which everything is foreground, one for which nothing is.
            for point in trial.inputs[3].chunks_exact_mut(mask.c) {
                (point[0], point[20]) = (1.0, -1.0);
            }
            let map = trial.input(3);
            let want = naive(&trial, 2, |n, q, k| {
                let at = |point: usize| map[(n * mask.spatial() + point) * mask.c + q];
                match rule {
                    "medicai" => at(k / (key.spatial() / mask.spatial())) <= 0.0,
                    _ => q == 20 || at(k / key.w % key.h / 2 * mask.w + k % key.w / 2) > 0.0,
                }
            });
            trial.check(&want);
        }
    }

    #[test]
    fn gradients() {
        for (queries, keys, c, heads) in [
            ([1, 1, 1], [1, 1, 2], 4, 1),
            ([1, 1, 3], [1, 5, 9], 24, 3),
            ([1, 7, 10], [1, 7, 10], 34, 1),
            ([1, 1, 33], [3, 10, 11], 32, 4),
        ] {
            let (query, key) = (Shape::new(2, queries, c), Shape::new(2, keys, c));
            let mut trial = Trial::new(attention(heads, "none"), &[query, key, key]);
            // Probabilities that differ.
            trial.inputs[1].iter_mut().for_each(|key| *key *= 2.0);
            trial.check_gradients(1e-2, 2e-3);
        }
        let (query, key) = (Shape::new(2, [1, 1, 21], 16), Shape::new(2, [2, 8, 12], 16));
        let mask = Shape::new(2, [1, 4, 6], 21);
        for rule in ["medicai", "foreground"] {
            let mut trial = Trial::new(attention(2, rule), &[query, key, key, mask]);
            // No sign changes within a step: the output is constant in the mask, and its gradient 0.
            trial.inputs[3].iter_mut().for_each(|mask| *mask = mask.signum());
            for point in trial.inputs[3].chunks_exact_mut(mask.c) {
                (point[0], point[20]) = (1.0, -1.0);
            }
            trial.check_gradients(1e-2, 2e-3);
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        let shape = Shape::new(1, [1, 1, 4], 8);
        let mut trial = Trial::new(attention(1, "none"), &[shape; 3]);
        trial.inputs[0][0] = f32::NAN;
        let y = trial.run(Isa::best(), 1);
        assert!(y[..8].iter().all(|y| y.is_nan()) && y[8..].iter().all(|y| y.is_finite()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (query, key) = (Shape::new(1, [1, 1, 5], 8), Shape::new(1, [1, 4, 4], 8));
        assert!(attention(3, "none").signature(&[8; 3]).unwrap_err().contains("3 heads"));
        assert!(attention(2, "none").signature(&[8, 8]).unwrap_err().contains("3 inputs"));
        assert!(attention(2, "none").infer(&[query, key, query]).unwrap_err().contains("do not fit"));
        let mask = Shape::new(1, [1, 3, 2], 6);
        assert!(attention(2, "foreground").infer(&[query, key, key, mask]).unwrap_err().contains("mask"));
    }
}
