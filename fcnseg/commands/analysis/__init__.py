"""Commands that analyze predictions: `compare` models, `review` labels."""
