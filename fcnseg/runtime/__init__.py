"""One Segmenter, several engines: what runs a trained network."""
