//! The two attributes of `tollgate-pack`, which documents them.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::parse::Nothing;
use syn::spanned::Spanned;
use syn::{Error, Ident, ImplItem, Item, ItemImpl, Result, parse_macro_input};

/// What a pack may decide in; each is a method of `Policy` and an export of the module.
const PHASES: [&str; 3] = ["on_request", "on_response", "cost"];

/// On `impl Policy for …`: makes the crate a pack.
///
/// The methods that the implementation writes are what the pack exports: list the same ones under `phases` in `pack.yaml`.
/// One that writes none decides nothing, and is no pack.
#[proc_macro_attribute]
pub fn pack(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let Nothing = parse_macro_input!(arguments);
    let policy = parse_macro_input!(item as ItemImpl);
    let exports = exports(&policy).unwrap_or_else(Error::into_compile_error);
    quote!(#policy #exports).into()
}

/// On a struct or an enum: it can be read from an attachment's settings, refuses fields that it doesn't have, and tells its
/// JSON Schema, in which doc comments are the descriptions.
///
/// Attributes of serde and schemars on fields work as ever.
#[proc_macro_attribute]
pub fn settings(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let Nothing = parse_macro_input!(arguments);
    let item = parse_macro_input!(item as Item);
    derived(&item).unwrap_or_else(Error::into_compile_error).into()
}

fn exports(policy: &ItemImpl) -> Result<Tokens> {
    let of_policy = policy.trait_.as_ref().and_then(|(path, _)| path.segments.last());
    if of_policy.is_none_or(|last| last.ident != "Policy") {
        return Err(Error::new(policy.span(), "this belongs on an `impl Policy for …`"));
    }
    if !policy.generics.params.is_empty() {
        return Err(Error::new(policy.generics.span(), "a pack has no type parameters"));
    }
    let written: Vec<&Ident> = policy.items.iter().filter_map(phase).collect();
    if written.is_empty() {
        let needed = "a pack decides something: write `on_request`, `on_response` or `cost`";
        return Err(Error::new(policy.self_ty.span(), needed));
    }
    let made = &policy.self_ty;
    Ok(quote!(::tollgate_pack::__export! { #made; #(#written)* }))
}

fn phase(item: &ImplItem) -> Option<&Ident> {
    let ImplItem::Fn(function) = item else { return None };
    let name = &function.sig.ident;
    PHASES.iter().any(|phase| name == phase).then_some(name)
}

fn derived(item: &Item) -> Result<Tokens> {
    if !matches!(item, Item::Struct(_) | Item::Enum(_)) {
        return Err(Error::new(item.span(), "settings are a struct or an enum"));
    }
    Ok(quote! {
        #[derive(::tollgate_pack::serde::Deserialize, ::tollgate_pack::schemars::JsonSchema)]
        #[serde(crate = "::tollgate_pack::serde", deny_unknown_fields)]
        #[schemars(crate = "::tollgate_pack::schemars")]
        #item
    })
}
