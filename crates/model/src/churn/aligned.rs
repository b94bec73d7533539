//! Buffers for the inner loops.

use std::ops::{Deref, DerefMut};

/// Numbers that begin at a cache line: the widest loads then touch one line each (.38 against .83 µs for the recurrent
/// product of a step at 64 units).
#[derive(Debug, Default)]
pub struct Aligned {
    data: Vec<f32>,
    from: usize,
    length: usize,
}

impl Aligned {
    /// Numbers of a cache line.
    pub const LINE: usize = 16;

    /// Of that length; what it held is lost, and what it holds is any number.
    pub fn sized(&mut self, n: usize) -> &mut [f32] {
        // Never shortened: growing again would write zeros over all that was cut off.
        if self.data.len() < n + Aligned::LINE {
            self.data.resize(n + Aligned::LINE, 0.0);
        }
        self.from = self.data.as_ptr().align_offset(64).min(Aligned::LINE);
        self.length = n;
        self
    }

    pub fn zeros(n: usize) -> Aligned {
        let mut made = Aligned::default();
        made.sized(n).fill(0.0);
        made
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.from..self.from + self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.from..self.from + self.length]
    }
}

impl Clone for Aligned {
    fn clone(&self) -> Aligned {
        let mut made = Aligned::default();
        made.sized(self.length).copy_from_slice(self);
        made
    }

    fn clone_from(&mut self, from: &Aligned) {
        self.sized(from.length).copy_from_slice(from);
    }
}

impl PartialEq for Aligned {
    fn eq(&self, other: &Aligned) -> bool {
        **self == **other
    }
}
