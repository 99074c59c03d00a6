//! Whether the kernel holds its clock to be synchronised: `adjtimex`(2) without any change. It is a crate of its own
//! because the call has no safe wrapper; nothing else is in it.

/// What the kernel says; `None` where it may not be asked (`EPERM`, `ENOSYS`).
pub fn synchronised() -> Option<bool> {
    // SAFETY: `timex` is a C struct of integers, for which all zeros is a value; `modes` 0 reads and changes nothing,
    // and the kernel writes inside of the struct only.
    #[allow(unsafe_code)]
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut timex), timex.status)
    };
    match state {
        -1 => None,
        state => Some(state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_answers_the_same_twice() {
        assert_eq!(super::synchronised(), super::synchronised());
    }
}
