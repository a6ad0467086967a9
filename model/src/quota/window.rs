//! The counter of a quota: what was used in the present window of the tenant's calendar.
//!
//! Invariant: windows of a period follow each other without gap or overlap, also where clocks are put forward or back.

use super::{Level, Period, Quota, Wait};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// Clocks of one process may differ by this much around a window's end without a step being meant, in microseconds.
const CLOCK_TOLERANCE: i64 = 1_000_000;

/// By what a tenant's days, weeks and months are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Where its days begin.
    pub zone: TimeZone,
    /// The day on which its billing months begin, 1 to 31: in shorter months the last one.
    pub billing_day: i8,
}

impl Calendar {
    /// UTC, with billing months that are the calendar's.
    pub const UTC: Self = Self { zone: TimeZone::UTC, billing_day: 1 };
}

/// A calendar window: microseconds since the epoch, `end` excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first microsecond.
    pub start: i64,
    /// The first microsecond of the next one.
    pub end: i64,
}

impl Window {
    /// The window of this period that holds `now`.
    pub fn of(period: Period, calendar: &Calendar, now: i64) -> Self {
        let window = match period {
            Period::Minute => Some(Self::of_clock(60, &calendar.zone, now)),
            Period::Hour => Some(Self::of_clock(3_600, &calendar.zone, now)),
            Period::Day | Period::Week | Period::Month | Period::BillingMonth => {
                Self::of_calendar(period, calendar, now)
            }
        };
        // Only at the ends of the calendar (years -9999 and 9999).
        window.filter(|window| window.holds(now)).unwrap_or(Self { start: now, end: i64::MAX })
    }

    /// Minutes and hours of the local clock. Where it is put forward or back, a window ends and another begins.
    fn of_clock(seconds: i64, zone: &TimeZone, now: i64) -> Self {
        let length = seconds * 1_000_000;
        let shift = offset(zone, now);
        let local = now.saturating_add(shift);
        let start = local.saturating_sub(local.rem_euclid(length)).saturating_sub(shift);
        let end = start.saturating_add(length);
        // Where the offset is another one at the window's first or last microsecond, a transition lies between.
        let jumped = |within| offset(zone, within) != shift;
        let here = timestamp(now);
        let last = jumped(start)
            .then(|| zone.preceding(here + SignedDuration::from_nanos(1)).next())
            .flatten();
        let next = jumped(end.saturating_sub(1)).then(|| zone.following(here).next()).flatten();
        Self {
            start: last.map_or(start, |jump| start.max(jump.timestamp().as_microsecond())),
            end: next.map_or(end, |jump| end.min(jump.timestamp().as_microsecond())),
        }
    }

    fn of_calendar(period: Period, calendar: &Calendar, now: i64) -> Option<Self> {
        let zone = &calendar.zone;
        let date = timestamp(now).to_zoned(zone.clone()).date();
        let (first, next) = match period {
            Period::Month => (date.first_of_month(), date.last_of_month().tomorrow().ok()?),
            Period::Week => {
                let days = i64::from(date.weekday().to_monday_zero_offset());
                let monday = date.checked_sub(jiff::Span::new().days(days)).ok()?;
                (monday, monday.checked_add(jiff::Span::new().days(7)).ok()?)
            }
            Period::BillingMonth => billing_month(date, calendar.billing_day)?,
            Period::Minute | Period::Hour | Period::Day => (date, date.tomorrow().ok()?),
        };
        let instant = |midnight: Zoned| midnight.timestamp().as_microsecond();
        Some(Self {
            start: instant(first.to_zoned(zone.clone()).ok()?),
            end: instant(next.to_zoned(zone.clone()).ok()?),
        })
    }

    const fn holds(self, now: i64) -> bool {
        self.start <= now && now < self.end
    }
}

/// The first day of the billing month that holds this date, and that of the next one.
fn billing_month(date: Date, day: i8) -> Option<(Date, Date)> {
    let begins = |month: Date| {
        let day = day.clamp(1, month.days_in_month());
        Date::new(month.year(), month.month(), day).ok()
    };
    let here = date.first_of_month();
    let first = begins(here)?;
    if date < first {
        let last = here.yesterday().ok()?;
        return Some((begins(last)?, first));
    }
    let next = here.last_of_month().tomorrow().ok()?;
    Some((first, begins(next)?))
}

