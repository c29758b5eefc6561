//! Every loss against its definition in float64, its gradient against differences of that definition, on every instruction
//! set, with the same bits for any number of threads.

use std::collections::BTreeMap;

use super::*;
use crate::ops::Value;
use crate::parallel::run_with;
use crate::shape::Dims3;
use crate::simd::Isa;
use crate::testing::{assert_close, for_each_isa, random};

const SMOOTH: f64 = 1e-3;

/// A loss by its definition: one-hot target `t` and mask `m`, one sum after the other.
struct Naive<'a> {
    kind: &'a str,
    logits: bool,
    smoothing: f64,
    class_weights: Option<&'a [f64]>,
    classes: Vec<usize>,
    shape: Shape,
    t: Vec<f64>,
    m: Vec<bool>,
}

impl Naive<'_> {
    fn binary(&self) -> bool {
        self.kind.starts_with("binary") || self.kind == "mse"
    }

    fn probabilities(&self, y: &[f64]) -> Vec<f64> {
        let row = |y: &[f64]| -> Vec<f64> {
            let sum: f64 = y.iter().map(|y| y.exp()).sum();
            y.iter().map(|y| if self.binary() { 1.0 / (1.0 + (-y).exp()) } else { y.exp() / sum }).collect()
        };
        if self.logits { y.chunks(self.shape.c).flat_map(row).collect() } else { y.to_vec() }
    }

    fn cross_entropy(&self, y: &[f64]) -> f64 {
        let c = self.shape.c;
        let mut p = self.probabilities(y);
        if !self.logits && !self.binary() {
            p = p.chunks(c).flat_map(|p| p.iter().map(|x| x / p.iter().sum::<f64>()).collect::<Vec<_>>()).collect();
        }
        let focal = self.kind.contains("focal");
        let mut sum = 0.0;
        for (i, (&p, &t)) in p.iter().zip(&self.t).enumerate().filter(|(i, _)| self.m[i / c]) {
            let p = if focal || !self.logits { p.clamp(1e-7, 1.0 - 1e-7) } else { p };
            let [negative, positive] = match self.class_weights {
                None => [1.0; 2],
                Some(w) if self.binary() && !self.kind.contains("dice") => [w[0], w[1]],
                Some(w) => [w[i % c]; 2],
            };
            let factor = |q: f64, alpha: f64| if focal { alpha * (1.0 - q).powf(2.0) } else { 1.0 };
            if self.binary() {
                let t = t * (1.0 - self.smoothing) + self.smoothing / 2.0;
                sum -= positive * t * factor(p, 1.0) * p.ln() / c as f64;
                sum -= negative * (1.0 - t) * factor(1.0 - p, 1.0) * (1.0 - p).ln() / c as f64;
            } else {
                let t = t * (1.0 - self.smoothing) + self.smoothing / c as f64;
                sum -= positive * t * factor(p, 0.25) * p.ln();
            }
        }
        sum / self.m.iter().filter(|&&m| m).count() as f64
    }

    fn regions(&self, y: &[f64]) -> f64 {
        let Shape { n, c, .. } = self.shape;
        let p = self.probabilities(y);
        let spatial = self.shape.spatial();
        let mut values = Vec::new();
        for n in 0..n {
            let mut sums = Vec::new();
            for k in 0..c {
                let of = |i: usize| (n * spatial + i) * c + k;
                let counts: Vec<usize> = (0..spatial).filter(|i| self.m[n * spatial + i]).collect();
                if !self.classes.contains(&k) {
                    continue;
                }
                let q = |i: usize| p[of(i)].clamp(SMOOTH, 1.0 - SMOOTH);
                if self.kind.contains("cldice") {
                    let masked = |f: &dyn Fn(usize) -> f64| -> Vec<f64> {
                        (0..spatial).map(|i| if counts.contains(&i) { f(i) } else { 0.0 }).collect()
                    };
                    let (q, t) = (masked(&q), masked(&|i| self.t[of(i)]));
                    let (sq, st) = (skeleton(&q, self.shape.dims(), 3), skeleton(&t, self.shape.dims(), 3));
                    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() + SMOOTH;
                    let ones = vec![1.0; spatial];
                    let (precision, sensitivity) = (dot(&sq, &t) / dot(&sq, &ones), dot(&st, &q) / dot(&st, &ones));
                    values.push(1.0 - 2.0 * precision * sensitivity / (precision + sensitivity));
                    continue;
                }
                let i: f64 = counts.iter().map(|&i| self.t[of(i)] * q(i)).sum();
                let v: f64 = counts.iter().map(|&i| q(i)).sum();
                let t: f64 = counts.iter().map(|&i| self.t[of(i)]).sum();
                sums.push([i, v, t]);
                let weight = self.class_weights.map_or(1.0, |w| w[k]);
                if self.kind.contains("iou") {
                    values.push(weight * (1.0 - (i + SMOOTH) / (v + t - i + SMOOTH)));
                } else if self.kind.contains("tversky") {
                    values.push(weight * (1.0 - (i + SMOOTH) / (i + 0.3 * (v - i) + 0.7 * (t - i) + SMOOTH)));
                } else if !self.kind.contains("generalized") {
                    values.push(weight * (1.0 - (2.0 * i + SMOOTH) / (v + t + SMOOTH)));
                }
            }
            if self.kind.contains("generalized") {
                let w = |t: f64| if t < SMOOTH { 0.0 } else { 1.0 / (t * t + SMOOTH) };
                let over: f64 = sums.iter().map(|[i, _, t]| 2.0 * w(*t) * i).sum();
                let under: f64 = sums.iter().map(|[_, v, t]| w(*t) * (v + t)).sum();
                values.push(1.0 - over / (under + SMOOTH));
            }
        }
        values.iter().sum::<f64>() / values.len() as f64
    }

    fn loss(&self, y: &[f64]) -> f64 {
        if self.kind == "mse" {
            return y.iter().zip(&self.t).map(|(y, t)| (y - t).powi(2)).sum::<f64>() / y.len() as f64;
        }
        if self.kind.contains("dice_ce") {
            return 0.5 * self.regions(y) + 2.0 * self.cross_entropy(y);
        }
        if self.kind.contains("entropy") { self.cross_entropy(y) } else { self.regions(y) }
    }
}

