//! Memory that may be refused. What grows with the log is allocated through these, so that an operating system that
//! refuses it (an address space limit, no overcommit) gives an [`Error::OutOfMemory`] and not the end of the process, which
//! is what Rust makes of any other allocation that fails.

use crate::Error;
use crate::Result;

/// Room for `more` elements. Grows by an eighth at a time: large vectors move without being copied, and a doubled one
/// would ask for address space that is never used.
pub fn grow<T>(list: &mut Vec<T>, more: usize) -> Result<()> {
    if list.capacity() - list.len() >= more {
        return Ok(());
    }
    let more = more.max(list.len() / 8).max(64);
    list.try_reserve_exact(more).map_err(|_| refused::<T>(list.len() + more))
}

/// The same for a text and `more` bytes.
pub fn grow_text(text: &mut String, more: usize) -> Result<()> {
    if text.capacity() - text.len() >= more {
        return Ok(());
    }
    let more = more.max(text.len() / 8).max(64);
    text.try_reserve_exact(more).map_err(|_| refused::<u8>(text.len() + more))
}

/// Room for one more element of a short list, which doubles.
pub fn double<T>(list: &mut Vec<T>) -> Result<()> {
    if list.len() < list.capacity() {
        return Ok(());
    }
    let more = list.len().max(2);
    list.try_reserve_exact(more).map_err(|_| refused::<T>(list.len() + more))
}

/// Room for `more` elements of a list that is given away soon: it doubles.
pub fn amortised<T>(list: &mut Vec<T>, more: usize) -> Result<()> {
    list.try_reserve(more).map_err(|_| refused::<T>(list.len() + more))
}

/// An empty list with room for `n` elements.
pub fn room<T>(n: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(n).map_err(|_| refused::<T>(n))?;
    Ok(list)
}

/// `n` times the same.
pub fn filled<T: Clone>(value: T, n: usize) -> Result<Vec<T>> {
    let mut list = room(n)?;
    list.resize(n, value);
    Ok(list)
}

/// Collects what knows its length.
pub fn collect<T>(items: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut list = room(items.len())?;
    list.extend(items);
    Ok(list)
}

/// Whether so many bytes could be had now; nothing of them is touched or kept.
pub fn probe(bytes: usize) -> Result<()> {
    // An allocation that nobody looks at is left out by the compiler.
    room::<u8>(bytes).map(|had| drop(std::hint::black_box(had)))
}

fn refused<T>(n: usize) -> Error {
    Error::OutOfMemory { bytes: n.saturating_mul(size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        assert_eq!(probe(usize::MAX / 2 - 1), Err(Error::OutOfMemory { bytes: usize::MAX / 2 - 1 }));
        assert!(matches!(room::<u64>(usize::MAX / 4), Err(Error::OutOfMemory { .. })));
        assert!(matches!(grow(&mut vec![0u64], usize::MAX / 16), Err(Error::OutOfMemory { .. })));
        assert_eq!(filled(7, 3), Ok(vec![7; 3]));
    }

    #[test]
    fn a_list_grows_by_an_eighth() {
        let mut list: Vec<u32> = Vec::new();
        for i in 0..100_000 {
            grow(&mut list, 1).unwrap();
            list.push(i);
            assert!(list.capacity() <= list.len() + list.len() / 8 + 64);
        }
    }
}
