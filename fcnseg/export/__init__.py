"""Write a model for other programs and verify that it agrees."""
