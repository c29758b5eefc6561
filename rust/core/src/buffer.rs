//! Aligned `f32` memory: the only allocation of activations, scratch and parameters.

use std::alloc::{Layout, alloc_zeroed};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Bytes: a cache line, and the widest vector.
pub const ALIGNMENT: usize = 64;

/// Elements of one aligned line.
pub const LINE: usize = ALIGNMENT / size_of::<f32>();

/// Elements of a page, or of a part of a larger one.
pub const PAGE: usize = (4 << 10) / size_of::<f32>();

/// Elements of a huge page: buffers of some of them start on one.
pub const HUGE_PAGE: usize = (2 << 20) / size_of::<f32>();

/// `length` rounded up to whole lines.
pub fn align_up(length: usize) -> usize {
    length.next_multiple_of(LINE)
}

/// The system does not give so much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// What was asked for.
    pub bytes: usize,
}

/// `length` zeros, on pages that are not touched before they are used.
///
/// # Errors
/// [`OutOfMemory`], where a `Vec` would end the process.
pub fn zeros(length: usize) -> Result<Vec<f32>, OutOfMemory> {
    let failed = OutOfMemory { bytes: length.saturating_mul(size_of::<f32>()) };
    let layout = Layout::array::<f32>(length).map_err(|_| failed)?;
    if length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the size is not 0.
    let memory = unsafe { alloc_zeroed(layout) }.cast::<f32>();
    if memory.is_null() {
        return Err(failed);
    }
    // SAFETY: this is what a vector of that capacity would have allocated, and zero bits are zeros.
    Ok(unsafe { Vec::from_raw_parts(memory, length, length) })
}

/// Runs `body`, in which [`Buffer::zeroed`] may fail.
///
/// # Errors
/// The failure. Other panics are passed on.
pub fn catch_out_of_memory<R>(body: impl FnOnce() -> R) -> Result<R, OutOfMemory> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| match panic.downcast::<OutOfMemory>() {
        Ok(failed) => *failed,
        Err(panic) => resume_unwind(panic),
    })
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
    ///
    /// Large buffers ask for huge pages: the weights of a network are read once per run from beginning to end, and a
    /// miss of the translation cache every 4 KiB costs several per cent of the time.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn try_zeroed(length: usize) -> Result<Self, OutOfMemory> {
        let huge = length >= 2 * HUGE_PAGE;
        let alignment = if huge { HUGE_PAGE * size_of::<f32>() } else { ALIGNMENT };
        let memory = zeros(length.saturating_add(alignment / size_of::<f32>()))?;
        let start = memory.as_ptr().align_offset(alignment);
        let mut buffer = Self { memory, start, length };
        if huge {
            // Whole pages only: a huge page at the end would make memory resident that nobody asked for.
            advise_huge_pages(&mut buffer[..length - length % HUGE_PAGE]);
        }
        Ok(buffer)
    }

    /// As [`Buffer::try_zeroed`], where an operator is compiled: [`catch_out_of_memory`] gets the failure.
    pub fn zeroed(length: usize) -> Self {
        Self::try_zeroed(length).unwrap_or_else(|failed| resume_unwind(Box::new(failed)))
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[f32]) -> Self {
        let mut buffer = Self::zeroed(data.len());
        buffer.copy_from_slice(data);
        buffer
    }
}

/// Tells the kernel that `memory`, which starts on a huge page, is worth huge pages. It may not listen.
fn advise_huge_pages(memory: &mut [f32]) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range is ours, and the advice does not change its content.
    unsafe {
        libc::madvise(memory.as_mut_ptr().cast(), size_of_val(memory), libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
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
        for length in [0, 1, 15, 16, 17, 100_000, 2 * HUGE_PAGE, 3 * HUGE_PAGE + 5] {
            let buffer = Buffer::zeroed(length);
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!(buffer.len(), length);
            assert!(buffer.iter().all(|&value| value == 0.0));
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        // More than can be addressed, and more than any machine has.
        for length in [usize::MAX, usize::MAX / 4, 1 << 50] {
            let bytes = length.saturating_mul(4);
            assert!(zeros(length).is_err_and(|failed| failed.bytes == bytes));
            assert!(Buffer::try_zeroed(length).is_err_and(|failed| failed.bytes >= bytes));
            assert!(catch_out_of_memory(|| Buffer::zeroed(length)).is_err_and(|failed| failed.bytes >= bytes));
        }
        assert!(catch_unwind(|| catch_out_of_memory(|| panic!("another"))).is_err());
    }
}
