//! The search space: ranges of the churn specification's numbers, and points in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::churn;
use coupon_base::Error;
use coupon_base::Result;
use coupon_base::spec::{self, require};

/// What may be searched: numbers that training reads anew each time. Vocabulary sizes are not among them, because all
/// trials share one encoding of the log, nor what decides how long training goes on.
const TUNABLE: [&str; 8] =
    ["batch_size", "dense_units", "dropout", "hidden_size", "learning_rate", "max_length", "num_layers", "pool_size"];
/// Digits of a real number: more are noise, and fewer distinct values make the table readable.
const DIGITS: i32 = 3;

/// The values a parameter may take, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    pub low: f64,
    pub high: f64,
    /// Searched by its logarithm: equal steps are equal ratios.
    #[serde(default)]
    pub log: bool,
}

/// How a study searches. Defaults: `models/tune.json`; unknown keys are refused by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Passes over the fit window a trial trains for, and of its learning-rate cycle, 1..=1000.
    pub epochs: usize,
    /// Trials that are spread over the space before the first is chosen by what was learned, 1..=100.
    pub initial_points: usize,
    /// By key of the churn specification; null leaves a parameter as the specification has it.
    pub space: BTreeMap<String, Option<Range>>,
}

impl Spec {
    /// The defaults, overridden by the keys of a JSON object (or null), and validated.
    pub fn read(overrides: &Value) -> Result<Spec> {
        let spec: Spec = spec::read(include_str!("../../../../models/tune.json"), overrides)?;
        spec.validate().map(|()| spec)
    }

    fn validate(&self) -> Result<()> {
        require((1..=1000).contains(&self.epochs), "epochs", "from 1 to 1000")?;
        require((1..=100).contains(&self.initial_points), "initial_points", "from 1 to 100")?;
        if let Some(name) = self.space.keys().find(|name| !TUNABLE.contains(&name.as_str())) {
            return Err(Error::Spec(format!("space: unknown field `{name}`, expected one of {}", TUNABLE.join(", "))));
        }
        require(self.space.values().any(Option::is_some), "space", "ranges of at least one parameter")
    }
}

/// One parameter of a [`Space`].
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub range: Range,
    /// Takes whole numbers only.
    pub whole: bool,
}

impl Parameter {
    /// The nearest value the parameter may take.
    pub fn snap(&self, value: f64) -> f64 {
        let Range { low, high, .. } = self.range;
        let value = value.clamp(low, high);
        if self.whole {
            return value.round();
        }
        if value == 0.0 {
            return 0.0;
        }
        let unit = 10f64.powi(DIGITS - 1 - value.abs().log10().floor() as i32);
        ((value * unit).round() / unit).clamp(low, high)
    }

    /// The value at a share of the range, 0..=1, by the parameter's scale.
    pub(super) fn at(&self, share: f64) -> f64 {
        let Range { low, high, log } = self.range;
        let value = if log { (low.ln() + share * (high / low).ln()).exp() } else { low + share * (high - low) };
        self.snap(value)
    }

    /// Where in the range a value lies, 0..=1: the opposite of [`Parameter::at`].
    pub(super) fn share(&self, value: f64) -> f64 {
        let Range { low, high, log } = self.range;
        if log { (value / low).ln() / (high / low).ln() } else { (value - low) / (high - low) }
    }
}

/// Parameters by name, each point one number a parameter in that order.
#[derive(Debug, Clone, PartialEq)]
pub struct Space(Vec<Parameter>);

impl Space {
    /// # Errors
    /// [`Error::Spec`] for a range that is empty, or that the churn specification refuses.
    pub fn new(spec: &Spec, base: &churn::Spec) -> Result<Space> {
        let base_json = serde_json::to_value(base).expect("a specification is JSON");
        let mut parameters = Vec::new();
        for (name, range) in spec.space.iter().filter_map(|(name, range)| Some((name, (*range)?))) {
            let whole = base_json[name].is_u64();
            let of = |end: &str| format!("space.{name}.{end}");
            require(range.low.is_finite() && (range.low > 0.0 || !range.log), &of("low"), "finite, above 0 with log")?;
            require(range.high.is_finite() && range.high > range.low, &of("high"), "finite and above low")?;
            if whole {
                require(range.low.fract() == 0.0, &of("low"), "a whole number")?;
                require(range.high.fract() == 0.0, &of("high"), "a whole number")?;
            }
            parameters.push(Parameter { name: name.clone(), range, whole });
        }
        let space = Space(parameters);
        // Every rule of the specification bounds a number or what grows with all of them: the corners speak for the rest.
        for end in ["low", "high"] {
            let corner: Vec<f64> =
                space.0.iter().map(|p| if end == "low" { p.range.low } else { p.range.high }).collect();
            space.apply(base, &corner).map_err(|e| match e {
                Error::Spec(m) => Error::Spec(format!("space, every parameter at its {end} end: {m}")),
                other => other,
            })?;
        }
        Ok(space)
    }

    #[cfg(test)]
    pub(super) fn of(parameters: Vec<Parameter>) -> Space {
        Space(parameters)
    }

    pub fn parameters(&self) -> &[Parameter] {
        &self.0
    }

    /// The specification with a point's values.
    ///
    /// # Errors
    /// [`Error::Spec`] from [`churn::Spec::validate`].
    pub fn apply(&self, base: &churn::Spec, point: &[f64]) -> Result<churn::Spec> {
        let mut spec = serde_json::to_value(base).expect("a specification is JSON");
        for (name, value) in self.overrides(point) {
            spec[name] = value;
        }
        let spec: churn::Spec = serde_json::from_value(spec).map_err(|e| Error::Spec(e.to_string()))?;
        spec.validate().map(|()| spec)
    }

    /// A point as keys of the churn specification.
    pub fn overrides(&self, point: &[f64]) -> Map<String, Value> {
        let value = |p: &Parameter, v: f64| if p.whole { json!(v as u64) } else { json!(v) };
        self.0.iter().zip(point).map(|(p, &v)| (p.name.clone(), value(p, v))).collect()
    }

    /// The point that stands in an object of such keys; `None` where a parameter is missing or outside its range.
    pub fn point(&self, overrides: &Value) -> Option<Vec<f64>> {
        let value = |p: &Parameter| {
            let v = overrides.get(&p.name)?.as_f64()?;
            (p.range.low..=p.range.high).contains(&v).then_some(v)
        };
        self.0.iter().map(value).collect()
    }

    /// The point next to what a specification says already.
    pub fn nearest(&self, base: &churn::Spec) -> Vec<f64> {
        let base = serde_json::to_value(base).expect("a specification is JSON");
        // A number of single precision is written with the digits of a double: snapping takes them off again.
        self.0.iter().map(|p| p.snap(base[&p.name].as_f64().unwrap_or(p.range.low))).collect()
    }
}
