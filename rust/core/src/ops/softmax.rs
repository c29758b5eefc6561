//! Softmax over channels: `y[c] = exp(x[c] - max) / sum over c of exp(x[c] - max)`, at every point.
//!
//! Many channels are vectors along the row. Few channels (segmentation) would leave most lanes empty: there the lanes
//! are points, and a block of them is transposed on its way in and out.
//!
//! Backward: `∂y[i]/∂x[c] = y[i] (δ[i][c] - y[c])`, hence `d_x[c] = y[c] (d_y[c] - Σ_i d_y[i] y[i])` at every point:
//! the output is enough, and the lanes are the same.

use super::lanes::{load, store};
use super::{
    Attributes, Backward, Compile, Forward, Gradient, Io, Keeps, Op, Signature, Step, TrainStep, Wants, expect_inputs,
};
use crate::shape::Shape;
use crate::simd::{Isa, Kernel, Simd, dispatch, math};

/// Softmax over channels.
#[derive(Clone, Copy, Debug)]
pub struct Softmax;

impl Softmax {
    pub(super) fn parse(_: &mut Attributes) -> Result<Box<dyn Op>, String> {
        Ok(Box::new(Self))
    }
}

impl Op for Softmax {
    fn kind(&self) -> &'static str {
        "softmax"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        Ok(Signature { channels: channels[0], parameters: Vec::new() })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Box::new(SoftmaxStep { isa: context.isa, c: context.output.c })
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, _: Wants<'_>) -> Box<dyn TrainStep> {
        Box::new(SoftmaxTraining(SoftmaxStep { isa: context.isa, c: context.output.c }))
    }
}

struct SoftmaxStep {
    isa: Isa,
    c: usize,
}

impl SoftmaxStep {
    /// Elements of a task.
    fn chunk(&self) -> usize {
        const CHUNK: usize = 4 * 1024;
        (CHUNK / self.c).next_multiple_of(FEW).max(1) * self.c
    }
}

impl Step for SoftmaxStep {
    fn forward(&self, io: Io<'_>) {
        let Self { isa, c } = *self;
        let chunk = self.chunk();
        let x = io.inputs[0];
        io.pool.for_each_chunk(io.output, chunk, |task, y| {
            dispatch(isa, Rows { x: &x[task * chunk..][..y.len()], y, c });
        });
    }

    fn algorithm(&self) -> String {
        if self.c < FEW { "lanes are points".into() } else { "lanes are channels".into() }
    }
}

/// Both directions.
struct SoftmaxTraining(SoftmaxStep);

impl TrainStep for SoftmaxTraining {
    fn keeps(&self) -> Keeps {
        Keeps::output()
    }

    fn forward(&self, io: Forward<'_>) {
        self.0.forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let SoftmaxStep { isa, c } = self.0;
        let Some(Gradient { values, plus }) = io.d_inputs[0].take() else { return };
        let (y, d_y, chunk) = (io.output, io.d_output, self.0.chunk());
        io.pool.for_each_chunk(values, chunk, |task, d_x| {
            let range = task * chunk..task * chunk + d_x.len();
            let plus = plus.map(|plus| &plus[range.clone()]);
            dispatch(isa, BackwardRows { y: &y[range.clone()], d_y: &d_y[range], plus, d_x, c });
        });
    }
}

/// Fewer channels than this are transposed. It is a multiple of every vector's length.
const FEW: usize = 16;

/// Points of `c` channels.
struct Rows<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    c: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, y, c } = self;
        if c < FEW {
            for (x, y) in x.chunks(S::LANES * c).zip(y.chunks_mut(S::LANES * c)) {
                // A count that the compiler knows makes the transposition twice as fast.
                match c {
                    2 => few(simd, x, y, 2),
                    3 => few(simd, x, y, 3),
                    4 => few(simd, x, y, 4),
                    _ => few(simd, x, y, c),
                }
            }
        } else {
            for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
                many(simd, x, y);
            }
        }
    }
}

