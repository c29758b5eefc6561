//! Stages against what numpy-like indexing says, and samples against their seeds.

use std::collections::BTreeMap;

use super::*;
use crate::ops::Value;
use crate::parallel::run_with;
use crate::testing::{assert_close, random};

fn options(kind: &str, pairs: &[(&str, Value)]) -> Attributes {
    let mut values: BTreeMap<String, Value> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    values.insert("kind".into(), Value::Text(kind.into()));
    Attributes::new(values)
}

fn ints(values: &[i64]) -> Value {
    Value::List(values.iter().map(|&value| Value::Int(value)).collect())
}

fn floats(values: &[f64]) -> Value {
    Value::List(values.iter().map(|&value| Value::Float(value)).collect())
}

const SAMPLES: Samples = Samples { dims: [1, 6, 6], channels: 2 };

/// Images whose values say where they come from, and masks of the same values.
fn run(stages: Vec<Attributes>, seed: u64, indices: &[u64], threads: usize) -> (Dims3, Vec<f32>, Vec<i32>) {
    let points: usize = SAMPLES.dims.iter().product();
    let masks: Vec<i32> = (0..indices.len() * points).map(|i| (i % points) as i32).collect();
    let images: Vec<f32> = masks.iter().flat_map(|&i| [i as f32, i as f32 + 100.0]).collect();
    let augmentation = Augmentation::new(2, stages).unwrap();
    run_with(threads, |pool| {
        let drawn = augmentation.draw(SAMPLES, seed, indices, pool).unwrap();
        (drawn.dims(), drawn.images(&images, pool).unwrap(), drawn.masks(&masks, 1, pool).unwrap())
    })
}

fn everything() -> Vec<Attributes> {
    vec![
        options("flip", &[]),
        options("rotate90", &[]),
        options("elastic", &[("spacing", Value::Int(3)), ("magnitude", Value::Float(1.0))]),
        options("crop", &[("size", Value::Int(5)), ("padding", Value::Int(2)), ("value", Value::Float(7.0))]),
        options("cutout", &[("size", Value::Int(2)), ("mask_value", Value::Int(-5))]),
        options("shift_intensity", &[("range", floats(&[-1.0, 1.0])), ("per_channel", Value::Bool(true))]),
        options("scale_intensity", &[("range", floats(&[0.5, 2.0]))]),
        options("normalize", &[("mean", Value::Float(3.0)), ("std", floats(&[2.0, 4.0]))]),
    ]
}

#[test]
fn the_same_bits_for_any_threads_and_any_batches() {
    let whole = run(everything(), 9, &[3, 1, 4, 1 << 40, 5], 1);
    for threads in [2, 3] {
        assert_eq!(run(everything(), 9, &[3, 1, 4, 1 << 40, 5], threads), whole);
    }
    let mut pieces = (whole.0, Vec::new(), Vec::new());
    for indices in [&[3, 1][..], &[4, 1 << 40, 5]] {
        let (_, images, masks) = run(everything(), 9, indices, 2);
        pieces.1.extend(images);
        pieces.2.extend(masks);
    }
    assert_eq!(pieces, whole);
    assert_ne!(run(everything(), 10, &[3, 1, 4, 1 << 40, 5], 1), whole);
}

#[test]
fn flips_and_turns() {
    let flipped =
        |axis: i64| run(vec![options("flip", &[("axes", ints(&[axis])), ("probability", Value::Int(1))])], 0, &[0], 1);
    assert!(flipped(1).2.iter().enumerate().all(|(i, &from)| from as usize == i / 6 * 6 + 5 - i % 6));
    assert!(flipped(0).2.iter().enumerate().all(|(i, &from)| from as usize == (5 - i / 6) * 6 + i % 6));
    let mut seen = [0; 3];
    for index in 0..30 {
        let (_, images, turned) = run(vec![options("rotate90", &[("probability", Value::Int(1))])], 0, &[index], 1);
        // As numpy.rot90: the last column becomes the first row.
        let turns: [fn(usize, usize) -> usize; 3] =
            [|y, x| x * 6 + 5 - y, |y, x| (5 - y) * 6 + 5 - x, |y, x| (5 - x) * 6 + y];
        let found = turns.iter().position(|turn| (0..36).all(|i| turned[i] as usize == turn(i / 6, i % 6)));
        seen[found.expect("a quarter turn")] += 1;
        assert!(images.chunks(2).zip(&turned).all(|(image, &mask)| image == [mask as f32, mask as f32 + 100.0]));
    }
    assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
}

