//! The losses by name, and their options.
//!
//! | name | options besides the common ones |
//! |---|---|
//! | `categorical_crossentropy`, `sparse_...`, `binary_...` | `label_smoothing` 0 |
//! | `categorical_focal_crossentropy`, `sparse_...`, `binary_...` | `gamma` 2, `alpha` 0.25, `label_smoothing` 0; binary: `apply_class_balancing` false |
//! | `mse` | no `from_logits` |
//! | `sparse_dice`, `categorical_dice`, `binary_dice` | those of regions |
//! | `..._iou` | those of regions |
//! | `..._tversky` | those of regions, `alpha` 0.5, `beta` 0.5 |
//! | `..._generalized_dice` | those of regions, `weight_type` square, simple or uniform |
//! | `..._dice_ce` | those of regions, `dice_weight` 1, `ce_weight` 1, `label_smoothing` 0 |
//! | `..._cldice` | those of regions, `iters` 50, `memory_efficient_skeleton` true |
//!
//! Common: `from_logits` false, `reduction` mean, `num_classes`, `class_weights`, `ignore_class_ids` or `ignore_index`
//! (points that do not count: those with such a label, with such a number in a channel, or, for categorical forms, with a 1
//! for such a class). Regions: `target_class_ids`, `smooth` 1e-7.

use super::centerline::Centerline;
use super::points::{Measure, Term};
use super::region::{ClassWeight, Overlap, Probabilities, Region};
use super::{Family, Form, Loss, Reduction};
use crate::ops::Attributes;

type Parsed<T> = Result<T, String>;

/// The largest `smooth`: it bounds probabilities too, and must leave room between the bounds.
const LARGEST_SMOOTH: f32 = 0.25;

pub(super) fn loss(kind: &str, options: &mut Attributes) -> Parsed<Loss> {
    let forms = [("sparse_", Form::Sparse), ("categorical_", Form::Categorical), ("binary_", Form::Binary)];
    let split = forms.into_iter().find_map(|(prefix, form)| kind.strip_prefix(prefix).map(|name| (form, name)));
    let (mut form, name) = split.unwrap_or((Form::Binary, kind));
    let mut name = name;
    // Keras says sparse_categorical_crossentropy.
    if form == Form::Sparse {
        name = name.strip_prefix("categorical_").unwrap_or(name);
    }
    let unknown = || format!("loss: there is none named {kind:?}");
    if split.is_none() && name != "mse" {
        return Err(unknown());
    }
    let family = match name {
        "mse" if split.is_none() => {
            form = Form::Binary;
            let (from_logits, smoothing, channels) = (false, 0.0, None);
            let measure = Measure::SquaredError;
            Family::Points(Term { measure, form, from_logits, smoothing, channels, by_channel: true })
        }
        "crossentropy" => Family::Points(term(form, Measure::CrossEntropy, options)?),
        "focal_crossentropy" => Family::Points(focal(form, options)?),
        "dice" => Family::Region(region(form, Overlap::Dice, options)?),
        "iou" => Family::Region(region(form, Overlap::IoU, options)?),
        "tversky" => {
            let mut weight = |name| options.number_within(name, 0.5, 0.0..=f32::MAX).map(f64::from);
            let overlap = Overlap::Tversky { alpha: weight("alpha")?, beta: weight("beta")? };
            Family::Region(region(form, overlap, options)?)
        }
        "generalized_dice" => {
            let types =
                [("square", ClassWeight::Square), ("simple", ClassWeight::Simple), ("uniform", ClassWeight::Uniform)];
            let overlap = Overlap::Generalized(options.choice("weight_type", &types)?);
            Family::Region(region(form, overlap, options)?)
        }
        "dice_ce" => {
            let mut weight = |name| options.number_within(name, 1.0, 0.0..=f32::MAX);
            let (weight, term_weight) = (weight("dice_weight")?, weight("ce_weight")?);
            let region = region(form, Overlap::Dice, options)?;
            let Probabilities { from_logits, classes, .. } = region.probabilities.clone();
            // Channels of a binary loss are apart; a softmax needs all of them.
            let channels = classes.filter(|_| form == Form::Binary);
            let (smoothing, by_channel) = (smoothing(options)?, true);
            let measure = Measure::CrossEntropy;
            let term = Term { measure, form, from_logits, smoothing, channels, by_channel };
            Family::Both { region, weight, term, term_weight }
        }
        "cldice" => Family::Centerline(Centerline {
            probabilities: probabilities(form, options)?,
            iterations: options.count_or("iters", 50)?,
            keep_all: !options.flag_or("memory_efficient_skeleton", true)?,
        }),
        _ => return Err(unknown()),
    };
    let reductions = [
        ("mean", Reduction::Mean),
        ("sum_over_batch_size", Reduction::Mean),
        ("mean_with_sample_weight", Reduction::WeightedMean),
        ("sum", Reduction::Sum),
        ("none", Reduction::Sum),
    ];
    let reduction = options.choice("reduction", &reductions)?;
    let num_classes = options.has("num_classes").then(|| options.size("num_classes")).transpose()?;
    let class_weights = options.numbers("class_weights")?;
    if let Some(weight) = class_weights.iter().flatten().find(|&&weight| weight < 0.0) {
        return Err(format!("class_weights: expected numbers >= 0, got {weight}"));
    }
    let mut ignored = options.whole_numbers("ignore_class_ids")?.unwrap_or_default();
    ignored.extend(options.whole_numbers("ignore_index")?.unwrap_or_default());
    if !ignored.is_empty() && name == "mse" {
        return Err(
            "ignore_class_ids: expected none, points are ignored by their class and this target has none".into()
        );
    }
    Ok(Loss { kind: kind.into(), form, family, reduction, ignored, class_weights, num_classes })
}

