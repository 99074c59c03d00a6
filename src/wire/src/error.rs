//! What can be wrong with a frame or message.

use core::fmt;

/// Why bytes are not a frame, a frame not a message, or a message does not fit its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// A COBS code byte at this place points past the end of the frame.
    Cobs(usize),
    /// The frame has fewer than the bytes of a number and a CRC.
    Short(usize),
    /// The frame is larger than the limit or the buffer, in bytes.
    TooLarge(usize),
    /// The CRC does not match: bytes were lost or changed on the way.
    Crc {
        /// As sent.
        sent: u32,
        /// As computed.
        computed: u32,
    },
    /// A message number of no meaning here.
    Number(u32),
    /// The fields of this message number do not decode, or bytes are left over.
    Fields(u32),
    /// A Hello of a protocol version that is not 1.
    Version(u8),
    /// A field is outside its limits; its name.
    Limit(&'static str),
    /// The buffer is too small for what is to be encoded.
    Buffer,
}

impl WireError {
    /// Whether the frame itself arrived damaged, as on a noisy line: worth going on at the next frame. Else the peer sent, with
    /// a right CRC, what it must not.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Cobs(_) | Self::Short(_) | Self::TooLarge(_) | Self::Crc { .. }
        )
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cobs(at) => write!(f, "the COBS code at byte {at} points past the frame"),
            Self::Short(bytes) => write!(f, "a frame of {bytes} bytes is too short"),
            Self::TooLarge(bytes) => write!(f, "a frame of {bytes} bytes or more is too large"),
            Self::Crc { sent, computed } => write!(f, "the CRC is {sent:08x}, the bytes give {computed:08x}"),
            Self::Number(number) => write!(f, "message number {number} is unknown"),
            Self::Fields(number) => write!(f, "the fields of message number {number} do not decode"),
            Self::Version(version) => write!(f, "protocol version {version} is not served"),
            Self::Limit(field) => write!(f, "{field} is outside its limits"),
            Self::Buffer => f.write_str("the buffer is too small"),
        }
    }
}

impl core::error::Error for WireError {}
