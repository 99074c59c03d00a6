//! What is wrong with a configuration, where, and what to try: `FILE:LINE: cause. Try: hint`.

use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// `--set` with this key.
    Set(String),
}

impl Place {
    /// The line in the file, 0 for what `--set` brought.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::Line(line) => *line,
            Self::Set(_) => 0,
        }
    }
}

/// A mistake before the file's name is known.
#[derive(Clone, Debug)]
pub(super) struct Mistake {
    pub(super) place: Place,
    pub(super) cause: String,
    pub(super) hint: String,
}

/// Shorthand for a mistake.
pub(super) fn wrong<T>(place: &Place, cause: impl Into<String>, hint: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake {
        place: place.clone(),
        cause: cause.into(),
        hint: hint.into(),
    })
}

/// Why a configuration was refused. Its text is one line: place, cause, and what to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    place: String,
    cause: String,
    hint: String,
}

impl ConfigError {
    /// A refusal of a line of the file by a room that looks closer, such as `route`; line 0 is the file as a whole.
    pub fn at_line(file: &str, line: usize, cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            place: if line == 0 {
                file.to_owned()
            } else {
                format!("{file}:{line}")
            },
            cause: cause.into(),
            hint: hint.into(),
        }
    }

    pub(super) fn new(file: &str, mistake: Mistake) -> Self {
        match &mistake.place {
            Place::Line(line) => Self::at_line(file, *line, mistake.cause, mistake.hint),
            Place::Set(key) => Self {
                place: format!("--set {key}"),
                cause: mistake.cause,
                hint: mistake.hint,
            },
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. Try: {}", self.place, self.cause, self.hint)
    }
}

impl std::error::Error for ConfigError {}
