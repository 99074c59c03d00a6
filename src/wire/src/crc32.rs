//! CRC-32/ISO-HDLC (polynomial 0x04c11db7 reflected, initial and final xor 0xffffffff; "123456789" gives 0xcbf43926).

#[cfg(feature = "crc-fast")]
type Tables = crc::Table<16>;
#[cfg(all(not(feature = "crc-fast"), not(feature = "crc-small")))]
type Tables = crc::Table<1>;
#[cfg(all(not(feature = "crc-fast"), feature = "crc-small"))]
type Tables = crc::NoTable;

const CRC: crc::Crc<u32, Tables> = crc::Crc::<u32, Tables>::new(&crc::CRC_32_ISO_HDLC);
static TABLES: crc::Crc<u32, Tables> = CRC;

pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    TABLES.checksum(bytes)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    #[test]
    fn the_check_value_of_the_catalogue_comes_out() {
        assert_eq!(super::checksum(b"123456789"), 0xcbf4_3926);
    }
}
