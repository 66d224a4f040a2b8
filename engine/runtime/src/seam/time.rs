//! Sleeping and deadlines.

use std::future::Future;
use std::time::Duration;

use futures_lite::FutureExt as _;

/// Sleeps at least this long.
pub(crate) async fn sleep(duration: Duration) {
    if super::plain::is_here() {
        async_io::Timer::after(duration).await;
    } else {
        glommio::timer::sleep(duration).await;
    }
}

/// The output of `work`, or `None` when the deadline passes first.
pub(crate) async fn within<T>(duration: Duration, work: impl Future<Output = T>) -> Option<T> {
    let work = async { Some(work.await) };
    let deadline = async {
        sleep(duration).await;
        None
    };
    work.or(deadline).await
}
