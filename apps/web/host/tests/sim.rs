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
    let mut builder = tar::Builder::new(Vec::new());
    let files: [(&str, &[u8]); 3] = [("index.html", b"<p>hello"), ("404.html", b"<p>no such page"), ("large", LARGE)];
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
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
