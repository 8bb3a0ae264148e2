//! The `#[sarab::main]` attribute. Use it through the `sarab` crate.

use proc_macro::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, parse_macro_input};

/// Makes an `async fn main(app: sarab::App)` the start of a guest.
///
/// Its output is `()`, `sarab::Result`, or another `Result<(), E>` where `E: Display`. When it returns, the domain is powered off; an error is
/// printed and ends the domain as crashed.
///
/// ```no_run
/// #![no_std]
/// #![no_main]
///
/// #[sarab::main]
/// async fn main(app: sarab::App) -> sarab::Result {
///     let name = app.args().get::<&str>("name")?.unwrap_or("world");
///     sarab::println!("Hello, {name}");
///     Ok(())
/// }
/// ```
///
/// A library whose `main` tests call too has it as `#[cfg_attr(feature = "guest", sarab::main)]`, and the program consists of
/// `pub use my_app::main;`: with a `main` of its own there, the compiler would make the library's code a second time.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    match check(&proc_macro2::TokenStream::from(arguments), &function) {
        Ok(()) => expand(&function).into(),
        Err(error) => {
            let error = error.to_compile_error();
            quote!(#error #function).into()
        }
    }
}

fn check(arguments: &proc_macro2::TokenStream, function: &ItemFn) -> Result<(), Error> {
    let signature = &function.sig;
    if !arguments.is_empty() {
        return Err(Error::new(arguments.span(), "#[sarab::main] takes no arguments"));
    }
    if signature.asyncness.is_none() {
        return Err(Error::new(signature.fn_token.span, "#[sarab::main] goes on an `async fn`"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "#[sarab::main] goes on a function without generics"));
    }
    let arguments: Vec<_> = signature.inputs.iter().collect();
    match arguments.as_slice() {
        [FnArg::Typed(_)] => Ok(()),
        _ => Err(Error::new(
            signature.ident.span(),
            "#[sarab::main] goes on a function of one argument: `app: sarab::App`",
        )),
    }
}

fn expand(function: &ItemFn) -> proc_macro2::TokenStream {
    let name = &function.sig.ident;
    // The call carries the function's own span, so that a wrong argument or output type is reported there.
    let call = quote_spanned! { function.sig.output.span() =>
        ::sarab::__private::start(#name)
    };
    quote! {
        #function

        #[unsafe(no_mangle)]
        extern "Rust" fn sarab_application() {
            #call
        }
    }
}
