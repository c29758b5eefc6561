//! Every algorithm against the naive convolution in float64.

use std::collections::HashSet;

use super::*;
use crate::ops::activation::Activation;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::{Packing, Stretches, trial};
use crate::parallel;
use crate::simd::Isa;
use crate::testing::{assert_close, for_each_isa, naive_conv, random};

/// A convolution and the shape of its input.
#[derive(Clone, Copy, Debug)]
struct Case {
    conv: Conv,
    input: Shape,
    /// Instead of the algorithm that would be chosen.
    winograd: Option<Variant>,
}

impl Case {
    fn new(input: Shape, filters: usize, window: Window) -> Self {
        let conv = Conv { filters, window, groups: 1, bias: false, epilogue: Epilogue::default() };
        Self { conv, input, winograd: None }
    }

    fn groups(mut self, groups: usize) -> Self {
        self.conv.groups = groups;
        self
    }

    fn output(&self) -> Shape {
        let dims = self.conv.window.output(self.input.dims()).unwrap();
        self.input.with_dims(dims).with_channels(self.conv.filters)
    }

    fn x(&self) -> Vec<f32> {
        random(1, self.input.len())
    }

    fn parameters(&self) -> Vec<Vec<f32>> {
        let own = self.conv.signature(&[self.input.c]).unwrap().parameters;
        let shapes = own.into_iter().map(|parameter| parameter.shape.iter().product());
        let norm = if self.conv.epilogue.norm.is_some() { BatchNorm::PARAMETERS } else { 0 };
        let mut all: Vec<Vec<f32>> = shapes.enumerate().map(|(i, count)| random(i as u64 + 2, count)).collect();
        all.extend((0..norm).map(|i| random(i as u64 + 9, self.conv.filters)));
        // A variance is positive.
        if let (1.., Some(variance)) = (norm, all.last_mut()) {
            variance.iter_mut().for_each(|v| *v = 0.5 + v.abs());
        }
        all
    }

    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let (x, parameters) = (self.x(), self.parameters());
        let residual = random(7, self.output().len());
        let parameters: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
        let mut made = Stretches::default();
        let step = parallel::run_with(threads, |pool| {
            let mut context = Compile {
                isa,
                threads,
                pool,
                precision: Precision::Default,
                inputs: &[self.input],
                output: self.output(),
                parameters: &parameters,
                packing: Packing::Shared { known: &mut Default::default(), made: &mut made },
            };
            match self.winograd {
                None => self.conv.compile(&mut context),
                Some(variant) => Box::new(self.conv.compile_as(&mut context, |_| Some(variant))),
            }
        });
        made.finish();
        let inputs: &[&[f32]] = if self.conv.epilogue.residual { &[&x, &residual] } else { &[&x] };
        trial::forward(&*step, inputs, self.output(), threads)
    }

    fn work(&self, threads: usize) -> Work {
        let (Conv { window, groups, .. }, input, output) = (self.conv, self.input, self.output());
        Work { window, input, output, grid: Grid::dense(output), groups, tile: (14, 2), threads }
    }

    /// Checks every kind of tile.
    fn check_winograd(&self) {
        for variant in Variant::all(&self.work(1)) {
            Self { winograd: Some(variant), ..*self }.check();
        }
    }

    /// Checks one thread against the reference and more threads against one, bit by bit.
    fn check(&self) {
        let parameters = self.parameters();
        let Conv { filters, window, groups, bias, epilogue } = self.conv;
        let mut want = naive_conv(&self.x(), self.input, &parameters[0], filters, groups, &window);
        let residual = random(7, want.len());
        let slices: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
        let norm = epilogue.scale_shift(&slices);
        for (i, y) in want.iter_mut().enumerate() {
            let k = i % filters;
            *y += if bias { f64::from(parameters[1][k]) } else { 0.0 };
            if let Some((scale, shift)) = &norm {
                *y = *y * f64::from(scale[k]) + f64::from(shift[k]);
            }
            *y += if epilogue.residual { f64::from(residual[i]) } else { 0.0 };
            *y = match epilogue.activation {
                Activation::Relu => y.max(0.0),
                Activation::Silu => *y / (1.0 + (-*y).exp()),
                _ => *y,
            };
        }
        for_each_isa(|isa| {
            let got = self.run(isa, 1);
            let outcome = std::panic::catch_unwind(|| assert_close(&got, &want, 2e-5));
            assert!(outcome.is_ok(), "{isa:?} {self:?}");
            for threads in [2, 3, 8] {
                assert!(self.run(isa, threads) == got, "{isa:?}, {threads} threads: {self:?}");
            }
        });
    }
}

