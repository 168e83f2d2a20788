"""What azpg costs compared with psycopg, on loopback: run it with `nox -s bench`."""
