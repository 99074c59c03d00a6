//! Descriptors of messages and the walk along them. The walk allocates nothing and goes only as deep as the descriptor.

use super::WireError;

/// The fields of a message or of an array's element.
#[derive(Debug)]
pub(super) struct Struct {
    pub(super) fields: &'static [Field],
    /// Tagged fields that the codec reads by their content; any other is skipped by its size.
    pub(super) tags: &'static [Tag],
}

/// One field and the versions that have it.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) from: i16,
    pub(super) to: i16,
    pub(super) kind: Kind,
}

/// One tagged field and the first version that has it.
#[derive(Debug)]
pub(super) struct Tag {
    pub(super) tag: u32,
    pub(super) from: i16,
    pub(super) kind: Kind,
}

/// How a field lies in the bytes. Strings, bytes and arrays are compact in flexible versions; each may be null as far as the
/// walk is concerned: the codec knows where null is legal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uuid,
    Str,
    Bytes,
    /// An array of structs.
    Many(&'static Struct),
    /// An array of one primitive.
    List(&'static Kind),
    /// A struct in place.
    One(&'static Struct),
}

/// A struct without tagged fields of its own.
pub(super) const fn plain(fields: &'static [Field]) -> Struct {
    Struct { fields, tags: &[] }
}

/// A field of every version.
pub(super) const fn all(kind: Kind) -> Field {
    between(0, i16::MAX, kind)
}

/// A field of this version and later ones.
pub(super) const fn since(from: i16, kind: Kind) -> Field {
    between(from, i16::MAX, kind)
}

/// A field of this version and earlier ones.
pub(super) const fn until(to: i16, kind: Kind) -> Field {
    between(0, to, kind)
}

/// A field of a range of versions, both ends included.
pub(super) const fn between(from: i16, to: i16, kind: Kind) -> Field {
    Field { from, to, kind }
}

/// What the walk goes along.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) body: &'static Struct,
    pub(super) version: i16,
    pub(super) flexible: bool,
    /// Array elements and unknown tagged fields allowed in the whole message: the codec keeps memory for each.
    pub(super) elements_max: usize,
}

/// Proves that the message at the front of `body` can be decoded without trusting any length in it, and gives the bytes that it
/// takes: what is behind them is proven by nobody and must not reach the codec.
pub(super) fn walk(body: &[u8], shape: Shape) -> Result<usize, WireError> {
    let mut walk = Walk::new(body, shape);
    walk.fields(shape.body)?;
    Ok(walk.at())
}

/// Skips a header's tagged fields, none of which is known: returns how many bytes they take.
pub(super) fn skip_tags(bytes: &[u8]) -> Result<usize, WireError> {
    const NONE: Struct = plain(&[]);
    let mut walk = Walk::new(
        bytes,
        Shape {
            body: &NONE,
            version: 0,
            flexible: true,
            elements_max: 64,
        },
    );
    walk.fields(&NONE)?;
    Ok(walk.at())
}

struct Walk<'a> {
    whole_bytes: usize,
    rest: &'a [u8],
    shape: Shape,
    elements_left: usize,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], shape: Shape) -> Self {
        Self {
            whole_bytes: bytes.len(),
            rest: bytes,
            shape,
            elements_left: shape.elements_max,
        }
    }

    fn at(&self) -> usize {
        self.whole_bytes.saturating_sub(self.rest.len())
    }

    fn take(&mut self, need: usize) -> Result<&'a [u8], WireError> {
        match self.rest.split_at_checked(need) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(WireError::Truncated {
                at: self.at(),
                need,
                have: self.rest.len(),
            }),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let at = self.at();
        let have = self.rest.len();
        let taken = self.take(N)?;
        taken
            .first_chunk::<N>()
            .copied()
            .ok_or(WireError::Truncated { at, need: N, have })
    }

    /// As the codec reads it: five bytes at most, bits past the 32nd are dropped.
    fn varint(&mut self) -> Result<u32, WireError> {
        let mut value = 0u32;
        for shift in [0u32, 7, 14, 21, 28] {
            let [byte] = self.number::<1>()?;
            value |= u32::from(byte & 0x7f).wrapping_shl(shift);
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    fn spend(&mut self, elements: usize) -> Result<(), WireError> {
        self.elements_left = self.elements_left.checked_sub(elements).ok_or(WireError::TooMany {
            elements_max: self.shape.elements_max,
        })?;
        Ok(())
    }

    fn fields(&mut self, of: &'static Struct) -> Result<(), WireError> {
        let version = self.shape.version;
        for field in of.fields.iter().filter(|f| (f.from..=f.to).contains(&version)) {
            self.kind(field.kind)?;
        }
        if self.shape.flexible {
            self.tagged(of)?;
        }
        Ok(())
    }

    fn tagged(&mut self, of: &'static Struct) -> Result<(), WireError> {
        let count = self.varint()?;
        for _ in 0..count {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            let known = of
                .tags
                .iter()
                .find(|t| t.tag == tag && t.from <= self.shape.version)
                .map(|t| t.kind);
            match known {
                // The codec reads a known one without a look at its size, so both must agree.
                Some(kind) => {
                    let before = self.rest.len();
                    self.kind(kind)?;
                    if before.saturating_sub(self.rest.len()) != size {
                        return Err(WireError::Tag(tag));
                    }
                }
                None => {
                    self.spend(1)?;
                    self.take(size)?;
                }
            }
        }
        Ok(())
    }

    fn kind(&mut self, kind: Kind) -> Result<(), WireError> {
        match kind {
            Kind::Bool | Kind::Int8 => self.take(1).map(drop),
            Kind::Int16 => self.take(2).map(drop),
            Kind::Int32 => self.take(4).map(drop),
            Kind::Int64 => self.take(8).map(drop),
            Kind::Uuid => self.take(16).map(drop),
            Kind::Str => {
                let at = self.at();
                let length = if self.shape.flexible {
                    self.compact_length()?
                } else {
                    i64::from(i16::from_be_bytes(self.number()?))
                };
                self.skip(at, length)
            }
            Kind::Bytes => {
                let at = self.at();
                let length = self.length()?;
                self.skip(at, length)
            }
            Kind::Many(element) => {
                for _ in 0..self.count(Kind::One(element))? {
                    self.fields(element)?;
                }
                Ok(())
            }
            Kind::List(element) => {
                for _ in 0..self.count(*element)? {
                    self.kind(*element)?;
                }
                Ok(())
            }
            Kind::One(of) => self.fields(of),
        }
    }

    /// -1 is null.
    fn length(&mut self) -> Result<i64, WireError> {
        if self.shape.flexible {
            self.compact_length()
        } else {
            Ok(i64::from(i32::from_be_bytes(self.number()?)))
        }
    }

    fn compact_length(&mut self) -> Result<i64, WireError> {
        Ok(i64::from(self.varint()?).saturating_sub(1))
    }

    fn skip(&mut self, at: usize, length: i64) -> Result<(), WireError> {
        match length {
            -1 => Ok(()),
            n => {
                let n = usize::try_from(n).map_err(|_| WireError::Negative { at, length })?;
                self.take(n).map(drop)
            }
        }
    }

    fn count(&mut self, element: Kind) -> Result<usize, WireError> {
        let at = self.at();
        let length = self.length()?;
        if length == -1 {
            return Ok(0);
        }
        let count = usize::try_from(length).map_err(|_| WireError::Negative { at, length })?;
        let have = self.rest.len();
        if count.saturating_mul(bytes_min(element, self.shape).max(1)) > have {
            return Err(WireError::Count { at, count, have });
        }
        self.spend(count)?;
        Ok(count)
    }
}

/// The fewest bytes that a value of this kind takes.
fn bytes_min(kind: Kind, shape: Shape) -> usize {
    let wide = |n| if shape.flexible { 1 } else { n };
    match kind {
        Kind::Bool | Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int32 => 4,
        Kind::Int64 => 8,
        Kind::Uuid => 16,
        Kind::Str => wide(2),
        Kind::Bytes | Kind::Many(_) | Kind::List(_) => wide(4),
        Kind::One(of) => {
            let fields = of
                .fields
                .iter()
                .filter(|f| (f.from..=f.to).contains(&shape.version))
                .map(|f| bytes_min(f.kind, shape))
                .fold(0usize, usize::saturating_add);
            fields.saturating_add(usize::from(shape.flexible))
        }
    }
}