pub(super) fn same(kernel: [usize; 3], stride: [usize; 3], dilation: [usize; 3]) -> Window {
    let padding = std::array::from_fn(|axis| [(kernel[axis] - 1) * dilation[axis] / 2; 2]);
    Window::new(kernel, stride, dilation, padding).unwrap()
}

#[test]
fn widths_and_channels() {
    for width in 1..=20 {
        let input = Shape::new(1, [1, 5, width], 3 + width % 5);
        Case::new(input, 2 * width + 1, same([1, 3, 3], [1; 3], [1; 3])).check();
    }
    for filters in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65] {
        Case::new(Shape::new(2, [1, 4, 6], 5), filters, same([1, 3, 3], [1; 3], [1; 3])).check();
        Case::new(Shape::new(2, [1, 4, 6], 5), filters, same([1; 3], [1; 3], [1; 3])).check();
    }
}

#[test]
fn one_pixel() {
    for kernel in [[1, 1, 1], [1, 3, 3], [3, 3, 3], [1, 7, 7]] {
        Case::new(Shape::new(1, [1; 3], 6), 10, same(kernel, [1; 3], [1; 3])).check();
    }
}

#[test]
fn windows() {
    let input = Shape::new(2, [5, 7, 9], 4);
    for kernel in [[1, 1, 1], [3, 3, 3], [1, 3, 3], [3, 1, 1], [1, 1, 5], [2, 4, 2]] {
        for stride in [[1, 1, 1], [2, 2, 2], [1, 2, 3], [3, 1, 2]] {
            for dilation in [[1, 1, 1], [2, 2, 2], [1, 2, 1], [1, 1, 2]] {
                let window = same(kernel, stride, dilation);
                if window.output(input.dims()).is_ok() {
                    Case::new(input, 20, window).check();
                }
            }
        }
    }
    let lopsided = Window::new([2, 3, 4], [1, 2, 1], [1; 3], [[1, 0], [0, 2], [3, 5]]).unwrap();
    Case::new(input, 9, lopsided).check();
    let wide = Window::new([1, 3, 3], [1; 3], [1; 3], [[4, 3], [5, 6], [7, 8]]).unwrap();
    Case::new(input, 9, wide).check();
}

#[test]
fn groups() {
    let window = same([1, 3, 3], [1; 3], [1; 3]);
    for (groups, c, k) in [(3, 5, 5), (2, 4, 8), (4, 3, 1), (2, 16, 16), (2, 32, 32), (3, 20, 40), (8, 1, 2), (5, 2, 1)]
    {
        Case::new(Shape::new(2, [1, 6, 15], groups * c), groups * k, window).groups(groups).check();
        Case::new(Shape::new(1, [3, 3, 3], groups * c), groups * k, same([3; 3], [1, 2, 2], [1; 3]))
            .groups(groups)
            .check();
    }
}

#[test]
fn vectors_of_groups() {
    let windows = [
        same([1, 3, 3], [1; 3], [1; 3]),
        same([1, 3, 3], [1, 2, 2], [1; 3]),
        same([3, 3, 3], [1; 3], [1, 2, 2]),
        same([2, 1, 5], [1, 1, 3], [1; 3]),
        same([3, 3, 3], [2; 3], [1; 3]),
    ];
    for per_group in [1, 2, 4, 8, 16] {
        for window in windows {
            let input = Shape::new(2, [4, 5, 17], 48);
            Case::new(input, 48, window).groups(48 / per_group).check();
        }
        for width in 1..=15 {
            Case::new(Shape::new(1, [1, 3, width], 32), 32, windows[0]).groups(32 / per_group).check();
            // As many outputs with a stride.
            for width in [2 * width - 1, 2 * width] {
                Case::new(Shape::new(1, [1, 4, width], 32), 32, windows[1]).groups(32 / per_group).check();
            }
        }
        // Many channels, and padding that is wider on one side than the window reaches over the other.
        for window in [windows[0], windows[1], Window::new([3; 3], [1; 3], [1; 3], [[1; 2], [0, 2], [1, 3]]).unwrap()] {
            let channels = if window.kernel[0] == 1 { 1024 } else { 32 };
            Case::new(Shape::new(1, [1, 3, 16], channels), channels, window).groups(channels / per_group).check();
        }
        let mut case = Case::new(Shape::new(1, [1, 9, 9], 64), 64, windows[0]).groups(64 / per_group);
        for activation in [Activation::Relu, Activation::Silu] {
            let norm = Some(BatchNorm { epsilon: 1e-3, momentum: 0.9, unbiased: false });
            case.conv.epilogue = Epilogue { norm, residual: true, activation };
            case.check();
        }
    }
}

