//! Lists, page after page.

use supernode_api::disk::DiskListQuery;
use supernode_api::job::JobListQuery;
use supernode_api::node::NodeListQuery;
use supernode_api::operation::OperationListQuery;
use supernode_api::page::MAXIMUM_LIMIT;
use supernode_api::stress::{StressEvidenceQuery, StressRunListQuery};
use supernode_api::{Nothing, Operation, Page};

use crate::{Client, ClientError};

/// A query whose answer comes in pages.
pub trait PagedQuery: Clone + Send + Sync {
    /// Asks for large pages.
    fn largest(&mut self);
    /// Continues behind a page; false when this list has only one.
    fn continue_at(&mut self, cursor: String) -> bool;
}

impl PagedQuery for Nothing {
    fn largest(&mut self) {}
    fn continue_at(&mut self, _: String) -> bool {
        false
    }
}

macro_rules! paged {
    ($($query:ty),*) => {$(
        impl PagedQuery for $query {
            fn largest(&mut self) {
                self.limit = self.limit.or(Some(MAXIMUM_LIMIT));
            }
            fn continue_at(&mut self, cursor: String) -> bool {
                // The same page again would never end.
                let goes_on = self.cursor.as_ref() != Some(&cursor);
                self.cursor = Some(cursor);
                goes_on
            }
        }
    )*};
}
paged!(
    DiskListQuery,
    StressRunListQuery,
    StressEvidenceQuery,
    NodeListQuery,
    JobListQuery,
    OperationListQuery
);

impl Client {
    /// All items of a list.
    pub async fn list<O, T>(&self, path: &[&str], query: &O::Query) -> Result<Vec<T>, ClientError>
    where
        O: Operation<Request = Nothing, Response = Page<T>>,
        O::Query: PagedQuery,
    {
        let mut query = query.clone();
        query.largest();
        let mut items = Vec::new();
        loop {
            let page = self.get::<O>(path, &query).await?;
            items.extend(page.items);
            if !page
                .next_cursor
                .is_some_and(|cursor| query.continue_at(cursor))
            {
                return Ok(items);
            }
        }
    }
}
