//! `[snapshot]`: what is remembered on disk.

use super::problem::Origin;
use super::section::Section;
use super::settings::SnapshotSettings;
use super::value::quoted;
use std::path::PathBuf;
use std::time::Duration;

/// Set by service managers such as systemd (`StateDirectory=`); several folders are separated by colons.
const VARIABLE: &str = "STATE_DIRECTORY";

pub(super) fn read(section: Section<'_>) -> SnapshotSettings {
    let default = SnapshotSettings::default();
    let longest = Duration::from_secs(30 * 24 * 3600);
    let given = section.read("folder", |scalar| match scalar.text("the name of a folder, or \"off\",")? {
        "" => Err("an empty name: a folder or \"off\" is accepted".to_owned()),
        "off" => Ok(None),
        name => Ok(Some(section.doc.absolute(name))),
    });
    let is_default = given.is_none();
    let (folder, origin) = match given {
        Some(folder) => (folder, section.origin_of("folder")),
        None => match section.doc.env.get_filled(VARIABLE) {
            Some(list) => (list.split(':').next().map(PathBuf::from), Origin::Variable(VARIABLE)),
            None => (None, Origin::Default),
        },
    };
    let shown = folder.as_ref().map_or_else(|| "off".to_owned(), |folder| folder.display().to_string());
    section.note("folder", quoted(&shown), origin);
    let max_age = section.duration("max_age", Duration::from_secs(1)..=longest, default.max_age);
    section.finish();
    SnapshotSettings { folder, is_default, max_age }
}