#[test]
fn stems() {
    Case::new(Shape::new(1, [1, 33, 37], 3), 64, same([1, 7, 7], [1, 2, 2], [1; 3])).check();
    Case::new(Shape::new(1, [9, 11, 13], 4), 32, same([7; 3], [2; 3], [1; 3])).check();
}

#[test]
fn winograd_of_stems() {
    for size in 2..=14 {
        let (planar, cubic) =
            (Shape::new(2, [1, size, 30 - size], 3), Shape::new(1, [size, 9, 15 - size], 1 + size % 4));
        for kernel in [5, 6, 7, 8] {
            Case::new(planar, 20, same([1, kernel, kernel], [1, 2, 2], [1; 3])).check_winograd();
        }
        Case::new(cubic, 17, same([7; 3], [2; 3], [1; 3])).check_winograd();
        Case::new(cubic, 9, same([5; 3], [2; 3], [1; 3])).check_winograd();
    }
    for padding in [[[0; 2]; 3], [[1, 0], [0, 2], [3, 5]], [[9, 8], [7, 6], [5, 4]]] {
        let window = Window::new([7; 3], [2; 3], [1; 3], padding).unwrap();
        Case::new(Shape::new(2, [8, 7, 9], 4), 9, window).check_winograd();
    }
    Case::new(Shape::new(1, [24; 3], 4), 64, same([7; 3], [2; 3], [1; 3])).check_winograd();
    let mut case = Case::new(Shape::new(2, [9, 10, 7], 2), 35, same([7; 3], [2; 3], [1; 3]));
    case.conv.bias = true;
    let norm = Some(BatchNorm { epsilon: 1e-3, momentum: 0.9, unbiased: false });
    case.conv.epilogue = Epilogue { norm, residual: true, activation: Activation::Silu };
    case.check_winograd();
}

#[test]
fn long_reductions() {
    Case::new(Shape::new(1, [1, 7, 7], 512), 70, same([1, 3, 3], [1; 3], [1; 3])).check();
    Case::new(Shape::new(1, [3, 3, 3], 512), 40, same([3; 3], [1; 3], [1; 3])).check();
    Case::new(Shape::new(3, [1, 7, 7], 2048), 160, same([1; 3], [1; 3], [1; 3])).check();
    Case::new(Shape::new(2, [1, 14, 14], 256), 256, same([1, 3, 3], [1; 3], [1; 3])).check();
    Case::new(Shape::new(2, [1, 14, 14], 600), 700, same([1; 3], [1, 2, 2], [1; 3])).check();
}

#[test]
fn epilogues() {
    for window in [same([1, 3, 3], [1; 3], [1; 3]), same([1; 3], [1; 3], [1; 3])] {
        for activation in [Activation::Linear, Activation::Relu, Activation::Silu] {
            for (bias, norm, residual) in
                [(true, false, false), (true, true, true), (false, true, false), (false, false, true)]
            {
                let mut case = Case::new(Shape::new(2, [1, 6, 17], 8), 35, window);
                case.conv.bias = bias;
                let norm = norm.then_some(BatchNorm { epsilon: 1e-3, momentum: 0.9, unbiased: false });
                case.conv.epilogue = Epilogue { norm, residual, activation };
                case.check();
            }
        }
    }
}

#[test]
fn winograd_sizes_and_channels() {
    let planar = same([1, 3, 3], [1; 3], [1; 3]);
    for size in 1..=20 {
        Case::new(Shape::new(1, [1, size, 21 - size], 3 + size % 5), 2 * size + 1, planar).check_winograd();
        Case::new(Shape::new(2, [1, size, size], 17), 16, planar).check_winograd();
    }
    for channels in 1..=70 {
        Case::new(Shape::new(1, [1, 6, 5], channels), 71 - channels, planar).check_winograd();
    }
    let cubic = same([3; 3], [1; 3], [1; 3]);
    for size in 1..=9 {
        Case::new(Shape::new(1, [size, 10 - size, 3 + size], 3 * size), 40 - 2 * size, cubic).check_winograd();
        Case::new(Shape::new(2, [size; 3], 5), 7, cubic).check_winograd();
    }
}

