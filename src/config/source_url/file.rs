//! `file:endpoints.toml`, `file:///abs/endpoints.json`

use super::parts::{Parts, decoded};
use crate::config::registries::Registries;
use crate::discovery::{FileQuery, SourceSettings};
use crate::model::ServiceName;
use std::path::Path;

const EXAMPLE: &str = "write file:PATH for a path from the configuration file's folder, or file:///PATH";

pub(super) fn parse(
    parts: &Parts<'_>,
    registries: &Registries,
    service: Option<&ServiceName>,
) -> Result<(SourceSettings, Option<String>), String> {
    let path = decoded(parts.path)?;
    if path.is_empty() || !matches!(parts.authority, None | Some("")) {
        return Err(EXAMPLE.to_owned());
    }
    let path = registries.folder.join(path);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let extension = path.extension().and_then(|extension| extension.to_str());
    if stem.is_empty() || parts.has_parameters() || !matches!(extension, Some("toml" | "json")) {
        return Err(format!("the file's name ends in .toml or .json, and nothing follows it: {EXAMPLE}"));
    }
    // The file itself may come later, but somebody must be able to put it there, and to watch for it.
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(format!("the folder {} does not exist, so the file cannot be watched", folder.display()));
    }
    let name = stem.to_owned();
    let service = service.map_or_else(|| name.clone(), ToString::to_string);
    Ok((SourceSettings::File(FileQuery { path, service }), Some(name)))
}
