//! Memory that begins where a page does: direct access to a disk asks for it, and no vector in it lies on two cache lines.

use std::ops::{Deref, DerefMut};

/// Bytes of the smallest page of any processor that we run on.
const PAGE: usize = 4096;

/// A fixed number of elements.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    elements: Vec<T>,
    start: usize,
    length: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// So many elements, all of them the default.
    pub(crate) fn new(length: usize) -> Self {
        let elements = vec![T::default(); length + PAGE / size_of::<T>()];
        let start = elements.as_ptr().align_offset(PAGE);
        Self {
            elements,
            start,
            length,
        }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.elements[self.start..][..self.length]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.elements[self.start..][..self.length]
    }
}
