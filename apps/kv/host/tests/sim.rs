//! The whole server on this machine, in a simulated Xen, on a disk that another guest serves and keeps. Each run has a seed; where one
//! fails, its seed is printed.

use std::collections::BTreeMap;

use embedded_io_async::Write;
use sarab::block::back::{self, Attachment, Limits};
use sarab::block::ramdisk::RamDisk;
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::{IpAddress, IpEndpoint};
use sarab::testing::{End, Faults, Guest, Running, Xen, check};
use sarab::{App, println};

const SERVER: IpEndpoint = IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), 6379);

/// A guest with a disk that outlives its users.
async fn disks(app: App) -> sarab::Result {
    let ram = RamDisk::new(app.xen(), 4096)?;
    let open = async |_: &Attachment| Ok(ram.clone());
    println!("ready");
    let store = app.store()?;
    match back::serve(&store, app.xen(), Limits::default(), open, |_, _| ()).await? {}
}

/// Runs a test with such a disk, and with what starts a server on it.
fn with_disk(name: &str, seeds: u64, test: impl AsyncFn(&dyn Fn() -> Guest) + Copy + Sync + 'static) {
    check(name, seeds, |xen: &Xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let xen = xen.clone();
        xen.clone().run(async move {
            let server = Guest::new(&xen).start(disks).await;
            server.wait_for("ready\n").await;
            let guest = || Guest::new(&xen).network().command_line("ip=10.0.0.2/24").disk_of("xvda", &server, "ram");
            test(&guest).await;
            server.shutdown().await;
            server.ended().await;
        });
    });
}

/// Starts a server, and the host at the other end of its wire.
async fn start(guest: Guest, keys: usize) -> (Running, Stack) {
    let running = guest.start(kv::main).await;
    let peer = running.peer::<40>("10.0.0.1/24").await;
    running.wait_for(&format!("kv: {keys} keys, ready on port 6379\n")).await;
    (running, peer)
}

