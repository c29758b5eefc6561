//! The soft skeleton of a map and its backward pass (Shit et al., "clDice", CVPR 2021).
//!
//! `E` is erosion, the smallest of a point and its neighbours along the axes; `D` dilation, the largest of the 3x3(x3)
//! points around it; neighbours beyond the border are left out. With `e[0] = x`, `e[i + 1] = E(e[i])`:
//!
//! `delta[i] = relu(e[i] - D(e[i + 1]))`, `skeleton[0] = delta[0]`,
//! `skeleton[i] = skeleton[i - 1] + relu(delta[i] (1 - skeleton[i - 1]))` up to `i = iterations`.
//!
//! Backward, from the last `i` to the first, with `g` the gradient of the skeleton: where the relu is open,
//! `d_delta = g (1 - skeleton[i - 1])` and `g` becomes `g (1 - delta[i])`; where it is closed, `d_delta = 0`. At last
//! `d_delta[0] = g`. Where `delta[i] > 0`: `d_e[i] += d_delta`, `d_e[i + 1] += Dᵀ(-d_delta)`; then `d_e[i] += Eᵀ(d_e[i + 1])`.
//! The transposes take a gradient to the point that was the smallest or largest (the first of equals, the centre before
//! all), gathering, so that every point is written once.
//!
//! What backward reads is computed again from every `segment`-th pair (e, skeleton): memory of about twice the root of the
//! number of iterations instead of twice that number.

use crate::buffer::{OutOfMemory, zeros};
use crate::pieces::Place;
use crate::shape::Dims3;
use crate::simd::{Kernel, Simd, dispatch};

/// Whether the smallest or the largest is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extreme {
    Erosion,
    Dilation,
}

impl Extreme {
    /// The neighbours that are looked at, the point itself first.
    fn taps(self, dims: Dims3) -> Vec<[isize; 3]> {
        let around = |size: usize| if size == 1 { 0..=0 } else { -1..=1 };
        let [d, h, w] = dims.map(around);
        let mut taps = vec![[0; 3]];
        for z in d {
            for y in h.clone() {
                taps.extend(w.clone().map(|x| [z, y, x]).filter(|tap| {
                    let axes = tap.iter().filter(|&&offset| offset != 0).count();
                    if self == Self::Erosion { axes == 1 } else { axes > 0 }
                }));
            }
        }
        taps
    }
}

/// A neighbour's row against the row in hand: `i + offset` is inside for `i` in the range.
#[inline(always)]
fn overlap(length: usize, offset: isize) -> std::ops::Range<usize> {
    let start = (-offset).max(0) as usize;
    start.min(length)..length - (offset.max(0) as usize).min(length)
}

/// Row numbers of a map, and those of neighbours.
#[derive(Clone, Copy)]
struct Rows {
    dims: Dims3,
}

impl Rows {
    /// The row at this offset from `row`, if there is one.
    fn neighbour(self, row: usize, [dz, dy, _]: [isize; 3]) -> Option<usize> {
        let [d, h, _] = self.dims;
        let z = (row / h).checked_add_signed(dz).filter(|&z| z < d)?;
        let y = (row % h).checked_add_signed(dy).filter(|&y| y < h)?;
        Some(z * h + y)
    }
}

/// Computes one row.
struct RowKernel<F>(F);

impl<F: FnOnce()> Kernel for RowKernel<F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        (self.0)();
    }
}

/// Maps of one size, and where they are computed.
#[derive(Clone, Copy)]
pub(super) struct Maps<'a> {
    pub(super) dims: Dims3,
    pub(super) place: Place<'a>,
}

/// A pair (e, skeleton before it) from which a segment is computed again.
type Pair = (Vec<f32>, Vec<f32>);

/// What [`Maps::skeleton`] keeps for [`Maps::backward`].
pub(super) struct Kept {
    pairs: Vec<Pair>,
    iterations: usize,
    segment: usize,
}

type Fallible<T> = Result<T, OutOfMemory>;

