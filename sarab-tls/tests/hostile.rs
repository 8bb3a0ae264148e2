//! Ends that do not keep to TLS: both are ours, and what passes between them is changed, cut, or made up.

mod support;

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;

use embedded_io_async::{Read, Write};
use futures_util::future::{Either, join, select};
use sarab_tls::rustls::Error as Rustls;
use sarab_tls::{Certificates, ConfigError, Error, TlsStream};
use support::pipe::{End, pipe};
use support::{block_on, client, file, path, server};

type Connected = Result<TlsStream<End>, Error<Infallible>>;

/// Both ends of a connection, with the handshake behind them.
async fn connected(room: usize) -> (TlsStream<End>, TlsStream<End>) {
    // The last of a handshake, tickets, is on its way when the server is done.
    let (one, two) = pipe(1 << 20);
    let (server, client) = (server(&["p256"], |_| {}), client(|_| {}));
    let (one, two) = join(server.accept(one), client.connect("one.test", two)).await;
    let (mut one, mut two) = (one.unwrap(), two.unwrap());
    (one.transport().room, two.transport().room) = (room, room);
    (one, two)
}

#[test]
fn large_content_through_a_narrow_transport() {
    block_on(async {
        for room in [1, 100, 16 << 10] {
            let (mut server, mut client) = connected(room).await;
            let content: Vec<u8> = (0..200_000_u32).map(|index| ((index * 7) >> 3) as u8).collect();
            let send = async {
                server.write_all(&content).await.unwrap();
                server.close().await.unwrap();
                assert!(matches!(server.write(b"x").await, Err(Error::Closed)));
            };
            let receive = async {
                let (mut got, mut bytes) = (Vec::new(), [0; 3000]);
                loop {
                    match client.read(&mut bytes).await.unwrap() {
                        0 => return got,
                        len => got.extend_from_slice(&bytes[..len]),
                    }
                    assert!(client.buffered() <= 64 << 10, "{} bytes are held", client.buffered());
                }
            };
            let (_, got) = join(send, receive).await;
            assert!(got == content, "{room}: {} bytes", got.len());
            assert_eq!(client.read(&mut [0]).await, Ok(0), "the end stays the end");
            // The other direction is still open.
            let send = async {
                client.write_all(b"thanks").await.unwrap();
                client.close().await.unwrap();
            };
            let receive = async {
                let mut thanks = [0; 6];
                server.read_exact(&mut thanks).await.unwrap();
                assert_eq!(&thanks, b"thanks");
                assert_eq!(server.read(&mut thanks).await, Ok(0));
            };
            join(send, receive).await;
        }
    });
}

#[test]
fn what_is_dropped_half_way_loses_nothing() {
    block_on(async {
        let (mut server, mut client) = connected(10).await;
        let content: Vec<u8> = (0..20_000_u32).map(|index| index as u8).collect();
        let turns = Cell::new(0);
        // Each future is dropped after a few polls, and begun anew.
        let impatient = async || {
            for _ in 0..3 {
                let mut polled = false;
                std::future::poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut polled, true) {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
            }
            turns.set(turns.get() + 1);
        };
        let send = async {
            let mut rest = &content[..];
            while !rest.is_empty() {
                let piece = &rest[..rest.len().min(777)];
                if let Either::Left((len, _)) = select(Box::pin(server.write(piece)), Box::pin(impatient())).await {
                    rest = &rest[len.unwrap()..];
                }
            }
            while let Either::Right(_) = select(Box::pin(server.close()), Box::pin(impatient())).await {}
        };
        let receive = async {
            let (mut got, mut bytes) = (Vec::new(), [0; 100]);
            loop {
                let read = match select(Box::pin(client.read(&mut bytes)), Box::pin(impatient())).await {
                    Either::Left((len, _)) => Some(len.unwrap()),
                    Either::Right(_) => None,
                };
                match read {
                    Some(0) => return got,
                    Some(len) => got.extend_from_slice(&bytes[..len]),
                    None => {}
                }
            }
        };
        let (_, got) = join(send, receive).await;
        assert!(turns.get() > 100, "{} were dropped", turns.get());
        assert!(got == content, "{} bytes", got.len());
    });
}

