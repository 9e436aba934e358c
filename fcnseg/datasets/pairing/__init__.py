"""Images paired with their labels."""
