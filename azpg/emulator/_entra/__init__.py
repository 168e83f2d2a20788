"""Imitate Microsoft Entra ID: identities, their tokens and the managed identity endpoint."""
