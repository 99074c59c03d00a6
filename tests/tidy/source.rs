//! Rust source as rules look at it: comments and literals blanked out, so that only code is searched, and each line known as
//! test code or not. Not a parser; what it cannot see (a macro that builds a path) no rule needs.

/// One file's code, line by line, as long as the file.
pub struct Source {
    /// Lines with comments, strings and character literals replaced by blanks.
    pub lines: Vec<String>,
    /// Whether the line stands in `#[cfg(test)]` code.
    pub test: Vec<bool>,
}

impl Source {
    /// `test_file`: the whole file is test code.
    pub fn parse(text: &str, test_file: bool) -> Self {
        let lines: Vec<String> = blank(text).lines().map(Into::into).collect();
        let test = if test_file {
            vec![true; lines.len()]
        } else {
            test_lines(&lines)
        };
        Self { lines, test }
    }

    /// Lines of code with their numbers from 1, without those of tests.
    pub fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        self.numbered().filter(|(n, _)| !self.test[n - 1])
    }

    /// Lines of test code with their numbers from 1.
    pub fn tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.numbered().filter(|(n, _)| self.test[n - 1])
    }

    /// All lines with their numbers from 1.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().map(|(i, line)| (i + 1, line.as_str()))
    }
}

/// Whether a path holds nothing but test code, by its name.
pub fn is_test_path(path: &str) -> bool {
    path.starts_with("tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || path.contains("/tests/")
        || path.ends_with("/conformance.rs")
}

/// Whether `name` stands in `line` as a word of its own.
pub fn has_word(line: &str, name: &str) -> bool {
    places(line, name).next().is_some()
}

/// Byte positions at which `name` stands in `line` with no identifier character right before or after it.
pub fn places<'a>(line: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        let edge = |c: Option<char>| c.is_none_or(|c| !word(c));
        // A name that itself begins or ends with punctuation needs no edge there.
        (edge(before) || !name.starts_with(word)) && (edge(after) || !name.ends_with(word))
    })
}

/// Replaces comments and the inside of literals by blanks; keeps line breaks.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => line_end(&chars, at),
            ('/', Some('*')) => comment_end(&chars, at),
            ('"', _) => string_end(&chars, at + 1),
            ('r', Some('"' | '#')) if !in_word(&chars, at) => raw_end(&chars, at),
            ('b', Some('r')) if !in_word(&chars, at) => raw_end(&chars, at + 1),
            ('\'', _) => char_end(&chars, at),
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

fn in_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..]
        .iter()
        .position(|c| *c == '\n')
        .map_or(chars.len(), |n| at + n)
}

fn comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `at` is at the `r` of a raw string, or of a raw identifier, which is left alone.
fn raw_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return at;
    }
    let closes = |from: usize| {
        chars[from] == '"' && chars[from + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    let end = (open + 1..chars.len()).find(|from| closes(*from));
    end.map_or(chars.len(), |from| from + 1 + hashes)
}

/// A character literal, or just past nothing for a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => chars[at + 3..]
            .iter()
            .position(|c| *c == '\'')
            .map_or(at, |n| at + 3 + n + 1),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

/// Marks the block that follows each `#[cfg(test)]`.
fn test_lines(lines: &[String]) -> Vec<bool> {
    let mut test = vec![false; lines.len()];
    let mut n = 0;
    while n < lines.len() {
        if !lines[n].contains("#[cfg(test)]") {
            n += 1;
            continue;
        }
        let (mut depth, mut opened) = (0i32, false);
        while n < lines.len() {
            test[n] = true;
            let line = lines[n].replace("#[cfg(test)]", "");
            for c in line.chars() {
                depth += i32::from(c == '{') - i32::from(c == '}');
                opened |= c == '{';
            }
            n += 1;
            // A block is over at its closing brace, an item without one at its semicolon.
            if depth == 0 && (opened || line.trim_end().ends_with(';')) {
                break;
            }
        }
    }
    test
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "let a = \"redb\"; // redb\nlet b = r#\"re\"db\"#; /* redb\nredb */ let c = 'r'; let d: &'static str = b\"redb\";";
        let source = Source::parse(text, false);
        assert!(source.lines.iter().all(|line| !line.contains("redb")));
        assert!(source.lines[2].contains("let c ="));
        assert!(source.lines[2].contains("'static str"));
    }

    #[test]
    fn test_blocks_are_known() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[cfg(test)]\nuse x::y;\nfn c() {}";
        let source = Source::parse(text, false);
        assert_eq!(source.test, [false, true, true, true, true, true, true, false]);
    }

    #[test]
    fn words_have_edges() {
        assert!(has_word("use redb::Database;", "redb"));
        assert!(!has_word("mod myredb;", "redb"));
        assert!(has_word("mpsc::channel(", "mpsc::channel"));
        assert!(!has_word("mpsc::channels(", "mpsc::channel"));
    }
}
