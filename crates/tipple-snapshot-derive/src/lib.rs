//! `#[derive(Dumpable)]`: a struct as its fields in order, an enum as the number of its variant and then its fields.
//!
//! Use it through `tipple_snapshot`, which exports it beside the trait.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Fields, Index, parse_macro_input, parse_quote};

/// Implements `tipple_snapshot::Dumpable` for a struct or an enum whose fields all are dumpable.
///
/// The names of fields and variants, their order and their types make the schema: whoever changes one of them has another
/// schema, and a snapshot of the other one is not loaded. The name of the type itself does not count.
#[proc_macro_derive(Dumpable)]
pub fn dumpable(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(input)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

fn expand(mut input: DeriveInput) -> Result<TokenStream, Error> {
    for param in input.generics.type_params_mut() {
        param.bounds.push(parse_quote!(::tipple_snapshot::Dumpable));
    }
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let name = &input.ident;
    let body = match &input.data {
        Data::Struct(data) => structure(&name.to_string(), &data.fields),
        Data::Enum(data) if data.variants.is_empty() => {
            return Err(Error::new_spanned(
                name,
                "an enum without variants has no value that could be dumped",
            ));
        }
        Data::Enum(data) => enumeration(&name.to_string(), data),
        Data::Union(_) => {
            return Err(Error::new_spanned(
                name,
                "a union does not say which of its fields holds: implement Dumpable by hand",
            ));
        }
    };
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::tipple_snapshot::Dumpable for #name #type_generics #where_clause {
            #body
        }
    })
}

/// How each field is called in the schema: its name, or its number.
fn names(fields: &Fields) -> Vec<String> {
    fields
        .iter()
        .enumerate()
        .map(|(n, field)| match &field.ident {
            Some(ident) => ident.to_string().trim_start_matches("r#").to_owned(),
            None => n.to_string(),
        })
        .collect()
}

fn describe(fields: &Fields) -> TokenStream {
    let (names, types) = (names(fields), fields.iter().map(|field| &field.ty));
    quote! { ::std::vec![#((#names, <#types as ::tipple_snapshot::Dumpable>::describe(schema))),*] }
}

fn structure(name: &str, fields: &Fields) -> TokenStream {
    let types = fields.iter().map(|field| &field.ty);
    let members: Vec<_> = fields
        .iter()
        .enumerate()
        .map(|(n, field)| match &field.ident {
            Some(ident) => quote!(#ident),
            None => {
                let index = Index::from(n);
                quote!(#index)
            }
        })
        .collect();
    let described = describe(fields);
    quote! {
        const BYTES_MIN: usize = 0 #(+ <#types as ::tipple_snapshot::Dumpable>::BYTES_MIN)*;

        fn describe(schema: &mut ::tipple_snapshot::SchemaBuilder) -> ::tipple_snapshot::TypeNumber {
            schema.structure::<Self>(#name, |schema| #described)
        }

        fn element_count(&self) -> ::std::option::Option<u64> {
            ::tipple_snapshot::element_counts([
                #(::tipple_snapshot::Dumpable::element_count(&self.#members)),*
            ])
        }

        fn dump(
            &self,
            to: &mut ::tipple_snapshot::Writer<'_>,
        ) -> ::std::result::Result<(), ::tipple_snapshot::SnapshotError> {
            #(::tipple_snapshot::Dumpable::dump(&self.#members, to)?;)*
            let _ = to;
            ::std::result::Result::Ok(())
        }

        fn load(
            from: &mut ::tipple_snapshot::Reader<'_>,
        ) -> ::std::result::Result<Self, ::tipple_snapshot::SnapshotError> {
            let _ = &from;
            ::std::result::Result::Ok(Self {
                #(#members: ::tipple_snapshot::Dumpable::load(from)?),*
            })
        }
    }
}

fn enumeration(name: &str, data: &syn::DataEnum) -> TokenStream {
    let (mut described, mut counts, mut dumps, mut loads) = (vec![], vec![], vec![], vec![]);
    for (n, variant) in (0u32..).zip(&data.variants) {
        let ident = &variant.ident;
        let variant_name = ident.to_string();
        let fields = describe(&variant.fields);
        described.push(quote!((#variant_name, #fields)));
        let bound: Vec<_> = (0..variant.fields.len())
            .map(|n| format_ident!("field_{n}"))
            .collect();
        let members: Vec<_> = variant
            .fields
            .iter()
            .enumerate()
            .map(|(n, field)| match &field.ident {
                Some(ident) => quote!(#ident),
                None => {
                    let index = Index::from(n);
                    quote!(#index)
                }
            })
            .collect();
        counts.push(quote! {
            Self::#ident { #(#members: #bound),* } => ::tipple_snapshot::element_counts([
                #(::tipple_snapshot::Dumpable::element_count(#bound)),*
            ])
        });
        dumps.push(quote! {
            Self::#ident { #(#members: #bound),* } => {
                to.variant(#n)?;
                #(::tipple_snapshot::Dumpable::dump(#bound, to)?;)*
            }
        });
        loads.push(quote! {
            #n => Self::#ident { #(#members: ::tipple_snapshot::Dumpable::load(from)?),* }
        });
    }
    let variants = data.variants.len() as u32;
    quote! {
        // The number of the variant. What follows it may be this very type, so it cannot be counted.
        const BYTES_MIN: usize = 1;

        fn describe(schema: &mut ::tipple_snapshot::SchemaBuilder) -> ::tipple_snapshot::TypeNumber {
            schema.enumeration::<Self>(#name, |schema| ::std::vec![#(#described),*])
        }

        fn element_count(&self) -> ::std::option::Option<u64> {
            match self {
                #(#counts,)*
            }
        }

        fn dump(
            &self,
            to: &mut ::tipple_snapshot::Writer<'_>,
        ) -> ::std::result::Result<(), ::tipple_snapshot::SnapshotError> {
            match self {
                #(#dumps)*
            }
            ::std::result::Result::Ok(())
        }

        fn load(
            from: &mut ::tipple_snapshot::Reader<'_>,
        ) -> ::std::result::Result<Self, ::tipple_snapshot::SnapshotError> {
            ::std::result::Result::Ok(match from.variant(#name, #variants)? {
                #(#loads,)*
                other => ::std::unreachable!("variant {other} of {}", #variants),
            })
        }
    }
}
