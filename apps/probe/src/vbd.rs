//! Both ends of a block device as far as XenBus goes: they connect and close, and no request is ever made.

use alloc::format;
use alloc::string::{String, ToString};

use futures_util::future::{Either, select};
use sarab::hal::Errno;
use sarab::hal::{
    Access, EventChannels, Grant, GrantRef, GrantTable, MapRequest, Mapping, Page, Pages, Port, PortNumber,
};
use sarab::platform::{XenGrant, XenMapping, XenPort, grant_use};
use sarab::store::{Error, Store, Tree};
use sarab::xenbus::{Backend, Device, End, Failure, Frontend, Signals, State, backend, frontend, serve};
use sarab::{App, println};

use crate::text;

pub fn failure(what: impl ToString) -> Failure {
    Failure::new(Errno::EIO, what.to_string())
}

/// A page lent to the backend, with an empty ring in it.
pub fn empty_ring(app: App, device: &Device) -> Result<XenGrant, Failure> {
    let table = app.grant_table();
    let page = table.alloc_page().map_err(failure)?;
    // Both events at 1, both producers at 0 (SHARED_RING_INIT, xen/include/public/io/ring.h).
    for index in [1, 3] {
        // SAFETY: within the page, which nobody else has yet.
        unsafe { page.as_ptr().cast::<u32>().add(index).write(1) };
    }
    table.grant(page, device.other_domain(), Access::ReadWrite).map_err(failure)
}

/// The frontend of a block device.
pub struct Front {
    pub app: App,
    pub name: String,
}

impl Frontend for Front {
    const OFFERED: State = State::Initialised;
    type Offer = (XenGrant, XenPort);

    async fn offer(&mut self, device: &Device) -> Result<Self::Offer, Failure> {
        let grant = empty_ring(self.app, device)?;
        let port = self.app.event_channels().alloc_unbound(device.other_domain()).map_err(failure)?;
        Ok((grant, port))
    }

    async fn publish(&mut self, device: &Device, offer: &Self::Offer, tree: &Tree) -> Result<(), Error> {
        tree.set(&device.own("ring-ref"), &offer.0.reference()).await?;
        tree.set(&device.own("event-channel"), &offer.1.number()).await?;
        tree.set(&device.own("protocol"), "x86_64-abi").await
    }

    async fn accept(&mut self, device: &Device, _: &mut Self::Offer) -> Result<(), Failure> {
        let sectors: u64 = device.get_other("sectors").await?.ok_or_else(|| failure("the backend tells no sectors"))?;
        println!("vbd {}: {sectors} sectors from {}", self.name, device.other_domain());
        Ok(())
    }

    async fn run(&mut self, _: &Device, offer: Self::Offer, signals: &Signals) -> Result<(), Failure> {
        println!("vbd {}: connected", self.name);
        signals.closing().await;
        drop(offer);
        println!("vbd {}: closing", self.name);
        Ok(())
    }
}

/// What is in use, for the test to compare.
fn show_use(app: App, store: &Store) {
    let grants = grant_use();
    println!(
        "use: ports {} grants {} deferred {} watches {} free {}",
        app.event_channels().open_ports(),
        grants.in_use,
        grants.deferred,
        store.watches(),
        app.memory().free
    );
}

/// Answers `use` on the console with what is in use, until `quit`.
async fn console(app: App, store: &Store) {
    println!("vbd: ready");
    loop {
        match app.console().read_line(64).await.as_str() {
            "use" => show_use(app, store),
            "quit" => return,
            _ => {}
        }
    }
}

/// A frontend for each device of `class` that comes.
pub async fn frontends<F: Frontend>(app: App, class: &str, make: impl Fn(App, String) -> F) -> Result<(), String> {
    let store = app.store().map_err(text)?;
    let serving = serve(&store, End::Frontend, class, |found| {
        let store = store.clone();
        let mut driver = make(app, found.id.clone());
        async move {
            match frontend(&store, app.clock(), &found.path, &mut driver).await {
                Ok(ended) => println!("{class} {}: {ended:?}", found.id),
                Err(error) => println!("{class} {}: {error}", found.id),
            }
        }
    });
    match select(core::pin::pin!(serving), core::pin::pin!(console(app, &store))).await {
        Either::Left((Err(error), _)) => Err(text(error)),
        Either::Right(_) => Ok(()),
    }
}

struct Back {
    app: App,
    name: String,
}

impl Backend for Back {
    type Link = (XenMapping, XenPort);

    async fn prepare(&mut self, device: &Device) -> Result<(), Failure> {
        let params: Option<String> = device.get("params").await?;
        match params.as_deref() {
            Some("broken") => Err(Failure::new(Errno::ENOENT, "params = broken: there is no such disk")),
            _ => Ok(()),
        }
    }

    async fn offer(&mut self, device: &Device, tree: &Tree) -> Result<(), Error> {
        tree.set(&device.own("feature-flush-cache"), &false).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let missing = |key| move || Failure::new(Errno::EINVAL, format!("the frontend has written no {key}"));
        let reference: GrantRef = device.get_other("ring-ref").await?.ok_or_else(missing("ring-ref"))?;
        let port: PortNumber = device.get_other("event-channel").await?.ok_or_else(missing("event-channel"))?;
        let peer = device.other_domain();
        let request = MapRequest { peer, reference, access: Access::ReadWrite };
        let mapping = self.app.grant_table().map(&[request]).map_err(failure)?;
        mapping.all().map_err(failure)?;
        let port = self.app.event_channels().bind_interdomain(peer, port).map_err(failure)?;
        Ok((mapping, port))
    }

    async fn publish(&mut self, device: &Device, _: &Self::Link, tree: &Tree) -> Result<(), Error> {
        tree.set(&device.own("sectors"), &2048_u64).await?;
        tree.set(&device.own("sector-size"), &512_u32).await?;
        tree.set(&device.own("info"), &0_u32).await
    }

    async fn run(&mut self, device: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        println!("back {}: connected with {}", self.name, device.other_domain());
        signals.closing().await;
        drop(link);
        println!("back {}: closing", self.name);
        Ok(())
    }
}

/// A backend for each block device that the toolstack wants of this domain.
pub async fn backends(app: App) -> Result<(), String> {
    let store = app.store().map_err(text)?;
    let serving = serve(&store, End::Backend, "vbd", |found| {
        let store = store.clone();
        async move {
            let mut driver = Back { app, name: found.id.clone() };
            match backend(&store, app.clock(), &found.path, &mut driver).await {
                Ok(ended) => println!("back {}: {ended:?}", found.id),
                Err(error) => println!("back {}: {error}", found.id),
            }
        }
    });
    match select(core::pin::pin!(serving), core::pin::pin!(console(app, &store))).await {
        Either::Left((Err(error), _)) => Err(text(error)),
        Either::Right(_) => Ok(()),
    }
}
