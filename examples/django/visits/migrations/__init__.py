"""The steps that the database has come by."""
