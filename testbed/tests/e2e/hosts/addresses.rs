//! What is wrong with addresses and prefixes in the mesh's own state.