/// One point of many channels.
#[inline(always)]
fn many<S: Simd>(simd: S, x: &[f32], y: &mut [f32]) {
    let (whole, tail) = (x.len() / S::LANES * S::LANES, simd.first(x.len() % S::LANES));
    let rest = (whole < x.len()).then_some(tail);
    let lowest = simd.splat(f32::NEG_INFINITY);
    let mut largest = lowest;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: a whole vector from `i`.
        largest = simd.max(largest, unsafe { simd.load(x.as_ptr().add(i)) });
    }
    if rest.is_some() {
        // SAFETY: the tail ends with `x`.
        let last = unsafe { simd.load_masked(x.as_ptr().add(whole), tail) };
        largest = simd.max(largest, simd.select(tail, last, lowest));
    }
    let largest = simd.splat(simd.reduce_max(largest));
    let mut sum = simd.splat(0.0);
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: a whole vector from `i`, in `x` and `y`.
        unsafe {
            let y_i = math::exp(simd, simd.sub(simd.load(x.as_ptr().add(i)), largest));
            simd.store(y.as_mut_ptr().add(i), y_i);
            sum = simd.add(sum, y_i);
        }
    }
    if rest.is_some() {
        // SAFETY: the tail ends with `x` and `y`.
        unsafe {
            let last = simd.load_masked(x.as_ptr().add(whole), tail);
            let last = simd.select(tail, math::exp(simd, simd.sub(last, largest)), simd.splat(0.0));
            simd.store_masked(y.as_mut_ptr().add(whole), last, tail);
            sum = simd.add(sum, last);
        }
    }
    let factor = simd.splat(1.0 / simd.reduce_add(sum));
    for piece in y.chunks_mut(S::LANES) {
        let tail = (piece.len() < S::LANES).then_some(tail);
        // SAFETY: a whole vector, or the tail, which is as long as the mask.
        unsafe {
            let y = load(simd, piece.as_ptr(), tail);
            store(simd, piece.as_mut_ptr(), simd.mul(y, factor), tail);
        }
    }
}

/// The channels of at most `FEW` points as columns.
#[inline(always)]
fn columns(x: &[f32], c: usize) -> [[f32; FEW]; FEW] {
    let mut columns = [[0.0f32; FEW]; FEW];
    for (point, x) in x.chunks_exact(c).enumerate() {
        for (column, &x) in columns.iter_mut().zip(x) {
            column[point] = x;
        }
    }
    columns
}

/// At most `LANES` points of few channels.
#[inline(always)]
fn few<S: Simd>(simd: S, x: &[f32], y: &mut [f32], c: usize) {
    assert!(c < FEW && S::LANES <= FEW && x.len() <= S::LANES * c);
    let mut columns = columns(x, c);
    let columns = &mut columns[..c];
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for column in columns.iter() {
        // SAFETY: a column has at least `LANES` elements.
        largest = simd.max(largest, unsafe { simd.load(column.as_ptr()) });
    }
    let mut sum = simd.splat(0.0);
    for column in columns.iter_mut() {
        // SAFETY: as above.
        unsafe {
            let y = math::exp(simd, simd.sub(simd.load(column.as_ptr()), largest));
            simd.store(column.as_mut_ptr(), y);
            sum = simd.add(sum, y);
        }
    }
    let factor = simd.div(simd.splat(1.0), sum);
    for column in columns.iter_mut() {
        // SAFETY: as above.
        unsafe { simd.store(column.as_mut_ptr(), simd.mul(simd.load(column.as_ptr()), factor)) };
    }
    for (point, y) in y.chunks_exact_mut(c).enumerate() {
        for (y, column) in y.iter_mut().zip(columns.iter()) {
            *y = column[point];
        }
    }
}

/// Points of `c` channels, backward.
struct BackwardRows<'a> {
    y: &'a [f32],
    d_y: &'a [f32],
    plus: Option<&'a [f32]>,
    d_x: &'a mut [f32],
    c: usize,
}

impl Kernel for BackwardRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { y, d_y, plus, d_x, c } = self;
        let block = if c < FEW { S::LANES * c } else { c };
        for (number, d_x) in d_x.chunks_mut(block).enumerate() {
            let range = number * block..number * block + d_x.len();
            let (y, d_y, plus) = (&y[range.clone()], &d_y[range.clone()], plus.map(|plus| &plus[range]));
            match c {
                2 => few_backward(simd, [y, d_y], plus, d_x, 2),
                3 => few_backward(simd, [y, d_y], plus, d_x, 3),
                4 => few_backward(simd, [y, d_y], plus, d_x, 4),
                _ if c < FEW => few_backward(simd, [y, d_y], plus, d_x, c),
                _ => many_backward(simd, [y, d_y], plus, d_x),
            }
        }
    }
}