#[test]
fn the_end_without_close_notify_is_told() {
    block_on(async {
        let (mut server, mut client) = connected(1 << 20).await;
        server.write_all(b"some of it").await.unwrap();
        server.flush().await.unwrap();
        drop(server);
        let mut bytes = [0; 100];
        assert_eq!(client.read(&mut bytes).await, Ok(10));
        assert_eq!(client.read(&mut bytes).await, Err(Error::Truncated));
        assert_eq!(client.read(&mut bytes).await, Err(Error::Truncated), "and again");
        // In the middle of a record.
        let (mut server, mut client) = connected(1 << 20).await;
        let way = client.transport().from.clone();
        server.write_all(&[7; 5000]).await.unwrap();
        server.flush().await.unwrap();
        way.borrow_mut().bytes.truncate(3000);
        drop(server);
        assert_eq!(client.read(&mut bytes).await, Err(Error::Truncated));
    });
}

#[test]
fn damaged_records_end_the_connection() {
    block_on(async {
        for at in [3, 5, 20, 60, 110] {
            let (mut server, mut client) = connected(1 << 20).await;
            let way = server.transport().from.clone();
            client.write_all(&[7; 100]).await.unwrap();
            client.flush().await.unwrap();
            way.borrow_mut().bytes[at] ^= 1;
            if at == 3 {
                // A length that promises more than there is.
                drop(client);
                let error = server.read(&mut [0; 200]).await.unwrap_err();
                assert!(matches!(error, Error::Protocol(_) | Error::Truncated), "{at}: {error:?}");
                continue;
            }
            let error = server.read(&mut [0; 200]).await.unwrap_err();
            assert!(matches!(error, Error::Protocol(_)), "{at}: {error:?}");
            assert_eq!(server.read(&mut [0; 200]).await, Err(error.clone()), "it stays so");
            assert_eq!(server.write(b"x").await, Err(error));
            // The client is told why.
            let told = client.read(&mut [0; 200]).await.unwrap_err();
            assert!(matches!(told, Error::Protocol(Rustls::AlertReceived(_))), "{at}: {told:?}");
        }
        // The same record twice, and two in the other order.
        for twice in [true, false] {
            let (mut server, mut client) = connected(1 << 20).await;
            let way = server.transport().from.clone();
            client.write_all(&[1; 50]).await.unwrap();
            client.flush().await.unwrap();
            let first: Vec<u8> = way.borrow_mut().bytes.drain(..).collect();
            client.write_all(&[2; 50]).await.unwrap();
            client.flush().await.unwrap();
            if twice {
                first.iter().rev().for_each(|byte| way.borrow_mut().bytes.push_front(*byte));
                first.iter().rev().for_each(|byte| way.borrow_mut().bytes.push_front(*byte));
            } else {
                way.borrow_mut().bytes.extend(first);
            }
            let mut bytes = [0; 200];
            if twice {
                assert_eq!(server.read(&mut bytes).await, Ok(50));
            }
            assert_eq!(server.read(&mut bytes).await, Err(Error::Protocol(Rustls::DecryptError)));
        }
    });
}