/// Sends something on a connection of its own, as far as the server takes it, and returns what comes until it closes that.
async fn ask(peer: Stack, text: &[u8]) -> String {
    let (mut incoming, mut outgoing) = (vec![0; 4096], vec![0; 4096]);
    let mut socket = TcpSocket::new(peer, &mut incoming, &mut outgoing);
    socket.connect(SERVER).await.unwrap();
    let _ = socket.write_all(text).await;
    let _ = socket.flush().await;
    let mut answer = Vec::new();
    let mut piece = [0; 1000];
    while let Ok(len @ 1..) = socket.read(&mut piece).await {
        answer.extend(&piece[..len]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn commands_as_lines_and_as_arrays() {
    with_disk("commands", 4, async |guest| {
        let (running, peer) = start(guest(), 0).await;
        let answer = ask(peer, b"set a 1\r\nSET b two\nGET a\nget c\nDEL a c\nGET a\nPING\n\nKEYS *\nQUIT\r\n").await;
        assert_eq!(answer, "+OK\r\n+OK\r\n$1\r\n1\r\n$-1\r\n:1\r\n$-1\r\n+PONG\r\n*1\r\n$1\r\nb\r\n+OK\r\n");
        let value = "x\r\ny".repeat(3000);
        let set = format!("*3\r\n$3\r\nSET\r\n$5\r\nk \r\nk\r\n${}\r\n{value}\r\n*1\r\n$4\r\nQUIT\r\n", value.len());
        assert_eq!(ask(peer, set.as_bytes()).await, "+OK\r\n+OK\r\n");
        let answer = ask(peer, b"*2\r\n$3\r\nGET\r\n$5\r\nk \r\nk\r\nKEYS k*\nQUIT\n").await;
        assert_eq!(answer, format!("${}\r\n{value}\r\n*1\r\n$5\r\nk \r\nk\r\n+OK\r\n", value.len()));
        running.shutdown().await;
        assert_eq!(running.ended().await.how(), End::PowerOff);
    });
}

/// Clients that do not take such answers would together have more memory than there is.
#[test]
fn more_keys_than_one_answer_has() {
    with_disk("many keys", 1, async |guest| {
        let (running, peer) = start(guest(), 0).await;
        let long = "x".repeat(250);
        let sets: String = (0..260).map(|number| format!("SET {number:03}{long} v\n")).collect();
        assert_eq!(ask(peer, format!("{sets}QUIT\n").as_bytes()).await, "+OK\r\n".repeat(261));
        let answer = ask(peer, b"KEYS *\nQUIT\n").await;
        assert_eq!(answer, "-ERR too many keys for one answer: give a longer prefix\r\n+OK\r\n");
        assert!(ask(peer, b"KEYS 1*\nQUIT\n").await.starts_with("*100\r\n"));
        running.shutdown().await;
        running.ended().await;
    });
}

/// What is no command ends the connection with a word, or is answered with one; others are served.
#[test]
fn what_is_no_command() {
    with_disk("no commands", 4, async |guest| {
        let (running, peer) = start(guest(), 0).await;
        for (text, expected) in [
            (&b"*x\r\n"[..], "-ERR Protocol error\r\n"),
            (b"*1\r\n+PING\r\n", "-ERR Protocol error\r\n"),
            (b"*1\r\n$4\r\nPINGxx", "-ERR Protocol error\r\n"),
            (b"*17\r\n", "-ERR Protocol error: too large\r\n"),
            (b"*1\r\n$99999999999999999999\r\n", "-ERR Protocol error: too large\r\n"),
            (&[b'x'; 17_000], "-ERR Protocol error: too large\r\n"),
            (b"SET\nGET a b\nFLUSHALL\nQUIT\n", &("-ERR unknown command, or other arguments than GET key, SET key value, DEL key..., KEYS prefix*, PING, QUIT\r\n".repeat(3) + "+OK\r\n")),
            (&[b"SET ".as_slice(), &[b'k'; 300], b" v\nQUIT\n"].concat(), "-ERR the key has 300 bytes: at most 256 are possible\r\n+OK\r\n"),
        ] {
            assert_eq!(ask(peer, text).await, expected, "{:?}", String::from_utf8_lossy(&text[..text.len().min(40)]));
        }
        // What is not read may come before the word.
        let answer = ask(peer, &[b'x'; 100_000]).await;
        assert!(answer.is_empty() || answer == "-ERR Protocol error: too large\r\n", "{answer}");
        assert_eq!(ask(peer, b"PING\nQUIT\n").await, "+PONG\r\n+OK\r\n");
        running.shutdown().await;
        running.ended().await;
    });
}

/// The domain is destroyed at any time, again and again. What was answered with OK is there.
#[test]
fn crashes() {
    with_disk("crashes", 4, async |guest| {
        let mut known = BTreeMap::new();
        for round in 0..6 {
            let (running, peer) = start(guest(), known.len()).await;
            for (key, value) in &known {
                assert_eq!(
                    ask(peer, format!("GET {key}\nQUIT\n").as_bytes()).await,
                    format!("$1\r\n{value}\r\n+OK\r\n")
                );
            }
            let texts: Vec<_> =
                (0..4).map(|client| format!("SET r{round}c{client} {client}\nSET same {round}\nQUIT\n")).collect();
            let clients = texts.iter().map(|text| ask(peer, text.as_bytes()));
            for answer in futures_util::future::join_all(clients).await {
                assert_eq!(answer, "+OK\r\n+OK\r\n+OK\r\n");
            }
            known.extend((0..4).map(|client| (format!("r{round}c{client}"), client.to_string())));
            known.insert("same".into(), round.to_string());
            running.destroy();
        }
    });
}

/// A full store says so, and serves on.
#[test]
fn a_full_store() {
    with_disk("full", 1, async |guest| {
        let (running, peer) = start(guest(), 0).await;
        let sets: String = (0..60).map(|index| format!("SET k{index} {}\n", "v".repeat(16_000))).collect();
        let answer = ask(peer, format!("{sets}GET x\nDEL k0 k1 k2\nSET x y\nQUIT\n").as_bytes()).await;
        assert!(answer.contains("+OK\r\n-ERR the store is full: "), "{answer}");
        assert!(answer.ends_with("$-1\r\n:3\r\n+OK\r\n+OK\r\n"), "{answer}");
        running.shutdown().await;
        running.ended().await;
    });
}

/// A disk with something else on it is refused with words.
#[test]
fn a_disk_of_somebody_else() {
    check("foreign", 1, |xen| {
        let mut image = vec![0; 2 << 20];
        image[..6].copy_from_slice(b"LUKS\xba\xbe");
        let ended = Guest::new(xen).network().command_line("ip=10.0.0.2/24").disk("xvda", image.clone()).run(kv::main);
        assert_eq!(ended.how(), End::Crash);
        assert!(ended.console().contains("error: the store: the disk holds a LUKS volume"), "{}", ended.console());
        assert!(ended.disk("xvda") == image);
    });
}
