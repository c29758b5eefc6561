//! The values that were made for the last few keys.

/// Keys that are remembered: enough for a few sizes of images and the last, smaller batch.
const KEYS: usize = 8;

/// Values by their keys; the least recently used gives way. What is in use outside lives on if the values share it.
pub(super) struct Recent<Key, Value> {
    /// The least recently used first.
    entries: Vec<(Key, Value)>,
}

impl<Key, Value> Default for Recent<Key, Value> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<Key: PartialEq, Value: Clone> Recent<Key, Value> {
    /// The value of `key`, which is used by this.
    pub(super) fn get(&mut self, key: &Key) -> Option<Value> {
        let position = self.entries.iter().position(|(known, _)| known == key)?;
        self.entries[position..].rotate_left(1);
        self.entries.last().map(|(_, value)| value.clone())
    }

    /// Keeps the value of a key that has none, and returns it.
    pub(super) fn keep(&mut self, key: Key, value: Value) -> Value {
        if self.entries.len() == KEYS {
            self.entries.remove(0);
        }
        self.entries.push((key, value.clone()));
        value
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_gives_way() {
        let mut recent = Recent::default();
        for key in 0..KEYS {
            assert_eq!(recent.get(&key), None);
            assert_eq!(recent.keep(key, 10 * key), 10 * key);
        }
        assert_eq!(recent.get(&0), Some(0));
        recent.keep(KEYS, 0);
        // The first one has been used since, the second one has not.
        assert_eq!([0, 1, 2].map(|key| recent.get(&key)), [Some(0), None, Some(20)]);
        recent.clear();
        assert_eq!(recent.get(&0), None);
    }
}
