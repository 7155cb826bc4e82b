//! What this controller has on disk besides the store: issuing CAs, and the secret of stateless resets.

pub mod authorities;
pub mod issuer;
pub mod reset;
