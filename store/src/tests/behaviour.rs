//! What every store does, as claims: each takes a fresh store, whichever kind it is. [`store_suite!`] makes a test of each.

mod audit;
mod nodes;
mod records;
mod revisions;
mod tokens;

pub(super) use audit::*;
pub(super) use nodes::*;
pub(super) use records::*;
pub(super) use revisions::*;
pub(super) use tokens::*;

/// Makes a test of each claim. The expression is a future of a fresh store, and of what must live as long as it.
macro_rules! store_suite {
    ($fresh:expr) => {
        $crate::tests::behaviour::store_suite!(@claims $fresh;
            revisions_are_numbered_from_one_and_keep_their_texts,
            a_change_of_what_is_no_longer_newest_is_stale,
            a_staged_revision_is_its_nodes_until_it_is_released,
            only_the_newest_staged_revision_is_released,
            a_nodes_name_is_matched_whole,
            every_write_has_its_audit_entry_or_is_not_done,
            audit_is_found_by_what_it_says,
            a_kept_answer_is_done_once_and_expires,
            tokens_live_until_they_are_revoked,
            the_last_token_stays,
            the_first_token_is_made_once,
            a_revocation_replaces_an_older_one_of_the_same,
            a_lifted_revocation_is_gone_and_the_others_stay,
            revocations_are_bounded,
            nodes_say_the_newest_of_themselves,
            the_first_value_under_a_name_is_kept,
            the_feed_grows_with_what_nodes_must_notice,
            a_write_between_looking_and_waiting_ends_the_wait,
            text_that_a_database_can_not_keep_is_kept_readable,
            records_are_found_by_what_they_say,
            a_batch_of_records_is_written_once,
            searches_wait_for_each_other_and_hold_up_nothing_else,
            records_go_by_age_and_by_tenant,
            what_expired_is_purged,
        );

        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn of_many_who_publish_each_is_acknowledged_once() {
            let (store, _keep) = $fresh.await;
            $crate::tests::behaviour::many_publish(store).await;
        }
    };
    (@claims $fresh:expr; $($claim:ident,)*) => { $(
        #[tokio::test]
        async fn $claim() {
            let (store, _keep) = $fresh.await;
            $crate::tests::behaviour::$claim(&store).await;
        }
    )* };
}
pub(super) use store_suite;
