//! What every store does, as claims: each takes a fresh store, whichever kind it is. [`store_suite!`] makes a test of each.

mod audit;
mod before;
mod differences;
mod nodes;
mod outbox;
mod packs;
mod quotas;
mod records;
mod revisions;
mod rollouts;
mod tokens;
mod webhooks;

pub(super) use audit::*;
pub(super) use before::*;
pub(super) use differences::*;
pub(super) use nodes::*;
pub(super) use outbox::*;
pub(super) use packs::*;
pub(super) use quotas::*;
pub(super) use records::*;
pub(super) use revisions::*;
pub(super) use rollouts::*;
pub(super) use tokens::*;
pub(super) use webhooks::*;

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
            events_are_told_with_the_revision_that_they_tell_of,
            what_was_told_under_a_name_is_not_told_again,
            what_waits_for_who_reads_the_outbox_is_kept_for_longer,
            a_nodes_quotas_are_what_it_kept_last,
            very_many_quotas_are_kept_and_read,
            a_pack_file_is_kept_for_good_under_its_version,
            only_the_signature_of_the_same_pack_is_replaced,
            pack_files_are_bounded,
            what_a_pack_reads_is_what_was_put_last,
            what_a_pack_reads_is_bounded,
            rollouts_follow_the_newest_revision,
            a_rollout_ends_once_and_says_why,
            what_all_processes_saw_of_a_window_is_added_up,
            rollouts_are_found_by_pack_and_attachment,
            rollouts_that_ended_are_forgotten_after_ninety_days,
            what_ran_before_is_found_in_older_revisions,
            differences_are_found_by_what_they_say,
            the_newest_differences_of_a_rollout_are_kept,
            differences_go_with_the_records_of_their_exchanges,
            a_request_is_kept_whole_or_not_at_all,
            the_same_event_again_is_no_event,
            what_waits_is_bounded_by_tenant,
            an_event_becomes_one_delivery_for_each_endpoint,
            a_transaction_makes_a_bounded_number_of_deliveries,
            nobody_waits_for_who_is_wide_or_sends_much,
            those_aside_take_turns,
            a_turn_plans_a_bounded_number_of_events,
            a_turn_reads_a_bounded_number_of_bytes,
            a_replay_goes_no_further_than_its_tenants_own_place,
            how_an_endpoint_stood_is_kept_for_as_long_as_it_was_named,
            what_was_told_of_what_went_is_not_told_of_again,
            nothing_is_purged_of_who_is_aside,
            a_plan_of_an_older_document_does_nothing,
            what_there_is_to_do_ends_the_wait,
            what_is_due_is_held_once_and_in_its_order,
            lanes_are_read_on_behind_the_last_one,
            what_is_due_later_waits_and_low_water_is_kept,
            every_attempt_is_in_the_ledger,
            who_no_longer_holds_changes_nothing,
            what_the_silent_hold_is_given_back,
            deliveries_are_found_by_what_they_say,
            of_a_key_the_first_alone_is_due,
            one_that_came_to_nothing_stops_its_key_or_is_skipped,
            what_is_stuck_is_mended,
            what_waits_behind_one_that_nobody_works_at_takes_up_no_backlog,
            what_waits_behind_many_is_parked_a_few_at_a_time,
            what_is_known_later_of_an_endpoint_counts,
            a_disabled_endpoint_parks_what_is_due_and_tells_once,
            what_is_not_recovered_stays_parked_and_stops_nobody,
            very_many_that_were_parked_are_taken_up,
            what_waited_goes_in_its_turn_once_its_endpoint_is_enabled,
            what_waited_is_left_with_the_rest_where_nothing_is_recovered,
            what_waits_behind_a_dead_one_is_not_left_with_what_is_parked,
            nothing_is_sent_of_what_is_being_left,
            what_was_held_before_its_endpoint_was_enabled_is_not_parked,
            what_is_said_of_an_endpoint_before_it_was_enabled_parks_nothing,
            whoever_enables_an_endpoint_ends_its_parking,
            what_was_another_tenants_stays_theirs,
            what_is_known_of_another_tenants_endpoint_says_nothing,
            single_deliveries_are_retried_and_given_up,
            what_was_given_up_is_no_dead_letter,
            a_ping_goes_to_one_endpoint,
            a_replay_skips_what_was_delivered,
            a_forced_replay_sends_what_was_delivered_once_more,
            a_replay_goes_no_further_than_fan_out,
            a_replay_lasts_until_its_window_ends,
            a_page_is_queued_by_who_holds_the_replay,
            a_page_has_a_bounded_number_of_deliveries,
            a_page_of_an_older_document_is_not_queued,
            a_reader_that_was_taken_over_keeps_nothing,
            what_somebody_leaves_is_held_by_others_at_once,
            a_replay_rests_for_as_long_as_what_it_queued_takes_at_its_rate,
            old_days_go_with_all_that_is_of_them,
            what_goes_undelivered_is_told_to_its_tenant_once,
            a_delivery_without_its_event_is_told_and_held_by_nobody,
            what_the_document_no_longer_names_is_forgotten_in_time,
        );
        $crate::tests::behaviour::store_suite!(@at_once $fresh;
            of_many_who_publish_each_is_acknowledged_once: many_publish,
            of_many_who_publish_none_is_missed_in_the_outbox: many_tell,
            of_many_who_tell_the_same_one_is_first: many_tell_the_same,
            of_many_who_push_a_version_one_content_is_kept: many_push,
            of_many_nodes_that_see_a_revision_one_opens_its_rollouts: many_sync,
            what_many_report_counts_until_the_rollout_ends: many_report,
            of_events_that_many_accept_none_is_missed: many_accept,
            an_event_is_fanned_out_once_by_many: many_fan_out,
            what_is_wide_is_fanned_out_once_by_many: many_fan_out_what_is_wide,
            a_delivery_is_settled_once_by_many: many_hold,
            order_is_kept_by_many_while_events_arrive: many_order,
        );
    };
    (@at_once $fresh:expr; $($claim:ident: $many:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $claim() {
            let (store, _keep) = $fresh.await;
            $crate::tests::databases::connect(&store).await;
            $crate::tests::behaviour::$many(store).await;
        }
    )* };
    (@claims $fresh:expr; $($claim:ident,)*) => { $(
        #[tokio::test]
        async fn $claim() {
            let (store, _keep) = $fresh.await;
            $crate::tests::behaviour::$claim(&store).await;
        }
    )* };
}
pub(super) use store_suite;
