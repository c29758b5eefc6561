//! What the tests of kernels share: naive float64 references, a tolerance, every instruction set.

use crate::shape::Shape;
use crate::simd::Isa;
use crate::window::Window;

/// Runs `test` for every instruction set of this processor.
pub(crate) fn for_each_isa(test: impl Fn(Isa)) {
    Isa::available().into_iter().for_each(test);
}

/// `count` numbers, roughly normal, the same for the same seed.
pub(crate) fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut uniform = || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..count).map(|_| 2.0 * (uniform() + uniform() + uniform())).collect()
}

/// Fails unless every element of `got` is within `tolerance` of `want`, relative to the scale of `want`: its root mean
/// square, or its largest element where that is smaller than one would expect of it.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let square = want.iter().map(|v| v * v).sum::<f64>() / want.len().max(1) as f64;
    let scale = square.sqrt().max(f64::MIN_POSITIVE);
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs() / scale;
        assert!(error <= tolerance, "element {i}: got {got}, want {want}, error {error:.1e} of the scale {scale:.3}");
    }
}

/// The plain convolution, without bias: weights `(k, c / groups, kd, kh, kw)`.
pub(crate) fn naive_conv(
    x: &[f32],
    input: Shape,
    weight: &[f32],
    k: usize,
    groups: usize,
    window: &Window,
) -> Vec<f64> {
    let dims = window.output(input.dims()).unwrap();
    let output = input.with_dims(dims).with_channels(k);
    let mut y = vec![0.0; output.len()];
    let c = input.c / groups;
    let [kd, kh, kw] = window.kernel;
    for (pixel, y) in y.chunks_exact_mut(k).enumerate() {
        let ow = pixel % output.w;
        let oh = pixel / output.w % output.h;
        let od = pixel / (output.w * output.h) % output.d;
        let n = pixel / output.spatial();
        for tap in 0..window.taps() {
            let (td, th, tw) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            debug_assert!(td < kd);
            let at = |axis, out, tap, size| window.position(axis, out, tap, size);
            let (Some(d), Some(h), Some(w)) = (at(0, od, td, input.d), at(1, oh, th, input.h), at(2, ow, tw, input.w))
            else {
                continue;
            };
            let x = &x[(((n * input.d + d) * input.h + h) * input.w + w) * input.c..][..input.c];
            for (filter, y) in y.iter_mut().enumerate() {
                let group = filter / (k / groups);
                for i in 0..c {
                    let weight = weight[(filter * c + i) * window.taps() + tap];
                    *y += f64::from(x[group * c + i]) * f64::from(weight);
                }
            }
        }
    }
    y
}
