//! What a [`Section`] can be asked for: numbers, units, words, secrets, files, lists.

use super::document::{Scalar, readable};
use super::problem::suggestion;
use super::section::{Found, Section};
use super::units;
use crate::registry::Credential;
use crate::telemetry::Secret;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// The longest time that any key accepts.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// The shortest time where none at all makes no sense.
pub(super) const MILLI: Duration = Duration::from_millis(1);

impl<'a> Section<'a> {
    /// The value of `key`, if it is there and `parse` takes it; what `parse` says otherwise is a problem.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&Scalar<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let found = self.find(key)?;
        let value = self.parse(&found, &self.path_of(key), parse);
        if value.is_none() {
            self.spoil(key);
        }
        value
    }

    fn parse<T>(
        &self,
        found: &Found<'a>,
        path: &str,
        parse: impl FnOnce(&Scalar<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let scalar = self.scalar(found, path)?;
        parse(&scalar).map_err(|message| self.problem_at(found, path, message)).ok()
    }

    /// As [`Self::read`], with a default, and noted as an effective value.
    fn effective<T>(
        &self,
        key: &'static str,
        default: T,
        show: impl FnOnce(&T) -> String,
        parse: impl FnOnce(&Scalar<'_>) -> Result<T, String>,
    ) -> T {
        let value = self.read(key, parse).unwrap_or(default);
        self.note(key, show(&value), self.origin_of(key));
        value
    }

    pub(super) fn duration(
        &self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let show = |value: &Duration| quoted(&units::show_duration(*value));
        self.effective(key, default, show, |scalar| within(scalar, units::duration, &range, show))
    }

    pub(super) fn bytes(&self, key: &'static str, range: RangeInclusive<usize>, default: usize) -> usize {
        let range = *range.start() as u64..=*range.end() as u64;
        let show = |value: &u64| quoted(&units::show_bytes(*value));
        let bytes =
            self.effective(key, default as u64, show, |scalar| within(scalar, units::bytes, &range, show));
        usize::try_from(bytes).unwrap_or(default)
    }

    /// 0 to 1, written as `"20%"`.
    pub(super) fn share(&self, key: &'static str, default: f64) -> f64 {
        let show = |value: &f64| quoted(&units::show_share(*value));
        self.effective(key, default, show, |scalar| with_unit(scalar, units::share))
    }

    pub(super) fn integer<T>(&self, key: &'static str, range: RangeInclusive<T>, default: T) -> T
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        self.effective(key, default, T::to_string, |scalar| integer(scalar, &range))
    }

    /// As [`Self::integer`], where absence means something of its own.
    pub(super) fn integer_or_none<T>(&self, key: &'static str, range: &RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let value = self.read(key, |scalar| integer(scalar, range))?;
        self.note(key, value.to_string(), self.origin_of(key));
        Some(value)
    }

    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        self.effective(key, default, bool::to_string, |scalar| {
            flag(scalar).map_err(|kind| format!("true or false is expected here, not {kind}"))
        })
    }

    /// One of a few words; `later` are those that are planned.
    pub(super) fn choice<T: Copy + PartialEq>(
        &self,
        key: &'static str,
        words: &[(&'static str, T)],
        later: &[&str],
        default: T,
    ) -> T {
        let show = |value: &T| {
            words.iter().find(|(_, known)| known == value).map_or_else(String::new, |(word, _)| quoted(word))
        };
        self.effective(key, default, show, |scalar| {
            let names = || words.iter().map(|(word, _)| *word);
            let text = scalar.text(&format!("one of {}", list(names())))?;
            if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
                return Ok(*value);
            }
            if later.contains(&text) {
                return Err(format!(
                    "{text:?} is not available in this version; accepted: {}",
                    list(names())
                ));
            }
            Err(format!("{text:?} is not accepted;{} accepted: {}", suggestion(text, names()), list(names())))
        })
    }

    /// A text that `parse` makes something of, noted as it was written.
    pub(super) fn text<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (value, shown) = self.read(key, |scalar| {
            let text = scalar.text(expected)?;
            Ok((parse(text)?, text.to_owned()))
        })?;
        self.note(key, quoted(&shown), self.origin_of(key));
        Some(value)
    }

    /// A file that can be read now, named from the configuration file's folder.
    pub(super) fn file(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key, "the name of a file", |name| {
            let path = self.doc.absolute(name);
            readable(&path).map(|()| path)
        })
    }

    /// A secret in the file itself, or in a file of its own. An empty one is none.
    pub(super) fn credential(&self, key: &'static str, file_key: &'static str) -> Option<Credential> {
        self.exclusive(&[key, file_key]);
        if let Some(path) = self.file(file_key) {
            return Some(Credential::File(path));
        }
        let text = self.read(key, |scalar| Ok(scalar.text("a string")?.to_owned()))?;
        self.note(key, quoted("***"), self.origin_of(key));
        (!text.is_empty()).then(|| Credential::Text(Secret::new(text)))
    }

    /// A list, or one value that stands for a list of one; `parse` takes each.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        default: Vec<T>,
        show: impl Fn(&T) -> String,
        parse: impl Fn(&Scalar<'_>) -> Result<T, String>,
    ) -> Vec<T> {
        let read = self.find(key).map(|found| self.each(key, &found, parse));
        // What is left of a list after its wrong entries is no list that anybody meant.
        let values = read.unwrap_or(default);
        let shown: Vec<_> = values.iter().map(show).collect();
        self.note(key, format!("[{}]", shown.join(", ")), self.origin_of(key));
        values
    }

    /// As [`Self::list`], where an empty one makes no sense.
    pub(super) fn list_of_some<T>(
        &self,
        key: &'static str,
        default: Vec<T>,
        show: impl Fn(&T) -> String,
        parse: impl Fn(&Scalar<'_>) -> Result<T, String>,
    ) -> Vec<T> {
        if let Some(found) = self.find(key)
            && found.value.get_ref().as_array().is_some_and(|list| list.is_empty())
        {
            self.problem_at(&found, &self.path_of(key), "an empty list: at least one entry is needed");
        }
        self.list(key, default, show, parse)
    }

    fn each<T>(
        &self,
        key: &'static str,
        found: &Found<'a>,
        parse: impl Fn(&Scalar<'_>) -> Result<T, String>,
    ) -> Vec<T> {
        let path = self.path_of(key);
        let DeValue::Array(values) = found.value.get_ref() else {
            return self.parse(found, &path, parse).into_iter().collect();
        };
        let entry = |(index, value)| self.parse(&found.within(value), &format!("{path}[{index}]"), &parse);
        values.iter().enumerate().filter_map(entry).collect()
    }
}

/// A value that must carry a unit.
pub(super) fn with_unit<T>(
    scalar: &Scalar<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, String> {
    match scalar {
        Scalar::Text(text) => parse(text),
        Scalar::Integer(digits, _) => parse(digits),
        // The parser's own complaint about an empty text, with its example, says what is missing here.
        other => parse("").map_err(|error| error.replace("\"\"", other.kind())),
    }
}

/// As [`with_unit`], and within a range.
fn within<T: PartialOrd>(
    scalar: &Scalar<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    with_unit(scalar, |text| match parse(text)? {
        value if range.contains(&value) => Ok(value),
        _ => {
            let (from, to) = (show(range.start()), show(range.end()));
            Err(format!("{text:?} is out of range: {from} to {to} is accepted"))
        }
    })
}

/// An integer in its range; also a text, if it came out of a variable.
pub(super) fn integer<T>(scalar: &Scalar<'_>, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    let (from, to) = (range.start(), range.end());
    let (shown, number) = match scalar {
        Scalar::Integer(digits, number) => (*digits, *number),
        Scalar::Text(text) if scalar.is_expanded() => {
            ("what its variables come to", text.trim().parse().ok())
        }
        other => {
            return Err(format!("an integer from {from} to {to} is expected here, not {}", other.kind()));
        }
    };
    let fits = number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
    fits.ok_or_else(|| format!("{shown} is out of range: {from} to {to} is accepted"))
}

/// `true` or `false`; also as a text, if it came out of a variable.
///
/// # Errors
/// What it is instead.
pub(super) fn flag(scalar: &Scalar<'_>) -> Result<bool, &'static str> {
    match scalar {
        Scalar::Flag(flag) => Ok(*flag),
        Scalar::Text(text) if scalar.is_expanded() && text == "true" => Ok(true),
        Scalar::Text(text) if scalar.is_expanded() && text == "false" => Ok(false),
        other => Err(other.kind()),
    }
}

/// As TOML writes a text.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
