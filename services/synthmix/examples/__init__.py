"""Sample studies, as package data."""
