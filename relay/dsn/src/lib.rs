//! A Postgres connection string and the TLS it asks for.
