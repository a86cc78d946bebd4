//! What holds with every registry: bodies of tests, driven by `with_consul` and `with_etcd`.

pub mod changes;
pub mod checks;
pub mod entries;
pub mod history;
pub mod outages;
pub mod spread;
pub mod start;

/// A module with a test for each body, against a registry that this expression starts.
macro_rules! all_hold_with {
    ($module:ident, $registry:expr) => {
        $crate::with_registry::each_holds_with! {
            $module, $registry,
            changes: a_change_is_felt_at_once,
            checks: a_stopped_instance_is_out_until_it_goes_on,
            entries: an_instance_of_ipv6_is_called,
            entries: nonsense_is_skipped_counted_and_told_once,
            entries: ten_thousand_entries_are_served_from,
            history: a_new_weight_keeps_the_counts_and_a_new_id_begins_anew,
            outages: a_registry_that_forgot_everything_is_believed_in_the_end,
            spread: requests_spread_as_the_weights_say,
            start: without_its_registry_it_starts_waits_and_says_why,
        }
    };
}

macro_rules! each_holds_with {
    ($module:ident, $registry:expr, $($file:ident: $body:ident,)+) => {
        mod $module {
            use $crate::support::Registry;

            $(
                #[tokio::test]
                async fn $body() {
                    $crate::with_registry::$file::$body($registry.await).await;
                }
            )+
        }
    };
}

pub(crate) use {all_hold_with, each_holds_with};
