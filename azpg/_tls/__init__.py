"""The pinned root certificates, and libpq's TLS keywords for Python's ssl module."""
