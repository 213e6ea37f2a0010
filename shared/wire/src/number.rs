//! Fractions inside tagged and flattened types.
//!
//! serde buffers the fields of such types before it knows their kinds. When any crate of the build turns on
//! `serde_json/arbitrary_precision` (the bundler does), a buffered fraction is not an `f64` any more; read as a JSON
//! number it always is.

use serde::{Deserialize as _, Deserializer, de::Error as _};
use serde_json::Number;

/// For `#[serde(deserialize_with)]` on an `f64`.
pub(crate) fn fraction<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Number::deserialize(from)?.as_f64().ok_or_else(|| D::Error::custom("the number is out of range"))
}

/// For `#[serde(deserialize_with)]` on an `Option<f64>`; needs `#[serde(default)]` where the key may be absent.
pub(crate) fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    Ok(Option::<Number>::deserialize(from)?.and_then(|number| number.as_f64()))
}