fn skeleton(x: &[f64], dims: Dims3, iterations: usize) -> Vec<f64> {
    let extreme = |x: &[f64], largest: bool| -> Vec<f64> {
        let [d, h, w] = dims.map(|size| size as isize);
        let at = |z: isize, y: isize, x_: isize| x[((z * h + y) * w + x_) as usize];
        let mut out = Vec::new();
        for (z, y, x) in (0..d).flat_map(|z| (0..h).flat_map(move |y| (0..w).map(move |x| (z, y, x)))) {
            let mut best = at(z, y, x);
            for (dz, dy, dx) in (-1..2).flat_map(|z| (-1..2).flat_map(move |y| (-1..2).map(move |x| (z, y, x)))) {
                let (z, y, x) = (z + dz, y + dy, x + dx);
                let near = largest || dz.abs() + dy.abs() + dx.abs() == 1;
                if near && (0..d).contains(&z) && (0..h).contains(&y) && (0..w).contains(&x) {
                    best = if largest { best.max(at(z, y, x)) } else { best.min(at(z, y, x)) };
                }
            }
            out.push(best);
        }
        out
    };
    let mut e = x.to_vec();
    let mut skeleton = vec![0.0; x.len()];
    for _ in 0..=iterations {
        let eroded = extreme(&e, false);
        let opened = extreme(&eroded, true);
        for ((s, e), o) in skeleton.iter_mut().zip(&e).zip(&opened) {
            let delta = (e - o).max(0.0);
            *s += (delta - *s * delta).max(0.0);
        }
        e = eroded;
    }
    skeleton
}

