//! Enlarged maps and others side by side against one map that holds them all, in float64.

use super::super::tests::same;
use super::*;
use crate::ops::Precision;
use crate::ops::epilogue::Epilogue;
use crate::ops::trial::{Trial, forward, norm, op, text, triple};
use crate::ops::{Packing, Stretches};
use crate::parallel;
use crate::simd::Isa;
use crate::testing::{assert_close, for_each_isa, naive_conv, random};

/// A decoder's block: small map, other maps.
struct Case {
    op: ConvOfMaps,
    inputs: Vec<(Shape, Vec<f32>)>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(small: Shape, others: &[usize], filters: usize, residual: bool) -> Self {
        let scale = [if small.d == 1 { 1 } else { 2 }, 2, 2];
        Self::scaled(small, scale, others, filters, residual)
    }

    fn scaled(small: Shape, scale: Dims3, others: &[usize], filters: usize, residual: bool) -> Self {
        let window = same(scale.map(|scale| 2 * scale - 1), [1; 3], [1; 3]);
        let epilogue = Epilogue { activation: Activation::Relu, ..Epilogue::default() };
        let conv = Conv { filters, window, groups: 1, bias: true, epilogue };
        let mut op = ConvOfMaps::new(&conv, scale).expect("fits");
        op.conv.epilogue.residual = residual;
        let large = small.with_dims(std::array::from_fn(|axis| small.dims()[axis] * scale[axis]));
        let others = others.iter().copied().chain(residual.then_some(filters)).map(|c| large.with_channels(c));
        let shapes = [small].into_iter().chain(others);
        let inputs: Vec<_> = shapes.enumerate().map(|(i, shape)| (shape, random(i as u64, shape.len()))).collect();
        let channels: usize =
            inputs.iter().map(|(shape, _)| shape.c).sum::<usize>() - if residual { filters } else { 0 };
        Self { op, inputs, weight: random(20, filters * channels * window.taps()), bias: random(21, filters) }
    }

    fn shapes(&self) -> Vec<Shape> {
        self.inputs.iter().map(|(shape, _)| *shape).collect()
    }

    /// The maps side by side.
    fn joined(&self) -> (Shape, Vec<f32>) {
        let shape = self.op.joined(&self.shapes());
        let maps = self.inputs.len() - usize::from(self.op.conv.epilogue.residual);
        let mut joined = Vec::with_capacity(shape.len());
        for point in 0..shape.len() / shape.c {
            for (number, (map, x)) in self.inputs[..maps].iter().enumerate() {
                let [sd, sh, sw] = if number == 0 { self.op.scale } else { [1; 3] };
                let (w, h) = (point % shape.w / sw, point / shape.w % shape.h / sh);
                let (d, n) = (point / (shape.w * shape.h) % shape.d / sd, point / shape.spatial());
                let at = ((n * map.d + d) * map.h + h) * map.w + w;
                joined.extend(&x[at * map.c..(at + 1) * map.c]);
            }
        }
        (shape, joined)
    }

    fn want(&self) -> Vec<f64> {
        let (shape, x) = self.joined();
        let Conv { filters, window, epilogue, .. } = self.op.conv;
        let mut want = naive_conv(&x, shape, &self.weight, filters, 1, &window);
        for (i, y) in want.iter_mut().enumerate() {
            *y += f64::from(self.bias[i % filters]);
            *y += if epilogue.residual { f64::from(self.inputs[self.inputs.len() - 1].1[i]) } else { 0.0 };
            *y = y.max(0.0);
        }
        want
    }

