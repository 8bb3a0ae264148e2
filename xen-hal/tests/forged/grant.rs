//! A grant that gives its page back while the peer still has it.

use xen_hal::{Grant, GrantRef, Page};

struct Forged<P>(P);

// SAFETY: never run.
unsafe impl<P: Page> Grant for Forged<P> {
    type Page = P;

    fn reference(&self) -> GrantRef {
        GrantRef(8)
    }

    fn page(&self) -> &P {
        &self.0
    }

    fn try_end(self) -> Result<P, Self> {
        Ok(self.0)
    }
}

fn main() {
    fn grant<G: Grant>() {}
    fn over<P: Page>() {
        grant::<Forged<P>>();
    }
}
