"""The native core seen from Python: its library, a user's cells in it, and its calls."""
