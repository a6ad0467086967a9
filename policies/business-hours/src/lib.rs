//! Denies requests outside of the hours at which somebody is there to answer for them, in the tenant's time zone or one that
//! the settings name.

use tollgate_pack::{Decision, Denial, LocalTime, Policy, Request, Weekday};

/// When requests are taken.
#[tollgate_pack::settings]
struct Settings {
    /// The time zone of all times (IANA name); the tenant's when absent.
    timezone: Option<String>,
    /// The hours at which requests are taken.
    #[schemars(length(min = 1))]
    open: Vec<Hours>,
    /// Days on which none are taken: `2026-12-24`, or `12-25` for that of every year.
    #[serde(default)]
    holidays: Vec<String>,
    /// The key of the pack's data under which operators keep further such days, as a JSON list.
    holidays_data: Option<String>,
    /// Only these methods are bound to the hours; all are when absent.
    methods: Option<Vec<String>>,
}

/// Hours on some days of the week.
#[tollgate_pack::settings]
struct Hours {
    /// The days on which they begin.
    #[schemars(length(min = 1))]
    days: Vec<Weekday>,
    /// When they begin: `09:00`.
    from: String,
    /// When they end: `17:30`, `24:00`; where that is not after `from`, on the next day.
    to: String,
}

struct BusinessHours {
    timezone: Option<String>,
    open: Vec<Span>,
    holidays: Vec<Day>,
    holidays_data: Option<String>,
    methods: Option<Vec<String>>,
}

/// Hours, in minutes of the day on which they begin.
struct Span {
    days: Vec<Weekday>,
    from: u16,
    to: u16,
}

/// A day of some year, or of every year.
struct Day {
    year: Option<i16>,
    month: u8,
    day: u8,
}

/// The minutes of a day.
const DAY: u16 = 24 * 60;

#[tollgate_pack::pack]
impl Policy for BusinessHours {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        let Settings { timezone, open, holidays, holidays_data, methods } = settings;
        if open.is_empty() {
            return Err("`open` names no hours".to_owned());
        }
        Ok(Self {
            timezone,
            open: open.into_iter().map(Span::new).collect::<Result<_, _>>()?,
            holidays: holidays.iter().map(|text| Day::parse(text)).collect::<Result<_, _>>()?,
            holidays_data,
            methods,
        })
    }

    fn on_request(&self, request: &Request) -> Decision {
        if self.methods.as_ref().is_some_and(|methods| !methods.contains(&request.method())) {
            return Decision::Continue;
        }
        self.check(request).into()
    }
}

impl BusinessHours {
    fn check(&self, request: &Request) -> Result<(), Denial> {
        let Some(now) = request.local_time(self.timezone.as_deref()) else {
            let message = "The time zone of the business hours is not known.";
            return Err(Denial::new("timezone_unknown", message));
        };
        let holiday =
            self.holidays.iter().any(|day| day.is(&now)) || self.is_kept(request, &now)?;
        if !holiday && self.open.iter().any(|hours| hours.holds(&now)) {
            return Ok(());
        }
        let LocalTime { year, month, day, hour, minute, .. } = now;
        Err(Denial::new("outside_hours", "Requests are taken during business hours only.")
            .detail("local_time", format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}"))
            .detail("holiday", holiday))
    }

    /// Whether operators keep this day as a holiday. Where they should and what they keep can't be read, nobody is there.
    fn is_kept(&self, request: &Request, now: &LocalTime) -> Result<bool, Denial> {
        let Some(key) = &self.holidays_data else { return Ok(false) };
        let kept = request.data(key).and_then(|json| {
            let days: Vec<String> = tollgate_pack::serde_json::from_slice(&json).ok()?;
            days.iter().map(|text| Day::parse(text).ok()).collect::<Option<Vec<_>>>()
        });
        let unreadable = || {
            Denial::new("holidays_unknown", "The list of holidays can't be read.")
                .detail("key", key)
        };
        Ok(kept.ok_or_else(unreadable)?.iter().any(|day| day.is(now)))
    }
}

impl Span {
    fn new(hours: Hours) -> Result<Self, String> {
        let (from, to) = (minutes(&hours.from)?, minutes(&hours.to)?);
        if hours.days.is_empty() || from >= DAY {
            return Err(format!("the hours from {} to {} never begin", hours.from, hours.to));
        }
        let to = if to <= from { to + DAY } else { to };
        Ok(Self { days: hours.days, from, to })
    }

    fn holds(&self, now: &LocalTime) -> bool {
        let minute = u16::from(now.hour) * 60 + u16::from(now.minute);
        let begun = |weekday, minute| {
            self.days.contains(&weekday) && (self.from..self.to).contains(&minute)
        };
        begun(now.weekday, minute) || begun(before(now.weekday), minute + DAY)
    }
}

impl Day {
    fn parse(text: &str) -> Result<Self, String> {
        let refused =
            || format!("`{text}` is no day: write `2026-12-24`, or `12-25` for every year");
        let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> = text.split('-').collect();
        let (year, month, day) = match parts.as_slice() {
            [year, month, day] if year.len() == 4 => (Some(*year), *month, *day),
            [month, day] => (None, *month, *day),
            _ => return Err(refused()),
        };
        if month.len() != 2 || day.len() != 2 || !parts.iter().all(|part| number(part)) {
            return Err(refused());
        }
        let year = year.map(|year| year.parse().map_err(|_| refused())).transpose()?;
        let (month, day) =
            (month.parse().map_err(|_| refused())?, day.parse().map_err(|_| refused())?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(refused());
        }
        Ok(Self { year, month, day })
    }

