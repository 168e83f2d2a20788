"""Accept clients in front of the real servers: TLS, the password check, faults, forwarding."""
