//! Links that do not come up, each for another reason.
