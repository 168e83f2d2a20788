"""A project that counts its visits in Azure Database for PostgreSQL."""