fn options(pairs: &[(&str, Value)]) -> Attributes {
    Attributes::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<BTreeMap<_, _>>())
}

fn numbers(values: &[f64]) -> Value {
    Value::List(values.iter().map(|&value| Value::Float(value)).collect())
}

/// Compares one loss with its definition.
fn check(kind: &str, shape: Shape, logits: bool, extras: &[(&str, Value)], naive: &Naive<'_>, labels: &[i32]) {
    let mut pairs = extras.to_vec();
    if kind != "mse" {
        pairs.push(("from_logits", Value::Bool(logits)));
    }
    let loss = Loss::new(kind, options(&pairs)).unwrap();
    let mut y = random(5, shape.len());
    if !logits {
        y.iter_mut().for_each(|y| *y = 0.05 + 0.9 / (1.0 + (-*y).exp()));
    }
    let dense: Vec<f32> = naive.t.iter().map(|&t| t as f32).collect();
    let (all, points) = ([shape.n, shape.d, shape.h, shape.w, shape.c], [shape.n, shape.d, shape.h, shape.w]);
    let target = || match kind.starts_with("sparse") {
        true => (&points[..], Target::Labels(labels)),
        false => (&all[..], Target::Dense(&dense)),
    };
    let exact: Vec<f64> = y.iter().map(|&y| f64::from(y)).collect();
    let want = naive.loss(&exact);
    // Some elements, spread over all channels.
    let picked: Vec<usize> = (0..y.len()).step_by((y.len() / 40).max(1) | 1).collect();
    let slope = |&i: &usize| {
        let at = |step: f64| {
            let mut moved = exact.clone();
            moved[i] += step;
            naive.loss(&moved)
        };
        (at(1e-5) - at(-1e-5)) / 2e-5
    };
    let slopes: Vec<f64> = picked.iter().map(slope).collect();
    for_each_isa(|isa: Isa| {
        let mut first = None;
        for threads in [1, 2, 3] {
            let got = run_with(threads, |pool| {
                loss.evaluate((shape, &y), target(), None, Place { isa, pool })
                    .unwrap_or_else(|e| panic!("{kind}: {e}"))
            });
            assert!((got.loss - want).abs() < 1e-5 * want.abs().max(0.1), "{kind}: {} for {want}", got.loss);
            let picked: Vec<f32> = picked.iter().map(|&i| got.d_y[i]).collect();
            assert_close(&picked, &slopes, 1e-3);
            let bits = (got.loss, got.values, got.d_y);
            assert!(*first.get_or_insert(bits.clone()) == bits, "{kind}: {threads} threads");
        }
    });
}

