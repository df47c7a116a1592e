//! Follows a list page after page.

use kiln_api::Method;
use kiln_api::page::{MAX_LIMIT, Page};

use crate::failure::CommandError;
use crate::session::Session;

/// Collects the rows of a list of the daemon's until it ends or there are `limit`. `params` makes
/// the call for a page: behind which row, and how many.
pub(crate) async fn listed<M, T>(
    session: &Session,
    first: Option<u64>,
    limit: Option<usize>,
    params: impl Fn(Option<u64>, Option<u32>) -> M::Params,
) -> Result<Vec<T>, CommandError>
where
    M: Method<Result = Page<T>>,
{
    let client = session.connect().await?;
    collect(first, limit, async |after, limit| {
        let params = params(after, Some(limit));
        session.call::<M>(&client, &params).await
    })
    .await
}

/// Collects rows until the list ends or there are `limit`. `fetch` gets the cursor and how many
/// rows to ask for.
pub(crate) async fn collect<T>(
    first: Option<u64>,
    limit: Option<usize>,
    mut fetch: impl AsyncFnMut(Option<u64>, u32) -> Result<Page<T>, CommandError>,
) -> Result<Vec<T>, CommandError> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    let mut after = first;
    while rows.len() < limit {
        let missing = u32::try_from(limit - rows.len()).unwrap_or(MAX_LIMIT);
        let page = fetch(after, missing.min(MAX_LIMIT)).await?;
        rows.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    rows.truncate(limit);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists 2,500 rows as a daemon does; returns the rows and what was asked for.
    async fn list(first: Option<u64>, limit: Option<usize>) -> (Vec<u64>, Vec<u32>) {
        let mut asked = Vec::new();
        let rows = collect(first, limit, async |after, count| {
            asked.push(count);
            let begin = after.map_or(1, |after| after + 1);
            let end = (begin + u64::from(count)).min(2_501);
            let next = (end <= 2_500).then_some(end - 1);
            Ok(Page {
                items: (begin..end).collect(),
                next,
            })
        });
        let rows = rows.await.unwrap();
        (rows, asked)
    }

    #[tokio::test]
    async fn pages_are_followed_to_the_end_or_the_limit() {
        let (rows, asked) = list(None, None).await;
        assert_eq!((rows.len(), rows[0], rows[2_499]), (2_500, 1, 2_500));
        assert_eq!(asked, [1_000, 1_000, 1_000]);

        assert_eq!(list(None, Some(5)).await, (vec![1, 2, 3, 4, 5], vec![5]));
        assert_eq!(
            list(Some(2_498), Some(5)).await,
            (vec![2_499, 2_500], vec![5])
        );
        assert_eq!(list(None, Some(0)).await, (vec![], vec![]));
        assert_eq!(list(None, Some(1_500)).await.1, [1_000, 500]);
    }
}
