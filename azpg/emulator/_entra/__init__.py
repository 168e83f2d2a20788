"""Imitate Microsoft Entra ID: principals, tokens and the managed identity endpoint."""
