//! One trained version: all stages, as they are stored and as they serve.

use crate::churn;
use coupon_base::error::{Error, Result};
use coupon_policy::ReplayTable;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// One stored row of a version. Its names are those of the flow: sessions, segment, churn, rank, issue; and judged, the
/// churn networks before they were refitted on all windows, by which the next version is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    pub stage: String,
    /// The churn stage has a row a segment with a network of its own; everything else is row 0.
    pub segment: u32,
    pub spec: Value,
    pub card: Value,
    /// safetensors, or empty.
    pub weights: Vec<u8>,
}

impl Stage {
    /// Covers what serves: stage, segment, specification and weights, and the thresholds, which are a card.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let serving = if self.stage == "issue" { self.card.to_string() } else { String::new() };
        for part in [self.stage.as_bytes(), &self.segment.to_le_bytes(), self.spec.to_string().as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update((self.weights.len() as u64).to_le_bytes());
        hash.update(&self.weights);
        hash.update(serving.as_bytes());
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// The digest of a whole version: of its stages' digests, in order of stage and segment.
pub fn digest(stages: &[Stage]) -> String {
    let mut digests: Vec<_> = stages.iter().map(|s| (s.stage.as_str(), s.segment, s.digest())).collect();
    digests.sort();
    let mut hash = Sha256::new();
    digests.iter().for_each(|d| hash.update(d.2.as_bytes()));
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Thresholds, for sessions scored by their segment's model and by the pooled one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdPlan {
    pub segments: ReplayTable,
    pub pooled: ReplayTable,
}

/// A version as it serves.
#[derive(Debug, Clone)]
pub struct Version {
    pub segment: coupon_segment::Model,
    /// `None` where the log was too small for one.
    pub churn: Option<churn::Model>,
    pub rank: coupon_rank::Model,
    pub plan: ThresholdPlan,
}

impl Version {
    /// Decodes the stages of one version.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a stage that is missing or cannot be read.
    pub fn decode(stages: &[Stage]) -> Result<Version> {
        let parts: Vec<_> = stages.iter().map(|s| (&*s.stage, s.segment, &*s.weights)).collect();
        let card = stages.iter().find(|s| s.stage == "issue").map_or(&Value::Null, |s| &s.card);
        Version::of(&parts, || ThresholdPlan::deserialize(card))
    }

    /// As [`Version::decode`], from stage, segment and weights of each, and the JSON of the card of stage issue: as a
    /// [`Value`] first that takes longer than all the rest.
    pub fn decode_with(parts: &[(&str, u32, &[u8])], card: &str) -> Result<Version> {
        Version::of(parts, || serde_json::from_str(card))
    }

    fn of(parts: &[(&str, u32, &[u8])], plan: impl FnOnce() -> serde_json::Result<ThresholdPlan>) -> Result<Version> {
        let one = |name: &str| {
            let found = parts.iter().find(|part| part.0 == name).map(|part| part.2);
            found.ok_or_else(|| Error::Corrupt(format!("stage {name} is missing")))
        };
        let churn: Vec<(u32, &[u8])> = parts.iter().filter(|p| p.0 == "churn").map(|p| (p.1, p.2)).collect();
        one("issue")?;
        let plan = plan().map_err(|e| Error::Corrupt(e.to_string()))?;
        plan.segments.check()?;
        plan.pooled.check()?;
        let version = Version {
            segment: coupon_segment::Model::from_bytes(one("segment")?)?,
            churn: if churn.is_empty() { None } else { Some(churn::Model::from_parts(&churn)?) },
            rank: coupon_rank::Model::from_bytes(one("rank")?)?,
            plan,
        };
        let groups = version.segment.groups();
        match &version.churn {
            // Only a version without a churn model has no thresholds.
            None if !version.plan.segments.rows.is_empty() => Err(Error::Corrupt("stage churn is missing".into())),
            Some(churn) if churn.segments().any(|(segment, _)| segment > groups) => {
                Err(Error::Corrupt("the churn model was trained on other segments".into()))
            }
            _ => Ok(version),
        }
    }
}
