//! The edge's own firewall table: it is kept, and holds whatever routing does.