#[test]
fn damaged_records_around_the_close() {
    block_on(async {
        // It is there, behind a sound one, when the close is announced.
        let (mut server, mut client) = connected(1 << 20).await;
        let way = server.transport().from.clone();
        client.write_all(&[7; 100]).await.unwrap();
        client.flush().await.unwrap();
        let first = way.borrow().bytes.len();
        client.write_all(&[7; 100]).await.unwrap();
        client.flush().await.unwrap();
        way.borrow_mut().bytes[first + 20] ^= 1;
        assert_eq!(server.read(&mut [0; 200]).await, Ok(100));
        server.announce_close();
        server.push().await.unwrap();
        // Told at once, and not only when something is read.
        let told = futures_util::FutureExt::now_or_never(client.read(&mut [0; 200]));
        assert!(matches!(told, Some(Err(Error::Protocol(Rustls::AlertReceived(_))))), "{told:?}");
        assert_eq!(server.read(&mut [0; 200]).await, Err(Error::Protocol(Rustls::DecryptError)));
        assert_eq!(server.read(&mut [0; 200]).await, Err(Error::Protocol(Rustls::DecryptError)), "it stays so");
        // It comes after the close.
        let (mut server, mut client) = connected(1 << 20).await;
        let way = server.transport().from.clone();
        server.close().await.unwrap();
        client.write_all(&[7; 100]).await.unwrap();
        client.flush().await.unwrap();
        way.borrow_mut().bytes[20] ^= 1;
        assert_eq!(server.read(&mut [0; 200]).await, Err(Error::Protocol(Rustls::DecryptError)));
        assert_eq!(server.read(&mut [0; 200]).await, Err(Error::Protocol(Rustls::DecryptError)), "it stays so");
        assert_eq!(client.read(&mut [0; 200]).await, Ok(0));
    });
}

/// What a server makes of these bytes, which may be all that comes.
async fn accepted(bytes: &[u8]) -> (Connected, usize) {
    let (one, two) = pipe(1 << 20);
    two.to.borrow_mut().bytes.extend(bytes);
    two.to.borrow_mut().closed = true;
    let left = two.to.clone();
    let outcome = server(&["p256"], |_| {}).accept(one).await;
    let left = left.borrow().bytes.len();
    (outcome, left)
}

