"""What the gates did, as a picture."""
