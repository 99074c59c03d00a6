//! The proof that a device knows its pre-shared key: HMAC-SHA-256 (RFC 2104) over a fixed text, the broker's nonce and what
//! Hello says. It proves who says Hello; it does not protect the bytes that follow.
//!
//! ```text
//! "headwater-compact-1"  19 bytes of ASCII
//! nonce                  16 bytes, from Challenge
//! device length           1 byte
//! device                  as in Hello
//! epoch                   4 bytes, little-endian
//! next                    8 bytes, little-endian
//! ```

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{NONCE_BYTES, PROOF_BYTES};

const TEXT: &[u8] = b"headwater-compact-1";

fn mac(key: &[u8], nonce: &[u8; NONCE_BYTES], device: &str, epoch: u32, next: u64) -> Option<Hmac<Sha256>> {
    let device_bytes = u8::try_from(device.len()).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(TEXT);
    mac.update(nonce);
    mac.update(&[device_bytes]);
    mac.update(device.as_bytes());
    mac.update(&epoch.to_le_bytes());
    mac.update(&next.to_le_bytes());
    Some(mac)
}

/// The proof. A device id beyond its limit gives zeros, which match nothing.
pub fn proof(key: &[u8], nonce: &[u8; NONCE_BYTES], device: &str, epoch: u32, next: u64) -> [u8; PROOF_BYTES] {
    match mac(key, nonce, device, epoch, next) {
        Some(mac) => mac.finalize().into_bytes().into(),
        None => [0; PROOF_BYTES],
    }
}

/// Whether a proof is right, compared in constant time.
pub fn proof_matches(
    proof: &[u8; PROOF_BYTES],
    key: &[u8],
    nonce: &[u8; NONCE_BYTES],
    device: &str,
    epoch: u32,
    next: u64,
) -> bool {
    mac(key, nonce, device, epoch, next).is_some_and(|mac| mac.verify_slice(proof).is_ok())
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_key_nonce_and_hello_only() {
        let good = proof(b"key", &[1; 16], "dev", 2, 3);
        assert!(proof_matches(&good, b"key", &[1; 16], "dev", 2, 3));
        assert!(!proof_matches(&good, b"kez", &[1; 16], "dev", 2, 3));
        assert!(!proof_matches(&good, b"key", &[2; 16], "dev", 2, 3));
        assert!(!proof_matches(&good, b"key", &[1; 16], "deu", 2, 3));
        assert!(!proof_matches(&good, b"key", &[1; 16], "dev", 3, 3));
        assert!(!proof_matches(&good, b"key", &[1; 16], "dev", 2, 4));
    }
}
