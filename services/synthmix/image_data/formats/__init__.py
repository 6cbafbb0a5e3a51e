"""Image files: what their headers say, and their pixels, from a closed list of what can be decoded."""
