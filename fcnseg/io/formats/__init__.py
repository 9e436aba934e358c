"""What is in the bytes of an image file, whatever its name."""
