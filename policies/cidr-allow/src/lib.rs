//! Denies a request by the address of the peer it comes from. Where nothing can be said of the address, it is denied.

use ipnet::IpNet;
use tollgate_pack::{Decision, Denial, Policy, Request};

/// Who may come in. At least one of the lists is given.
#[tollgate_pack::settings]
struct Settings {
    /// CIDR blocks such as `10.0.0.0/8`. Where it is not empty, nobody else is let in.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    allow: Vec<IpNet>,
    /// CIDR blocks that are never let in, whatever `allow` says.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    deny: Vec<IpNet>,
}

struct CidrAllow {
    settings: Settings,
}

#[tollgate_pack::pack]
impl Policy for CidrAllow {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        if settings.allow.is_empty() && settings.deny.is_empty() {
            return Err("nothing to do: give `allow` or `deny`".to_owned());
        }
        Ok(Self { settings })
    }

    fn on_request(&self, request: &Request) -> Decision {
        if self.admits(request) {
            return Decision::Continue;
        }
        Denial::new("address_denied", "Requests from this address are not accepted.")
            .detail("address", request.client_address())
            .into()
    }
}

impl CidrAllow {
    fn admits(&self, request: &Request) -> bool {
        let Some(address) = request.client_ip() else { return false };
        let holds = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        !holds(&self.settings.deny)
            && (self.settings.allow.is_empty() || holds(&self.settings.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_pack::configure;

    #[test]
    fn an_address_is_judged_by_both_lists() {
        let allow = r#"{"allow":["10.0.0.0/8","2001:db8::/32"]}"#;
        let deny = r#"{"deny":["10.1.0.0/16"]}"#;
        let both = r#"{"allow":["10.0.0.0/8"],"deny":["10.1.0.0/16"]}"#;
        for (settings, address, admitted) in [
            (allow, "10.2.3.4", true),
            (allow, "::ffff:10.2.3.4", true),
            (allow, "2001:db8::1", true),
            (allow, "192.0.2.1", false),
            (allow, "nonsense", false),
            (deny, "192.0.2.1", true),
            (deny, "10.1.2.3", false),
            (deny, "::ffff:10.1.2.3", false),
            (both, "10.2.0.1", true),
            (both, "10.1.0.1", false),
        ] {
            let policy: CidrAllow = configure(settings).expect("good settings");
            let request = Request::builder().client_address(address).build();
            let decision = policy.on_request(&request);
            assert_eq!(decision == Decision::Continue, admitted, "{settings} {address}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (settings, expected) in [
            (r#"{}"#, "nothing to do"),
            (r#"{"allow":["10.0.0.0/33"]}"#, "invalid IP address syntax"),
            (r#"{"allowed":[]}"#, "unknown field `allowed`"),
        ] {
            let error = configure::<CidrAllow>(settings).err().expect("bad settings");
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }
}
