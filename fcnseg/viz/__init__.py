"""Heatmaps and figures."""
