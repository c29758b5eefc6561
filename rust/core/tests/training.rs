//! Training whole networks through the public interface: gradients, frozen parameters, accumulation, threads, recomputation,
//! misuse.

use std::collections::BTreeMap;

use resnet_core::graph::{Network, Training};
use resnet_core::ops::{Attributes, Value};
use resnet_core::simd::Isa;
use resnet_core::{Error, Shape, parallel};

type Row = (String, String, Vec<usize>, Attributes);

const INPUT: Shape = Shape { n: 3, d: 1, h: 7, w: 6, c: 5 };

fn node(name: &str, op: &str, inputs: &[usize], attributes: &[(&str, Value)]) -> Row {
    let attributes: BTreeMap<String, Value> =
        attributes.iter().map(|(name, value)| ((*name).to_string(), value.clone())).collect();
    (name.into(), op.into(), inputs.to_vec(), Attributes::new(attributes))
}

fn conv(name: &str, input: usize, filters: i64) -> Row {
    let list = |values: [i64; 3]| Value::List(values.iter().map(|&value| Value::Int(value)).collect());
    let pair = |value: i64| Value::List(vec![Value::Int(value), Value::Int(value)]);
    let attributes = [
        ("filters", Value::Int(filters)),
        ("kernel", list([1, 3, 3])),
        ("stride", list([1; 3])),
        ("padding", Value::List(vec![pair(0), pair(1), pair(1)])),
        ("dilation", list([1; 3])),
        ("groups", Value::Int(1)),
        ("bias", Value::Bool(true)),
    ];
    node(name, "conv", &[input], &attributes)
}

fn norm(name: &str, input: usize) -> Row {
    node(name, "batch_norm", &[input], &[("epsilon", Value::Float(1e-5)), ("momentum", Value::Float(0.9))])
}

fn tanh(name: &str, input: usize) -> Row {
    node(name, "activation", &[input], &[("function", Value::Text("tanh".into()))])
}

/// A residual block whose input is read three times, twice by the same sum, and two outputs.
fn rows() -> Vec<Row> {
    vec![
        node("input", "input", &[], &[("channels", Value::Int(5))]),
        conv("conv1", 0, 8),
        norm("bn1", 1),
        tanh("tanh1", 2),
        conv("conv2", 3, 8),
        norm("bn2", 4),
        node("add", "add", &[5, 3], &[]),
        tanh("tanh2", 6),
        node("twice", "add", &[7, 7], &[]),
        conv("conv3", 8, 4),
    ]
}

const OUTPUTS: [usize; 2] = [9, 7];

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

struct Trial {
    network: Network,
    x: Vec<f32>,
    d_outputs: [(Shape, Vec<f32>); 2],
    trainable: Vec<bool>,
    recompute: bool,
}

impl Trial {
    fn new() -> Self {
        let network = Network::new(rows()).unwrap();
        let entries = network.parameters();
        for (number, entry) in entries.iter().enumerate() {
            if entry.trainable() {
                let mut value = noise(entry.shape.iter().product(), number as u64 + 1);
                if entry.name.ends_with("bn1.weight") || entry.name.ends_with("bn2.weight") {
                    value.iter_mut().for_each(|value| *value += 1.5);
                }
                network.set(&entry.name, &entry.shape, &value).unwrap();
            }
        }
        let shapes = [4, 8].map(|c| Shape { c, ..INPUT });
        let d_outputs = shapes.map(|shape| (shape, noise(shape.len(), 70 + shape.c as u64)));
        let trainable = entries.iter().map(resnet_core::params::Entry::trainable).collect();
        Self { network, x: noise(INPUT.len(), 60), d_outputs, trainable, recompute: false }
    }

