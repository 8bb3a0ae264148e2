//! The whole guest on this machine, against a simulated store: the test is its toolstack. Each run has a seed; where one
//! fails, its seed is printed.

use sarab::testing::{End, Faults, Guest, check};

#[test]
fn all_that_a_guest_may_ask_for_works() {
    check("mode=check", 10, |xen| {
        // Other transactions get in between now and then.
        xen.set_faults(Faults { eagain: 30, ..Faults::default() });
        let ended = Guest::new(xen).command_line("mode=check").run(store::main);
        assert!(ended.console().ends_with(" passed, 0 failed\n"), "{}", ended.console());
        assert_eq!(ended.how(), End::PowerOff);
    });
}

#[test]
fn changes_are_printed_until_the_shutdown() {
    check("mode=watch", 20, |xen| {
        let guest = Guest::new(xen).command_line("mode=watch path=data/greeting");
        xen.run(async move {
            let running = guest.start(store::main).await;
            running.wait_for("watching data/greeting\n").await;
            running.set("data/greeting", "hello").await;
            running.wait_for("data/greeting = \"hello\"\n").await;
            running.shutdown().await;
            let ended = running.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(ended.console().ends_with("asked to poweroff\n"), "{}", ended.console());
        });
    });
}

#[test]
fn a_tree_is_listed() {
    check("mode=ls", 20, |xen| {
        let guest = Guest::new(xen).command_line("path=data perms=yes");
        let ended = guest.key("data/greeting", "hello").key("data/more/below", "").run(store::main);
        assert_eq!(ended.how(), End::PowerOff);
        for line in ["data = \"\"  (", "\n greeting = \"hello\"  (n", "\n more = \"\"  (", "\n  below = \"\"  ("] {
            assert!(ended.console().contains(line), "no {line:?} in:\n{}", ended.console());
        }
    });
}

#[test]
fn what_is_closed_to_it_is_named() {
    check("an error", 5, |xen| {
        let ended = Guest::new(xen).command_line("path=/local/domain/0").run(store::main);
        assert_eq!(ended.how(), End::Crash);
        assert!(ended.console().starts_with("error: "), "{}", ended.console());
    });
}
