//! Whole networks through the public interface: fusion, plans, threads, stale weights, many callers.

use std::collections::BTreeMap;

use resnet_core::graph::{Network, Unwatched, Watch};
use resnet_core::ops::{Attributes, Value};
use resnet_core::simd::Isa;
use resnet_core::{Error, Shape, parallel};

type Row = (String, String, Vec<usize>, Attributes);

fn node(name: &str, op: &str, inputs: &[usize], attributes: &[(&str, Value)]) -> Row {
    let attributes: BTreeMap<String, Value> =
        attributes.iter().map(|(name, value)| ((*name).to_string(), value.clone())).collect();
    (name.into(), op.into(), inputs.to_vec(), Attributes::new(attributes))
}

fn three(value: i64) -> Value {
    Value::List(vec![Value::Int(1), Value::Int(value), Value::Int(value)])
}

fn conv(name: &str, input: usize, filters: i64, kernel: i64, stride: i64) -> Row {
    let side = Value::List(vec![Value::Int(kernel / 2), Value::Int(kernel / 2)]);
    let none = Value::List(vec![Value::Int(0), Value::Int(0)]);
    let attributes = [
        ("filters", Value::Int(filters)),
        ("kernel", three(kernel)),
        ("stride", three(stride)),
        ("padding", Value::List(vec![none, side.clone(), side])),
        ("dilation", three(1)),
        ("groups", Value::Int(1)),
        ("bias", Value::Bool(false)),
    ];
    node(name, "conv", &[input], &attributes)
}

fn norm(name: &str, input: usize) -> Row {
    node(name, "batch_norm", &[input], &[("epsilon", Value::Float(1e-5)), ("momentum", Value::Float(0.9))])
}

fn relu(name: &str, input: usize) -> Row {
    node(name, "activation", &[input], &[("function", Value::Text("relu".into()))])
}

/// A residual block with a projection, squeeze-and-excite, and a classifier: every kind of fusion.
fn rows() -> Vec<Row> {
    let excite = [
        ("hidden", Value::Int(3)),
        ("activation", Value::Text("relu".into())),
        ("gate", Value::Text("sigmoid".into())),
    ];
    vec![
        node("input", "input", &[], &[("channels", Value::Int(5))]),
        conv("conv1", 0, 12, 3, 1),
        norm("bn1", 1),
        relu("relu1", 2),
        conv("conv2", 3, 20, 3, 2),
        node("se", "squeeze_excite", &[4], &excite),
        norm("bn2", 5),
        conv("downsample.0", 0, 20, 1, 2),
        norm("downsample.1", 7),
        node("add", "add", &[6, 8], &[]),
        relu("relu2", 9),
        node("pool", "global_avg_pool", &[10], &[]),
        node("fc", "dense", &[11], &[("units", Value::Int(7)), ("bias", Value::Bool(true))]),
        node("softmax", "softmax", &[12], &[]),
    ]
}

const LAST: usize = 13;