    /// With the direct algorithm, or with Winograd's and these of its tiles for the enlarged map.
    fn run(&self, isa: Isa, threads: usize, winograd: Option<usize>) -> Vec<f32> {
        let shapes = self.shapes();
        let output = self.op.infer(&shapes).unwrap();
        let mut made = Stretches::default();
        let parameters: &[&[f32]] = &[&self.weight, &self.bias];
        let step = parallel::run_with(threads, |pool| {
            let packing = Packing::Shared { known: &mut Default::default(), made: &mut made };
            let mut context = Compile {
                isa,
                threads,
                pool,
                precision: Precision::Default,
                inputs: &shapes,
                output,
                parameters,
                packing,
            };
            self.op.compile_as(&mut context, |work, enlarged| match winograd? {
                tiles if enlarged => Some(Variant::enlarging(work)[tiles]),
                _ => Variant::all(work).pop(),
            })
        });
        made.finish();
        let inputs: Vec<&[f32]> = self.inputs.iter().map(|(_, x)| x.as_slice()).collect();
        forward(&*step, &inputs, output, threads)
    }

    fn check(&self) {
        let want = self.want();
        for_each_isa(|isa| {
            for winograd in [None, Some(0), Some(1)] {
                let one = self.run(isa, 1, winograd);
                assert_close(&one, &want, 2e-5);
                for threads in [2, 3] {
                    assert!(self.run(isa, threads, winograd) == one, "{isa:?} {threads} threads {:?}", self.shapes());
                }
            }
        });
    }
}

#[test]
fn sizes_and_channels() {
    for size in 2..=8 {
        Case::new(Shape::new(2, [1, size, 10 - size], 3 * size), &[], 2 * size + 1, false).check();
        Case::new(Shape::new(1, [1, 3, size], 16), &[size, 17], 16, false).check();
        Case::new(Shape::new(1, [size, 2, 9 - size], 5), &[7], 40 - 3 * size, false).check();
    }
    Case::new(Shape::new(2, [4, 3, 5], 32), &[16, 3, 20], 33, true).check();
    Case::new(Shape::new(2, [1, 9, 6], 7), &[1, 17, 1, 15, 30], 16, false).check();
    Case::new(Shape::new(1, [1, 7, 7], 70), &[64], 64, true).check();
    Case::new(Shape::new(1, [3; 3], 256), &[128], 64, false).check();
    for scale in [[1, 2, 2], [2; 3]] {
        Case::scaled(Shape::new(1, [1; 3], 4), scale, &[], 9, false).check();
    }
}

#[test]
fn large_maps_have_large_tiles_and_deep_ones_small_tiles() {
    let choice = |dims: Dims3, c: usize, k: usize| {
        let scale = [if dims[0] == 1 { 1 } else { 2 }, 2, 2];
        let window = same(scale.map(|scale| 2 * scale - 1), [1; 3], [1; 3]);
        let choose = |n: usize, threads: usize| {
            let input = Shape::new(n, dims, c);
            let output = Shape::new(n, std::array::from_fn(|axis| dims[axis] * scale[axis]), k);
            let work = Work { window, input, output, grid: Grid::dense(output), groups: 1, tile: (14, 2), threads };
            winograd::choose_enlarging(&work, phases_cost(&work)).map(Variant::name)
        };
        let one = choose(1, 1);
        for (n, threads) in [(1, 7), (32, 1), (5, 2)] {
            assert_eq!(choose(n, threads), one, "bits would depend on the batch or on threads");
        }
        one
    };
    let name = |name: &str| Some(name.to_string());
    assert_eq!(choice([1, 128, 128], 64, 32), name("enlarged winograd 1x6x6"));
    assert_eq!(choice([48; 3], 64, 32), name("enlarged winograd 6x6x6"));
    // There are few tiles for so many weights: the fewer products, the better.
    assert_eq!(choice([1, 8, 8], 512, 256), name("enlarged winograd 1x2x2"));
    assert_eq!(choice([2; 3], 512, 256), name("enlarged winograd 2x2x2"));
    // A single cell is not worth transforms.
    assert_eq!(choice([1; 3], 512, 512), None);
}

