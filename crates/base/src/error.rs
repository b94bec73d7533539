//! One variant a rule. The glue maps each to its SQLSTATE, DETAIL and HINT.

/// What the numerics refuse, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A specification that does not parse, names an unknown key, or holds a value out of its range.
    #[error("invalid specification: {0}")]
    Spec(String),
    /// A variable's expression that cannot be computed.
    #[error("variable \"{variable}\": {why}")]
    Expression { variable: String, why: String },
    /// Saved weights that cannot be what training saved: wrong shape, missing tensor, not finite.
    #[error("corrupt model: {0}")]
    Corrupt(String),
    /// An artefact that is not imported, or a version that is not exported.
    #[error("{fault}: {why}")]
    Artefact { fault: Fault, why: String },
    /// Too little data for what was asked.
    #[error("not enough data: {0}")]
    InsufficientData(String),
    /// The work would need more memory than its budget.
    #[error("needs {needed} bytes of memory, the budget is {budget}")]
    Memory { needed: usize, budget: usize },
    /// The operating system refused an allocation.
    #[error("an allocation of {bytes} bytes was refused")]
    OutOfMemory { bytes: usize },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A tensor library's own error; never the user's fault.
    #[error("numerics: {0}")]
    Numerics(String),
}

/// The result of everything that can be refused.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong with an artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("this is no model artefact, or only a part of one")]
    Foreign,
    #[error("the artefact is of a newer format")]
    Newer,
    #[error("the model is too large for an artefact")]
    Large,
    /// What was written is not what is read.
    #[error("the artefact is damaged")]
    Damaged,
    /// It is whole, and no training can have made it.
    #[error("the artefact holds no version that could serve")]
    Unfit,
}
