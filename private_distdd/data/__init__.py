"""Examples, and what is public about them."""
