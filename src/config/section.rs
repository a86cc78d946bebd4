//! One table of the file while it is read: typed keys, and at the end the keys that nobody asked for.

use super::document::{Document, Scalar, kind};
use super::problem::{Origin, suggestion};
use super::value::flag;
use std::cell::{Cell, RefCell};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table with the keys a reader takes from it. A table that is absent is an empty one.
///
/// Behind a service's tables stand those of `[defaults]`, which speak where the service is silent. They are read once
/// by themselves; what is wrong with them is said then, not again for each service.
pub(super) struct Section<'a> {
    pub(super) doc: &'a Document<'a>,
    pub(super) path: String,
    /// Where the table is named.
    at: usize,
    own: Option<&'a DeTable<'a>>,
    behind: Option<&'a DeTable<'a>>,
    /// This is `[defaults]` or inside it.
    pub(super) is_defaults: bool,
    /// Values are checked, but not noted as effective.
    hushed: Cell<bool>,
    asked: RefCell<Vec<&'static str>>,
    /// Keys that were refused with a reason of their own.
    refused: RefCell<Vec<&'static str>>,
    /// Keys whose value was no good, so that its default stands in.
    spoilt: RefCell<Vec<&'static str>>,
    /// Keys of `behind` that an alternative in `own` has replaced.
    replaced: RefCell<Vec<&'static str>>,
}

/// A value that stands in the file.
pub(super) struct Found<'a> {
    pub(super) value: &'a Spanned<DeValue<'a>>,
    /// It stands in `[defaults]`, whose problems were reported already.
    behind: bool,
}

impl<'a> Found<'a> {
    /// A part of this value.
    pub(super) fn within(&self, part: &'a Spanned<DeValue<'a>>) -> Self {
        Self { value: part, behind: self.behind }
    }
}

impl<'a> Section<'a> {
    pub(super) fn root(doc: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(doc, String::new(), 0, Some(table), None)
    }

    fn new(
        doc: &'a Document<'a>,
        path: String,
        at: usize,
        own: Option<&'a DeTable<'a>>,
        behind: Option<&'a DeTable<'a>>,
    ) -> Self {
        let (asked, refused, spoilt, replaced) = Default::default();
        let hushed = Cell::new(false);
        Self { doc, path, at, own, behind, is_defaults: false, hushed, asked, refused, spoilt, replaced }
    }

    /// This table is nobody's own: it only speaks where others are silent.
    pub(super) fn into_defaults(self) -> Self {
        Self { is_defaults: true, ..self }
    }

    /// From now on values are checked, but not noted as effective.
    pub(super) fn hush(&self, hushed: bool) {
        self.hushed.set(hushed);
    }

    /// `fallback`'s tables speak where this one is silent.
    pub(super) fn with_defaults(self, fallback: &Self) -> Self {
        Self { behind: fallback.own, ..self }
    }

    /// The table `key` of this one.
    pub(super) fn section(&self, key: &'static str) -> Self {
        self.ask(key);
        let own = self.own.and_then(|table| self.table(table, key, false));
        let behind = self.behind.and_then(|table| self.table(table, key, true));
        let at = own.map_or(self.at, |(at, _)| at);
        let (own, behind) = (own.map(|(_, table)| table), behind.map(|(_, table)| table));
        Self { is_defaults: self.is_defaults, ..Self::new(self.doc, self.path_of(key), at, own, behind) }
    }

    /// The table `key`, unless it is `false`. `true` stands for one that has nothing to say of its own.
    pub(super) fn table_or_flag(&self, key: &'static str) -> Option<Self> {
        let is_table = |found: &Found<'a>| found.value.get_ref().is_table();
        if self.find(key).as_ref().is_some_and(is_table) {
            return Some(self.section(key));
        }
        let given = self.read(key, |scalar| {
            flag(scalar).map_err(|kind| format!("true, false or a table is expected here, not {kind}"))
        });
        if given == Some(true) {
            let behind = self.behind.and_then(|table| self.table(table, key, true)).map(|(_, table)| table);
            let section = Self::new(self.doc, self.path_of(key), self.at, None, behind);
            return Some(Self { is_defaults: self.is_defaults, ..section });
        }
        self.note(key, false.to_string(), self.origin_of(key));
        None
    }

