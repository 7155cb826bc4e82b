//! Whether the host forwards packets between site and mesh, measured.
