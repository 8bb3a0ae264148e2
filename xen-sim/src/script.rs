//! What a test does as one end of a device, as a trait object: drivers that are compiled anew for each test take minutes.

use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

/// What a test does as one end of a device.
pub type Script<T> = Box<dyn Fn(Rc<T>) -> LocalBoxFuture<'static, ()>>;

/// Makes one of a closure.
pub fn script<T: 'static>(run: impl AsyncFn(&T) + 'static) -> Script<T> {
    let run = Rc::new(run);
    Box::new(move |end| {
        let run = run.clone();
        async move { run(&end).await }.boxed_local()
    })
}
