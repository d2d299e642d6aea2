//! Listing, page by page.

use std::ops::ControlFlow;

use object_store::list::{PaginatedListOptions, PaginatedListResult};

use super::answer::{Cause, Failure};
use super::core::Core;
use super::engine::Engine;
use super::retry::repeat;
use crate::{ObjectEntry, ObjectName};

impl Core {
    /// One page of the objects whose names start with `prefix`.
    pub(super) async fn page(
        &self,
        prefix: &str,
        token: Option<&str>,
        names_max: Option<usize>,
    ) -> Result<PaginatedListResult, Failure> {
        let prefix = format!("{}{prefix}", self.prefix);
        let prefix = Some(prefix.as_str()).filter(|prefix| !prefix.is_empty());
        repeat(self.bounds, 0, || {
            let options = PaginatedListOptions {
                max_keys: names_max,
                page_token: token.map(str::to_owned),
                ..PaginatedListOptions::default()
            };
            self.client.backend.list_paginated(prefix, options)
        })
        .await
    }

    /// Gives every object to `visit`, outside of any request.
    pub(super) fn list(
        &self,
        engine: &Engine,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectEntry) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let mut token: Option<String> = None;
        let mut last: Option<ObjectName> = None;
        loop {
            let page = engine.block_on(self.page(prefix, token.as_deref(), None))?;
            for object in page.result.objects {
                let Some(name) = object.location.as_ref().strip_prefix(&self.prefix) else {
                    return Err(senseless("it lists what does not begin with the prefix"));
                };
                // What has another kind of name was not put by a store: as the hidden files of a folder.
                let Ok(name) = ObjectName::try_from(name) else {
                    continue;
                };
                if last.as_ref().is_some_and(|last| *last >= name) {
                    return Err(senseless("it lists names out of their order"));
                }
                last = Some(name.clone());
                if visit(ObjectEntry::new(name, object.size)).is_break() {
                    return Ok(());
                }
            }
            match page.page_token {
                Some(next) if token.as_ref() == Some(&next) => {
                    return Err(senseless("it gives the same page for ever"));
                }
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }
}

fn senseless(why: &str) -> Failure {
    Failure::with_words(Cause::Nonsense, why)
}
