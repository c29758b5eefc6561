//! Forks. A child process has one thread, a copy of the one that forked: a lock that another thread held at that moment is
//! never released in the child, and what it protects may be half changed.
//!
//! So whoever takes a lock of ours stays in a [`Section`] for as long, a fork waits until all have left, and nobody enters
//! while it lasts. Sections are short: planning is one, running a plan is none. Rust cannot see a fork coming: whoever
//! embeds this crate calls [`begin`] before and [`end`] after each.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

static INSIDE: AtomicUsize = AtomicUsize::new(0);
static FORKING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Sections that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// No fork happens while there is one. It belongs to its thread.
pub struct Section(PhantomData<*const ()>);

impl Section {
    /// Waits for a fork that is under way, unless this thread is in a section already: the fork waits for that.
    pub fn enter() -> Self {
        let depth = DEPTH.get();
        loop {
            // Both threads write first and then look: at least one of them sees the other.
            INSIDE.fetch_add(1, Ordering::SeqCst);
            if depth > 0 || !FORKING.load(Ordering::SeqCst) {
                DEPTH.set(depth + 1);
                return Self(PhantomData);
            }
            INSIDE.fetch_sub(1, Ordering::SeqCst);
            wait_until(|| !FORKING.load(Ordering::SeqCst));
        }
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// To be called before a fork, by the thread that forks and outside of any section: waits until all have left theirs.
pub fn begin() {
    wait_until(|| FORKING.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok());
    wait_until(|| INSIDE.load(Ordering::SeqCst) == 0);
}

/// To be called after a fork, in the parent and in the child.
pub fn end(in_child: bool) {
    if in_child {
        // Threads that were about to enter are counted, but are not here.
        INSIDE.store(0, Ordering::SeqCst);
    }
    FORKING.store(false, Ordering::SeqCst);
}

fn wait_until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_micros(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn nobody_is_inside_during_a_fork() {
        let (changes, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let _section = Section::enter();
                        changes.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        changes.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..100 {
                begin();
                let before = changes.load(Ordering::SeqCst);
                std::thread::yield_now();
                let after = changes.load(Ordering::SeqCst);
                end(false);
                assert_eq!((before, before % 2), (after, 0));
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_section_within_another_does_not_wait_for_the_fork_that_waits_for_both() {
        let outer = Section::enter();
        std::thread::scope(|scope| {
            let fork = scope.spawn(|| {
                begin();
                end(false);
            });
            wait_until(|| FORKING.load(Ordering::SeqCst));
            drop(Section::enter());
            assert!(!fork.is_finished());
            drop(outer);
        });
    }
}