    /// An empty table of this path.
    pub(super) fn named(&self, path: &str) -> Self {
        Self::new(self.doc, path.to_owned(), self.at, None, None)
    }

    /// Every table inside the table `key`, by its free name, in the order of the file.
    pub(super) fn sections(&self, key: &'static str) -> Vec<(&'a str, Self)> {
        let outer = self.section(key);
        let mut sections = Vec::new();
        for (name, _) in outer.own.into_iter().flatten() {
            let name: &'a str = name.get_ref();
            if let Some((at, table)) = outer.own.and_then(|own| outer.table(own, name, false)) {
                let path = outer.path_of(name);
                sections.push((name, Self::new(self.doc, path, at, Some(table), None)));
            }
        }
        sections.sort_by_key(|(_, section)| section.at);
        sections
    }

    /// Every table of the list `key`, in the order of the file.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some(found) = self.find(key) else { return Vec::new() };
        let path = self.path_of(key);
        let Some(list) = found.value.get_ref().as_array() else {
            let message = format!(
                "a list of tables is expected here, such as [[{path}]], not {}",
                kind(found.value.get_ref())
            );
            self.problem_at(&found, &path, message);
            return Vec::new();
        };
        let tables = list.iter().enumerate().filter_map(|(number, value)| {
            let path = format!("{path}[{number}]");
            let Some(table) = value.get_ref().as_table() else {
                let message = format!("a table is expected here, not {}", kind(value.get_ref()));
                self.problem_at(&found.within(value), &path, message);
                return None;
            };
            Some(Self::new(self.doc, path, value.span().start, Some(table), None))
        });
        tables.collect()
    }

    /// Every value inside the table `key`, by its free name, with the offset of its name.
    pub(super) fn entries(&self, key: &'static str) -> Vec<(&'a str, Found<'a>, usize)> {
        let inner = self.section(key);
        let values = inner.own.into_iter().flatten();
        values
            .map(|(name, value)| (&**name.get_ref(), Found { value, behind: false }, name.span().start))
            .collect()
    }

    /// Every text inside the table `key`, by its free name, with the offset of its name.
    pub(super) fn texts(&self, key: &'static str) -> Vec<(usize, &'a str, String)> {
        let inner = self.section(key);
        let mut texts = Vec::new();
        for (name, value) in inner.own.or(inner.behind).into_iter().flatten() {
            let found = Found { value, behind: inner.own.is_none() };
            let path = inner.path_of(name.get_ref());
            match self.scalar(&found, &path) {
                Some(Scalar::Text(text)) => {
                    texts.push((name.span().start, &**name.get_ref(), text.into_owned()));
                }
                Some(other) => {
                    let message = format!("a string is expected here, not {}", other.kind());
                    self.problem_at(&found, &path, message);
                }
                None => {}
            }
        }
        texts
    }

    fn table(&self, outer: &'a DeTable<'a>, key: &str, silent: bool) -> Option<(usize, &'a DeTable<'a>)> {
        let (name, value) = outer.get_key_value(key)?;
        let table = value.get_ref().as_table();
        if table.is_none() && !silent {
            let kind = kind(value.get_ref());
            let path = self.path_of(key);
            let name = if path == "service" { ".NAME" } else { "" };
            let message = format!("a table is expected here, such as [{path}{name}], not {kind}");
            self.doc.problem(self.doc.origin(value.span().start), &self.path_of(key), message);
        }
        Some((name.span().start, table?))
    }

    /// The table itself stands in the file.
    pub(super) fn is_present(&self) -> bool {
        self.own.is_some()
    }

    /// The key stands in this table itself, not only in `[defaults]`.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.ask(key);
        self.own.is_some_and(|table| table.contains_key(key))
    }

    /// Of these keys only one may be given; one that stands here replaces all of them in `[defaults]`.
    pub(super) fn exclusive(&self, keys: &[&'static str]) {
        let mut given = keys.iter().copied().filter(|key| self.has(key));
        let Some(first) = given.next() else { return };
        for other in given {
            self.problem(other, format!("{first} is given too: give only one of them"));
        }
        self.replaced.borrow_mut().extend(keys);
    }

    pub(super) fn find(&self, key: &'static str) -> Option<Found<'a>> {
        self.ask(key);
        let own = self.own.and_then(|table| table.get(key)).map(|value| Found { value, behind: false });
        own.or_else(|| {
            let table = self.behind.filter(|_| !self.replaced.borrow().contains(&key))?;
            table.get(key).map(|value| Found { value, behind: true })
        })
    }

    fn ask(&self, key: &'static str) {
        self.asked.borrow_mut().push(key);
        if !self.is_defaults {
            self.doc.knows(self.path_of(key));
        }
    }

    /// A problem with the value of `key`; with the table, if the key is not there.
    pub(super) fn problem(&self, key: &'static str, message: impl Into<String>) {
        let found = self.own.and_then(|table| table.get(key));
        let at = found.map_or(self.at, |value| value.span().start);
        self.doc.problem(self.doc.origin(at), &self.path_of(key), message);
    }

    /// A problem with the table itself: something that is not in it.
    pub(super) fn missing(&self, message: impl Into<String>) {
        self.doc.problem(self.doc.origin(self.at), &self.path, message);
    }

    /// None of these keys may stand here, although they are no mistakes of spelling.
    pub(super) fn refuse(&self, keys: &[&'static str], why: &str) {
        for key in keys.iter().copied() {
            if let Some((name, _)) = self.own.and_then(|table| table.get_key_value(key)) {
                self.doc.problem(self.doc.origin(name.span().start), &self.path_of(key), why);
            }
        }
        self.refused.borrow_mut().extend(keys);
    }

    /// A problem between keys that are good by themselves: told at the first of them that stands in this table. If all
    /// stand in `[defaults]`, it was told there.
    pub(super) fn conflict(&self, keys: &[&'static str], message: impl Into<String>) {
        let spoilt = keys.iter().any(|key| self.spoilt.borrow().contains(key));
        if let Some(key) = keys.iter().copied().find(|key| !spoilt && self.has(key)) {
            self.problem(key, message);
        }
    }

    pub(super) fn problem_at(&self, found: &Found<'_>, path: &str, message: impl Into<String>) {
        if !found.behind {
            self.doc.problem(self.doc.origin(found.value.span().start), path, message);
        }
    }

    /// A value with its variables replaced; those that cannot be are problems.
    pub(super) fn scalar(&self, found: &Found<'a>, path: &str) -> Option<Scalar<'a>> {
        let scalar = self.doc.scalar(found.value.get_ref());
        let told =
            scalar.map_err(|errors| errors.into_iter().for_each(|error| self.problem_at(found, path, error)));
        told.ok()
    }

    /// The value of `key` was no good.
    pub(super) fn spoil(&self, key: &'static str) {
        self.spoilt.borrow_mut().push(key);
    }

    /// Where the effective value of `key` comes from.
    pub(super) fn origin_of(&self, key: &'static str) -> Origin {
        self.find(key).map_or(Origin::Default, |found| self.doc.origin(found.value.span().start))
    }

    /// Remembers the effective value of `key`.
    pub(super) fn note(&self, key: &'static str, value: String, origin: Origin) {
        if !self.is_defaults && !self.hushed.get() {
            self.doc.note(self.path_of(key), value, origin);
        }
    }

    /// The path of a key of this table, as TOML would write it.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (name, _) in self.own.into_iter().flatten() {
            let key: &str = name.get_ref();
            if asked.contains(&key) || self.refused.borrow().contains(&key) {
                continue;
            }
            let mut hint = suggestion(key, asked.iter().copied());
            if hint.is_empty() {
                let mut accepted = asked.clone();
                accepted.sort_unstable();
                accepted.dedup();
                hint = format!(" accepted here: {}", accepted.join(", "));
            }
            let message = format!("unknown key;{hint}");
            self.doc.problem(self.doc.origin(name.span().start), &self.path_of(key), message);
        }
    }
}

/// The path of `key` inside the table `path`, as TOML would write it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let plain = !key.is_empty() && key.chars().all(bare);
    let key = if plain { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
