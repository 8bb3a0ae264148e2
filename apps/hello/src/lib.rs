//! The smallest appliance: what `main` gets, how to read the command line, how to print.
//!
//! `name=` is whom it greets. `exit=now` powers the domain off at once; otherwise it stays, using no processor time.

#![no_std]

use core::future::pending;

use sarab::hal::Clock;
use sarab::{App, println};

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let exit = app.args().choice("exit", &["now", "never"])?;
    let name = app.args().get::<&str>("name")?.unwrap_or("world");
    app.args().expect_only(&["exit", "name"])?;

    let memory = app.memory();
    println!("Hello, {name}");
    match app.domain_id() {
        Some(domain) => println!("  domain        {domain}"),
        None => println!("  domain        not told by this Xen"),
    }
    println!("  Xen           {}", app.xen_version());
    println!("  memory        {} KiB, {} KiB free", memory.total / 1024, memory.free / 1024);
    println!("  command line  {}", app.args().as_str());
    println!("  time          {} us since start", app.clock().now().as_micros());
    defmt::info!("hello is up");

    if exit == Some("now") {
        return Ok(());
    }
    pending().await
}
