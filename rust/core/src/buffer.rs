//! Aligned `f32` memory: the only allocation of activations, scratch and parameters.

use std::ops::{Deref, DerefMut};

/// Bytes: a cache line, and the widest vector.
pub const ALIGNMENT: usize = 64;

/// Elements of one aligned line.
pub const LINE: usize = ALIGNMENT / size_of::<f32>();

/// `length` rounded up to whole lines.
pub fn align_up(length: usize) -> usize {
    length.next_multiple_of(LINE)
}

/// Zeroed `f32` memory that starts on a line.
#[derive(Default)]
pub struct Buffer {
    memory: Vec<f32>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// `length` zeros. The pages are not touched before they are used.
    pub fn zeroed(length: usize) -> Self {
        let memory = vec![0.0; length + LINE];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, length }
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[f32]) -> Self {
        let mut buffer = Self::zeroed(data.len());
        buffer.copy_from_slice(data);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_line_and_are_zero() {
        for length in [0, 1, 15, 16, 17, 100_000] {
            let buffer = Buffer::zeroed(length);
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!(buffer.len(), length);
            assert!(buffer.iter().all(|&value| value == 0.0));
        }
    }
}
