//! Whether Winograd's algorithm pays for a layer, and with which tiles.
//!
//! The model counts multiply-adds, and whatever else takes time as the multiply-adds that would take as long. Its constants
//! were measured with `benches/kernels.rs` on two cores with AVX-512, each layer with every kind of tile.

use super::super::blocking::Work;
use super::transform::Axis;
use super::{BLOCK, RESIDENT};

/// How far the results of convolutions may be from those of the direct sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Within twice to three times its error.
    Default,
    /// No further from the exact result than it is: F(2) only.
    Strict,
}

/// The tiles: outputs along depth, height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Variant([Axis; 3]);

impl Variant {
    pub(super) fn axes(self) -> [Axis; 3] {
        self.0
    }

    /// All that can compute `work`. In 3D the tiles are 2 deep: with 4 x 4 x 4, single elements would be off by more than
    /// 2e-5 of the scale.
    pub(in super::super) fn all(work: &Work) -> Vec<Variant> {
        let window = work.window;
        if work.groups > 1 || window.stride != [1; 3] || window.dilation != [1; 3] {
            return Vec::new();
        }
        let depth = match window.kernel {
            [1, 3, 3] => Axis::One,
            [3, 3, 3] => Axis::F2,
            _ => return Vec::new(),
        };
        [Axis::F2, Axis::F4].map(|axis| Variant([depth, axis, axis])).to_vec()
    }

    /// For the key of packed weights.
    pub(in super::super) fn name(self) -> String {
        let [d, h, w] = self.0.map(|axis| axis.outputs());
        format!("winograd {d}x{h}x{w}")
    }
}

/// Multiply-adds at full speed that take as long as the transforms of one element of V or M, in and out.
const TRANSFORM: [f64; 2] = [18.0, 24.0];
/// As long as reading one transformed weight for the first time in a run.
const STREAM: f64 = 20.0;
/// As long as reading it again, or moving an element of V or M from one core to another.
const MOVE: f64 = 8.0;
/// The same for the weights of the direct algorithm, which are fewer and prefetched.
const DIRECT_STREAM: f64 = 10.0;
/// Gains below this are not worth the error.
const WORTH: f64 = 0.85;

/// The fastest way, or `None` for the direct one.
///
/// Depends on nothing but the layer for one sample, not on threads or on the batch: so do the bits of the result.
pub(in super::super) fn choose(work: &Work, precision: Precision) -> Option<Variant> {
    let flops = work.flops() as f64 / work.output.n as f64;
    let direct = flops / 2.0 + DIRECT_STREAM * (work.window.taps() * work.input.c * work.output.c) as f64;
    Variant::all(work)
        .into_iter()
        .filter(|variant| precision == Precision::Default || !variant.0.contains(&Axis::F4))
        .map(|variant| (variant.cost(work), variant))
        .filter(|(cost, _)| *cost < WORTH * direct)
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, variant)| variant)
}

/// As [`choose`], where the weights are transformed for every run of the whole batch.
pub(in super::super) fn choose_for_training(work: &Work) -> Option<Variant> {
    /// As long as transforming the weights for one product.
    const TRANSFORM_WEIGHT: f64 = 300.0;
    let variant = choose(work, Precision::Default)?;
    let slots: usize = variant.0.iter().map(|axis| axis.points()).product();
    let transform = TRANSFORM_WEIGHT * (slots * work.input.c * work.output.c) as f64;
    let direct = work.flops() as f64 / 2.0;
    (variant.cost(work) * work.output.n as f64 + transform < WORTH * direct).then_some(variant)
}

impl Variant {
    /// Time of one sample in multiply-adds: the products, tiles that reach over the border included, the transforms, the
    /// weights.
    fn cost(self, work: &Work) -> f64 {
        let (c, k) = (work.input.c, work.output.c);
        let slots: usize = self.0.iter().map(|axis| axis.points()).product();
        let dims = work.output.dims();
        let tiles: usize = (0..3).map(|axis| dims[axis].div_ceil(self.0[axis].outputs())).product();
        let products = (tiles * slots) as f64;
        let weights = slots * c * k;
        let elements = products * (c + k) as f64;
        // As in the choice of blocks: either weights are read for every block, or threads share V and M.
        let blocks = if weights > RESIDENT { (elements / BLOCK as f64).ceil() } else { 1.0 };
        let moved = (weights as f64 * (blocks - 1.0)).clamp(0.0, 2.0 * elements);
        let transform = TRANSFORM[usize::from(self.0[0] != Axis::One)];
        products * (c * k) as f64 + transform * elements + STREAM * weights as f64 + MOVE * moved
    }
}