#[test]
fn crops_pad_and_cutouts_cut() {
    let crop = |random| {
        options(
            "crop",
            &[
                ("size", ints(&[4, 8])),
                ("padding", ints(&[0, 1])),
                ("random", Value::Bool(random)),
                ("value", Value::Int(3)),
                ("mask_value", Value::Int(-1)),
            ],
        )
    };
    let (dims, images, masks) = run(vec![crop(false)], 0, &[0], 1);
    assert_eq!(dims, [1, 4, 8]);
    for (i, (&mask, image)) in masks.iter().zip(images.chunks(2)).enumerate() {
        let (y, x) = (i / 8, i % 8);
        let inside = (1..7).contains(&x);
        assert_eq!(mask, if inside { ((y + 1) * 6 + x - 1) as i32 } else { -1 });
        assert_eq!(image[0], if inside { mask as f32 } else { 3.0 });
    }
    let offsets: std::collections::BTreeSet<i32> =
        (0..40).map(|index| run(vec![crop(true)], 1, &[index], 1).2[1] / 6).collect();
    assert_eq!(offsets.into_iter().collect::<Vec<_>>(), [0, 1, 2]);

    let cutout = |extra: &[(&str, Value)]| {
        let pairs = [&[("size", Value::Int(2)), ("count", Value::Int(3)), ("value", Value::Int(-9))], extra].concat();
        run(vec![options("cutout", &pairs)], 4, &[2], 1)
    };
    let (_, images, masks) = cutout(&[]);
    let cut = images.chunks(2).filter(|image| **image == [-9.0, -9.0]).count();
    assert!((1..=12).contains(&cut), "{cut}");
    assert!(masks.iter().enumerate().all(|(i, &mask)| mask == i as i32));
    let (_, again, masks) = cutout(&[("mask_value", Value::Int(-2))]);
    assert_eq!(again, images);
    assert!(images.chunks(2).zip(&masks).all(|(image, &mask)| (image[0] == -9.0) == (mask == -2)));
}

#[test]
fn intensities_change_in_order_in_holes_too() {
    let fixed = |value: f64| floats(&[value, value]);
    let stages = vec![
        options("scale_intensity", &[("range", fixed(2.0))]),
        options("crop", &[("size", Value::Int(8)), ("padding", Value::Int(1)), ("value", Value::Int(5))]),
        options("shift_intensity", &[("range", fixed(1.0))]),
        options("normalize", &[("mean", floats(&[1.0, 2.0])), ("std", floats(&[2.0, 4.0]))]),
    ];
    let (_, images, masks) = run(stages, 0, &[0], 1);
    for (i, (image, &mask)) in images.chunks(2).zip(&masks).enumerate() {
        let hole = [i / 8, i % 8].iter().any(|&x| x == 0 || x == 7);
        let source = if hole { [5.0, 5.0] } else { [2.0 * mask as f32, 2.0 * (mask as f32 + 100.0)] };
        let want = [(source[0] + 1.0 - 1.0) / 2.0, (source[1] + 1.0 - 2.0) / 4.0];
        assert_close(image, &want.map(f64::from), 1e-6);
    }
}

