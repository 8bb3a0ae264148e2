//! The states of a device, which may follow which, and what an end does about the other's. No I/O.

use alloc::vec::Vec;
use core::fmt;

use xenstore_client::{FromValue, ToValue};

/// The state of one end of a device (`enum xenbus_state`, xen/include/public/io/xenbus.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum State {
    /// Not there, or not known.
    Unknown = 0,
    /// Made by the toolstack; the driver has not begun.
    Initialising = 1,
    /// The backend waits for what the frontend offers.
    InitWait = 2,
    /// The frontend has offered; the backend is to connect.
    Initialised = 3,
    /// In use.
    Connected = 4,
    /// About to end.
    Closing = 5,
    /// Ended; nothing is shared any more.
    Closed = 6,
    /// One end wants a change while in use.
    Reconfiguring = 7,
    /// The change was made.
    Reconfigured = 8,
}

impl State {
    /// All of them, by their numbers.
    pub const ALL: [State; 9] = [
        State::Unknown,
        State::Initialising,
        State::InitWait,
        State::Initialised,
        State::Connected,
        State::Closing,
        State::Closed,
        State::Reconfiguring,
        State::Reconfigured,
    ];

    /// The state with this number; what is no state is [`State::Unknown`].
    pub fn from_number(number: u32) -> State {
        State::ALL.get(number as usize).copied().unwrap_or(State::Unknown)
    }

    /// Its name in the protocol: `Initialising`.
    pub fn name(self) -> &'static str {
        match self {
            State::Unknown => "Unknown",
            State::Initialising => "Initialising",
            State::InitWait => "InitWait",
            State::Initialised => "Initialised",
            State::Connected => "Connected",
            State::Closing => "Closing",
            State::Closed => "Closed",
            State::Reconfiguring => "Reconfiguring",
            State::Reconfigured => "Reconfigured",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), *self as u8)
    }
}

impl FromValue for State {
    const EXPECTED: &'static str = "a XenBus state from 0 to 8";

    /// Anything is a state: what an evil peer writes is [`State::Unknown`].
    fn from_value(value: &[u8]) -> Option<Self> {
        Some(u32::from_value(value).map_or(State::Unknown, State::from_number))
    }
}

impl ToValue for State {
    fn to_value(&self, out: &mut Vec<u8>) {
        (*self as u8).to_value(out);
    }
}

/// Which end of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum End {
    /// The end that uses the device.
    Frontend,
    /// The end that provides it.
    Backend,
}

/// Whether an end may go from one state to another.
///
/// ```text
/// frontend             1  2  3  4  5  6  7  8      backend              1  2  3  4  5  6  7  8
/// Initialising 1             x  x  x  x            Initialising 1          x        x  x
/// Initialised  3                x  x  x            InitWait     2                x  x  x
/// Connected    4                   x  x  x         Connected    4                x  x  x     x
/// Closing      5                      x            Closing      5                      x
/// Closed       6       x                           Closed       6       x  x
/// Reconfiguring 7               x  x  x            Reconfigured 8                x  x  x
/// (2, 8)                              x            (3, 7)                              x
/// ```
///
/// # Examples
///
/// ```
/// use xenbus::{End, State, is_legal};
///
/// assert!(is_legal(End::Frontend, State::Initialising, State::Initialised));
/// assert!(is_legal(End::Backend, State::Connected, State::Closing));
/// assert!(!is_legal(End::Backend, State::Closed, State::Connected));
/// ```
pub fn is_legal(end: End, from: State, to: State) -> bool {
    use State::{
        Closed, Closing, Connected, InitWait, Initialised, Initialising, Reconfigured, Reconfiguring, Unknown,
    };
    let next: &[State] = match (end, from) {
        (_, Unknown) => &[Initialising, Closing, Closed],
        (End::Frontend, Initialising) => &[Initialised, Connected, Closing, Closed],
        (End::Frontend, Initialised | Reconfiguring) => &[Connected, Closing, Closed],
        (End::Frontend, Connected) => &[Closing, Closed, Reconfiguring],
        (End::Frontend, Closed) => &[Initialising],
        (End::Backend, Initialising) => &[InitWait, Closing, Closed],
        // A backend that is connected says so again when the device's size changes.
        (End::Backend, InitWait | Reconfigured) => &[Connected, Closing, Closed],
        (End::Backend, Connected) => &[Connected, Closing, Closed, Reconfigured],
        (End::Backend, Closed) => &[Initialising, InitWait],
        // What is not this end's state at all can only be ended.
        (_, Closing) | (End::Frontend, InitWait | Reconfigured) | (End::Backend, Initialised | Reconfiguring) => {
            &[Closed]
        }
    };
    next.contains(&to)
}

