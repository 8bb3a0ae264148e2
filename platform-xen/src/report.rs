//! Crash reports: the last words of a domain, on its console and on the hypervisor's, then `SHUTDOWN_crash`.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::domain::{self, ShutdownReason};
use crate::{console, hypercall, image};

/// Set by the first report: a fault while reporting must not begin another.
static REPORTING: AtomicBool = AtomicBool::new(false);

/// A report in the making. Each line goes out at once, in case the next cannot be made.
pub(crate) struct Report {
    console: Option<console::FinalOutput>,
}

impl Report {
    /// Begins a report; ends the domain at once where one is being made already.
    pub(crate) fn begin() -> Report {
        if REPORTING.swap(true, Ordering::Relaxed) {
            hypercall::console_write(b"sarab: a crash while reporting a crash\n");
            domain::shutdown_now(ShutdownReason::Crash)
        }
        // SAFETY: a report ends the domain.
        Report { console: unsafe { console::final_output() } }
    }

    pub(crate) fn line(&mut self, text: fmt::Arguments<'_>) {
        let _ = writeln!(self, "{text}");
    }

    /// Prints return addresses: along the chain of frame pointers where there is one, else whatever on the stack looks
    /// like a return address.
    pub(crate) fn backtrace(&mut self, rip: Option<u64>, rbp: u64, rsp: u64) {
        const MAX_FRAMES: usize = 24;
        let text = image::text();
        let stack = image::stack();
        self.line(format_args!("  backtrace (`cargo xen logs` names the functions):"));
        let mut index = 0;
        let mut print = |report: &mut Report, address: u64| {
            report.line(format_args!("    #{index} {address:#x}"));
            index += 1;
            index < MAX_FRAMES
        };
        if let Some(rip) = rip
            && !print(self, rip)
        {
            return;
        }
        // SAFETY: only called within the stack, which is always mapped, and aligned.
        let read = |address: u64| unsafe { (address as *const u64).read_volatile() };
        let on_stack =
            |address: u64| address.is_multiple_of(8) && stack.contains(&address) && address + 16 <= stack.end;
        let mut frame = rbp;
        let mut found = false;
        while on_stack(frame) {
            let (next, address) = (read(frame), read(frame + 8));
            if !text.contains(&address) {
                break;
            }
            found = true;
            if !print(self, address) || next <= frame {
                return;
            }
            frame = next;
        }
        if found {
            return;
        }
        self.line(format_args!("    (no frame pointers: every code address on the stack follows)"));
        let mut address = (rsp + 7) & !7;
        while on_stack(address) {
            let value = read(address);
            if text.contains(&value) && !print(self, value) {
                return;
            }
            address += 8;
        }
    }
}

/// Ends the domain after a report.
pub(crate) fn crash(mut report: Report) -> ! {
    if let Some(console) = &mut report.console {
        console.drain();
    }
    domain::shutdown_now(ShutdownReason::Crash)
}

impl Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        hypercall::console_write(text.as_bytes());
        if let Some(console) = &mut self.console {
            console.write(text.as_bytes());
        }
        Ok(())
    }
}

#[cfg(feature = "guest")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let (rbp, rsp): (u64, u64);
    // SAFETY: only reads registers.
    unsafe {
        core::arch::asm!("mov {}, rbp", "mov {}, rsp", out(reg) rbp, out(reg) rsp, options(nomem, nostack));
    }
    let mut report = Report::begin();
    match info.location() {
        Some(at) => {
            report.line(format_args!("CRASH: panic at {}:{}:{}: {}", at.file(), at.line(), at.column(), info.message()))
        }
        None => report.line(format_args!("CRASH: panic: {}", info.message())),
    }
    report.backtrace(None, rbp, rsp);
    crash(report)
}
