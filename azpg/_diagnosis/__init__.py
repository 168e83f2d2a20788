"""What the messages of servers and drivers mean."""
