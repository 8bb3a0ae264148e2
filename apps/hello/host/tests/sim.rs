//! The whole guest on this machine, in a simulated Xen: the test is its toolstack. Each run has a seed; where one fails, its
//! seed is printed.

use std::time::Duration;

use sarab::testing::{End, Guest, check};

#[test]
fn it_greets_whom_it_is_told_to() {
    check("a greeting", 20, |xen| {
        let ended = Guest::new(xen).command_line("name=me exit=now").memory(4).run(hello::main);
        assert_eq!(ended.how(), End::PowerOff);
        assert!(ended.console().starts_with("Hello, me\n"), "{}", ended.console());
        for line in ["  memory        4096 KiB, ", "  command line  name=me exit=now\n"] {
            assert!(ended.console().contains(line), "no {line:?} in:\n{}", ended.console());
        }
    });
}

#[test]
fn it_stays_until_it_is_shut_down() {
    check("a shutdown", 20, |xen| {
        let guest = Guest::new(xen);
        xen.run(async move {
            let running = guest.start(hello::main).await;
            running.wait_for("Hello, world\n").await;
            // Simulated: an hour takes no time.
            running.sleep(Duration::from_secs(3600)).await;
            assert!(running.domain().is_alive());
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn a_wrong_argument_is_named() {
    check("arguments", 5, |xen| {
        let ended = Guest::new(xen).command_line("nmae=me").run(hello::main);
        assert_eq!(ended.how(), End::Crash);
        assert!(ended.console().starts_with("error: ") && ended.console().contains("nmae"), "{}", ended.console());
    });
}
