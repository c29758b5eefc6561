//! Waiting for another thread: spinning first, for what comes within microseconds, then asleep until it rings.
//!
//! Asleep rather than yielding: where other programs want the core, a thread that yields gets it back when they have used
//! up their time, one that is woken gets it back at once.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};

/// Looks before a waiting thread goes to sleep: about half a millisecond.
const SPINS: u32 = 10_000;

/// What threads wait at for a change of some atomic state.
#[derive(Default)]
pub(crate) struct Bell {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Returns when `ready` says so. Whoever changes what it depends on rings afterwards.
    pub(crate) fn wait(&self, ready: impl Fn() -> bool) {
        for _ in 0..SPINS {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        // Either this thread sees the change, or whoever made it sees this sleeper: see `ring`.
        fence(Ordering::SeqCst);
        while !ready() {
            held = self.rung.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Wakes those that wait, after a change; costs next to nothing if nobody sleeps.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            // A sleeper holds the lock from its last look until it sleeps: it cannot miss this.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.rung.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nobody_sleeps_through_a_ring() {
        let (there, back) = (Bell::default(), Bell::default());
        let (turn, answer) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=300 {
                    there.wait(|| turn.load(Ordering::Acquire) == round);
                    answer.store(round, Ordering::Release);
                    back.ring();
                }
            });
            for round in 1..=300 {
                // Now and then long enough for the other one to fall asleep.
                if round % 10 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                turn.store(round, Ordering::Release);
                there.ring();
                back.wait(|| answer.load(Ordering::Acquire) == round);
            }
        });
        assert_eq!(answer.into_inner(), 300);
    }
}
