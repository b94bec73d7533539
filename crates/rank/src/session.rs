//! What a running session remembers of the categories it viewed.

use coupon_base::Error;
use coupon_base::Result;

/// Weighted view counts of the categories of one session, the latest viewed first. A view counts 1 and fades by a
/// factor with every later one. At most [`SessionCategories::MOST`] categories are kept: the one that was not seen
/// for the longest makes room.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SessionCategories {
    entries: Vec<(u32, f32)>,
}

/// Bytes of one entry: the category and its weight, little-endian.
const ENTRY: usize = 8;

impl SessionCategories {
    /// The most categories that are kept; 256 bytes stored.
    pub const MOST: usize = 32;

    /// Counts a view of a candidate; earlier ones fade by `decay`, from 0 (only the last view counts) to 1 (none fades).
    /// A view of no candidate leaves no trace: nothing of it could be ranked, and nobody needs its number.
    pub fn push(&mut self, candidate: Option<u32>, decay: f64) {
        let Some(category) = candidate else { return };
        for entry in &mut self.entries {
            // What has faded to nothing stays at the smallest weight, so that it still orders last.
            entry.1 = (entry.1 * decay as f32).max(f32::MIN_POSITIVE);
        }
        let earlier = self.entries.iter().position(|e| e.0 == category);
        let weight = earlier.map_or(0.0, |i| self.entries.remove(i).1);
        self.entries.truncate(Self::MOST - 1);
        self.entries.insert(0, (category, weight + 1.0));
    }

    /// The category viewed last.
    pub fn last(&self) -> Option<u32> {
        self.entries.first().map(|e| e.0)
    }

    /// Categories and weights, the latest viewed first.
    pub fn weights(&self) -> impl Iterator<Item = (u32, f64)> {
        self.entries.iter().map(|&(category, weight)| (category, f64::from(weight)))
    }

    /// The form that is stored with a session: 8 bytes a category.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|(c, w)| [c.to_le_bytes(), w.to_le_bytes()]).flatten().collect()
    }

    /// Reads what [`SessionCategories::to_bytes`] wrote; [`Error::Corrupt`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<SessionCategories> {
        let (chunks, rest) = bytes.as_chunks::<ENTRY>();
        let entry = |b: &[u8; ENTRY]| {
            let (category, weight) = ([b[0], b[1], b[2], b[3]], [b[4], b[5], b[6], b[7]]);
            (u32::from_le_bytes(category), f32::from_le_bytes(weight))
        };
        let entries: Vec<(u32, f32)> = chunks.iter().map(entry).collect();
        let whole = rest.is_empty() && entries.len() <= Self::MOST;
        if whole && entries.iter().all(|e| e.1 > 0.0 && e.1.is_finite()) {
            Ok(SessionCategories { entries })
        } else {
            Err(Error::Corrupt("a session's categories".into()))
        }
    }
}
