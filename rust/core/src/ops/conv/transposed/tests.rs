//! The transposed convolution against its definition in float64.

use super::*;
use crate::ops::activation::Activation;
use crate::ops::{Packing, Precision, Stretches, trial};
use crate::parallel;
use crate::simd::Isa;
use crate::testing::{assert_close, for_each_isa, random};

fn naive(op: &ConvTranspose, x: &[f32], input: Shape, weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let output = op.infer(&[input]).unwrap();
    let Window { kernel, stride, padding, .. } = op.window;
    let (channels, per_group) = (input.c / op.groups, op.filters / op.groups);
    let mut y: Vec<f64> = (0..output.len()).map(|i| f64::from(bias[i % op.filters])).collect();
    for (i, &x) in x.iter().enumerate() {
        let (c, pixel) = (i % input.c, i / input.c);
        let at = [pixel / (input.h * input.w) % input.d, pixel / input.w % input.h, pixel % input.w];
        for tap in 0..op.window.taps() {
            let t = [tap / (kernel[1] * kernel[2]), tap / kernel[2] % kernel[1], tap % kernel[2]];
            let to: [usize; 3] = std::array::from_fn(|a| (at[a] * stride[a] + t[a]).wrapping_sub(padding[a][0]));
            if (0..3).any(|a| to[a] >= output.dims()[a]) {
                continue;
            }
            let n = pixel / input.spatial();
            let to = (((n * output.d + to[0]) * output.h + to[1]) * output.w + to[2]) * output.c;
            for k in 0..per_group {
                let w = weight[(c * per_group + k) * op.window.taps() + tap];
                y[to + c / channels * per_group + k] += f64::from(x) * f64::from(w);
            }
        }
    }
    y
}

fn run(op: &ConvTranspose, input: Shape, parameters: &[&[f32]], x: &[f32], isa: Isa, threads: usize) -> Vec<f32> {
    let output = op.infer(&[input]).unwrap();
    let mut made = Stretches::default();
    let step = parallel::run_with(threads, |pool| {
        let packing = Packing::Shared { known: &mut Default::default(), made: &mut made };
        op.compile(&mut Compile {
            isa,
            threads,
            pool,
            precision: Precision::Default,
            inputs: &[input],
            output,
            parameters,
            packing,
        })
    });
    made.finish();
    trial::forward(&*step, &[x], output, threads)
}

fn check(input: Shape, kernel: [usize; 3], stride: [usize; 3], padding: [[usize; 2]; 3], output_padding: [usize; 3]) {
    for (groups, filters) in [(1, 20), (2, 6), (4, 4)] {
        let window = Window::new(kernel, stride, [1; 3], padding).unwrap();
        let epilogue = Epilogue { activation: Activation::Relu, ..Epilogue::default() };
        let op = ConvTranspose { filters, window, output_padding, spacing: [1; 3], groups, bias: true, epilogue };
        let shapes = op.signature(&[input.c]).unwrap().parameters;
        let weight = random(2, shapes[0].shape.iter().product());
        let (bias, x) = (random(3, filters), random(1, input.len()));
        let want: Vec<f64> = naive(&op, &x, input, &weight, &bias).iter().map(|y| y.max(0.0)).collect();
        for_each_isa(|isa| {
            let got = run(&op, input, &[&weight, &bias], &x, isa, 1);
            assert_close(&got, &want, 2e-5);
            assert_eq!(got, run(&op, input, &[&weight, &bias], &x, isa, 3), "{isa:?} {op:?}");
        });
    }
}

#[test]
fn upsampling() {
    let none = [[0; 2]; 3];
    check(Shape::new(2, [1, 5, 7], 8), [1, 2, 2], [1, 2, 2], none, [0; 3]);
    check(Shape::new(1, [3, 4, 5], 8), [2; 3], [2; 3], none, [0; 3]);
    check(Shape::new(2, [1, 5, 7], 8), [1, 4, 4], [1, 2, 2], [[0; 2], [1; 2], [1; 2]], [0; 3]);
    check(Shape::new(1, [3, 4, 5], 8), [4; 3], [2; 3], [[1; 2]; 3], [0; 3]);
    check(Shape::new(1, [3, 4, 5], 8), [3; 3], [2; 3], [[1; 2]; 3], [1; 3]);
}

#[test]
fn odd_windows() {
    for kernel in [[1, 1, 1], [1, 3, 2], [2, 5, 3]] {
        for stride in [[1, 1, 1], [2, 3, 1], [1, 2, 4]] {
            check(Shape::new(1, [3, 4, 5], 4), kernel, stride, [[0; 2]; 3], stride.map(|s| s - 1));
            check(Shape::new(1, [3, 4, 5], 4), kernel, stride, [[0, 1], [1, 1], [2, 0]], [0; 3]);
        }
    }
    check(Shape::new(1, [1, 1, 1], 4), [1, 2, 2], [1, 2, 2], [[0; 2]; 3], [0; 3]);
}

#[test]
fn phases_without_taps_and_many_phases() {
    check(Shape::new(1, [1, 2, 3], 4), [1, 2, 2], [1, 50, 40], [[0; 2]; 3], [0, 7, 0]);
    check(Shape::new(1, [1, 3, 2], 4), [1, 80, 75], [1, 40, 37], [[0; 2], [3, 5], [41, 0]], [0; 3]);
    check(Shape::new(1, [1, 1, 4], 4), [1, 1, 3000], [1; 3], [[0; 2]; 3], [0; 3]);
    check(Shape::new(1, [1, 1, 3000], 4), [1, 1, 3], [1; 3], [[0; 2], [0; 2], [1500, 1490]], [0; 3]);
}

#[test]
fn steps_do_not_multiply_with_the_stride() {
    let window = Window::new([1, 2, 2], [1, 2000, 2000], [1; 3], [[0; 2]; 3]).unwrap();
    let epilogue = Epilogue::default();
    let op =
        ConvTranspose { filters: 4, window, output_padding: [0; 3], spacing: [1; 3], groups: 1, bias: false, epilogue };
    let input = Shape::new(1, [1, 2, 2], 4);
    let (output, weight) = (op.infer(&[input]).unwrap(), random(1, 64));
    let mut made = Stretches::default();
    parallel::run_with(1, |pool| {
        let packing = Packing::Shared { known: &mut Default::default(), made: &mut made };
        let (isa, threads, parameters) = (Isa::best(), 1, &[&weight[..]][..]);
        op.compile(&mut Compile {
            isa,
            threads,
            pool,
            precision: Precision::Default,
            inputs: &[input],
            output,
            parameters,
            packing,
        });
    });
    assert_eq!(made.count(), 2, "weights and bias are packed once");
}

#[test]
fn errors_name_the_axis() {
    let window = Window::new([1, 2, 2], [1, 2, 2], [1; 3], [[0; 2], [9; 2], [0; 2]]).unwrap();
    let epilogue = Epilogue::default();
    let op =
        ConvTranspose { filters: 4, window, output_padding: [0; 3], spacing: [1; 3], groups: 1, bias: false, epilogue };
    let error = op.infer(&[Shape::new(1, [1, 2, 2], 4)]).unwrap_err();
    assert!(error.contains("height"), "{error}");
}
