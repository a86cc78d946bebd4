//! Lists of tables as `check --resolve` shows them: in one line of TOML.

use super::document::{Document, Scalar};
use super::section::join;
use super::value::quoted;
use toml::de::DeValue;

/// What stands in these may be secret.
const SECRET: [&str; 3] = ["headers", "set_headers", "add_headers"];

/// The value with its variables replaced and its secrets hidden.
pub(super) fn inline(doc: &Document<'_>, value: &DeValue<'_>) -> String {
    show(doc, value, false)
}

fn show(doc: &Document<'_>, value: &DeValue<'_>, secret: bool) -> String {
    match value {
        DeValue::Array(list) => {
            let shown: Vec<_> = list.iter().map(|value| show(doc, value.get_ref(), secret)).collect();
            format!("[{}]", shown.join(", "))
        }
        DeValue::Table(table) => {
            let shown = table.iter().map(|(name, value)| {
                let name: &str = name.get_ref();
                let secret = secret || SECRET.contains(&name);
                format!("{} = {}", join("", name), show(doc, value.get_ref(), secret))
            });
            format!("{{ {} }}", shown.collect::<Vec<_>>().join(", "))
        }
        scalar => match doc.scalar(scalar) {
            Ok(Scalar::Text(_)) if secret => quoted("***"),
            Ok(Scalar::Text(text)) => quoted(&text),
            Ok(Scalar::Integer(digits, number)) => number.map_or_else(|| quoted(digits), |n| n.to_string()),
            Ok(Scalar::Flag(flag)) => flag.to_string(),
            // It is a problem, or will be one.
            Ok(Scalar::Other(_)) | Err(_) => quoted(""),
        },
    }
}