/// How far a frontend is, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrontendStage {
    /// Nothing is shared yet.
    Fresh,
    /// Rings are granted, and where they are is published.
    Published,
    /// In use.
    Up,
    /// It wants to end, and has told the backend.
    Closing,
    /// It has ended.
    Closed,
}

/// What a frontend is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrontendStep {
    /// Wait for the backend.
    Wait,
    /// Grant rings and publish where they are.
    Publish,
    /// Read what the backend provides, and use the device.
    Finish,
    /// End the use, and be [`State::Closed`].
    Close,
    /// Begin again: the backend is ready for it.
    Reopen,
}

/// What a frontend at `stage` does about the backend's state, `None` where the backend's directory is gone.
pub fn frontend_step(stage: FrontendStage, backend: Option<State>) -> FrontendStep {
    use FrontendStage::{Closed, Closing, Fresh, Published, Up};
    let Some(backend) = backend else {
        return match stage {
            Fresh | Closed => FrontendStep::Wait,
            Published | Up | Closing => FrontendStep::Close,
        };
    };
    match (stage, backend) {
        (Fresh, State::InitWait) => FrontendStep::Publish,
        // Only a backend that was never closed is closing; one that is Closed will see this end begin.
        (Fresh, State::Closing) => FrontendStep::Close,
        // It may have gone through states that were not observed.
        (Published, State::Connected | State::Reconfiguring | State::Reconfigured) => FrontendStep::Finish,
        (Published | Up, State::Closing | State::Closed) => FrontendStep::Close,
        // A backend that starts over has forgotten what was offered.
        (Up, State::Initialising | State::InitWait | State::Unknown) => FrontendStep::Close,
        (Published, State::Unknown) => FrontendStep::Close,
        (Closing, State::Closing | State::Closed | State::Unknown | State::Initialising) => FrontendStep::Close,
        (Closed, State::Initialising | State::InitWait) => FrontendStep::Reopen,
        (Fresh | Published | Up | Closing | Closed, _) => FrontendStep::Wait,
    }
}

/// How far a backend is, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendStage {
    /// It waits for what the frontend offers.
    Waiting,
    /// In use.
    Up,
    /// It wants to end, and has told the frontend.
    Closing,
    /// It has ended.
    Closed,
}

/// What a backend is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendStep {
    /// Wait for the frontend, or for the toolstack.
    Wait,
    /// Map the frontend's rings, and serve.
    Connect,
    /// End the use, and be [`State::Closed`].
    Close,
    /// Begin again: the frontend is about to.
    Reopen,
    /// End the use, be [`State::Closed`], and leave the device for good.
    Leave,
}

