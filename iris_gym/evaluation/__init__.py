"""Scores of whole episodes in the real environment, and pictures of what the models make of it."""
