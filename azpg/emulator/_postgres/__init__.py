"""Run the real servers: PostgreSQL, its standby and PgBouncer, on private Unix sockets."""