#[test]
fn a_handshake_has_bounds() {
    block_on(async {
        // A ClientHello that promises 16 MiB, in records of the largest size.
        let mut endless = Vec::new();
        while endless.len() < 1 << 20 {
            endless.extend_from_slice(&[22, 3, 1, 0x40, 0]);
            let begin = endless.len();
            endless.extend_from_slice(&[1, 0xff, 0xff, 0xff]);
            endless.resize(begin + 0x4000, 0);
        }
        let (outcome, left) = accepted(&endless).await;
        assert!(outcome.is_err());
        assert!(left >= (1 << 20) - (48 << 10), "{left} bytes were not read");
        // The same in records of one byte each.
        let mut crumbs = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
        for _ in 0..100_000 {
            crumbs.extend_from_slice(&[22, 3, 1, 0, 1, 0]);
        }
        let (outcome, left) = accepted(&crumbs).await;
        assert!(outcome.is_err());
        assert!(left > 500_000, "{left} bytes were not read");
        // Something else than TLS.
        let (outcome, _) = accepted(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(matches!(outcome, Err(Error::Protocol(Rustls::InvalidMessage(_)))), "{outcome:?}");
        let (outcome, _) = accepted(b"").await;
        assert_eq!(outcome.unwrap_err(), Error::Truncated);
    });
}

#[test]
fn a_handshake_that_is_cut_or_changed_anywhere() {
    block_on(async {
        let (mut server_end, client_end) = connected(1 << 20).await;
        let hello = server_end.transport().from.borrow().sent.clone();
        drop(client_end);
        // The client's first message alone: everything behind it depends on what the server says.
        let first = 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        for index in 0..first {
            let (outcome, _) = accepted(&hello[..index]).await;
            assert_eq!(outcome.unwrap_err(), Error::Truncated, "{index} bytes");
            for bit in [1, 0x80] {
                let mut changed = hello[..first].to_vec();
                changed[index] ^= bit;
                let (outcome, _) = accepted(&changed).await;
                assert!(outcome.is_err(), "byte {index}");
            }
        }
    });
}

#[test]
fn a_peer_whose_bytes_never_end_leaves_others_their_turn() {
    block_on(async {
        let (mut server, mut client) = connected(usize::MAX).await;
        let way = server.transport().from.clone();
        // Records without content, which nobody gets to see: a megabyte of them is there at once.
        let others = Rc::new(Cell::new(0));
        client.write_all(&vec![0; 1 << 20]).await.unwrap();
        client.flush().await.unwrap();
        assert!(way.borrow().bytes.len() > 1 << 20);
        let other = async {
            loop {
                others.set(others.get() + 1);
                let mut polled = false;
                std::future::poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut polled, true) {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
            }
        };
        let read = async {
            let mut bytes = vec![0; 1 << 20];
            server.read_exact(&mut bytes).await.unwrap();
        };
        select(Box::pin(read), Box::pin(other)).await;
        assert!(others.get() >= 10, "the others had {} turns", others.get());
    });
}

#[test]
fn an_idle_connection_holds_little() {
    block_on(async {
        let (mut server, mut client) = connected(1 << 20).await;
        client.write_all(&[1; 100_000]).await.unwrap();
        client.flush().await.unwrap();
        let mut bytes = vec![0; 100_000];
        server.read_exact(&mut bytes).await.unwrap();
        server.write_all(&bytes).await.unwrap();
        server.flush().await.unwrap();
        // It waits for more.
        let nothing = futures_util::FutureExt::now_or_never(server.read(&mut bytes));
        assert!(nothing.is_none());
        assert!(server.buffered() <= 8 << 10, "{} bytes are held", server.buffered());
    });
}

#[test]
fn pem_that_cannot_be_used() {
    let refused = |chain: &[u8], key: &[u8]| Certificates::new().with_pem(chain, key).unwrap_err();
    let (chain, key) = (file("p256.pem"), file("p256.key"));
    assert_eq!(refused(b"", &key), ConfigError::NoCertificate);
    assert_eq!(refused(&key, &key), ConfigError::NoCertificate);
    assert_eq!(refused(&chain, &chain), ConfigError::NoKey);
    assert_eq!(refused(&chain, &file("encrypted.key")), ConfigError::NoKey);
    let error = refused(&chain, &file("rsa.key")).to_string();
    assert!(error.contains("not the one of the first certificate"), "{error}");
    for name in ["rsa1024", "p521"] {
        let error = refused(&file(&format!("{name}.pem")), &file(&format!("{name}.key"))).to_string();
        assert!(error.contains("the private key is none of"), "{error}");
    }
    let half = &chain[..chain.len() / 2];
    assert!(matches!(refused(half, &key), ConfigError::Pem(_)), "{:?}", refused(half, &key));
    // One text with all, keys before or behind.
    let bundle =
        |names: &[&str]| names.iter().map(|name| std::fs::read(path(name)).unwrap()).collect::<Vec<_>>().concat();
    for names in [
        &["p256.pem", "p256.key", "p384.pem", "p384.key", "rsa.pem", "rsa.key"],
        &["p256.key", "p256.pem", "p384.key", "p384.pem", "rsa.key", "rsa.pem"],
    ] {
        let certificates = Certificates::new().with_bundle(&bundle(names)).unwrap();
        assert_eq!(certificates.len(), 3);
        assert_eq!(certificates.names(), ["one.test", "*.wild.test", "two.test", "four.test"]);
    }
    for (names, expected) in [
        (&["p256.pem"][..], ConfigError::NoKey),
        (&["p256.key"], ConfigError::NoCertificate),
        (&["p256.key", "rsa.key", "rsa.pem"], ConfigError::NoCertificate),
        (&["p256.pem", "p256.key", "rsa.pem"], ConfigError::NoKey),
        (&[], ConfigError::NoCertificate),
    ] {
        assert_eq!(Certificates::new().with_bundle(&bundle(names)).unwrap_err(), expected, "{names:?}");
    }
}
