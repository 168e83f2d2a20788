"""What azpg costs beside bare psycopg, on loopback: run as `nox -s bench`."""