    fn is(&self, now: &LocalTime) -> bool {
        self.year.is_none_or(|year| year == now.year)
            && self.month == now.month
            && self.day == now.day
    }
}

/// The minutes of a time such as `17:30`.
fn minutes(text: &str) -> Result<u16, String> {
    let refused = || format!("`{text}` is no time of day: write `09:00` to `24:00`");
    let (hour, minute) = text.split_once(':').ok_or_else(refused)?;
    let two = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten().ok_or_else(refused)
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    let minutes = hour * 60 + minute;
    if minute >= 60 || minutes > DAY { Err(refused()) } else { Ok(minutes) }
}

fn before(day: Weekday) -> Weekday {
    match day {
        Weekday::Monday => Weekday::Sunday,
        Weekday::Tuesday => Weekday::Monday,
        Weekday::Wednesday => Weekday::Tuesday,
        Weekday::Thursday => Weekday::Wednesday,
        Weekday::Friday => Weekday::Thursday,
        Weekday::Saturday => Weekday::Friday,
        Weekday::Sunday => Weekday::Saturday,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_pack::configure;

    const OFFICE: &str = r#"{
        "open": [
            { "days": ["monday", "tuesday", "wednesday", "thursday", "friday"], "from": "09:00", "to": "17:30" },
            { "days": ["saturday"], "from": "22:00", "to": "02:00" }
        ],
        "holidays": ["2026-11-26", "12-25"],
        "holidays_data": "holidays"
    }"#;

    fn reason(settings: &str, now: &str, holidays: &str) -> Option<String> {
        let policy: BusinessHours = configure(settings).expect("good settings");
        let request = Request::builder()
            .now(now)
            .timezone("Europe/Berlin")
            .data("holidays", holidays)
            .build();
        match policy.on_request(&request) {
            Decision::Deny(denial) => Some(denial.reason),
            _ => None,
        }
    }

    #[test]
    fn requests_are_taken_during_the_hours_alone() {
        let outside = Some("outside_hours");
        for (now, holidays, expected) in [
            // In Berlin it is an hour later; 2026-11-23 is a Monday.
            ("2026-11-23T07:59:59Z", "[]", outside),
            ("2026-11-23T08:00:00Z", "[]", None),
            ("2026-11-23T16:29:59Z", "[]", None),
            ("2026-11-23T16:30:00Z", "[]", outside),
            // Two hours later in summer; a Monday as well.
            ("2026-07-20T07:00:00Z", "[]", None),
            // From Saturday night into Sunday.
            ("2026-11-21T20:59:00Z", "[]", outside),
            ("2026-11-21T21:00:00Z", "[]", None),
            ("2026-11-22T00:59:00Z", "[]", None),
            ("2026-11-22T01:00:00Z", "[]", outside),
            // Holidays of one year, of every year, and those that operators keep.
            ("2026-11-26T10:00:00Z", "[]", outside),
            ("2025-11-26T10:00:00Z", "[]", None),
            ("2028-12-25T10:00:00Z", "[]", outside),
            ("2026-11-23T10:00:00Z", r#"["2026-11-23"]"#, outside),
            ("2026-11-23T10:00:00Z", r#"["monday"]"#, Some("holidays_unknown")),
            ("2026-11-23T10:00:00Z", "", Some("holidays_unknown")),
        ] {
            assert_eq!(reason(OFFICE, now, holidays).as_deref(), expected, "{now} {holidays}");
        }
    }

    #[test]
    fn a_zone_of_the_settings_goes_before_the_tenants() {
        let hours = r#""open":[{"days":["monday"],"from":"09:00","to":"24:00"}]"#;
        let of = |zone: &str| format!(r#"{{"timezone":"{zone}",{hours}}}"#);
        let at = "2026-11-23T08:30:00Z";
        assert_eq!(reason(&of("Europe/Berlin"), at, ""), None);
        assert_eq!(reason(&of("Europe/London"), at, "").as_deref(), Some("outside_hours"));
        assert_eq!(reason(&of("Nowhere/Land"), at, "").as_deref(), Some("timezone_unknown"));
    }

    #[test]
    fn other_methods_are_not_bound_to_the_hours() {
        let settings =
            r#"{"methods":["POST"],"open":[{"days":["monday"],"from":"09:00","to":"10:00"}]}"#;
        assert_eq!(reason(settings, "2026-11-21T09:00:00Z", ""), None);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let open = |from: &str, to: &str| {
            format!(r#"{{"open":[{{"days":["monday"],"from":"{from}","to":"{to}"}}]}}"#)
        };
        let holiday = |day: &str| {
            format!(
                r#"{{"holidays":["{day}"],"open":[{{"days":["monday"],"from":"09:00","to":"10:00"}}]}}"#
            )
        };
        for (settings, expected) in [
            (r#"{"open":[]}"#.to_owned(), "`open` names no hours"),
            (open("9:00", "10:00"), "`9:00` is no time of day"),
            (open("09:00", "24:01"), "`24:01` is no time of day"),
            (open("24:00", "09:00"), "never begin"),
            (holiday("2026-13-01"), "`2026-13-01` is no day"),
            (holiday("1-1"), "`1-1` is no day"),
            (open("09:00", "10:00").replace("monday", "Monday"), "unknown variant `Monday`"),
        ] {
            let error = configure::<BusinessHours>(&settings).err().expect("bad settings");
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }
}
