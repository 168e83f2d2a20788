"""What `azpg doctor` looks at, judges and prints."""
