//! The whole server on this machine, in a simulated Xen: the test is its toolstack, and its clients. Each run has a seed; where
//! one fails, its seed is printed.

use std::time::Duration;

use embedded_io_async::Write;
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::{IpAddress, IpEndpoint};
use sarab::testing::{End, Faults, Guest, check};

/// The peer's and the server's addresses.
const PEER: &str = "10.0.0.1/24";
const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);
const ARGUMENTS: &str = "ip=10.0.0.2/24 connections=8";

const LARGE: &[u8] = &[b'x'; 300_000];

fn site() -> Vec<u8> {
    archive(&[("index.html", b"<p>hello"), ("404.html", b"<p>no such page"), ("large", LARGE)])
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// What the server sends until it closes the connection.
async fn rest(socket: &mut TcpSocket<'_>) -> String {
    let (mut answer, mut bytes) = (Vec::new(), [0; 4096]);
    while let len @ 1.. = socket.read(&mut bytes).await.unwrap() {
        answer.extend_from_slice(&bytes[..len]);
    }
    String::from_utf8(answer).unwrap()
}

/// The answer to a request, on a connection of its own.
async fn get(peer: Stack, port: u16, path: &str) -> String {
    let (mut incoming, mut outgoing) = ([0; 8192], [0; 1024]);
    let mut socket = TcpSocket::new(peer, &mut incoming, &mut outgoing);
    socket.connect(IpEndpoint::new(SERVER, port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let answer = rest(&mut socket).await;
    // Its last segments leave before the socket goes.
    socket.close();
    socket.flush().await.unwrap();
    answer
}

/// The value of a counter in what `/metrics` says.
fn metric(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
}

#[test]
fn a_site_is_served_from_its_disk() {
    check("a site", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let guest = Guest::new(xen).command_line(ARGUMENTS).read_only_disk("xvda", site()).network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<4>(PEER).await;
            running.wait_for("web: ready on port 80\n").await;
            assert_eq!(running.get("data/ip").await.as_deref(), Some("10.0.0.2/24"));
            let index = get(peer, 80, "/").await;
            assert!(index.starts_with("HTTP/1.1 200 ") && index.ends_with("\r\n\r\n<p>hello"), "{index}");
            let large = get(peer, 80, "/large").await;
            assert!(large.starts_with("HTTP/1.1 200 ") && large.as_bytes().ends_with(LARGE), "{} bytes", large.len());
            let missing = get(peer, 80, "/missing").await;
            assert!(missing.starts_with("HTTP/1.1 404 ") && missing.ends_with("<p>no such page"), "{missing}");

            let metrics = get(peer, 80, "/metrics").await;
            for (name, expected) in [
                ("web_requests_total{status=\"2xx\"}", 2),
                ("web_requests_total{status=\"4xx\"}", 1),
                ("web_connections_total", 4),
                ("web_connections_open", 1),
                ("web_connections_ended_total{how=\"closed\"}", 3),
                ("web_connections_ended_total{how=\"evicted\"}", 0),
                ("web_handshakes_failed_total", 0),
                ("disk_failures_total", 0),
                ("memory_bytes{kind=\"total\"}", 16 << 20),
            ] {
                assert_eq!(metric(&metrics, name), expected, "{name} in {metrics}");
            }
            for name in ["disk_requests_total", "net_frames_total{direction=\"sent\"}", "tasks_polled_total"] {
                assert!(metric(&metrics, name) > 0, "{name} in {metrics}");
            }
            running.shutdown().await;
            let ended = running.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(
                ended.console().starts_with("web: a tar archive with 3 files on a disk of "),
                "{}",
                ended.console()
            );
            assert!(ended.console().contains("web: asked to poweroff; all connections ended"), "{}", ended.console());
        });
    });
}

/// An answer in flight is finished, and who waits for nothing is sent away.
#[test]
fn a_shutdown_cuts_no_answer() {
    check("a shutdown", 10, |xen| {
        let guest = Guest::new(xen).command_line(ARGUMENTS).read_only_disk("xvda", site()).network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<4>(PEER).await;
            running.wait_for("web: ready").await;
            let (mut incoming, mut outgoing) = ([0; 8192], [0; 1024]);
            let mut idle = TcpSocket::new(peer, &mut incoming, &mut outgoing);
            idle.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
            let (mut incoming, mut outgoing) = ([0; 8192], [0; 1024]);
            let mut busy = TcpSocket::new(peer, &mut incoming, &mut outgoing);
            busy.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
            busy.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut first = [0; 12];
            busy.read(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            running.shutdown().await;
            assert!(rest(&mut busy).await.as_bytes().ends_with(LARGE));
            assert_eq!(rest(&mut idle).await, "");
            let ended = running.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(ended.console().contains("all connections ended"), "{}", ended.console());
        });
    });
}

#[test]
fn without_a_disk_a_page_tells_what_is_missing() {
    check("no disk", 10, |xen| {
        let guest = Guest::new(xen).command_line("port=8080").network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<4>(PEER).await;
            // As `ip=dhcp`.
            running.lease(peer, "10.0.0.2/24");
            running.wait_for("web: ready on port 8080\n").await;
            running.sleep(Duration::from_secs(2 * 3600)).await;
            let page = get(peer, 8080, "/").await;
            assert!(
                page.starts_with("HTTP/1.1 200 ") && page.contains("to serve yet: the domain has no disk"),
                "{page}"
            );
            running.shutdown().await;
            let ended = running.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(ended.console().starts_with("web: no site: the domain has no disk; its xl file gives it one"));
            assert!(ended.console().contains("\nnetwork: 10.0.0.2/24, gateway 10.0.0.1\n"), "{}", ended.console());
        });
    });
}

