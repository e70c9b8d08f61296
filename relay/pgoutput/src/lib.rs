//! Messages of Postgres logical replication.