/// Values between -1 and 1 that look random and are the same everywhere.
fn noise(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

fn network() -> Network {
    filled(rows())
}

/// A network of these nodes with random parameters.
fn filled(rows: Vec<Row>) -> Network {
    let network = Network::new(rows).unwrap();
    for (seed, entry) in network.parameters().iter().enumerate() {
        let shift = if entry.name.ends_with("running_var") { 2.0 } else { 0.0 };
        let values: Vec<f32> = noise(entry.shape.iter().product(), seed as u64 + 1).iter().map(|v| v + shift).collect();
        network.set(&entry.name, &entry.shape, &values).unwrap();
    }
    network
}

#[test]
fn fused_and_unfused_agree_on_every_instruction_set() {
    let network = network();
    let shape = Shape::new(2, [1, 9, 11], 5);
    let x = noise(shape.len(), 99);
    let every: Vec<usize> = (1..=LAST).collect();
    for isa in Isa::available() {
        // A node that is asked for cannot be absorbed.
        let plain = network.run(isa, &[(shape, &x)], &every).unwrap();
        for (position, &output) in every.iter().enumerate() {
            let fused = network.run(isa, &[(shape, &x)], &[output]).unwrap();
            let (want, got) = (&plain[position].1, &fused[0].1);
            let scale = want.iter().fold(0f32, |scale, v| scale.max(v.abs()));
            let error = want.iter().zip(got).fold(0f32, |error, (a, b)| error.max((a - b).abs()));
            assert!(error <= 1e-5 * scale, "node {output}, {}: {error} of {scale}", isa.name());
        }
        let sums = plain[LAST - 1].1.chunks(7).map(|row| row.iter().sum::<f32>());
        assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-5));
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let network = network();
    let shape = Shape::new(3, [1, 33, 17], 5);
    let x = noise(shape.len(), 5);
    for isa in Isa::available() {
        let run = |threads| {
            parallel::set_threads(Some(threads));
            let result = network.run(isa, &[(shape, &x)], &[10, LAST]).unwrap();
            parallel::set_threads(None);
            result
        };
        let one = run(1);
        for threads in [2, 3, 8] {
            assert_eq!(run(threads), one, "{threads} threads, {}", isa.name());
        }
    }
}

#[test]
fn a_changed_parameter_reaches_the_next_run() {
    let network = network();
    let shape = Shape::new(1, [1, 8, 8], 5);
    let x = noise(shape.len(), 7);
    let before = network.run(Isa::best(), &[(shape, &x)], &[LAST]).unwrap();
    network.set("fc.bias", &[7], &[9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap();
    let after = network.run(Isa::best(), &[(shape, &x)], &[LAST]).unwrap();
    assert!(after[0].1[0] > before[0].1[0]);
}

#[test]
fn many_callers_get_the_same() {
    let network = network();
    let shapes = [Shape::new(1, [1, 16, 16], 5), Shape::new(2, [1, 20, 12], 5)];
    let inputs = shapes.map(|shape| noise(shape.len(), 3));
    let wanted = [0, 1].map(|i| network.run(Isa::best(), &[(shapes[i], &inputs[i])], &[LAST]).unwrap());
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let (network, wanted, inputs) = (&network, &wanted, &inputs);
            scope.spawn(move || {
                for turn in 0..20 {
                    let i = (caller + turn) % 2;
                    let got = network.run(Isa::best(), &[(shapes[i], &inputs[i])], &[LAST]).unwrap();
                    assert_eq!(got, wanted[i]);
                }
            });
        }
    });
}

#[test]
fn errors_name_the_node() {
    let fails = |rows: Vec<Row>| match Network::new(rows) {
        Err(error) => error,
        Ok(_) => panic!("expected an error"),
    };
    let input = || node("input", "input", &[], &[("channels", Value::Int(5))]);
    let unknown = fails(vec![input(), node("x", "convolution", &[0], &[])]);
    assert!(matches!(&unknown, Error::Graph { node, .. } if node == "x"), "{unknown}");
    let later = fails(vec![input(), node("x", "add", &[0, 1], &[])]);
    assert!(later.to_string().contains("before"), "{later}");
    let twice = fails(vec![input(), conv("a", 0, 4, 3, 1), conv("a", 1, 4, 3, 1)]);
    assert!(matches!(twice, Error::Parameter { .. }));

    let network = network();
    let wrong = Shape::new(1, [1, 8, 8], 4);
    let error = network.run(Isa::best(), &[(wrong, &noise(wrong.len(), 1))], &[LAST]).unwrap_err();
    assert!(matches!(&error, Error::Shape { node, .. } if node == "input"), "{error}");
    let empty = Shape::new(0, [1, 8, 8], 5);
    assert!(network.run(Isa::best(), &[(empty, &[])], &[LAST]).is_err());
    let right = Shape::new(1, [1, 8, 8], 5);
    assert!(network.run(Isa::best(), &[(right, &[0.0; 7])], &[LAST]).is_err());
    assert!(network.run(Isa::best(), &[(right, &noise(right.len(), 1))], &[99]).is_err());
    assert!(network.run(Isa::best(), &[], &[LAST]).is_err());
    assert!(network.set("fc.bias", &[8], &[0.0; 8]).is_err());
    assert!(network.get("fc.weights").is_err());
}

