//! Frames that no honest client sends, and a kernel without io_uring.
//!
//! The layout of a frame stands in `net/src/frame.rs`; it is written out here a second time on purpose, so that a
//! change of the layout by accident is noticed.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const HEADER_BYTES: usize = 32;

/// An honest frame about to be spoilt.
pub struct Forge {
    frame: Vec<u8>,
}

impl Forge {
    /// Starts from an honest frame.
    pub fn new(frame: &[u8]) -> Forge {
        assert!(frame.len() >= HEADER_BYTES && frame[..2] == *b"RK", "not a frame");
        Forge { frame: frame.to_vec() }
    }

    /// Overwrites a byte.
    pub fn set(mut self, at: usize, byte: u8) -> Forge {
        self.frame[at] = byte;
        self
    }

    /// Flips a bit of the last byte of the body.
    pub fn spoil_body(mut self) -> Forge {
        *self.frame.last_mut().expect("a frame has a header") ^= 1;
        self
    }

    /// Claims a body of so many bytes.
    pub fn claim_payload(mut self, length: u32) -> Forge {
        self.frame[20..24].copy_from_slice(&length.to_le_bytes());
        self
    }

    /// Replaces the metadata by as many bytes of noise.
    pub fn spoil_metadata(mut self) -> Forge {
        let length = u32::from_le_bytes(self.frame[16..20].try_into().expect("four bytes"));
        let length = usize::try_from(length).expect("64-bit machine");
        self.frame[HEADER_BYTES..HEADER_BYTES + length].fill(0xA5);
        self
    }

    /// Makes both checksums right again.
    pub fn sealed(mut self) -> Forge {
        let body = crc32c::crc32c(&self.frame[HEADER_BYTES..]);
        self.frame[24..28].copy_from_slice(&body.to_le_bytes());
        let header = crc32c::crc32c(&self.frame[..28]);
        self.frame[28..32].copy_from_slice(&header.to_le_bytes());
        self
    }

    /// What to send.
    pub fn bytes(self) -> Vec<u8> {
        self.frame
    }
}

/// Makes the process believe in a kernel that answers `io_uring_setup` with this error.
pub fn refuse_io_uring(command: &mut Command, errno: i32) {
    const ARCH_AT: u32 = 4;
    const NUMBER_AT: u32 = 0;
    const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
    let narrow = |code: u32| u16::try_from(code).expect("BPF codes have 16 bits");
    let load = |at| libc::sock_filter {
        code: narrow(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS),
        jt: 0,
        jf: 0,
        k: at,
    };
    let unless = |value, skip| {
        let code = narrow(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
        libc::sock_filter { code, jt: 0, jf: skip, k: value }
    };
    let end =
        |action| libc::sock_filter { code: narrow(libc::BPF_RET | libc::BPF_K), jt: 0, jf: 0, k: action };
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("system calls have small numbers");
    let refusal = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).expect("errors are positive");
    let mut filter = [
        load(ARCH_AT),
        unless(AUDIT_ARCH_X86_64, 3),
        load(NUMBER_AT),
        unless(setup, 1),
        end(refusal),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let len = u16::try_from(filter.len()).expect("a short program");
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing; the filter it points to
    // was copied into the closure, and the kernel copies it again.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
