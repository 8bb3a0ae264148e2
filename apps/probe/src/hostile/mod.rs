//! A guest that does at full speed what it may not, on every disk and network interface that it is given: what its backends
//! and their other guests make of it is measured in the lab.
//!
//! `how=burn` does nothing but use its processor: what the others do beside that is what they are compared with.

mod device;
mod vbd;
mod vif;

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use futures_util::future::{join, join_all};
use sarab::hal::Clock;
use sarab::{App, platform, println};

use crate::text;
use device::Device;

/// Misbehaves for `seconds=`.
pub async fn run(app: App) -> Result<(), String> {
    let seconds: u64 = app.args().require("seconds").map_err(text)?;
    let how = app.args().choice("how", &["attack", "burn"]).map_err(text)?.unwrap_or("attack");
    let store = app.store().map_err(text)?;
    let mut devices = (Vec::new(), Vec::new());
    for (class, list) in [("vbd", &mut devices.0), ("vif", &mut devices.1)] {
        for id in store.list(&alloc::format!("device/{class}")).await.unwrap_or_default() {
            list.push(Device::find(app, &store, class, &id).await?);
        }
    }
    println!("hostile: {how}, {} disks, {} interfaces", devices.0.len(), devices.1.len());
    let deadline = app.clock().now() + Duration::from_secs(seconds);
    if how == "burn" {
        while app.clock().now() < deadline {
            platform::yield_now().await;
        }
    } else {
        let disks = join_all(devices.0.into_iter().map(|device| vbd::attack(device, deadline)));
        let interfaces = join_all(devices.1.into_iter().map(|device| vif::attack(device, deadline)));
        let (disks, interfaces) = join(disks, interfaces).await;
        for line in disks.into_iter().chain(interfaces) {
            println!("hostile: {}", line?);
        }
    }
    println!("hostile: done");
    Ok(())
}
