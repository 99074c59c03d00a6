//! A table while it is read: typed values with their defaults, a record of which keys are known (what is left over at the end is
//! refused with the nearest known one) and of what is in force, for `config show`.

use std::ops::RangeInclusive;

use super::error::{Mistake, Place, wrong};
use super::tree::{Item, Table, Value, quote};
use super::units;
use crate::model::nearest;

/// Keys of a table with their values, in the file's order.
type Entries<'t> = &'t [(String, Item)];

/// A table being read.
pub(super) struct Section<'t> {
    /// Shown before keys in error texts: `listen.`, or nothing at the top.
    prefix: String,
    place: Place,
    table: &'t [(String, Item)],
    known: Vec<&'static str>,
    /// `key = value` lines of what is in force.
    pub(super) shown: String,
}

/// What a duration or size key says that has no bound.
const UNBOUNDED: &str = "unlimited";

impl<'t> Section<'t> {
    /// A section over a table; an absent one is empty.
    pub(super) fn new(name: &str, place: Place, table: &'t [(String, Item)]) -> Self {
        Self {
            prefix: if name.is_empty() {
                String::new()
            } else {
                format!("{name}.")
            },
            place,
            table,
            known: Vec::new(),
            shown: String::new(),
        }
    }

    /// Where the section begins.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Where a key was written, or else the section.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let found = self.table.iter().find(|(k, _)| k == key);
        found.map_or(&self.place, |(_, item)| &item.place).clone()
    }

    /// The item of a key, which is known from now on.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'t Item> {
        self.known.push(key);
        self.table.iter().find(|(k, _)| k == key).map(|(_, item)| item)
    }

    fn show(&mut self, key: &str, value: &str) {
        self.shown.push_str(&format!("{key} = {value}\n"));
    }

    /// A sub-table.
    pub(super) fn table(&mut self, key: &'static str) -> Result<(Place, Entries<'t>), Mistake> {
        match self.take(key) {
            None => Ok((self.place.clone(), &[])),
            Some(Item {
                value: Value::Table(table),
                place,
                ..
            }) => Ok((place.clone(), table)),
            Some(item) => self.mismatch(key, item, &format!("[{key}] with keys below it")),
        }
    }

    /// An array of tables.
    pub(super) fn tables(&mut self, key: &'static str) -> Result<Vec<(Place, &'t Table)>, Mistake> {
        let Some(item) = self.take(key) else { return Ok(vec![]) };
        let hint = format!("[[{key}]] with keys below it");
        let Value::Array(entries) = &item.value else {
            return self.mismatch(key, item, &hint);
        };
        let entry = |e: &'t Item| match &e.value {
            Value::Table(table) => Ok((e.place.clone(), table)),
            _ => self.mismatch(key, e, &hint),
        };
        entries.iter().map(entry).collect()
    }

    /// A string, if it is there.
    pub(super) fn text_if(&mut self, key: &'static str) -> Result<Option<String>, Mistake> {
        let Some(item) = self.take(key) else { return Ok(None) };
        match (&item.value, &item.raw) {
            (Value::String(text), _) => {
                self.show(key, &item.shown);
                Ok(Some(text.clone()))
            }
            // `--set node.name=7`: the key decides what it is.
            (_, Some(raw)) => {
                self.show(key, &quote(raw));
                Ok(Some(raw.clone()))
            }
            _ => self.mismatch(key, item, &format!("{key} = \"text in quotes\"")),
        }
    }

    /// A string with a default.
    pub(super) fn text(&mut self, key: &'static str, default: &str) -> Result<String, Mistake> {
        Ok(match self.text_if(key)? {
            Some(text) => text,
            None => {
                self.show(key, &quote(default));
                default.to_owned()
            }
        })
    }

    /// A string that must be there and not be empty.
    pub(super) fn text_required(&mut self, key: &'static str, example: &str) -> Result<String, Mistake> {
        match self.text_if(key)? {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) => wrong(
                &self.place_of(key),
                format!("{}{key} is empty", self.prefix),
                format!("{key} = {example}"),
            ),
            None => wrong(
                &self.place,
                format!("{}{key} is missing", self.prefix),
                format!("{key} = {example}"),
            ),
        }
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, Mistake> {
        let flag = self.flag_if(key)?;
        if flag.is_none() {
            self.show(key, &default.to_string());
        }
        Ok(flag.unwrap_or(default))
    }

    /// True or false, if it is there.
    pub(super) fn flag_if(&mut self, key: &'static str) -> Result<Option<bool>, Mistake> {
        let Some(item) = self.take(key) else { return Ok(None) };
        let Value::Boolean(flag) = item.value else {
            return self.mismatch(key, item, &format!("{key} = true, or false"));
        };
        self.show(key, &item.shown);
        Ok(Some(flag))
    }

    /// A whole number in a range, if it is there.
    pub(super) fn number_if(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, Mistake> {
        let Some(item) = self.take(key) else { return Ok(None) };
        let (low, high) = (range.start(), range.end());
        let hint = format!("{key} = a whole number from {low} to {high}");
        let Value::Integer(number) = item.value else {
            return self.mismatch(key, item, &hint);
        };
        self.show(key, &item.shown);
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => wrong(
                &item.place,
                format!("{}{key} = {number} is out of range", self.prefix),
                hint,
            ),
        }
    }

    /// A whole number in a range.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Result<u64, Mistake> {
        let number = self.number_if(key, range)?;
        if number.is_none() {
            self.show(key, &default.to_string());
        }
        Ok(number.unwrap_or(default))
    }

    /// A size in a range; the bounds and the default are written as people write them.
    pub(super) fn size(&mut self, key: &'static str, low: &str, high: &str, default: &str) -> Result<usize, Mistake> {
        let text = self.text(key, default)?;
        let bytes = |text: &str| units::size_bytes(text).unwrap_or_else(|| panic!("{key}: {text:?} is our own"));
        let (low_bytes, high_bytes) = (bytes(low), bytes(high));
        let hint = format!("{key} = \"{default}\"; it may be {low} to {high}");
        match units::size_bytes(&text) {
            Some(n) if (low_bytes..=high_bytes).contains(&n) => Ok(usize::try_from(n).unwrap_or(usize::MAX)),
            Some(_) => wrong(
                &self.place_of(key),
                format!("{}{key} = {text:?} is out of range", self.prefix),
                hint,
            ),
            None => wrong(
                &self.place_of(key),
                format!("{}{key} = {text:?} is not a size", self.prefix),
                hint,
            ),
        }
    }

    /// A duration in milliseconds in a range.
    pub(super) fn duration_ms(
        &mut self,
        key: &'static str,
        low: &str,
        high: &str,
        default: &str,
    ) -> Result<u64, Mistake> {
        let text = self.text(key, default)?;
        let ms = |text: &str| units::duration_ms(text).unwrap_or_else(|| panic!("{key}: {text:?} is our own"));
        let (low_ms, high_ms) = (ms(low), ms(high));
        let hint = format!("{key} = \"{default}\"; it may be {low} to {high}");
        match units::duration_ms(&text) {
            Some(n) if (low_ms..=high_ms).contains(&n) => Ok(n),
            Some(_) => wrong(
                &self.place_of(key),
                format!("{}{key} = {text:?} is out of range", self.prefix),
                hint,
            ),
            None => wrong(
                &self.place_of(key),
                format!("{}{key} = {text:?} is not a duration", self.prefix),
                hint,
            ),
        }
    }

    /// What a text with a unit or `unlimited` says; the text is one that `text` or `text_if` gave for this key.
    pub(super) fn bound(
        &self,
        key: &'static str,
        text: &str,
        parse: fn(&str) -> Option<u64>,
        example: &str,
    ) -> Result<Option<u64>, Mistake> {
        if text == UNBOUNDED {
            return Ok(None);
        }
        match parse(text) {
            Some(n) if n > 0 && n <= i64::MAX as u64 => Ok(Some(n)),
            _ => wrong(
                &self.place_of(key),
                format!("{}{key} = {text:?} is not a positive amount with a unit", self.prefix),
                format!("{key} = \"{example}\", or \"{UNBOUNDED}\""),
            ),
        }
    }

    /// A list of strings, each with its place; one string is a list of one, and a `--set` may separate them by commas.
    pub(super) fn list(&mut self, key: &'static str, default: &[&str]) -> Result<Vec<(Place, String)>, Mistake> {
        let Some(item) = self.take(key) else {
            let quoted: Vec<_> = default.iter().map(|text| quote(text)).collect();
            self.show(key, &format!("[{}]", quoted.join(", ")));
            return Ok(default
                .iter()
                .map(|text| (self.place.clone(), (*text).to_owned()))
                .collect());
        };
        let hint = format!("{key} = [\"one\", \"two\"]");
        let list = match (&item.value, &item.raw) {
            (Value::Array(entries), _) => {
                let entry = |e: &Item| match &e.value {
                    Value::String(text) => Ok((e.place.clone(), text.clone())),
                    _ => self.mismatch(key, e, &hint),
                };
                entries.iter().map(entry).collect::<Result<_, _>>()?
            }
            (Value::String(text), None) => vec![(item.place.clone(), text.clone())],
            (Value::String(text), Some(_)) => text
                .split(',')
                .map(|part| (item.place.clone(), part.trim().to_owned()))
                .collect(),
            _ => return self.mismatch(key, item, &hint),
        };
        match (&item.value, &item.raw) {
            (Value::String(_), Some(_)) => {
                // Shown as the list it became, from the text in which ${NAME} stays as written.
                let inner = item.shown.trim_matches('"');
                let parts: Vec<_> = inner.split(',').map(|part| format!("\"{}\"", part.trim())).collect();
                self.show(key, &format!("[{}]", parts.join(", ")));
            }
            (Value::String(_), None) => self.show(key, &format!("[{}]", item.shown)),
            _ => self.show(key, &item.shown),
        }
        Ok(list)
    }

    /// A table of strings, in the file's order.
    pub(super) fn pairs(&mut self, key: &'static str) -> Result<Vec<(String, String)>, Mistake> {
        let Some(item) = self.take(key) else { return Ok(vec![]) };
        let hint = format!("{key} = {{ name = \"text\" }}");
        let Value::Table(table) = &item.value else {
            return self.mismatch(key, item, &hint);
        };
        self.show(key, &item.shown);
        let entry = |(name, item): &(String, Item)| match (&item.value, &item.raw) {
            (Value::String(text), _) => Ok((name.clone(), text.clone())),
            (_, Some(raw)) => Ok((name.clone(), raw.clone())),
            _ => self.mismatch(name, item, &hint),
        };
        table.iter().map(entry).collect()
    }

    fn mismatch<T>(&self, key: &str, item: &Item, hint: &str) -> Result<T, Mistake> {
        wrong(
            &item.place,
            format!("{}{key} cannot be {}", self.prefix, item.value.kind()),
            hint,
        )
    }

    /// Refuses what was not asked for, with the nearest known key.
    pub(super) fn finish(self) -> Result<String, Mistake> {
        for (key, item) in self.table {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let hint = match nearest(key, self.known.iter().copied()) {
                Some(nearest) => format!("\"{nearest}\""),
                None => format!("one of {}", self.known.join(", ")),
            };
            return wrong(&item.place, format!("unknown key \"{}{key}\"", self.prefix), hint);
        }
        Ok(self.shown)
    }
}