#[test]
fn winograd_padding() {
    for padding in [[[0; 2]; 3], [[1, 0], [0, 2], [3, 5]], [[4, 3], [5, 6], [7, 8]], [[2, 2], [1, 1], [0, 1]]] {
        let window = Window::new([3; 3], [1; 3], [1; 3], padding).unwrap();
        Case::new(Shape::new(2, [3, 4, 7], 5), 9, window).check_winograd();
        let window = Window::new([1, 3, 3], [1; 3], [1; 3], [[0; 2], padding[1], padding[2]]).unwrap();
        Case::new(Shape::new(2, [3, 4, 7], 5), 9, window).check_winograd();
    }
}

#[test]
fn winograd_epilogues() {
    for window in [same([1, 3, 3], [1; 3], [1; 3]), same([3; 3], [1; 3], [1; 3])] {
        for activation in [Activation::Linear, Activation::Relu, Activation::Silu] {
            for (bias, norm, residual) in [(true, true, true), (false, true, false), (false, false, true)] {
                let mut case = Case::new(Shape::new(2, [2, 6, 7], 8), 35, window);
                case.conv.bias = bias;
                let norm = norm.then_some(BatchNorm { epsilon: 1e-3, momentum: 0.9, unbiased: false });
                case.conv.epilogue = Epilogue { norm, residual, activation };
                case.check_winograd();
            }
        }
    }
}

#[test]
fn winograd_in_depth() {
    let planar = same([1, 3, 3], [1; 3], [1; 3]);
    for (channels, filters, size) in [(512, 70, 7), (256, 256, 14), (96, 40, 33), (512, 512, 6)] {
        Case::new(Shape::new(1, [1, size, size], channels), filters, planar).check_winograd();
    }
    let cubic = same([3; 3], [1; 3], [1; 3]);
    Case::new(Shape::new(1, [3; 3], 512), 40, cubic).check_winograd();
    Case::new(Shape::new(1, [12; 3], 64), 64, cubic).check_winograd();
    Case::new(Shape::new(1, [9, 17, 13], 16), 32, cubic).check_winograd();
}

#[test]
fn winograd_where_it_pays() {
    let choice = |size: [usize; 3], c: usize, k: usize, precision: Precision| {
        let kernel = [if size[0] > 1 { 3 } else { 1 }, 3, 3];
        let case = Case::new(Shape::new(1, size, c), k, same(kernel, [1; 3], [1; 3]));
        let choice = winograd::choose(&case.work(1), precision);
        assert_eq!(choice, winograd::choose(&case.work(7), precision), "bits would depend on threads");
        choice.map(Variant::name)
    };
    let name = |name: &str| Some(name.to_string());
    assert_eq!(choice([1, 56, 56], 64, 64, Precision::Default), name("winograd 1x4x4"));
    assert_eq!(choice([1, 56, 56], 64, 64, Precision::Strict), name("winograd 1x2x2"));
    assert_eq!(choice([1, 14, 14], 256, 256, Precision::Default), name("winograd 1x2x2"));
    assert_eq!(choice([1, 7, 7], 512, 512, Precision::Default), None);
    assert_eq!(choice([48; 3], 32, 32, Precision::Default), name("winograd 4x4x4"));
    assert_eq!(choice([48; 3], 32, 32, Precision::Strict), name("winograd 2x2x2"));
    assert_eq!(choice([3; 3], 512, 512, Precision::Default), None);
    assert_eq!(choice([1, 56, 56], 3, 64, Precision::Default), None);
}

#[test]
fn winograd_in_training_where_the_batch_pays() {
    let choice = |samples: usize, size: usize, c: usize| {
        let case = Case::new(Shape::new(samples, [1, size, size], c), c, same([1, 3, 3], [1; 3], [1; 3]));
        winograd::choose_for_training(&case.work(2), Precision::Default).map(Variant::name)
    };
    // The weights of a small map are transformed for the many samples that share them.
    assert_eq!(choice(1, 8, 64), None);
    assert_eq!(choice(128, 8, 64), Some("winograd 1x4x4".into()));
    assert_eq!(choice(1, 112, 64), Some("winograd 1x4x4".into()));
    assert_eq!(choice(128, 32, 3), None);
}