#[test]
fn a_port_that_cannot_be_is_an_error() {
    check("a port", 5, |xen| {
        let ended = Guest::new(xen).command_line("port=0").run(web::main);
        assert_eq!(ended.how(), End::Crash);
        assert_eq!(ended.console(), "error: command line: `port=0`: expected a port from 1 to 65535\n");
    });
}

/// `xl block-detach` and `block-attach` with another content: it is read anew, and an answer on its way is cut.
#[test]
fn a_disk_comes_back_with_another_site() {
    check("another site", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let guest = Guest::new(xen).command_line(ARGUMENTS).read_only_disk("xvda", site()).network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<4>(PEER).await;
            running.wait_for("web: ready").await;
            // A client that stops reading, and one that keeps its connection.
            let (mut incoming, mut outgoing) = ([0; 8192], [0; 1024]);
            let mut busy = TcpSocket::new(peer, &mut incoming, &mut outgoing);
            busy.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
            busy.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            running.sleep(Duration::from_secs(1)).await;
            let (mut incoming, mut outgoing) = ([0; 8192], [0; 1024]);
            let mut kept = TcpSocket::new(peer, &mut incoming, &mut outgoing);
            kept.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
            kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            running.sleep(Duration::from_secs(1)).await;
            assert!(read(&mut kept).await.ends_with("<p>hello"));

            running.detach_disk("xvda").await;
            running.wait_for("web: disk xvda is gone\n").await;
            let page = get(peer, 80, "/").await;
            assert!(page.starts_with("HTTP/1.1 500 ") && page.contains("The disk fails"), "{page}");
            assert!(!get(peer, 80, "/metrics").await.contains("disk_requests_total"));
            let (mut came, mut bytes) = (0, [0; 4096]);
            while let Ok(len @ 1..) = busy.read(&mut bytes).await {
                came += len;
            }
            assert!(came < LARGE.len(), "{came}");
            assert!(running.console().contains("web: \"/large\": cut at byte "), "{}", running.console());

            for (content, expected) in [(&b"<p>another"[..], "1 file"), (b"<p>hello", "1 file")] {
                running.attach_disk("xvda", archive(&[("index.html", content)])).await;
                let seen = running.console().matches("web: a tar archive with").count();
                while running.console().matches("web: a tar archive with").count() == seen {
                    running.sleep(Duration::from_millis(100)).await;
                }
                assert!(running.console().contains(expected), "{}", running.console());
                let text = String::from_utf8(content.to_vec()).unwrap();
                let page = get(peer, 80, "/").await;
                assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with(&text), "{page}");
                assert!(get(peer, 80, "/metrics").await.contains("disk_requests_total"));
                running.detach_disk("xvda").await;
            }
            // What is no site is said; another disk is the first as well.
            running.attach_disk("xvda", [0xff; 4096]).await;
            running.wait_for("web: no site: the first disk: unknown format").await;
            running.detach_disk("xvda").await;
            running.attach_disk("xvdaa", site()).await;
            running.sleep(Duration::from_secs(60)).await;
            let index = get(peer, 80, "/").await;
            assert!(index.ends_with("<p>hello"), "{index}\n{}", running.console());
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

/// What has come on a connection.
async fn read(socket: &mut TcpSocket<'_>) -> String {
    let mut bytes = [0; 4096];
    let len = socket.read(&mut bytes).await.unwrap();
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

/// The first disk is an empty drive: a site comes later, by another disk or in the drive.
#[test]
fn a_site_that_comes_later_is_served() {
    for drive in [true, false] {
        check("later", 5, |xen| {
            let guest = Guest::new(xen).command_line(ARGUMENTS).network();
            let guest = if drive { guest.cdrom("hda", []) } else { guest };
            xen.run(async move {
                let running = guest.start(web::main).await;
                let peer = running.peer::<4>(PEER).await;
                running.wait_for("web: ready").await;
                let page = get(peer, 80, "/").await;
                let why = if drive { "its disk is waited for" } else { "the domain has no disk" };
                assert!(page.starts_with("HTTP/1.1 200 ") && page.contains(why), "{page}");
                if drive {
                    assert!(
                        running.console().contains("disk hda: waiting for a medium for 5 s"),
                        "{}",
                        running.console()
                    );
                    running.detach_disk("hda").await;
                }
                running.attach_cdrom("hda", site()).await;
                running.wait_for("web: a tar archive with 3 files on a disk of ").await;
                assert!(get(peer, 80, "/").await.ends_with("<p>hello"));
                running.shutdown().await;
                assert_eq!(running.ended().await.how(), End::PowerOff);
            });
        });
    }
}

#[test]
fn an_empty_drive_before_the_disk_delays_nothing() {
    check("a drive", 5, |xen| {
        let guest = Guest::new(xen).command_line(ARGUMENTS).cdrom("hda", []).read_only_disk("xvda", site()).network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            running.wait_for("web: ready").await;
            assert!(running.console().starts_with("web: a tar archive with 3 files"), "{}", running.console());
            running.shutdown().await;
            running.ended().await;
        });
    });
}