/// What was used in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    window: Window,
    period: Period,
    used: u64,
}

impl Spent {
    /// Nothing used in the window that holds `now`.
    pub fn at_rest(quota: Quota, calendar: &Calendar, now: i64) -> Self {
        let period = quota.period();
        Self { window: Window::of(period, calendar, now), period, used: 0 }
    }

    /// What is used of the quota now.
    pub fn level(&self, quota: Quota, calendar: &Calendar, now: i64) -> Level {
        let spent = self.at(quota, calendar, now);
        Level {
            limit: quota.amount(),
            used: spent.used,
            remaining: quota.amount().saturating_sub(spent.used),
            reset_after: Some(spent.window.end.saturating_sub(now)),
            window: Some(spent.window),
        }
    }

    /// How long a request of this cost has to wait; `None` when it fits now.
    pub fn refusal(&self, quota: Quota, calendar: &Calendar, cost: u32, now: i64) -> Option<Wait> {
        let spent = self.at(quota, calendar, now);
        let cost = u64::from(cost);
        if cost == 0 || spent.used.saturating_add(cost) <= quota.amount() {
            None
        } else if cost > quota.amount() {
            Some(Wait::Forever)
        } else {
            Some(Wait::For(spent.window.end.saturating_sub(now)))
        }
    }

    /// Takes the cost, whether it fits or not; says in which window.
    pub fn charge(&mut self, quota: Quota, calendar: &Calendar, cost: u32, now: i64) -> Window {
        *self = self.at(quota, calendar, now);
        self.used = self.used.saturating_add(cost.into());
        self.window
    }

    /// Takes or gives back what a charge in `window` turned out to cost more or less; nothing when that window is over.
    pub fn correct(&mut self, reserved: u32, cost: u32, window: Window) {
        if self.window.start == window.start {
            self.used = self.used.saturating_add(cost.into()).saturating_sub(reserved.into());
        }
    }

    /// Gives back what was taken in `window`; nothing when that window is over.
    pub fn give_back(&mut self, cost: u32, window: Window) {
        if self.window.start == window.start {
            self.used = self.used.saturating_sub(cost.into());
        }
    }

    /// When nothing is used any more, in microseconds since the epoch.
    pub const fn rests_at(&self) -> i64 {
        self.window.end
    }

    /// What was kept elsewhere of such a counter.
    pub const fn restored(period: Period, window: Window, used: u64) -> Self {
        Self { window, period, used }
    }

    /// Adds what was kept elsewhere of the same counter; nothing when that was in another window.
    pub fn add(&mut self, kept: Self) {
        if self.period == kept.period && self.window.start == kept.window.start {
            self.used = self.used.saturating_add(kept.used);
        }
    }

    /// What it counts in, and how much: to be kept elsewhere.
    pub const fn parts(&self) -> (Period, Window, u64) {
        (self.period, self.window, self.used)
    }

    /// The counter as of now. The window that is counted in runs to its end, even when the tenant's calendar is edited.
    ///
    /// What was counted in a window that is not over stays, when all of it lies in the new one: the period was
    /// lengthened, or the clock stepped back.
    fn at(&self, quota: Quota, calendar: &Calendar, now: i64) -> Self {
        let began = self.window.start.saturating_sub(CLOCK_TOLERANCE);
        if self.period == quota.period() && began <= now && now < self.window.end {
            return *self;
        }
        let new = Self::at_rest(quota, calendar, now);
        let stays = now < self.window.end && new.window.start <= self.window.start;
        let used = if stays { self.used } else { 0 };
        Self { used, ..new }
    }
}

/// How far local time is ahead of UTC, in microseconds.
fn offset(zone: &TimeZone, now: i64) -> i64 {
    i64::from(zone.to_offset(timestamp(now)).seconds()) * 1_000_000
}