#[test]
fn every_loss_and_its_gradient() {
    let names =
        ["crossentropy", "focal_crossentropy", "dice", "iou", "tversky", "generalized_dice", "dice_ce", "cldice"];
    let shapes = [Shape::new(2, [1, 9, 11], 3), Shape::new(1, [5, 6, 7], 2), Shape::new(3, [1, 1, 1], 17)];
    for shape in shapes {
        let points = shape.n * shape.spatial();
        let draws = random(11, points * shape.c);
        for (form, name) in ["sparse", "categorical", "binary"].into_iter().flat_map(|f| names.map(|name| (f, name))) {
            // Sums over one point are no region.
            if shape.spatial() == 1 && !name.contains("entropy") {
                continue;
            }
            let kind = match name {
                "crossentropy" | "focal_crossentropy" if form == "sparse" => format!("sparse_categorical_{name}"),
                _ => format!("{form}_{name}"),
            };
            let regional = !name.contains("entropy");
            let binary = form == "binary";
            let sparse = form == "sparse";
            // What does not count has a label beyond the classes, a number beyond 0 and 1, or is of a class.
            let void = if sparse || binary || shape.c == 3 { 255 } else { 1 };
            let labels: Vec<i32> = (0..points)
                .map(|i| if i % 7 == 3 { void } else { (draws[i].abs() * 9.0) as i32 % shape.c as i32 })
                .collect();
            let mut t = vec![0.0; shape.len()];
            for (i, t) in t.iter_mut().enumerate() {
                let label = labels[i / shape.c];
                *t = match (sparse, label == 255) {
                    (false, true) => f64::from(void),
                    (false, false) if binary => f64::from(u8::from(draws[i] > 0.0)),
                    _ => f64::from(u8::from(label as usize == i % shape.c)),
                };
            }
            let weights: Vec<f64> = (0..shape.c).map(|k| 0.5 + k as f64 / shape.c as f64).collect();
            let weights = if binary && !regional { vec![0.5, 2.0] } else { weights };
            for (logits, extra) in [(true, false), (true, true), (false, false), (false, true)] {
                let mut extras = vec![("ignore_class_ids", Value::Int(void.into()))];
                if regional {
                    extras.push(("smooth", Value::Float(SMOOTH)));
                }
                match name {
                    "tversky" => extras.extend([("alpha", Value::Float(0.3)), ("beta", Value::Float(0.7))]),
                    "dice_ce" => extras.extend([("dice_weight", Value::Float(0.5)), ("ce_weight", Value::Int(2))]),
                    "cldice" => {
                        extras.extend([("iters", Value::Int(3)), ("memory_efficient_skeleton", Value::Bool(extra))])
                    }
                    _ => {}
                }
                let smoothed = extra && (!regional || name == "dice_ce");
                if smoothed {
                    extras.push(("label_smoothing", Value::Float(0.1)));
                }
                // Cross-entropy takes all classes, or none that Dice leaves out: one at a time is enough to check.
                let chosen = extra && regional && name != "dice_ce";
                if chosen {
                    extras.push(("target_class_ids", Value::Int(1)));
                }
                let weighted = extra && name != "generalized_dice" && name != "cldice";
                if weighted {
                    extras.push(("class_weights", numbers(&weights)));
                }
                let naive = Naive {
                    kind: &kind,
                    logits,
                    smoothing: if smoothed { 0.1 } else { 0.0 },
                    class_weights: weighted.then_some(&weights),
                    classes: if chosen { vec![1] } else { (0..shape.c).collect() },
                    shape,
                    t: t.clone(),
                    m: labels.iter().map(|&label| label != void).collect(),
                };
                check(&kind, shape, logits, &extras, &naive, &labels);
            }
        }
        let t = draws.iter().map(|&t| f64::from(t)).collect();
        let m = vec![true; points];
        let naive =
            Naive { kind: "mse", logits: false, smoothing: 0.0, class_weights: None, classes: vec![], shape, t, m };
        check("mse", shape, false, &[], &naive, &[]);
    }
}

#[test]
fn reductions_and_weights() {
    let shape = Shape::new(3, [1, 2, 2], 2);
    let y = random(1, shape.len());
    let labels = [0, 1, 1, 0, 9, 0, 1, 1, 0, 0, 1, 9];
    let weights = [0.5, 1.0, 2.0];
    let run = |reduction: &str| {
        let pairs = [("reduction", Value::Text(reduction.into())), ("ignore_index", Value::Int(9))];
        let loss = Loss::new("sparse_categorical_crossentropy", options(&pairs)).unwrap();
        let target = (&[3, 1, 2, 2][..], Target::Labels(&labels));
        run_with(1, |pool| {
            let place = Place { isa: Isa::best(), pool };
            loss.evaluate((shape, &y), target, Some((&[3], &weights)), place).unwrap()
        })
    };
    let none = run("none");
    assert_eq!(none.shape, [3, 1, 2, 2]);
    assert!(none.values[4] == 0.0 && none.values[11] == 0.0);
    let weight = |i: usize| f64::from(weights[i / 4]);
    let sum: f64 = (0..12).map(|i| weight(i) * f64::from(none.values[i])).sum();
    let total: f64 = (0..12).filter(|&i| labels[i] != 9).map(weight).sum();
    let divisors = [("none", 1.0), ("sum", 1.0), ("mean", 10.0), ("sum_over_batch_size", 10.0)];
    for (reduction, divisor) in divisors.into_iter().chain([("mean_with_sample_weight", total)]) {
        let got = run(reduction);
        assert!((got.loss - sum / divisor).abs() < 1e-6, "{reduction}");
        let want: Vec<f64> = none.d_y.iter().map(|&d| f64::from(d) / divisor).collect();
        assert_close(&got.d_y, &want, 1e-6);
    }
}

