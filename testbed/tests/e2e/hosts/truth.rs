//! What `cfctl status` and `doctor` say in each fault, and in combinations of two.
