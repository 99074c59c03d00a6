//! The configuration as a tree of values that know where they were written: the file's, with `--set` laid over it and
//! `${NAME}` replaced from the environment. What a value was before that replacement is kept for `config show`.

use toml::de::{DeTable, DeValue};

use super::error::{Mistake, Place, wrong};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) value: Value,
    /// As TOML, before `${NAME}` was replaced: what may be shown.
    pub(super) shown: String,
    /// The text of a `--set`, which may have looked like another type than the key's.
    pub(super) raw: Option<String>,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    Integer(i64),
    Boolean(bool),
    Array(Vec<Item>),
    Table(Table),
    /// A float or a date: no key takes one.
    Other(&'static str),
}

/// Keys in the file's order.
pub(super) type Table = Vec<(String, Item)>;

/// Reads an environment variable.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Tables that are written `[[name]]`, with the key that names an entry, if there is one.
const ARRAYS: [(&str, Option<&str>); 4] = [
    ("listener", None),
    ("topic", Some("name")),
    ("route", None),
    ("upstream", Some("name")),
];

impl Value {
    /// For error texts.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Parses a whole file.
pub(super) fn parse(text: &str, variable: Variable<'_>) -> Result<Table, Mistake> {
    let parsed = DeTable::parse(text).map_err(|e| {
        let line = e.span().map_or(1, |span| line_at(text, span.start));
        let cause = e.message().lines().collect::<Vec<_>>().join(", ");
        syntax_mistake(Place::Line(line), &cause)
    })?;
    table(parsed.get_ref(), &|start| Place::Line(line_at(text, start)), variable)
}

fn syntax_mistake(place: Place, cause: &str) -> Mistake {
    let hint = if cause.contains("duplicate key") {
        "keep one of the two"
    } else {
        "key = \"value\", with text in quotes; `headwater config default` prints a whole file"
    };
    Mistake {
        place,
        cause: cause.to_owned(),
        hint: hint.to_owned(),
    }
}

/// Lays one `KEY=VALUE` over the tree.
pub(super) fn set(root: &mut Table, argument: &str, variable: Variable<'_>) -> Result<(), Mistake> {
    let Some((key, text)) = argument.split_once('=') else {
        return wrong(
            &Place::Set(argument.to_owned()),
            "there is no '=' in it",
            "--set listen.mqtt=127.0.0.1:1884",
        );
    };
    let (key, text) = (key.trim(), text.trim());
    let place = Place::Set(key.to_owned());
    let path = match split_path(key) {
        Some(path) => path,
        None => {
            return wrong(
                &place,
                "that is not a dotted path",
                "--set section.key=value, or topic.\"a.b\".key for a name with dots",
            );
        }
    };
    let mut item = parse_value(text, &place, variable)?;
    item.raw = Some(substitute(text, &place, variable)?);
    insert(root, &path, item, &place)
}

/// A `--set` value is TOML where it parses as such, else a plain string, so that no shell needs two kinds of quotes.
fn parse_value(text: &str, place: &Place, variable: Variable<'_>) -> Result<Item, Mistake> {
    // One line only: a value cannot bring keys of its own.
    let parsed = (!text.contains('\n')).then(|| DeValue::parse(text).ok()).flatten();
    match parsed {
        Some(parsed) => item(parsed.get_ref(), place.clone(), &|_| place.clone(), variable),
        None => Ok(Item {
            place: place.clone(),
            value: Value::String(substitute(text, place, variable)?),
            shown: quote(text),
            raw: None,
        }),
    }
}

fn insert(table: &mut Table, path: &[String], item: Item, place: &Place) -> Result<(), Mistake> {
    let (first, rest) = path.split_first().expect("a path has a key");
    if let (Some((_, name_key)), Some((selector, inner))) =
        (ARRAYS.iter().find(|(n, _)| n == first), rest.split_first())
    {
        if inner.is_empty() {
            return wrong(
                place,
                format!("{first}.{selector} is a table, not a value"),
                format!("{first}.{selector}.KEY=VALUE"),
            );
        }
        return insert(entry(table, first, selector, *name_key, place)?, inner, item, place);
    }
    let at = table.iter().position(|(key, _)| key == first);
    if rest.is_empty() {
        match at.and_then(|at| table.get_mut(at)) {
            Some((_, old)) => *old = item,
            None => table.push((first.clone(), item)),
        }
        return Ok(());
    }
    let at = at.unwrap_or_else(|| {
        table.push((first.clone(), empty_table(place)));
        table.len() - 1
    });
    match &mut table[at].1.value {
        Value::Table(inner) => insert(inner, rest, item, place),
        _ => wrong(
            place,
            format!("{first} is a value, not a table"),
            format!("--set {first}=VALUE"),
        ),
    }
}

/// The entry of an array of tables that a selector means: a number is an index (the next free one appends), anything else a
/// name (a new one appends).
fn entry<'t>(
    root: &'t mut Table,
    array: &str,
    selector: &str,
    name_key: Option<&str>,
    place: &Place,
) -> Result<&'t mut Table, Mistake> {
    let at = root.iter().position(|(key, _)| key == array).unwrap_or_else(|| {
        let value = Value::Array(Vec::new());
        root.push((
            array.to_owned(),
            Item {
                value,
                ..empty_table(place)
            },
        ));
        root.len() - 1
    });
    let Value::Array(entries) = &mut root[at].1.value else {
        return wrong(
            place,
            format!("{array} is not an array of tables in the file"),
            format!("write it as [[{array}]] there"),
        );
    };
    let count = entries.len();
    let named = |item: &Item| match &item.value {
        Value::Table(table) => table.iter().any(|(key, item)| {
            Some(key.as_str()) == name_key && matches!(&item.value, Value::String(s) if s == selector)
        }),
        _ => false,
    };
    let index = match (entries.iter().position(named), selector.parse::<usize>()) {
        (Some(index), _) => index,
        (None, Ok(index)) if index <= count => index,
        (None, Ok(index)) => {
            return wrong(
                place,
                format!("there is no [[{array}]] number {index}: there are {count}, counted from 0"),
                format!("{array}.{count} to add one"),
            );
        }
        (None, Err(_)) if name_key.is_some() => count,
        (None, Err(_)) => {
            return wrong(
                place,
                format!("a [[{array}]] has no name: {selector:?} is not a number"),
                format!("{array}.0 for the first one"),
            );
        }
    };
    if index == count {
        let mut added = Table::new();
        if let (Some(name_key), Err(_)) = (name_key, selector.parse::<usize>()) {
            let name = Item {
                place: place.clone(),
                value: Value::String(selector.to_owned()),
                shown: quote(selector),
                raw: None,
            };
            added.push((name_key.to_owned(), name));
        }
        entries.push(Item {
            value: Value::Table(added),
            ..empty_table(place)
        });
    }
    match &mut entries[index].value {
        Value::Table(table) => Ok(table),
        _ => wrong(
            place,
            format!("{array} has an entry that is not a table"),
            format!("write it as [[{array}]]"),
        ),
    }
}

