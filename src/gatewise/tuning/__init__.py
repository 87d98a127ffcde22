"""The search for a task's best options."""
