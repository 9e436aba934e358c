"""A dataset folder as samples."""