/// Allows so many bytes and steps, and remembers what was asked.
struct Limits {
    bytes: usize,
    steps: usize,
    asked: Vec<usize>,
}

impl Watch for Limits {
    fn allocate(&mut self, bytes: usize) -> bool {
        self.asked.push(bytes);
        bytes <= self.bytes
    }

    fn go_on(&mut self) -> bool {
        self.steps = self.steps.wrapping_sub(1);
        self.steps != usize::MAX
    }
}

#[test]
fn a_run_can_be_stopped_before_it_allocates_and_between_steps() {
    let network = Network::new(rows()).unwrap();
    let shape = Shape::new(2, [1, 9, 8], 5);
    let x = noise(shape.len(), 1);
    let run = |limits: &mut Limits| network.run_watched(Isa::best(), &[(shape, &x)], &[LAST], limits);

    let mut limits = Limits { bytes: 0, steps: 0, asked: Vec::new() };
    assert!(matches!(run(&mut limits), Err(Error::Stopped { .. })));
    // Scratch memory is a part of it: more than the activations alone.
    let activations = network.activation_bytes(&[shape], &[LAST]).unwrap();
    assert!(limits.asked[0] > activations - 4 * shape.len(), "{:?} {activations}", limits.asked);

    let mut limits = Limits { bytes: usize::MAX, steps: 2, asked: Vec::new() };
    let error = run(&mut limits).unwrap_err();
    assert!(matches!(&error, Error::Stopped { node } if node != "input"), "{error}");

    // The arena of the run that was stopped is used again, so only the result is asked for.
    let mut limits = Limits { bytes: usize::MAX, steps: usize::MAX, asked: Vec::new() };
    let result = run(&mut limits).unwrap();
    assert_eq!(limits.asked, [4 * result[0].0.len()]);
    assert_eq!(result, network.run(Isa::best(), &[(shape, &x)], &[LAST]).unwrap());
    let profile = network.profile(Isa::best(), &[(shape, &x)], &[LAST], 1, &mut Unwatched).unwrap();
    assert!(profile.len() > 2);
}

#[test]
fn an_output_takes_the_place_of_a_residual_that_nothing_reads_after_it() {
    let shape = Shape::new(2, [1, 30, 30], 5);
    let x = noise(shape.len(), 3);
    // One kernel for the direct algorithm, one for Winograd's.
    for kernel in [1, 3] {
        // The arena that a first run needs, and its last result.
        let run = |outputs: &[usize]| {
            let network = filled(vec![
                node("input", "input", &[], &[("channels", Value::Int(5))]),
                conv("first", 0, 64, 1, 1),
                conv("narrow", 1, 32, 1, 1),
                conv("wide", 2, 64, kernel, 1),
                node("add", "add", &[3, 1], &[]),
                relu("relu", 4),
                conv("last", 5, 1, 1, 1),
            ]);
            let mut limits = Limits { bytes: usize::MAX, steps: usize::MAX, asked: Vec::new() };
            let mut results = network.run_watched(Isa::best(), &[(shape, &x)], outputs, &mut limits).unwrap();
            let lengths: usize = results.iter().map(|(shape, _)| shape.len()).sum();
            let profile = network.profile(Isa::best(), &[(shape, &x)], outputs, 1, &mut Unwatched).unwrap();
            let wide = profile.iter().find(|step| step.name == "wide").unwrap();
            assert_eq!(wide.algorithm.starts_with("winograd"), kernel == 3, "kernel {kernel}: {}", wide.algorithm);
            (limits.asked[0] / 4 - lengths, results.pop())
        };
        let (shared, result) = run(&[6]);
        // What the caller asks for keeps its place.
        let (apart, same) = run(&[1, 6]);
        let map = shape.with_channels(64).len();
        assert!(apart >= shared + map, "kernel {kernel}: {apart} elements against {shared} with maps of {map}");
        assert_eq!(result, same);
    }
}

