"""Listen in front of the real servers: TLS, the password check and faults, then forward bytes."""
