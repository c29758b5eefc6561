//! Every rule against its formula in float64, on every instruction set and for several numbers of threads.

use super::*;
use crate::ops::Value;
use crate::parallel::run_with;
use crate::simd::Isa;
use crate::testing::{assert_close, for_each_isa, random};

const ROWS: [Range<usize>; 4] = [0..3, 16..16 + 5, 32..32 + CHUNK + 7, 16 * 1100..16 * 1100 + 64];
const LENGTH: usize = 16 * 1110;

fn groups() -> Vec<Group> {
    [(1.0, 0.1), (0.0, 0.1), (0.5, 0.0), (2.0, 0.01)].map(|(factor, decay)| Group { factor, decay }).to_vec()
}

fn optimizer(kind: &str, options: &[(&str, Value)]) -> Optimizer {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Optimizer::new(kind, Attributes::new(options), groups()).unwrap()
}

fn run(optimizer: &mut Optimizer, values: &mut [f32], steps: Range<u64>, isa: Isa, threads: usize) {
    run_with(threads, |pool| {
        for step in steps {
            let gradients = random(100 + step, LENGTH);
            optimizer.update(&ROWS, values, &gradients, 0.05, Place { isa, pool }).unwrap();
        }
    });
}

/// One parameter after `steps` of (gradient, learning rate, decay).
type Formula<'a> = &'a dyn Fn(&mut [f64; 4], f64, f64, f64, f64, i32) -> f64;

fn check(kind: &str, options: &[(&str, Value)], formula: Formula<'_>) {
    let start = random(1, LENGTH);
    let mut want: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
    for (row, group) in ROWS.into_iter().zip(groups()).filter(|(_, group)| group.factor > 0.0) {
        let gradients: Vec<_> = (0..4).map(|step| random(100 + step, LENGTH)).collect();
        for i in row {
            let mut state = [0.0; 4];
            for (step, gradients) in gradients.iter().enumerate() {
                let rate = 0.05 * f64::from(group.factor);
                let g = f64::from(gradients[i]);
                want[i] = formula(&mut state, want[i], g, rate, f64::from(group.decay), step as i32 + 1);
            }
        }
    }
    for_each_isa(|isa| {
        let mut bits = None;
        for threads in [1, 2, 3] {
            let mut values = start.clone();
            run(&mut optimizer(kind, options), &mut values, 0..4, isa, threads);
            assert_close(&values, &want, 2e-5);
            assert_eq!(*bits.get_or_insert(values.clone()), values, "{kind}: {threads} threads");
        }
    });
}

#[test]
fn sgd() {
    check("sgd", &[], &|_, p, g, rate, decay, _| p - rate * (g + decay * p));
    let momentum = ("momentum", Value::Float(0.9));
    check("sgd", std::slice::from_ref(&momentum), &|state, p, g, rate, decay, _| {
        state[0] = 0.9 * state[0] + g + decay * p;
        p - rate * state[0]
    });
    let nesterov = ("nesterov", Value::Bool(true));
    check("sgd", &[momentum, nesterov], &|state, p, g, rate, decay, _| {
        let g = g + decay * p;
        state[0] = 0.9 * state[0] + g;
        p - rate * (g + 0.9 * state[0])
    });
}

#[test]
fn adam() {
    for (kind, decoupled) in [("adam", false), ("adamw", true)] {
        check(kind, &[("beta2", Value::Float(0.99))], &|state, p, g, rate, decay, t| {
            let (p, g) = if decoupled { (p - rate * decay * p, g) } else { (p, g + decay * p) };
            state[0] = 0.9 * state[0] + 0.1 * g;
            state[1] = 0.99 * state[1] + 0.01 * g * g;
            let corrected = (state[0] / (1.0 - 0.9f64.powi(t)), state[1] / (1.0 - 0.99f64.powi(t)));
            p - rate * corrected.0 / (corrected.1.sqrt() + 1e-8)
        });
    }
}

#[test]
fn rmsprop() {
    for (momentum, centered) in [(0.0, false), (0.8, false), (0.0, true), (0.8, true)] {
        let options =
            [("rho", Value::Float(0.9)), ("momentum", Value::Float(momentum)), ("centered", Value::Bool(centered))];
        // A variance of one gradient is a difference of equals at the first step: it needs an epsilon that counts.
        let options = [options.to_vec(), vec![("epsilon", Value::Float(0.01))]].concat();
        check("rmsprop", &options, &|state, p, g, rate, decay, _| {
            let g = g + decay * p;
            state[0] = 0.9 * state[0] + 0.1 * g * g;
            state[1] = 0.9 * state[1] + 0.1 * g;
            let variance = if centered { state[0] - state[1] * state[1] } else { state[0] };
            state[2] = momentum * state[2] + g / (variance.sqrt() + 0.01);
            p - rate * state[2]
        });
    }
}

