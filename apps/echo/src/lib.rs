//! An echo server over vchan: it sends back what a program in another domain writes to it.
//!
//! | argument | meaning |
//! |---|---|
//! | `peer=N` | the domain at the other end; dom0 where it is not given |
//! | `port=N` | the vchan's port, 7 where it is not given |
//! | `size=BYTES` | how many bytes each of the two rings has at least, up to 1M; 16K where it is not given |
//! | `connect` | it connects to a server at the other end, instead of listening |
//!
//! `cargo xen run echo --set port=5` listens at `data/vchan/0/5` of its directory in the store. A program in dom0 connects
//! with `libxenvchan_client_init(NULL, DOMID, "/local/domain/DOMID/data/vchan/0/5")`. With `connect` it looks for a server at
//! `/local/domain/PEER/data/vchan/OWN/PORT`, and ends when that closes the channel.
//!
//! It serves up to eight clients at a time, and ends when the toolstack asks it to.

#![no_std]

extern crate alloc;

use alloc::vec;
use core::convert::Infallible;
use core::future::pending;
use core::pin::pin;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use sarab::hal::DomId;
use sarab::time::{Duration, Timer};
use sarab::vchan::{Channel, Error, Server};
use sarab::{App, Size, println};

/// Clients at a time: each takes the memory of its rings.
const MAX_CLIENTS: usize = 8;

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["peer", "port", "size", "connect"])?;
    let (peer, port) = (DomId(args.get_or("peer", 0)?), args.get_or("port", 7)?);
    let Size(size) = args.get_or("size", Size(16 << 10))?;
    if args.get_or("connect", false)? {
        println!("echo: connecting to port {port} of {peer}");
        return client(app, peer, port).await;
    }
    let size = usize::try_from(size)?;
    let server = app.vchan_server(peer, port)?.with_sizes(size, size)?;
    println!("echo: listening for {peer} on port {port}");
    match select(pin!(serve(server)), pin!(app.shutdown())).await {
        Either::Left((never, _)) => match never {},
        Either::Right((request, _)) => {
            println!("echo: asked to {request}");
            Ok(())
        }
    }
}

async fn client(app: App, server: DomId, port: u32) -> sarab::Result {
    let channel = app.vchan_client(server, port)?.connect().await?;
    println!("echo: connected");
    echo(channel).await;
    Ok(())
}

/// Takes clients, and serves all of them at a time.
async fn serve(mut server: Server) -> Infallible {
    let mut clients = FuturesUnordered::new();
    loop {
        let accepted = {
            let is_full = clients.len() >= MAX_CLIENTS;
            let accept = async { if is_full { pending().await } else { server.accept().await } };
            let is_empty = clients.is_empty();
            let ended = async { if is_empty { pending().await } else { clients.next().await } };
            // Whichever is dropped loses nothing.
            match select(pin!(accept), pin!(ended)).await {
                Either::Left((accepted, _)) => accepted,
                Either::Right(_) => continue,
            }
        };
        match accepted {
            Ok(channel) => clients.push(echo(channel)),
            Err(error) => {
                println!("echo: {error}");
                Timer::after(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Sends back what comes, to the end.
async fn echo(mut channel: Channel) {
    let peer = channel.peer();
    println!("echo: {peer} is there");
    let mut count = 0;
    match copy(&mut channel, &mut count).await {
        Ok(()) => println!("echo: {peer} is done, {count} bytes"),
        Err(error) => println!("echo: {peer} after {count} bytes: {error}"),
    }
}

async fn copy(channel: &mut Channel, count: &mut u64) -> Result<(), Error> {
    let mut bytes = vec![0; 4096];
    loop {
        let len = match channel.read(&mut bytes).await? {
            0 => return Ok(()),
            len => len,
        };
        let mut rest = &bytes[..len];
        while !rest.is_empty() {
            let written = channel.write(rest).await?;
            rest = &rest[written..];
            *count += written as u64;
        }
    }
}