fn empty_table(place: &Place) -> Item {
    Item {
        place: place.clone(),
        value: Value::Table(Table::new()),
        shown: String::new(),
        raw: None,
    }
}

/// Splits `a.b."c.d"`.
fn split_path(key: &str) -> Option<Vec<String>> {
    let mut path = vec![];
    let mut rest = key;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if part.is_empty() {
            return None;
        }
        path.push(part.to_owned());
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(path),
            None => return None,
        }
    }
}

fn table(parsed: &DeTable<'_>, place_at: &dyn Fn(usize) -> Place, variable: Variable<'_>) -> Result<Table, Mistake> {
    let mut entries: Vec<_> = parsed.iter().collect();
    // The parser sorts by name; people expect headers and tables in the order they wrote them.
    entries.sort_by_key(|(key, _)| key.span().start);
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        let item = item(value.get_ref(), place_at(key.span().start), place_at, variable)?;
        Ok((name.to_string(), item))
    };
    entries.into_iter().map(entry).collect()
}

fn item(
    parsed: &DeValue<'_>,
    place: Place,
    place_at: &dyn Fn(usize) -> Place,
    variable: Variable<'_>,
) -> Result<Item, Mistake> {
    let (value, shown) = match parsed {
        DeValue::String(text) => (Value::String(substitute(text, &place, variable)?), quote(text)),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            match i64::from_str_radix(&digits, number.radix()) {
                Ok(value) => (Value::Integer(value), value.to_string()),
                Err(_) => {
                    return wrong(
                        &place,
                        format!("{digits} is too large a number"),
                        "one that fits 64 bits",
                    );
                }
            }
        }
        DeValue::Boolean(flag) => (Value::Boolean(*flag), flag.to_string()),
        DeValue::Float(_) => (Value::Other("a number with a fraction"), String::new()),
        DeValue::Datetime(_) => (Value::Other("a date or time"), String::new()),
        DeValue::Array(entries) => {
            let entry =
                |e: &toml::Spanned<DeValue<'_>>| item(e.get_ref(), place_at(e.span().start), place_at, variable);
            let entries = entries.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
            let shown: Vec<_> = entries.iter().map(|e| e.shown.as_str()).collect();
            let shown = format!("[{}]", shown.join(", "));
            (Value::Array(entries), shown)
        }
        DeValue::Table(inner) => {
            let inner = table(inner, place_at, variable)?;
            let shown: Vec<_> = inner
                .iter()
                .map(|(key, item)| format!("{} = {}", quote_key(key), item.shown))
                .collect();
            let shown = format!("{{ {} }}", shown.join(", "));
            (Value::Table(inner), shown)
        }
    };
    Ok(Item {
        place,
        value,
        shown,
        raw: None,
    })
}

/// Replaces every `${NAME}`; `$${` stands for a plain `${`.
fn substitute(text: &str, place: &Place, variable: Variable<'_>) -> Result<String, Mistake> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let Some((name, after)) = from[2..].split_once('}') else {
            return wrong(place, "a ${ without its }", "${NAME}, or $${ for a plain ${");
        };
        match variable(name) {
            Some(value) => out.push_str(&value),
            None => {
                return wrong(
                    place,
                    format!("the environment has no variable {name:?}"),
                    format!("{name}=... headwater serve, or Environment= in the systemd unit"),
                );
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// A TOML string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A TOML key, quoted where it must be.
pub(super) fn quote_key(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { quote(key) }
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}
