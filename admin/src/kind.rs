//! The kinds of resources that are read and changed in one way: where they stand in the document, and in the API's paths.

use model::role::Section;

/// One kind of resource of the document.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Its name in the API, like `tenants.consumers`.
    pub(crate) name: &'static str,
    /// The path of the list.
    pub(crate) list: &'static str,
    /// The path of one. Its parameters are the keys of `steps`, in order.
    pub(crate) one: &'static str,
    /// The part of the document.
    pub(crate) section: Section,
    /// From the document to the resource: lists, and the fields by which their entries are known.
    pub(crate) steps: &'static [(&'static str, &'static [&'static str])],
}

const ID: &[&str] = &["id"];

/// Every kind of resource that is read and changed in the same way.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "issuers",
        list: "/v1/issuers",
        one: "/v1/issuers/{id}",
        section: Section::Issuers,
        steps: &[("issuers", ID)],
    },
    Kind {
        name: "upstreams",
        list: "/v1/upstreams",
        one: "/v1/upstreams/{id}",
        section: Section::Upstreams,
        steps: &[("upstreams", ID)],
    },
    Kind {
        name: "services",
        list: "/v1/services",
        one: "/v1/services/{id}",
        section: Section::Services,
        steps: &[("services", ID)],
    },
    Kind {
        name: "services.versions",
        list: "/v1/services/{id}/versions",
        one: "/v1/services/{id}/versions/{name}",
        section: Section::Services,
        steps: &[("services", ID), ("versions", &["name"])],
    },
    Kind {
        name: "routes",
        list: "/v1/routes",
        one: "/v1/routes/{id}",
        section: Section::Routes,
        steps: &[("routes", ID)],
    },
    Kind {
        name: "plans",
        list: "/v1/plans",
        one: "/v1/plans/{id}",
        section: Section::Plans,
        steps: &[("plans", ID)],
    },
    Kind {
        name: "tenants",
        list: "/v1/tenants",
        one: "/v1/tenants/{id}",
        section: Section::Tenants,
        steps: &[("tenants", ID)],
    },
    Kind {
        name: "tenants.consumers",
        list: "/v1/tenants/{id}/consumers",
        one: "/v1/tenants/{id}/consumers/{consumer}",
        section: Section::Tenants,
        steps: &[("tenants", ID), ("consumers", ID)],
    },
    Kind {
        name: "pack_keys",
        list: "/v1/pack_keys",
        one: "/v1/pack_keys/{id}",
        section: Section::PackKeys,
        steps: &[("pack_keys", ID)],
    },
    Kind {
        name: "packs",
        list: "/v1/packs",
        one: "/v1/packs/{id}/versions/{version}",
        section: Section::Packs,
        steps: &[("packs", &["id", "version"])],
    },
    Kind {
        name: "attachments",
        list: "/v1/attachments",
        one: "/v1/attachments/{id}",
        section: Section::Attachments,
        steps: &[("attachments", ID)],
    },
    Kind {
        name: "sources",
        list: "/v1/sources",
        one: "/v1/sources/{id}",
        section: Section::Sources,
        steps: &[("sources", ID)],
    },
    Kind {
        name: "endpoints",
        list: "/v1/endpoints",
        one: "/v1/endpoints/{id}",
        section: Section::Endpoints,
        steps: &[("endpoints", ID)],
    },
    Kind {
        name: "event_types",
        list: "/v1/event_types",
        one: "/v1/event_types/{name}",
        section: Section::EventTypes,
        steps: &[("event_types", &["name"])],
    },
];
