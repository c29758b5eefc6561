//! Packs the weights of a convolution, scaled by the norm that follows it.

use crate::buffer::Buffer;
use crate::gemm::Panels;

/// Weights in PyTorch's layout `(k, c / groups, kd, kh, kw)`.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) values: &'a [f32],
    /// Of each output channel.
    pub(super) scale: &'a [f32],
    pub(super) groups: usize,
    /// Input channels of a group.
    pub(super) channels: usize,
    pub(super) taps: usize,
}

impl Weights<'_> {
    /// Panels of output channels for each group; rows are `(tap, c)`.
    pub(super) fn pack(&self, panels: Panels) -> Buffer {
        let (taps, channels) = (self.taps, self.channels);
        let mut packed = Buffer::zeroed(self.groups * panels.len());
        for group in 0..self.groups {
            let out = &mut packed[group * panels.len()..(group + 1) * panels.len()];
            for index in 0..panels.count() {
                let panel = panels.panel(index);
                let stride = panel.columns.next_multiple_of(panels.lanes());
                let k = group * panels.columns + panel.column;
                for c in 0..channels {
                    for tap in 0..taps {
                        let row = &mut out[panel.start + (tap * channels + c) * stride..][..panel.columns];
                        for (column, to) in row.iter_mut().enumerate() {
                            let k = k + column;
                            *to = self.values[(k * channels + c) * taps + tap] * self.scale[k];
                        }
                    }
                }
            }
        }
        packed
    }
}

/// `values` of each output channel, padded group by group as the columns of `panels` are.
pub(super) fn pad(values: &[f32], groups: usize, panels: Panels) -> Buffer {
    let mut padded = Buffer::zeroed(groups * panels.padded_columns());
    for (to, from) in padded.chunks_exact_mut(panels.padded_columns()).zip(values.chunks_exact(panels.columns)) {
        to[..from.len()].copy_from_slice(from);
    }
    padded
}
