//! The pre-shared keys of a listener: a text file with a line `device-id:hexkey` for each device. Empty lines and lines that
//! begin with `#` mean nothing. A key has 16 to 64 bytes.

use std::collections::HashMap;
use std::path::Path;

/// Keys by device id. Not shown by `Debug`.
pub struct Keys(HashMap<String, Vec<u8>>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys of {} devices", self.0.len())
    }
}

impl Keys {
    /// No keys: nobody gets in.
    pub fn none() -> Self {
        Self(HashMap::new())
    }

    /// Parses the text of a key file. The error has line, cause and `Try:`, and no key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = HashMap::new();
        for (line, number) in text.lines().zip(1usize..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // An id may hold a colon; hex digits never do.
            let Some((device, key)) = line.rsplit_once(':') else {
                return Err(format!("line {number}: no ':' in it. Try: device-id:hex-key"));
            };
            if !(1..=headwater_wire::DEVICE_BYTES_MAX).contains(&device.len()) {
                return Err(format!(
                    "line {number}: the device id must have 1 to 64 bytes. Try: a shorter id"
                ));
            }
            let Some(key) = hex(key.trim()).filter(|k| (16..=64).contains(&k.len())) else {
                return Err(format!(
                    "line {number}: the key must be 32 to 128 hex digits. Try: `openssl rand -hex 32`"
                ));
            };
            if keys.insert(device.to_owned(), key).is_some() {
                return Err(format!(
                    "line {number}: the device {device:?} is there twice. Try: one line a device"
                ));
            }
        }
        Ok(Self(keys))
    }

    /// Reads and parses a key file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("{}: {e}. Try: a file that headwater may read", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// The key of a device.
    pub fn key(&self, device: &str) -> Option<&[u8]> {
        self.0.get(device).map(Vec::as_slice)
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let digits = digits?;
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some((high << 4) | low),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_read_or_refused_with_its_line() {
        let keys = Keys::parse("# pumps\n\npump:7:000102030405060708090a0b0c0d0e0F\n").unwrap();
        assert_eq!(keys.key("pump:7").map(|k| (k.len(), k[15])), Some((16, 15)));
        assert_eq!(keys.key("pump"), None);
        for (text, cause) in [
            ("pump", "line 1: no ':'"),
            ("\npump:00", "line 2: the key"),
            (":000102030405060708090a0b0c0d0e0f", "line 1: the device id"),
            ("x:000102030405060708090a0b0c0d0e0", "line 1: the key"),
        ] {
            let why = Keys::parse(text).unwrap_err();
            assert!(why.starts_with(cause), "{why}");
        }
    }
}