/// One point of many channels.
#[inline(always)]
fn many_backward<S: Simd>(simd: S, [y, d_y]: [&[f32]; 2], plus: Option<&[f32]>, d_x: &mut [f32]) {
    let c = d_x.len();
    assert!(y.len() == c && d_y.len() == c && plus.is_none_or(|plus| plus.len() == c));
    let tail = |i: usize| (i + S::LANES > c).then(|| simd.first(c - i));
    let mut sum = simd.splat(0.0);
    for i in (0..c).step_by(S::LANES) {
        // SAFETY: a whole vector from `i`, or the tail that ends with the row.
        unsafe {
            let (y, d_y) = (load(simd, y.as_ptr().add(i), tail(i)), load(simd, d_y.as_ptr().add(i), tail(i)));
            sum = simd.fma(y, d_y, sum);
        }
    }
    let sum = simd.splat(simd.reduce_add(sum));
    for i in (0..c).step_by(S::LANES) {
        // SAFETY: as above.
        unsafe {
            let (y, d_y) = (load(simd, y.as_ptr().add(i), tail(i)), load(simd, d_y.as_ptr().add(i), tail(i)));
            let mut value = simd.mul(y, simd.sub(d_y, sum));
            if let Some(plus) = plus {
                value = simd.add(value, load(simd, plus.as_ptr().add(i), tail(i)));
            }
            store(simd, d_x.as_mut_ptr().add(i), value, tail(i));
        }
    }
}

/// At most `LANES` points of few channels.
#[inline(always)]
fn few_backward<S: Simd>(simd: S, [y, d_y]: [&[f32]; 2], plus: Option<&[f32]>, d_x: &mut [f32], c: usize) {
    assert!(c < FEW && S::LANES <= FEW && d_x.len() <= S::LANES * c);
    let (y, mut d_y) = (columns(y, c), columns(d_y, c));
    let mut sum = simd.splat(0.0);
    for (y, d_y) in y[..c].iter().zip(&d_y) {
        // SAFETY: a column has at least `LANES` elements.
        sum = unsafe { simd.fma(simd.load(y.as_ptr()), simd.load(d_y.as_ptr()), sum) };
    }
    for (y, d_y) in y[..c].iter().zip(&mut d_y) {
        // SAFETY: as above.
        unsafe {
            let value = simd.mul(simd.load(y.as_ptr()), simd.sub(simd.load(d_y.as_ptr()), sum));
            simd.store(d_y.as_mut_ptr(), value);
        }
    }
    for (point, d_x) in d_x.chunks_exact_mut(c).enumerate() {
        for (d_x, column) in d_x.iter_mut().zip(&d_y) {
            *d_x = column[point];
        }
    }
    if let Some(plus) = plus {
        d_x.iter_mut().zip(plus).for_each(|(d_x, plus)| *d_x += plus);
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{CHANNELS, Trial, op};
    use super::*;

    fn naive(x: &[f64], c: usize) -> Vec<f64> {
        let row = |x: &[f64]| {
            let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = x.iter().map(|x| (x - largest).exp()).sum();
            x.iter().map(|x| (x - largest).exp() / sum).collect::<Vec<_>>()
        };
        x.chunks(c).flat_map(row).collect()
    }

    #[test]
    fn rows_of_all_sizes() {
        for c in CHANNELS.into_iter().chain([2, 7, 8, 9, 1000]) {
            for dims in [[1, 1, 1], [1, 5, 7], [5, 11, 13]] {
                let mut trial = Trial::new(op("softmax", &[]), &[Shape::new(2, dims, c)]);
                trial.inputs[0].iter_mut().for_each(|x| *x *= 3.0);
                trial.check(&naive(&trial.input(0), c));
            }
        }
    }

    #[test]
    fn gradients() {
        for c in [1, 2, 3, 4, 5, 15, 16, 17, 70] {
            for dims in [[1, 5, 7], [3, 5, 11]] {
                Trial::new(op("softmax", &[]), &[Shape::new(2, dims, c)]).check_gradients(1e-2, 2e-3);
            }
        }
    }

    #[test]
    fn large_and_excluded_values_are_no_trouble() {
        for c in [2, 5, 16, 40] {
            let mut trial = Trial::new(op("softmax", &[]), &[Shape::vector(3, c)]);
            trial.inputs[0].iter_mut().for_each(|x| *x = 1000.0 - 100.0 * *x);
            trial.inputs[0][1] = f32::NEG_INFINITY;
            trial.check(&naive(&trial.input(0), c));
            trial.inputs[0][0] = f32::NAN;
            let y = trial.run(Isa::best(), 1);
            assert!(y[..c].iter().all(|y| y.is_nan()) && y[c..].iter().all(|y| y.is_finite()));
        }
    }
}