fn smoothing(options: &mut Attributes) -> Parsed<f32> {
    options.number_within("label_smoothing", 0.0, 0.0..=1.0)
}

fn term(form: Form, measure: Measure, options: &mut Attributes) -> Parsed<Term> {
    let (from_logits, smoothing) = (options.flag_or("from_logits", false)?, smoothing(options)?);
    Ok(Term { measure, form, from_logits, smoothing, channels: None, by_channel: false })
}

fn focal(form: Form, options: &mut Attributes) -> Parsed<Term> {
    let gamma = options.number_within("gamma", 2.0, 0.0..=f32::MAX)?;
    let alpha = options.number_within("alpha", 0.25, 0.0..=1.0)?;
    // The variants for classes have no other place for alpha than in front.
    let balanced = form != Form::Binary || options.flag_or("apply_class_balancing", false)?;
    term(form, Measure::Focal { gamma, alpha, balanced }, options)
}

fn region(form: Form, overlap: Overlap, options: &mut Attributes) -> Parsed<Region> {
    Ok(Region { overlap, probabilities: probabilities(form, options)? })
}

fn probabilities(form: Form, options: &mut Attributes) -> Parsed<Probabilities> {
    let from_logits = options.flag_or("from_logits", false)?;
    let smooth = options.number_within("smooth", 1e-7, 0.0..=LARGEST_SMOOTH)?;
    let class = |id: i64| usize::try_from(id).map_err(|_| format!("target_class_ids: expected classes >= 0, got {id}"));
    let classes = options.whole_numbers("target_class_ids")?;
    if classes.as_ref().is_some_and(Vec::is_empty) {
        return Err("target_class_ids: expected at least one class, got none".into());
    }
    let classes = classes.map(|ids| ids.into_iter().map(class).collect::<Parsed<Vec<_>>>()).transpose()?;
    if let Some(ids) = &classes
        && let Some(twice) = ids.iter().enumerate().find(|(i, id)| ids[..*i].contains(id))
    {
        return Err(format!("target_class_ids: expected each class once, got {} twice", twice.1));
    }
    Ok(Probabilities { form, from_logits, smooth: if smooth == 0.0 { 1e-7 } else { smooth }, classes })
}
