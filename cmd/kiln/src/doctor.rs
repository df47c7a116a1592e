//! `kiln doctor`.

use crate::failure::CommandError;
use crate::session::Session;

/// Checks.
pub(crate) async fn run(session: &Session) -> Result<(), CommandError> {
    let _client = session.connect().await?;
    Ok(())
}
