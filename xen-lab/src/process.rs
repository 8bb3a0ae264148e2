//! Processes that end with this one.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel end the child when this process ends, however it ends.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: prctl and getppid are async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::getppid() as u32 == parent {
                true => Ok(()),
                false => Err(io::Error::other("the parent has ended")),
            }
        });
    }
}