#[test]
fn tiles_with_other_weights_have_other_names() {
    for kernel in [[1, 3, 3], [3; 3], [1, 4, 4], [4; 3]] {
        let work = Case::new(Shape::new(1, [8; 3], 8), 8, same(kernel, [1; 3], [1; 3])).work(1);
        let enlarging = if kernel[2] == 3 { Variant::enlarging(&work).to_vec() } else { Vec::new() };
        let variants = [Variant::all(&work), enlarging].concat();
        let names: HashSet<String> = variants.iter().map(|variant| variant.name()).collect();
        assert!(!names.is_empty() && names.len() == variants.len(), "{variants:?}: {names:?}");
    }
}

/// An image of one plane.
fn flat(kernel: [usize; 2], stride: usize, dilation: usize, padding: [[usize; 2]; 2]) -> Window {
    let (stride, dilation) = ([1, stride, stride], [1, dilation, dilation]);
    Window::new([1, kernel[0], kernel[1]], stride, dilation, [[0; 2], padding[0], padding[1]]).unwrap()
}

#[test]
fn windows_that_mostly_see_padding() {
    let windows = [
        flat([5, 9], 1, 1, [[40; 2]; 2]),
        flat([9, 4], 3, 2, [[70, 3], [50, 60]]),
        Window::new([3; 3], [1; 3], [9; 3], [[9; 2], [20, 9], [9, 25]]).unwrap(),
        Window::new([2, 1, 3], [5, 7, 6], [1, 1, 2], [[11, 4], [20, 20], [3, 40]]).unwrap(),
    ];
    for window in windows {
        for (groups, filters) in [(1, 5), (2, 18), (4, 4)] {
            let mut case = Case::new(Shape::new(2, [2, 3, 4], 4), filters, window).groups(groups);
            assert!(sparse::pays(&case.work(1)), "{window:?}");
            case.check();
            case.conv.bias = true;
            let norm = Some(BatchNorm { epsilon: 1e-3, momentum: 0.9, unbiased: false });
            case.conv.epilogue = Epilogue { norm, residual: true, activation: Activation::Relu };
            case.check();
        }
    }
}

#[test]
fn usual_windows_are_not_sparse() {
    for (size, window) in [
        ([1, 7, 7], same([1, 3, 3], [1; 3], [1; 3])),
        ([1, 33, 33], same([1, 3, 3], [1; 3], [1, 18, 18])),
        ([1, 14, 14], same([1, 7, 7], [1, 2, 2], [1; 3])),
        ([3; 3], same([3; 3], [2; 3], [1; 3])),
    ] {
        assert!(!sparse::pays(&Case::new(Shape::new(1, size, 64), 64, window).work(2)), "{size:?} {window:?}");
    }
}

/// Padded copies of these inputs are terabytes, or cannot even be counted.
#[test]
fn padding_and_gaps_are_not_copied() {
    const FAR: usize = (1 << 24) - 1;
    Case::new(Shape::new(1, [1, 1, 1], 65536), 1, flat([2, 2], 1, FAR, [[FAR, 0]; 2])).check();
    Case::new(Shape::new(1, [1, 4, 4], 16), 16, flat([3, 3], 1, 100_000, [[100_000; 2]; 2])).check();
    Case::new(Shape::new(1, [1, 4, 4], 16), 16, flat([3, 3], 1 << 20, 1, [[1 << 20; 2]; 2])).check();
    let deep = Window::new([3; 3], [1; 3], [10_000_000; 3], [[10_000_000; 2]; 3]).unwrap();
    Case::new(Shape::new(1, [2; 3], 4), 4, deep).groups(4).check();
}

#[test]
fn taps_that_see_no_input_cost_nothing() {
    const MANY: usize = 1_000_000;
    let case = Case::new(Shape::new(1, [1, 1, 4], 1), 1, flat([1, MANY], 1, 1, [[0; 2], [MANY; 2]]));
    let (x, weight) = (case.x(), &case.parameters()[0]);
    let want = (0..=MANY + 4).map(|out| {
        let taps = (0..4).filter_map(|w| Some((w, (MANY + w).checked_sub(out).filter(|&tap| tap < MANY)?)));
        taps.map(|(w, tap)| f64::from(x[w]) * f64::from(weight[tap])).sum()
    });
    assert_close(&case.run(Isa::best(), 2), &want.collect::<Vec<f64>>(), 2e-5);
}

#[test]
fn costly_functions_of_few_channels_are_a_pass_of_their_own() {
    let head = |filters| Conv::pointwise(filters, true, Epilogue::default());
    assert!(head(3).absorb(&Activation::Sigmoid, 0).is_none());
    assert!(head(3).absorb(&Activation::Relu, 0).is_some());
    assert!(head(16).absorb(&Activation::Sigmoid, 0).is_some());
}