#[test]
fn clipping() {
    check("sgd", &[("clip_value", Value::Float(0.25))], &|_, p, g, rate, decay, _| {
        p - rate * (g.clamp(-0.25, 0.25) + decay * p)
    });
    let norm = |step: i32| {
        let gradients = random(99 + step as u64, LENGTH);
        let trained = ROWS.into_iter().zip(groups()).filter(|(_, group)| group.factor > 0.0);
        trained.flat_map(|(row, _)| row).map(|i| f64::from(gradients[i]).powi(2)).sum::<f64>().sqrt()
    };
    let norms: Vec<f64> = (1..=4).map(norm).collect();
    check("sgd", &[("clip_norm", Value::Float(2.0))], &|_, p, g, rate, decay, step| {
        let scale = (2.0 / (norms[step as usize - 1] + 1e-6)).min(1.0);
        p - rate * (g * scale + decay * p)
    });
}

#[test]
fn a_state_continues_bit_for_bit_and_the_average_follows() {
    let options = [("average", Value::Float(0.9)), ("clip_norm", Value::Float(5.0))];
    let start = random(1, LENGTH);
    let (mut whole, mut halves) = (start.clone(), start.clone());
    let mut uninterrupted = optimizer("adam", &options);
    run(&mut uninterrupted, &mut whole, 0..4, Isa::best(), 2);
    let mut first = optimizer("adam", &options);
    run(&mut first, &mut halves, 0..2, Isa::best(), 1);
    let mut second = optimizer("adam", &options);
    let state = first.state().map(|(name, buffer)| (name.to_owned(), buffer)).collect();
    second.load_state(first.step_count(), state).unwrap();
    run(&mut second, &mut halves, 2..4, Isa::best(), 3);
    assert_eq!(whole, halves);
    assert!(uninterrupted.state().eq(second.state()));

    let mut want: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
    let mut again = optimizer("adam", &options);
    let mut values = start.clone();
    for step in 0..4 {
        // Running statistics, in a row that has no gradient, move between the steps.
        if step > 0 {
            values[ROWS[1].clone()].iter_mut().for_each(|value| *value += 0.5);
        }
        run(&mut again, &mut values, step..step + 1, Isa::best(), 1);
        want.iter_mut().zip(&values).for_each(|(want, &v)| *want = 0.9 * *want + 0.1 * f64::from(v));
    }
    let trained = values.clone();
    again.swap_average(&ROWS, &mut values).unwrap();
    ROWS.into_iter().for_each(|row| assert_close(&values[row.clone()], &want[row], 1e-6));
    again.swap_average(&ROWS, &mut values).unwrap();
    assert_eq!(values, trained);
}

#[test]
fn what_is_not_finite_is_passed_on() {
    for options in [vec![], vec![("clip_value", Value::Float(1.0))], vec![("clip_norm", Value::Float(1.0))]] {
        let mut gradients = random(3, LENGTH);
        gradients[40] = f32::NAN;
        let mut values = random(1, LENGTH);
        let mut optimizer = optimizer("sgd", &options);
        run_with(1, |pool| {
            optimizer.update(&ROWS, &mut values, &gradients, 0.1, Place { isa: Isa::best(), pool }).unwrap();
        });
        assert!(values[40].is_nan());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |kind: &str, name: &str, value: Value| {
        let options = Attributes::new(BTreeMap::from([(name.to_owned(), value)]));
        Optimizer::new(kind, options, groups()).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused("adagrad", "momentum", Value::Int(0)).contains("adagrad"));
    assert!(refused("sgd", "beta1", Value::Float(0.9)).contains("beta1"));
    assert!(refused("sgd", "nesterov", Value::Bool(true)).contains("momentum"));
    assert!(refused("adam", "beta1", Value::Float(1.0)).contains("beta1"));
    assert!(refused("adam", "clip_norm", Value::Float(-1.0)).contains("clip_norm"));
    let mut adam = optimizer("adam", &[]);
    let short = [0.0; 3];
    assert!(adam.load_state(1, BTreeMap::from([("exp_avg".into(), &short[..])])).is_err());
    run_with(1, |pool| {
        let place = Place { isa: Isa::best(), pool };
        let mut values = vec![0.0; LENGTH];
        assert!(adam.update(&ROWS[..2], &mut values, &[0.0; LENGTH], 0.1, place).is_err());
        assert!(adam.update(&ROWS, &mut values, &[0.0; 5], 0.1, place).is_err());
        assert!(adam.update(&ROWS, &mut values, &[0.0; LENGTH], f32::NAN, place).is_err());
        assert_eq!(adam.step_count(), 0);
        assert!(adam.swap_average(&ROWS, &mut values).is_err());
    });
}