/// What a backend at `stage` does about the frontend's state, `None` where the frontend's directory is gone.
///
/// `online` is what the toolstack says: whether the device is to stay. `asked` is whether the toolstack has asked the
/// backend to close, by its own state.
pub fn backend_step(stage: BackendStage, frontend: Option<State>, online: bool, asked: bool) -> BackendStep {
    use BackendStage::{Closed, Closing, Up, Waiting};
    let close = if online { BackendStep::Close } else { BackendStep::Leave };
    let Some(frontend) = frontend else { return BackendStep::Leave };
    match (stage, frontend) {
        // Nothing is in use: no need to wait for a frontend that may have no driver.
        (Waiting, _) if asked => close,
        // It may have gone through states that were not observed.
        (Waiting, State::Initialised | State::Connected) => BackendStep::Connect,
        (Waiting | Up, State::Closing | State::Closed) => close,
        // A frontend that begins again without having closed has forgotten what it offered.
        (Up, State::Initialising | State::Unknown) => close,
        (Closing, State::Closing | State::Closed | State::Unknown | State::Initialising) => close,
        (Closed, _) if !online => BackendStep::Leave,
        (Closed, State::Initialising) => BackendStep::Reopen,
        // In use until the frontend, which sees the same request, lets go.
        (Waiting | Up | Closing | Closed, _) => BackendStep::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::{BTreeSet, VecDeque};
    use alloc::format;
    use alloc::string::String;

    /// The moves as documented above `is_legal`, read from the picture.
    #[test]
    fn the_table_is_the_documented_one() {
        let rows = [
            (End::Frontend, State::Initialising, "  xxxx  "),
            (End::Frontend, State::Initialised, "   xxx  "),
            (End::Frontend, State::Connected, "    xxx "),
            (End::Frontend, State::Closing, "     x  "),
            (End::Frontend, State::Closed, "x       "),
            (End::Frontend, State::Reconfiguring, "   xxx  "),
            (End::Frontend, State::InitWait, "     x  "),
            (End::Frontend, State::Reconfigured, "     x  "),
            (End::Backend, State::Initialising, " x  xx  "),
            (End::Backend, State::InitWait, "   xxx  "),
            (End::Backend, State::Connected, "   xxx x"),
            (End::Backend, State::Closing, "     x  "),
            (End::Backend, State::Closed, "xx      "),
            (End::Backend, State::Reconfigured, "   xxx  "),
            (End::Backend, State::Initialised, "     x  "),
            (End::Backend, State::Reconfiguring, "     x  "),
        ];
        for (end, from, row) in rows {
            let legal: String =
                State::ALL[1..].iter().map(|to| if is_legal(end, from, *to) { 'x' } else { ' ' }).collect();
            assert_eq!(legal, row, "{end:?} from {from}");
        }
    }

    #[test]
    fn anything_is_a_state() {
        for (value, state) in [
            (&b"4"[..], State::Connected),
            (b"8", State::Reconfigured),
            (b"9", State::Unknown),
            (b"-1", State::Unknown),
            (b"", State::Unknown),
            (b"\xff", State::Unknown),
        ] {
            assert_eq!(State::from_value(value), Some(state));
        }
        assert_eq!(format!("{}", State::Closing), "Closing (5)");
    }

    /// Every stage against every state: nothing is left undecided by accident, and no end is used while the other says
    /// that it is not there.
    #[test]
    fn every_pair_has_its_step() {
        use FrontendStep::{Close, Finish, Publish, Reopen, Wait};
        // Backend: gone, 0, 1, 2, 3, 4, 5, 6, 7, 8.
        let frontends = [
            (FrontendStage::Fresh, [Wait, Wait, Wait, Publish, Wait, Wait, Close, Wait, Wait, Wait]),
            (FrontendStage::Published, [Close, Close, Wait, Wait, Wait, Finish, Close, Close, Finish, Finish]),
            (FrontendStage::Up, [Close, Close, Close, Close, Wait, Wait, Close, Close, Wait, Wait]),
            (FrontendStage::Closing, [Close, Close, Close, Wait, Wait, Wait, Close, Close, Wait, Wait]),
            (FrontendStage::Closed, [Wait, Wait, Reopen, Reopen, Wait, Wait, Wait, Wait, Wait, Wait]),
        ];
        for (stage, expected) in frontends {
            let states = [None].into_iter().chain(State::ALL.map(Some));
            let steps: Vec<_> = states.map(|state| frontend_step(stage, state)).collect();
            assert_eq!(steps, expected, "{stage:?}");
        }
        use BackendStep::{Close as Shut, Connect, Leave, Reopen as Again, Wait as Idle};
        let backends = [
            (BackendStage::Waiting, true, false, [Leave, Idle, Idle, Idle, Connect, Connect, Shut, Shut, Idle, Idle]),
            (BackendStage::Waiting, true, true, [Leave, Shut, Shut, Shut, Shut, Shut, Shut, Shut, Shut, Shut]),
            (BackendStage::Up, true, false, [Leave, Shut, Shut, Idle, Idle, Idle, Shut, Shut, Idle, Idle]),
            (BackendStage::Up, false, true, [Leave, Leave, Leave, Idle, Idle, Idle, Leave, Leave, Idle, Idle]),
            (BackendStage::Closing, true, false, [Leave, Shut, Shut, Idle, Idle, Idle, Shut, Shut, Idle, Idle]),
            (BackendStage::Closed, true, false, [Leave, Idle, Again, Idle, Idle, Idle, Idle, Idle, Idle, Idle]),
            (BackendStage::Closed, false, false, [Leave; 10]),
        ];
        for (stage, online, asked, expected) in backends {
            let states = [None].into_iter().chain(State::ALL.map(Some));
            let steps: Vec<_> = states.map(|state| backend_step(stage, state, online, asked)).collect();
            assert_eq!(steps, expected, "{stage:?} online={online} asked={asked}");
        }
    }

    /// Both ends at once.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Pair {
        frontend: (u8, State),
        backend: (u8, State),
        online: bool,
        left: bool,
        /// Either end may want to end once, and the toolstack once.
        wishes: [bool; 3],
    }

    const FRONT: [FrontendStage; 5] = [
        FrontendStage::Fresh,
        FrontendStage::Published,
        FrontendStage::Up,
        FrontendStage::Closing,
        FrontendStage::Closed,
    ];
    const BACK: [BackendStage; 4] =
        [BackendStage::Waiting, BackendStage::Up, BackendStage::Closing, BackendStage::Closed];

    impl Pair {
        fn front(self, stage: u8, state: State) -> Pair {
            assert!(
                self.frontend.1 == state || is_legal(End::Frontend, self.frontend.1, state),
                "the frontend goes to {state} in {self:?}"
            );
            Pair { frontend: (stage, state), ..self }
        }

        fn back(self, stage: u8, state: State) -> Pair {
            assert!(
                self.backend.1 == state || is_legal(End::Backend, self.backend.1, state),
                "the backend goes to {state} in {self:?}"
            );
            Pair { backend: (stage, state), ..self }
        }

        fn next(self, vif: bool) -> Vec<Pair> {
            let mut next = Vec::new();
            match frontend_step(FRONT[self.frontend.0 as usize], Some(self.backend.1)) {
                FrontendStep::Wait => {}
                FrontendStep::Publish if vif => next.push(self.front(1, State::Connected)),
                FrontendStep::Publish => next.push(self.front(1, State::Initialised)),
                FrontendStep::Finish => next.push(self.front(2, State::Connected)),
                FrontendStep::Close => next.push(self.front(4, State::Closed)),
                FrontendStep::Reopen => next.push(self.front(0, State::Initialising)),
            }
            let asked = self.backend.1 == State::Closing;
            if !self.left {
                match backend_step(BACK[self.backend.0 as usize], Some(self.frontend.1), self.online, asked) {
                    BackendStep::Wait => {}
                    BackendStep::Connect => next.push(self.back(1, State::Connected)),
                    BackendStep::Close => next.push(self.back(3, State::Closed)),
                    BackendStep::Reopen => next.push(self.back(0, State::InitWait)),
                    BackendStep::Leave => next.push(Pair { left: true, ..self.back(3, State::Closed) }),
                }
            }
            if self.wishes[0] && self.frontend.0 == 2 {
                next.push(Pair { wishes: [false, self.wishes[1], self.wishes[2]], ..self.front(3, State::Closing) });
            }
            if self.wishes[1] && self.backend.0 == 1 && !self.left && !asked {
                next.push(Pair { wishes: [self.wishes[0], false, self.wishes[2]], ..self.back(2, State::Closing) });
            }
            if self.wishes[2] && !self.left && self.backend.1 != State::Closed {
                let wishes = [self.wishes[0], self.wishes[1], false];
                next.push(Pair { online: false, wishes, backend: (self.backend.0, State::Closing), ..self });
            }
            next
        }
    }

    /// From the start, through whatever order: the ends always come to a rest where both are in use or both have ended,
    /// and a device that the toolstack wants gone is left.
    #[test]
    fn the_two_ends_always_come_to_agree() {
        for vif in [false, true] {
            let start = Pair {
                frontend: (0, State::Initialising),
                backend: (0, State::InitWait),
                online: true,
                left: false,
                wishes: [true; 3],
            };
            let mut seen = BTreeSet::from([start]);
            let mut queue = VecDeque::from([start]);
            let mut rests = BTreeSet::new();
            while let Some(pair) = queue.pop_front() {
                let next = pair.next(vif);
                let idle = Pair { wishes: [false; 3], ..pair };
                if idle.next(vif).is_empty() {
                    rests.insert((pair.frontend, pair.backend));
                    let agree = matches!(
                        (FRONT[pair.frontend.0 as usize], BACK[pair.backend.0 as usize]),
                        (FrontendStage::Up, BackendStage::Up) | (FrontendStage::Closed, BackendStage::Closed)
                    );
                    let never_began = pair.left && FRONT[pair.frontend.0 as usize] == FrontendStage::Fresh;
                    assert!(agree || never_began, "the ends are stuck at {pair:?}");
                    assert!(pair.left || pair.online, "a device stays that is to go: {pair:?}");
                }
                for pair in next {
                    if seen.insert(pair) {
                        queue.push_back(pair);
                    }
                }
            }
            assert!(seen.len() > 30 && rests.len() >= 2, "{} {rests:?}", seen.len());
        }
    }
}
