//! Identities, clocks, certificates and files that are not as they should be.
