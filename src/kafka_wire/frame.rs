//! Length-prefixed frames: finds where one ends, and refuses one beyond the limit from its first four bytes.

use super::WireError;

/// Bytes of the length prefix.
pub const LENGTH_BYTES: usize = 4;

/// The shortest frame: a response of nothing but its correlation id.
const FRAME_BYTES_MIN: usize = 4;

/// Bytes of the first frame in `buf`, its length prefix included; `None` while the prefix is not all there. The frame itself may
/// still be incomplete. `bytes_max` bounds what follows the prefix.
pub fn frame_bytes(buf: &[u8], bytes_max: usize) -> Result<Option<usize>, WireError> {
    let Some(prefix) = buf.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*prefix);
    let bytes = usize::try_from(length).map_err(|_| WireError::Length(length))?;
    if bytes < FRAME_BYTES_MIN {
        return Err(WireError::Length(length));
    }
    if bytes > bytes_max {
        return Err(WireError::TooLong { bytes, bytes_max });
    }
    Ok(Some(bytes.saturating_add(LENGTH_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_and_a_hostile_one_refused_from_its_first_bytes() {
        assert_eq!(frame_bytes(&[0, 0, 0], 100), Ok(None));
        assert_eq!(frame_bytes(&[0, 0, 0, 8], 100), Ok(Some(12)));
        assert_eq!(frame_bytes(&[0, 0, 0, 3], 100), Err(WireError::Length(3)));
        assert_eq!(frame_bytes(&[0xff; 4], 100), Err(WireError::Length(-1)));
        let tls = frame_bytes(&[0x16, 0x03, 0x01, 0x02], 1 << 20);
        assert!(matches!(tls, Err(WireError::TooLong { .. })), "{tls:?}");
    }
}