#[test]
fn displacements_interpolate_linearly() {
    // A linear image stays linear under interpolation: its value says where the point came from.
    let samples = Samples { dims: [9, 10, 11], channels: 1 };
    let value = |z: f32, y: f32, x: f32| 100.0 * z + 10.0 * y + x;
    let image: Vec<f32> =
        (0..9 * 10 * 11).map(|i| value((i / 110) as f32, (i / 11 % 10) as f32, (i % 11) as f32)).collect();
    let labels: Vec<u8> = (0..9 * 10 * 11).map(|i| (i / 110) as u8).collect();
    let stage = options("elastic", &[("spacing", Value::Int(4)), ("magnitude", Value::Float(1.5))]);
    let augmentation = Augmentation::new(3, vec![stage]).unwrap();
    run_with(2, |pool| {
        let drawn = augmentation.draw(samples, 3, &[8], pool).unwrap();
        let (moved, moved_labels) = (drawn.images(&image, pool).unwrap(), drawn.masks(&labels, 1, pool).unwrap());
        assert_ne!(moved, image);
        let recipe = &drawn.recipes[0];
        for (i, (&got, &label)) in moved.iter().zip(&moved_labels).enumerate() {
            let point = [i / 110, i / 11 % 10, i % 11].map(|x| x as f32);
            let Origin::Point([z, y, x]) = recipe.origin(point, true) else { panic!("no holes here") };
            let want = value(z.clamp(0.0, 8.0), y.clamp(0.0, 9.0), x.clamp(0.0, 10.0));
            assert!((got - want).abs() < 1e-3, "{got} for {want}");
            assert_eq!(label, z.round().clamp(0.0, 8.0) as u8);
        }
        let bytes: Vec<u8> = random(1, 990).iter().map(|v| (v.abs() * 50.0) as u8).collect();
        let same: Vec<f32> = bytes.iter().map(|&b| f32::from(b)).collect();
        assert_eq!(drawn.images(&bytes, pool).unwrap(), drawn.images(&same, pool).unwrap());
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    let bad = |kind: &str, pairs: &[(&str, Value)]| {
        Augmentation::new(2, vec![options(kind, pairs)]).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(bad("zoom", &[]).contains("zoom"));
    assert!(bad("flip", &[("axes", ints(&[2]))]).contains("0 to 1"));
    assert!(bad("flip", &[("probability", Value::Float(1.5))]).contains("probability"));
    assert!(bad("flip", &[("angle", Value::Int(3))]).contains("angle"));
    assert!(bad("rotate90", &[("plane", ints(&[1, 1]))]).contains("plane"));
    assert!(bad("crop", &[]).contains("size"));
    assert!(bad("crop", &[("size", ints(&[1, 2, 3]))]).contains("size"));
    assert!(bad("shift_intensity", &[("range", floats(&[1.0, -1.0]))]).contains("range"));
    assert!(bad("normalize", &[("mean", Value::Int(0))]).contains("std"));
    assert!(bad("normalize", &[("mean", Value::Int(0)), ("std", Value::Int(0))]).contains("std"));
    assert!(bad("elastic", &[("spacing", Value::Int(0)), ("magnitude", Value::Int(1))]).contains("spacing"));
    let refused = |kind: &str, pairs: &[(&str, Value)], samples: Samples| {
        let augmentation = Augmentation::new(2, vec![options(kind, pairs)]).unwrap();
        run_with(1, |pool| augmentation.draw(samples, 0, &[0], pool).err()).map(|e| e.to_string()).unwrap_or_default()
    };
    let oblong = Samples { dims: [1, 6, 5], channels: 2 };
    assert!(refused("rotate90", &[], oblong).contains("square"));
    assert!(refused("crop", &[("size", Value::Int(6))], oblong).contains("crop"));
    let three = [("mean", floats(&[0.0; 3])), ("std", Value::Int(1))];
    assert!(refused("normalize", &three, oblong).contains("2 channels"));
    run_with(1, |pool| {
        let drawn = Augmentation::new(2, vec![]).unwrap().draw(SAMPLES, 0, &[0], pool).unwrap();
        assert!(drawn.images(&[0.0f32; 71], pool).is_err());
    });
}
