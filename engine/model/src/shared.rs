//! Parts of a state that most transitions leave alone: shared between states, and hashed once.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

/// A shared value with its hash. Only [`Shared::changed`] makes another one of it.
#[derive(Debug)]
pub struct Shared<T> {
    hash: u64,
    value: Arc<T>,
}

impl<T: Hash> Shared<T> {
    /// Shares `value`.
    pub fn new(value: T) -> Shared<T> {
        let mut hasher = Xxh3Default::new();
        value.hash(&mut hasher);
        Shared { hash: hasher.finish(), value: Arc::new(value) }
    }
}

impl<T: Hash + Clone> Shared<T> {
    /// The value after `change`.
    #[must_use]
    pub fn changed<R>(&self, change: impl FnOnce(&mut T) -> R) -> (Shared<T>, R) {
        let mut value = T::clone(&self.value);
        let result = change(&mut value);
        (Shared::new(value), result)
    }
}

impl<T> Shared<T> {
    /// The hash of the value.
    pub fn fingerprint(&self) -> u64 {
        self.hash
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared { hash: self.hash, value: Arc::clone(&self.value) }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Shared<T>) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.value, &other.value) || self.value == other.value)
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}