    fn training(&self) -> Training<'_> {
        let (isa, outputs, trainable, recompute) = (Isa::best(), &OUTPUTS, &self.trainable, self.recompute);
        Training { isa, outputs, trainable, input_gradients: true, recompute, seed: 5 }
    }

    fn forward(&self) -> Vec<(Shape, Vec<f32>)> {
        self.network.train_forward(&[(INPUT, &self.x)], &self.training()).unwrap()
    }

    fn backward(&self) -> Vec<f32> {
        let d_outputs = self.d_outputs.each_ref().map(|(shape, values)| (*shape, values.as_slice()));
        self.network.train_backward(&d_outputs).unwrap().remove(0).1
    }

    /// The gradients of all parameters.
    fn gradients(&self) -> Vec<Vec<f32>> {
        self.network.parameters().iter().map(|entry| self.network.gradient(&entry.name).unwrap().1).collect()
    }

    fn loss(&self) -> f64 {
        let outputs = self.forward();
        let products = outputs.iter().zip(&self.d_outputs).flat_map(|((_, y), (_, d_y))| y.iter().zip(d_y));
        products.map(|(&y, &d_y)| f64::from(y) * f64::from(d_y)).sum()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn gradients_are_those_of_differences() {
    let mut trial = Trial::new();
    trial.forward();
    let d_x = trial.backward();
    let gradients = trial.gradients();
    let h = 1e-2f32;
    let close = |got: f64, want: f64, norm: f64, what: &str| {
        assert!((got - want).abs() < 5e-3 * norm, "{what}: got {got}, want {want}");
    };
    let (x, direction) = (trial.x.clone(), noise(INPUT.len(), 80));
    let mut at = |step: f32| {
        trial.x = x.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
        trial.loss()
    };
    let want = (at(h) - at(-h)) / f64::from(2.0 * h);
    close(dot(&d_x, &direction), want, dot(&d_x, &d_x).sqrt(), "input");
    trial.x = x;
    for (entry, gradient) in trial.network.parameters().iter().zip(&gradients) {
        if !entry.trainable() {
            assert!(gradient.iter().all(|&g| g == 0.0));
            continue;
        }
        let (shape, value) = trial.network.get(&entry.name).unwrap();
        let direction = noise(value.len(), 90);
        let at = |step: f32| {
            let moved: Vec<f32> = value.iter().zip(&direction).map(|(v, d)| v + step * d).collect();
            trial.network.set(&entry.name, &shape, &moved).unwrap();
            trial.loss()
        };
        let want = (at(h) - at(-h)) / f64::from(2.0 * h);
        trial.network.set(&entry.name, &shape, &value).unwrap();
        // The bias before a norm has no gradient but rounding: nothing to be relative to.
        close(dot(gradient, &direction), want, dot(gradient, gradient).sqrt().max(1.0), &entry.name);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let results = [1, 2, 3, 8].map(|threads| {
        parallel::set_threads(Some(threads));
        let trial = Trial::new();
        let y = trial.forward();
        let d_x = trial.backward();
        (y, d_x, trial.gradients())
    });
    parallel::set_threads(None);
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn recomputation_needs_less_memory_and_changes_no_bit() {
    let results = [(false, 1), (true, 1), (true, 2), (true, 3)].map(|(recompute, threads)| {
        parallel::set_threads(Some(threads));
        let trial = Trial { recompute, ..Trial::new() };
        // Statistics move in each step, once.
        let outputs = [(); 3].map(|()| (trial.forward(), trial.backward()));
        let statistics = ["bn1", "bn2"].map(|norm| trial.network.get(&format!("{norm}.running_var")).unwrap());
        let bytes = trial.network.training_bytes(&[INPUT], &trial.training()).unwrap();
        (bytes, (outputs, trial.gradients(), statistics))
    });
    parallel::set_threads(None);
    let (bytes, want) = &results[0];
    for (less, result) in &results[1..] {
        assert!(less < bytes, "{less} of {bytes}");
        assert!(result == want);
    }
}

#[test]
fn gradients_add_up_until_they_are_cleared() {
    let trial = Trial::new();
    trial.forward();
    trial.backward();
    let once = trial.gradients();
    trial.forward();
    trial.backward();
    for (once, twice) in once.iter().zip(trial.gradients()) {
        assert!(once.iter().zip(twice).all(|(once, twice)| (2.0 * once - twice).abs() <= 1e-5 * once.abs().max(1e-3)));
    }
    trial.network.zero_gradients();
    assert!(trial.gradients().iter().flatten().all(|&g| g == 0.0));
}

#[test]
fn frozen_parameters_get_no_gradient_and_frozen_norms_keep_their_statistics() {
    let mut trial = Trial::new();
    let entries = trial.network.parameters();
    let frozen = |name: &str| name.starts_with("conv1") || name.starts_with("bn1") || name.starts_with("bn2");
    trial.trainable = entries.iter().map(|entry| entry.trainable() && !frozen(&entry.name)).collect();
    let training = Training { input_gradients: false, ..trial.training() };
    let statistics = |name: &str| trial.network.get(name).unwrap().1;
    let before = ["bn1.running_mean", "bn2.running_var"].map(statistics);
    let y = trial.network.train_forward(&[(INPUT, &trial.x)], &training).unwrap();
    assert_eq!(before, ["bn1.running_mean", "bn2.running_var"].map(statistics));
    // All norms run on their running statistics: the network computes what it computes for inference.
    let inference = trial.network.run(training.isa, &[(INPUT, &trial.x)], &OUTPUTS).unwrap();
    for ((_, y), (_, want)) in y.iter().zip(&inference) {
        assert!(y.iter().zip(want).all(|(y, want)| (y - want).abs() < 1e-4));
    }
    let d_outputs = trial.d_outputs.each_ref().map(|(shape, values)| (*shape, values.as_slice()));
    assert!(trial.network.train_backward(&d_outputs).unwrap().is_empty());
    for (entry, gradient) in entries.iter().zip(trial.gradients()) {
        let moving = entry.trainable() && !frozen(&entry.name);
        assert_eq!(gradient.iter().any(|&g| g != 0.0), moving, "{}", entry.name);
    }
}

#[test]
fn running_statistics_move_towards_those_of_the_batch() {
    let trial = Trial::new();
    let before = trial.network.get("bn1.running_mean").unwrap().1;
    for _ in 0..200 {
        trial.forward();
    }
    let after = trial.network.get("bn1.running_mean").unwrap().1;
    assert_ne!(before, after);
    // When they have arrived, inference computes what training does.
    let (y, want) = (trial.network.run(Isa::best(), &[(INPUT, &trial.x)], &OUTPUTS).unwrap(), trial.forward());
    for ((_, y), (_, want)) in y.iter().zip(&want) {
        assert!(y.iter().zip(want).all(|(y, want)| (y - want).abs() < 1e-3));
    }
}

#[test]
fn a_later_input_is_not_overwritten_and_neither_is_its_gradient() {
    let rows = [
        node("a", "input", &[], &[("channels", Value::Int(5))]),
        conv("conv1", 0, 8),
        tanh("tanh1", 1),
        conv("conv2", 2, 8),
        tanh("tanh2", 3),
        node("b", "input", &[], &[("channels", Value::Int(8))]),
        node("add", "add", &[5, 4], &[]),
    ];
    let network = Network::new(rows).unwrap();
    let shape = Shape { c: 8, ..INPUT };
    let (a, b, d_y) = (noise(INPUT.len(), 1), noise(shape.len(), 2), noise(shape.len(), 3));
    for entry in network.parameters() {
        network.set(&entry.name, &entry.shape, &noise(entry.shape.iter().product(), 4)).unwrap();
    }
    let trainable = vec![true; network.parameters().len()];
    let (isa, outputs) = (Isa::best(), &[6]);
    let inputs = [(INPUT, a.as_slice()), (shape, b.as_slice())];
    let want = network.run(isa, &inputs, outputs).unwrap();
    for recompute in [false, true] {
        let training = Training { isa, outputs, trainable: &trainable, input_gradients: true, recompute, seed: 0 };
        let y = network.train_forward(&inputs, &training).unwrap();
        assert!(y[0].1.iter().zip(&want[0].1).all(|(y, want)| (y - want).abs() < 1e-5));
        let gradients = network.train_backward(&[(shape, &d_y)]).unwrap();
        assert_eq!(gradients[1].1, d_y);
    }
}

#[test]
fn steps_at_the_wrong_time_or_of_the_wrong_shape_are_refused() {
    let trial = Trial::new();
    let (shape, values) = &trial.d_outputs[0];
    let backward = |d_outputs: &[(Shape, &[f32])]| trial.network.train_backward(d_outputs);
    assert!(matches!(backward(&[(*shape, values)]), Err(Error::State { .. })));
    trial.forward();
    assert!(matches!(backward(&[(*shape, values)]), Err(Error::Shape { .. })));
    assert!(matches!(backward(&[(INPUT, &trial.x), (INPUT, &trial.x)]), Err(Error::Shape { .. })));
    trial.backward();
    let d_outputs = trial.d_outputs.each_ref().map(|(shape, values)| (*shape, values.as_slice()));
    assert!(matches!(backward(&d_outputs), Err(Error::State { .. })), "each step forward has one step backward");
    trial.forward();
    let (shape, weight) = trial.network.get("bn1.weight").unwrap();
    trial.network.set("bn1.weight", &shape, &weight).unwrap();
    assert!(matches!(backward(&d_outputs), Err(Error::State { .. })), "what is computed again has other parameters");
    assert!(trial.network.training_bytes(&[INPUT], &trial.training()).unwrap() > INPUT.len() * 4);
}
