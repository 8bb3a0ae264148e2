//! The whole guest on this machine, in a simulated Xen, with another guest at the other end. Each run has a seed; where one
//! fails, its seed is printed.

use std::time::Duration;

use embedded_io_async::{Read, Write};
use sarab::hal::DomId;
use sarab::testing::{End, Faults, Guest, Running, check};
use sarab::{App, ensure, println};

/// Sends bytes through a channel, reads them again, and says when.
async fn through(mut channel: sarab::vchan::Channel, seed: u8) -> sarab::Result {
    for round in 0..20_usize {
        let sent: Vec<u8> = (0..round * 50).map(|index| seed.wrapping_add((round + index) as u8)).collect();
        channel.write_all(&sent).await?;
        let mut back = vec![0; sent.len()];
        channel.read_exact(&mut back).await?;
        ensure!(back == sent, "other bytes than those of round {round}");
    }
    println!("all is back");
    Ok(())
}

/// A guest that connects to the one whose number is typed on its console.
async fn client(app: App) -> sarab::Result {
    let server = DomId(app.console().read_line(8).await.parse()?);
    let seed = app.args().get_or("seed", 0)?;
    through(app.vchan_client(server, 5)?.connect().await?, seed).await
}

/// A guest that listens for the one whose number is typed on its console.
async fn server(app: App) -> sarab::Result {
    let client = DomId(app.console().read_line(8).await.parse()?);
    let mut server = app.vchan_server(client, 5)?.with_sizes(1024, 2048)?;
    println!("listening");
    through(server.accept().await?, 3).await
}

fn number(guest: &Running) -> u16 {
    guest.domain().id().0
}

#[test]
fn what_clients_send_comes_back() {
    check("clients", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let xen = xen.clone();
        xen.clone().run(async move {
            let user = Guest::new(&xen).command_line("seed=7").start(client).await;
            let line = format!("port=5 size=2K peer={}", number(&user));
            let echo = Guest::new(&xen).command_line(&line).start(echo::main).await;
            echo.wait_for(&format!("echo: listening for d{} on port 5\n", number(&user))).await;
            user.type_in(&format!("{}\n", number(&echo)));
            let peer = number(&user);
            let ended = user.ended().await;
            assert_eq!((ended.how(), ended.console()), (End::PowerOff, "all is back\n"));
            echo.wait_for(&format!("echo: d{peer} is done, 9500 bytes\n")).await;
            echo.shutdown().await;
            let ended = echo.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(ended.console().ends_with("echo: asked to poweroff\n"), "{}", ended.console());
        });
    });
}

#[test]
fn it_connects_to_a_server() {
    check("server", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let xen = xen.clone();
        xen.clone().run(async move {
            let other = Guest::new(&xen).start(server).await;
            let line = format!("connect port=5 peer={}", number(&other));
            let echo = Guest::new(&xen).command_line(&line).start(echo::main).await;
            other.type_in(&format!("{}\n", number(&echo)));
            let ended = other.ended().await;
            assert_eq!((ended.how(), ended.console()), (End::PowerOff, "listening\nall is back\n"));
            let ended = echo.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(ended.console().ends_with("is done, 9500 bytes\n"), "{}", ended.console());
        });
    });
}

/// A guest that opens channels, and never closes one, nor ends.
async fn hoarder(app: App) -> sarab::Result {
    let server = DomId(app.console().read_line(8).await.parse()?);
    let client = app.vchan_client(server, 5)?;
    let mut channels = Vec::new();
    loop {
        channels.push(client.connect().await?);
        println!("channel {}", channels.len());
    }
}

#[test]
fn a_client_without_end_is_served_in_part_and_one_that_ends_makes_room() {
    check("hoarder", 5, |xen| {
        let xen = xen.clone();
        xen.clone().run(async move {
            let user = Guest::new(&xen).start(hoarder).await;
            let line = format!("port=5 size=1K peer={}", number(&user));
            let echo = Guest::new(&xen).command_line(&line).start(echo::main).await;
            user.type_in(&format!("{}\n", number(&echo)));
            user.wait_for("channel 8\n").await;
            echo.sleep(Duration::from_secs(20)).await;
            assert!(!user.console().contains("channel 9\n"), "{}", user.console());
            let peer = number(&user);
            user.destroy();
            echo.wait_for(&format!("echo: d{peer} is done, 0 bytes\n")).await;
            echo.shutdown().await;
            assert_eq!(echo.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn wrong_arguments_are_named() {
    for (line, expected) in [
        ("port=five", "error: command line: `port=five`: expected a number"),
        ("ports=5", "error: command line: `ports=5`: unknown key"),
        ("size=2M", "error: a ring of 2097152 bytes: expected 1048576 at most"),
    ] {
        check("arguments", 3, |xen| {
            let ended = Guest::new(xen).command_line(line).run(echo::main);
            assert_eq!(ended.how(), End::Crash);
            assert!(ended.console().contains(expected), "{}", ended.console());
        });
    }
}
