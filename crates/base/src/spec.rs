//! Specifications: defaults live in `models/*.json`, a user overrides keys, and a typo is refused by name.

use crate::Error;
use crate::Result;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The defaults with the given keys replaced, objects merged key by key. `T` must refuse unknown fields.
/// Null overrides nothing; [`Error::Spec`] for anything else that is no JSON object, or that `T` refuses.
pub fn read<T: DeserializeOwned>(defaults: &str, overrides: &Value) -> Result<T> {
    let refuse = |e: serde_json::Error| Error::Spec(e.to_string());
    let mut spec: Value = serde_json::from_str(defaults).map_err(refuse)?;
    match overrides {
        Value::Null => {}
        Value::Object(_) => merge(&mut spec, overrides),
        _ => return Err(Error::Spec("a specification is a JSON object".into())),
    }
    serde_json::from_value(spec).map_err(refuse)
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Refuses a value out of its range, naming the key and the rule.
pub fn require(holds: bool, key: &str, rule: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Spec(format!("{key} must be {rule}"))) }
}
