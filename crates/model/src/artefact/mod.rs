//! One version as one file: what a server exports and another imports.
//!
//! An artefact is a safetensors file. Its one metadata key, `coupon_ext`, says `{"format": 1, "manifest": SHA-256}`; its
//! tensor `manifest` is JSON: where the version comes from, and of every stage and segment the specification, the card
//! and the digest; a tensor `churn.2` holds the weights of stage churn, segment 2, as they are stored. Every byte that
//! means something is covered: the metadata vouches for the manifest, its digests for what serves. (That finds accidents;
//! whoever can change a file can also compute a digest, so that everything is decoded as well and held to what training
//! can have made.)
//!
//! The same version always gives the same bytes.

mod check;
#[cfg(test)]
mod tests;

use crate::version::{Stage, Version, digest};
use coupon_base::error::{Error, Fault, Result};
use coupon_base::memory;
use coupon_base::weights::{Reader, Writer};
use coupon_events::events::Micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The format written, and the newest read.
pub const FORMAT: u32 = 1;
/// The largest artefact in bytes. A version of the default specification takes less than one megabyte.
pub const MOST_BYTES: usize = 256 << 20;
/// The largest manifest in bytes, and the most values and objects in it: JSON takes up to fifty times its length in
/// memory, and an object of one key eighty times.
const MOST_MANIFEST: usize = 32 << 20;
const MOST_VALUES: usize = 1 << 21;
const MOST_OBJECTS: usize = 1 << 15;
/// Rows of a version: more segments than any specification allows.
const MOST_STAGES: usize = 256;
const MANIFEST: &str = "manifest";

/// A version with all that is told of it, away from any server.
#[derive(Debug, Clone, PartialEq)]
pub struct Artefact {
    /// The window it learned from, microseconds since 2000-01-01 UTC; the ends of the range are the infinities.
    pub since: Micros,
    pub until: Micros,
    pub seed: i64,
    pub threads: i32,
    /// Version and target of the coupon_ext that trained it.
    pub build: String,
    /// In order of name and segment.
    pub stages: Vec<Stage>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    format: u32,
    manifest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    digest: String,
    since: Micros,
    until: Micros,
    seed: i64,
    threads: i32,
    build: String,
    stages: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    stage: String,
    segment: u32,
    digest: String,
    spec: Value,
    card: Value,
}

fn refuse(fault: Fault, why: impl std::fmt::Display) -> Error {
    Error::Artefact { fault, why: why.to_string() }
}

/// What an error of a stage says, for whom it is not a stage's.
fn said(e: Error) -> String {
    match e {
        Error::Corrupt(why) | Error::Spec(why) => why,
        other => other.to_string(),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn tensor(stage: &str, segment: u32) -> String {
    format!("{stage}.{segment}")
}

impl Artefact {
    /// The digest of the version, as `coupon.version` has it.
    pub fn digest(&self) -> String {
        digest(&self.stages)
    }

    /// The version as it would serve.
    ///
    /// # Errors
    /// [`Error::Artefact`] for whatever no training can have made, even where it could be decoded.
    pub fn check(&self) -> Result<Version> {
        check::check(self)
    }

    /// The file. Says nothing about whether it makes sense: that is [`Artefact::check`].
    ///
    /// # Errors
    /// [`Error::Artefact`] where it would be larger than [`Artefact::decode`] reads.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let entry = |s: &Stage| Entry {
            stage: s.stage.clone(),
            segment: s.segment,
            digest: s.digest(),
            spec: s.spec.clone(),
            card: s.card.clone(),
        };
        let manifest = Manifest {
            digest: self.digest(),
            since: self.since,
            until: self.until,
            seed: self.seed,
            threads: self.threads,
            build: self.build.clone(),
            stages: self.stages.iter().map(entry).collect(),
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|e| Error::Numerics(e.to_string()))?;
        bounded(&manifest)?;
        fits(self.stages.iter().map(|s| s.weights.len()).sum::<usize>() + manifest.len())?;
        let seal = Seal { format: FORMAT, manifest: sha256(&manifest) };
        let mut writer = Writer::default().bytes(MANIFEST, manifest);
        for s in self.stages.iter().filter(|s| !s.weights.is_empty()) {
            writer = writer.bytes(&tensor(&s.stage, s.segment), s.weights.clone());
        }
        writer.finish(&seal)
    }

    /// Reads what [`Artefact::encode`] wrote of a version that passes [`Artefact::check`]. Holds the weights three
    /// times at most, and nothing that only a number in the file asks for.
    ///
    /// # Errors
    /// [`Error::Artefact`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Artefact> {
        fits(bytes.len())?;
        let foreign = |e: Error| refuse(Fault::Foreign, said(e));
        let reader = Reader::new(bytes).map_err(foreign)?;
        // What a newer format says beside its number is not ours to judge.
        let Format { format } = reader.meta().map_err(foreign)?;
        if format > FORMAT {
            return Err(refuse(
                Fault::Newer,
                format!("it is of format {format}, this coupon_ext reads up to {FORMAT}"),
            ));
        }
        let seal: Seal = reader.meta().map_err(foreign)?;
        let damaged = |why: &str| refuse(Fault::Damaged, why);
        let manifest = reader.bytes(MANIFEST).ok_or_else(|| damaged("there is no manifest"))?;
        if format != FORMAT || seal.manifest != sha256(manifest) {
            return Err(damaged("the manifest is not the one that was sealed"));
        }
        bounded(manifest)?;
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(|e| refuse(Fault::Damaged, e))?;
        if manifest.stages.len() > MOST_STAGES {
            return Err(refuse(Fault::Large, format!("{} stages, at most {MOST_STAGES}", manifest.stages.len())));
        }
        let mut tensors = 1;
        let mut stages = Vec::with_capacity(manifest.stages.len());
        for entry in manifest.stages {
            let Entry { stage, segment, digest, spec, card } = entry;
            let name = tensor(&stage, segment);
            let stored = reader.bytes(&name);
            tensors += usize::from(stored.is_some());
            let weights = memory::collect(stored.unwrap_or_default().iter().copied())?;
            let stage = Stage { stage, segment, spec, card, weights };
            if stage.digest() != digest {
                return Err(damaged(&format!("the digest of {name} does not match")));
            }
            stages.push(stage);
        }
        if tensors != reader.count() {
            return Err(damaged("there are weights of no stage"));
        }
        let Manifest { digest, since, until, seed, threads, build, .. } = manifest;
        let artefact = Artefact { since, until, seed, threads, build, stages };
        if artefact.digest() != digest {
            return Err(damaged("the digest of the version does not match"));
        }
        artefact.check()?;
        Ok(artefact)
    }
}

fn fits(bytes: usize) -> Result<()> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(refuse(Fault::Large, format!("it takes {} MB, at most {} are read", bytes >> 20, MOST_BYTES >> 20)))
}

/// Refuses JSON that would take much more memory than it has bytes, before it is parsed.
fn bounded(json: &[u8]) -> Result<()> {
    let count = |signs: &[u8]| json.iter().filter(|b| signs.contains(b)).count();
    for (what, have, most) in [
        ("bytes", json.len(), MOST_MANIFEST),
        ("values", count(b",[{"), MOST_VALUES),
        ("objects", count(b"{"), MOST_OBJECTS),
    ] {
        if have > most {
            return Err(refuse(Fault::Large, format!("specifications and cards of {have} {what}, at most {most}")));
        }
    }
    Ok(())
}
