//! Speed of the operators that memory bounds, against a copy that moves as many bytes.
//!
//! `cargo bench --bench operators -- [--isa avx2] [--threads 2] [--rounds 100] [name part ...]`
//!
//! Bytes are those of all inputs, the output and the weights, each counted once; the copy reads half and writes half
//! of them, with the same threads and in the same moments. 100 % is the copy's speed.

use std::collections::BTreeMap;
use std::time::Instant;

use resnet_core::Shape;
use resnet_core::buffer::Buffer;
use resnet_core::ops::{Attributes, Compile, Io, Op, Packing, Packs, Precision, Step, Stretches, Value, parse};
use resnet_core::parallel::{Pool, run_with};
use resnet_core::simd::Isa;

/// Operator, attributes, number of inputs, spatial size and channels of each.
type Case = (&'static str, &'static str, usize, [usize; 3], usize);

const CASES: &[Case] = &[
    ("activation", "function=relu", 1, [1, 56, 56], 256),
    ("activation", "function=sigmoid", 1, [1, 56, 56], 256),
    ("activation", "function=gelu", 1, [1, 56, 56], 256),
    ("batch_norm", "epsilon=0.001 momentum=0.9", 1, [1, 56, 56], 256),
    ("add", "", 2, [1, 56, 56], 256),
    ("add", "", 2, [1, 7, 7], 2048),
    ("rescale", "scale=0.5 offset=0.5", 1, [1, 224, 224], 3),
    ("max_pool", "kernel=1,3,3 stride=1,2,2 padding=0,1,1 dilation=1,1,1", 1, [1, 112, 112], 64),
    ("max_pool", "kernel=3,3,3 stride=2,2,2 padding=1,1,1 dilation=1,1,1", 1, [48, 48, 48], 64),
    ("avg_pool", "kernel=1,3,3 stride=1,2,2 padding=0,1,1 count_include_pad=false", 1, [1, 112, 112], 64),
    ("avg_pool", "kernel=3,3,3 stride=2,2,2 padding=1,1,1 count_include_pad=false", 1, [48, 48, 48], 64),
    ("global_avg_pool", "", 1, [1, 7, 7], 2048),
    ("global_avg_pool", "", 1, [48, 48, 48], 64),
    ("dense", "units=1000 bias=true", 1, [1, 1, 1], 2048),
    // A dense layer at every point: many rows.
    ("dense", "units=1000 bias=true", 1, [1, 4, 8], 2048),
    ("squeeze_excite", "hidden=16 activation=relu gate=sigmoid", 1, [1, 56, 56], 256),
    ("squeeze_excite", "hidden=64 activation=relu gate=sigmoid", 1, [1, 14, 14], 1024),
    ("squeeze_excite", "hidden=128 activation=relu gate=sigmoid", 1, [1, 7, 7], 2048),
    ("squeeze_excite", "hidden=4 activation=relu gate=sigmoid", 1, [48, 48, 48], 64),
    ("softmax", "", 1, [96, 96, 96], 3),
    ("softmax", "", 1, [1, 16, 16], 1000),
    ("upsample", "scale=2,2,2 mode=nearest", 1, [24, 24, 24], 64),
    ("upsample", "scale=2,2,2 mode=linear", 1, [24, 24, 24], 64),
    ("concat", "", 2, [1, 112, 112], 64),
    ("pad_channels", "before=8 after=8", 1, [1, 32, 32], 16),
];

/// `name=value ...`; values are numbers, names, true, false, or several numbers. Padding is the same on both sides.
fn attributes(text: &str) -> Attributes {
    let scalar = |text: &str| match text {
        "true" | "false" => Value::Bool(text == "true"),
        _ => match (text.parse(), text.parse()) {
            (Ok(whole), _) => Value::Int(whole),
            (_, Ok(number)) => Value::Float(number),
            _ => Value::Text(text.into()),
        },
    };
    let value = |name: &str, text: &str| {
        let item = |text| if name == "padding" { Value::List(vec![scalar(text); 2]) } else { scalar(text) };
        if text.contains(',') { Value::List(text.split(',').map(item).collect()) } else { scalar(text) }
    };
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    Attributes::new(pairs.map(|(name, text)| (name.into(), value(name, text))).collect::<BTreeMap<_, _>>())
}