#[test]
fn sharing_a_place_changes_no_bit() {
    let shape = Shape::new(2, [1, 30, 30], 64);
    let x = noise(shape.len(), 3);
    for kernel in [1, 3] {
        let network = filled(vec![
            node("input", "input", &[], &[("channels", Value::Int(64))]),
            conv("first", 0, 64, 1, 1),
            // Two blocks in a row: the second takes the place that the first has taken.
            conv("block1.conv1", 1, 32, 1, 1),
            conv("block1.conv2", 2, 64, kernel, 1),
            node("block1.add", "add", &[3, 1], &[]),
            relu("block1.relu", 4),
            conv("block2.conv1", 5, 32, 1, 1),
            conv("block2.conv2", 6, 64, kernel, 1),
            node("block2.add", "add", &[7, 5], &[]),
            relu("block2.relu", 8),
            // Reads its residual as its input, too.
            conv("twice", 9, 64, kernel, 1),
            node("twice.add", "add", &[10, 9], &[]),
            // The residual is not in the arena.
            conv("caller", 11, 64, kernel, 1),
            node("caller.add", "add", &[12, 0], &[]),
            conv("last", 13, 1, 1, 1),
        ]);
        // What is asked for keeps its place.
        let all = [1, 5, 9, 11, 13, 14];
        for isa in Isa::available() {
            let apart = network.run(isa, &[(shape, &x)], &all).unwrap();
            for (output, apart) in all.into_iter().zip(apart) {
                let shared = network.run(isa, &[(shape, &x)], &[output]).unwrap().remove(0);
                let same = shared.1.iter().zip(&apart.1).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && shared.0 == apart.0, "kernel {kernel}, node {output}, {}", isa.name());
            }
        }
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error_that_names_the_node() {
    let shape = Shape::new(1, [1, 4, 4], 4);
    let x = noise(shape.len(), 1);
    let far = Value::List(vec![Value::Int(1 << 23), Value::Int(1 << 23)]);
    let none = Value::List(vec![Value::Int(0), Value::Int(0)]);
    let mut attributes = vec![
        ("filters", Value::Int(16)),
        ("kernel", three(1)),
        ("stride", three(1)),
        ("padding", Value::List(vec![none, far.clone(), far])),
        ("dilation", three(1)),
        ("groups", Value::Int(1)),
        ("bias", Value::Bool(false)),
    ];
    let input = || node("input", "input", &[], &[("channels", Value::Int(4))]);
    let network = Network::new([input(), node("far", "conv", &[0], &attributes)]).unwrap();
    let error = network.run(Isa::best(), &[(shape, &x)], &[1]).unwrap_err();
    assert!(matches!(&error, Error::Memory { node, .. } if node == "far"), "{error}");

    // A number of elements that wraps around to 0.
    let error = network.graph().infer(&[Shape::new(1 << 62, [1; 3], 4)]).unwrap_err();
    assert!(matches!(&error, Error::Memory { node, .. } if node == "input"), "{error}");

    attributes[0] = ("filters", Value::Int(1 << 24));
    attributes[1] = ("kernel", three(1 << 12));
    let network = Network::new([input(), node("wide", "conv", &[0], &attributes)]).unwrap();
    let error = network.get("wide.weight").unwrap_err();
    assert!(matches!(&error, Error::Memory { node, .. } if node == "wide.weight"), "{error}");
}
