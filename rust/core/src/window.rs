//! The geometry of a sliding window: kernel, stride, dilation and padding of three spatial axes (depth, height, width).
//!
//! Convolutions and pools share it. Output `o` of an axis sees, through tap `t`, the input position
//! `o * stride - padding_before + t * dilation`; positions outside the input are padding.

use std::ops::Range;

/// The names of the axes, in their order in every triple.
pub const AXES: [&str; 3] = ["depth", "height", "width"];

/// No single number of a window may exceed this; it keeps positions along one axis inside `isize`. Products over several
/// axes, such as the size of a padded copy, are not bounded by it: see `ops::conv::sparse::pays`.
const LIMIT: usize = 1 << 24;

/// A valid window: kernel, stride and dilation are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Taps per axis.
    pub kernel: [usize; 3],
    /// Input positions between neighbouring outputs.
    pub stride: [usize; 3],
    /// Input positions between neighbouring taps.
    pub dilation: [usize; 3],
    /// Padding before and after the input.
    pub padding: [[usize; 2]; 3],
}

impl Window {
    /// Checks the numbers; the error names the argument and the axis.
    pub fn new(
        kernel: [usize; 3],
        stride: [usize; 3],
        dilation: [usize; 3],
        padding: [[usize; 2]; 3],
    ) -> Result<Window, String> {
        for axis in 0..3 {
            for (argument, value) in [("kernel", kernel), ("stride", stride), ("dilation", dilation)] {
                if value[axis] == 0 || value[axis] > LIMIT {
                    let (name, got) = (AXES[axis], value[axis]);
                    return Err(format!("{argument} of the {name} axis must be 1 to {LIMIT}, got {got}"));
                }
            }
            if let Some(got) = padding[axis].iter().find(|&&p| p > LIMIT) {
                return Err(format!("padding of the {} axis must be at most {LIMIT}, got {got}", AXES[axis]));
            }
        }
        // Each is at most 2^24, so that two of them cannot overflow.
        if (kernel[0] * kernel[1]).checked_mul(kernel[2]).is_none_or(|taps| taps > LIMIT) {
            return Err(format!("kernel {kernel:?} has more than {LIMIT} taps"));
        }
        Ok(Window { kernel, stride, dilation, padding })
    }

    /// A window with stride and dilation 1 and no padding.
    pub fn unit(kernel: [usize; 3]) -> Result<Window, String> {
        Window::new(kernel, [1; 3], [1; 3], [[0; 2]; 3])
    }

    /// Input positions that the kernel spans along `axis`, dilation included.
    pub fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// The number of taps.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// The output size; the error names the axis on which the window does not fit.
    pub fn output(&self, input: [usize; 3]) -> Result<[usize; 3], String> {
        let mut output = [0; 3];
        for axis in 0..3 {
            let [before, after] = self.padding[axis];
            let (name, size, extent) = (AXES[axis], input[axis], self.extent(axis));
            let padded = size.checked_add(before + after).filter(|&p| p <= isize::MAX as usize);
            let padded = padded.ok_or_else(|| format!("the {name} axis is too large: {size}"))?;
            if size == 0 {
                return Err(format!("the {name} axis of the input is empty"));
            }
            if padded < extent {
                return Err(format!(
                    "the window spans {extent} positions of the {name} axis, the input has {padded} ({size} + padding {before} + {after})"
                ));
            }
            output[axis] = (padded - extent) / self.stride[axis] + 1;
        }
        Ok(output)
    }

