//! Work that ends though its caller hangs up: a task of its own.

use kiln_api::{Failure, codes};
use kiln_store::CallLine;

/// Does work to its end, also when nobody waits for it any more. Its first change takes the audit
/// line of the call along. Fails only where the work panics.
pub(crate) async fn wholly<F>(work: F) -> Result<F::Output, Failure>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let task = tokio::spawn(CallLine::carried(work));
    task.await
        .map_err(|error| Failure::from_error(codes::daemon::INTERNAL, &error))
}
