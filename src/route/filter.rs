//! An MQTT filter whose wildcards may have names: `plant/+line/+machine/#rest`. Matching follows MQTT 5.0, section 4.7: `#`
//! includes the parent level, and a wildcard at the start never matches a name that begins with `$`.

use super::template::RESERVED;

/// A parsed filter.
#[derive(Clone, Debug)]
pub struct Filter {
    levels: Vec<Level>,
    names: Vec<Option<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(String),
    One,
    Rest,
}

impl Filter {
    /// Parses; the error is cause and `Try:`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err("a filter cannot be empty. Try: \"#\" for everything".to_owned());
        }
        let mut filter = Self {
            levels: Vec::new(),
            names: Vec::new(),
        };
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let last = levels.peek().is_none();
            if let Some(name) = level.strip_prefix('+') {
                filter.name(name)?;
                filter.levels.push(Level::One);
            } else if let Some(name) = level.strip_prefix('#') {
                if !last {
                    return Err(format!(
                        "{text:?}: '#' must be the last level. Try: '+' for one level in the middle"
                    ));
                }
                filter.name(name)?;
                filter.levels.push(Level::Rest);
            } else if level.contains(['+', '#']) {
                return Err(format!(
                    "{text:?}: a wildcard must begin its level. Try: \"+name\" for a whole level, \"#name\" for the rest"
                ));
            } else {
                filter.levels.push(Level::Literal(level.to_owned()));
            }
        }
        Ok(filter)
    }

    /// Names of the wildcards, in order; `None` for one without a name.
    pub(super) fn names(&self) -> &[Option<String>] {
        &self.names
    }

    /// What each wildcard stands for, in order, when the name matches.
    pub fn captures<'a>(&self, name: &'a str) -> Option<Vec<&'a str>> {
        let wild_start = !matches!(self.levels.first(), Some(Level::Literal(_)));
        if wild_start && name.starts_with('$') {
            return None;
        }
        let mut captures = Vec::with_capacity(self.names.len());
        let mut rest = Some(name);
        for level in &self.levels {
            if *level == Level::Rest {
                captures.push(rest.unwrap_or(""));
                return Some(captures);
            }
            let here = rest?;
            let (first, after) = match here.split_once('/') {
                Some((first, after)) => (first, Some(after)),
                None => (here, None),
            };
            match level {
                Level::Literal(literal) if literal != first => return None,
                Level::One => captures.push(first),
                _ => {}
            }
            rest = after;
        }
        rest.is_none().then_some(captures)
    }

    fn name(&mut self, name: &str) -> Result<(), String> {
        if name.is_empty() {
            self.names.push(None);
            return Ok(());
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.chars().all(legal) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!(
                "{name:?} cannot name a wildcard. Try: letters, digits and '_', not a digit first"
            ));
        }
        if RESERVED.contains(&name) {
            return Err(format!("{name:?} means something else in templates. Try: another name"));
        }
        if self.names.iter().flatten().any(|n| n == name) {
            return Err(format!(
                "two wildcards are named {name:?}. Try: a name of its own for each"
            ));
        }
        self.names.push(Some(name.to_owned()));
        Ok(())
    }
}