#[test]
fn a_sample_does_not_depend_on_the_batch() {
    for dims in [[1, 9, 8], [3, 4, 5]] {
        let both = Case::new(Shape::new(2, dims, 8), &[6], 18, false);
        let mut second = Case::new(Shape::new(1, dims, 8), &[6], 18, false);
        for ((shape, x), (_, all)) in second.inputs.iter_mut().zip(&both.inputs) {
            *x = all[shape.len()..].to_vec();
        }
        for_each_isa(|isa| {
            for winograd in [None, Some(0), Some(1)] {
                let (both, second) = (both.run(isa, 2, winograd), second.run(isa, 2, winograd));
                assert!(both[second.len()..] == second, "{isa:?} {dims:?}");
            }
        });
    }
}

fn upsample(scale: Dims3, mode: &str) -> Box<dyn Op> {
    op("upsample", &[("scale", triple(scale)), ("mode", text(mode))])
}

#[test]
fn upsampling_concatenation_norm_and_function_are_absorbed() {
    let case = Case::new(Shape::new(2, [1, 5, 6], 6), &[7], 20, false);
    let conv = Conv { bias: false, epilogue: Epilogue::default(), ..case.op.conv };
    let relu = op("activation", &[("function", text("relu"))]);
    let trial = Trial::new(upsample([1, 2, 2], "nearest"), &[case.inputs[0].0])
        .absorb(&*op("concat", &[]), &[case.inputs[1].0])
        .absorb(&conv, &[])
        .absorb(&*norm(), &[])
        .absorb(&*relu, &[]);
    let case = Case {
        inputs: trial.shapes.iter().copied().zip(trial.inputs.clone()).collect(),
        weight: trial.parameters[0].clone(),
        bias: vec![0.0; 20],
        op: ConvOfMaps { conv: Conv { epilogue: Epilogue::default(), ..conv }, ..case.op },
    };
    let (shape, x) = case.joined();
    let sums = naive_conv(&x, shape, &case.weight, 20, 1, &conv.window);
    let want = crate::ops::trial::naive_norm(&sums, &trial.parameters[1..]);
    trial.check(&want.iter().map(|y| y.max(0.0)).collect::<Vec<f64>>());
}

#[test]
fn an_enlarged_map_without_a_convolution() {
    let case = Case::new(Shape::new(2, [3, 5, 6], 6), &[7, 1], 20, false);
    let shapes = case.shapes();
    let trial = Trial::new(upsample([2; 3], "nearest"), &shapes[..1]).absorb(&*op("concat", &[]), &shapes[1..]);
    let case = Case { inputs: shapes.into_iter().zip(trial.inputs.clone()).collect(), ..case };
    trial.check(&case.joined().1.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
}

#[test]
fn what_does_not_fit_is_left_alone() {
    let conv = |window: Window, groups| Conv { filters: 8, window, groups, bias: false, epilogue: Epilogue::default() };
    let planar = same([1, 3, 3], [1; 3], [1; 3]);
    assert!(upsample([1, 2, 2], "nearest").absorb(&conv(planar, 1), 0).is_some());
    assert!(upsample([1, 2, 2], "linear").absorb(&conv(planar, 1), 0).is_none());
    assert!(upsample([1, 3, 2], "nearest").absorb(&conv(planar, 1), 0).is_none());
    assert!(upsample([2, 2, 2], "nearest").absorb(&conv(planar, 1), 0).is_none());
    assert!(upsample([1, 2, 2], "nearest").absorb(&conv(planar, 2), 0).is_none());
    let strided = Window { stride: [1, 2, 2], ..planar };
    assert!(upsample([1, 2, 2], "nearest").absorb(&conv(strided, 1), 0).is_none());
    assert!(upsample([1, 2, 2], "nearest").absorb(&conv(same([1; 3], [1; 3], [1; 3]), 1), 0).is_none());
    assert!(upsample([1, 2, 2], "nearest").absorb(&*op("concat", &[]), 1).is_none());
    assert!(op("concat", &[]).absorb(&conv(planar, 1), 0).is_none());
}
