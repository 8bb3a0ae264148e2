//! Not an appliance: what the lab's tests boot to see the platform work, and fail, on real Xen.
//!
//! `test=NAME` chooses; each prints what it finds, and `probe: N passed, M failed` at its end.

#![no_std]
#![no_main]

extern crate alloc;

mod balloon;
mod checks;
mod faults;
mod hostile;
mod limits;
mod load;
mod luks;
mod memory_functions;
mod pair;
mod powercut;
mod qube;
mod share;
mod store;
mod timing;
mod vbd;
mod vif;

use alloc::string::String;

use sarab::{App, platform, println};

use checks::Checks;

/// Runs the test that the command line names, or the one that is marked by `_`.
macro_rules! choose {
    ($app:expr, { $($name:literal => $run:expr,)* _ $usual:literal => $otherwise:expr $(,)? }) => {{
        let test = $app.args().choice("test", &[$($name,)* $usual]).map_err(text)?.unwrap_or($usual);
        match test {
            $($name => $run,)*
            _ => $otherwise,
        }
    }};
}

#[sarab::main]
async fn main(app: App) -> Result<(), String> {
    let mut checks = Checks::new();
    choose!(app, {
        "panic" => panic!("a panic on purpose"),
        "overflow" => faults::overflow(),
        "readonly" => faults::write_to_read_only(),
        "execute" => faults::execute_data(),
        "null" => faults::null(),
        "opcode" => faults::bad_opcode(),
        "display" => faults::panic_while_printing(),
        "oom" => faults::out_of_memory(),
        "reboot" => platform::reboot(),
        "crash" => platform::crash(),
        "error" => return Err("an error on purpose".into()),
        "timers" => timing::timers(app, &mut checks).await,
        "clock" => timing::clock(app).await,
        "flood" => limits::flood(app, &mut checks).await,
        "module" => limits::module(&mut checks),
        "suspend" => limits::suspend(app, &mut checks).await,
        "grants" => limits::grants(app, &mut checks),
        "ports" => limits::ports(app, &mut checks).await,
        "offer" => pair::offer(app, &mut checks).await?,
        "accept" => pair::accept(app, &mut checks).await?,
        "count" => store::count(app, &mut checks).await?,
        "names" => store::names(app).await?,
        "qube" => qube::run(app).await?,
        "balloon" => balloon::run(app, &mut checks).await,
        "bench" => store::bench(app).await?,
        "vbd" => vbd::disks(app).await?,
        "vif" => vif::interfaces(app).await?,
        "luks" => luks::open(app, &mut checks).await?,
        "share" => share::run(app, &mut checks).await?,
        "load" => load::run(app, &mut checks).await?,
        "powercut" => powercut::run(app).await?,
        "luks-format" => luks::format(app).await?,
        "vbd-back" => vbd::backends(app).await?,
        "hostile" => hostile::run(app).await?,
        "echo" => echo(app).await,
        "shutdown" => {
            println!("shutdown: ready");
            println!("shutdown: asked to {}", app.shutdown().await);
        },
        "stubborn" => {
            println!("stubborn: ready");
            println!("stubborn: asked to {}", app.shutdown().await);
            core::future::pending::<()>().await;
        },
        "pci" => pci(app, &mut checks),
        "sysrq" => {
            println!("sysrq: ready");
            println!("sysrq: key {}", app.sysrq().await);
        },
        "entropy" => match app.entropy() {
            Ok(_) => println!("entropy: there is some"),
            Err(error) => println!("entropy: {error}"),
        },
        _ "self" => {
            memory_functions::run(&mut checks);
            limits::small_things(app, &mut checks).await;
        },
    });
    checks.finish()
}

/// Prints how it was started, and the PCI functions that it finds.
fn pci(app: App, checks: &mut Checks) {
    println!("started by {}", platform::boot_protocol());
    for function in app.pci() {
        println!("{function}");
    }
    checks.equal(app.pci(), app.pci(), "what is listed once more");
}

/// Sends back what the console sends, until `quit`.
async fn echo(app: App) {
    println!("echo: ready");
    loop {
        let line = app.console().read_line(4096).await;
        if line == "quit" {
            return;
        }
        println!("echo: {line}");
    }
}

fn text(error: impl core::fmt::Display) -> String {
    alloc::format!("{error}")
}
