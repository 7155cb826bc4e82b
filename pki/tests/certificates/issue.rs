//! Roots, issuing CAs, leaves and signing requests.

mod authorities;
mod leaves;
mod requests;