/// Some numbers.
fn data(length: usize) -> Buffer {
    let mut buffer = Buffer::zeroed(length);
    buffer.iter_mut().enumerate().for_each(|(i, value)| *value = (i % 17) as f32 / 8.0 - 1.0);
    buffer
}

/// An operator with its memory.
struct Bench {
    step: Box<dyn Step>,
    inputs: Vec<Buffer>,
    output: Buffer,
    scratch: Buffer,
    /// What the copy moves: half of all bytes.
    copy: [Buffer; 2],
    bytes: usize,
}

impl Bench {
    fn new((kind, text, inputs, dims, c): Case, isa: Isa, threads: usize) -> Self {
        let op: Box<dyn Op> = parse(kind, attributes(text)).expect("valid attributes");
        let shapes = vec![Shape::new(1, dims, c); inputs];
        let signature = op.signature(&vec![c; inputs]).expect("valid channels");
        let output = op.infer(&shapes).expect("valid shapes");
        let parameters: Vec<Buffer> = signature.parameters.iter().map(|p| data(p.shape.iter().product())).collect();
        let slices: Vec<&[f32]> = parameters.iter().map(|values| &values[..]).collect();
        let mut made = Stretches::default();
        let step = run_with(threads, |pool| {
            op.compile(&mut Compile {
                isa,
                threads,
                pool,
                precision: Precision::Default,
                inputs: &shapes,
                output,
                parameters: &slices,
                packing: Packing::Shared { known: &mut Packs::new(), made: &mut made },
            })
        });
        made.finish();
        let values = parameters.iter().map(|values| values.len());
        let length = shapes.iter().map(Shape::len).sum::<usize>() + output.len() + values.sum::<usize>();
        Self {
            inputs: shapes.iter().map(|shape| data(shape.len())).collect(),
            output: Buffer::zeroed(output.len()),
            scratch: Buffer::zeroed(step.scratch()),
            copy: [data(length / 2), Buffer::zeroed(length / 2)],
            bytes: 4 * length,
            step,
        }
    }

    /// Seconds of the operator and of the copy.
    fn time(&mut self, pool: &Pool) -> [f64; 2] {
        let inputs: Vec<&[f32]> = self.inputs.iter().map(|input| &input[..]).collect();
        let start = Instant::now();
        self.step.forward(Io {
            inputs: &inputs,
            output: &mut self.output,
            in_place: false,
            scratch: &mut self.scratch,
            pool,
        });
        let operator = start.elapsed().as_secs_f64();
        let [from, to] = &mut self.copy;
        const CHUNK: usize = 16 * 1024;
        let start = Instant::now();
        pool.for_each_chunk(to, CHUNK, |task, to| to.copy_from_slice(&from[task * CHUNK..][..to.len()]));
        [operator, start.elapsed().as_secs_f64()]
    }
}

fn main() {
    let (mut isa, mut threads, mut rounds, mut names) = (Isa::best(), 2, 100, Vec::new());
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--isa" => isa = Isa::from_name(&value()).expect("portable, avx2 or avx512"),
            "--threads" => threads = value().parse().expect("a number"),
            "--rounds" => rounds = value().parse().expect("a number"),
            _ => names.push(argument),
        }
    }
    println!("{}, {threads} threads, the best of {rounds} rounds", isa.name());
    for &case in CASES {
        let (kind, text, inputs, [d, h, w], c) = case;
        let name = format!("{kind} {text} {inputs} x ({d}, {h}, {w}, {c})");
        if !names.is_empty() && !names.iter().any(|part| name.contains(part)) {
            continue;
        }
        let mut bench = Bench::new(case, isa, threads);
        let mut best = [f64::INFINITY; 2];
        run_with(threads, |pool| {
            for _ in 0..rounds {
                let seconds = bench.time(pool);
                best = std::array::from_fn(|i| best[i].min(seconds[i]));
            }
        });
        let [microseconds, speed] = [best[0] * 1e6, bench.bytes as f64 / best[0] / 1e9];
        println!("{microseconds:9.1} us {speed:6.1} GB/s {:4.0} %  {name}", 100.0 * best[1] / best[0]);
    }
}
