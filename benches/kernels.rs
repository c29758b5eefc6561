//! Speed of convolution layers, in percent of the FMA peak measured in the same moments.
//!
//! `cargo bench --bench kernels -- [--isa avx2] [--threads 2] [--rounds 15] [name part ...]`
//!
//! `warm` repeats one layer; `cold` goes round copies of it, so that weights and activations come from beyond the
//! second-level cache, as they do inside a network. FLOPs are those of the direct convolution, padding included.

use std::collections::BTreeMap;
use std::time::Instant;

use resnet_core::Shape;
use resnet_core::buffer::Buffer;
use resnet_core::ops::{Attributes, Compile, Io, Op, Packing, Precision, Step, Stretches, Value, parse};
use resnet_core::parallel::{Pool, run_with};
use resnet_core::peak;
use resnet_core::simd::Isa;

/// name, input channels, filters, spatial size, kernel, stride, groups
type Layer = (&'static str, usize, usize, [usize; 3], [usize; 3], usize, usize);

const LAYERS: &[Layer] = &[
    ("stem 7x7/2 3->64 @224", 3, 64, [1, 224, 224], [1, 7, 7], 2, 1),
    ("3x3 64 @56", 64, 64, [1, 56, 56], [1, 3, 3], 1, 1),
    ("3x3 128 @28", 128, 128, [1, 28, 28], [1, 3, 3], 1, 1),
    ("3x3 256 @14", 256, 256, [1, 14, 14], [1, 3, 3], 1, 1),
    ("3x3 512 @7", 512, 512, [1, 7, 7], [1, 3, 3], 1, 1),
    ("3x3/2 128 @56", 128, 128, [1, 56, 56], [1, 3, 3], 2, 1),
    ("3x3/2 256->512 @14", 256, 512, [1, 14, 14], [1, 3, 3], 2, 1),
    ("1x1 64 @56", 64, 64, [1, 56, 56], [1, 1, 1], 1, 1),
    ("1x1 64->256 @56", 64, 256, [1, 56, 56], [1, 1, 1], 1, 1),
    ("1x1 256->64 @56", 256, 64, [1, 56, 56], [1, 1, 1], 1, 1),
    ("1x1/2 256->512 @56", 256, 512, [1, 56, 56], [1, 1, 1], 2, 1),
    ("1x1 512->128 @28", 512, 128, [1, 28, 28], [1, 1, 1], 1, 1),
    ("1x1 128->512 @28", 128, 512, [1, 28, 28], [1, 1, 1], 1, 1),
    ("1x1 1024->256 @14", 1024, 256, [1, 14, 14], [1, 1, 1], 1, 1),
    ("1x1 256->1024 @14", 256, 1024, [1, 14, 14], [1, 1, 1], 1, 1),
    ("1x1 2048->512 @7", 2048, 512, [1, 7, 7], [1, 1, 1], 1, 1),
    ("1x1 512->2048 @7", 512, 2048, [1, 7, 7], [1, 1, 1], 1, 1),
    ("3D stem 7x7x7/2 4->64 @96", 4, 64, [96, 96, 96], [7, 7, 7], 2, 1),
    ("3D 3x3x3 16 @96", 16, 16, [96, 96, 96], [3, 3, 3], 1, 1),
    ("3D 3x3x3 32->16 @96", 32, 16, [96, 96, 96], [3, 3, 3], 1, 1),
    ("3D 3x3x3 32 @48", 32, 32, [48, 48, 48], [3, 3, 3], 1, 1),
    ("3D 3x3x3 64 @24", 64, 64, [24, 24, 24], [3, 3, 3], 1, 1),
    ("3D 3x3x3 128 @12", 128, 128, [12, 12, 12], [3, 3, 3], 1, 1),
    ("3D 3x3x3 256 @6", 256, 256, [6, 6, 6], [3, 3, 3], 1, 1),
    ("3D 3x3x3 512 @3", 512, 512, [3, 3, 3], [3, 3, 3], 1, 1),
    ("3D 3x3x3/2 64->128 @24", 64, 128, [24, 24, 24], [3, 3, 3], 2, 1),
    ("3D 3x3x3 128->32 @48", 128, 32, [48, 48, 48], [3, 3, 3], 1, 1),
    ("grouped 32x4d 128 @56", 128, 128, [1, 56, 56], [1, 3, 3], 1, 32),
    ("grouped 32x4d/2 256 @56", 256, 256, [1, 56, 56], [1, 3, 3], 2, 32),
    ("grouped 32x4d 256 @28", 256, 256, [1, 28, 28], [1, 3, 3], 1, 32),
    ("grouped 32x4d 512 @14", 512, 512, [1, 14, 14], [1, 3, 3], 1, 32),
    ("grouped 32x4d 1024 @7", 1024, 1024, [1, 7, 7], [1, 3, 3], 1, 32),
    ("grouped 3D 32x4d 128 @24", 128, 128, [24, 24, 24], [3, 3, 3], 1, 32),
    ("grouped 64x4d 256 @24", 256, 256, [1, 24, 24], [1, 3, 3], 1, 64),
];

fn triple(values: [usize; 3]) -> Value {
    Value::List(values.iter().map(|&v| Value::Int(v as i64)).collect())
}

/// A compiled layer and its memory.
struct Compiled {
    step: Box<dyn Step>,
    input: Vec<f32>,
    output: Vec<f32>,
    scratch: Buffer,
}

impl Compiled {
    fn new(&(_, c, k, size, kernel, stride, groups): &Layer, isa: Isa, threads: usize) -> Self {
        let padding = kernel.map(|kernel| Value::List(vec![Value::Int(kernel as i64 / 2); 2]));
        let stride = size.map(|size| if size == 1 { 1 } else { stride });
        let attributes = BTreeMap::from([
            ("filters".to_string(), Value::Int(k as i64)),
            ("kernel".to_string(), triple(kernel)),
            ("stride".to_string(), triple(stride)),
            ("dilation".to_string(), triple([1; 3])),
            ("padding".to_string(), Value::List(padding.to_vec())),
            ("groups".to_string(), Value::Int(groups as i64)),
            ("bias".to_string(), Value::Bool(true)),
        ]);
        let op: Box<dyn Op> = parse("conv", Attributes::new(attributes)).expect("valid attributes");
        let input = Shape::new(1, size, c);
        let shapes = op.signature(&[c]).expect("valid channels").parameters;
        let fill = |count: usize| (0..count).map(|i| (i * 7 % 13) as f32 * 0.01).collect::<Vec<f32>>();
        let parameters: Vec<Vec<f32>> = shapes.iter().map(|p| fill(p.shape.iter().product())).collect();
        let slices: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
        let output = op.infer(&[input]).expect("valid shape");
        let mut made = Stretches::default();
        let step = run_with(threads, |pool| {
            op.compile(&mut Compile {
                isa,
                threads,
                pool,
                precision: Precision::Default,
                inputs: &[input],
                output,
                parameters: &slices,
                packing: Packing::Shared { known: &mut Default::default(), made: &mut made },
            })
        });
        made.finish();
        let scratch = Buffer::zeroed(step.scratch());
        Self { step, input: fill(input.len()), output: vec![0.0; output.len()], scratch }
    }

    fn run(&mut self, pool: &Pool) -> f64 {
        let start = Instant::now();
        let inputs: &[&[f32]] = &[&self.input];
        self.step.forward(Io { inputs, output: &mut self.output, in_place: false, scratch: &mut self.scratch, pool });
        start.elapsed().as_nanos() as f64
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut isa = Isa::best();
    let (mut threads, mut rounds, mut names) = (resnet_core::parallel::threads(), 15, Vec::new());
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_default();
        match argument.as_str() {
            "--isa" => isa = Isa::from_name(&value()).expect("--isa portable|avx2|avx512"),
            "--threads" => threads = value().parse().expect("--threads N"),
            "--rounds" => rounds = value().parse().expect("--rounds N"),
            _ => names.push(argument),
        }
    }
    println!("{threads} threads, {}; best (median) of {rounds} rounds, % of FMA peak", isa.name());
    println!("{:28} {:>8} {:>14} {:>14}  algorithm", "layer", "ms", "warm %", "cold %");
    let mut top_peak = 0.0;
    for layer in
        LAYERS.iter().filter(|layer| names.is_empty() || names.iter().any(|name| layer.0.contains(name.as_str())))
    {
        let mut first = Compiled::new(layer, isa, threads);
        let flops = first.step.flops() as f64;
        let bytes = 4
            * (first.input.len()
                + first.output.len()
                + layer.1 * layer.2 / layer.6 * layer.4.iter().product::<usize>());
        let copies = (24_usize << 20).div_ceil(bytes).clamp(2, 16);
        let mut all: Vec<Compiled> = (0..copies).map(|_| Compiled::new(layer, isa, threads)).collect();
        let (mut warm, mut cold, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        run_with(threads, |pool| {
            let repeats = (2e6 / (flops / 300.0)).ceil() as usize;
            for _ in 0..rounds {
                peaks.push(peak::measure(isa, pool) / 1e9);
                first.run(pool);
                warm.extend((0..repeats).map(|_| first.run(pool)));
                cold.extend(all.iter_mut().map(|copy| copy.run(pool)));
            }
        });
        // On a machine that others use too, the least time and the highest peak are those of undisturbed moments.
        let peak = peaks.iter().copied().fold(top_peak, f64::max);
        top_peak = peak;
        let percent = |time: f64| 100.0 * flops / time / peak;
        let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        let (warm_best, cold_best) = (least(&warm), least(&cold));
        println!(
            "{:28} {:8.3} {:6.1} ({:5.1}) {:6.1} ({:5.1})  {}",
            layer.0,
            warm_best / 1e6,
            percent(warm_best),
            percent(median(&mut warm)),
            percent(cold_best),
            percent(median(&mut cold)),
            first.step.algorithm()
        );
    }
}