    /// One tap that neither pads nor dilates: every output sees one input position.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1; 3] && !self.has_padding()
    }

    /// Any padding at all.
    pub fn has_padding(&self) -> bool {
        self.padding != [[0; 2]; 3]
    }

    /// The input position that the first tap of output `out` sees; negative inside the padding before.
    pub fn origin(&self, axis: usize, out: usize) -> isize {
        (out * self.stride[axis]) as isize - self.padding[axis][0] as isize
    }

    /// The input position of `tap` of output `out`, or `None` in the padding.
    pub fn position(&self, axis: usize, out: usize, tap: usize, input: usize) -> Option<usize> {
        let position = self.origin(axis, out) + (tap * self.dilation[axis]) as isize;
        (0..input as isize).contains(&position).then_some(position as usize)
    }

    /// The taps of output `out` that see the input (of size `input`), not the padding; may be empty.
    pub fn valid_taps(&self, axis: usize, out: usize, input: usize) -> Range<usize> {
        let (origin, dilation) = (self.origin(axis, out), self.dilation[axis]);
        let kernel = self.kernel[axis];
        let first = if origin >= 0 { 0 } else { origin.unsigned_abs().div_ceil(dilation) };
        let room = input as isize - origin;
        let end = if room <= 0 { 0 } else { (room as usize).div_ceil(dilation) };
        let end = end.min(kernel);
        first.min(end)..end
    }

    /// The outputs (of `output`) for which `tap` sees the input, not the padding; may be empty.
    pub fn valid_outputs(&self, axis: usize, tap: usize, input: usize, output: usize) -> Range<usize> {
        let (before, stride) = (self.padding[axis][0], self.stride[axis]);
        let offset = tap * self.dilation[axis];
        let first = before.saturating_sub(offset).div_ceil(stride);
        let end = (input + before).saturating_sub(offset).div_ceil(stride).min(output);
        first.min(end)..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn along_width(kernel: usize, stride: usize, dilation: usize, padding: [usize; 2]) -> Window {
        Window::new([1, 1, kernel], [1, 1, stride], [1, 1, dilation], [[0; 2], [0; 2], padding]).unwrap()
    }

    #[test]
    fn output_sizes_of_known_layers() {
        let stem = Window::new([1, 7, 7], [1, 2, 2], [1; 3], [[0; 2], [3; 2], [3; 2]]).unwrap();
        assert_eq!(stem.output([1, 224, 224]), Ok([1, 112, 112]));
        let pool = Window::new([3; 3], [2; 3], [1; 3], [[1; 2]; 3]).unwrap();
        assert_eq!(pool.output([96, 48, 7]), Ok([48, 24, 4]));
        assert_eq!(along_width(3, 1, 4, [4, 4]).output([1, 1, 9]), Ok([1, 1, 9]));
    }

    #[test]
    fn errors_name_the_axis() {
        let error = Window::new([1, 0, 1], [1; 3], [1; 3], [[0; 2]; 3]).unwrap_err();
        assert!(error.contains("kernel") && error.contains("height"), "{error}");
        let error = Window::new([1; 3], [1; 3], [1; 3], [[usize::MAX, 0], [0; 2], [0; 2]]).unwrap_err();
        assert!(error.contains("padding") && error.contains("depth"), "{error}");
        let error = along_width(5, 1, 1, [0, 1]).output([1, 1, 3]).unwrap_err();
        assert!(error.contains("width") && error.contains("5 positions"), "{error}");
        assert!(Window::new([LIMIT; 3], [1; 3], [1; 3], [[0; 2]; 3]).unwrap_err().contains("taps"));
        assert!(along_width(1, 1, 1, [0, 0]).output([1, 1, 0]).is_err());
        assert!(along_width(1, 1, 1, [1, 1]).output([1, 1, usize::MAX]).is_err());
    }

    #[test]
    fn ranges_agree_with_positions() {
        for kernel in 1..6 {
            for stride in 1..4 {
                for dilation in 1..4 {
                    for padding in [[0, 0], [1, 0], [0, 2], [3, 3], [7, 9]] {
                        let window = along_width(kernel, stride, dilation, padding);
                        for input in 1..9 {
                            let Ok([_, _, output]) = window.output([1, 1, input]) else { continue };
                            for out in 0..output {
                                let taps = window.valid_taps(2, out, input);
                                for tap in 0..kernel {
                                    let inside = window.position(2, out, tap, input).is_some();
                                    assert_eq!(taps.contains(&tap), inside);
                                    let outputs = window.valid_outputs(2, tap, input, output);
                                    assert_eq!(outputs.contains(&out), inside);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
