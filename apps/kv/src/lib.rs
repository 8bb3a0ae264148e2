//! A key-value server whose data is on its first disk: what it has answered with `OK` is there after a crash.
//!
//! It speaks the Redis protocol (RESP2) on port 6379, so that `redis-cli` works, and takes commands as lines, so that `nc` does: `SET`,
//! `GET`, `DEL`, `KEYS prefix*`, `PING`, `QUIT`. Keys have up to 256 bytes, values up to 16 KiB.
//!
//! Addresses as in `web`: DHCP, or `ip=10.0.0.2/24`. `port=6379` and `disk=xvda` are usual. An empty disk is made into a store; any other is
//! refused.

#![no_std]

extern crate alloc;

mod protocol;

use alloc::vec;
use alloc::vec::Vec;

use embedded_io_async::Write;
use futures_util::future::{Either, join, join_all, select};
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::state::{Error, Options, Store};
use sarab::time::{Duration, with_timeout};
use sarab::{App, Context, Disk, println};

use protocol::{Input, Problem, bulk};

/// Most bytes of keys that `KEYS` answers with: each client may have such an answer waiting.
const MAX_KEYS: usize = 64 << 10;
/// Clients at a time. Each has up to about 200 KiB of memory.
const MAX_CLIENTS: usize = 32;
/// How long a client may say nothing, or take nothing.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["ip", "gw", "dns", "ip6", "gw6", "port", "disk"])?;
    let port = args.get_or("port", 6379_u16)?;
    let disk = match args.get::<&str>("disk")? {
        Some(name) => app.disk(name).await?,
        None => app.first_disk().await?,
    };
    // A quarter of what is free for what is stored.
    let share = app.memory().free as usize / 4;
    app.keep_memory(share as u64);
    let options = Options::default().memory(share);
    let store = Store::open(disk, options).await.context("the store")?;
    let mut keys = 0;
    let mut scan = store.scan(b"");
    while scan.next().await?.is_some() {
        keys += 1;
    }
    let network = app.network("vif").await?;
    let clients = join_all((0..MAX_CLIENTS).map(|_| serve(network.stack, port, &store)));
    // Once they listen.
    let clients = join(clients, async { println!("kv: {keys} keys, ready on port {port}") });
    match select(core::pin::pin!(clients), core::pin::pin!(app.shutdown())).await {
        Either::Left(_) => Ok(()),
        Either::Right((request, _)) => {
            println!("kv: asked to {request}");
            Ok(())
        }
    }
}

/// Serves one client after the other.
async fn serve(stack: Stack, port: u16, store: &Store<Disk>) {
    let (mut incoming, mut outgoing) = (vec![0; 4096], vec![0; 4096]);
    loop {
        let mut socket = TcpSocket::new(stack, &mut incoming, &mut outgoing);
        if socket.accept(port).await.is_err() {
            continue;
        }
        socket.set_timeout(Some(PATIENCE));
        socket.set_nagle_enabled(false);
        // Whatever ends it, the next one is served.
        if let Err(Some(problem)) = client(&mut socket, store).await {
            let _ = answer(&mut socket, alloc::format!("-ERR {problem}\r\n").as_bytes()).await;
        }
        socket.close();
        let _ = with_timeout(Duration::from_secs(2), socket.flush()).await;
        socket.abort();
    }
}

/// Answers a client's commands to its end. Why it is told to go is in the error.
async fn client(socket: &mut TcpSocket<'_>, store: &Store<Disk>) -> Result<(), Option<Problem>> {
    let mut input = Input::default();
    while let Some(words) = input.command(socket).await? {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let Some((name, arguments)) = words.split_first() else { continue };
        let is_last = name.eq_ignore_ascii_case(b"QUIT");
        let reply = match command(name, arguments, store).await {
            Ok(reply) => reply,
            Err(error) => alloc::format!("-ERR {error}\r\n").into_bytes(),
        };
        answer(socket, &reply).await?;
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Does what a command says, and returns the answer.
async fn command(name: &[u8], arguments: &[&[u8]], store: &Store<Disk>) -> Result<Vec<u8>, Error> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    Ok(match arguments {
        [key] if is("GET") => store.get(key).await?.map_or_else(|| b"$-1\r\n".to_vec(), |value| bulk(&value)),
        [key, value] if is("SET") => {
            store.set(key, value).await?;
            b"+OK\r\n".to_vec()
        }
        [_, ..] if is("DEL") => {
            let mut transaction = store.transaction();
            let mut count = 0;
            for key in arguments {
                count += usize::from(transaction.get(key).await?.is_some());
                transaction.remove(key)?;
            }
            transaction.commit().await?;
            alloc::format!(":{count}\r\n").into_bytes()
        }
        [pattern] if is("KEYS") && pattern.ends_with(b"*") => {
            let mut scan = store.scan(&pattern[..pattern.len() - 1]);
            let (mut count, mut keys) = (0, Vec::new());
            while let Some((key, _)) = scan.next().await? {
                count += 1;
                keys.extend(bulk(&key));
                if keys.len() > MAX_KEYS {
                    return Ok(b"-ERR too many keys for one answer: give a longer prefix\r\n".to_vec());
                }
            }
            [alloc::format!("*{count}\r\n").into_bytes(), keys].concat()
        }
        [] if is("PING") => b"+PONG\r\n".to_vec(),
        [] if is("QUIT") => b"+OK\r\n".to_vec(),
        _ => b"-ERR unknown command, or other arguments than GET key, SET key value, DEL key..., KEYS prefix*, PING, QUIT\r\n".to_vec(),
    })
}

async fn answer(socket: &mut TcpSocket<'_>, bytes: &[u8]) -> Result<(), Option<Problem>> {
    socket.write_all(bytes).await.map_err(|_| None)?;
    socket.flush().await.map_err(|_| None)
}
