"""Commands that look into scores: models beside each other, labels beside predictions."""
