"""The Microsoft Entra token cache, and what fills it."""