fn timestamp(micros: i64) -> Timestamp {
    let (min, max) = (Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_microsecond());
    Timestamp::from_microsecond(micros.clamp(min + 1, max - 1)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zone(name: &str) -> Calendar {
        Calendar { zone: TimeZone::get(name).unwrap(), billing_day: 1 }
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    /// Zone, period, an instant, and the first instants of its window and of the next.
    const CALENDAR: &str = "
        a plain day, week, month, hour and minute
        Europe/Berlin day 2026-11-21T12:00Z 2026-11-20T23:00Z 2026-11-21T23:00Z
        Europe/Berlin week 2026-11-21T12:00Z 2026-11-15T23:00Z 2026-11-22T23:00Z
        Europe/Berlin month 2026-11-21T12:00Z 2026-10-31T23:00Z 2026-11-30T23:00Z
        Asia/Kolkata hour 2026-11-21T12:00Z 2026-11-21T11:30Z 2026-11-21T12:30Z
        Asia/Kolkata minute 2026-11-21T12:00:07Z 2026-11-21T12:00Z 2026-11-21T12:01Z
        the first and the last instant
        UTC day 2026-11-21T00:00Z 2026-11-21T00:00Z 2026-11-22T00:00Z
        UTC day 2026-11-21T23:59:59.999999Z 2026-11-21T00:00Z 2026-11-22T00:00Z
        Sunday belongs to the week that began on Monday; a leap month; the turn of a year
        UTC week 2026-11-22T23:00Z 2026-11-16T00:00Z 2026-11-23T00:00Z
        UTC month 2028-02-29T12:00Z 2028-02-01T00:00Z 2028-03-01T00:00Z
        UTC month 2026-12-31T12:00Z 2026-12-01T00:00Z 2027-01-01T00:00Z
        clocks go forward (23 hours) and back (25 hours)
        Europe/Berlin day 2026-03-29T12:00Z 2026-03-28T23:00Z 2026-03-29T22:00Z
        Europe/Berlin day 2026-10-25T12:00Z 2026-10-24T22:00Z 2026-10-25T23:00Z
        Europe/Berlin week 2026-10-25T12:00Z 2026-10-18T22:00Z 2026-10-25T23:00Z
        Europe/Berlin month 2026-03-29T12:00Z 2026-02-28T23:00Z 2026-03-31T22:00Z
        02:00 to 03:00 comes twice in Berlin: two windows
        Europe/Berlin hour 2026-10-25T00:59Z 2026-10-25T00:00Z 2026-10-25T01:00Z
        Europe/Berlin hour 2026-10-25T01:00Z 2026-10-25T01:00Z 2026-10-25T02:00Z
        half an hour comes twice on Lord Howe Island, and is left out in spring: a window is cut
        Australia/Lord_Howe hour 2026-04-04T14:45Z 2026-04-04T14:00Z 2026-04-04T15:00Z
        Australia/Lord_Howe hour 2026-04-04T15:00Z 2026-04-04T15:00Z 2026-04-04T15:30Z
        Australia/Lord_Howe hour 2026-10-03T15:20Z 2026-10-03T14:30Z 2026-10-03T15:30Z
        Australia/Lord_Howe hour 2026-10-03T15:30Z 2026-10-03T15:30Z 2026-10-03T16:00Z
        midnight is left out in Cairo on this day; it comes twice in Havana
        Africa/Cairo day 2026-04-24T12:00Z 2026-04-23T22:00Z 2026-04-24T21:00Z
        America/Havana day 2026-11-01T12:00Z 2026-11-01T04:00Z 2026-11-02T05:00Z
        Samoa left out 30 December 2011
        Pacific/Apia day 2011-12-30T09:59Z 2011-12-29T10:00Z 2011-12-30T10:00Z
    ";

    #[test]
    fn windows_are_those_of_the_tenants_calendar() {
        let mut checked = 0;
        for line in CALENDAR.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [name, period, now, start, end] = words.as_slice() else { continue };
            let Some(period) = Period::ALL.into_iter().find(|known| known.as_str() == *period)
            else {
                continue;
            };
            let window = Window::of(period, &zone(name), at(now));
            let shown = Timestamp::from_microsecond(window.start);
            assert_eq!((window.start, window.end), (at(start), at(end)), "{line}: {shown:?}");
            checked += 1;
        }
        assert_eq!(checked, 23);
    }

    #[test]
    fn a_quota_is_spent_once_and_whole_again_in_the_next_window() {
        let (quota, zone) = ("10/day".parse().unwrap(), zone("Europe/Berlin"));
        let now = at("2026-11-21T22:00Z");
        let mut spent = Spent::at_rest(quota, &zone, now);
        spent.charge(quota, &zone, 7, now);
        assert_eq!(spent.refusal(quota, &zone, 3, now), None);
        assert_eq!(spent.refusal(quota, &zone, 4, now), Some(Wait::For(3_600_000_000)));
        assert_eq!(spent.refusal(quota, &zone, 11, now), Some(Wait::Forever));
        let next = now + 3_600_000_000;
        assert!(spent.refusal(quota, &zone, 4, next - 1).is_some());
        assert_eq!(spent.refusal(quota, &zone, 10, next), None);
        assert_eq!(spent.level(quota, &zone, next).used, 0);
    }

    #[test]
    fn a_refund_goes_to_the_window_that_paid() {
        let (quota, zone) = ("10/day".parse().unwrap(), Calendar::UTC);
        let now = at("2026-11-21T23:59Z");
        let mut spent = Spent::at_rest(quota, &zone, now);
        let paid = spent.charge(quota, &zone, 4, now);
        let mut same = spent;
        same.give_back(4, paid);
        assert_eq!(same.level(quota, &zone, now).used, 0);
        let tomorrow = now + 120_000_000;
        spent.charge(quota, &zone, 5, tomorrow);
        spent.give_back(4, paid);
        assert_eq!(spent.level(quota, &zone, tomorrow).used, 5);
    }

    #[test]
    fn an_edit_keeps_what_was_used() {
        let zone = Calendar::UTC;
        let now = at("2026-11-21T12:00Z");
        let day = "10/day".parse().unwrap();
        let mut spent = Spent::at_rest(day, &zone, now);
        spent.charge(day, &zone, 8, now);
        for (text, used, remaining) in [
            ("10/day", 8, 2),
            ("20/day", 8, 12),
            ("5/day", 8, 0),
            ("30/month", 8, 22),
            ("9/hour", 0, 9),
        ] {
            let level = spent.level(text.parse().unwrap(), &zone, now);
            assert_eq!((level.used, level.remaining), (used, remaining), "{text}");
        }
        // A window that is over counts for nothing, whatever comes next.
        assert_eq!(
            spent.level("30/month".parse().unwrap(), &zone, at("2026-11-22T00:00Z")).used,
            0
        );
        // Another time zone holds from the next window on.
        let berlin = tests::zone("Europe/Berlin");
        assert_eq!(spent.level(day, &berlin, at("2026-11-21T23:30Z")).used, 8);
        assert_eq!(spent.level(day, &berlin, at("2026-11-22T00:00Z")).used, 0);
    }

    #[test]
    fn a_clock_that_steps_back_neither_resets_nor_locks() {
        let (quota, zone) = ("10/day".parse().unwrap(), Calendar::UTC);
        let midnight = at("2026-11-21T00:00Z");
        let mut spent = Spent::at_rest(quota, &zone, midnight);
        spent.charge(quota, &zone, 6, midnight);
        // A thread that read the clock just before midnight counts in the new window.
        assert_eq!(spent.level(quota, &zone, midnight - 10).reset_after, Some(86_400_000_010));
        // A clock set back by an hour: what was used stays, and the day it is now ends when it ends.
        let back = midnight - 3_600_000_000;
        let level = spent.level(quota, &zone, back);
        assert_eq!((level.used, level.reset_after), (6, Some(3_600_000_000)));
        spent.charge(quota, &zone, 1, back);
        assert_eq!(spent.level(quota, &zone, midnight).used, 0);
    }

    proptest! {
        #[test]
        fn windows_follow_each_other_without_gap_or_overlap(
            name in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Africa/Cairo", "Pacific/Apia",
                "America/Sao_Paulo", "Asia/Kathmandu", "Antarctica/Troll", "Africa/Casablanca", "America/St_Johns",
            ]),
            period in prop::sample::select(Period::ALL.to_vec()),
            // 1990 to 2040.
            now in 631_152_000_000_000_i64..2_208_988_800_000_000,
        ) {
            let zone = zone(name);
            let window = Window::of(period, &zone, now);
            prop_assert!(window.holds(now));
            prop_assert_eq!(Window::of(period, &zone, window.start), window);
            prop_assert_eq!(Window::of(period, &zone, window.end - 1), window);
            prop_assert_eq!(Window::of(period, &zone, window.end).start, window.end);
            prop_assert_eq!(Window::of(period, &zone, window.start - 1).end, window.start);
        }
    }
}
