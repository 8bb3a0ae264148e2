//! A network frontend as far as XenBus goes: it connects and closes, and no packet is ever sent.

use alloc::string::String;

use sarab::hal::{EventChannels, Grant, Port};
use sarab::platform::{XenGrant, XenPort};
use sarab::store::{Error, Tree};
use sarab::xenbus::{Device, Failure, Frontend, Signals, State};
use sarab::{App, println};

use crate::vbd::{empty_ring, failure};

pub struct Vif {
    pub app: App,
    pub name: String,
}

impl Frontend for Vif {
    // netback takes no notice of Initialised.
    const OFFERED: State = State::Connected;
    type Offer = ([XenGrant; 2], XenPort);

    async fn offer(&mut self, device: &Device) -> Result<Self::Offer, Failure> {
        let rings = [empty_ring(self.app, device)?, empty_ring(self.app, device)?];
        let port = self.app.event_channels().alloc_unbound(device.other_domain()).map_err(failure)?;
        Ok((rings, port))
    }

    async fn publish(&mut self, device: &Device, offer: &Self::Offer, tree: &Tree) -> Result<(), Error> {
        tree.set(&device.own("tx-ring-ref"), &offer.0[0].reference()).await?;
        tree.set(&device.own("rx-ring-ref"), &offer.0[1].reference()).await?;
        tree.set(&device.own("event-channel"), &offer.1.number()).await?;
        tree.set(&device.own("request-rx-copy"), &true).await?;
        tree.set(&device.own("feature-rx-notify"), &true).await
    }

    async fn accept(&mut self, device: &Device, _: &mut Self::Offer) -> Result<(), Failure> {
        let mac: String = device.get("mac").await?.ok_or_else(|| failure("the toolstack tells no mac"))?;
        println!("vif {}: {mac} from {}", self.name, device.other_domain());
        Ok(())
    }

    async fn run(&mut self, _: &Device, offer: Self::Offer, signals: &Signals) -> Result<(), Failure> {
        println!("vif {}: connected", self.name);
        signals.closing().await;
        drop(offer);
        println!("vif {}: closing", self.name);
        Ok(())
    }
}
