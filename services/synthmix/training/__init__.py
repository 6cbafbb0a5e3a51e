"""What the training recipes of several services have in common. Neither torch nor Ray is imported here."""