impl Maps<'_> {
    fn len(&self) -> usize {
        self.dims.iter().product()
    }

    fn new_map(&self) -> Fallible<Vec<f32>> {
        zeros(self.len())
    }

    /// Fills a map row by row: `work(row, values)`, compiled for the instruction set.
    fn rows(&self, to: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
        /// Elements of a task.
        const CHUNK: usize = 8 * 1024;
        let (w, isa) = (self.dims[2], self.place.isa);
        let rows = (CHUNK / w).max(1);
        self.place.pool.for_each_chunk(to, rows * w, |task, chunk| {
            dispatch(
                isa,
                RowKernel(
                    #[inline(always)]
                    || {
                        for (i, row) in chunk.chunks_exact_mut(w).enumerate() {
                            work(task * rows + i, row);
                        }
                    },
                ),
            );
        });
    }

    /// `E(x)` or `D(x)`.
    fn extreme(&self, kind: Extreme, x: &[f32]) -> Fallible<Vec<f32>> {
        let (w, taps, rows) = (self.dims[2], kind.taps(self.dims), Rows { dims: self.dims });
        let mut y = self.new_map()?;
        self.rows(
            &mut y,
            #[inline(always)]
            |row, y| {
                y.copy_from_slice(&x[row * w..][..w]);
                for &tap in &taps[1..] {
                    let Some(other) = rows.neighbour(row, tap) else { continue };
                    let range = overlap(w, tap[2]);
                    let from = (other * w + range.start).wrapping_add_signed(tap[2]);
                    let x = &x[from..from + range.len()];
                    let pairs = y[range].iter_mut().zip(x);
                    match kind {
                        Extreme::Erosion => pairs.for_each(|(y, &x)| *y = if x < *y { x } else { *y }),
                        Extreme::Dilation => pairs.for_each(|(y, &x)| *y = if x > *y { x } else { *y }),
                    }
                }
            },
        );
        Ok(y)
    }

    /// Adds `Eᵀ(d_y)` or `Dᵀ(d_y)` to `d_x`.
    fn extreme_backward(&self, kind: Extreme, x: &[f32], d_y: &[f32], d_x: &mut [f32]) -> Fallible<()> {
        let (w, taps, rows) = (self.dims[2], kind.taps(self.dims), Rows { dims: self.dims });
        // The number of the tap that each point took its value from.
        let mut codes = self.new_map()?;
        self.rows(
            &mut codes,
            #[inline(always)]
            |row, codes| {
                let mut best = x[row * w..][..w].to_vec();
                for (number, &tap) in taps.iter().enumerate().skip(1) {
                    let Some(other) = rows.neighbour(row, tap) else { continue };
                    let range = overlap(w, tap[2]);
                    let from = (other * w + range.start).wrapping_add_signed(tap[2]);
                    let x = &x[from..from + range.len()];
                    for ((best, code), &x) in best[range.clone()].iter_mut().zip(&mut codes[range]).zip(x) {
                        let better = if kind == Extreme::Erosion { x < *best } else { x > *best };
                        *code = if better { number as f32 } else { *code };
                        *best = if better { x } else { *best };
                    }
                }
            },
        );
        self.rows(
            d_x,
            #[inline(always)]
            |row, d_x| {
                for (number, &tap) in taps.iter().enumerate() {
                    // The point that looks here through this tap is on the other side.
                    let tap = tap.map(|offset| -offset);
                    let Some(other) = rows.neighbour(row, tap) else { continue };
                    let range = overlap(w, tap[2]);
                    let from = (other * w + range.start).wrapping_add_signed(tap[2]);
                    let (codes, d_y) = (&codes[from..from + range.len()], &d_y[from..from + range.len()]);
                    for ((d_x, &code), &d_y) in d_x[range].iter_mut().zip(codes).zip(d_y) {
                        *d_x += if code == number as f32 { d_y } else { 0.0 };
                    }
                }
            },
        );
        Ok(())
    }

    /// `delta[i]` from `e[i]` and `e[i + 1]`.
    fn delta(&self, e: &[f32], eroded: &[f32]) -> Fallible<Vec<f32>> {
        let w = self.dims[2];
        let mut delta = self.extreme(Extreme::Dilation, eroded)?;
        self.rows(
            &mut delta,
            #[inline(always)]
            |row, delta| {
                for (delta, &e) in delta.iter_mut().zip(&e[row * w..][..w]) {
                    *delta = (e - *delta).max(0.0);
                }
            },
        );
        Ok(delta)
    }

    /// `skeleton[i]` in place of `skeleton[i - 1]`, which is 0 before the first.
    fn grow(&self, skeleton: &mut [f32], delta: &[f32]) {
        let w = self.dims[2];
        self.rows(
            skeleton,
            #[inline(always)]
            |row, skeleton| {
                for (skeleton, &delta) in skeleton.iter_mut().zip(&delta[row * w..][..w]) {
                    *skeleton += (delta * (1.0 - *skeleton)).max(0.0);
                }
            },
        );
    }

    /// The skeleton of `x`, and what [`Maps::backward`] needs: everything if `all`, else some of it.
    pub(super) fn skeleton(&self, x: Vec<f32>, iterations: usize, all: bool) -> Fallible<(Vec<f32>, Kept)> {
        let segment = if all { iterations + 1 } else { (iterations + 1).isqrt().max(1) };
        let mut kept = Kept { pairs: Vec::new(), iterations, segment };
        let (mut e, mut skeleton) = (x, self.new_map()?);
        for i in 0..=iterations {
            if i % segment == 0 {
                kept.pairs.push((e.clone(), skeleton.clone()));
            }
            let eroded = self.extreme(Extreme::Erosion, &e)?;
            self.grow(&mut skeleton, &self.delta(&e, &eroded)?);
            e = eroded;
        }
        Ok((skeleton, kept))
    }

    /// The gradient by `x` for a gradient `g` by the skeleton.
    pub(super) fn backward(&self, kept: &Kept, mut g: Vec<f32>) -> Fallible<Vec<f32>> {
        let w = self.dims[2];
        // By e[i + 1], as far as later steps depend on it.
        let mut d_next = self.new_map()?;
        for (number, (e, skeleton)) in kept.pairs.iter().enumerate().rev() {
            let first = number * kept.segment;
            let last = kept.iterations.min(first + kept.segment - 1);
            let (mut es, mut skeletons, mut deltas) = (vec![e.clone()], vec![skeleton.clone()], Vec::new());
            for i in 0..=last - first {
                let eroded = self.extreme(Extreme::Erosion, &es[i])?;
                deltas.push(self.delta(&es[i], &eroded)?);
                es.push(eroded);
                let mut grown = skeletons[i].clone();
                self.grow(&mut grown, &deltas[i]);
                skeletons.push(grown);
            }
            for i in (0..=last - first).rev() {
                let (delta, before) = (&deltas[i], &skeletons[i]);
                // -d_delta, where delta is not 0.
                let mut minus = self.new_map()?;
                self.rows(
                    &mut minus,
                    #[inline(always)]
                    |row, minus| {
                        let at = row * w..(row + 1) * w;
                        for (((minus, &delta), &before), &g) in
                            minus.iter_mut().zip(&delta[at.clone()]).zip(&before[at.clone()]).zip(&g[at])
                        {
                            *minus = if delta * (1.0 - before) > 0.0 { -g * (1.0 - before) } else { 0.0 };
                        }
                    },
                );
                self.rows(
                    &mut g,
                    #[inline(always)]
                    |row, g| {
                        let at = row * w..(row + 1) * w;
                        for ((g, &delta), &before) in g.iter_mut().zip(&delta[at.clone()]).zip(&before[at]) {
                            *g = if delta * (1.0 - before) > 0.0 { *g * (1.0 - delta) } else { *g };
                        }
                    },
                );
                self.extreme_backward(Extreme::Dilation, &es[i + 1], &minus, &mut d_next)?;
                minus.iter_mut().for_each(|d| *d = -*d);
                self.extreme_backward(Extreme::Erosion, &es[i], &d_next, &mut minus)?;
                d_next = minus;
            }
        }
        Ok(d_next)
    }
}