#[test]
fn excluded_classes_and_nan() {
    let shape = Shape::vector(2, 3);
    let loss = Loss::new("sparse_categorical_crossentropy", options(&[("from_logits", Value::Bool(true))])).unwrap();
    let run = |y: &[f32]| {
        let target = (&[2, 1, 1, 1][..], Target::Labels(&[1, 0]));
        run_with(1, |pool| loss.evaluate((shape, y), target, None, Place { isa: Isa::best(), pool }).unwrap())
    };
    let excluded = run(&[f32::NEG_INFINITY, 1.0, 2.0, 900.0, -900.0, 0.0]);
    assert!(excluded.loss.is_finite() && excluded.d_y.iter().all(|d| d.is_finite()), "{:?}", excluded.d_y);
    assert!(run(&[f32::NAN, 1.0, 2.0, 0.0, 0.0, 0.0]).loss.is_nan());
}

#[test]
fn what_does_not_fit_is_refused() {
    let bad = |kind: &str, pairs: &[(&str, Value)]| Loss::new(kind, options(pairs)).unwrap_err().to_string();
    assert!(bad("dice", &[]).contains("none named"));
    assert!(bad("sparse_lovasz", &[]).contains("none named"));
    assert!(bad("mse", &[("from_logits", Value::Bool(true))]).contains("from_logits"));
    assert!(bad("sparse_dice", &[("smooth", Value::Float(1.0))]).contains("smooth"));
    assert!(bad("sparse_dice", &[("reduction", Value::Text("median".into()))]).contains("median"));
    assert!(bad("mse", &[("ignore_class_ids", Value::Int(1))]).contains("ignore_class_ids"));
    assert!(bad("sparse_dice", &[("target_class_ids", Value::List(vec![Value::Int(-1)]))]).contains("-1"));
    let shape = Shape::new(1, [1, 2, 2], 2);
    let refused =
        |pairs: &[(&str, Value)], target_shape: &[usize], labels: &[i32], weights: Option<(&[usize], &[f32])>| {
            let loss = Loss::new("sparse_dice", options(pairs)).unwrap();
            let target = (target_shape, Target::Labels(labels));
            let got = run_with(1, |pool| {
                loss.evaluate((shape, &[0.5; 8]), target, weights, Place { isa: Isa::best(), pool }).err()
            });
            got.map(|error| error.to_string()).unwrap_or_default()
        };
    let points = [1, 1, 2, 2];
    assert_eq!(refused(&[], &points, &[0, 1, 1, 0], None), "");
    assert!(refused(&[], &[4], &[0, 1, 1, 0], None).contains("shape"));
    assert!(refused(&[], &points, &[0, 1, 2, 0], None).contains("got 2"));
    assert!(refused(&[], &points, &[0, 1, -1, 0], None).contains("got -1"));
    assert!(refused(&[("num_classes", Value::Int(3))], &points, &[0; 4], None).contains("num_classes"));
    assert!(refused(&[("class_weights", numbers(&[1.0]))], &points, &[0; 4], None).contains("class_weights"));
    assert!(refused(&[("target_class_ids", Value::Int(2))], &points, &[0; 4], None).contains("target_class_ids"));
    assert!(refused(&[], &points, &[0; 4], Some((&[2], &[1.0, 2.0]))).contains("weights"));
}
