//! What the toolstack asks of a domain: any value in `control/shutdown` and `control/sysrq`.

use std::cell::RefCell;
use std::rc::Rc;

use xen_hal::DomId;
use xen_sim::Xen;
use xenstore_client::control::{Control, Request, Shutdown};

use crate::input::Input;
use crate::peer::{read, write_bytes};

pub(super) const SHORT: u32 = 150;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![vec![0, 0, 1, 2, 3, 4, 5, 6], vec![1, 0x85, b'm', 0x86, b'r', 0, 0x20, 3, 0xff, 0xfe, 0]]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let domain = xen.domain();
    let asked = Rc::new(RefCell::new(Vec::new()));
    let (store, found) = (domain.store(), asked.clone());
    domain
        .spawn(async move {
            let mut control = Control::new(&store).await.expect("the store works");
            while let Ok(request) = control.next().await {
                found.borrow_mut().push(request);
            }
        })
        .detach();
    xen.settle();
    let home = format!("/local/domain/{}/control", domain.id().0);
    while !input.0.is_empty() {
        let choice = input.byte();
        let key = if choice & 0x80 == 0 { "shutdown" } else { "sysrq" };
        let (value, expected): (Vec<u8>, _) = match choice & 0x7f {
            word @ 0..5 => {
                let request = Shutdown::ALL[usize::from(word)];
                let expected = (key == "shutdown").then_some(Request::Shutdown(request));
                (request.name().into(), expected)
            }
            5 | 6 => (vec![input.byte()], None),
            len => ((0..len % 40).map(|_| input.byte()).collect(), None),
        };
        let (path, before) = (format!("{home}/{key}"), asked.borrow().len());
        write_bytes(&xen, DomId::DOM0, &path, &value).expect("the toolstack may");
        xen.settle();
        let left: Vec<u8> = read(&xen, &path).expect("it is there");
        let new = asked.borrow()[before..].to_vec();
        assert!(new.len() <= 1, "{new:?} for {value:?}");
        if let Some(expected) = expected {
            assert_eq!(new, [expected]);
        }
        // What was understood is acknowledged; the rest stays, for the toolstack to see.
        match new.first() {
            Some(Request::Sysrq(key)) => assert!(key.is_ascii_graphic() && left.is_empty()),
            Some(Request::Shutdown(_)) => assert!(left.is_empty()),
            None => assert_eq!(left, value),
        }
    }
    xen.check_budgets();
    xen.end();
}
